//! TCP segments to a kernel with a socket that listens and with connections, and what users do meanwhile.
//!
//! An input is a row of steps, each a byte that says what, and its fields. Sequence numbers are counted from where the
//! connection stands, as an attacker who sees the traffic would; so little is wasted on what is dropped at the door.
//!
//! What must hold: no panic; no segment causes a storm; every buffer comes back when all is closed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rumpkern::uvm::{Cluster, SmallBuffer};
use rumpnet::protocol::{ProtoOption, SockType};
use rumpnet::socket::{MsgFlags, SockOption, Socket};
use rumpnet_netinet::tcp::header::Header;

use crate::input::Input;
use crate::machine::attach;
use crate::wire::{ETHER, IP, OUR_IP, PEER_IP, Wire, addr, ipv4, set_checksums};

/// Steps of a run.
const MOST_STEPS: usize = 60;
/// Sockets that a user of ours holds.
const MOST_SOCKETS: usize = 6;
/// Ports of the other end's.
const PEER_PORTS: [u16; 4] = [5000, 5001, 5002, 7];
/// Ours that somebody listens at, and one that nobody does.
const OUR_PORTS: [u16; 4] = [80, 80, 80, 81];

/// Where a connection stands, by what we sent: our next number, and the one that we expect.
#[derive(Clone, Copy, Default)]
struct Stands {
    next: u32,
    expected: u32,
}

/// A run.
struct Play {
    wire: Wire,
    listener: Arc<Socket>,
    sockets: Vec<Arc<Socket>>,
    /// By our port and theirs.
    stands: BTreeMap<(u16, u16), Stands>,
    /// The port of ours that last sent.
    last_port: u16,
}

impl Play {
    fn new() -> Play {
        let wire = Wire::new();
        let listener = wire.socket(SockType::Stream);
        listener.bind(addr(OUR_IP, 80)).expect("it is free");
        listener.listen(3).expect("it is bound");
        Play {
            wire,
            listener,
            sockets: Vec::new(),
            stands: BTreeMap::new(),
            last_port: 80,
        }
    }

    /// Notes what we sent.
    fn note(&mut self) {
        for frame in self.wire.take() {
            let Some(segment) = frame.get(ETHER + IP..).filter(|_| frame[23] == 6) else {
                continue;
            };
            let (header, at) = Header::parse(segment).expect("what we send is well-formed");
            let length = header.sequence_len((segment.len() - at) as u32);
            let ports = (header.source, header.destination);
            self.last_port = header.source;
            self.stands.insert(
                ports,
                Stands {
                    next: header.seq.0.wrapping_add(length),
                    expected: header.ack.0,
                },
            );
        }
    }

    /// A segment of the other end's.
    fn segment(&mut self, input: &mut Input<'_>) {
        let from = input.one_of(&PEER_PORTS);
        let to = match input.u8() {
            n if n & 0x80 == 0 => OUR_PORTS[usize::from(n) % OUR_PORTS.len()],
            _ => self.last_port,
        };
        let stands = self.stands.get(&(to, from)).copied().unwrap_or_default();
        let (seq, ack) = (input.u16(), input.u16());
        let seq = number(stands.expected, seq);
        let ack = number(stands.next, ack);
        let (flags, window) = (input.u8(), input.u16());
        let shape = input.u8();
        let options = input.bytes(usize::from(shape & 7) * 4);
        let length = [0, 1, 10, 536, 1000, 1460, 3, 100][usize::from(shape >> 3 & 7)];
        let mut segment = Vec::with_capacity(60 + length);
        segment.extend(from.to_be_bytes());
        segment.extend(to.to_be_bytes());
        segment.extend(seq.to_be_bytes());
        segment.extend(ack.to_be_bytes());
        let words = 5 + options.len().div_ceil(4);
        segment.extend([(words as u8) << 4, flags]);
        segment.extend(window.to_be_bytes());
        segment.extend([0, 0, 0, 0]);
        segment.extend(options);
        segment.resize(words * 4, 0);
        segment.resize(words * 4 + length, 0x2e);
        let mut frame = ipv4(6, 1, 0, &segment);
        // One in four has a wrong sum.
        if shape >> 6 != 3 {
            set_checksums(&mut frame);
        }
        self.wire.put(&frame);
    }

