//! The machine: the smallest appliance boots everywhere and ends as it should; an image that tests the machine from inside finds
//! nothing wrong; faults end in a report that a person can read.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use rump_tests::guest::{Boot, SOON};
use rump_tests::image::{Profile, image, image_with};
use rump_tests::{root, setup};

#[test]
fn hello_says_hello_and_powers_off() {
    for machine in ["q35", "pc"] {
        let mut guest = Boot::new(image("hello")).machine(machine).start();
        guest.wait_for("Hello", SOON);
        assert_eq!(guest.exit_status(SOON), 0, "{machine}");
    }
}

#[test]
fn hello_boots_with_the_checks_of_a_debug_build() {
    let mut guest = Boot::new(image_with("hello", Profile::Dev)).start();
    guest.wait_for("Hello", SOON);
    assert_eq!(guest.exit_status(SOON), 0);
}

#[test]
fn hello_boots_in_8_mib_and_in_5_gib() {
    for memory in ["8", "5G"] {
        let mut guest = Boot::new(image("hello")).memory(memory).start();
        guest.wait_for("Hello", SOON);
        assert_eq!(guest.exit_status(SOON), 0, "{memory}");
    }
}

#[test]
fn hello_boots_without_any_device() {
    let mut guest = Boot::new(image("hello"))
        .without_network()
        .limit(Duration::from_secs(30))
        .start();
    guest.wait_for("Hello", SOON);
    assert_eq!(guest.exit_status(SOON), 0);
}

/// `run-qemu.sh` always gives a machine the exit device; real ones and other monitors have none.
#[test]
fn a_machine_without_exit_device_is_switched_off() {
    setup::need(&[]);
    for machine in ["q35", "pc", "microvm", "microvm,acpi=off"] {
        let mut qemu = Command::new("timeout");
        qemu.args([
            "30",
            "qemu-system-x86_64",
            "-M",
            machine,
            "-accel",
            "tcg",
            "-m",
            "16",
        ]);
        qemu.args([
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
            "-kernel",
        ]);
        let done = qemu
            .arg(image("hello"))
            .stdin(Stdio::null())
            .output()
            .expect("QEMU runs");
        let console = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success(),
            "{machine}: {}\n{console}",
            done.status
        );
        assert!(console.contains("Hello"), "{machine}: {console}");
    }
}

fn selftest(machine: &str, memory: &str, profile: Profile) {
    let image = image_with("selftest", profile);
    let mut guest = Boot::new(image).machine(machine).memory(memory).start();
    guest.wait_for("all checks passed", SOON);
    assert_eq!(guest.exit_status(SOON), 0);
}

#[test]
fn the_machine_finds_nothing_wrong_with_itself() {
    selftest("q35", "128", Profile::Release);
    selftest("pc", "128", Profile::Release);
    selftest("q35", "128", Profile::Dev);
}

#[test]
fn the_machine_finds_nothing_wrong_with_little_or_much_memory() {
    selftest("q35", "3", Profile::Release);
    selftest("pc", "8", Profile::Release);
    selftest("q35", "5G", Profile::Release);
}

/// Boots the image that makes the fault `name` and returns its report, after its status was found right.
fn report(name: &str, status: i32) -> String {
    let mut guest = Boot::new(image("selftest"))
        .without_network()
        .append(&format!("crash={name}"))
        .start();
    assert_eq!(
        guest.exit_status(SOON),
        status,
        "{name}: {}",
        guest.console()
    );
    guest.console()
}

