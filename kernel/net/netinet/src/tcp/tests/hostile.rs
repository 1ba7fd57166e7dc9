//! Segments that no honest stack sends, by a seed: nothing panics, nothing grows, and an honest connection
//! beside them goes on.

use super::link::Random;
use super::node::{CONFIG, Node, OURS, packet};
use super::script::Side;
use crate::tcp::header::{Control, HEADER_MAX, Header, Options};
use crate::tcp::seq::Seq;
use crate::tcp::tcb::State;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

/// A number that is likely to matter: near an edge of a window, or anywhere.
fn number(random: &mut Random, near: &[Seq]) -> Seq {
    match random.below(4) {
        0 => Seq(random.next() as u32),
        _ => {
            let base = near[random.below(near.len() as u64) as usize];
            base + (random.below(7) as u32).wrapping_sub(3)
        }
    }
}

fn senseless(random: &mut Random, seqs: &[Seq], acks: &[Seq]) -> (Header, u32) {
    let options = Options {
        mss: random.percent(30).then(|| random.next() as u16),
        window_shift: random.percent(30).then(|| random.below(15) as u8),
    };
    let header = Header {
        source: 4000,
        destination: 80,
        seq: number(random, seqs),
        ack: number(random, acks),
        control: Control::from_bits_retain(random.next() as u8),
        window: [0, 1, 100, 65_535, random.next() as u16][random.below(5) as usize],
        options,
    };
    let len = [0, 0, 1, 10, 1000, 3000][random.below(6) as usize];
    (header, len)
}

#[test]
fn twenty_thousand_senseless_segments_to_connections_in_every_state() {
    for seed in 1..=200 {
        let mut random = Random::new(seed);
        let mut side = match seed % 5 {
            0 => Side::connecting(super::script::CONFIG),
            1 => Side::syn_received(),
            _ => Side::established(),
        };
        for _ in 0..100 {
            let t = &side.tcb;
            let seqs = [t.irs, t.rcv_nxt, t.rcv_adv, t.rcv_nxt + 1000];
            let acks = [t.iss, t.snd_una, t.snd_nxt, t.snd_max, t.fin_seq() + 1];
            let (header, len) = senseless(&mut random, &seqs, &acks);
            side.inject(super::script::Seg { header, len });
            match random.below(12) {
                0 => side.send(random.below(5000) as u32),
                1 => drop(side.tcb.close_send()),
                2 => side.sleep(random.below(5000)),
                3 => drop(side.tcb.consumed(side.tcb.rcv_unread)),
                4 => drop(side.tcb.path_mtu(random.next() as u16)),
                _ => {}
            }
            let sent = side.burst();
            assert!(
                sent.len() <= 100,
                "seed {seed}: a storm of {} segments",
                sent.len()
            );
            check(&side, seed);
        }
    }
}

/// What holds of every control block at every time.
fn check(side: &Side, seed: u64) {
    let t = &side.tcb;
    if t.state() == State::Closed {
        assert_eq!(t.deadline(), None, "seed {seed}: the dead have no timers");
        return;
    }
    assert!(t.snd_una.at_or_before(t.snd_nxt), "seed {seed}");
    assert!(t.snd_nxt.at_or_before(t.snd_max), "seed {seed}");
    assert!(
        t.snd_max.at_or_before(t.fin_seq() + 1),
        "seed {seed}: sent more than there is"
    );
    assert!(t.rcv_unread <= 8000, "seed {seed}: {} unread", t.rcv_unread);
    assert!(t.reassembly_bytes() <= 16_000 + 3000, "seed {seed}");
    let in_flight = t.state().is_synchronized() && t.snd_una != t.snd_max;
    let watched = t.due.retransmit_runs() || t.due.persist_runs() || t.due.retry != u64::MAX;
    let over = t.state() == State::TimeWait;
    assert!(
        !in_flight || watched || over,
        "seed {seed}: nobody watches what is in flight"
    );
}

#[test]
fn ten_thousand_malformed_segments_and_an_honest_client_beside_them() {
    let mut random = Random::new(99);
    let mut node = Node::new(CONFIG);
    node.listen(80);
    node.backlog = 100_000;
    let syn = Header {
        source: 7,
        destination: 80,
        control: Control::SYN,
        ..Header::default()
    };
    node.receive(
        node.now,
        &packet(
            CLIENT,
            OURS,
            &Header {
                window: 9000,
                ..syn
            },
            &[],
        ),
    );
    let answer = Header::parse(&node.out.pop_front().unwrap()[20..])
        .unwrap()
        .0;
    let honest = Header {
        control: Control::ACK,
        seq: Seq(1),
        ack: answer.seq + 1,
        ..syn
    };
    node.receive(node.now, &packet(CLIENT, OURS, &honest, b"0"));
    let id = node.accepted.pop_front().unwrap();
    let mut most = 0;
    for n in 0..10_000u32 {
        let segment = malformed(&mut random);
        node.now += 1_000_000;
        if let Ok((header, at)) = Header::parse(&segment) {
            let tuple = crate::tcp::tuple::Tuple {
                local: IpAddr::V4(OURS),
                local_port: 80,
                remote_port: header.source,
                remote: IpAddr::V4(CLIENT),
            };
            if header.source != 7 {
                node.segment(tuple, &header, &segment[at..]);
            }
        }
        if n % 1000 == 0 {
            let next = Header {
                seq: Seq(2 + n / 1000),
                ..honest
            };
            node.receive(node.now, &packet(CLIENT, OURS, &next, b"1"));
            node.poll(node.now);
        }
        node.out.clear();
        most = most.max(node.demux.memory_bytes());
    }
    assert_eq!(node.read(id, 100).len(), 11);
    assert!(most < 64_000, "{most} bytes in tables");
}

/// A valid segment, mutated: bits flipped, cut, its length field changed.
fn malformed(random: &mut Random) -> Vec<u8> {
    let (header, len) = senseless(random, &[Seq(1)], &[Seq(1)]);
    let mut bytes = [0u8; HEADER_MAX].to_vec();
    let header_bytes = header.emit(&mut bytes);
    bytes.truncate(header_bytes);
    bytes.extend((0..len).map(|n| n as u8));
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
    }
    if random.percent(20) {
        bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
    }
    if random.percent(20) && bytes.len() > 12 {
        bytes[12] = random.next() as u8;
    }
    bytes
}
