//! SYN floods, half-open connections, TIME-WAIT and the tables' bounds.

use super::link::Random;
use super::node::{CONFIG, Node, OURS, packet};
use crate::tcp::header::{Control, Header, Options};
use crate::tcp::seq::Seq;
use crate::tcp::tcb::State;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

const ACK: Control = Control::ACK;
const SYN: Control = Control::SYN;
const RST: Control = Control::RST;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

fn header(port: u16, seq: u32, ack: u32, control: Control) -> Header {
    Header {
        source: port,
        destination: 80,
        seq: Seq(seq),
        ack: Seq(ack),
        control,
        window: 60_000,
        ..Header::default()
    }
}

fn syn(port: u16, seq: u32) -> Header {
    let options = Options {
        mss: Some(1460),
        window_shift: Some(7),
    };
    Header {
        options,
        ..header(port, seq, 0, SYN)
    }
}

/// Gives the node a segment and takes its answers.
fn exchange(node: &mut Node, from: Ipv4Addr, header: Header, data: &[u8]) -> Vec<Header> {
    node.receive(node.now, &packet(from, OURS, &header, data));
    node.out
        .drain(..)
        .map(|packet| Header::parse(&packet[20..]).unwrap().0)
        .collect()
}

fn listening() -> Node {
    let mut node = Node::new(CONFIG);
    node.listen(80);
    node
}

fn flood(node: &mut Node, count: u64, random: &mut Random) -> usize {
    let mut most = 0;
    for _ in 0..count {
        let source = Ipv4Addr::from_bits(random.next() as u32 | 0x0b00_0000);
        let syn = syn(random.below(65_535) as u16 + 1, random.next() as u32);
        assert_eq!(exchange(node, source, syn, &[]).len(), 1);
        node.now += 10_000;
        most = most.max(node.demux.memory_bytes());
    }
    most
}

#[test]
fn a_handshake_through_the_syn_cache() {
    let mut node = listening();
    let answers = exchange(&mut node, CLIENT, syn(4000, 100), &[]);
    assert_eq!((answers[0].control, answers[0].ack), (SYN | ACK, Seq(101)));
    assert_eq!(
        answers[0].options,
        Options {
            mss: Some(1460),
            window_shift: Some(3)
        }
    );
    assert_eq!(
        (node.demux.connections(), node.demux.syn_cache.len()),
        (0, 1)
    );
    let ack = header(4000, 101, answers[0].seq.0.wrapping_add(1), ACK);
    assert!(exchange(&mut node, CLIENT, ack, b"hello").is_empty());
    assert_eq!(
        (node.demux.connections(), node.demux.syn_cache.len()),
        (1, 0)
    );
    let id = node.accepted[0];
    assert_eq!(node.conn(id).state(), State::Established);
    assert_eq!(node.read(id, 10), b"hello");
}

#[test]
fn a_hundred_thousand_syns_take_bounded_memory_and_a_client_still_connects() {
    let mut node = listening();
    let mut random = Random::new(42);
    let most = flood(&mut node, 50_000, &mut random);
    let answers = exchange(&mut node, CLIENT, syn(4000, 100), &[]);
    flood(&mut node, 50_000, &mut random);
    assert!(node.demux.syn_cache.len() <= 128);
    assert!(most < 24_000, "{most} bytes");
    let ack = header(4000, 101, answers[0].seq.0.wrapping_add(1), ACK);
    exchange(&mut node, CLIENT, ack, b"GET /");
    let id = node.accepted.pop_front().expect("the client's connection");
    assert_eq!(node.read(id, 10), b"GET /");
    assert_eq!(node.conn(id).tcb.mss(), 1460);
    assert_eq!(
        node.conn(id).tcb.snd_shift,
        7,
        "a cookie remembers the window shift"
    );
    assert_eq!(node.demux.syn_cache.cookies_good, 1);
}

