//! smoltcp on the switch: an implementation of others, on the far side of a cable that may lose, double and
//! reorder frames.

use rumpuser_hosted::{RawPort, Switch};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// What a cable does to frames; chances in percent.
#[derive(Clone, Copy)]
pub struct Weather {
    pub loss: u64,
    pub doubling: u64,
    pub swapping: u64,
}

pub const FAIR: Weather = Weather {
    loss: 0,
    doubling: 0,
    swapping: 0,
};

/// Decides fates by a seed.
pub struct Fate(u64);

impl Fate {
    pub fn new(seed: u64) -> Fate {
        Fate(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 20) % bound
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// The cable's end.
struct Cable {
    port: RawPort,
    mac: [u8; 6],
    weather: Weather,
    fate: Fate,
    inbound: VecDeque<Vec<u8>>,
    outbound: Vec<Vec<u8>>,
}

impl Cable {
    fn pass(&mut self, frame: Vec<u8>, to: &mut VecDeque<Vec<u8>>) {
        if self.fate.percent(self.weather.loss) {
            return;
        }
        if self.fate.percent(self.weather.doubling) {
            to.push_back(frame.clone());
        }
        to.push_back(frame);
        if self.fate.percent(self.weather.swapping) && to.len() >= 2 {
            let last = to.len() - 1;
            to.swap(last, last - 1);
        }
    }

    fn exchange(&mut self) {
        let mut inbound = std::mem::take(&mut self.inbound);
        while let Some(frame) = self.port.receive() {
            if frame.starts_with(&self.mac) || frame.starts_with(&[0xff; 6]) {
                self.pass(frame, &mut inbound);
            }
        }
        self.inbound = inbound;
        let mut outbound = VecDeque::new();
        for frame in std::mem::take(&mut self.outbound) {
            self.pass(frame, &mut outbound);
        }
        outbound.iter().for_each(|frame| self.port.send(frame));
    }
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut Vec<Vec<u8>>);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Cable {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.inbound.pop_front()?), Tx(&mut self.outbound)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Tx<'_>> {
        Some(Tx(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A host of smoltcp's.
pub struct Peer {
    cable: Cable,
    iface: Interface,
    sockets: SocketSet<'static>,
    start: Instant,
}

impl Peer {
    /// Plugs one in; its last byte of address and of Ethernet address is `number`.
    pub fn new(switch: &Switch, number: u8, weather: Weather, seed: u64) -> Peer {
        let mac = [2, 0, 0, 0, 1, number];
        let mut cable = Cable {
            port: switch.raw_port(),
            mac,
            weather,
            fate: Fate::new(seed),
            inbound: VecDeque::new(),
            outbound: Vec::new(),
        };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut cable, Moment::ZERO);
        iface.update_ip_addrs(|addrs| {
            let addr = IpAddress::Ipv4(Ipv4Addr::new(10, 1, 1, number));
            addrs.push(IpCidr::new(addr, 16)).expect("room for one");
        });
        Peer {
            cable,
            iface,
            sockets: SocketSet::new(Vec::new()),
            start: Instant::now(),
        }
    }

    pub fn addr(&self) -> Ipv4Addr {
        self.iface.ipv4_addr().expect("it has one")
    }

    fn add(&mut self, buffer: usize) -> SocketHandle {
        let rx = tcp::SocketBuffer::new(vec![0; buffer]);
        let tx = tcp::SocketBuffer::new(vec![0; buffer]);
        self.sockets.add(tcp::Socket::new(rx, tx))
    }

    pub fn listen(&mut self, port: u16, buffer: usize) -> SocketHandle {
        let handle = self.add(buffer);
        self.socket(handle).listen(port).expect("it listens");
        handle
    }

    pub fn connect(&mut self, to: (Ipv4Addr, u16), from: u16, buffer: usize) -> SocketHandle {
        let handle = self.add(buffer);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let remote = (IpAddress::Ipv4(to.0), to.1);
        socket
            .connect(self.iface.context(), remote, from)
            .expect("it connects");
        handle
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut::<tcp::Socket<'_>>(handle)
    }

    /// Lets things happen once.
    pub fn poll(&mut self) {
        let now = Moment::from_micros(self.start.elapsed().as_micros() as i64);
        self.cable.exchange();
        self.iface.poll(now, &mut self.cable, &mut self.sockets);
        self.cable.exchange();
    }

    /// Lets things happen until something has.
    #[track_caller]
    pub fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Peer) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
            self.poll();
            if self.cable.inbound.is_empty() {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// Sends all of `data` and receives up to the end of the other side's.
    pub fn exchange(&mut self, handle: SocketHandle, data: &[u8]) -> Vec<u8> {
        let (mut sent, mut got) = (0, Vec::new());
        self.run_until("all sent and all received", |peer| {
            let socket = peer.socket(handle);
            if socket.can_send() && sent < data.len() {
                sent += socket.send_slice(&data[sent..]).expect("it can send");
            }
            if sent == data.len() && socket.may_send() && !data.is_empty() {
                socket.close();
            }
            while socket.can_recv() {
                let take = |bytes: &mut [u8]| (bytes.len(), got.extend_from_slice(bytes));
                socket.recv(take).expect("it can receive");
            }
            sent == data.len() && !socket.may_recv() && socket.state() != tcp::State::SynSent
        });
        got
    }
}
