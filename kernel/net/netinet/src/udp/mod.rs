//! UDP (RFC 768, RFC 1122 §4.1).
//!
//! - `mod.rs`: datagrams in and out;
//! - `pcb.rs`: control blocks and the table that finds them by port.

mod pcb;
mod usrreq;

pub use pcb::UdpPcb;
pub use usrreq::UdpProtocol;
pub(crate) use usrreq::bind_interface;

use crate::icmp::{IcmpError, Unreach};
use crate::in_cksum::{Checksum, in4_cksum};
use crate::inet::{Inet, Transport};
use crate::ip::{IP_MAXPACKET, IpHeader, IpOut, IpProto};
use alloc::sync::Arc;
use core::net::{SocketAddr, SocketAddrV4};
use core::sync::atomic::AtomicU64;
use pcb::UdpTable;
use rumpnet::ifnet::{Ifnet, count};
use rumpnet::mbuf::{Mbuf, MbufFlags, TxChecksum};
use rumpnet::net::Net;
use rumpnet::socket::SoState;
use rumpuser::Errno;

/// Bytes of a header.
const UDP_HDR_LEN: usize = 8;

/// The longest message: a packet less two headers.
pub const UDP_MAXMSG: usize = IP_MAXPACKET - 20 - UDP_HDR_LEN;

/// Counters (`udpstat`).
#[derive(Debug, Default)]
pub struct UdpStats {
    /// Datagrams received.
    pub ipackets: AtomicU64,
    /// Shorter than a header, or than they say.
    pub bad_length: AtomicU64,
    /// Wrong checksum.
    pub bad_sum: AtomicU64,
    /// Nobody at the port.
    pub noport: AtomicU64,
    /// Dropped because a socket's buffer was full.
    pub full: AtomicU64,
    /// Datagrams sent.
    pub opackets: AtomicU64,
}

/// UDP of one kernel.
pub struct Udp {
    table: UdpTable,
    /// Counters.
    pub stats: UdpStats,
}

/// A received datagram's way: who sent it to whom.
#[derive(Clone, Copy)]
pub(crate) struct Flow {
    local: SocketAddrV4,
    remote: SocketAddrV4,
}

impl Udp {
    /// Starts UDP: sockets can be made, datagrams come in.
    ///
    /// # Errors
    /// `EEXIST` if it was started; `ENXIO` without randomness.
    pub fn attach(inet: &Arc<Inet>, net: &Net) -> Result<Arc<Udp>, Errno> {
        let udp = Arc::new(Udp {
            table: UdpTable::new()?,
            stats: UdpStats::default(),
        });
        inet.register(IpProto::UDP, udp.clone())?;
        net.register_protocol(Arc::new(UdpProtocol::new(&udp, inet)))?;
        Ok(udp)
    }

    /// Sends one datagram.
    pub(crate) fn output(
        &self,
        inet: &Inet,
        mut m: Mbuf,
        from: SocketAddrV4,
        to: SocketAddrV4,
        out: &IpOut<'_>,
    ) -> Result<(), Errno> {
        let len = UDP_HDR_LEN + m.len();
        if m.len() > UDP_MAXMSG {
            return Err(Errno::EMSGSIZE);
        }
        let mut header = [0; UDP_HDR_LEN];
        header[..2].copy_from_slice(&from.port().to_be_bytes());
        header[2..4].copy_from_slice(&to.port().to_be_bytes());
        header[4..6].copy_from_slice(&(len as u16).to_be_bytes());
        let mut pseudo = Checksum::new();
        pseudo.add_pseudo_header(*from.ip(), *to.ip(), IpProto::UDP.0, len);
        header[6..].copy_from_slice(&pseudo.folded().to_be_bytes());
        m.prepend_slice(&header)?;
        m.pkthdr.checksum = Some(TxChecksum {
            field: 6,
            zero_is_ones: true,
        });
        count(&self.stats.opackets);
        inet.ip_output(m, out)
    }

    fn parse(&self, ip: &IpHeader, m: &mut Mbuf) -> Option<Flow> {
        let header = m.header::<UDP_HDR_LEN>(0);
        let Ok(header) = header else {
            count(&self.stats.bad_length);
            return None;
        };
        let half = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let len = usize::from(half(4));
        if len < UDP_HDR_LEN || len > m.len() {
            count(&self.stats.bad_length);
            return None;
        }
        // 0 means that the sender did not compute one.
        let unchecked = half(6) == 0 || m.pkthdr.flags.contains(MbufFlags::M_CSUM_OK);
        if !unchecked && in4_cksum(m, 0, len, ip.src, ip.dst, IpProto::UDP.0) != 0 {
            count(&self.stats.bad_sum);
            return None;
        }
        // A port of 0 cannot be answered, and nobody is there.
        if half(2) == 0 {
            count(&self.stats.noport);
            return None;
        }
        m.truncate(len);
        Some(Flow {
            local: SocketAddrV4::new(ip.dst, half(2)),
            remote: SocketAddrV4::new(ip.src, half(0)),
        })
    }

    fn deliver(&self, pcb: &UdpPcb, remote: SocketAddrV4, data: Mbuf) {
        let Some(so) = pcb.socket() else { return };
        let mut so = so.lock();
        if so.state.contains(SoState::SS_CANTRCVMORE) {
            return;
        }
        match so.rcv.append_record(Some(SocketAddr::V4(remote)), data) {
            Ok(()) => so.sorwakeup(),
            Err(_) => count(&self.stats.full),
        }
    }
}

impl Transport for Udp {
    fn input(&self, inet: &Arc<Inet>, ifp: &Arc<Ifnet>, ip: &IpHeader, mut m: Mbuf) {
        count(&self.stats.ipackets);
        let Some(flow) = self.parse(ip, &mut m) else {
            return;
        };
        let group = MbufFlags::M_BCAST | MbufFlags::M_MCAST;
        if m.pkthdr.flags.intersects(group) {
            // To each socket that wants it (RFC 1122 §4.1.3.3 leaves it open; BSD does so).
            let pcbs = self.table.lookup_all(&flow, ifp);
            m.trim_front(UDP_HDR_LEN);
            for pcb in pcbs {
                match m.copy_range(0, m.len()) {
                    Ok(copy) => self.deliver(&pcb, flow.remote, copy),
                    Err(_) => count(&self.stats.full),
                }
            }
            return;
        }
        let Some(pcb) = self.table.lookup(&flow, ifp) else {
            count(&self.stats.noport);
            inet.icmp_unreachable(ifp, ip, &m, Unreach::Port);
            return;
        };
        m.trim_front(UDP_HDR_LEN);
        self.deliver(&pcb, flow.remote, m);
    }

    fn ctlinput(&self, _: &Arc<Inet>, error: IcmpError, sent: &IpHeader, data: &[u8; 8]) {
        let half = |at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
        let flow = Flow {
            local: SocketAddrV4::new(sent.src, half(0)),
            remote: SocketAddrV4::new(sent.dst, half(2)),
        };
        // Only a connected socket is told: who sends to many could not know which it was about.
        let Some(pcb) = self.table.lookup_connected(&flow) else {
            return;
        };
        if let (Some(errno), Some(so)) = (error.errno(), pcb.socket()) {
            so.lock().set_error(errno);
        }
    }
}
