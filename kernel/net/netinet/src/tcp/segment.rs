//! Segments in and out: between IP and the control blocks.

use super::Tcp;
use super::demux::Verdict;
use super::header::{HEADER_MAX, HEADER_MIN, Header};
use super::pcb::TcpPcb;
use super::reass::Payload;
use super::seq::Seq;
use super::tcb::{Config, Handshake};
use super::tuple::Tuple;
use crate::icmp::IcmpError;
use crate::in_cksum::{Checksum, in4_cksum};
use crate::inet::{Inet, Transport};
use crate::ip::{IP_DEFAULT_TTL, IpHeader, IpOut, IpProto};
use alloc::sync::Arc;
use core::net::{IpAddr, Ipv4Addr};
use rumpkern::time;
use rumpnet::ifnet::{Ifnet, count};
use rumpnet::mbuf::{Mbuf, MbufFlags, TxChecksum};
use rumpnet::socket::Socket;
use rumpuser::{Errno, Instant};

/// Where the checksum stands in the header.
const CHECKSUM_AT: usize = 16;

impl Payload for Mbuf {
    fn len(&self) -> usize {
        self.len()
    }

    fn trim_front(&mut self, bytes: usize) {
        self.trim_front(bytes);
    }

    fn truncate(&mut self, bytes: usize) {
        self.truncate(bytes);
    }

    fn memory_bytes(&self) -> usize {
        self.held_bytes()
    }
}

/// A segment on its way out.
pub(super) struct Outgoing {
    pub(super) packet: Mbuf,
    pub(super) ttl: u8,
}

impl Outgoing {
    /// Puts the header in front of the data; the checksum is left for IP or the interface to complete.
    ///
    /// # Errors
    /// `ENOBUFS`; `EAFNOSUPPORT`.
    pub(super) fn build(
        tuple: &Tuple,
        mut header: Header,
        mut packet: Mbuf,
        segment_bytes: u16,
        ttl: u8,
    ) -> Result<Outgoing, Errno> {
        let (from, to) = v4_ends(tuple)?;
        header.source = tuple.local_port;
        header.destination = tuple.remote_port;
        let mut bytes = [0; HEADER_MAX];
        let header_bytes = header.emit(&mut bytes);
        let mut pseudo = Checksum::new();
        pseudo.add_pseudo_header(from, to, IpProto::TCP.0, header_bytes + packet.len());
        bytes[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&pseudo.folded().to_be_bytes());
        packet.prepend_slice(&bytes[..header_bytes])?;
        packet.pkthdr.checksum = Some(TxChecksum {
            field: CHECKSUM_AT as u8,
            zero_is_ones: false,
        });
        packet.pkthdr.segment_bytes = segment_bytes;
        packet.pkthdr.transport_header = header_bytes as u16;
        Ok(Outgoing { packet, ttl })
    }

    /// Hands it to IP; `more` follow at once.
    ///
    /// # Errors
    /// As [`Inet::ip_output`].
    pub(super) fn send(
        mut self,
        tcp: &Tcp,
        inet: &Inet,
        tuple: &Tuple,
        more: bool,
    ) -> Result<(), Errno> {
        let (from, to) = v4_ends(tuple)?;
        self.packet.pkthdr.flags.set(MbufFlags::M_MORE, more);
        let out = IpOut {
            ttl: self.ttl,
            dont_fragment: true,
            ..IpOut::new(from, to, IpProto::TCP)
        };
        let sent = inet.ip_output(self.packet, &out);
        count(if sent.is_ok() {
            &tcp.stats.sent
        } else {
            &tcp.stats.send_failed
        });
        sent
    }
}

