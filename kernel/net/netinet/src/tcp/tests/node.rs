//! A stack of nothing but TCP: tables, connections and buffers, as `usrreq.rs` joins them to sockets.

use super::super::demux::{Demux, Limits, Secrets, Verdict};
use super::super::header::{HEADER_MAX, Header};
use super::super::tcb::{Config, Events, Outcome, State, Tcb};
use super::super::tuple::Tuple;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use rumpuser::{Errno, Instant};

pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

pub const CONFIG: Config = Config {
    mss: 1460,
    receive_bytes: 32 << 10,
    receive_max: 256 << 10,
    offload_bytes: 0,
    no_delay: false,
    keepalive: None,
};

/// A connection with its buffers.
pub struct Conn {
    pub tuple: Tuple,
    pub tcb: Tcb<Vec<u8>>,
    pub send: VecDeque<u8>,
    pub received: VecDeque<u8>,
    pub connected: bool,
    pub eof: bool,
    pub error: Option<Errno>,
    pub closed: bool,
}

/// The stack.
pub struct Node {
    pub now: u64,
    pub config: Config,
    pub demux: Demux<usize, ()>,
    pub conns: BTreeMap<usize, Conn>,
    pub backlog: usize,
    pub accepted: VecDeque<usize>,
    pub out: VecDeque<Vec<u8>>,
    next: usize,
}

impl Node {
    pub fn new(config: Config) -> Node {
        let secrets = Secrets {
            table: [1; 16],
            isn: [2; 16],
            cookie: [3; 16],
            port: [4; 16],
        };
        Node {
            now: 1_000_000_000,
            config,
            demux: Demux::new(
                &secrets,
                Limits {
                    syn_cache: 128,
                    time_wait: 256,
                },
            ),
            conns: BTreeMap::new(),
            backlog: 16,
            accepted: VecDeque::new(),
            out: VecDeque::new(),
            next: 0,
        }
    }

