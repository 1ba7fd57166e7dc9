//! Many clients, slow clients, clients that never say anything.

use std::io::Read as _;
use std::sync::Barrier;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::guest::Boot;
use rump_tests::tree::fingerprint;

use crate::{Town, assert_sane, fileserver, small_disk};

#[test]
fn eight_clients_fetch_large_files_at_once() {
    let disk = Disk::of(Format::UFS2, |files| {
        for number in 0..8 {
            write_random(&files.join(format!("{number}.bin")), 4 << 20);
        }
    });
    let town = Town::around(Boot::new(fileserver()).disk(&disk.image));
    let start = Barrier::new(8);
    scope(|scope| {
        for number in 0..8 {
            let (disk, town, start) = (&disk, &town, &start);
            scope.spawn(move || {
                start.wait();
                for turn in 0..8 {
                    let name = format!("{}.bin", (number + turn) % 8);
                    let response = town.get(&format!("/{name}"));
                    assert_eq!(
                        fingerprint(&response.body),
                        disk.tree.nodes[&name],
                        "{name}"
                    );
                }
            });
        }
    });
    assert_sane(&town.guest);
}

#[test]
fn clients_that_never_finish_their_request_do_not_hold_up_others() {
    let disk = small_disk();
    let town = Town::around(Boot::new(fileserver()).disk(&disk.image));
    let mut slow = town.connections(100);
    for connection in &mut slow {
        connection
            .send(b"GET /1k.bin HTTP/1.1\r\nHost: guest\r\n")
            .expect("it takes it");
    }
    for round in 0..10 {
        // A server may lose patience with such a client.
        for connection in &mut slow {
            let _ = connection.send(b"X: y\r\n");
        }
        let started = Instant::now();
        assert_eq!(town.get("/100k.bin").body.len(), 100 << 10);
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "round {round}: {:?}",
            started.elapsed()
        );
    }
    assert_sane(&town.guest);
}

#[test]
fn clients_that_never_read_do_not_hold_up_others() {
    let disk = Disk::of(Format::UFS2, |files| {
        write_random(&files.join("large.bin"), 8 << 20)
    });
    let town = Town::around(Boot::new(fileserver()).disk(&disk.image));
    let mut deaf = town.connections(20);
    for connection in &mut deaf {
        connection
            .request("GET", "/large.bin", &[])
            .expect("it takes it");
    }
    sleep(Duration::from_millis(500));
    assert_eq!(
        fingerprint(&town.get("/large.bin").body),
        disk.tree.nodes["large.bin"]
    );
    // And the deaf one gets all of it when it listens again.
    let late = deaf[7].response("GET").expect("an answer");
    assert_eq!(fingerprint(&late.body), disk.tree.nodes["large.bin"]);
    assert_sane(&town.guest);
}

#[test]
fn connections_that_are_reset_in_the_middle_leave_nothing_behind() {
    let disk = Disk::of(Format::UFS2, |files| {
        write_random(&files.join("large.bin"), 8 << 20)
    });
    let town = Town::around(Boot::new(fileserver()).disk(&disk.image));
    for _ in 0..300 {
        let mut connection = town.connect();
        connection
            .request("GET", "/large.bin", &[])
            .expect("it takes it");
        let mut some = [0; 1000];
        connection
            .stream()
            .read_exact(&mut some)
            .expect("the start of an answer");
        // Dropped with data unread: the kernel here sends a reset.
    }
    assert_eq!(
        fingerprint(&town.get("/large.bin").body),
        disk.tree.nodes["large.bin"]
    );
    assert_sane(&town.guest);
}

#[test]
fn an_idle_guest_leaves_the_host_alone() {
    let disk = small_disk();
    let town = Town::around(Boot::new(fileserver()).disk(&disk.image));
    assert_eq!(town.get("/1k.bin").status, 200);
    sleep(Duration::from_secs(1));
    let used = |at: Instant| (town.guest.processor_time(), at.elapsed());
    let start = Instant::now();
    let (before, _) = used(start);
    sleep(Duration::from_secs(5));
    let (after, passed) = used(start);
    let share = (after - before).as_secs_f64() / passed.as_secs_f64();
    assert!(share < 0.02, "{:.1} % of a core", share * 100.0);
}
