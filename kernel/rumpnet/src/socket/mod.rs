//! Sockets: 4.4BSD's socket layer.
//!
//! - `mod.rs`: the socket, its state, and the upcalls of protocols (`soisconnected` …);
//! - `ops.rs`: what a user does with one: bind, listen, accept, connect, shutdown, close;
//! - `transfer.rs`: send and receive;
//! - `options.rs`: socket options.
//!
//! Locks: a socket has one lock, [`Socket::lock`]. It is taken inside a protocol's PCB lock, and
//! no two sockets' locks are ever held together.
//!
//! Sources: 4.4BSD's socket layer as described by Wright and Stevens, "TCP/IP Illustrated, Volume 2"
//! (1995), chapters 15 to 17; NetBSD `sys/socketvar.h`; POSIX.1-2008 `<sys/socket.h>`.

mod ops;
mod options;
mod transfer;

pub use ops::socreate;
pub use options::{SockOption, SockOptionName};
pub use transfer::MsgFlags;

use crate::protocol::{Domain, Pcb, Protocol, SockType};
use crate::sockbuf::{SbBudget, Sockbuf};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bitflags::bitflags;
use core::ops::{Deref, DerefMut};
use core::time::Duration;
use rumpkern::kmem::{self, Room};
use rumpkern::locks::{Condvar, LockClass, Mutex, MutexGuard, OnceLock, WaitResult};
use rumpkern::poll::{Events, SelInfo};
use rumpuser::{Errno, Instant};

/// The lock class of every socket's lock.
static SOCKET: LockClass = LockClass {
    name: "socket",
    rank: 220,
};

/// The longest queue of connections not yet accepted (SOMAXCONN).
pub const SOMAXCONN: usize = 128;

bitflags! {
    /// What a socket is up to (`so_state`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SoState: u16 {
        /// No file refers to it any more.
        const SS_NOFDREF = 0x001;
        /// Connected.
        const SS_ISCONNECTED = 0x002;
        /// Connecting.
        const SS_ISCONNECTING = 0x004;
        /// Disconnecting.
        const SS_ISDISCONNECTING = 0x008;
        /// Nothing more may be sent.
        const SS_CANTSENDMORE = 0x010;
        /// Nothing more will be received.
        const SS_CANTRCVMORE = 0x020;
        /// It was connected, and is no more.
        const SS_ISDISCONNECTED = 0x800;
    }

    /// Boolean options (`so_options`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SoOptions: u16 {
        /// It accepts connections.
        const SO_ACCEPTCONN = 0x0002;
        /// A local address may be taken over from a connection that lingers.
        const SO_REUSEADDR = 0x0004;
        /// Probe a silent peer.
        const SO_KEEPALIVE = 0x0008;
        /// Broadcasts may be sent.
        const SO_BROADCAST = 0x0020;
        /// Closing waits for unsent data.
        const SO_LINGER = 0x0080;
        /// A local address may be shared.
        const SO_REUSEPORT = 0x0200;
    }
}

/// The queues of a listening socket.
pub(crate) struct Listen {
    /// The most connections that may wait.
    backlog: usize,
    /// Connections that are being set up (so_q0).
    incomplete: Vec<Arc<Socket>>,
    /// Connections that wait to be accepted (so_q).
    complete: VecDeque<Arc<Socket>>,
}

/// What the lock of a socket protects.
pub struct SocketData {
    /// What it is up to.
    pub state: SoState,
    /// Boolean options.
    pub options: SoOptions,
    /// What closing waits for with `SO_LINGER`.
    pub linger: Duration,
    /// An error to report with the next call (`so_error`).
    pub error: Option<Errno>,
    /// What was received.
    pub rcv: Sockbuf,
    /// What is to be sent.
    pub snd: Sockbuf,
    nonblocking: bool,
    /// Closing drops the connection.
    resets: bool,
    listen: Option<Listen>,
    /// The listening socket that it waits in a queue of.
    head: Option<Weak<Socket>>,
}

