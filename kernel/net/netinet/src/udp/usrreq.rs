//! What the socket layer asks of UDP.

use super::Udp;
use super::pcb::{Share, UdpPcb};
use crate::inet::Inet;
use crate::ip::{IP_DEFAULT_TTL, IpOut, IpProto};
use alloc::sync::{Arc, Weak};
use core::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use rumpkern::kmem;
use rumpnet::mbuf::Mbuf;
use rumpnet::protocol::{Domain, Pcb, ProtoOption, ProtoOptionName, Protocol, SockType};
use rumpnet::socket::{SoOptions, SoState, Socket};
use rumpuser::Errno;

/// UDP as a protocol of sockets.
pub struct UdpProtocol {
    udp: Arc<Udp>,
    inet: Weak<Inet>,
}

impl UdpProtocol {
    pub(super) fn new(udp: &Arc<Udp>, inet: &Arc<Inet>) -> UdpProtocol {
        UdpProtocol {
            udp: udp.clone(),
            inet: Arc::downgrade(inet),
        }
    }
}

impl Protocol for UdpProtocol {
    fn domain(&self) -> Domain {
        Domain::AF_INET
    }

    fn sock_type(&self) -> SockType {
        SockType::Dgram
    }

    fn number(&self) -> u8 {
        IpProto::UDP.0
    }

    fn attach(&self, so: &Arc<Socket>) -> Result<Arc<dyn Pcb>, Errno> {
        let pcb = kmem::try_arc(UdpPcb::new(so, IP_DEFAULT_TTL)).map_err(|_| Errno::ENOBUFS)?;
        let user = kmem::try_arc(UdpUser {
            pcb,
            udp: self.udp.clone(),
            inet: self.inet.clone(),
        });
        Ok(user.map_err(|_| Errno::ENOBUFS)?)
    }
}

/// A control block, and what it works with.
pub(crate) struct UdpUser {
    pub(crate) pcb: Arc<UdpPcb>,
    udp: Arc<Udp>,
    inet: Weak<Inet>,
}

/// UDP over IPv4 takes IPv4 addresses.
fn v4(addr: SocketAddr) -> Result<SocketAddrV4, Errno> {
    match addr {
        SocketAddr::V4(addr) => Ok(addr),
        SocketAddr::V6(_) => Err(Errno::EAFNOSUPPORT),
    }
}

impl UdpUser {
    fn inet(&self) -> Result<Arc<Inet>, Errno> {
        self.inet.upgrade().ok_or(Errno::ENETDOWN)
    }

    /// Binds to a port of the kernel's choice if it is not bound.
    fn ensure_bound(&self) -> Result<SocketAddrV4, Errno> {
        let local = self.pcb.ends().local;
        if local.port() != 0 {
            return Ok(local);
        }
        let any = SocketAddrV4::new(*local.ip(), 0);
        match self.udp.table.bind(&self.pcb, any, Share::No) {
            // Another thread has done it meanwhile.
            Err(Errno::EINVAL) => Ok(self.pcb.ends().local),
            bound => bound,
        }
    }
}

impl Pcb for UdpUser {
    fn bind(&self, so: &Arc<Socket>, addr: SocketAddr) -> Result<(), Errno> {
        let addr = v4(addr)?;
        let inet = self.inet()?;
        let any = addr.ip().is_unspecified();
        let group = addr.ip().is_broadcast() || addr.ip().is_multicast();
        if group || (!any && !inet.is_local(*addr.ip())) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let shared = SoOptions::SO_REUSEADDR | SoOptions::SO_REUSEPORT;
        let is_shared = so.lock().options.intersects(shared);
        let share = match is_shared {
            true => Share::Yes,
            false => Share::No,
        };
        self.udp.table.bind(&self.pcb, addr, share).map(|_| ())
    }

    fn listen(&self, _: &Arc<Socket>) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    fn connect(&self, so: &Arc<Socket>, addr: SocketAddr) -> Result<(), Errno> {
        let addr = v4(addr)?;
        if addr.port() == 0 || addr.ip().is_unspecified() {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let inet = self.inet()?;
        let source = inet.route(*addr.ip())?.source;
        let bound = self.ensure_bound()?;
        let local = match bound.ip().is_unspecified() {
            true => SocketAddrV4::new(source, bound.port()),
            false => bound,
        };
        self.pcb.set_remote(local, Some(addr));
        let mut so = so.lock();
        so.state.insert(SoState::SS_ISCONNECTED);
        Ok(())
    }

    fn send(&self, so: &Arc<Socket>, m: Mbuf, to: Option<SocketAddr>) -> Result<(), Errno> {
        let inet = self.inet()?;
        let bound = self.ensure_bound()?;
        let ends = self.pcb.ends();
        let to = match to {
            Some(to) => v4(to)?,
            None => ends.remote.ok_or(Errno::EDESTADDRREQ)?,
        };
        if to.port() == 0 || to.ip().is_unspecified() {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let mut from = bound;
        if from.ip().is_unspecified() && ends.ifp.is_none() {
            from.set_ip(inet.route(*to.ip())?.source);
        }
        let out = IpOut {
            ttl: self.pcb.ttl(),
            broadcast: so.lock().options.contains(SoOptions::SO_BROADCAST),
            ifp: ends.ifp.as_ref(),
            ..IpOut::new(*from.ip(), *to.ip(), IpProto::UDP)
        };
        self.udp.output(&inet, m, from, to, &out)
    }

    fn output(&self, _: &Arc<Socket>, _: bool) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    fn rcvd(&self, _: &Arc<Socket>) {}

    fn shutdown(&self, _: &Arc<Socket>) -> Result<(), Errno> {
        Ok(())
    }

    fn disconnect(&self, so: &Arc<Socket>) -> Result<(), Errno> {
        let local = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, self.pcb.ends().local.port());
        self.pcb.set_remote(local, None);
        so.lock().state.remove(SoState::SS_ISCONNECTED);
        Ok(())
    }

    fn abort(&self, so: &Arc<Socket>) {
        so.lock().soisdisconnected();
    }

    fn detach(&self, so: Arc<Socket>) {
        self.udp.table.unbind(&self.pcb);
        so.lock().soisdisconnected();
    }

    fn sockaddr(&self) -> SocketAddr {
        SocketAddr::V4(self.pcb.ends().local)
    }

    fn peeraddr(&self) -> Option<SocketAddr> {
        self.pcb.ends().remote.map(SocketAddr::V4)
    }

    fn setopt(&self, _: &Arc<Socket>, option: ProtoOption) -> Result<(), Errno> {
        match option {
            ProtoOption::IpTtl(0) => Err(Errno::EINVAL),
            ProtoOption::IpTtl(ttl) => {
                self.pcb.set_ttl(ttl);
                Ok(())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn getopt(&self, _: &Arc<Socket>, name: ProtoOptionName) -> Result<ProtoOption, Errno> {
        match name {
            ProtoOptionName::IpTtl => Ok(ProtoOption::IpTtl(self.pcb.ttl())),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn as_any(&self) -> &(dyn core::any::Any + Send + Sync) {
        self
    }
}

/// Restricts a UDP socket to one interface ([`UdpPcb::bind_interface`]).
///
/// # Errors
/// `EPROTOTYPE` for any other socket.
pub(crate) fn bind_interface(so: &Socket, ifp: &Arc<rumpnet::ifnet::Ifnet>) -> Result<(), Errno> {
    let user = so.pcb()?.as_any().downcast_ref::<UdpUser>();
    user.ok_or(Errno::EPROTOTYPE)?.pcb.bind_interface(ifp);
    Ok(())
}
