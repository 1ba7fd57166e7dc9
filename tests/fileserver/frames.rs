//! Frames that no good host would send, on a tap device in a namespace of its own. Needs root.

use std::net::Ipv4Addr;
use std::path::Path;
use std::thread::scope;
use std::time::{Duration, Instant};

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::frame::{FrameSocket, GUEST_MAC, checksum, ethernet, ipv4, pseudo_header, tcp};
use rump_tests::guest::{Boot, GUEST_ADDRESS, Guest};
use rump_tests::http::{Connection, Response};
use rump_tests::namespace::Namespace;
use rump_tests::random::Random;
use rump_tests::setup;
use rump_tests::tree::fingerprint;

use crate::{assert_sane, fileserver, small_disk};

const GUEST: [u8; 4] = GUEST_ADDRESS.octets();
const STRANGER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const BROADCAST: [u8; 6] = [0xff; 6];
const TYPE_IPV4: u16 = 0x0800;
const TYPE_ARP: u16 = 0x0806;
const SYN: u8 = 2;
const ACK: u8 = 16;

fn serve_on_tap(disk: &Disk, namespace: &Namespace) -> Guest {
    Boot::new(fileserver())
        .disk(&disk.image)
        .on_tap(namespace)
        .start()
        .serving()
}

fn get(namespace: &Namespace, guest: &Guest, target: &str) -> Response {
    let address = guest.address();
    let answer = namespace
        .enter(|| Connection::open(address)?.exchange("GET", target, &["Connection: close"]));
    answer.unwrap_or_else(|error| panic!("GET {target}: {error:#}"))
}

#[test]
fn a_static_address_serves_the_neighbours() {
    if !setup::is_root() {
        return;
    }
    let (disk, namespace) = (small_disk(), Namespace::new());
    let guest = serve_on_tap(&disk, &namespace);
    assert_eq!(
        fingerprint(&get(&namespace, &guest, "/100k.bin").body),
        disk.tree.nodes["100k.bin"]
    );
}

#[test]
fn an_echo_request_is_answered_in_kind() {
    if !setup::is_root() {
        return;
    }
    let (disk, namespace) = (small_disk(), Namespace::new());
    let guest = serve_on_tap(&disk, &namespace);
    let socket = FrameSocket::open(&namespace).expect("a packet socket");
    introduce(&socket);
    for length in [0, 1, 56, 1472] {
        let data = Random::new(length as u64).bytes(length);
        let packet = ipv4(stranger(), GUEST, 1, &echo(8, &data));
        socket
            .send(&ethernet(GUEST_MAC, STRANGER_MAC, TYPE_IPV4, &packet))
            .expect("sent");
        let deadline = Instant::now() + Duration::from_secs(5);
        let reply = loop {
            let frame = socket
                .receive(Duration::from_secs(5))
                .expect("a working socket")
                .expect("a reply");
            if frame[..6] == STRANGER_MAC
                && frame[12..14] == TYPE_IPV4.to_be_bytes()
                && frame[23] == 1
            {
                break frame;
            }
            assert!(Instant::now() < deadline, "no reply to {length} bytes");
        };
        assert_eq!(reply[34], 0, "type: echo reply");
        assert_eq!(reply[34 + 8..34 + 8 + length], data, "{length} bytes");
    }
    assert_sane(&guest);
}

#[test]
fn malformed_frames_of_every_layer_leave_the_server_serving() {
    if !setup::is_root() {
        return;
    }
    let mut random = Random::announced();
    let (disk, namespace) = (small_disk(), Namespace::new());
    let guest = serve_on_tap(&disk, &namespace);
    let socket = FrameSocket::open(&namespace).expect("a packet socket");
    for round in 0..10 {
        for _ in 0..2000 {
            let frame = malformed(&mut random);
            // A full queue of the tap device is no fault of the guest's.
            let _ = socket.send(&frame);
        }
        // One may have said, rightly formed, that the client is elsewhere, and ARP believes whoever spoke last: the client asks anew, and
        // is heard.
        let mut forget = namespace.command(Path::new("ip"));
        let forgotten = forget.args(["neigh", "flush", "all"]).status();
        assert!(forgotten.expect("ip runs").success());
        assert_eq!(
            get(&namespace, &guest, "/1k.bin").body.len(),
            1024,
            "round {round}"
        );
    }
    assert_eq!(
        fingerprint(&get(&namespace, &guest, "/100k.bin").body),
        disk.tree.nodes["100k.bin"]
    );
    assert_sane(&guest);
}

