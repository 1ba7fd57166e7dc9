//! ICMP (RFC 792, RFC 1122 §3.2.2): answers echoes, sends and receives errors.
//!
//! Whatever is sent because of a packet that came in is limited in rate (RFC 1812 §4.3.2.8).
//! Redirects, timestamps and everything else are ignored.

use crate::in_cksum::Checksum;
use crate::inet::Inet;
use crate::ip::{IP_DEFAULT_TTL, IP_HDR_LEN, IpHeader, IpOut, IpProto};
use alloc::sync::Arc;
use core::net::Ipv4Addr;
use core::sync::atomic::AtomicU64;
use rumpkern::locks::Mutex;
use rumpkern::time;
use rumpnet::ifnet::{Ifnet, count};
use rumpnet::mbuf::{Mbuf, MbufFlags};
use rumpuser::{Errno, Instant};

const ICMP_ECHOREPLY: u8 = 0;
const ICMP_UNREACH: u8 = 3;
const ICMP_ECHO: u8 = 8;
const ICMP_TIMXCEED: u8 = 11;
const ICMP_PARAMPROB: u8 = 12;
const ICMP_HDR_LEN: usize = 8;

/// Code of [`ICMP_TIMXCEED`]: its time to live is over.
const TIMXCEED_INTRANS: u8 = 0;
/// Code of [`ICMP_TIMXCEED`]: fragments missing.
const TIMXCEED_REASS: u8 = 1;

/// Echoes answered in a second.
const ECHOES_PER_SECOND: u64 = 2000;
/// Errors sent in a second.
const ERRORS_PER_SECOND: u64 = 100;

/// Bytes of the packet that an error quotes behind its IP header. More than the 8 of RFC 792, as
/// RFC 1812 §4.3.2.3 asks, but little enough to be one small buffer.
const QUOTED: usize = 64;

/// Why a packet cannot be delivered here (codes of type 3, destination unreachable).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreach {
    /// Nobody speaks its protocol.
    Protocol,
    /// Nobody listens at its port.
    Port,
    /// There is no route.
    Net,
    /// It is too large for the next link, whose MTU this is, and must not be fragmented.
    NeedFragment(usize),
    /// It asks for a route of its own.
    SourceRoute,
}

/// Why a packet of ours did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// No way there.
    Unreachable(Errno),
    /// Too large for a link on the way whose MTU is this, 0 if unknown (RFC 1191).
    NeedFragment(u16),
    /// It was too long under way, or its fragments got lost.
    TimeExceeded,
    /// Something in it was wrong.
    ParameterProblem,
}

impl IcmpError {
    /// The error for a connection that must give up because of it; none if it is only news.
    pub fn errno(self) -> Option<Errno> {
        match self {
            IcmpError::Unreachable(errno) => Some(errno),
            IcmpError::ParameterProblem => Some(Errno::ENOPROTOOPT),
            IcmpError::NeedFragment(_) => Some(Errno::EMSGSIZE),
            IcmpError::TimeExceeded => None,
        }
    }

    /// Whether the peer's host itself says that there is nobody: a hard error for UDP, and for a
    /// connection that is being set up (RFC 1122 §4.2.3.9).
    pub fn is_refusal(self) -> bool {
        self == IcmpError::Unreachable(Errno::ECONNREFUSED)
    }

    fn of(kind: u8, code: u8, next_mtu: u16) -> Option<IcmpError> {
        match (kind, code) {
            // Protocol and port.
            (ICMP_UNREACH, 2 | 3) => Some(IcmpError::Unreachable(Errno::ECONNREFUSED)),
            (ICMP_UNREACH, 4) => Some(IcmpError::NeedFragment(next_mtu)),
            (ICMP_UNREACH, 0..=15) => Some(IcmpError::Unreachable(Errno::EHOSTUNREACH)),
            (ICMP_TIMXCEED, 0 | 1) => Some(IcmpError::TimeExceeded),
            (ICMP_PARAMPROB, 0..=2) => Some(IcmpError::ParameterProblem),
            _ => None,
        }
    }
}

/// Lets so many things pass in a second.
struct RateLimit {
    per_second: u64,
    window: Mutex<(Instant, u64)>,
}

impl RateLimit {
    const fn new(per_second: u64) -> RateLimit {
        RateLimit {
            per_second,
            window: Mutex::new((Instant::from_nanos(0), 0)),
        }
    }

    fn allows(&self, now: Instant) -> bool {
        let mut window = self.window.lock();
        if now.saturating_since(window.0).as_secs() >= 1 {
            *window = (now, 0);
        }
        window.1 += 1;
        window.1 <= self.per_second
    }
}