    /// Bytes that call themselves a segment.
    fn garbage(&mut self, input: &mut Input<'_>) {
        let length = usize::from(input.u8());
        let mut frame = ipv4(6, 2, 0, input.bytes(length));
        set_checksums(&mut frame);
        self.wire.put(&frame);
    }

    /// A router, or whoever says that it is one, complains about a packet of ours.
    fn complaint(&mut self, input: &mut Input<'_>) {
        let (from, to) = (input.one_of(&PEER_PORTS), self.last_port);
        let stands = self.stands.get(&(to, from)).copied().unwrap_or_default();
        let mut message = vec![3, input.u8() % 16, 0, 0, 0, 0];
        message.extend(input.u16().to_be_bytes());
        message.extend([0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0]);
        message.extend(OUR_IP.octets());
        message.extend(PEER_IP.octets());
        message.extend(to.to_be_bytes());
        message.extend(from.to_be_bytes());
        message.extend(number(stands.next, input.u16()).to_be_bytes());
        let mut frame = ipv4(1, 3, 0, &message);
        set_checksums(&mut frame);
        self.wire.put(&frame);
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let kind = input.u8();
        match kind % 16 {
            0..=7 => self.segment(input),
            8 => self.garbage(input),
            9 => self.complaint(input),
            10 => self.open(input),
            _ => self.user(kind % 16, input),
        }
        self.note();
    }

    /// A socket more: one that was connected to, or one that connects.
    fn open(&mut self, input: &mut Input<'_>) {
        if self.sockets.len() == MOST_SOCKETS {
            return;
        }
        if let Ok((socket, _)) = self.listener.accept() {
            socket.set_nonblocking(true);
            return self.sockets.push(socket);
        }
        let socket = self.wire.socket(SockType::Stream);
        // EINPROGRESS, or why it cannot be.
        let _ = socket.connect(addr(PEER_IP, input.one_of(&PEER_PORTS)));
        self.sockets.push(socket);
    }

    /// Something that a user does to a socket. Whether it can be done depends on its state.
    fn user(&mut self, kind: u8, input: &mut Input<'_>) {
        let (which, amount) = (usize::from(input.u8()), input.u8());
        if self.sockets.is_empty() {
            return;
        }
        let at = which % self.sockets.len();
        let socket = &self.sockets[at];
        match kind {
            11 => {
                let mut bytes = vec![0; usize::from(amount) * 16];
                let _ = socket.receive(&mut bytes, MsgFlags::empty());
            }
            12 => {
                let bytes = vec![0x55; usize::from(amount) * 64];
                let _ = socket.send(&bytes, None, MsgFlags::empty());
            }
            13 => {
                let _ = socket.shutdown(amount & 1 != 0, amount & 2 != 0);
            }
            14 => self.sockets.remove(at).close(),
            _ => {
                let option = match amount % 4 {
                    0 => SockOption::Protocol(ProtoOption::TcpNodelay(amount & 4 != 0)),
                    1 => SockOption::KeepAlive(amount & 4 != 0),
                    2 => SockOption::RcvBuf(usize::from(amount) << 6),
                    _ => SockOption::SndBuf(usize::from(amount) << 6),
                };
                let _ = socket.set_option(option);
            }
        }
    }

    /// Closes everything.
    fn end(self) {
        for socket in &self.sockets {
            socket.close();
        }
        while let Ok((socket, _)) = self.listener.accept() {
            socket.close();
        }
        self.listener.close();
        self.wire.take();
    }
}

