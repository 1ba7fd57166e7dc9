//! Frames to an interface: Ethernet, ARP, IPv4 with its fragments and options, ICMP, UDP; and answers to a DHCP client.
//!
//! An input is a row of steps, each a byte that says what, a length (two bytes) and so many bytes.
//!
//! What must hold: no panic; no frame causes a storm; what waits for the rest of its fragments is bounded; every
//! buffer comes back.

use rumpkern::uvm::{Cluster, SmallBuffer};
use rumpnet::protocol::SockType;
use rumpnet::socket::MsgFlags;
use rumpnet_netinet::dhcp::{Action, Client};
use rumpuser::{Errno, Instant};

use crate::input::Input;
use crate::machine::attach;
use crate::tcp_segment::{assert_returned, buffers};
use crate::wire::set_checksums;
use crate::wire::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Wire, addr, arp, ethernet, ipv4};

/// Steps of a run.
const MOST_STEPS: usize = 40;
/// The longest frame of an Ethernet.
const MOST_BYTES: usize = 1514;
/// Buffers of 2 KiB that frames may hold at once.
const MOST_HELD: usize = 700;
/// Of a UDP socket of ours.
const OUR_PORT: u16 = 5000;

/// A DHCP client, and what it last asked.
struct Dhcp {
    client: Client,
    asked: Vec<u8>,
    now: u64,
}

impl Dhcp {
    fn new() -> Dhcp {
        let mut dhcp = Dhcp {
            client: Client::new(OUR_MAC, "fuzz", 42, Instant::from_nanos(0)),
            asked: Vec::new(),
            now: 0,
        };
        dhcp.wait(0);
        dhcp
    }

    /// Lets time pass, as far as its next timer at least where that is near.
    fn wait(&mut self, seconds: u64) {
        // An input may add up to more than there are nanoseconds: then time stands still at its end.
        self.now = self.now.saturating_add(seconds * 1_000_000_000);
        for _ in 0..8 {
            let action = self.client.poll(Instant::from_nanos(self.now));
            if action.is_none() {
                return;
            }
            self.note(action);
        }
    }

    /// An answer that fits the question, with what is left of `bytes` as its options.
    fn answer(&mut self, bytes: &[u8]) {
        let mut answer = vec![0; 240];
        answer[..4].copy_from_slice(&[2, 1, 6, 0]);
        if let (Some(xid), Some(mac)) = (self.asked.get(4..8), self.asked.get(28..34)) {
            answer[4..8].copy_from_slice(xid);
            answer[28..34].copy_from_slice(mac);
        }
        let mut input = Input::new(bytes);
        answer[16..20].copy_from_slice(&input.array::<4>());
        answer[236..240].copy_from_slice(&[99, 130, 83, 99]);
        answer.extend(input.rest());
        self.receive(&answer);
    }

    fn receive(&mut self, bytes: &[u8]) {
        let action = self.client.receive(bytes, Instant::from_nanos(self.now));
        self.note(action);
    }

    fn note(&mut self, action: Option<Action>) {
        match action {
            Some(Action::Broadcast(bytes) | Action::Unicast(bytes, _)) => self.asked = bytes,
            Some(Action::Configure(lease)) => {
                assert!(lease.prefix_len <= 32 && !lease.addr.is_unspecified());
            }
            _ => {}
        }
    }
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let _lwp = attach();
    let before = buffers();
    let wire = Wire::new();
    let socket = wire.socket(SockType::Dgram);
    socket.bind(addr(OUR_IP, OUR_PORT)).expect("it is free");
    let mut dhcp = Dhcp::new();
    let mut input = Input::new(data);
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        let (kind, length) = (input.u8(), usize::from(input.u16()) % (MOST_BYTES + 1));
        let bytes = input.bytes(length);
        step(&wire, &mut dhcp, kind, bytes);
        let held = Cluster::in_use() + SmallBuffer::in_use() / 8;
        assert!(held < MOST_HELD, "{held} buffers are held");
        wire.take();
        while socket.receive(&mut [0; 64], MsgFlags::empty()) != Err(Errno::EAGAIN) {}
    }
    let answer = socket.send(&[1; 64], Some(addr(PEER_IP, 7)), MsgFlags::empty());
    // Whoever said by ICMP that nobody is there may have been believed, once.
    let _ = answer;
    socket.close();
    drop((socket, wire));
    assert_returned(before);
}