/// Limits and counters.
pub struct Icmp {
    echo_limit: RateLimit,
    error_limit: RateLimit,
    /// Messages received.
    pub received: AtomicU64,
    /// Messages with a wrong checksum or shape.
    pub bad: AtomicU64,
    /// Echoes answered.
    pub echoes: AtomicU64,
    /// Errors sent.
    pub errors_sent: AtomicU64,
    /// Answers not sent because there were too many.
    pub limited: AtomicU64,
}

impl Icmp {
    pub(crate) fn new() -> Icmp {
        Icmp {
            echo_limit: RateLimit::new(ECHOES_PER_SECOND),
            error_limit: RateLimit::new(ERRORS_PER_SECOND),
            received: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            echoes: AtomicU64::new(0),
            errors_sent: AtomicU64::new(0),
            limited: AtomicU64::new(0),
        }
    }
}

fn checksum_of(m: &Mbuf) -> u16 {
    let mut sum = Checksum::new();
    sum.add_mbuf(m, 0, m.len());
    sum.finish()
}

impl Inet {
    /// Takes an ICMP message.
    pub(crate) fn icmp_input(self: &Arc<Self>, ifp: &Arc<Ifnet>, ip: &IpHeader, m: Mbuf) {
        count(&self.icmp.received);
        let header = m.header::<ICMP_HDR_LEN>(0);
        let header = header.ok().filter(|_| checksum_of(&m) == 0);
        let Some(header) = header else {
            count(&self.icmp.bad);
            return;
        };
        let (kind, code) = (header[0], header[1]);
        match kind {
            ICMP_ECHO if code == 0 => self.icmp_echo(ifp, ip, m),
            ICMP_UNREACH | ICMP_TIMXCEED | ICMP_PARAMPROB => {
                let next_mtu = u16::from_be_bytes([header[6], header[7]]);
                if let Some(error) = IcmpError::of(kind, code, next_mtu) {
                    self.icmp_error_input(error, &m);
                }
            }
            _ => {}
        }
    }

    fn icmp_echo(&self, ifp: &Arc<Ifnet>, ip: &IpHeader, mut m: Mbuf) {
        // An echo to everybody is not answered: it would make us a part of an amplifier
        // (RFC 1122 §3.2.2.6 allows it).
        let group = m
            .pkthdr
            .flags
            .intersects(MbufFlags::M_BCAST | MbufFlags::M_MCAST);
        if group || ip.src.is_unspecified() || self.is_broadcast(ifp, ip.src) {
            return;
        }
        if !self.icmp.echo_limit.allows(time::now()) {
            count(&self.icmp.limited);
            return;
        }
        count(&self.icmp.echoes);
        // Type, code and checksum are made anew; what follows is sent back as it came.
        m.trim_front(4);
        m.pkthdr = Default::default();
        // For want of memory the answer is lost, as it might be on the wire.
        let _lost = self.icmp_send(m, ICMP_ECHOREPLY, 0, ip.dst, ip.src, ip.tos);
    }

    /// Sends a message: `rest` is what follows type, code and checksum.
    fn icmp_send(
        &self,
        mut rest: Mbuf,
        kind: u8,
        code: u8,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        tos: u8,
    ) -> Result<(), Errno> {
        rest.prepend_slice(&[kind, code, 0, 0])?;
        let sum = checksum_of(&rest);
        rest.pullup_mut(4)?[2..].copy_from_slice(&sum.to_be_bytes());
        let out = IpOut {
            tos,
            ttl: IP_DEFAULT_TTL,
            ..IpOut::new(src, dst, IpProto::ICMP)
        };
        self.ip_output(rest, &out)
    }

    /// Passes an error about a packet of ours to the protocol that sent it.
    fn icmp_error_input(self: &Arc<Self>, error: IcmpError, m: &Mbuf) {
        let mut quoted = [0; crate::ip::IP_HDR_MAX];
        let len = quoted.len().min(m.len() - ICMP_HDR_LEN);
        let quoted = &mut quoted[..len];
        if m.copy_out(ICMP_HDR_LEN, quoted).is_err() {
            return;
        }
        let Ok(sent) = IpHeader::parse_quoted(quoted) else {
            count(&self.icmp.bad);
            return;
        };
        // Only the first fragment shows the ports.
        if sent.fragment_offset != 0 || !self.is_local(sent.src) {
            return;
        }
        let Ok(data) = m.header::<8>(ICMP_HDR_LEN + sent.header_len) else {
            count(&self.icmp.bad);
            return;
        };
        if let Some(transport) = self.transport(sent.proto) {
            transport.ctlinput(self, error, &sent, &data);
        }
    }

