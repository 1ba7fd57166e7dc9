//! Eight megabytes of memory in all.

use std::fs;
use std::path::Path;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::guest::{Boot, Guest};
use rump_tests::http::Connection;
use rump_tests::tree::fingerprint;

use crate::{assert_sane, fileserver};

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

/// A gauge of `/.metrics`, by the end of its name.
fn gauge(guest: &Guest, name: &str) -> u64 {
    let text = guest.get("/.metrics").text();
    let line = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let (key, value) = line.split_once(' ')?;
            key.ends_with(name)
                .then(|| value.trim().parse().ok())
                .flatten()
        });
    line.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
}

#[test]
fn a_hundred_thousand_requests_leave_as_many_free_pages_as_the_first_thousand() {
    const BATCH: usize = 20;
    let disk = Disk::of(Format::UFS2, |files| {
        for number in 0..10 {
            write_random(&files.join(format!("{number}.bin")), 500 + number);
        }
    });
    let guest = serve_in_8_mib(&disk);
    let requests: String = (0..BATCH)
        .map(|number| format!("GET /{}.bin HTTP/1.1\r\nHost: guest\r\n\r\n", number % 10))
        .collect();
    let ask = |count: usize| {
        let mut connection = Connection::open(guest.address()).expect("a connection");
        for _ in 0..count / BATCH {
            connection.send(requests.as_bytes()).expect("it takes them");
            for number in 0..BATCH {
                let response = connection.response("GET").expect("an answer");
                assert_eq!(
                    (response.status, response.body.len()),
                    (200, 500 + number % 10)
                );
            }
        }
    };
    ask(1000);
    let first = gauge(&guest, "uvm_free_pages");
    for _ in 0..25 {
        scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| ask(1000));
            }
        });
    }
    // Connections that were closed may be on their way out for a while.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let last = gauge(&guest, "uvm_free_pages");
        if last >= first {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{first} pages were free after the first thousand, {last} are at the end"
        );
        sleep(Duration::from_millis(500));
    }
    assert_sane(&guest);
}

#[test]
fn more_connections_than_memory_allows_are_turned_away_in_order() {
    let disk = Disk::of(Format::UFS2, |files| {
        write_random(&files.join("file.bin"), 100 << 10)
    });
    let guest = serve_in_8_mib(&disk);
    let mut connections: Vec<Connection> = (0..600)
        .filter_map(|_| Connection::open(guest.address()).ok())
        .collect();
    for connection in &mut connections {
        let _ = connection.request("GET", "/file.bin", &[]);
    }
    let (mut served, mut refused) = (0, 0);
    for connection in &mut connections {
        match connection.response("GET") {
            Ok(response) if response.status == 200 => {
                assert_eq!(fingerprint(&response.body), disk.tree.nodes["file.bin"]);
                served += 1;
            }
            Ok(response) => {
                assert_eq!(response.status, 503);
                refused += 1;
            }
            // Closed before it was accepted.
            Err(_) => refused += 1,
        }
    }
    println!("{served} served, {refused} turned away");
    assert!(served >= 256, "only {served} of 600 were served");
    drop(connections);
    assert_eq!(
        fingerprint(&guest.get("/file.bin").body),
        disk.tree.nodes["file.bin"]
    );
    assert_sane(&guest);
}