#[test]
fn a_made_up_cookie_is_reset_and_makes_nothing() {
    let mut node = listening();
    let mut random = Random::new(43);
    flood(&mut node, 200, &mut random);
    for _ in 0..1000 {
        let guess = header(4000, random.next() as u32, random.next() as u32, ACK);
        exchange(&mut node, CLIENT, guess, b"x");
        node.now += 10_000_000;
    }
    assert_eq!(node.demux.connections(), 0);
}

#[test]
fn without_a_flood_no_cookie_is_believed() {
    let mut node = listening();
    let mut random = Random::new(44);
    flood(&mut node, 200, &mut random);
    let answers = exchange(&mut node, CLIENT, syn(4000, 100), &[]);
    node.now += 200_000_000_000;
    let ack = header(4000, 101, answers[0].seq.0.wrapping_add(1), ACK);
    let answers = exchange(&mut node, CLIENT, ack, &[]);
    assert_eq!(answers[0].control, RST);
    assert_eq!(node.demux.connections(), 0);
}

#[test]
fn a_half_open_connection_is_answered_again_and_forgotten() {
    let mut node = listening();
    exchange(&mut node, CLIENT, syn(4000, 100), &[]);
    let mut answers = 0;
    while let Some(at) = node.demux.deadline() {
        node.poll(at.as_nanos());
        answers += node.out.drain(..).count();
    }
    assert_eq!((answers, node.demux.memory_bytes()), (3, 0));
}

#[test]
fn a_socket_that_listens_no_more_takes_what_it_had_in_the_making_along() {
    let mut node = Node::new(CONFIG);
    let ours = core::net::IpAddr::V4(OURS);
    let id = node.demux.ports.bind(ours, 80, false).unwrap();
    node.demux.ports.listen(id, ());
    node.listen(81);
    let mut random = Random::new(45);
    flood(&mut node, 60, &mut random);
    let other = Header {
        destination: 81,
        ..syn(4000, 100)
    };
    exchange(&mut node, CLIENT, other, &[]);
    node.demux.unbind(id);
    assert_eq!(node.demux.syn_cache.len(), 1);
}

#[test]
fn a_syn_that_comes_again_gets_the_same_answer() {
    let mut node = listening();
    let first = exchange(&mut node, CLIENT, syn(4000, 100), &[]);
    let second = exchange(&mut node, CLIENT, syn(4000, 100), &[]);
    assert_eq!(first, second);
    assert_eq!(node.demux.syn_cache.len(), 1);
}

#[test]
fn only_the_exact_reset_ends_a_connection_in_the_making() {
    let mut node = listening();
    exchange(&mut node, CLIENT, syn(4000, 100), &[]);
    assert!(exchange(&mut node, CLIENT, header(4000, 5_000_000, 0, RST), &[]).is_empty());
    assert_eq!(
        exchange(&mut node, CLIENT, header(4000, 150, 0, RST), &[])[0].control,
        ACK
    );
    assert_eq!(node.demux.syn_cache.len(), 1);
    assert!(exchange(&mut node, CLIENT, header(4000, 101, 0, RST), &[]).is_empty());
    assert_eq!(node.demux.syn_cache.len(), 0);
}

#[test]
fn a_full_queue_leaves_the_client_waiting_and_serves_it_later() {
    let mut node = listening();
    let answers = exchange(&mut node, CLIENT, syn(4000, 100), &[]);
    node.backlog = 0;
    assert!(exchange(&mut node, CLIENT, header(4001, 5, 0, SYN), &[]).is_empty());
    let ack = header(4000, 101, answers[0].seq.0.wrapping_add(1), ACK);
    exchange(&mut node, CLIENT, ack, b"data");
    assert_eq!(node.demux.connections(), 0);
    node.backlog = 1;
    exchange(&mut node, CLIENT, ack, b"data");
    assert_eq!(node.demux.connections(), 1);
}