#[test]
fn a_syn_flood_does_not_keep_a_client_out() {
    if !setup::is_root() {
        return;
    }
    let mut random = Random::announced();
    let disk = Disk::of(Format::UFS2, |files| {
        write_random(&files.join("file.bin"), 2 << 20)
    });
    let namespace = Namespace::new();
    let guest = serve_on_tap(&disk, &namespace);
    let socket = FrameSocket::open(&namespace).expect("a packet socket");
    scope(|scope| {
        let client = scope.spawn(|| {
            for _ in 0..5 {
                let started = Instant::now();
                assert_eq!(
                    fingerprint(&get(&namespace, &guest, "/file.bin").body),
                    disk.tree.nodes["file.bin"]
                );
                assert!(
                    started.elapsed() < Duration::from_secs(15),
                    "{:?}",
                    started.elapsed()
                );
            }
        });
        let mut sent = 0;
        while sent < 50_000 && !client.is_finished() {
            let stranger = [
                10,
                77,
                0,
                100 + u8::try_from(random.below(100)).expect("small"),
            ];
            let port = 1024 + u16::try_from(random.below(60_000)).expect("a port");
            let sequence = random.number() as u32;
            let segment = tcp(
                (stranger, port),
                (GUEST, 80),
                [sequence, 0],
                SYN,
                &[2, 4, 5, 0xb4],
                b"",
            );
            let _ = socket.send(&ethernet(
                GUEST_MAC,
                STRANGER_MAC,
                TYPE_IPV4,
                &ipv4(stranger, GUEST, 6, &segment),
            ));
            sent += 1;
            if sent % 50 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        println!("{sent} segments sent");
        client.join().expect("the client is served");
    });
    assert_sane(&guest);
}

fn stranger() -> [u8; 4] {
    Ipv4Addr::new(10, 77, 0, 9).octets()
}

/// Tells the guest where the stranger is.
fn introduce(socket: &FrameSocket) {
    let request = arp(1, STRANGER_MAC, stranger(), [0; 6], GUEST);
    socket
        .send(&ethernet(BROADCAST, STRANGER_MAC, TYPE_ARP, &request))
        .expect("sent");
}

/// An ARP packet for IPv4 over Ethernet (RFC 826).
fn arp(
    operation: u16,
    sender: [u8; 6],
    sender_address: [u8; 4],
    target: [u8; 6],
    target_address: [u8; 4],
) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(sender);
    packet.extend(sender_address);
    packet.extend(target);
    packet.extend(target_address);
    packet
}

/// An ICMP message of the echo kind (RFC 792).
fn echo(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0x12, 0x34, 0, 1];
    message.extend(data);
    let sum = checksum(0, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// A UDP datagram (RFC 768).
fn udp(source: [u8; 4], ports: [u16; 2], data: &[u8]) -> Vec<u8> {
    let length = 8 + data.len();
    let mut datagram: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
    datagram.extend(u16::try_from(length).expect("a datagram").to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(data);
    let sum = checksum(pseudo_header(source, GUEST, 17, length), &datagram);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// A good packet of a random kind with something wrong in it: in the layer it is about, or anywhere.
fn malformed(random: &mut Random) -> Vec<u8> {
    let source = if random.below(4) == 0 {
        random.bytes(4).try_into().expect("four")
    } else {
        stranger()
    };
    let payload = {
        let length = random.below(600);
        random.bytes(length)
    };
    let (kind, mut packet) = match random.below(8) {
        0 => (
            TYPE_ARP,
            arp(
                random.below(5) as u16,
                STRANGER_MAC,
                source,
                random.bytes(6).try_into().expect("six"),
                GUEST,
            ),
        ),
        1 => (
            TYPE_IPV4,
            ipv4(source, GUEST, 1, &echo(random.number() as u8, &payload)),
        ),
        2 => (
            TYPE_IPV4,
            ipv4(source, GUEST, 17, &udp(source, [67, 68], &payload)),
        ),
        3 => (
            TYPE_IPV4,
            ipv4(source, GUEST, random.number() as u8, &payload),
        ),
        4 => (TYPE_IPV4, fragment(random, source, &payload)),
        5 => (random.number() as u16, payload),
        _ => {
            let words = random.below(10);
            let mut options = random.bytes(4 * words);
            if random.below(2) == 0 && !options.is_empty() {
                options[0] = [2, 3, 4, 5, 8][random.below(5)];
            }
            let flags = if random.below(3) == 0 {
                SYN
            } else {
                random.number() as u8
            };
            let ports = (
                (source, random.number() as u16),
                (
                    GUEST,
                    if random.below(3) == 0 {
                        random.number() as u16
                    } else {
                        80
                    },
                ),
            );
            let segment = tcp(
                ports.0,
                ports.1,
                [random.number() as u32, random.number() as u32],
                flags | (ACK * random.below(2) as u8),
                &options,
                &payload,
            );
            (TYPE_IPV4, ipv4(source, GUEST, 6, &segment))
        }
    };
    match random.below(4) {
        0 => packet.truncate(random.below(packet.len() + 1)),
        1 => {
            // In the headers, with the checksum of IPv4's own made good again: what comes after it has to see it.
            let at = random.below(packet.len().clamp(1, 60));
            if let Some(byte) = packet.get_mut(at) {
                *byte = random.number() as u8;
            }
            if kind == TYPE_IPV4 && packet.len() >= 20 {
                let length = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
                packet[10..12].fill(0);
                let sum = checksum(0, &packet[..length]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
        }
        2 => packet.extend(random.bytes(20)),
        _ => {}
    }
    let destination = if random.below(8) == 0 {
        BROADCAST
    } else {
        GUEST_MAC
    };
    let mut frame = ethernet(destination, STRANGER_MAC, kind, &packet);
    if random.below(50) == 0 {
        frame.truncate(14 + random.below(4));
    }
    frame.truncate(1514);
    frame
}

/// A piece of a datagram: pieces overlap, leave holes, and reach past 64 KiB.
fn fragment(random: &mut Random, source: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut packet = ipv4(source, GUEST, [1, 6, 17][random.below(3)], payload);
    packet[4..6].copy_from_slice(&(random.below(4) as u16).to_be_bytes());
    let more = if random.below(3) > 0 { 0x2000 } else { 0 };
    let offset = if random.below(10) == 0 {
        0x1fff - random.below(40)
    } else {
        random.below(200)
    };
    packet[6..8].copy_from_slice(&(more | offset as u16).to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum(0, &packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}