/// A socket.
pub struct Socket {
    protocol: Arc<dyn Protocol>,
    pcb: OnceLock<Arc<dyn Pcb>>,
    budget: Arc<SbBudget>,
    data: Mutex<SocketData>,
    /// Its state changed.
    changed: Condvar,
    /// Something can be received.
    readable: Condvar,
    /// Something can be sent.
    writable: Condvar,
    /// Who polls it.
    sel: SelInfo,
}

/// A locked socket.
pub struct SocketGuard<'a> {
    socket: &'a Socket,
    data: MutexGuard<'a, SocketData>,
}

impl Deref for SocketGuard<'_> {
    type Target = SocketData;

    fn deref(&self) -> &SocketData {
        &self.data
    }
}

impl DerefMut for SocketGuard<'_> {
    fn deref_mut(&mut self) -> &mut SocketData {
        &mut self.data
    }
}

impl SocketData {
    fn new(budget: &Arc<SbBudget>) -> SocketData {
        SocketData {
            state: SoState::empty(),
            options: SoOptions::empty(),
            linger: Duration::ZERO,
            error: None,
            rcv: Sockbuf::new(budget.clone(), 1),
            snd: Sockbuf::new(budget.clone(), 2048),
            nonblocking: false,
            resets: false,
            listen: None,
            head: None,
        }
    }

    /// Whether a receive would not wait (soreadable).
    pub fn readable(&self) -> bool {
        let waiting = self.listen.as_ref().map(|l| !l.complete.is_empty());
        let data = self.rcv.has_data();
        let ended = self.state.contains(SoState::SS_CANTRCVMORE);
        waiting.unwrap_or(data || ended) || self.error.is_some()
    }

    /// Whether a send would not wait (sowritable).
    pub fn writable(&self, sock_type: SockType) -> bool {
        if self.error.is_some() || self.state.contains(SoState::SS_CANTSENDMORE) {
            return true;
        }
        match sock_type {
            SockType::Dgram => true,
            SockType::Stream => self.snd.has_room() && self.state.contains(SoState::SS_ISCONNECTED),
        }
    }

    /// Whether both directions are closed.
    pub fn hung_up(&self) -> bool {
        let both = SoState::SS_CANTRCVMORE | SoState::SS_CANTSENDMORE;
        self.state.contains(both)
    }
}

/// Upcalls: what a protocol tells a socket, under the socket's lock.
impl SocketGuard<'_> {
    /// Receivers have something to look at (sorwakeup).
    pub fn sorwakeup(&self) {
        self.socket.readable.notify_all();
        self.socket.sel.notify(self.events());
    }

    /// Senders have room, or an error (sowwakeup).
    pub fn sowwakeup(&self) {
        self.socket.writable.notify_all();
        self.socket.sel.notify(self.events());
    }

    /// Whoever waits for anything looks again.
    fn wake_all(&self) {
        self.socket.changed.notify_all();
        self.socket.readable.notify_all();
        self.socket.writable.notify_all();
        self.socket.sel.notify(self.events());
    }

    /// A connection is being set up.
    pub fn soisconnecting(&mut self) {
        let not = SoState::SS_ISCONNECTED | SoState::SS_ISDISCONNECTING;
        self.state.remove(not);
        self.state.insert(SoState::SS_ISCONNECTING);
    }

    /// The connection is closing down.
    pub fn soisdisconnecting(&mut self) {
        self.state.remove(SoState::SS_ISCONNECTING);
        self.state.insert(
            SoState::SS_ISDISCONNECTING | SoState::SS_CANTRCVMORE | SoState::SS_CANTSENDMORE,
        );
        self.wake_all();
    }

    /// The connection is gone. What was received may still be read.
    pub fn soisdisconnected(&mut self) {
        self.state.remove(
            SoState::SS_ISCONNECTING | SoState::SS_ISCONNECTED | SoState::SS_ISDISCONNECTING,
        );
        self.state.insert(
            SoState::SS_CANTRCVMORE | SoState::SS_CANTSENDMORE | SoState::SS_ISDISCONNECTED,
        );
        self.snd.flush();
        self.wake_all();
    }

    /// The user sends no more (socantsendmore).
    pub fn socantsendmore(&mut self) {
        self.state.insert(SoState::SS_CANTSENDMORE);
        self.sowwakeup();
    }

    /// The peer sends no more (socantrcvmore).
    pub fn socantrcvmore(&mut self) {
        self.state.insert(SoState::SS_CANTRCVMORE);
        self.sorwakeup();
    }

    /// Reports `error` to the user's next call, and wakes whoever waits.
    pub fn set_error(&mut self, error: Errno) {
        self.error = Some(error);
        self.wake_all();
    }

    fn take_error(&mut self) -> Result<(), Errno> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// What `poll` would say now.
    pub fn events(&self) -> Events {
        let mut events = Events::empty();
        events.set(Events::READABLE, self.readable());
        events.set(Events::WRITABLE, self.writable(self.socket.sock_type()));
        events.set(Events::HANGUP, self.hung_up());
        events.set(Events::ERROR, self.error.is_some());
        events
    }

    /// Waits on `condvar` until `deadline`. Answers false if that passed.
    fn wait(self, condvar: &Condvar, deadline: Option<Instant>) -> (Self, bool) {
        let socket = self.socket;
        let (data, result) = condvar.wait_until(self.data, deadline);
        let in_time = !matches!(result, WaitResult::TimedOut);
        (SocketGuard { socket, data }, in_time)
    }
}

