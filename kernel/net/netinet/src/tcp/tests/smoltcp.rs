//! Our node against smoltcp over a link, in virtual time.

use super::link::{Link, Random, Weather};
use super::node::{CONFIG, Node, OURS, THEIRS};
use crate::tcp::tcb::{Config, State};
use ::smoltcp::iface::{self, Interface, SocketHandle, SocketSet};
use ::smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use ::smoltcp::socket::tcp;
use ::smoltcp::time;
use ::smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

/// The far end's interface: two queues.
#[derive(Default)]
struct Wire {
    inbound: VecDeque<Vec<u8>>,
    outbound: VecDeque<Vec<u8>>,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: time::Instant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.inbound.pop_front()?), Tx(&mut self.outbound)))
    }

    fn transmit(&mut self, _: time::Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

/// Both ends and the link between.
struct World {
    now: u64,
    node: Node,
    wire: Wire,
    iface: Interface,
    sockets: SocketSet<'static>,
    there: Link,
    back: Link,
}

fn moment(nanos: u64) -> time::Instant {
    time::Instant::from_micros((nanos / 1000) as i64)
}

impl World {
    fn new(config: Config, weather: Weather, seed: u64) -> World {
        let mut wire = Wire::default();
        let mut settings = iface::Config::new(HardwareAddress::Ip);
        settings.random_seed = seed;
        let mut iface = Interface::new(settings, &mut wire, moment(1_000_000_000));
        iface.update_ip_addrs(|addrs| {
            addrs
                .push(IpCidr::new(IpAddress::Ipv4(THEIRS), 24))
                .unwrap();
        });
        World {
            now: 1_000_000_000,
            node: Node::new(config),
            wire,
            iface,
            sockets: SocketSet::new(Vec::new()),
            there: Link::new(weather, seed),
            back: Link::new(weather, seed + 1000),
        }
    }

    fn socket(&mut self, buffer: usize) -> SocketHandle {
        let rx = tcp::SocketBuffer::new(vec![0; buffer]);
        let tx = tcp::SocketBuffer::new(vec![0; buffer]);
        self.sockets.add(tcp::Socket::new(rx, tx))
    }

    fn listen(&mut self, port: u16, buffer: usize) -> SocketHandle {
        let handle = self.socket(buffer);
        self.theirs(handle).listen(port).unwrap();
        handle
    }

    fn connect(&mut self, port: u16, buffer: usize, local_port: u16) -> SocketHandle {
        let handle = self.socket(buffer);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let remote = (IpAddress::Ipv4(OURS), port);
        socket
            .connect(self.iface.context(), remote, local_port)
            .unwrap();
        handle
    }

    fn theirs(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut::<tcp::Socket<'_>>(handle)
    }

    /// Moves packets and time on to the next thing that happens; false if nothing ever will.
    fn step(&mut self) -> bool {
        self.iface
            .poll(moment(self.now), &mut self.wire, &mut self.sockets);
        self.node.poll(self.now);
        while let Some(packet) = self.node.out.pop_front() {
            self.there.send(self.now, packet);
        }
        while let Some(packet) = self.wire.outbound.pop_front() {
            self.back.send(self.now, packet);
        }
        let theirs = self
            .iface
            .poll_at(moment(self.now), &self.sockets)
            .map(|at| (at.total_micros() as u64) * 1000);
        let next = [
            theirs,
            self.node.deadline(),
            self.there.next_arrival(),
            self.back.next_arrival(),
        ];
        let Some(next) = next.into_iter().flatten().min() else {
            return false;
        };
        self.now = next.max(self.now + 1000);
        while let Some(packet) = self.there.receive(self.now) {
            self.wire.inbound.push_back(packet);
        }
        while let Some(packet) = self.back.receive(self.now) {
            self.node.receive(self.now, &packet);
        }
        true
    }

    fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let limit = self.now + 3_600_000_000_000;
        let mut idle = 0;
        while !done(self) {
            // What `done` did may have set things going again.
            idle = if self.step() { 0 } else { idle + 1 };
            assert!(idle < 3, "nothing happens any more, waiting for: {what}");
            assert!(self.now < limit, "an hour went by, waiting for: {what}");
        }
    }
}

impl World {
    /// Lets time pass.
    fn sleep(&mut self, nanos: u64) {
        let wake = self.now + nanos;
        while self.now < wake && self.step() {}
        self.now = self.now.max(wake);
    }
}

fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

/// We open; both send `len` bytes at once; both close. Contents are compared.
fn exchange(config: Config, weather: Weather, len: usize, seed: u64) -> u64 {
    let mut world = World::new(config, weather, seed);
    let handle = world.listen(80, 65_535);
    let id = world.node.connect(80);
    world.run_until("the handshake", |w| w.node.conn(id).connected);
    let (ours, theirs) = (content(len, seed), content(len, seed + 1));
    let (mut sent, mut got_by_them, mut got_by_us) = (0, Vec::new(), Vec::new());
    let start = world.now;
    let mut to_write = 0;
    world.run_until("both to receive all", |w| {
        if to_write < len && w.node.conn(id).send.len() < 64 << 10 {
            let end = (to_write + 8192).min(len);
            w.node.write(id, &ours[to_write..end]);
            to_write = end;
        }
        got_by_us.extend(w.node.read(id, usize::MAX));
        let socket = w.theirs(handle);
        while sent < len && socket.can_send() {
            sent += socket.send_slice(&theirs[sent..]).unwrap();
        }
        while socket.can_recv() {
            socket
                .recv(|data| (data.len(), got_by_them.extend_from_slice(data)))
                .unwrap();
        }
        got_by_them.len() == len && got_by_us.len() == len
    });
    let took = world.now - start;
    assert!(
        got_by_them == ours && got_by_us == theirs,
        "contents differ, seed {seed}"
    );
    world.node.close(id);
    world.theirs(handle).close();
    world.run_until("both to close", |w| {
        w.node.conn(id).closed && !w.theirs(handle).is_open()
            || w.node.conn(id).closed && w.theirs(handle).state() == tcp::State::TimeWait
    });
    assert_eq!(world.node.conn(id).error, None, "seed {seed}");
    assert_eq!(world.node.conn(id).tcb.reassembly_bytes(), 0);
    assert_eq!(world.node.demux.connections(), 0);
    took
}

#[test]
fn bulk_both_ways_over_a_fair_link() {
    exchange(CONFIG, Weather::FAIR, 1 << 20, 1);
}

#[test]
fn bulk_both_ways_over_links_that_lose_reorder_and_double() {
    for seed in 1..=12 {
        exchange(CONFIG, Weather::FOUL, 200_000, seed);
    }
}

#[test]
fn bulk_survives_a_third_of_all_packets_lost() {
    let storm = Weather {
        loss: 30,
        ..Weather::FOUL
    };
    for seed in 1..=3 {
        exchange(CONFIG, storm, 20_000, seed);
    }
}

#[test]
fn bulk_without_window_scaling_and_with_small_segments() {
    let config = Config {
        mss: 256,
        receive_bytes: 4096,
        receive_max: 4096,
        ..CONFIG
    };
    for seed in 1..=3 {
        exchange(config, Weather::FOUL, 100_000, seed);
    }
}

#[test]
fn they_connect_ask_and_get_an_answer_and_we_close_first() {
    for seed in 1..=10 {
        let mut world = World::new(CONFIG, Weather::FOUL, seed);
        world.node.listen(80);
        let handle = world.connect(80, 16_384, 4000 + seed as u16);
        world.run_until("the connection", |w| !w.node.accepted.is_empty());
        let id = world.node.accepted.pop_front().unwrap();
        world.run_until("their socket", |w| w.theirs(handle).can_send());
        world
            .theirs(handle)
            .send_slice(b"GET / HTTP/1.1\r\n\r\n")
            .unwrap();
        let mut request = Vec::new();
        world.run_until("the request", |w| {
            request.extend(w.node.read(id, usize::MAX));
            request.ends_with(b"\r\n\r\n")
        });
        let answer = content(50_000, seed);
        world.node.write(id, &answer);
        world.node.close(id);
        let mut got = Vec::new();
        world.run_until("the answer and the end of it", |w| {
            let socket = w.theirs(handle);
            while socket.can_recv() {
                socket
                    .recv(|data| (data.len(), got.extend_from_slice(data)))
                    .unwrap();
            }
            !socket.may_recv()
        });
        assert!(got == answer, "contents differ, seed {seed}");
        world.theirs(handle).close();
        world.run_until("TIME-WAIT", |w| w.node.conn(id).closed);
        assert_eq!(world.node.demux.time_wait.len(), 1, "seed {seed}");
        assert_eq!(world.node.demux.connections(), 0, "seed {seed}");
        world.run_until("the end of TIME-WAIT", |w| {
            w.node.demux.time_wait.is_empty()
        });
        assert_eq!(world.node.demux.memory_bytes(), 0, "seed {seed}");
    }
}

