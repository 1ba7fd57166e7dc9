//! Packets that come in (RFC 1122 §3.2.1, §3.3).

use super::header::{IpHeader, IpProto};
use super::reass::Outcome;
use crate::icmp::Unreach;
use crate::inet::Inet;
use alloc::sync::Arc;
use core::net::Ipv4Addr;
use rumpkern::time;
use rumpnet::ifnet::{Ifnet, count};
use rumpnet::mbuf::{Mbuf, MbufFlags};
use rumpuser::Instant;

/// What an address means to this machine, as a destination.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meant {
    Us,
    Everybody,
    Others,
}

impl Inet {
    /// Takes a packet from an interface.
    pub(crate) fn ip_input(self: &Arc<Self>, ifp: &Arc<Ifnet>, mut m: Mbuf) {
        count(&self.ipstat.total);
        let Ok(ip) = IpHeader::parse(&m) else {
            count(&self.ipstat.bad);
            return;
        };
        if !source_is_possible(ip.src, &m) {
            count(&self.ipstat.cant_forward);
            return;
        }
        let flags = m.pkthdr.flags;
        match self.meant_for(ip.dst, ifp, flags) {
            Meant::Others => return self.ip_forward(ifp, &ip, m),
            Meant::Everybody => m.pkthdr.flags |= MbufFlags::M_BCAST,
            // A link-layer broadcast of a unicast packet is dropped (RFC 1122 §3.3.6).
            Meant::Us if flags.intersects(MbufFlags::M_BCAST | MbufFlags::M_MCAST) => return,
            Meant::Us => {}
        }
        m.truncate(ip.total_len);
        m.trim_front(ip.header_len);
        if !ip.is_fragment() {
            return self.deliver(ifp, &ip, m);
        }
        if let Some((ip, m)) = self.reassemble(&ip, m) {
            self.deliver(ifp, &ip, m);
        }
    }

    fn deliver(self: &Arc<Self>, ifp: &Arc<Ifnet>, ip: &IpHeader, m: Mbuf) {
        if ip.proto == IpProto::ICMP {
            count(&self.ipstat.delivered);
            return self.icmp_input(ifp, ip, m);
        }
        match self.transport(ip.proto) {
            Some(transport) => {
                count(&self.ipstat.delivered);
                transport.input(self, ifp, ip, m);
            }
            None => {
                count(&self.ipstat.noproto);
                self.icmp_unreachable(ifp, ip, &m, Unreach::Protocol);
            }
        }
    }

    fn reassemble(&self, ip: &IpHeader, m: Mbuf) -> Option<(IpHeader, Mbuf)> {
        count(&self.ipstat.fragments);
        let flags = m.pkthdr.flags & !MbufFlags::M_CSUM_OK;
        let outcome = self.reassembly.lock().input(ip, m, time::now());
        match outcome {
            Outcome::Complete(ip, mut whole) => {
                count(&self.ipstat.reassembled);
                // Whoever vouched for a fragment's checksum did not see the packet's.
                whole.pkthdr.flags = flags;
                Some((ip, whole))
            }
            Outcome::Incomplete => {
                self.arm_timer();
                None
            }
            Outcome::Dropped(_) => {
                count(&self.ipstat.frag_dropped);
                None
            }
        }
    }

    /// Gives up on packets whose fragments did not come in time. Answers whether others still wait.
    pub(crate) fn expire_fragments(self: &Arc<Self>, now: Instant) -> bool {
        loop {
            let (expired, more) = {
                let mut reassembly = self.reassembly.lock();
                (reassembly.expire(now), !reassembly.is_empty())
            };
            let Some(expired) = expired else { return more };
            count(&self.ipstat.frag_timeout);
            if let Some((ip, data)) = expired.first {
                self.icmp_reassembly_timeout(&ip, &data);
            }
        }
    }

    fn meant_for(&self, dst: Ipv4Addr, ifp: &Arc<Ifnet>, flags: MbufFlags) -> Meant {
        if dst.is_loopback() {
            // 127/8 never appears on a wire (RFC 1122 §3.2.1.3(g)).
            return match flags.contains(MbufFlags::M_LOOP) {
                true => Meant::Us,
                false => Meant::Others,
            };
        }
        if dst.is_broadcast() {
            return Meant::Everybody;
        }
        let here = ifp.find_address(|a| {
            if a.addr == dst {
                Some(Meant::Us)
            } else if a.broadcast() == Some(dst) || (a.network() == dst && a.prefix_len < 31) {
                Some(Meant::Everybody)
            } else {
                None
            }
        });
        // The weak end-system model (RFC 1122 §3.3.4.2): an address of another interface's is ours too.
        here.unwrap_or_else(|| match self.net().interface_with(dst) {
            Some(_) => Meant::Us,
            None => Meant::Others,
        })
    }
}

/// Whether a packet may come from there (RFC 1122 §3.2.1.3).
fn source_is_possible(src: Ipv4Addr, m: &Mbuf) -> bool {
    let looped = m.pkthdr.flags.contains(MbufFlags::M_LOOP);
    let reserved = src.octets()[0] >= 240;
    !src.is_multicast() && !reserved && (looped || !src.is_loopback())
}
