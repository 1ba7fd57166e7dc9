//! A stack of ours on a wire without a machine: an Ethernet interface whose driver keeps what is sent, and into
//! which frames are put by hand, or by smoltcp.
//!
//! Everything that comes in runs in the calling thread, so a test sees all that a frame caused as
//! soon as [`Wire::put`] returns.
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod peer;

use rumpkern::{Config, Kernel};
use rumpnet::ifnet::{IfCaps, IfDriver, Ifnet, InIfaddr};
use rumpnet::mbuf::{Mbuf, PktHdr};
use rumpnet::net::Net;
use rumpnet::protocol::{Domain, SockType};
use rumpnet::socket::{Socket, socreate};
use rumpnet_net::{EtherAddr, ether_ifattach, loopback_attach};
use rumpnet_netinet::Inet;
use rumpnet_netinet::tcp::Tcp;
use rumpnet_netinet::udp::Udp;
use rumpuser::Errno;
use rumpuser_hosted::Host;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};

/// Our addresses.
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const OUR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The other end's.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const PEER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// A frame that was sent, and what the interface was asked to do to it.
pub struct Sent {
    pub bytes: Vec<u8>,
    pub pkthdr: PktHdr,
}

/// Keeps what is sent.
#[derive(Default)]
struct Keeper {
    sent: Mutex<VecDeque<Sent>>,
}

/// More frames than this are lost, as on a wire that nobody listens to.
const KEPT: usize = 4096;

impl IfDriver for Keeper {
    fn transmit(&self, _: &Ifnet, frame: Mbuf) -> Result<(), Errno> {
        let mut bytes = vec![0; frame.len()];
        frame.copy_out(0, &mut bytes)?;
        let mut sent = self.sent.lock().unwrap();
        if sent.len() < KEPT {
            sent.push_back(Sent {
                bytes,
                pkthdr: frame.pkthdr,
            });
        }
        Ok(())
    }
}

/// A kernel with one interface, and the interface's wire.
pub struct Wire {
    pub kernel: Arc<Kernel>,
    pub net: Arc<Net>,
    pub inet: Arc<Inet>,
    pub udp: Arc<Udp>,
    pub ifp: Arc<Ifnet>,
    keeper: Arc<Keeper>,
}

impl Wire {
    /// A kernel at [`OUR_IP`]/24, with [`PEER_IP`] as its default router.
    pub fn new() -> Wire {
        Wire::with_caps(IfCaps::empty())
    }

    /// The same, over an interface that can do something for the stack.
    pub fn with_caps(caps: IfCaps) -> Wire {
        let wire = Wire::without_address(caps);
        let address = InIfaddr {
            addr: OUR_IP,
            prefix_len: 24,
        };
        wire.inet.add_address(&wire.ifp, address).unwrap();
        wire.inet.set_default_route(PEER_IP).unwrap();
        wire.sent();
        wire
    }

    /// The same, before it has an address.
    pub fn without_address(caps: IfCaps) -> Wire {
        Host::install_for_tests();
        let kernel = Kernel::boot(Config::default(), &[]).unwrap();
        let net = Arc::new(Net::new());
        let inet = Inet::new(&kernel, &net).unwrap();
        let udp = Udp::attach(&inet, &net).unwrap();
        Tcp::attach(&kernel, &inet, &net).unwrap();
        let lo = loopback_attach(&kernel, &net).unwrap();
        let localhost = InIfaddr {
            addr: Ipv4Addr::LOCALHOST,
            prefix_len: 8,
        };
        inet.add_address(&lo, localhost).unwrap();
        let keeper = Arc::new(Keeper::default());
        let name = String::from("test0");
        let ifp = ether_ifattach(name, EtherAddr(OUR_MAC), 1500, caps, keeper.clone());
        let ifp = Arc::new(ifp);
        net.if_attach(ifp.clone()).unwrap();
        ifp.up();
        Wire {
            kernel,
            net,
            inet,
            udp,
            ifp,
            keeper,
        }
    }

    /// Puts a frame on the wire, for us to receive.
    pub fn put(&self, frame: &[u8]) {
        if let Ok(m) = Mbuf::from_slice(frame) {
            self.ifp.input(&self.net, m);
        }
    }

    /// Takes the next frame that we sent.
    pub fn next_sent(&self) -> Option<Sent> {
        self.keeper.sent.lock().unwrap().pop_front()
    }

    /// Takes all frames that we sent.
    pub fn sent(&self) -> Vec<Sent> {
        self.keeper.sent.lock().unwrap().drain(..).collect()
    }

    /// Notes that [`PEER_IP`] is [`PEER_MAC`], by an ARP request of the peer's.
    pub fn introduce_peer(&self) {
        let mut frame = ethernet([0xff; 6], PEER_MAC, 0x0806);
        frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(PEER_MAC);
        frame.extend(PEER_IP.octets());
        frame.extend([0; 6]);
        frame.extend(OUR_IP.octets());
        self.put(&frame);
        let known = self.inet.arp.lookup(self.ifp.index(), PEER_IP);
        assert_eq!(known, Some(EtherAddr(PEER_MAC)));
        self.sent();
    }

    /// A new UDP socket that does not wait.
    pub fn udp_socket(&self) -> Arc<Socket> {
        let so = socreate(&self.net, Domain::AF_INET, SockType::Dgram, 0).unwrap();
        so.set_nonblocking(true);
        so
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.kernel.shutdown();
    }
}

/// An IPv4 address and port.
pub fn addr(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(ip, port))
}

/// The start of a frame.
pub fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::from(to);
    frame.extend(from);
    frame.extend(ethertype.to_be_bytes());
    frame
}
