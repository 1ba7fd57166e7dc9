//! `run-qemu.sh` itself, with images of a few instructions: what it takes for an image, and how a guest's end becomes an exit status.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use rump_tests::guest::{Boot, SOON, image_file};
use rump_tests::image::image;
use rump_tests::{elf, root};

fn run(args: &[&str]) -> (i32, String) {
    let done = Command::new(root().join("run-qemu.sh"))
        .args(args)
        .output()
        .expect("run-qemu.sh runs");
    let text = [done.stdout, done.stderr].concat();
    (
        done.status.code().expect("not ended by a signal"),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn the_guests_own_status_is_the_exit_status() {
    for (status, machine) in [(0, "q35"), (3, "pc"), (77, "q35")] {
        let image = image_file(&format!("exits-{status}"), &elf::exits_with(status));
        let mut guest = Boot::new(image).machine(machine).start();
        assert_eq!(
            guest.exit_status(SOON),
            i32::from(status),
            "{}",
            guest.console()
        );
    }
}

#[test]
fn a_guest_that_resets_did_not_end_well() {
    let mut guest = Boot::new(image_file("faults", &elf::faults())).start();
    assert_eq!(guest.exit_status(SOON), 70);
}

#[test]
fn a_guest_that_hangs_is_ended_after_the_timeout() {
    let image = image_file("hangs", &elf::says_and_hangs("here\n"));
    let started = Instant::now();
    let mut guest = Boot::new(image).limit(Duration::from_secs(2)).start();
    guest.wait_for("here", SOON);
    assert_eq!(guest.exit_status(SOON), 124);
    assert!(started.elapsed() >= Duration::from_secs(2));
}

/// One that does not look at its power button: it gets its time, or a second signal.
#[test]
fn a_guest_that_does_not_end_when_it_is_asked_is_ended() {
    for (signal, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let image = image_file("interrupted", &elf::says_and_hangs("here\n"));
        let mut guest = Boot::new(image).start();
        guest.wait_for("here", SOON);
        let started = Instant::now();
        guest.signal(signal);
        guest.wait_for("pressing the power button", SOON);
        if signal == libc::SIGTERM {
            guest.signal(signal);
        }
        assert_eq!(guest.exit_status(SOON), status);
        let waited = started.elapsed() >= Duration::from_secs(9);
        assert_eq!(waited, signal == libc::SIGINT, "{:?}", started.elapsed());
    }
}

/// A terminal sends its signals to all of its foreground group, and a manager of services to all processes.
#[test]
fn a_signal_to_the_whole_group_is_not_the_guests() {
    let mut guest = Boot::new(image("selftest"))
        .append("button")
        .without_network()
        .start();
    guest.wait_for("press", SOON);
    guest.signal_group(libc::SIGINT);
    guest.wait_for("pressed", SOON);
    assert_eq!(guest.exit_status(SOON), 0, "{}", guest.console());
}

#[test]
fn a_script_that_is_killed_leaves_nothing_behind() {
    let image = image_file("orphan", &elf::says_and_hangs("here\n"));
    let mut guest = Boot::new(image).start();
    guest.wait_for("here", SOON);
    // The script, what says where the guest answers, what hands on the keys, QEMU.
    assert!(guest.processes().len() >= 3, "{:?}", guest.processes());
    guest.signal(libc::SIGKILL);
    let deadline = Instant::now() + SOON;
    while !guest.processes().is_empty() {
        let left = guest.processes();
        assert!(Instant::now() < deadline, "{left:?} go on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn qemus_own_failure_is_told_from_the_guests_success() {
    let image = image_file("exits-0-too", &elf::exits_with(0));
    let mut guest = Boot::new(image)
        .qemu_arg("-device")
        .qemu_arg("no-such-device")
        .start();
    assert_eq!(guest.exit_status(SOON), 125);
}

#[test]
fn a_host_program_is_executed_with_its_arguments() {
    assert_eq!(
        run(&[
            "/bin/sh",
            "-c",
            "echo \"$0 $1\"; exit 9",
            "--timeout",
            "a  b"
        ]),
        (9, "--timeout a  b\n".to_owned())
    );
}

#[test]
fn a_file_that_is_neither_image_nor_program_is_refused() {
    let text = image_file("text", b"\x7fELF\x02\x01 and then nothing that makes sense");
    let (status, said) = run(&[text.to_str().expect("UTF-8")]);
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("neither an image"), "{said}");
}

#[test]
fn wrong_arguments_are_named() {
    let image = image_file("exits-0", &elf::exits_with(0));
    let image = image.to_str().expect("UTF-8");
    for (args, named) in [
        (&["--speed", "9"][..], "--speed"),
        (&["--machine", "vax"], "vax"),
        (&["--net", "carrier-pigeon"], "carrier-pigeon"),
        (&["--net", "tap="], "tap="),
        (&["--http-port", "65536"], "65536"),
        (&["--timeout", "soon"], "soon"),
        (&["-m", "lots"], "lots"),
        (&["--disk", "no/such/disk"], "no/such/disk"),
        (&[image], "two images"),
        (&["--disk"], "--disk wants a value"),
    ] {
        let all = [&[image], args].concat();
        let (status, said) = run(&all);
        assert_eq!(status, 2, "{args:?}: {said}");
        assert!(said.contains(named), "{args:?}: {said}");
    }
}

#[test]
fn a_port_that_is_taken_is_not_taken_again() {
    let image = image_file("exits-0-at-once", &elf::exits_with(0));
    let image = image.to_str().expect("UTF-8");
    for address in ["127.0.0.1:0", "0.0.0.0:0"] {
        let holder = TcpListener::bind(address).expect("a port");
        let port = holder.local_addr().expect("bound").port().to_string();
        let (status, said) = run(&["--http-port", &port, image]);
        assert_eq!(status, 2, "{said}");
        assert!(said.contains("taken"), "{said}");
    }
}

#[test]
fn help_names_every_option() {
    let (status, said) = run(&["--help"]);
    assert_eq!(status, 0);
    for option in [
        "--disk",
        "-m SIZE",
        "--machine",
        "--net",
        "--http-port",
        "--append",
        "--timeout",
        "--release",
        "--debug",
        "IMAGE-ELF",
    ] {
        assert!(said.contains(option), "{option}");
    }
}
