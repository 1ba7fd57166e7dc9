//! Packets that go out.

use super::header::{IP_HDR_LEN, IP_MAXPACKET, IpHeader, IpProto};
use crate::in_cksum::Checksum;
use crate::inet::Inet;
use alloc::sync::Arc;
use core::net::Ipv4Addr;
use core::sync::atomic::Ordering;
use rumpnet::ifnet::{IfCaps, Ifnet, Link, count};
use rumpnet::mbuf::Mbuf;
use rumpnet_net::{ETHERTYPE_IP, EtherAddr, ether_output};
use rumpuser::Errno;

/// Time to live of packets whose sender has no wish (RFC 1700).
pub const IP_DEFAULT_TTL: u8 = 64;

/// What a transport says of a packet.
#[derive(Clone)]
pub struct IpOut<'a> {
    /// From; unspecified: the address that goes with the route.
    pub src: Ipv4Addr,
    /// To.
    pub dst: Ipv4Addr,
    /// Protocol of the data.
    pub proto: IpProto,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Answer `EMSGSIZE` rather than fragment it, and forbid routers to.
    pub dont_fragment: bool,
    /// Broadcasts are meant (`SO_BROADCAST`).
    pub broadcast: bool,
    /// Send it by this interface, whatever the routes say, straight onto the wire; and from an
    /// unspecified address if that is what `src` says (a host that has none yet, RFC 2131 §4.1).
    pub ifp: Option<&'a Arc<Ifnet>>,
}

impl IpOut<'_> {
    /// A plain packet.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, proto: IpProto) -> IpOut<'static> {
        IpOut {
            src,
            dst,
            proto,
            ttl: IP_DEFAULT_TTL,
            tos: 0,
            dont_fragment: false,
            broadcast: false,
            ifp: None,
        }
    }
}

/// Where a packet goes out, and how.
#[derive(Clone)]
pub struct Hop {
    /// The interface.
    pub ifp: Arc<Ifnet>,
    /// Who gets it next.
    pub next: Ipv4Addr,
    /// The address to send from, if nothing else decides.
    pub source: Ipv4Addr,
}

impl Inet {
    /// How a packet to `dst` goes out.
    ///
    /// # Errors
    /// `ENETUNREACH` without a route.
    pub fn route(&self, dst: Ipv4Addr) -> Result<Hop, Errno> {
        if dst.is_broadcast() {
            return self.broadcast_hop();
        }
        match self.net().routes.lookup(dst) {
            Some(route) => Ok(Hop {
                next: route.next_hop(dst),
                ifp: route.ifp,
                source: route.source,
            }),
            None => {
                count(&self.ipstat.noroute);
                Err(Errno::ENETUNREACH)
            }
        }
    }

    /// The limited broadcast goes out by the first interface that can.
    fn broadcast_hop(&self) -> Result<Hop, Errno> {
        let hop = self.net().find_interface(|ifp| {
            let source = ifp.find_address(|a| Some(a.addr))?;
            (ifp.is_up() && !ifp.is_loopback()).then(|| Hop {
                ifp: ifp.clone(),
                next: Ipv4Addr::BROADCAST,
                source,
            })
        });
        hop.ok_or(Errno::ENETUNREACH)
    }