#[test]
fn segments_to_nobody_are_reset_but_not_without_end() {
    let mut node = Node::new(CONFIG);
    let closed = exchange(&mut node, CLIENT, header(4000, 7, 0, SYN), &[]);
    assert_eq!((closed[0].control, closed[0].ack), (RST | ACK, Seq(8)));
    let closed = exchange(&mut node, CLIENT, header(4000, 7, 99, ACK), b"abc");
    assert_eq!((closed[0].control, closed[0].seq), (RST, Seq(99)));
    assert!(exchange(&mut node, CLIENT, header(4000, 7, 0, RST), &[]).is_empty());
    let answers: usize = (0..10_000)
        .map(|n| exchange(&mut node, CLIENT, header(4000, n, 0, SYN), &[]).len())
        .sum();
    assert!(answers <= 500);
}

#[test]
fn nonsense_to_a_listening_socket_makes_nothing() {
    let mut node = listening();
    for bits in 0..=255u8 {
        let control = Control::from_bits_retain(bits);
        let plain = control & (SYN | ACK | RST | Control::FIN) == SYN;
        let answers = exchange(&mut node, CLIENT, header(4000, 100, 100, control), b"x");
        assert_eq!(
            node.demux.syn_cache.len(),
            usize::from(plain),
            "{control:?}"
        );
        if plain {
            assert_eq!(answers[0].control, SYN | ACK);
            exchange(&mut node, CLIENT, header(4000, 101, 0, RST), &[]);
        }
    }
    assert_eq!(node.demux.connections(), 0);
}

/// A connection that was served and closed by us: it is in TIME-WAIT. Answers our last number.
fn lingering(node: &mut Node) -> u32 {
    let answers = exchange(node, CLIENT, syn(4000, 100), &[]);
    let next = answers[0].seq.0.wrapping_add(1);
    exchange(node, CLIENT, header(4000, 101, next, ACK), &[]);
    let id = node.accepted.pop_front().unwrap();
    node.close(id);
    node.out.clear();
    exchange(
        node,
        CLIENT,
        header(4000, 101, next.wrapping_add(1), ACK | Control::FIN),
        &[],
    );
    assert_eq!(
        (node.demux.time_wait.len(), node.demux.connections()),
        (1, 0)
    );
    next.wrapping_add(1)
}

#[test]
fn time_wait_answers_a_fin_that_comes_again() {
    let mut node = listening();
    let next = lingering(&mut node);
    node.now += 50_000_000_000;
    let answers = exchange(
        &mut node,
        CLIENT,
        header(4000, 101, next, ACK | Control::FIN),
        &[],
    );
    assert_eq!(
        (answers[0].control, answers[0].seq, answers[0].ack),
        (ACK, Seq(next), Seq(102))
    );
    node.poll(node.now + 30_000_000_000);
    assert_eq!(node.demux.time_wait.len(), 1, "its time started over");
    node.poll(node.now + 31_000_000_000);
    assert_eq!(node.demux.memory_bytes(), 0);
}

#[test]
fn time_wait_is_not_assassinated_by_a_reset() {
    let mut node = listening();
    let next = lingering(&mut node);
    assert!(exchange(&mut node, CLIENT, header(4000, 102, next, RST), &[]).is_empty());
    assert!(exchange(&mut node, CLIENT, header(4000, 102, next, ACK), &[]).is_empty());
    assert_eq!(node.demux.time_wait.len(), 1);
}

#[test]
fn a_later_syn_reopens_from_time_wait_beyond_the_old_numbers() {
    let mut node = listening();
    let next = lingering(&mut node);
    assert_eq!(
        exchange(&mut node, CLIENT, syn(4000, 50), &[])[0].control,
        ACK,
        "an old SYN"
    );
    let answers = exchange(&mut node, CLIENT, syn(4000, 5000), &[]);
    assert_eq!(answers[0].control, SYN | ACK);
    assert!(answers[0].seq.after(Seq(next)));
    assert_eq!(node.demux.time_wait.len(), 0);
}

#[test]
fn ports_chosen_for_us_differ_and_are_not_in_use() {
    let mut node = Node::new(CONFIG);
    let mut ports: Vec<u16> = (0..500)
        .map(|_| {
            let id = node.connect(80);
            node.conn(id).tuple.local_port
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 500);
    assert!(ports[0] >= 49152);
}
