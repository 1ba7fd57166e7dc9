//! Packets for others (RFC 1812 §5.2, §5.3): handed on, if this kernel is a router.
//!
//! A packet keeps all but its time to live. Options go along as they came: none is acted on, and a packet that asks for a route of its
//! sender's choice is refused (RFC 7126 §4.3). Redirects are not sent: hosts that share a wire with two routers find out by themselves.
//!
//! Source of names: NetBSD `netinet/ip_input.c` (`ip_forward`), `net.inet.ip.forwarding` of sysctl(7).

use super::header::{IP_HDR_LEN, IP_HDR_MAX, IpHeader};
use super::output::Hop;
use crate::icmp::Unreach;
use crate::in_cksum::in_cksum;
use crate::inet::Inet;
use alloc::sync::Arc;
use core::net::Ipv4Addr;
use core::sync::atomic::Ordering;
use rumpnet::ifnet::{Ifnet, count};
use rumpnet::mbuf::{Mbuf, MbufFlags};
use rumpuser::Errno;

/// Options by which a sender chooses the route: loose and strict (RFC 791 §3.1).
const SOURCE_ROUTES: [u8; 2] = [131, 137];

impl Inet {
    /// Makes a router of this kernel, or a host again (`net.inet.ip.forwarding`). It is a host at first.
    pub fn set_forwarding(&self, forwarding: bool) {
        self.forwarding.store(forwarding, Ordering::Relaxed);
    }

    /// Hands a packet on that came by `ifp` and is not for us: `m` starts with its header `ip`.
    pub(super) fn ip_forward(&self, ifp: &Arc<Ifnet>, ip: &IpHeader, mut m: Mbuf) {
        let group = MbufFlags::M_BCAST | MbufFlags::M_MCAST;
        let is_forwarded = self.forwarding.load(Ordering::Relaxed);
        if !is_forwarded || m.pkthdr.flags.intersects(group) || !may_be_forwarded(ip) {
            count(&self.ipstat.cant_forward);
            return;
        }
        m.truncate(ip.total_len);
        if has_source_route(&m, ip) {
            return self.refuse(ifp, ip, &m, Unreach::SourceRoute);
        }
        if ip.ttl <= 1 {
            count(&self.ipstat.cant_forward);
            if let Ok(data) = data_of(&m, ip) {
                self.icmp_time_exceeded(ifp, ip, &data);
            }
            return;
        }
        let Ok(hop) = self.route(ip.dst) else {
            return self.refuse(ifp, ip, &m, Unreach::Net);
        };
        if hop.ifp.is_loopback() || self.is_broadcast(&hop.ifp, ip.dst) {
            // A broadcast from afar is what amplifiers are made of (RFC 2644).
            count(&self.ipstat.cant_forward);
            return;
        }
        let mtu = hop.ifp.mtu();
        if ip.total_len > mtu && ip.dont_fragment {
            return self.refuse(ifp, ip, &m, Unreach::NeedFragment(mtu));
        }
        m.pkthdr = Default::default();
        let sent = match ip.total_len > mtu {
            true => self.forward_in_parts(&hop, ip, m),
            false => self.forward_whole(&hop, ip, m),
        };
        match sent {
            Ok(()) => count(&self.ipstat.forward),
            // As on a wire: it is lost, and its sender has to find out.
            Err(_) => count(&self.ipstat.cant_forward),
        }
    }

    fn forward_whole(&self, hop: &Hop, ip: &IpHeader, mut m: Mbuf) -> Result<(), Errno> {
        let header = m.pullup_mut(ip.header_len)?;
        header[8] = ip.ttl - 1;
        header[10..12].fill(0);
        let sum = in_cksum(&header[..ip.header_len]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        m.pkthdr.network_header = ip.header_len as u16;
        self.link_output(&hop.ifp, hop.next, m)
    }

    fn forward_in_parts(&self, hop: &Hop, ip: &IpHeader, mut m: Mbuf) -> Result<(), Errno> {
        if ip.header_len != IP_HDR_LEN {
            // Which options are copied into each part is theirs to say; so few have any that nobody will miss it.
            return Err(Errno::EOPNOTSUPP);
        }
        m.trim_front(ip.header_len);
        let header = IpHeader {
            ttl: ip.ttl - 1,
            ..*ip
        };
        self.output_fragments(hop, header, m)
    }

    /// Drops a packet, and says why to who sent it.
    fn refuse(&self, ifp: &Arc<Ifnet>, ip: &IpHeader, m: &Mbuf, why: Unreach) {
        count(&self.ipstat.cant_forward);
        if let Ok(data) = data_of(m, ip) {
            self.icmp_unreachable(ifp, ip, &data, why);
        }
    }
}

/// What is behind the header.
fn data_of(m: &Mbuf, ip: &IpHeader) -> Result<Mbuf, Errno> {
    m.copy_range(ip.header_len, ip.payload_len())
}

/// Whether its addresses are such that a router hands it on (RFC 1812 §5.3.7; RFC 3927 §7; RFC 6890).
fn may_be_forwarded(ip: &IpHeader) -> bool {
    let is_host = |address: Ipv4Addr| {
        let first = address.octets()[0];
        first != 0 && first < 224 && !address.is_loopback() && !address.is_link_local()
    };
    is_host(ip.src) && is_host(ip.dst)
}

fn has_source_route(m: &Mbuf, ip: &IpHeader) -> bool {
    let mut header = [0; IP_HDR_MAX];
    let header = &mut header[..ip.header_len];
    if m.copy_out(0, header).is_err() {
        return true;
    }
    let mut rest = &header[IP_HDR_LEN..];
    // They were checked: each ends inside the header.
    while let Some((&kind, after)) = rest.split_first() {
        match kind {
            0 => return false,
            1 => rest = after,
            kind if SOURCE_ROUTES.contains(&kind) => return true,
            _ => {
                let len = after.first().map_or(0, |len| usize::from(*len));
                rest = rest.get(len.max(2)..).unwrap_or_default();
            }
        }
    }
    false
}
