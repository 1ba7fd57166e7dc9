//! A stack on a wire without a machine: frames are put in by hand, and run in the calling thread to their end.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use rumpnet::ifnet::{IfCaps, IfDriver, Ifnet, InIfaddr};
use rumpnet::mbuf::Mbuf;
use rumpnet::net::Net;
use rumpnet::protocol::{Domain, SockType};
use rumpnet::socket::{Socket, socreate};
use rumpnet_net::{EtherAddr, ether_ifattach};
use rumpnet_netinet::Inet;
use rumpnet_netinet::in_cksum::{Checksum, in_cksum};
use rumpnet_netinet::tcp::Tcp;
use rumpnet_netinet::udp::Udp;
use rumpuser::Errno;

use crate::machine::kernel;

/// Our addresses.
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const OUR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The other end's.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const PEER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// Bytes of an Ethernet header, and of an IPv4 header without options.
pub const ETHER: usize = 14;
pub const IP: usize = 20;

/// Frames that one frame may cause: beyond that it would be a storm.
const MOST_CAUSED: usize = 200;

/// Keeps what is sent.
#[derive(Default)]
struct Keeper(Mutex<Vec<Vec<u8>>>);

impl IfDriver for Keeper {
    fn transmit(&self, _: &Ifnet, frame: Mbuf) -> Result<(), Errno> {
        let mut bytes = vec![0; frame.len()];
        frame.copy_out(0, &mut bytes)?;
        self.0.lock().expect("nobody panicked").push(bytes);
        Ok(())
    }
}

/// A stack with one interface, and the interface's wire.
pub struct Wire {
    net: Arc<Net>,
    _inet: Arc<Inet>,
    pub tcp: Arc<Tcp>,
    _udp: Arc<Udp>,
    ifp: Arc<Ifnet>,
    keeper: Arc<Keeper>,
}

impl Wire {
    /// A stack at [`OUR_IP`]/24, with [`PEER_IP`] as its default router, which it knows. The thread must be an lwp.
    pub fn new() -> Wire {
        let net = Arc::new(Net::new());
        let inet = Inet::new(kernel(), &net).expect("the first");
        let udp = Udp::attach(&inet, &net).expect("the first");
        let tcp = Tcp::attach(kernel(), &inet, &net).expect("the first");
        let keeper = Arc::new(Keeper::default());
        let (name, caps) = (String::from("test0"), IfCaps::empty());
        let ifp = ether_ifattach(name, EtherAddr(OUR_MAC), 1500, caps, keeper.clone());
        let ifp = Arc::new(ifp);
        net.if_attach(ifp.clone()).expect("the first");
        ifp.up();
        let address = InIfaddr {
            addr: OUR_IP,
            prefix_len: 24,
        };
        inet.add_address(&ifp, address).expect("the first");
        inet.set_default_route(PEER_IP).expect("it is on the wire");
        let wire = Wire {
            net,
            _inet: inet,
            tcp,
            _udp: udp,
            ifp,
            keeper,
        };
        wire.put(&arp(1, PEER_MAC, PEER_IP, OUR_IP));
        wire.take();
        wire
    }

    /// Puts a frame on the wire, for us to receive.
    pub fn put(&self, frame: &[u8]) {
        if let Ok(m) = Mbuf::from_slice(frame) {
            self.ifp.input(&self.net, m);
        }
    }

    /// Takes what we sent.
    pub fn take(&self) -> Vec<Vec<u8>> {
        let sent = std::mem::take(&mut *self.keeper.0.lock().expect("nobody panicked"));
        assert!(sent.len() <= MOST_CAUSED, "a storm of {}", sent.len());
        sent
    }

    /// A new socket that does not wait.
    pub fn socket(&self, sock_type: SockType) -> Arc<Socket> {
        let so = socreate(&self.net, Domain::AF_INET, sock_type, 0).expect("there is memory");
        so.set_nonblocking(true);
        so
    }
}

/// An IPv4 address and port.
pub fn addr(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(ip, port))
}

/// A request (1) or an answer (2) of ARP.
pub fn arp(op: u8, mac: [u8; 6], ip: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], mac, 0x0806);
    frame.extend([0, 1, 8, 0, 6, 4, 0, op]);
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// The start of a frame.
pub fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::from(to);
    frame.extend(from);
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// A frame with an IPv4 packet from the peer to us, its sums not yet set.
pub fn ipv4(proto: u8, id: u16, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(OUR_MAC, PEER_MAC, 0x0800);
    frame.extend([0x45, 0]);
    frame.extend(((IP + payload.len()) as u16).to_be_bytes());
    frame.extend(id.to_be_bytes());
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, proto, 0, 0]);
    frame.extend(PEER_IP.octets());
    frame.extend(OUR_IP.octets());
    frame.extend(payload);
    frame
}

/// Sets the checksums right, as far as there is a place for them.
pub fn set_checksums(frame: &mut [u8]) {
    if frame.len() < ETHER + IP || frame[12..14] != [8, 0] {
        return;
    }
    let header = usize::from(frame[ETHER] & 0xf) * 4;
    if header < IP || frame.len() < ETHER + header {
        return;
    }
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let end = (ETHER + total).clamp(ETHER + header, frame.len());
    let proto = frame[23];
    let quad = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let mut sum = Checksum::new();
    let field = match proto {
        1 => Some(2),
        6 => Some(16),
        17 => Some(6),
        _ => None,
    };
    if proto != 1 {
        sum.add_pseudo_header(quad(26), quad(30), proto, end - ETHER - header);
    }
    let payload = &mut frame[ETHER + header..end];
    if let Some(field) = field.filter(|field| field + 2 <= payload.len()) {
        payload[field..field + 2].fill(0);
        sum.add(payload);
        payload[field..field + 2].copy_from_slice(&sum.finish().to_be_bytes());
    }
    frame[24..26].fill(0);
    let sum = in_cksum(&frame[ETHER..ETHER + header]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}