fn step(wire: &Wire, dhcp: &mut Dhcp, kind: u8, bytes: &[u8]) {
    match kind % 8 {
        0 => wire.put(bytes),
        1 => put(wire, bytes.to_vec()),
        2 => put(wire, [&ethernet(OUR_MAC, PEER_MAC, 0x0800), bytes].concat()),
        3 => wire.put(&[&ethernet([0xff; 6], PEER_MAC, 0x0806), bytes].concat()),
        4 => {
            let mut input = Input::new(bytes);
            let proto = input.one_of(&[1, 6, 17, 99]);
            let (id, fragment) = (u16::from(input.u8() & 7), input.u16());
            put(wire, ipv4(proto, id, fragment, input.rest()));
        }
        5 => dhcp.answer(bytes),
        6 => dhcp.receive(bytes),
        _ => dhcp.wait(u64::from(Input::new(bytes).u32())),
    }
}

/// Puts a frame on the wire whose sums are right.
fn put(wire: &Wire, mut frame: Vec<u8>) {
    frame.truncate(MOST_BYTES);
    set_checksums(&mut frame);
    wire.put(&frame);
}

/// Inputs to start from: a frame of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let udp = |length: usize| {
        let mut udp = vec![0, 7];
        udp.extend(OUR_PORT.to_be_bytes());
        udp.extend((8 + length as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp.resize(8 + length, b'u');
        udp
    };
    let echo = [&[8, 0, 0, 0, 0, 1, 0, 2][..], b"echo"].concat();
    let mut complaint = vec![3, 3, 0, 0, 0, 0, 0, 0];
    complaint.extend([0x45, 0, 0, 40, 0, 1, 0, 0, 64, 17, 0, 0]);
    complaint.extend(OUR_IP.octets());
    complaint.extend(PEER_IP.octets());
    complaint.extend([0x13, 0x88, 0, 7, 0, 20, 0, 0]);
    let mut optioned = ipv4(17, 1, 0, &[&[7, 7, 4, 0, 0, 0, 0, 0][..], &udp(4)].concat());
    optioned[14] = 0x47;
    let steps = |steps: &[(u8, Vec<u8>)]| {
        let mut input = Vec::new();
        for (kind, bytes) in steps {
            input.push(*kind);
            input.extend((bytes.len() as u16).to_le_bytes());
            input.extend(bytes);
        }
        input
    };
    let whole = udp(3000);
    let piece = |from: usize, to: usize, more: u16| {
        let fragment = more << 13 | (from / 8) as u16;
        ipv4(17, 9, fragment, &whole[from..to.min(whole.len())])
    };
    let lease: &[u8] = &[
        10, 0, 2, 15, 53, 1, 2, 54, 4, 10, 0, 2, 2, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 51,
        4, 0, 0, 14, 16, 255,
    ];
    let mut acknowledged = lease.to_vec();
    acknowledged[6] = 5;
    let mut refused = lease.to_vec();
    refused[6] = 6;
    let later = 1800u32.to_le_bytes().to_vec();
    vec![
        steps(&[
            (0, arp(1, PEER_MAC, PEER_IP, OUR_IP)),
            (0, arp(2, PEER_MAC, PEER_IP, OUR_IP)),
        ]),
        steps(&[(1, ipv4(1, 1, 0, &echo)), (1, ipv4(1, 1, 0, &complaint))]),
        steps(&[(1, ipv4(17, 1, 0, &udp(4))), (1, optioned)]),
        steps(&[
            (1, piece(0, 1000, 1)),
            (1, piece(2000, 4000, 0)),
            (1, piece(1000, 2000, 1)),
        ]),
        steps(&[
            (1, piece(0, 1000, 1)),
            (1, piece(504, 1504, 1)),
            (4, piece(0, 100, 1)[14..].to_vec()),
        ]),
        steps(&[
            (5, lease.to_vec()),
            (5, acknowledged.clone()),
            (7, later.clone()),
            (5, acknowledged.clone()),
        ]),
        steps(&[
            (5, lease.to_vec()),
            (5, refused.clone()),
            (7, later.clone()),
            (5, lease.to_vec()),
        ]),
        steps(&[
            (5, lease.to_vec()),
            (5, acknowledged),
            (7, later.clone()),
            (7, later),
            (5, refused),
        ]),
        // To the end of time.
        steps(&vec![(7, u32::MAX.to_le_bytes().to_vec()); 6]),
        steps(&[
            (2, ipv4(6, 1, 0, &[0; 20])[14..].to_vec()),
            (3, arp(1, [3; 6], PEER_IP, OUR_IP)[14..].to_vec()),
        ]),
    ]
}