    /// Sends `m`, which starts with the transport's header (ip_output).
    ///
    /// # Errors
    /// `ENETUNREACH`, `EHOSTDOWN`, `ENETDOWN`; `EACCES` for a broadcast that is not meant;
    /// `EMSGSIZE`; `ENOBUFS`. The packet is gone either way.
    pub fn ip_output(&self, mut m: Mbuf, to: &IpOut<'_>) -> Result<(), Errno> {
        let hop = match to.ifp {
            Some(ifp) => Hop {
                ifp: ifp.clone(),
                next: to.dst,
                source: to.src,
            },
            None => self.route(to.dst)?,
        };
        let src = match to.src.is_unspecified() {
            true => hop.source,
            false => to.src,
        };
        if !to.broadcast && self.is_broadcast(&hop.ifp, to.dst) {
            return Err(Errno::EACCES);
        }
        if src.is_loopback() && !hop.ifp.is_loopback() {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let total_len = IP_HDR_LEN + m.len();
        let segmented = m.pkthdr.segment_bytes != 0;
        if total_len > IP_MAXPACKET {
            return Err(Errno::EMSGSIZE);
        }
        let header = IpHeader {
            tos: to.tos,
            header_len: IP_HDR_LEN,
            total_len,
            id: self.next_id(src, to.dst, to.proto),
            dont_fragment: to.dont_fragment,
            more_fragments: false,
            fragment_offset: 0,
            ttl: to.ttl,
            proto: to.proto,
            src,
            dst: to.dst,
        };
        count(&self.ipstat.localout);
        let caps = hop.ifp.caps();
        if segmented && !caps.contains(IfCaps::IFCAP_TSOV4) {
            return Err(Errno::EMSGSIZE);
        }
        let fits = total_len <= hop.ifp.mtu() || segmented;
        if !fits || !caps.contains(IfCaps::IFCAP_CSUM_TX) {
            complete_checksum(&mut m)?;
        }
        if fits {
            m.pkthdr.network_header = IP_HDR_LEN as u16;
            m.prepend_slice(&header.encode())?;
            return self.link_output(&hop.ifp, hop.next, m);
        }
        if to.dont_fragment {
            return Err(Errno::EMSGSIZE);
        }
        self.output_fragments(&hop, header, m)
    }

    /// Sends a packet that is too large in parts (RFC 791 §2.3); it may be one itself.
    pub(super) fn output_fragments(
        &self,
        hop: &Hop,
        header: IpHeader,
        m: Mbuf,
    ) -> Result<(), Errno> {
        let room = hop.ifp.mtu().saturating_sub(IP_HDR_LEN) & !7;
        if room == 0 {
            return Err(Errno::EMSGSIZE);
        }
        count(&self.ipstat.fragmented);
        let mut offset = 0;
        while offset < m.len() {
            let len = room.min(m.len() - offset);
            let mut part = m.copy_range(offset, len)?;
            let header = IpHeader {
                total_len: IP_HDR_LEN + len,
                more_fragments: offset + len < m.len() || header.more_fragments,
                fragment_offset: header.fragment_offset + offset,
                ..header
            };
            part.prepend_slice(&header.encode())?;
            self.link_output(&hop.ifp, hop.next, part)?;
            offset += len;
        }
        Ok(())
    }

    /// Identifications that do not repeat soon between two hosts, and tell nobody how many packets
    /// went to others (RFC 7739 §4, algorithm of §5.3 carried over to IPv4).
    fn next_id(&self, src: Ipv4Addr, dst: Ipv4Addr, proto: IpProto) -> u16 {
        let pair = u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits());
        let base = self.ip_id_key.secret_hash(&[pair, proto.0.into()]) as u16;
        let counter = self.ip_id.fetch_add(1, Ordering::Relaxed) as u16;
        base.wrapping_add(counter)
    }

    /// Whether a packet to `dst` by `ifp` reaches everybody on the wire.
    pub fn is_broadcast(&self, ifp: &Ifnet, dst: Ipv4Addr) -> bool {
        let everybody = |a: &rumpnet::ifnet::InIfaddr| (a.broadcast() == Some(dst)).then_some(());
        dst.is_broadcast() || ifp.find_address(everybody).is_some()
    }

    /// Hands a packet with its IP header to the link.
    pub(super) fn link_output(
        &self,
        ifp: &Arc<Ifnet>,
        next: Ipv4Addr,
        m: Mbuf,
    ) -> Result<(), Errno> {
        if ifp.link() == Link::Loopback {
            return ifp.transmit(m);
        }
        if next.is_multicast() {
            return ether_output(ifp, EtherAddr::of_ipv4_multicast(next), ETHERTYPE_IP, m);
        }
        if self.is_broadcast(ifp, next) {
            return ether_output(ifp, EtherAddr::BROADCAST, ETHERTYPE_IP, m);
        }
        self.arp_resolve(ifp, next, m)
    }
}

/// Completes the checksum that a transport left open (in_delayed_cksum).
fn complete_checksum(m: &mut Mbuf) -> Result<(), Errno> {
    let Some(open) = m.pkthdr.checksum.take() else {
        return Ok(());
    };
    let at = usize::from(open.field);
    let mut sum = Checksum::new();
    sum.add_mbuf(m, 0, m.len());
    let value = match sum.finish() {
        0 if open.zero_is_ones => 0xffff,
        value => value,
    };
    m.pullup_mut(at + 2)?[at..].copy_from_slice(&value.to_be_bytes());
    Ok(())
}
