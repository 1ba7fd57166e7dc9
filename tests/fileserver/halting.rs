//! The end in order: whatever asks for it, the disk is unmounted, and everything that was promised is on it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rump_tests::disk::Format;
use rump_tests::guest::{Boot, Guest, SOON};
use rump_tests::http::Connection;
use rump_tests::random::Random;
use rump_tests::{root, scratch, volume};

use crate::{assert_sane, fileserver};

/// An empty volume to be written.
fn empty_disk(name: &str) -> PathBuf {
    let disk = scratch("halting").join(name);
    volume::make(&disk, Format::UFS2, 32 << 20);
    disk
}

fn boot(disk: &Path) -> Boot<'static> {
    Boot::new(fileserver()).disk(disk).keeping_writes()
}

fn put(guest: &Guest, target: &str, bytes: &[u8]) -> u16 {
    let mut connection = Connection::open(guest.address()).expect("a connection");
    let length = format!("Content-Length: {}", bytes.len());
    let answer = connection
        .request("PUT", target, &[&length])
        .and_then(|()| connection.send(bytes))
        .and_then(|()| connection.response("PUT"));
    answer.expect("an answer").status
}

#[test]
fn a_signal_halts_the_guest_with_its_disk_clean_and_every_file_on_it() {
    for (signal, machine) in [(libc::SIGINT, "q35"), (libc::SIGTERM, "pc")] {
        let disk = empty_disk(machine);
        let bytes = Random::new(7).bytes(3_000_000);
        let mut guest = boot(&disk).machine(machine).start().serving();
        assert_eq!(put(&guest, "/kept.bin", &bytes), 201);
        // In the middle of an answer, of an upload, and of nothing.
        let mut clients: Vec<Connection> = (0..3)
            .map(|_| Connection::open(guest.address()).expect("a connection"))
            .collect();
        clients[0]
            .request("GET", "/kept.bin", &[])
            .expect("it takes it");
        clients[1]
            .request("PUT", "/half.bin", &["Content-Length: 3000000"])
            .and_then(|()| clients[1].send(&bytes[..1_000_000]))
            .expect("it takes it");
        sleep(Duration::from_millis(300));
        guest.signal(signal);
        assert_eq!(guest.exit_status(SOON), 0, "{}", guest.console());
        assert_sane(&guest);
        volume::assert_clean(&disk);

        let mut again = boot(&disk).start().serving();
        assert!(again.get("/kept.bin").body == bytes, "other bytes");
        assert_eq!(again.get("/half.bin").status, 404);
        assert_eq!(put(&again, "/kept.bin", b"replaced"), 204);
        again.type_text("halt\n");
        assert_eq!(again.exit_status(SOON), 0);
        volume::assert_clean(&disk);
        std::fs::remove_file(&disk).expect("our own file");
    }
}

/// By a terminal that script(1) makes: keys go to the guest, but Ctrl-C makes a signal.
#[test]
fn control_c_on_a_terminal_halts_the_guest() {
    let disk = empty_disk("terminal");
    // Without `exec`, a shell that stays takes Ctrl-C for itself too, as dash does, and answers 130.
    let command = format!(
        "exec '{}' --timeout 120 --net none --disk '{}' '{}'",
        root().join("run-qemu.sh").display(),
        disk.display(),
        fileserver().display()
    );
    let said = scratch("halting").join("terminal.txt");
    // What an earlier run said is not what this one says.
    let _ = std::fs::remove_file(&said);
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-f", "-c", &command]).arg(&said);
    script.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut script = script.spawn().expect("script runs");
    let mut keys = script.stdin.take().expect("piped");
    let wait_for = |text: &str| {
        let deadline = Instant::now() + SOON;
        loop {
            let shown = std::fs::read_to_string(&said).unwrap_or_default();
            if shown.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "no {text:?} in {shown}");
            sleep(Duration::from_millis(20));
        }
    };
    wait_for("serving /");
    keys.write_all(b"vmstat\r").expect("script reads");
    wait_for("vmstat: limit");
    keys.write_all(b"\x03").expect("script reads");
    wait_for("power button: halting");
    let status = script.wait().expect("script ends");
    let shown = std::fs::read_to_string(&said).unwrap_or_default();
    assert!(status.success(), "{status}\n{shown}");
    volume::assert_clean(&disk);
    std::fs::remove_file(&disk).expect("our own file");
}
