//! `GET /.metrics`: what the kernel counts is there, in the format that Prometheus reads, and counts.

use std::collections::HashMap;

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::guest::{Boot, Guest};
use rump_tests::http::{Connection, Response};

use super::fileserver;

/// The counters now.
fn metrics(guest: &Guest) -> HashMap<String, u64> {
    values(&guest.get("/.metrics"))
}

/// The counters of an answer, after a judgement of its format.
pub fn values(response: &Response) -> HashMap<String, u64> {
    assert_eq!(response.status, 200);
    let text = response.text();
    let (mut helped, mut typed) = (None, None);
    let mut values = HashMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helped = rest.split(' ').next();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            let counts = name.ends_with("_total");
            assert_eq!(kind, if counts { "counter" } else { "gauge" }, "{line}");
            typed = Some(name);
            continue;
        }
        let (name, value) = line.split_once(' ').expect("a value");
        assert_eq!((helped, typed), (Some(name), Some(name)), "{line}");
        let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let before = values.insert(name.to_owned(), value);
        assert_eq!(before, None, "{name} comes twice");
    }
    values
}

#[test]
fn what_clients_ask_for_shows_in_the_counters() {
    let disk = Disk::of(Format::UFS2, |files| {
        write_random(&files.join("large"), 6 << 20);
    });
    let mut guest = Boot::new(fileserver())
        .disk(&disk.image)
        .memory("4")
        .start()
        .serving();
    let before = metrics(&guest);
    assert_eq!(guest.get("/large").body.len(), 6 << 20);
    let mut connection = Connection::open(guest.address()).expect("it is taken");
    let body = vec![b'x'; 3 << 20];
    let head = format!(
        "PUT /new HTTP/1.1\r\nHost: guest\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.send(head.as_bytes()).expect("it takes the head");
    connection.send(&body).expect("it takes the body");
    assert_eq!(connection.response("PUT").expect("an answer").status, 201);
    let after = metrics(&guest);
    // More than memory holds went through it, both ways, and over the network.
    for (name, least) in [
        ("uvm_pageouts_started_total", 1),
        ("uvm_pageouts_done_total", 1),
        ("uvm_pagedaemon_wakeups_total", 1),
        ("uvm_pagedaemon_scanned_total", 200),
        ("uvm_pagedaemon_freed_total", 200),
        ("vfs_page_reads_total", 1500),
        ("vfs_page_writes_total", 700),
        ("vfs_page_hits_total", 1),
        ("vfs_page_misses_total", 1),
        ("vfs_name_misses_total", 1),
        ("vfs_buffer_hits_total", 1),
        ("disk_ld0_reads_total", 10),
        ("disk_ld0_read_sectors_total", 12_000),
        ("disk_ld0_writes_total", 10),
        ("disk_ld0_written_sectors_total", 6000),
        ("if_virt0_received_bytes_total", 3 << 20),
        ("if_virt0_sent_bytes_total", 6 << 20),
        ("ip_received_total", 100),
        ("ip_sent_total", 100),
        ("tcp_received_total", 100),
        ("tcp_sent_total", 100),
        ("tcp_established_total", 2),
    ] {
        let of = |values: &HashMap<String, u64>| values[&format!("rump_{name}")];
        let counted = of(&after) - of(&before);
        assert!(counted >= least, "{name}: {counted}, not {least}");
    }
    for name in [
        "uvm_limit_pages",
        "uvm_free_pages",
        "uvm_inactive_pages",
        "uvm_kmem_pages",
        "kmem_requested_bytes",
        "kmem_slab_0512_objects",
        "mbuf_clusters",
        "sockets",
        "vfs_vnodes",
        "vfs_buffers",
    ] {
        assert!(after[&format!("rump_{name}")] > 0, "{name}");
    }
    assert!(after.contains_key("rump_uvm_active_pages"));
    assert!(after.contains_key("rump_vfs_dirty_pages"));
    assert_eq!(after["rump_uvm_pagedaemon_hopeless_total"], 0);
    guest.signal(libc::SIGTERM);
    assert_eq!(guest.exit_status(rump_tests::guest::SOON), 0);
}