impl Socket {
    fn new(protocol: Arc<dyn Protocol>, budget: Arc<SbBudget>) -> Result<Arc<Socket>, Errno> {
        budget.add_socket()?;
        let data = SocketData::new(&budget);
        // From here on a drop of it takes the count back.
        let socket = Socket {
            protocol,
            pcb: OnceLock::new(),
            budget,
            data: Mutex::with_class(data, &SOCKET),
            changed: Condvar::new(),
            readable: Condvar::new(),
            writable: Condvar::new(),
            sel: SelInfo::new(),
        };
        let socket = kmem::try_arc(socket).map_err(|_| Errno::ENOBUFS)?;
        let pcb = socket.protocol.attach(&socket)?;
        let set = socket.pcb.set(pcb);
        debug_assert!(set.is_ok(), "a new socket has no control block");
        Ok(socket)
    }

    /// Locks it.
    pub fn lock(&self) -> SocketGuard<'_> {
        SocketGuard {
            socket: self,
            data: self.data.lock(),
        }
    }

    /// Who polls it.
    pub fn selinfo(&self) -> &SelInfo {
        &self.sel
    }

    /// What it carries.
    pub fn sock_type(&self) -> SockType {
        self.protocol.sock_type()
    }

    /// Its family.
    pub fn domain(&self) -> Domain {
        self.protocol.domain()
    }

    /// Its control block.
    ///
    /// # Errors
    /// `EINVAL` while the socket is being made.
    pub fn pcb(&self) -> Result<&Arc<dyn Pcb>, Errno> {
        self.pcb.get().ok_or(Errno::EINVAL)
    }

    /// The connection stands: a connecting socket's user goes on; a socket in the queue of a listening
    /// one moves to those that can be accepted. Takes locks: call it without this socket's.
    pub fn soisconnected(self: &Arc<Self>) {
        let head = {
            let mut so = self.lock();
            so.state
                .remove(SoState::SS_ISCONNECTING | SoState::SS_ISDISCONNECTING);
            so.state.insert(SoState::SS_ISCONNECTED);
            so.wake_all();
            so.head.as_ref().and_then(Weak::upgrade)
        };
        let Some(head) = head else { return };
        let mut head = head.lock();
        let Some(listen) = head.listen.as_mut() else {
            return;
        };
        let Some(at) = listen
            .incomplete
            .iter()
            .position(|so| Arc::ptr_eq(so, self))
        else {
            return;
        };
        let connected = listen.incomplete.swap_remove(at);
        listen.complete.push_back(connected);
        head.sorwakeup();
    }

    /// A connection request came to this listening socket: makes the socket for it, in the queue of
    /// incomplete ones (sonewconn). The protocol sets up its PCB and, when the connection stands, calls
    /// [`Socket::soisconnected`]; if it fails before, [`Socket::soabandoned`].
    ///
    /// # Errors
    /// `ECONNREFUSED` if the queue is full or it does not listen; `ENOBUFS`.
    pub fn sonewconn(self: &Arc<Self>) -> Result<Arc<Socket>, Errno> {
        if !self.queue_room() {
            return Err(Errno::ECONNREFUSED);
        }
        let new = Socket::new(self.protocol.clone(), self.budget.clone())?;
        let inherited = self.lock().inheritance();
        {
            let mut so = new.lock();
            inherited.give(&mut so);
            so.state
                .insert(SoState::SS_NOFDREF | SoState::SS_ISCONNECTING);
            so.head = Some(Arc::downgrade(self));
        }
        let mut head = self.lock();
        let room = head.has_queue_room();
        let refused = match head.listen.as_mut() {
            Some(listen) if room => {
                // Room in both queues now: moving from one to the other must not fail.
                let waiting = listen.incomplete.len() + 1;
                let reserved = listen.incomplete.room(1);
                match reserved.and(listen.complete.room(waiting)) {
                    Ok(()) => None,
                    Err(_) => Some(Errno::ENOBUFS),
                }
            }
            _ => Some(Errno::ECONNREFUSED),
        };
        if let Some(error) = refused {
            drop(head);
            new.lock().head = None;
            if let Ok(pcb) = new.pcb() {
                pcb.detach(new.clone());
            }
            return Err(error);
        }
        if let Some(listen) = head.listen.as_mut() {
            listen.incomplete.push(new.clone());
        }
        Ok(new)
    }

    /// A connection that no user has seen came to nothing: takes it out of its listening socket's
    /// queue. Takes locks: call it without this socket's. Does nothing for a socket of a user's.
    pub fn soabandoned(self: &Arc<Self>) {
        let head = {
            let mut so = self.lock();
            so.head.take().and_then(|head| head.upgrade())
        };
        let Some(head) = head else { return };
        // The socket must not be dropped while its head is locked.
        let removed = {
            let mut head = head.lock();
            let listen = head.listen.as_mut();
            listen.and_then(|listen| listen.remove(self))
        };
        drop(removed);
    }

    /// Whether memory allows for another socket.
    pub fn socket_room(&self) -> bool {
        self.budget.has_socket_room()
    }

    /// Whether a listening socket's queue has room for another connection, and the memory for its socket.
    pub fn queue_room(&self) -> bool {
        self.socket_room() && self.lock().has_queue_room()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.budget.remove_socket();
    }
}

