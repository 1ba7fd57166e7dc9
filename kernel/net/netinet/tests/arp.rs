//! ARP on the wire: questions, answers, silence.

mod wire;

use rumpnet::socket::MsgFlags;
use rumpuser::Errno;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use wire::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Wire, addr, ethernet};

fn arp(op: u8, sender: [u8; 6], sender_ip: Ipv4Addr, target: [u8; 6], ip: Ipv4Addr) -> Vec<u8> {
    let to = match op {
        1 => [0xff; 6],
        _ => target,
    };
    let mut frame = ethernet(to, sender, 0x0806);
    frame.extend([0, 1, 8, 0, 6, 4, 0, op]);
    frame.extend(sender);
    frame.extend(sender_ip.octets());
    frame.extend(target);
    frame.extend(ip.octets());
    frame
}

#[test]
fn a_new_address_is_announced() {
    let wire = Wire::without_address(rumpnet::ifnet::IfCaps::empty());
    let address = rumpnet::ifnet::InIfaddr {
        addr: OUR_IP,
        prefix_len: 24,
    };
    wire.inet.add_address(&wire.ifp, address).unwrap();
    let sent = wire.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].bytes, arp(1, OUR_MAC, OUR_IP, [0; 6], OUR_IP));
}

#[test]
fn a_question_for_our_address_is_answered_and_others_are_not() {
    let wire = Wire::new();
    wire.put(&arp(1, PEER_MAC, PEER_IP, [0; 6], OUR_IP));
    let sent = wire.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].bytes, arp(2, OUR_MAC, OUR_IP, PEER_MAC, PEER_IP));
    wire.put(&arp(
        1,
        PEER_MAC,
        PEER_IP,
        [0; 6],
        Ipv4Addr::new(10, 0, 0, 77),
    ));
    assert!(wire.sent().is_empty());
    // A probe (RFC 5227) has no sender address: answered, not learned.
    wire.put(&arp(
        1,
        [2, 0, 0, 0, 0, 3],
        Ipv4Addr::UNSPECIFIED,
        [0; 6],
        OUR_IP,
    ));
    assert_eq!(wire.sent().len(), 1);
    assert_eq!(wire.inet.arp.len(), 1);
}

#[test]
fn unasked_answers_and_foreign_networks_make_no_entries() {
    let wire = Wire::new();
    wire.put(&arp(2, PEER_MAC, PEER_IP, OUR_MAC, OUR_IP));
    wire.put(&arp(
        1,
        PEER_MAC,
        Ipv4Addr::new(192, 168, 9, 9),
        [0; 6],
        OUR_IP,
    ));
    wire.put(&arp(1, [0xff; 6], PEER_IP, [0; 6], OUR_IP));
    assert!(wire.inet.arp.is_empty());
}

#[test]
fn a_flood_of_neighbours_does_not_fill_memory() {
    let wire = Wire::new();
    for n in 0..5000u32 {
        let [_, _, c, d] = n.to_be_bytes();
        let ip = Ipv4Addr::new(10, 0, 0, d);
        wire.put(&arp(1, [2, 9, 9, 9, c, d], ip, [0; 6], OUR_IP));
        wire.sent();
    }
    assert!(wire.inet.arp.len() <= 256);
}

#[test]
fn silence_is_asked_about_once_a_second_and_then_down() {
    let wire = Wire::new();
    let so = wire.udp_socket();
    let dead = addr(Ipv4Addr::new(10, 0, 0, 99), 7);
    let began = Instant::now();
    for _ in 0..100 {
        so.send(b"?", Some(dead), MsgFlags::empty()).unwrap();
    }
    assert_eq!(wire.sent().len(), 1, "one question for a hundred packets");
    let mut asked = 1;
    while so.send(b"?", Some(dead), MsgFlags::empty()) != Err(Errno::EHOSTDOWN) {
        asked += wire.sent().len();
        assert!(began.elapsed() < Duration::from_secs(9));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(asked, 5);
    assert!(began.elapsed() >= Duration::from_secs(4));
    so.close();
}