    pub fn instant(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    pub fn listen(&mut self, port: u16) {
        let id = self
            .demux
            .ports
            .bind(IpAddr::V4(OURS), port, false)
            .unwrap();
        self.demux.ports.listen(id, ());
    }

    pub fn connect(&mut self, port: u16) -> usize {
        let id = self.next;
        self.next += 1;
        let wanted = Tuple {
            local: IpAddr::V4(OURS),
            local_port: 0,
            remote_port: port,
            remote: IpAddr::V4(THEIRS),
        };
        let (tuple, iss) = self.demux.open(self.instant(), wanted, id).unwrap();
        let tcb = Tcb::connect(&self.config, iss, self.instant());
        self.conns.insert(id, Conn::new(tuple, tcb));
        self.output(id);
        id
    }

    pub fn conn(&mut self, id: usize) -> &mut Conn {
        self.conns.get_mut(&id).unwrap()
    }

    pub fn write(&mut self, id: usize, bytes: &[u8]) {
        let conn = self.conn(id);
        conn.send.extend(bytes);
        if conn.tcb.send(bytes.len() as u32, false) {
            self.output(id);
        }
    }

    pub fn read(&mut self, id: usize, most: usize) -> Vec<u8> {
        let conn = self.conn(id);
        let len = conn.received.len().min(most);
        let bytes: Vec<u8> = conn.received.drain(..len).collect();
        if conn.tcb.consumed(len as u32) {
            self.output(id);
        }
        bytes
    }

    pub fn close(&mut self, id: usize) {
        let now = self.instant();
        let outcome = self.conn(id).tcb.close(now);
        self.settle(id, outcome);
    }

    /// When `poll` must be called next.
    pub fn deadline(&self) -> Option<u64> {
        let conns = self.conns.values().filter_map(|conn| conn.tcb.deadline());
        conns
            .chain(self.demux.deadline())
            .min()
            .map(Instant::as_nanos)
    }

    pub fn poll(&mut self, now: u64) {
        self.now = now;
        let due: Vec<usize> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.tcb.deadline().is_some_and(|at| at.as_nanos() <= now))
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            let outcome = self.conn(id).tcb.on_timer(Instant::from_nanos(now));
            self.settle(id, outcome);
        }
        while let Some((tuple, header)) = self.demux.on_timer(Instant::from_nanos(now)) {
            self.emit(&tuple, header, &[]);
        }
    }

    /// Takes in an IPv4 packet.
    pub fn receive(&mut self, now: u64, packet: &[u8]) {
        self.now = now;
        let (ip, segment) = packet.split_at(20);
        assert_eq!(ip[0], 0x45);
        let source = Ipv4Addr::from_octets(*ip[12..].first_chunk().unwrap());
        if tcp_sum(source, OURS, segment) != 0xffff {
            return;
        }
        let Ok((header, header_bytes)) = Header::parse(segment) else {
            return;
        };
        let tuple = Tuple {
            local: IpAddr::V4(OURS),
            local_port: header.destination,
            remote_port: header.source,
            remote: IpAddr::V4(source),
        };
        self.segment(tuple, &header, &segment[header_bytes..]);
    }

    pub fn segment(&mut self, tuple: Tuple, header: &Header, payload: &[u8]) {
        let now = self.instant();
        let verdict = self
            .demux
            .classify(now, &tuple, header, payload.len() as u32, &self.config);
        match verdict {
            Verdict::Connection(id) => self.input(id, header, payload),
            Verdict::Syn((), floor) => {
                if self.accepted.len() < self.backlog {
                    let config = self.config;
                    let reply = self.demux.answer_syn(now, &tuple, header, &config, floor);
                    self.emit(&tuple, reply, &[]);
                }
            }
            Verdict::Complete((), handshake) => {
                if self.accepted.len() >= self.backlog {
                    return;
                }
                let id = self.next;
                self.next += 1;
                self.demux.establish(tuple, id).unwrap();
                let tcb = Tcb::accept(&self.config, &handshake, now);
                self.conns.insert(id, Conn::new(tuple, tcb));
                self.input(id, header, payload);
                if self.conns.contains_key(&id) {
                    self.accepted.push_back(id);
                }
            }
            Verdict::Reply(reply) => self.emit(&tuple, reply, &[]),
            Verdict::Drop => {}
        }
    }

    fn input(&mut self, id: usize, header: &Header, payload: &[u8]) {
        let now = self.instant();
        let conn = self.conns.get_mut(&id).unwrap();
        let received = &mut conn.received;
        let outcome = conn.tcb.input(now, header, payload.to_vec(), &mut |data| {
            received.extend(data);
            true
        });
        self.settle(id, outcome);
    }

    fn settle(&mut self, id: usize, outcome: Outcome) {
        let conn = self.conns.get_mut(&id).unwrap();
        conn.send.drain(..outcome.acked as usize);
        conn.connected |= outcome.events.contains(Events::CONNECTED);
        conn.eof |= outcome.events.contains(Events::EOF);
        conn.error = conn.error.or(outcome.error);
        let tuple = conn.tuple;
        if let Some(reply) = outcome.reply {
            self.emit(&tuple, reply, &[]);
        }
        if outcome.events.contains(Events::OUTPUT) {
            self.output(id);
        }
        let now = self.instant();
        let conn = self.conns.get_mut(&id).unwrap();
        if outcome.events.contains(Events::TIME_WAIT) {
            conn.closed = true;
            let numbers = conn.tcb.next_numbers();
            self.demux.linger(now, &tuple, numbers);
        }
        if outcome.events.contains(Events::CLOSED) {
            conn.closed = true;
            self.demux.remove(&tuple);
        }
    }

    fn output(&mut self, id: usize) {
        let now = self.instant();
        let conn = self.conns.get_mut(&id).unwrap();
        let tuple = conn.tuple;
        let mut emits = Vec::new();
        while let Some(emit) = conn.tcb.poll_transmit(now) {
            let range = emit.offset as usize..(emit.offset + emit.len) as usize;
            let data: Vec<u8> = conn.send.range(range).copied().collect();
            emits.push((emit.header, data));
        }
        for (header, data) in emits {
            self.emit(&tuple, header, &data);
        }
    }

    fn emit(&mut self, tuple: &Tuple, mut header: Header, data: &[u8]) {
        header.source = tuple.local_port;
        header.destination = tuple.remote_port;
        let IpAddr::V4(to) = tuple.remote else {
            panic!("an IPv4 test")
        };
        self.out.push_back(packet(OURS, to, &header, data));
    }
}

impl Conn {
    fn new(tuple: Tuple, tcb: Tcb<Vec<u8>>) -> Conn {
        Conn {
            tuple,
            tcb,
            send: VecDeque::new(),
            received: VecDeque::new(),
            connected: false,
            eof: false,
            error: None,
            closed: false,
        }
    }

    pub fn state(&self) -> State {
        self.tcb.state()
    }
}

/// An IPv4 packet with a TCP segment, its checksums right.
pub fn packet(from: Ipv4Addr, to: Ipv4Addr, header: &Header, data: &[u8]) -> Vec<u8> {
    let mut segment = [0u8; HEADER_MAX].to_vec();
    let header_bytes = header.emit(&mut segment);
    segment.truncate(header_bytes);
    segment.extend(data);
    let sum = !tcp_sum(from, to, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let total = (20 + segment.len()) as u16;
    let mut packet = Vec::new();
    packet.extend([0x45, 0]);
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = !ones_sum(&packet, 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(segment);
    packet
}

fn tcp_sum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let pseudo = [from.octets(), to.octets()].concat();
    let start = u32::from(ones_sum(&pseudo, 0)) + 6 + segment.len() as u32;
    ones_sum(segment, start)
}

fn ones_sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}