#[test]
fn a_fault_ends_the_machine_with_what_it_was_where_it_was_and_who_called() {
    let faults = [
        (
            "null",
            "page fault (#PF): reading 0x10, which is not mapped (a null pointer?), in thread \"main\"",
        ),
        (
            "unmapped",
            "page fault (#PF): reading 0x700000000000, which is not mapped",
        ),
        ("text", "whose page is protected"),
        ("rodata", "whose page is protected"),
        ("execute-data", "whose page is not executable"),
        ("execute-ram", "whose page is not executable"),
        ("invalid", "invalid opcode (#UD)"),
        ("divide", "divide error (#DE)"),
        ("general", "general protection fault (#GP)"),
        ("breakpoint", "breakpoint (#BP)"),
        ("double", "double fault (#DF)"),
        ("stack", "the stack of thread \"main\" is full"),
        (
            "thread-stack",
            "the stack of thread \"victim\" is full, in thread \"victim\"",
        ),
    ];
    for (name, what) in faults {
        let console = report(name, 102);
        for wanted in [
            what,
            "  rip 0000",
            "  cr0 ",
            "backtrace:",
            "selftest::crash::",
        ] {
            assert!(
                console.contains(wanted),
                "{name}: no {wanted:?} in\n{console}"
            );
        }
        assert!(!console.contains("survived"), "{console}");
    }
}

#[test]
fn a_panic_ends_the_machine_with_its_message_and_who_called() {
    let console = report("panic", 101);
    assert!(
        console.contains("on purpose, in thread \"main\""),
        "{console}"
    );
    assert!(console.contains("selftest::crash::crash+0x"), "{console}");
    let console = report("thread-panic", 101);
    assert!(
        console.contains("in a thread, in thread \"victim\""),
        "{console}"
    );
}

#[test]
fn the_power_button_is_felt_on_every_machine_that_has_one() {
    for machine in ["q35", "pc"] {
        let boot = Boot::new(image("selftest")).without_network();
        let mut guest = boot.machine(machine).append("button").start();
        guest.wait_for("press", SOON);
        guest.signal(libc::SIGTERM);
        guest.wait_for("pressed", SOON);
        assert_eq!(guest.exit_status(SOON), 0, "{machine}");
    }
}

#[test]
fn an_idle_guest_uses_no_processor() {
    let mut guest = Boot::new(image("selftest"))
        .without_network()
        .append("idle=10")
        .start();
    guest.wait_for("idle", SOON);
    std::thread::sleep(Duration::from_secs(1));
    let before = guest.processor_time();
    std::thread::sleep(Duration::from_secs(5));
    let used = guest.processor_time() - before;
    assert!(used < Duration::from_millis(100), "{used:?} in 5 s");
    assert_eq!(guest.exit_status(SOON), 0);
}

#[test]
fn output_faster_than_it_is_read_arrives_whole() {
    let mut guest = Boot::new(image("selftest"))
        .without_network()
        .append("chatter=20000")
        .start();
    assert_eq!(guest.exit_status(SOON), 0);
    let console = guest.console();
    let lines: Vec<&str> = console
        .lines()
        .filter(|line| line.starts_with("line "))
        .collect();
    assert_eq!(lines.len(), 20_000);
    for (number, line) in lines.iter().enumerate() {
        assert!(
            line.starts_with(&format!("line {number}, ")) && line.ends_with("fill up"),
            "{line}"
        );
    }
}

#[test]
fn what_is_typed_reaches_the_guest_by_interrupt() {
    setup::need(&[]);
    let mut run = Command::new(root().join("run-qemu.sh"));
    run.args(["--net", "none", "--timeout", "60", "--append", "echo"])
        .arg(image("selftest"));
    let mut run = run
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run-qemu.sh runs");
    let mut lines = BufReader::new(run.stdout.take().expect("piped"))
        .lines()
        .map_while(Result::ok);
    // Before it listens, what is typed may be lost to whoever had the port before.
    assert!(lines.any(|line| line.contains("type")), "it never asked");
    let mut typed = run.stdin.take().expect("piped");
    for word in ["hello", "again", "end"] {
        // In pieces, with pauses: the guest has nothing to do and sleeps in between.
        for piece in [&word[..2], &word[2..], "\n"] {
            typed.write_all(piece.as_bytes()).expect("the guest reads");
            std::thread::sleep(Duration::from_millis(20));
        }
        let wanted = format!("got {word}");
        assert!(
            lines.any(|line| line.trim_end() == wanted),
            "no answer to {word}"
        );
    }
    assert!(run.wait().expect("it ends").success());
}
