//! What a user does with a socket, but for sending and receiving.

use super::{Listen, SOMAXCONN, SoOptions, SoState, Socket, SocketGuard};
use crate::net::Net;
use crate::protocol::{Domain, SockType};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use rumpkern::time;
use rumpuser::Errno;

/// Makes a socket (socket(2)). `number` 0 takes the family's first protocol of that type.
///
/// # Errors
/// `EAFNOSUPPORT`, `EPROTONOSUPPORT`, `EPROTOTYPE`; `ENOBUFS`.
pub fn socreate(
    net: &Net,
    domain: Domain,
    sock_type: SockType,
    number: u8,
) -> Result<Arc<Socket>, Errno> {
    let protocol = net.protocol(domain, sock_type, number)?;
    Socket::new(protocol, net.budget().clone())
}

impl Socket {
    /// Binds it to a local address (bind(2)).
    ///
    /// # Errors
    /// `EINVAL` if it is bound; `EADDRINUSE`, `EADDRNOTAVAIL`, `EAFNOSUPPORT`.
    pub fn bind(self: &Arc<Self>, addr: SocketAddr) -> Result<(), Errno> {
        self.pcb()?.bind(self, addr)
    }

    /// Accepts connections from now on, up to `backlog` of them waiting (listen(2)).
    ///
    /// # Errors
    /// `EOPNOTSUPP` on datagrams; `EINVAL` if it is connected.
    pub fn listen(self: &Arc<Self>, backlog: usize) -> Result<(), Errno> {
        if self.sock_type() != SockType::Stream {
            return Err(Errno::EOPNOTSUPP);
        }
        let backlog = backlog.clamp(1, SOMAXCONN);
        {
            let mut so = self.lock();
            let busy =
                SoState::SS_ISCONNECTED | SoState::SS_ISCONNECTING | SoState::SS_ISDISCONNECTING;
            if so.state.intersects(busy) {
                return Err(Errno::EINVAL);
            }
            if let Some(listen) = so.listen.as_mut() {
                listen.backlog = backlog;
                return Ok(());
            }
            so.listen = Some(Listen {
                backlog,
                incomplete: Vec::new(),
                complete: VecDeque::new(),
            });
            so.options.insert(SoOptions::SO_ACCEPTCONN);
        }
        let listening = self.pcb()?.listen(self);
        if listening.is_err() {
            let mut so = self.lock();
            so.listen = None;
            so.options.remove(SoOptions::SO_ACCEPTCONN);
        }
        listening
    }

    /// Takes the next connection (accept(2)): its socket and the peer's address.
    ///
    /// # Errors
    /// `EINVAL` if it does not listen; `EAGAIN` if it would wait and must not; `ECONNABORTED` if the
    /// peer has gone again.
    pub fn accept(self: &Arc<Self>) -> Result<(Arc<Socket>, SocketAddr), Errno> {
        let new = {
            let mut so = self.lock();
            loop {
                let dont_wait = so.nonblocking;
                let listen = so.listen.as_mut().ok_or(Errno::EINVAL)?;
                if let Some(new) = listen.complete.pop_front() {
                    break new;
                }
                so.take_error()?;
                if so.state.contains(SoState::SS_CANTRCVMORE) {
                    return Err(Errno::ECONNABORTED);
                }
                if dont_wait {
                    return Err(Errno::EAGAIN);
                }
                so = so.wait(&self.readable, None).0;
            }
        };
        {
            let mut so = new.lock();
            so.head = None;
            so.state.remove(SoState::SS_NOFDREF);
        }
        match new.pcb().map(|pcb| pcb.peeraddr()) {
            Ok(Some(peer)) => Ok((new, peer)),
            _ => {
                // Reset while it waited: nobody will see it.
                new.close();
                Err(Errno::ECONNABORTED)
            }
        }
    }

    /// Connects to a peer (connect(2)); datagrams: makes it the one peer.
    ///
    /// # Errors
    /// `EINPROGRESS` if it would wait and must not; `EALREADY`, `EISCONN`, `EOPNOTSUPP` on a
    /// listening socket; the protocol's reason for failing.
    pub fn connect(self: &Arc<Self>, addr: SocketAddr) -> Result<(), Errno> {
        {
            let mut so = self.lock();
            if so.options.contains(SoOptions::SO_ACCEPTCONN) {
                return Err(Errno::EOPNOTSUPP);
            }
            if so.state.contains(SoState::SS_ISCONNECTING) {
                return Err(Errno::EALREADY);
            }
            let taken = SoState::SS_ISCONNECTED | SoState::SS_ISDISCONNECTING;
            if self.sock_type() == SockType::Stream && so.state.intersects(taken) {
                return Err(Errno::EISCONN);
            }
            so.error = None;
        }
        self.pcb()?.connect(self, addr)?;
        let mut so = self.lock();
        if so.nonblocking && so.state.contains(SoState::SS_ISCONNECTING) {
            return Err(Errno::EINPROGRESS);
        }
        while so.state.contains(SoState::SS_ISCONNECTING) && so.error.is_none() {
            so = so.wait(&self.changed, None).0;
        }
        so.take_error()
    }