#[test]
fn a_reader_that_sleeps_closes_the_window_and_loses_nothing() {
    let mut world = World::new(CONFIG, Weather::FOUL, 5);
    let handle = world.listen(80, 4096);
    let id = world.node.connect(80);
    world.run_until("the handshake", |w| w.node.conn(id).connected);
    let data = content(40_000, 5);
    world.node.write(id, &data);
    let mut got = Vec::new();
    while got.len() < data.len() {
        // Their window is closed most of the time.
        world.sleep(10_000_000_000);
        let socket = world.theirs(handle);
        while socket.can_recv() {
            socket
                .recv(|data| (data.len(), got.extend_from_slice(data)))
                .unwrap();
        }
    }
    assert!(got == data);
}

#[test]
fn we_as_a_sleeping_reader_close_the_window_and_lose_nothing() {
    let config = Config {
        receive_bytes: 4096,
        receive_max: 4096,
        ..CONFIG
    };
    let mut world = World::new(config, Weather::FOUL, 6);
    let handle = world.listen(80, 65_535);
    let id = world.node.connect(80);
    world.run_until("the handshake", |w| w.node.conn(id).connected);
    let data = content(40_000, 6);
    world.run_until("their side", |w| w.theirs(handle).can_send());
    world.theirs(handle).send_slice(&data).unwrap();
    let mut got = Vec::new();
    while got.len() < data.len() {
        world.sleep(10_000_000_000);
        assert!(world.node.conn(id).received.len() <= 4096);
        got.extend(world.node.read(id, usize::MAX));
    }
    assert!(got == data);
}

#[test]
fn a_thousand_connections_opened_and_closed_leave_nothing() {
    let mut world = World::new(CONFIG, Weather::FAIR, 9);
    world.node.listen(80);
    world.node.backlog = 1000;
    for round in 0..20u16 {
        let handles: Vec<_> = (0..50)
            .map(|i| world.connect(80, 512, 10_000 + round * 50 + i))
            .collect();
        world.run_until("fifty connections", |w| w.node.accepted.len() == 50);
        let ids: Vec<_> = world.node.accepted.drain(..).collect();
        for &id in &ids {
            world.node.write(id, b"hello");
            world.node.close(id);
        }
        world.run_until("fifty answers", |w| {
            let mut open = 0;
            for &handle in &handles {
                let socket = w.theirs(handle);
                let _ = socket.recv(|data| (data.len(), ()));
                if !socket.may_recv() && socket.may_send() {
                    socket.close();
                }
                open += usize::from(socket.state() != tcp::State::Closed);
            }
            open == 0
        });
        for id in ids {
            let conn = world.node.conns.remove(&id).unwrap();
            assert_eq!((conn.state(), conn.error), (State::TimeWait, None));
        }
        handles
            .into_iter()
            .for_each(|handle| drop(world.sockets.remove(handle)));
    }
    assert_eq!(world.node.demux.connections(), 0);
    assert!(
        world.node.demux.time_wait.len() <= 256,
        "TIME-WAIT is bounded"
    );
    world.run_until("the end of TIME-WAIT", |w| {
        w.node.demux.time_wait.is_empty()
    });
    assert_eq!(world.node.demux.memory_bytes(), 0);
}

#[test]
fn a_refused_connection_says_so() {
    let mut world = World::new(CONFIG, Weather::FAIR, 3);
    let id = world.node.connect(81);
    world.run_until("the refusal", |w| w.node.conn(id).closed);
    assert_eq!(
        world.node.conn(id).error,
        Some(rumpuser::Errno::ECONNREFUSED)
    );
}

#[test]
fn fast_retransmit_keeps_a_lossy_link_busy() {
    // One packet in a hundred lost, 10 ms round trip: without fast retransmit each loss costs a time-out.
    let weather = Weather {
        loss: 1,
        doubling: 0,
        delay: 5_000_000,
        jitter: 0,
    };
    let took = exchange(CONFIG, weather, 1 << 20, 21);
    assert!(
        took < 8_000_000_000,
        "a megabyte each way took {} ms",
        took / 1_000_000
    );
}
