//! What a protocol is to the socket layer: the switch (`struct protosw`) and the user requests
//! (`pr_usrreqs`) on one protocol control block.
//!
//! Ownership: a [`Socket`] owns its PCB; the PCB holds a `Weak` of the socket. When the user closes
//! the socket, [`Pcb::detach`] hands the socket itself over: a protocol that still has something to
//! do (TCP: data to deliver) keeps it until that is done, and drops it then.
//!
//! Locks: the socket layer calls a [`Pcb`] with no lock held. A protocol takes its own PCB's lock
//! first and the socket's ([`Socket::lock`]) inside it, never the other way round.

use crate::mbuf::Mbuf;
use crate::socket::Socket;
use alloc::sync::Arc;
use core::net::SocketAddr;
use rumpuser::Errno;

/// A protocol family (`AF_*`, NetBSD `sys/socket.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain(pub u8);

impl Domain {
    /// IPv4.
    pub const AF_INET: Domain = Domain(2);
    /// IPv6.
    pub const AF_INET6: Domain = Domain(24);
}

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SockType {
    /// A byte stream (`SOCK_STREAM`).
    Stream,
    /// Messages (`SOCK_DGRAM`).
    Dgram,
}

/// A socket option that belongs to a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtoOption {
    /// Send small segments at once (`TCP_NODELAY`).
    TcpNodelay(bool),
    /// Time to live of packets sent (`IP_TTL`).
    IpTtl(u8),
    /// Seconds of silence before the first keep-alive probe (`TCP_KEEPIDLE`).
    TcpKeepIdle(u32),
    /// Seconds between keep-alive probes (`TCP_KEEPINTVL`).
    TcpKeepIntvl(u32),
    /// Keep-alive probes before giving up (`TCP_KEEPCNT`).
    TcpKeepCnt(u32),
    /// The largest segment in bytes (`TCP_MAXSEG`).
    TcpMaxseg(u32),
}

/// Names a [`ProtoOption`] whose value is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtoOptionName {
    /// `TCP_NODELAY`.
    TcpNodelay,
    /// `IP_TTL`.
    IpTtl,
    /// `TCP_KEEPIDLE`.
    TcpKeepIdle,
    /// `TCP_KEEPINTVL`.
    TcpKeepIntvl,
    /// `TCP_KEEPCNT`.
    TcpKeepCnt,
    /// `TCP_MAXSEG`.
    TcpMaxseg,
}

/// A protocol that sockets can be made of.
pub trait Protocol: Send + Sync {
    /// Its family.
    fn domain(&self) -> Domain;
    /// What its sockets carry.
    fn sock_type(&self) -> SockType;
    /// Its number (`IPPROTO_*`).
    fn number(&self) -> u8;
    /// Makes the control block of a new socket. `so` is not yet usable but may be held weakly.
    ///
    /// # Errors
    /// `ENOBUFS`.
    fn attach(&self, so: &Arc<Socket>) -> Result<Arc<dyn Pcb>, Errno>;
}

/// What the socket layer asks of one control block. The errors are those of the system call that
/// leads to the request.
pub trait Pcb: Send + Sync {
    /// Binds to a local address.
    fn bind(&self, so: &Arc<Socket>, addr: SocketAddr) -> Result<(), Errno>;

    /// Starts to accept connections. The backlog is already in the socket.
    fn listen(&self, so: &Arc<Socket>) -> Result<(), Errno>;

    /// Starts to connect: a stream calls [`SocketGuard::soisconnecting`](crate::socket::SocketGuard::soisconnecting) and, later, `soisconnected` or
    /// fails; a datagram protocol is connected when this returns. The socket layer waits.
    fn connect(&self, so: &Arc<Socket>, addr: SocketAddr) -> Result<(), Errno>;

    /// Datagrams: sends one message. Streams are never asked.
    fn send(&self, so: &Arc<Socket>, message: Mbuf, to: Option<SocketAddr>) -> Result<(), Errno>;

    /// Streams: data was appended to the send buffer; send what may be sent. `more`: the user will
    /// give more at once (`MSG_MORE`).
    fn output(&self, so: &Arc<Socket>, more: bool) -> Result<(), Errno>;

    /// Streams: the user took data out of the receive buffer; maybe tell the peer.
    fn rcvd(&self, so: &Arc<Socket>);

    /// The user sends no more; the send buffer is already closed for it. Streams send a FIN behind the data.
    fn shutdown(&self, so: &Arc<Socket>) -> Result<(), Errno>;

    /// Dissolves the connection: streams close down in order.
    fn disconnect(&self, so: &Arc<Socket>) -> Result<(), Errno>;

    /// Drops the connection at once: streams send RST.
    fn abort(&self, so: &Arc<Socket>);

    /// The user is gone. No other request follows.
    fn detach(&self, so: Arc<Socket>);

    /// The local address.
    fn sockaddr(&self) -> SocketAddr;

    /// The peer's address, while connected.
    fn peeraddr(&self) -> Option<SocketAddr>;

    /// Sets an option of the protocol's: `ENOPROTOOPT` if it has no such.
    fn setopt(&self, so: &Arc<Socket>, option: ProtoOption) -> Result<(), Errno>;

    /// Gets an option of the protocol's: `ENOPROTOOPT` if it has no such.
    fn getopt(&self, so: &Arc<Socket>, name: ProtoOptionName) -> Result<ProtoOption, Errno>;

    /// A socket option that the protocol acts on (`SO_KEEPALIVE`) has changed.
    fn options_changed(&self, _so: &Arc<Socket>) -> Result<(), Errno> {
        Ok(())
    }

    /// For the protocol itself: to find its own type behind a socket.
    fn as_any(&self) -> &(dyn core::any::Any + Send + Sync);
}
