//! Ethernet II frames.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use rumpnet::ifnet::{IfCaps, IfDriver, Ifnet, Link, count};
use rumpnet::mbuf::{Mbuf, MbufFlags};
use rumpnet::net::Net;
use rumpuser::Errno;

/// Bytes of a frame's header.
pub const ETHER_HDR_LEN: usize = 14;

/// IPv4.
pub const ETHERTYPE_IP: u16 = 0x0800;
/// Address resolution.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// The least value of the third field that is a type; below it is a length (IEEE 802.3 §3.2.6).
const ETHERTYPE_MIN: u16 = 0x0600;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EtherAddr(pub [u8; 6]);

impl EtherAddr {
    /// Everybody on the wire.
    pub const BROADCAST: EtherAddr = EtherAddr([0xff; 6]);

    /// Whether it names a group: broadcast or multicast.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The group that carries an IPv4 multicast (RFC 1112 §6.4).
    pub const fn of_ipv4_multicast(group: core::net::Ipv4Addr) -> EtherAddr {
        let [_, b, c, d] = group.octets();
        EtherAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }
}

impl fmt::Display for EtherAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for EtherAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes an Ethernet interface for a driver: its received frames come to Ethernet input. The caller
/// attaches it and brings it up.
pub fn ether_ifattach(
    name: String,
    address: EtherAddr,
    mtu: u32,
    caps: IfCaps,
    driver: Arc<dyn IfDriver>,
) -> Ifnet {
    let link = Link::Ethernet(address.0);
    Ifnet::new(name, link, mtu, caps, driver, ether_input)
}

/// Takes a received frame: checks it, takes its header off and passes it to its protocol.
fn ether_input(net: &Net, ifp: &Arc<Ifnet>, mut frame: Mbuf) {
    let Link::Ethernet(ours) = ifp.link() else {
        return;
    };
    let Ok(header) = frame.header::<ETHER_HDR_LEN>(0) else {
        count(&ifp.counters.ierrors);
        return;
    };
    let [to @ .., _, _, _, _, _, _, _, _] = header;
    let [_, _, _, _, _, _, from @ .., _, _] = header;
    let ethertype = u16::from_be_bytes([header[12], header[13]]);
    let (to, from) = (EtherAddr(to), EtherAddr(from));
    if from.is_group() || frame.len() > ETHER_HDR_LEN + ifp.mtu() {
        count(&ifp.counters.ierrors);
        return;
    }
    if !ifp.is_up() || from.0 == ours {
        return;
    }
    if to == EtherAddr::BROADCAST {
        frame.pkthdr.flags |= MbufFlags::M_BCAST;
    } else if to.is_group() {
        frame.pkthdr.flags |= MbufFlags::M_MCAST;
    } else if to.0 != ours {
        // Flooded by a switch, not meant for us.
        return;
    }
    if ethertype < ETHERTYPE_MIN {
        count(&ifp.counters.noproto);
        return;
    }
    frame.trim_front(ETHER_HDR_LEN);
    net.dispatch(ethertype, ifp, frame);
}

/// Puts the header in front of a packet and sends it.
///
/// # Errors
/// `ENOBUFS`; `EINVAL` if the interface is not Ethernet; what the driver says.
pub fn ether_output(
    ifp: &Ifnet,
    to: EtherAddr,
    ethertype: u16,
    mut packet: Mbuf,
) -> Result<(), Errno> {
    let Link::Ethernet(ours) = ifp.link() else {
        return Err(Errno::EINVAL);
    };
    let header = packet.prepend(ETHER_HDR_LEN)?;
    header[..6].copy_from_slice(&to.0);
    header[6..12].copy_from_slice(&ours);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    ifp.transmit(packet)
}
