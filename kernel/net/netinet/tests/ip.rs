//! What a host must do with packets (RFC 1122 §3.2), seen from the wire.

mod wire;

use rumpnet::ifnet::IfCaps;
use rumpnet::socket::MsgFlags;
use rumpnet_netinet::in_cksum::{Checksum, in_cksum};
use rumpuser::Errno;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering::Relaxed;
use wire::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Wire, addr, ethernet};

/// A packet to be made, with what is usual.
struct Packet {
    to: [u8; 6],
    src: Ipv4Addr,
    dst: Ipv4Addr,
    proto: u8,
    ttl: u8,
    options: Vec<u8>,
    payload: Vec<u8>,
}

fn packet(proto: u8, payload: Vec<u8>) -> Packet {
    Packet {
        to: OUR_MAC,
        src: PEER_IP,
        dst: OUR_IP,
        proto,
        ttl: 64,
        options: Vec::new(),
        payload,
    }
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let total = (header_len + self.payload.len()) as u16;
        let mut header = vec![0x40 | (header_len / 4) as u8, 0];
        header.extend(total.to_be_bytes());
        header.extend([0, 7, 0, 0, self.ttl, self.proto, 0, 0]);
        header.extend(self.src.octets());
        header.extend(self.dst.octets());
        header.extend(&self.options);
        let sum = in_cksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut frame = ethernet(self.to, PEER_MAC, 0x0800);
        frame.extend(header);
        frame.extend(&self.payload);
        frame
    }
}

fn echo() -> Vec<u8> {
    let mut echo = vec![8, 0, 0, 0, 0, 1, 0, 2, b'h', b'i'];
    let sum = in_cksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    echo
}