impl Listen {
    fn remove(&mut self, so: &Arc<Socket>) -> Option<Arc<Socket>> {
        if let Some(at) = self.incomplete.iter().position(|s| Arc::ptr_eq(s, so)) {
            return Some(self.incomplete.swap_remove(at));
        }
        let at = self.complete.iter().position(|s| Arc::ptr_eq(s, so))?;
        self.complete.remove(at)
    }
}

/// What an accepted socket takes over from the one that listened.
struct Inheritance {
    options: SoOptions,
    linger: Duration,
    hiwat: [Option<usize>; 2],
    timeout: [Option<Duration>; 2],
}

impl Inheritance {
    fn give(self, so: &mut SocketData) {
        so.options = self.options;
        so.linger = self.linger;
        if let Some(hiwat) = self.hiwat[0] {
            so.rcv.set_hiwat(hiwat);
        }
        if let Some(hiwat) = self.hiwat[1] {
            so.snd.set_hiwat(hiwat);
        }
        so.rcv.timeout = self.timeout[0];
        so.snd.timeout = self.timeout[1];
    }
}

impl SocketData {
    fn has_queue_room(&self) -> bool {
        self.listen.as_ref().is_some_and(|listen| {
            let waiting = listen.incomplete.len() + listen.complete.len();
            waiting <= listen.backlog * 3 / 2
        })
    }

    fn inheritance(&self) -> Inheritance {
        Inheritance {
            options: self.options.difference(SoOptions::SO_ACCEPTCONN),
            linger: self.linger,
            hiwat: [self.rcv.user_hiwat(), self.snd.user_hiwat()],
            timeout: [self.rcv.timeout, self.snd.timeout],
        }
    }
}
