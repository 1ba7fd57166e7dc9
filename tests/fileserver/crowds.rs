//! Crowds of clients.

use rump_tests::guest::Boot;
use rump_tests::tree::fingerprint;

use crate::{Town, assert_sane, fileserver, small_disk};

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