/// A datagram from port 7 to `port`, without a checksum.
fn datagram(port: u16, data: &[u8]) -> Vec<u8> {
    let mut udp = vec![0, 7];
    udp.extend(port.to_be_bytes());
    udp.extend((8 + data.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(data);
    udp
}

/// How many frames a packet causes.
fn answers(wire: &Wire, packet: &Packet) -> usize {
    wire.put(&packet.bytes());
    wire.sent().len()
}

#[test]
fn echoes_to_us_are_answered_with_options_or_the_least_ttl_and_impossible_ones_are_not() {
    let wire = Wire::new();
    wire.introduce_peer();
    let ping = || packet(1, echo());
    assert_eq!(answers(&wire, &ping()), 1);
    let options = vec![7, 7, 4, 0, 0, 0, 0, 0];
    assert_eq!(answers(&wire, &Packet { options, ..ping() }), 1);
    assert_eq!(answers(&wire, &Packet { ttl: 1, ..ping() }), 1);
    let silent = [
        Packet {
            dst: Ipv4Addr::new(10, 0, 0, 77),
            ..ping()
        },
        Packet {
            dst: Ipv4Addr::LOCALHOST,
            ..ping()
        },
        Packet {
            dst: Ipv4Addr::new(10, 0, 0, 255),
            to: [0xff; 6],
            ..ping()
        },
        Packet {
            dst: Ipv4Addr::new(224, 0, 0, 1),
            to: [1, 0, 0x5e, 0, 0, 1],
            ..ping()
        },
        Packet {
            to: [0xff; 6],
            ..ping()
        },
        Packet {
            to: [2, 0, 0, 0, 0, 9],
            ..ping()
        },
        Packet {
            src: Ipv4Addr::LOCALHOST,
            ..ping()
        },
        Packet {
            src: Ipv4Addr::BROADCAST,
            ..ping()
        },
        Packet {
            src: Ipv4Addr::new(224, 0, 0, 5),
            ..ping()
        },
        Packet {
            src: Ipv4Addr::UNSPECIFIED,
            ..ping()
        },
        Packet {
            src: Ipv4Addr::new(10, 0, 0, 255),
            ..ping()
        },
        Packet {
            options: vec![7, 40, 4, 0],
            ..ping()
        },
    ];
    for (n, packet) in silent.iter().enumerate() {
        assert_eq!(answers(&wire, packet), 0, "packet {n}");
    }
}

#[test]
fn an_echos_answer_has_right_checksums_and_the_same_data() {
    let wire = Wire::new();
    wire.introduce_peer();
    wire.put(&packet(1, echo()).bytes());
    let sent = wire.sent();
    let frame = &sent[0].bytes;
    assert_eq!(frame[..14], ethernet(PEER_MAC, OUR_MAC, 0x0800));
    assert_eq!(in_cksum(&frame[14..34]), 0);
    assert_eq!(in_cksum(&frame[34..]), 0);
    assert_eq!(
        (frame[34], &frame[38..]),
        (0, &[0, 1, 0, 2, b'h', b'i'][..])
    );
}

#[test]
fn what_nobody_takes_is_unreachable_but_errors_cause_no_errors() {
    let wire = Wire::new();
    wire.introduce_peer();
    wire.put(&packet(99, vec![1; 30]).bytes());
    let sent = wire.sent();
    assert_eq!(sent.len(), 1);
    let icmp = &sent[0].bytes[34..];
    assert_eq!((icmp[..2].to_vec(), in_cksum(icmp)), (vec![3, 2], 0));
    // It quotes the header and what follows.
    assert_eq!(icmp[8 + 9], 99);
    assert_eq!(icmp[28..58], [1; 30]);
    assert_eq!(answers(&wire, &packet(17, datagram(4242, b"x"))), 1);
    let group = Packet {
        dst: Ipv4Addr::new(10, 0, 0, 255),
        to: [0xff; 6],
        ..packet(17, datagram(4242, b"x"))
    };
    assert_eq!(answers(&wire, &group), 0);
    let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
    error.extend(&packet(17, datagram(7, b"")).bytes()[14..]);
    let sum = in_cksum(&error);
    error[2..4].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(answers(&wire, &packet(1, error)), 0);
}

#[test]
fn a_datagram_with_a_wrong_checksum_or_length_is_dropped() {
    let wire = Wire::new();
    wire.introduce_peer();
    let so = wire.udp_socket();
    so.bind(addr(OUR_IP, 9)).unwrap();
    let receive = || so.receive(&mut [0; 100], MsgFlags::empty());
    let mut wrong_sum = datagram(9, b"data");
    wrong_sum[6..8].copy_from_slice(&[0xde, 0xad]);
    wire.put(&packet(17, wrong_sum).bytes());
    assert_eq!(wire.udp.stats.bad_sum.load(Relaxed), 1);
    for len in [7u16, 13] {
        let mut wrong_length = datagram(9, b"data");
        wrong_length[4..6].copy_from_slice(&len.to_be_bytes());
        wire.put(&packet(17, wrong_length).bytes());
    }
    assert_eq!(wire.udp.stats.bad_length.load(Relaxed), 2);
    assert_eq!(receive(), Err(Errno::EAGAIN));
    // Padding behind the datagram, as short Ethernet frames have, is no part of it.
    let mut padded = packet(17, datagram(9, b"data")).bytes();
    padded.resize(60, 0xee);
    wire.put(&padded);
    assert_eq!(receive(), Ok((4, Some(addr(PEER_IP, 7)))));
    so.close();
}

#[test]
fn a_checksum_is_left_to_an_interface_that_completes_it_and_to_no_other() {
    for caps in [IfCaps::empty(), IfCaps::IFCAP_CSUM_TX] {
        let wire = Wire::with_caps(caps);
        wire.introduce_peer();
        let so = wire.udp_socket();
        so.send(b"some data", Some(addr(PEER_IP, 7)), MsgFlags::empty())
            .unwrap();
        let sent = wire.sent();
        let (frame, pkthdr) = (&sent[0].bytes, sent[0].pkthdr);
        let mut pseudo = Checksum::new();
        pseudo.add_pseudo_header(OUR_IP, PEER_IP, 17, 17);
        let field = u16::from_be_bytes([frame[40], frame[41]]);
        if caps.is_empty() {
            pseudo.add(&frame[34..]);
            assert_eq!((pseudo.finish(), pkthdr.checksum), (0, None));
        } else {
            let open = pkthdr.checksum.unwrap();
            assert_eq!((pkthdr.network_header, open.field), (20, 6));
            assert_eq!(
                field,
                pseudo.folded(),
                "the device adds to the pseudo-header's sum"
            );
        }
        // A packet in fragments cannot be left to it.
        so.send(&[7; 3000], Some(addr(PEER_IP, 7)), MsgFlags::empty())
            .unwrap();
        let parts = wire.sent();
        assert_eq!(parts.len(), 3);
        assert!(parts.iter().all(|part| part.pkthdr.checksum.is_none()));
        let mut sum = Checksum::new();
        sum.add_pseudo_header(OUR_IP, PEER_IP, 17, 3008);
        parts.iter().for_each(|part| sum.add(&part.bytes[34..]));
        assert_eq!(sum.finish(), 0);
        so.close();
    }
}

#[test]
fn without_a_route_or_an_address_nothing_is_sent() {
    let wire = Wire::without_address(IfCaps::empty());
    let so = wire.udp_socket();
    let send = |to| so.send(b"x", Some(addr(to, 7)), MsgFlags::empty());
    assert_eq!(send(PEER_IP), Err(Errno::ENETUNREACH));
    assert_eq!(send(Ipv4Addr::UNSPECIFIED), Err(Errno::EADDRNOTAVAIL));
    assert_eq!(
        wire.inet.set_default_route(PEER_IP),
        Err(Errno::ENETUNREACH)
    );
    let address = |addr: [u8; 4], prefix_len| rumpnet::ifnet::InIfaddr {
        addr: addr.into(),
        prefix_len,
    };
    for bad in [
        address([10, 0, 0, 255], 24),
        address([0, 0, 0, 0], 0),
        address([224, 0, 0, 1], 24),
        address([10, 0, 0, 1], 33),
    ] {
        assert_eq!(
            wire.inet.add_address(&wire.ifp, bad),
            Err(Errno::EINVAL),
            "{bad:?}"
        );
    }
    let good = address([10, 0, 0, 1], 24);
    wire.inet.add_address(&wire.ifp, good).unwrap();
    assert_eq!(wire.inet.add_address(&wire.ifp, good), Err(Errno::EEXIST));
    send(PEER_IP).unwrap();
    wire.inet.remove_address(&wire.ifp, OUR_IP);
    assert_eq!(send(PEER_IP), Err(Errno::ENETUNREACH));
    so.close();
}
