//! A connection with its socket and its timer.

use super::Tcp;
use super::header::Header;
use super::ports::BindingId;
use super::segment::Outgoing;
use super::seq::Seq;
use super::tcb::{Config, Emit, Events, Handshake, Keepalive, Outcome, Tcb};
use super::tuple::Tuple;
use crate::icmp::IcmpError;
use crate::inet::Inet;
use crate::ip::IP_DEFAULT_TTL;
use alloc::sync::{Arc, Weak};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use rumpkern::callout::Callout;
use rumpkern::locks::{LockClass, Mutex, MutexGuard, OnceLock};
use rumpkern::{kmem, time};
use rumpnet::ifnet::count;
use rumpnet::mbuf::Mbuf;
use rumpnet::socket::{SoOptions, SoState, Socket, SocketGuard};
use rumpuser::{Errno, Instant};

static TCP_PCB: LockClass = LockClass {
    name: "tcppcb",
    rank: 200,
};

/// The path MTU when a router says "too big" and not how big (RFC 1191 §5: one that predates it).
const PATH_MTU_UNKNOWN: u16 = 576;

/// The local end of a socket that is not bound.
const UNBOUND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A control block as the socket layer sees it.
pub struct TcpPcb {
    pub(super) tcp: Weak<Tcp>,
    me: OnceLock<Weak<TcpPcb>>,
    socket: Weak<Socket>,
    callout: OnceLock<Callout>,
    data: Mutex<Data>,
}

/// What its lock protects.
pub(super) struct Data {
    /// The local end, while there is no connection; a port of 0 means that it is not bound.
    pub(super) local: SocketAddr,
    /// Its place among the bound sockets, if it is bound by itself.
    pub(super) binding: Option<BindingId>,
    pub(super) conn: Option<Conn>,
    /// The socket, when its user is gone and there is still something to deliver.
    orphan: Option<Arc<Socket>>,
    pub(super) no_delay: bool,
    pub(super) keepalive: Keepalive,
    pub(super) ttl: u8,
}

/// A connection.
pub(super) struct Conn {
    pub(super) tuple: Tuple,
    pub(super) tcb: Tcb<Mbuf>,
    /// What the callout is set to. It is not set back when a deadline moves on, which nearly every segment
    /// brings about; it comes early then, and is set anew.
    armed: Option<Instant>,
}

impl TcpPcb {
    /// The control block of a new socket.
    ///
    /// # Errors
    /// `ENOBUFS`.
    pub(super) fn new(tcp: &Arc<Tcp>, so: &Arc<Socket>) -> Result<Arc<TcpPcb>, Errno> {
        let data = Data {
            local: UNBOUND,
            binding: None,
            conn: None,
            orphan: None,
            no_delay: false,
            keepalive: Keepalive::default(),
            ttl: IP_DEFAULT_TTL,
        };
        let pcb = TcpPcb {
            tcp: Arc::downgrade(tcp),
            me: OnceLock::new(),
            socket: Arc::downgrade(so),
            callout: OnceLock::new(),
            data: Mutex::with_class(data, &TCP_PCB),
        };
        let pcb = kmem::try_arc(pcb).map_err(|_| Errno::ENOBUFS)?;
        let set = pcb.me.set(Arc::downgrade(&pcb));
        debug_assert!(set.is_ok(), "set once, here");
        Ok(pcb)
    }

    /// The control block of a TCP socket.
    pub(super) fn of(so: &Socket) -> Option<Arc<TcpPcb>> {
        let pcb = so.pcb().ok()?.as_any().downcast_ref::<TcpPcb>()?;
        pcb.me.get()?.upgrade()
    }

