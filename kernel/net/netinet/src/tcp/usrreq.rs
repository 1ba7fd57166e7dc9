//! What the socket layer asks of TCP.

use super::Tcp;
use super::pcb::{Data, TcpPcb, output_if, resize_receive};
use super::tcb::Outcome;
use super::tuple::Tuple;
use crate::ip::IpProto;
use alloc::sync::{Arc, Weak};
use core::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use rumpkern::time;
use rumpnet::mbuf::Mbuf;
use rumpnet::protocol::{Domain, Pcb, ProtoOption, ProtoOptionName, Protocol, SockType};
use rumpnet::socket::{SoOptions, Socket};
use rumpuser::Errno;

/// TCP as a protocol of sockets. It does not hold TCP: a socket holds its protocol, and TCP holds the sockets whose
/// users are gone.
pub struct TcpProtocol {
    tcp: Weak<Tcp>,
}

impl TcpProtocol {
    pub(super) fn new(tcp: &Arc<Tcp>) -> TcpProtocol {
        TcpProtocol {
            tcp: Arc::downgrade(tcp),
        }
    }
}

impl Protocol for TcpProtocol {
    fn domain(&self) -> Domain {
        Domain::AF_INET
    }

    fn sock_type(&self) -> SockType {
        SockType::Stream
    }

    fn number(&self) -> u8 {
        IpProto::TCP.0
    }

    fn attach(&self, so: &Arc<Socket>) -> Result<Arc<dyn Pcb>, Errno> {
        let tcp = self.tcp.upgrade().ok_or(Errno::ENETDOWN)?;
        Ok(TcpPcb::new(&tcp, so)?)
    }
}

/// TCP over IPv4 takes IPv4 addresses.
fn v4(addr: SocketAddr) -> Result<SocketAddrV4, Errno> {
    match addr {
        SocketAddr::V4(addr) => Ok(addr),
        SocketAddr::V6(_) => Err(Errno::EAFNOSUPPORT),
    }
}

impl TcpPcb {
    /// Binds; to a port nobody uses if that is 0.
    fn bind_locked(
        &self,
        tcp: &Tcp,
        data: &mut Data,
        addr: SocketAddrV4,
        options: SoOptions,
    ) -> Result<(), Errno> {
        if data.local.port() != 0 || data.conn.is_some() {
            return Err(Errno::EINVAL);
        }
        let ip = IpAddr::V4(*addr.ip());
        let mut tables = tcp.tables();
        let port = match addr.port() {
            0 => tables.free_port(ip)?,
            port => port,
        };
        let reuse = SoOptions::SO_REUSEADDR | SoOptions::SO_REUSEPORT;
        if !options.intersects(reuse) && tables.is_port_busy(port) {
            return Err(Errno::EADDRINUSE);
        }
        let shared = options.contains(SoOptions::SO_REUSEPORT);
        data.binding = Some(tables.ports.bind(ip, port, shared)?);
        data.local = SocketAddr::new(ip, port);
        Ok(())
    }

    /// Lets something happen to the connection, if there is one.
    fn request(
        &self,
        happen: impl FnOnce(
            &mut super::tcb::Tcb<Mbuf>,
            &mut rumpnet::socket::SocketGuard<'_>,
        ) -> Outcome,
    ) -> Result<(), Errno> {
        let (tcp, inet) = self.stack()?;
        self.run((&tcp, &inet), time::now(), happen);
        Ok(())
    }
}

impl Pcb for TcpPcb {
    fn bind(&self, so: &Arc<Socket>, addr: SocketAddr) -> Result<(), Errno> {
        let addr = v4(addr)?;
        let (tcp, inet) = self.stack()?;
        let group = addr.ip().is_broadcast() || addr.ip().is_multicast();
        if group || (!addr.ip().is_unspecified() && !inet.is_local(*addr.ip())) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let options = so.lock().options;
        self.bind_locked(&tcp, &mut self.lock(), addr, options)
    }

    fn listen(&self, so: &Arc<Socket>) -> Result<(), Errno> {
        let (tcp, _) = self.stack()?;
        let me = TcpPcb::of(so).ok_or(Errno::EINVAL)?;
        let options = so.lock().options;
        let mut data = self.lock();
        if data.conn.is_some() {
            return Err(Errno::EISCONN);
        }
        if data.local.port() == 0 {
            let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
            self.bind_locked(&tcp, &mut data, any, options)?;
        }
        let binding = data.binding.ok_or(Errno::EINVAL)?;
        tcp.tables().ports.listen(binding, me);
        Ok(())
    }

