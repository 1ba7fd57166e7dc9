//! More clients than there is memory for, and more requests than anybody counts.

use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::guest::Boot;
use rump_tests::http::Connection;
use rump_tests::tree::fingerprint;

use crate::{Town, assert_sane, fileserver, free_pages, small_disk};

fn serve_in_8_mib(disk: &Disk) -> Town {
    Town::around(Boot::new(fileserver()).memory("8").disk(&disk.image))
}

#[test]
fn two_hundred_and_fifty_six_connections_are_served_at_once() {
    let disk = small_disk();
    let town = Town::around(Boot::new(fileserver()).disk(&disk.image));
    let mut connections = town.connections(256);
    for round in 0..3 {
        for connection in &mut connections {
            connection
                .request("GET", "/100k.bin", &[])
                .expect("it takes it");
        }
        for (number, connection) in connections.iter_mut().enumerate() {
            let response = connection
                .response("GET")
                .unwrap_or_else(|error| panic!("connection {number}, round {round}: {error:#}"));
            assert_eq!(
                fingerprint(&response.body),
                disk.tree.nodes["100k.bin"],
                "connection {number}"
            );
        }
    }
    assert_sane(&town.guest);
}

#[test]
fn a_hundred_thousand_requests_leave_as_many_free_pages_as_the_first_thousand() {
    const BATCH: usize = 50;
    const CLIENTS: usize = 4;
    // What slabs keep of the worst moment, which is not always the first. A byte lost by each request would be 24 pages.
    const SLACK: u64 = 16;
    let disk = Disk::of(Format::UFS2, |files| {
        for number in 0..10 {
            write_random(&files.join(format!("{number}.bin")), 500 + number);
        }
    });
    let town = serve_in_8_mib(&disk);
    let requests: String = (0..BATCH)
        .map(|number| format!("GET /{}.bin HTTP/1.1\r\nHost: guest\r\n\r\n", number % 10))
        .collect();
    let ask = |count: usize| {
        let mut connection = town.connect();
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
    // As many clients at first as later: each takes some memory of its own.
    let ask_together = |each: usize| {
        scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| ask(each));
            }
        });
    };
    ask_together(1000 / CLIENTS);
    let first = free_pages(&town.get("/.metrics"));
    for _ in 0..25 {
        ask_together(1000);
    }
    // Connections that were closed may be on their way out for a while.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let last = free_pages(&town.get("/.metrics"));
        if last + SLACK >= first {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{first} pages were free after the first thousand, {last} are at the end"
        );
        sleep(Duration::from_millis(500));
    }
    assert_sane(&town.guest);
}

#[test]
fn more_connections_than_memory_allows_are_turned_away_in_order() {
    let disk = Disk::of(Format::UFS2, |files| {
        write_random(&files.join("file.bin"), 100 << 10)
    });
    let town = serve_in_8_mib(&disk);
    // Many at a time, each until it is not let in: whoever asks nothing for 75 seconds is ended, and being ignored takes 30.
    let connect = || -> Vec<Connection> {
        let all = (0..12).map_while(|_| town.try_connect().ok());
        all.collect()
    };
    let mut connections: Vec<Connection> = scope(|scope| {
        let threads: Vec<_> = (0..50).map(|_| scope.spawn(connect)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.flat_map(|all| all.expect("it connects")).collect()
    });
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
        fingerprint(&town.get("/file.bin").body),
        disk.tree.nodes["file.bin"]
    );
    assert_sane(&town.guest);
}