    /// Closes one direction or both (shutdown(2)).
    ///
    /// # Errors
    /// `ENOTCONN`; the protocol's.
    pub fn shutdown(self: &Arc<Self>, receive: bool, send: bool) -> Result<(), Errno> {
        {
            let mut so = self.lock();
            let open = SoState::SS_ISCONNECTED | SoState::SS_ISCONNECTING;
            if !so.state.intersects(open) {
                return Err(Errno::ENOTCONN);
            }
            if receive {
                // What is there and what still comes is thrown away (sorflush).
                so.rcv.flush();
                so.socantrcvmore();
            }
            if send {
                so.socantsendmore();
            }
        }
        let pcb = self.pcb()?;
        if receive {
            pcb.rcvd(self);
        }
        match send {
            true => pcb.shutdown(self),
            false => Ok(()),
        }
    }

    /// Whether closing it drops its connection from now on, as with `SO_LINGER` and no time: the peer must not take what it
    /// got for all there is.
    pub fn reset_on_close(&self, resets: bool) {
        self.lock().resets = resets;
    }

    /// Closes it (soclose). With `SO_LINGER` and a time, waits so long for unsent data; with
    /// `SO_LINGER` and no time, drops the connection. The socket is of no use afterwards.
    pub fn close(self: &Arc<Self>) {
        let waiting = {
            let mut so = self.lock();
            so.options.remove(SoOptions::SO_ACCEPTCONN);
            let listen = so.listen.take();
            if listen.is_some() {
                // Who waits in accept finds that it listens no more.
                so.wake_all();
            }
            listen
        };
        if let Some(listen) = waiting {
            for new in listen.incomplete.iter().chain(&listen.complete) {
                new.lock().head = None;
                if let Ok(pcb) = new.pcb() {
                    pcb.abort(new);
                    pcb.detach(new.clone());
                }
            }
        }
        let Ok(pcb) = self.pcb() else { return };
        let so = self.lock();
        let connected = so.state.contains(SoState::SS_ISCONNECTED);
        let linger = so
            .options
            .contains(SoOptions::SO_LINGER)
            .then_some(so.linger);
        let linger = if so.resets {
            Some(Duration::ZERO)
        } else {
            linger
        };
        drop(so);
        if connected {
            if linger.is_some_and(|time| time.is_zero()) {
                pcb.abort(self);
            } else if !self.lock().state.contains(SoState::SS_ISDISCONNECTING) {
                // It may have gone already; closing goes on whatever the answer.
                let _gone = pcb.disconnect(self);
            }
            if let Some(time) = linger.filter(|time| !time.is_zero()) {
                self.linger_until(time::now() + time);
            }
        }
        self.lock().state.insert(SoState::SS_NOFDREF);
        pcb.detach(self.clone());
    }

    fn linger_until(&self, deadline: rumpuser::Instant) {
        let mut so = self.lock();
        while so.state.contains(SoState::SS_ISCONNECTED) && !so.nonblocking {
            let (again, in_time) = so.wait(&self.changed, Some(deadline));
            if !in_time {
                return;
            }
            so = again;
        }
    }

    /// Its local address (getsockname(2)).
    ///
    /// # Errors
    /// `EINVAL` while it is being made.
    pub fn sockname(&self) -> Result<SocketAddr, Errno> {
        Ok(self.pcb()?.sockaddr())
    }

    /// Its peer's address (getpeername(2)).
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn peername(&self) -> Result<SocketAddr, Errno> {
        self.pcb()?.peeraddr().ok_or(Errno::ENOTCONN)
    }

    /// Whether calls that would wait answer `EAGAIN` instead (`O_NONBLOCK`).
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.lock().nonblocking = nonblocking;
    }
}

impl SocketGuard<'_> {
    /// Whether a call with no flags of its own must not wait.
    pub(super) fn is_nonblocking(&self) -> bool {
        self.nonblocking
    }
}