    fn connect(&self, so: &Arc<Socket>, addr: SocketAddr) -> Result<(), Errno> {
        let addr = v4(addr)?;
        let (tcp, inet) = self.stack()?;
        let me = TcpPcb::of(so).ok_or(Errno::EINVAL)?;
        let to = *addr.ip();
        if addr.port() == 0 || to.is_unspecified() {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let hop = inet.route(to)?;
        if to.is_multicast() || inet.is_broadcast(&hop.ifp, to) {
            return Err(Errno::ENETUNREACH);
        }
        let bound = self.lock().local;
        let local = match bound.ip() {
            any if any.is_unspecified() => IpAddr::V4(hop.source),
            one => one,
        };
        let wanted = Tuple {
            local,
            local_port: bound.port(),
            remote_port: addr.port(),
            remote: IpAddr::V4(to),
        };
        me.open((&tcp, &inet), wanted, &tcp.config(&hop.ifp))
    }

    fn send(&self, _: &Arc<Socket>, _: Mbuf, _: Option<SocketAddr>) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    fn output(&self, _: &Arc<Socket>, more: bool) -> Result<(), Errno> {
        self.request(|tcb, so| {
            let added = (so.snd.len() as u32).saturating_sub(tcb.queued());
            // What follows must have room, now or when what is in flight is acknowledged; or it would wait
            // for what waits for it.
            let room = so.snd.space() >= tcb.mss() as usize;
            let more = more && (room || tcb.in_flight() > 0);
            output_if(tcb.send(added, more))
        })
    }

    fn rcvd(&self, _: &Arc<Socket>) {
        // Without a stack there is nobody to tell.
        let _gone = self.request(|tcb, so| {
            resize_receive(tcb, so);
            let read = tcb.unread().saturating_sub(so.rcv.len() as u32);
            output_if(tcb.consumed(read))
        });
    }

    fn shutdown(&self, _: &Arc<Socket>) -> Result<(), Errno> {
        self.request(|tcb, _| tcb.close_send().unwrap_or_default())
    }

    fn disconnect(&self, _: &Arc<Socket>) -> Result<(), Errno> {
        self.request(|tcb, so| {
            so.soisdisconnecting();
            tcb.close(time::now())
        })
    }

    fn abort(&self, _: &Arc<Socket>) {
        // Without a stack there is nothing to abort.
        let _gone = self.request(|tcb, _| tcb.abort());
    }

    fn detach(&self, so: Arc<Socket>) {
        let closed = self.request(|tcb, _| tcb.close(time::now()));
        let Ok((tcp, _)) = self.stack() else { return };
        let binding = self.lock().binding.take();
        if let Some(binding) = binding {
            tcp.tables().unbind(binding);
        }
        if closed.is_ok() {
            self.keep_orphan(so);
        }
    }

    fn sockaddr(&self) -> SocketAddr {
        self.lock().local
    }

    fn peeraddr(&self) -> Option<SocketAddr> {
        let data = self.lock();
        let tuple = data.conn.as_ref()?.tuple;
        Some(SocketAddr::new(tuple.remote, tuple.remote_port))
    }

    fn setopt(&self, so: &Arc<Socket>, option: ProtoOption) -> Result<(), Errno> {
        let seconds = |value: u32| {
            (1..=32_767)
                .contains(&value)
                .then_some(value)
                .ok_or(Errno::EINVAL)
        };
        match option {
            ProtoOption::TcpNodelay(on) => {
                self.lock().no_delay = on;
                return self.request(|tcb, _| output_if(tcb.set_no_delay(on)));
            }
            ProtoOption::IpTtl(0) => return Err(Errno::EINVAL),
            ProtoOption::IpTtl(ttl) => {
                self.lock().ttl = ttl;
                return Ok(());
            }
            ProtoOption::TcpKeepIdle(value) => self.lock().keepalive.idle_seconds = seconds(value)?,
            ProtoOption::TcpKeepIntvl(value) => {
                self.lock().keepalive.interval_seconds = seconds(value)?
            }
            ProtoOption::TcpKeepCnt(value) => {
                let probes = u8::try_from(value).ok().filter(|&probes| probes > 0);
                self.lock().keepalive.probes = probes.ok_or(Errno::EINVAL)?;
            }
            _ => return Err(Errno::ENOPROTOOPT),
        }
        self.options_changed(so)
    }

    fn getopt(&self, _: &Arc<Socket>, name: ProtoOptionName) -> Result<ProtoOption, Errno> {
        let data = self.lock();
        Ok(match name {
            ProtoOptionName::TcpNodelay => ProtoOption::TcpNodelay(data.no_delay),
            ProtoOptionName::IpTtl => ProtoOption::IpTtl(data.ttl),
            ProtoOptionName::TcpKeepIdle => ProtoOption::TcpKeepIdle(data.keepalive.idle_seconds),
            ProtoOptionName::TcpKeepIntvl => {
                ProtoOption::TcpKeepIntvl(data.keepalive.interval_seconds)
            }
            ProtoOptionName::TcpKeepCnt => {
                ProtoOption::TcpKeepCnt(u32::from(data.keepalive.probes))
            }
            ProtoOptionName::TcpMaxseg => {
                let mss = data.conn.as_ref().map(|conn| conn.tcb.mss());
                ProtoOption::TcpMaxseg(mss.unwrap_or(u32::from(super::tcb::MSS_DEFAULT)))
            }
        })
    }

    fn options_changed(&self, _: &Arc<Socket>) -> Result<(), Errno> {
        let keepalive = self.lock().keepalive;
        self.request(|tcb, so| {
            let on = so.options.contains(SoOptions::SO_KEEPALIVE);
            tcb.set_keepalive(on.then_some(keepalive), time::now());
            Outcome::default()
        })
    }

    fn as_any(&self) -> &(dyn core::any::Any + Send + Sync) {
        self
    }
}