fn v4_ends(tuple: &Tuple) -> Result<(Ipv4Addr, Ipv4Addr), Errno> {
    match (tuple.local, tuple.remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => Ok((local, remote)),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

impl Transport for Tcp {
    fn input(&self, inet: &Arc<Inet>, ifp: &Arc<Ifnet>, ip: &IpHeader, mut m: Mbuf) {
        count(&self.stats.received);
        // RFC 9293 §3.9.2.3, MUST-57: a connection has one peer.
        if m.pkthdr
            .flags
            .intersects(MbufFlags::M_BCAST | MbufFlags::M_MCAST)
        {
            return;
        }
        let Some((header, header_bytes)) = self.parse(ip, &mut m) else {
            return;
        };
        m.trim_front(header_bytes);
        let tuple = Tuple {
            local: IpAddr::V4(ip.dst),
            local_port: header.destination,
            remote_port: header.source,
            remote: IpAddr::V4(ip.src),
        };
        let now = time::now();
        let connection = self.tables().find(&tuple);
        match connection {
            Some(pcb) => pcb.segment(self, inet, now, &header, m),
            None => self.unconnected(inet, ifp, now, &tuple, &header, m),
        }
    }

    fn ctlinput(&self, inet: &Arc<Inet>, error: IcmpError, sent: &IpHeader, data: &[u8; 8]) {
        let &[s0, s1, d0, d1, q0, q1, q2, q3] = data;
        let tuple = Tuple {
            local: IpAddr::V4(sent.src),
            local_port: u16::from_be_bytes([s0, s1]),
            remote_port: u16::from_be_bytes([d0, d1]),
            remote: IpAddr::V4(sent.dst),
        };
        let connection = self.tables().find(&tuple);
        if let Some(pcb) = connection {
            pcb.icmp(self, inet, Seq(u32::from_be_bytes([q0, q1, q2, q3])), error);
        }
    }
}

impl Tcp {
    /// The header of a segment whose checksum is right, and how many bytes it takes.
    fn parse(&self, ip: &IpHeader, m: &mut Mbuf) -> Option<(Header, usize)> {
        let len = m.len();
        let vouched = m.pkthdr.flags.contains(MbufFlags::M_CSUM_OK);
        if !vouched && in4_cksum(m, 0, len, ip.src, ip.dst, IpProto::TCP.0) != 0 {
            count(&self.stats.bad_sum);
            return None;
        }
        let header_bytes = match m.pullup(HEADER_MIN) {
            Ok(fixed) => usize::from(fixed[12] >> 4) * 4,
            Err(_) => 0,
        };
        let header = match m.pullup(header_bytes.max(HEADER_MIN)) {
            Ok(bytes) => Header::parse(bytes).ok(),
            Err(_) => None,
        };
        if header.is_none() {
            count(&self.stats.malformed);
        }
        header
    }

    /// A segment of no connection that has a control block.
    fn unconnected(
        &self,
        inet: &Arc<Inet>,
        ifp: &Arc<Ifnet>,
        now: Instant,
        tuple: &Tuple,
        header: &Header,
        m: Mbuf,
    ) {
        let IpAddr::V4(local) = tuple.local else {
            return;
        };
        if !inet.is_local(local) {
            return;
        }
        let config = self.config(ifp);
        let verdict = self
            .tables()
            .classify(now, tuple, header, m.len() as u32, &config);
        match verdict {
            Verdict::Connection(pcb) => pcb.segment(self, inet, now, header, m),
            Verdict::Syn(listener, floor) => {
                let Some(so) = listener.socket() else { return };
                if !so.queue_room() {
                    self.turned_away(&so, now);
                    return;
                }
                let reply = self.tables().answer_syn(now, tuple, header, &config, floor);
                self.respond(inet, tuple, reply);
            }
            Verdict::Complete(listener, handshake) => {
                if let Some(pcb) = self.complete(&listener, tuple, &handshake, &config, now) {
                    pcb.segment(self, inet, now, header, m);
                }
            }
            Verdict::Reply(reply) => self.respond(inet, tuple, reply),
            Verdict::Drop => {}
        }
        self.arm();
    }

    /// A connection to a listening socket came to nothing now; whoever wants it says so again.
    fn turned_away(&self, listener: &Socket, now: Instant) {
        count(&self.stats.listen_overflow);
        if !listener.socket_room() {
            self.hasten(now);
        }
    }

    /// A handshake with a listening socket is over but for this segment: makes the connection. If that fails,
    /// the entry in the SYN cache stays, and the next segment tries again.
    fn complete(
        &self,
        listener: &TcpPcb,
        tuple: &Tuple,
        handshake: &Handshake,
        config: &Config,
        now: Instant,
    ) -> Option<Arc<TcpPcb>> {
        let head = listener.socket()?;
        let Ok(so) = head.sonewconn() else {
            self.turned_away(&head, now);
            return None;
        };
        let pcb = TcpPcb::of(&so)?;
        if pcb
            .accept(self, listener, tuple, handshake, config, now)
            .is_err()
        {
            so.soabandoned();
            return None;
        }
        Some(pcb)
    }

    /// Sends a segment without data that no connection sends. It may get lost, here as on the wire.
    pub(super) fn respond(&self, inet: &Inet, tuple: &Tuple, header: Header) {
        let built = Outgoing::build(tuple, header, Mbuf::new(), 0, IP_DEFAULT_TTL);
        let sent = built.and_then(|segment| segment.send(self, inet, tuple, false));
        if let Err(error) = sent {
            log::debug!("tcp: an answer to {tuple:?} was not sent: {error}");
        }
    }
}