    /// Tells the sender of a packet that it cannot be delivered. `data` is what is behind its header.
    pub fn icmp_unreachable(&self, ifp: &Arc<Ifnet>, ip: &IpHeader, data: &Mbuf, why: Unreach) {
        let group = MbufFlags::M_BCAST | MbufFlags::M_MCAST;
        if data.pkthdr.flags.intersects(group) || self.is_broadcast(ifp, ip.src) {
            return;
        }
        let (code, next_mtu) = match why {
            Unreach::Net => (0, 0),
            Unreach::Protocol => (2, 0),
            Unreach::Port => (3, 0),
            Unreach::NeedFragment(mtu) => (4, u16::try_from(mtu).unwrap_or(u16::MAX)),
            Unreach::SourceRoute => (5, 0),
        };
        let from = self.error_source(ifp, ip);
        self.icmp_error((ICMP_UNREACH, code, next_mtu), from, ip, data);
    }

    /// Tells the sender of a packet that it has been under way for too long.
    pub(crate) fn icmp_time_exceeded(&self, ifp: &Arc<Ifnet>, ip: &IpHeader, data: &Mbuf) {
        let from = self.error_source(ifp, ip);
        self.icmp_error((ICMP_TIMXCEED, TIMXCEED_INTRANS, 0), from, ip, data);
    }

    /// The address that an error about a packet comes from: that which the packet was sent to; a router's is that of the
    /// interface by which the packet came (RFC 1812 §4.3.2.4).
    fn error_source(&self, ifp: &Arc<Ifnet>, ip: &IpHeader) -> Option<Ipv4Addr> {
        match self.is_local(ip.dst) {
            true => Some(ip.dst),
            false => ifp.find_address(|a| Some(a.addr)),
        }
    }

    /// Tells the sender of a packet that its fragments did not all come in time.
    pub(crate) fn icmp_reassembly_timeout(&self, ip: &IpHeader, data: &Mbuf) {
        let from = Some(ip.dst).filter(|to| self.is_local(*to));
        self.icmp_error((ICMP_TIMXCEED, TIMXCEED_REASS, 0), from, ip, data);
    }

    /// Sends an error (type, code, MTU of the next link) about a packet, but for those that must not cause any (RFC 1122
    /// §3.2.2).
    fn icmp_error(&self, error: (u8, u8, u16), from: Option<Ipv4Addr>, ip: &IpHeader, data: &Mbuf) {
        let Some(from) = from else { return };
        // An echo may cause one, as traceroute(8) wants it; an error must not.
        let kind = data.header::<1>(0).unwrap_or_default()[0];
        let about_error = ip.proto == IpProto::ICMP && kind != ICMP_ECHO;
        let to_one = !ip.src.is_unspecified() && !ip.src.is_broadcast() && !ip.src.is_multicast();
        if about_error || ip.fragment_offset != 0 || !to_one {
            return;
        }
        if !self.icmp.error_limit.allows(time::now()) {
            count(&self.icmp.limited);
            return;
        }
        // For want of memory the error is lost, as it might be on the wire.
        if self.icmp_send_error(error, from, ip, data).is_ok() {
            count(&self.icmp.errors_sent);
        }
    }

    fn icmp_send_error(
        &self,
        (kind, code, next_mtu): (u8, u8, u16),
        from: Ipv4Addr,
        ip: &IpHeader,
        data: &Mbuf,
    ) -> Result<(), Errno> {
        let quoted = IpHeader {
            header_len: IP_HDR_LEN,
            total_len: IP_HDR_LEN + ip.payload_len(),
            ..*ip
        };
        let mut start = [0; QUOTED];
        let start = &mut start[..QUOTED.min(data.len())];
        data.copy_out(0, start)?;
        let mut rest = Mbuf::new();
        rest.prepend_slice(start)?;
        rest.prepend_slice(&quoted.encode())?;
        let [high, low] = next_mtu.to_be_bytes();
        rest.prepend_slice(&[0, 0, high, low])?;
        self.icmp_send(rest, kind, code, from, ip.src, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    #[test]
    fn a_rate_limit_lets_its_number_pass_in_each_second() {
        let limit = RateLimit::new(3);
        let start = Instant::from_nanos(5_000_000_000);
        let passed = |at| (0..10).filter(|_| limit.allows(at)).count();
        assert_eq!(passed(start), 3);
        assert_eq!(passed(start + Duration::from_millis(900)), 0);
        assert_eq!(passed(start + Duration::from_secs(1)), 3);
    }

    #[test]
    fn errors_mean_what_rfc_1122_says() {
        assert!(IcmpError::of(3, 3, 0).is_some_and(IcmpError::is_refusal));
        assert_eq!(
            IcmpError::of(3, 4, 1400),
            Some(IcmpError::NeedFragment(1400))
        );
        assert_eq!(
            IcmpError::of(3, 1, 0).and_then(IcmpError::errno),
            Some(Errno::EHOSTUNREACH)
        );
        assert_eq!(IcmpError::of(11, 0, 0).and_then(IcmpError::errno), None);
        assert_eq!(IcmpError::of(3, 16, 0), None);
        assert_eq!(IcmpError::of(5, 0, 0), None);
    }
}