    /// Its socket, while that lives.
    pub(super) fn socket(&self) -> Option<Arc<Socket>> {
        self.socket.upgrade()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Data> {
        self.data.lock()
    }

    /// TCP and IP below it.
    ///
    /// # Errors
    /// `ENETDOWN` if the kernel is going down.
    pub(super) fn stack(&self) -> Result<(Arc<Tcp>, Arc<Inet>), Errno> {
        let tcp = self.tcp.upgrade().ok_or(Errno::ENETDOWN)?;
        let inet = tcp.inet.upgrade().ok_or(Errno::ENETDOWN)?;
        Ok((tcp, inet))
    }

    /// Makes the connection that a handshake with `listener` has led to.
    pub(super) fn accept(
        self: &Arc<Self>,
        tcp: &Tcp,
        listener: &TcpPcb,
        tuple: &Tuple,
        handshake: &Handshake,
        config: &Config,
        now: Instant,
    ) -> Result<(), Errno> {
        let (no_delay, keepalive, ttl) = {
            let listener = listener.lock();
            (listener.no_delay, listener.keepalive, listener.ttl)
        };
        self.make_callout(tcp)?;
        let mut data = self.lock();
        (data.no_delay, data.keepalive, data.ttl) = (no_delay, keepalive, ttl);
        let config = self.adapt(&data, config)?;
        tcp.tables().establish(*tuple, self.clone())?;
        data.local = SocketAddr::new(tuple.local, tuple.local_port);
        data.conn = Some(Conn {
            tuple: *tuple,
            tcb: Tcb::accept(&config, handshake, now),
            armed: None,
        });
        Ok(())
    }

    /// Opens a connection and sends its SYN.
    pub(super) fn open(
        self: &Arc<Self>,
        (tcp, inet): (&Tcp, &Inet),
        wanted: Tuple,
        config: &Config,
    ) -> Result<(), Errno> {
        let now = time::now();
        self.make_callout(tcp)?;
        {
            let mut data = self.lock();
            if data.conn.is_some() {
                return Err(Errno::EISCONN);
            }
            let config = self.adapt(&data, config)?;
            let (tuple, iss) = tcp.tables().open(now, wanted, self.clone())?;
            data.local = SocketAddr::new(tuple.local, tuple.local_port);
            data.conn = Some(Conn {
                tuple,
                tcb: Tcb::connect(&config, iss, now),
                armed: None,
            });
            if let Some(so) = self.socket() {
                so.lock().soisconnecting();
            }
        }
        self.run((tcp, inet), now, |_, _| Outcome {
            events: Events::OUTPUT,
            ..Outcome::default()
        });
        Ok(())
    }

    /// What the socket's user has said of the connection-to-be.
    fn adapt(&self, data: &Data, config: &Config) -> Result<Config, Errno> {
        let so = self.socket().ok_or(Errno::EINVAL)?;
        let so = so.lock();
        let keep = so.options.contains(SoOptions::SO_KEEPALIVE);
        Ok(Config {
            receive_bytes: so.rcv.hiwat() as u32,
            receive_max: config.receive_max.max(so.rcv.max() as u32),
            no_delay: data.no_delay,
            keepalive: keep.then_some(data.keepalive),
            ..*config
        })
    }

    fn make_callout(self: &Arc<Self>, tcp: &Tcp) -> Result<(), Errno> {
        if self.callout.get().is_some() {
            return Ok(());
        }
        let kernel = tcp.kernel.upgrade().ok_or(Errno::ENETDOWN)?;
        let weak = Arc::downgrade(self);
        let timer = move || {
            if let Some(pcb) = weak.upgrade() {
                pcb.on_timer();
            }
        };
        let callout = Callout::try_new(&kernel, timer).map_err(|_| Errno::ENOBUFS)?;
        // Whoever was first has made the same one.
        let _lost_race = self.callout.set(callout);
        Ok(())
    }

    /// A segment for this connection.
    #[inline]
    pub(super) fn segment(
        &self,
        tcp: &Tcp,
        inet: &Inet,
        now: Instant,
        header: &Header,
        payload: Mbuf,
    ) {
        self.run((tcp, inet), now, |tcb, so| {
            let mut discarded = 0;
            let outcome = tcb.input(now, header, payload, &mut |data: Mbuf| {
                if so.state.contains(SoState::SS_CANTRCVMORE) {
                    // shutdown(2) of the receiving half: taken, and thrown away.
                    discarded += data.len() as u32;
                    return true;
                }
                so.rcv.append(data).is_ok()
            });
            if discarded > 0 {
                tcb.consumed(discarded);
            }
            if outcome.events.contains(Events::READABLE) {
                resize_receive(tcb, so);
            }
            outcome
        });
    }

    /// ICMP says that the segment with number `seq` did not arrive. Anybody can say so: it counts only if
    /// such a segment is in flight (RFC 5927 §4.1).
    pub(super) fn icmp(&self, tcp: &Tcp, inet: &Inet, seq: Seq, error: IcmpError) {
        self.run((tcp, inet), time::now(), |tcb, _| {
            if !tcb.is_in_flight(seq) {
                return Outcome::default();
            }
            if let IcmpError::NeedFragment(mtu) = error {
                let mtu = if mtu == 0 { PATH_MTU_UNKNOWN } else { mtu };
                return output_if(tcb.path_mtu(mtu));
            }
            match error.errno() {
                Some(errno) => tcb.icmp_error(errno, error.is_refusal()),
                None => Outcome::default(),
            }
        });
    }

    fn on_timer(&self) {
        let Ok((tcp, inet)) = self.stack() else {
            return;
        };
        let now = time::now();
        if let Some(conn) = self.lock().conn.as_mut() {
            conn.armed = None;
        }
        self.run((&tcp, &inet), now, |tcb, _| tcb.on_timer(now));
    }

    /// The way of everything that happens to a connection: locks it and its socket, lets `happen` happen, and does
    /// what follows from it. Does nothing if there is no connection.
    pub(super) fn run(
        &self,
        (tcp, inet): (&Tcp, &Inet),
        now: Instant,
        happen: impl FnOnce(&mut Tcb<Mbuf>, &mut SocketGuard<'_>) -> Outcome,
    ) {
        let Some(socket) = self.socket() else { return };
        let mut data = self.lock();
        let ttl = data.ttl;
        let Some(conn) = data.conn.as_mut() else {
            return;
        };
        let mut so = socket.lock();
        let outcome = happen(&mut conn.tcb, &mut so);
        if outcome.acked > 0 {
            so.snd.drop_front(outcome.acked as usize);
            let wanted = conn.tcb.send_bytes_wanted() as usize;
            if wanted > so.snd.hiwat() {
                so.snd.grow(wanted);
            }
        }
        if let Some(reply) = outcome.reply {
            tcp.respond(inet, &conn.tuple, reply);
        }
        if outcome.events.contains(Events::OUTPUT) {
            output(conn, (tcp, inet), &so, now, ttl);
        }
        tell(&mut so, &outcome);
        let orphan = self.conclude(tcp, &mut data, &socket, so, &outcome, now);
        drop(data);
        drop(orphan);
    }

    /// Connections that begin or end: tables and queues. The socket that is answered is dropped without locks.
    fn conclude(
        &self,
        tcp: &Tcp,
        data: &mut Data,
        socket: &Arc<Socket>,
        mut so: SocketGuard<'_>,
        outcome: &Outcome,
        now: Instant,
    ) -> Option<Arc<Socket>> {
        let conn = data.conn.as_mut()?;
        if outcome.events.contains(Events::DRAINED)
            && so.state.contains(SoState::SS_ISDISCONNECTING)
        {
            so.soisdisconnected();
        }
        let over = outcome
            .events
            .intersects(Events::CLOSED | Events::TIME_WAIT);
        if !over {
            drop(so);
            if outcome.events.contains(Events::CONNECTED) {
                count(&tcp.stats.established);
                socket.soisconnected();
            }
            self.arm(conn);
            return None;
        }
        if outcome.events.contains(Events::TIME_WAIT) {
            tcp.tables()
                .linger(now, &conn.tuple, conn.tcb.next_numbers());
        } else {
            tcp.tables().remove(&conn.tuple);
        }
        let never_stood = so.state.contains(SoState::SS_ISCONNECTING);
        so.soisdisconnected();
        drop(so);
        data.conn = None;
        if never_stood && data.binding.is_none() {
            // The port was chosen for this attempt alone.
            data.local = UNBOUND;
        }
        if outcome.events.contains(Events::CLOSED) {
            socket.soabandoned();
        }
        tcp.arm();
        data.orphan.take()
    }

    /// Sets the callout, if a deadline is nearer than what it is set to.
    fn arm(&self, conn: &mut Conn) {
        let Some(deadline) = conn.tcb.deadline() else {
            return;
        };
        if conn.armed.is_none_or(|armed| deadline < armed)
            && let Some(callout) = self.callout.get()
        {
            conn.armed = Some(deadline);
            callout.schedule_at(deadline);
        }
    }

    /// The user is gone: keeps the socket while there is something to deliver.
    pub(super) fn keep_orphan(&self, so: Arc<Socket>) {
        let mut data = self.lock();
        if data.conn.is_some() {
            data.orphan = Some(so);
        }
    }

    /// Drops what waits out of order, if nobody is at work here; answers how many bytes that freed.
    pub(super) fn drain(&self) -> usize {
        let Some(mut data) = self.data.try_lock() else {
            return 0;
        };
        let Some(conn) = data.conn.as_mut() else {
            return 0;
        };
        let freed = conn.tcb.reassembly_bytes();
        conn.tcb.drain();
        freed
    }

    /// A connection that nobody has is given up, by its timer, if nobody is at work here and there is nothing more to be had
    /// of it ([`Tcb::hasten`](super::tcb::Tcb::hasten)).
    pub(super) fn hasten(&self, now: Instant) {
        let Some(mut data) = self.data.try_lock() else {
            return;
        };
        if let Some(conn) = data.conn.as_mut()
            && conn.tcb.hasten(now)
        {
            self.arm(conn);
        }
    }

    /// The kernel is gone: lets go of everything.
    pub(super) fn forget(&self) {
        let (conn, orphan) = {
            let mut data = self.lock();
            (data.conn.take(), data.orphan.take())
        };
        drop((conn, orphan));
    }
}

pub(super) fn output_if(wanted: bool) -> Outcome {
    let events = if wanted {
        Events::OUTPUT
    } else {
        Events::empty()
    };
    Outcome {
        events,
        ..Outcome::default()
    }
}

/// Agrees with the socket buffer on its size, and tells the control block what memory there is.
pub(super) fn resize_receive(tcb: &mut Tcb<Mbuf>, so: &mut SocketGuard<'_>) {
    let wanted = tcb.receive_bytes() as usize;
    if wanted > so.rcv.hiwat() {
        so.rcv.grow(wanted);
    }
    tcb.set_receive_bytes(so.rcv.hiwat() as u32);
    tcb.set_receive_room(so.rcv.space() as u32);
}

/// Tells the socket what happened.
fn tell(so: &mut SocketGuard<'_>, outcome: &Outcome) {
    if let Some(error) = outcome.error {
        so.set_error(error);
    }
    if outcome.events.contains(Events::EOF) {
        so.socantrcvmore();
    } else if outcome.events.contains(Events::READABLE) {
        so.sorwakeup();
    }
    if outcome.events.contains(Events::WRITABLE) {
        so.sowwakeup();
    }
}

/// Sends what there is to send.
fn output(
    conn: &mut Conn,
    (tcp, inet): (&Tcp, &Inet),
    so: &SocketGuard<'_>,
    now: Instant,
    ttl: u8,
) {
    let mut waiting: Option<(Emit, Outgoing)> = None;
    while let Some(emit) = conn.tcb.poll_transmit(now) {
        let segment = build(&conn.tuple, &emit, so, ttl);
        let Ok(segment) = segment else {
            conn.tcb.transmit_failed(&emit, now);
            break;
        };
        // One behind, so that the interface hears of each whether more follow.
        let Some((before, segment)) = waiting.replace((emit, segment)) else {
            continue;
        };
        if let Err(error) = segment.send(tcp, inet, &conn.tuple, true) {
            if matches!(error, Errno::ENOBUFS | Errno::EMSGSIZE) {
                waiting = None;
                conn.tcb.transmit_failed(&emit, now);
            }
            failed(conn, inet, &before, error, now);
            break;
        }
    }
    if let Some((emit, segment)) = waiting
        && let Err(error) = segment.send(tcp, inet, &conn.tuple, false)
    {
        failed(conn, inet, &emit, error, now);
    }
}

/// The segment, its data a view of the send buffer.
fn build(tuple: &Tuple, emit: &Emit, so: &SocketGuard<'_>, ttl: u8) -> Result<Outgoing, Errno> {
    let data = match emit.len {
        0 => Mbuf::new(),
        len => so.snd.copy_range(emit.offset as usize, len as usize)?,
    };
    Outgoing::build(tuple, emit.header, data, emit.segment_bytes, ttl)
}

/// IP did not take a segment. Want of room passes, and so does a size that has become too large for the
/// interface; anything else is as if it were lost on the way.
fn failed(conn: &mut Conn, inet: &Inet, emit: &Emit, error: Errno, now: Instant) {
    if error == Errno::EMSGSIZE
        && let IpAddr::V4(to) = conn.tuple.remote
        && let Ok(hop) = inet.route(to)
    {
        let mtu = hop.ifp.mtu().min(usize::from(u16::MAX));
        conn.tcb.path_mtu(mtu as u16);
    }
    if matches!(error, Errno::ENOBUFS | Errno::EMSGSIZE) {
        conn.tcb.transmit_failed(emit, now);
        return;
    }
    // Only news: the connection lives until its timer gives up.
    let _only_news = conn.tcb.icmp_error(error, false);
}
