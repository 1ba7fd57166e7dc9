//! smoltcp as the other end of a [`Wire`].

use super::{PEER_IP, PEER_MAC, Wire};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address};
use std::time::Duration;

/// smoltcp's network card: the other end of our wire.
pub struct Card<'a>(&'a Wire);

pub struct Received(Vec<u8>);
pub struct Sending<'a>(&'a Wire);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.put(&frame);
        result
    }
}

impl<'w> Device for Card<'w> {
    type RxToken<'a>
        = Received
    where
        Self: 'a;
    type TxToken<'a>
        = Sending<'w>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'w>)> {
        let sent = self.0.next_sent()?;
        Some((Received(sent.bytes), Sending(self.0)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'w>> {
        Some(Sending(self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A stack of smoltcp's.
pub struct Peer<'a> {
    pub iface: Interface,
    pub sockets: SocketSet<'static>,
    card: Card<'a>,
    began: std::time::Instant,
}

impl<'a> Peer<'a> {
    /// One at [`PEER_IP`]/24.
    pub fn new(wire: &'a Wire) -> Peer<'a> {
        let mut card = Card(wire);
        let mac = HardwareAddress::Ethernet(EthernetAddress(PEER_MAC));
        let mut config = Config::new(mac);
        config.random_seed = 0x5eed;
        let mut iface = Interface::new(config, &mut card, Instant::ZERO);
        iface.update_ip_addrs(|addrs| {
            let ip = Ipv4Address::from_octets(PEER_IP.octets());
            addrs.push(IpCidr::new(ip.into(), 24)).unwrap();
        });
        Peer {
            iface,
            sockets: SocketSet::new(vec![]),
            card,
            began: std::time::Instant::now(),
        }
    }

    /// Its time.
    pub fn now(&self) -> Instant {
        Instant::from_micros(self.began.elapsed().as_micros() as i64)
    }

    /// Has it deal with what came, once.
    pub fn poll(&mut self) {
        let now = self.now();
        self.iface.poll(now, &mut self.card, &mut self.sockets);
    }

    /// Has it work until `done` answers something, for five seconds at most.
    pub fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        loop {
            self.poll();
            if let Some(result) = done(self) {
                return result;
            }
            assert!(std::time::Instant::now() < deadline, "in vain: {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}
