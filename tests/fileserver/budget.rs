//! Eight megabytes of memory in all, or four.

use std::fs;
use std::path::Path;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::guest::{Boot, Guest, SOON};
use rump_tests::http::Connection;
use rump_tests::random::Random;
use rump_tests::tree::fingerprint;
use rump_tests::{scratch, volume};

use crate::{assert_sane, fileserver, free_pages};

fn serve_in_8_mib(disk: &Disk) -> Guest {
    Boot::new(fileserver())
        .memory("8")
        .disk(&disk.image)
        .start()
        .serving()
}

fn fill_with_a_large_file(files: &Path) {
    write_random(&files.join("64m.bin"), 64 << 20);
    write_random(&files.join("1k.bin"), 1024);
}

#[test]
fn a_file_of_64_mib_is_served_to_several_clients() {
    let disk = Disk::of(Format::UFS2, fill_with_a_large_file);
    let guest = serve_in_8_mib(&disk);
    scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_eq!(
                    fingerprint(&guest.get("/64m.bin").body),
                    disk.tree.nodes["64m.bin"]
                )
            });
        }
    });
    assert_sane(&guest);
}

#[test]
fn a_directory_of_ten_thousand_entries_is_shown_whole() {
    let disk = Disk::of(Format::UFS2, |files| {
        fs::create_dir(files.join("many")).expect("a folder under target");
        for number in 0..10_000 {
            fs::write(
                files.join(format!("many/file-{number:05}.txt")),
                number.to_string(),
            )
            .expect("a file under target");
        }
    });
    let guest = serve_in_8_mib(&disk);
    let page = guest.get("/many/").text();
    for number in 0..10_000 {
        assert!(
            page.contains(&format!("file-{number:05}.txt\"")),
            "{number} is missing"
        );
    }
    let mut connection = Connection::open(guest.address()).expect("a connection");
    for number in (0..10_000).step_by(7) {
        let response = connection
            .exchange("GET", &format!("/many/file-{number:05}.txt"), &[])
            .expect("an answer");
        assert_eq!(response.text(), number.to_string());
    }
    assert_sane(&guest);
}

#[test]
fn a_file_of_64_mib_comes_and_goes_in_4_mib_and_its_pages_come_back() {
    const LENGTH: usize = 64 << 20;
    // What slabs keep, and buffers of the volume's own blocks.
    const SLACK: u64 = 32;
    let disk = scratch("budget").join("4-mib");
    volume::make(&disk, Format::UFS2, 160 << 20);
    let mut guest = Boot::new(fileserver())
        .memory("4")
        .disk(&disk)
        .keeping_writes()
        .start()
        .serving();
    let mut connection = Connection::open(guest.address()).expect("a connection");
    let mut put = |target: &str, bytes: &[u8]| {
        let length = format!("Content-Length: {}", bytes.len());
        let waits = ["Expect: 100-continue", &length];
        let told = connection.exchange("PUT", target, &waits);
        assert_eq!(told.expect("an answer").status, 100, "{target}");
        connection.send(bytes).expect("it takes it");
        let answer = connection.response("PUT").expect("an answer");
        assert_eq!(answer.status, 201, "{target}");
    };
    put("/small.bin", b"small");
    assert_eq!(guest.get("/small.bin").body, b"small");
    let first = free_pages(&guest.get("/.metrics"));
    for name in ["/a.bin", "/b.bin"] {
        let bytes = Random::new(u64::from(name.as_bytes()[1])).bytes(LENGTH);
        put(name, &bytes);
        assert!(guest.get(name).body == bytes, "{name}: other bytes");
    }
    for name in ["/a.bin", "/b.bin"] {
        let answer = connection.exchange("DELETE", name, &[]);
        assert_eq!(answer.expect("an answer").status, 204, "{name}");
    }
    // Connections that were closed may be on their way out for a while.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let last = free_pages(&guest.get("/.metrics"));
        if last + SLACK >= first {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{first} pages were free at first, {last} are at the end"
        );
        sleep(Duration::from_millis(500));
    }
    assert_sane(&guest);
    guest.type_text("halt\n");
    assert_eq!(guest.exit_status(SOON), 0, "{}", guest.console());
    volume::assert_clean(&disk);
    fs::remove_file(&disk).expect("our own file");
}