/// A sequence number near `base`, or far from it: the upper two bits choose how far a step goes.
fn number(base: u32, offset: u16) -> u32 {
    let by = i32::from((offset << 2) as i16) >> 2;
    let scale = [1, 1, 536, 1 << 18][usize::from(offset >> 14)];
    base.wrapping_add_signed(by.wrapping_mul(scale))
}

/// Buffers in use.
pub fn buffers() -> (usize, usize) {
    (SmallBuffer::in_use(), Cluster::in_use())
}

/// Sees that no more buffers are in use than before. The kernel's own threads may hold some for a moment.
pub fn assert_returned(before: (usize, usize)) {
    for _ in 0..200 {
        if buffers() == before {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(buffers(), before, "buffers are gone");
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let _lwp = attach();
    let before = buffers();
    let mut input = Input::new(data);
    let mut play = Play::new();
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        play.step(&mut input);
    }
    let most = PEER_PORTS.len() * 2 + MOST_SOCKETS;
    assert!(play.wire.tcp.connections() <= most, "too many connections");
    play.end();
    assert_returned(before);
}

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;
const PSH: u8 = 8;
const RST: u8 = 4;

/// The step that is a segment: ports, offsets of its numbers, flags, window, length.
fn step(from: u8, to: u8, (seq, ack): (u16, u16), flags: u8, window: u16, length: u8) -> Vec<u8> {
    let mut step = vec![0, from, to];
    step.extend(seq.to_le_bytes());
    step.extend(ack.to_le_bytes());
    step.push(flags);
    step.extend(window.to_le_bytes());
    step.push(length << 3);
    step
}

/// Inputs to start from: connections made either way, that carry data and end in each way.
pub fn seeds() -> Vec<Vec<u8>> {
    let syn = step(0, 0, (1, 0), SYN, 8000, 0);
    let ack = step(0, 0, (0, 0), ACK, 8000, 0);
    let data = step(0, 0, (0, 0), ACK | PSH, 8000, 2);
    let ahead = step(0, 0, (1000, 0), ACK, 8000, 4);
    let fin = step(0, 0, (0, 0), ACK | FIN, 8000, 0);
    let reset = step(0, 0, (0, 0), RST, 0, 0);
    let shut_window = step(0, 0, (0, 0), ACK, 0, 0);
    let (accept, read, write) = (vec![10, 0], vec![11, 0, 255], vec![12, 0, 100]);
    let (shutdown, close) = (vec![13, 0, 2], vec![14, 0, 0]);
    let established = [&syn[..], &ack, &accept].concat();
    let answer = step(0, 0x80, (100, 0), SYN | ACK, 8000, 0);
    let theirs = step(0, 0x80, (0, 0), ACK | PSH, 8000, 3);
    let mut with_options = syn.clone();
    *with_options.last_mut().expect("it has a shape") = 2;
    with_options.extend([2, 4, 2, 0, 3, 3, 7, 1]);
    let complaint = vec![9, 0, 4, 0xdc, 5, 0, 0];
    let garbage = [&[8, 24][..], &[0x13, 0x88, 0, 80, 0, 0, 0, 1], &[0; 16]].concat();
    [
        [&established[..], &data, &read, &write, &ack, &fin, &close].concat(),
        [&established[..], &ahead, &data, &data, &read, &reset].concat(),
        [
            &established[..],
            &shut_window,
            &write,
            &write,
            &ack,
            &shutdown,
            &fin,
            &ack,
        ]
        .concat(),
        [&established[..], &close, &ack, &fin, &data, &syn].concat(),
        [
            &with_options[..],
            &ack,
            &data,
            &accept,
            &garbage,
            &write,
            &complaint,
        ]
        .concat(),
        [
            &accept[..],
            &answer,
            &theirs,
            &read,
            &write,
            &theirs,
            &close,
        ]
        .concat(),
        [&syn[..], &syn, &reset, &ack, &data, &fin].concat(),
        garbage,
    ]
    .to_vec()
}
