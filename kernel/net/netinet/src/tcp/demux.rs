//! To whom a segment belongs: connections by their tuple, listening sockets by their address, the SYN
//! cache and TIME-WAIT; and what is answered where it belongs to nobody (RFC 9293 §3.10.7.1, §3.10.7.2).
//!
//! It holds handles (`C` of connections, `L` of listening sockets) and never calls into them.

use super::header::{Control, Header};
use super::input::reset_at;
use super::isn::initial_sequence;
use super::ports::{BindingId, EPHEMERAL_FIRST, Ports};
use super::seq::Seq;
use super::syncache::{Matched, SynCache};
use super::tcb::{Config, Handshake};
use super::timewait::{Lingering, TimeWait};
use super::tuple::Tuple;
use core::net::IpAddr;
use hashbrown::HashTable;
use rumpkern::hash::HashKey;
use rumpkern::kmem;
use rumpuser::{Errno, Instant};

/// How many segments to nobody are answered with a reset in a second.
const RESETS_PER_SECOND: u32 = 500;

/// The secrets of one kernel's TCP; each is 16 random bytes.
#[derive(Clone, Copy)]
pub struct Secrets {
    /// Places in tables.
    pub table: [u8; 16],
    /// Initial sequence numbers.
    pub isn: [u8; 16],
    /// SYN cookies.
    pub cookie: [u8; 16],
    /// Ephemeral ports.
    pub port: [u8; 16],
}

/// How much is kept for those who have no socket.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections in the making.
    pub syn_cache: usize,
    /// Connections in TIME-WAIT.
    pub time_wait: usize,
}

/// To whom a segment belongs.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<C, L> {
    /// To this connection.
    Connection(C),
    /// It asks this listening socket for a connection: [`Demux::answer_syn`], if it has room. The
    /// number, if any, is what an earlier incarnation sent up to.
    Syn(L, Option<Seq>),
    /// It completes a connection to this listening socket: make it, [`Demux::establish`] it and give
    /// it the segment.
    Complete(L, Handshake),
    /// It is to be answered with this, whose ports are 0.
    Reply(Header),
    /// It is to be dropped.
    Drop,
}

/// The tables.
pub struct Demux<C, L> {
    keys: Keys,
    connections: HashTable<(Tuple, C)>,
    /// Bound and listening sockets.
    pub ports: Ports<L>,
    /// Connections in the making.
    pub syn_cache: SynCache,
    /// Connections that are over.
    pub time_wait: TimeWait,
    next_port: u32,
    resets_since: u64,
    resets: u32,
}

#[derive(Clone, Copy)]
struct Keys {
    table: HashKey,
    isn: HashKey,
    port: HashKey,
}

impl<C: Clone, L: Clone> Demux<C, L> {
    /// Empty tables.
    pub fn new(secrets: &Secrets, limits: Limits) -> Demux<C, L> {
        let keys = Keys {
            table: HashKey::from_bytes(secrets.table),
            isn: HashKey::from_bytes(secrets.isn),
            port: HashKey::from_bytes(secrets.port),
        };
        let cookie = HashKey::from_bytes(secrets.cookie);
        Demux {
            keys,
            connections: HashTable::new(),
            ports: Ports::default(),
            syn_cache: SynCache::new(keys.table, keys.isn, cookie, limits.syn_cache),
            time_wait: TimeWait::new(keys.table, limits.time_wait),
            next_port: 0,
            resets_since: 0,
            resets: 0,
        }
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The memory that the tables take.
    pub fn memory_bytes(&self) -> usize {
        self.connections.allocation_size()
            + self.syn_cache.memory_bytes()
            + self.time_wait.memory_bytes()
    }

    /// Calls `f` with every connection's handle.
    pub fn for_each(&self, mut f: impl FnMut(&C)) {
        self.connections
            .iter()
            .for_each(|(_, connection)| f(connection));
    }

    /// The connection of this name.
    #[inline]
    pub fn find(&self, tuple: &Tuple) -> Option<C> {
        let hash = tuple.table_hash(self.keys.table);
        self.connections
            .find(hash, |(name, _)| name == tuple)
            .map(|(_, connection)| connection.clone())
    }

    /// To whom a segment with `payload` bytes of data belongs. `config` is what a listening socket's
    /// connections would start with.
    pub fn classify(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        header: &Header,
        payload: u32,
        config: &Config,
    ) -> Verdict<C, L> {
        if let Some(connection) = self.find(tuple) {
            return Verdict::Connection(connection);
        }
        match self.time_wait.input(now, tuple, header, payload) {
            Lingering::Nothing => self.for_listener(now, tuple, header, payload, config),
            Lingering::Drop => Verdict::Drop,
            Lingering::Reply(reply) => Verdict::Reply(reply),
            Lingering::Reopen(floor) => match self.ports.listener(tuple.local, tuple.local_port) {
                Some(listener) => Verdict::Syn(listener, Some(floor)),
                None => self.for_nobody(now, header, payload),
            },
        }
    }

    /// A segment of no connection (§3.10.7.2).
    fn for_listener(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        header: &Header,
        payload: u32,
        config: &Config,
    ) -> Verdict<C, L> {
        let control = header.control;
        let Some(listener) = self.ports.listener(tuple.local, tuple.local_port) else {
            return self.for_nobody(now, header, payload);
        };
        if control.contains(Control::RST) {
            return match self.syn_cache.reset(tuple, header) {
                Matched::Reply(reply) => Verdict::Reply(reply),
                _ => Verdict::Drop,
            };
        }
        if control.contains(Control::ACK) {
            if control.contains(Control::SYN) {
                return self.for_nobody(now, header, payload);
            }
            return match self.syn_cache.acknowledged(now, tuple, header, config) {
                Matched::Complete(handshake) => Verdict::Complete(listener, handshake),
                Matched::Reply(reply) => Verdict::Reply(reply),
                Matched::Drop => Verdict::Drop,
                Matched::Nothing => self.for_nobody(now, header, payload),
            };
        }
        // A SYN with FIN is what no stack sends and scanners do.
        if control & (Control::SYN | Control::FIN) == Control::SYN {
            return Verdict::Syn(listener, None);
        }
        Verdict::Drop
    }

    /// A segment to a port where nobody is (§3.10.7.1): a reset, but not without end.
    fn for_nobody(&mut self, now: Instant, header: &Header, payload: u32) -> Verdict<C, L> {
        if header.control.contains(Control::RST) {
            return Verdict::Drop;
        }
        let now = now.as_nanos();
        if now.saturating_sub(self.resets_since) >= 1_000_000_000 {
            self.resets_since = now;
            self.resets = 0;
        }
        if self.resets >= RESETS_PER_SECOND {
            return Verdict::Drop;
        }
        self.resets += 1;
        if header.control.contains(Control::ACK) {
            return Verdict::Reply(reset_at(header.ack));
        }
        Verdict::Reply(Header {
            ack: header.seq + header.sequence_len(payload),
            control: Control::RST | Control::ACK,
            ..Header::default()
        })
    }

    /// The answer to a SYN.
    pub fn answer_syn(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        header: &Header,
        config: &Config,
        floor: Option<Seq>,
    ) -> Header {
        self.syn_cache.syn(now, tuple, header, config, floor)
    }

    /// A connection from the SYN cache has its control block now.
    ///
    /// # Errors
    /// `EEXIST` if another segment has established it meanwhile; `ENOBUFS`.
    pub fn establish(&mut self, tuple: Tuple, connection: C) -> Result<(), Errno> {
        self.insert(tuple, connection)?;
        self.syn_cache.remove(&tuple);
        Ok(())
    }

    /// Names a connection that we open; a local port of 0 stands for one that nobody uses. Answers its
    /// name and its initial sequence number.
    ///
    /// # Errors
    /// `EADDRINUSE` if there is such a connection; `EADDRNOTAVAIL` if no port is free; `ENOBUFS`.
    pub fn open(
        &mut self,
        now: Instant,
        mut tuple: Tuple,
        connection: C,
    ) -> Result<(Tuple, Seq), Errno> {
        if tuple.local_port == 0 {
            tuple.local_port = self.choose_port(&tuple)?;
        } else if self.is_taken(&tuple) {
            return Err(Errno::EADDRINUSE);
        }
        self.insert(tuple, connection)?;
        Ok((tuple, initial_sequence(self.keys.isn, &tuple, now)))
    }

    /// A bound socket is gone; and with a listening one, the connections in the making that it alone would
    /// have had.
    pub fn unbind(&mut self, id: BindingId) {
        if self.ports.unbind(id) {
            let ports = &self.ports;
            self.syn_cache
                .retain(|tuple| ports.listener(tuple.local, tuple.local_port).is_some());
        }
    }

    /// A port for a socket that wants any.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` if all are taken.
    pub fn free_port(&mut self, local: IpAddr) -> Result<u16, Errno> {
        let any = Tuple {
            local,
            local_port: 0,
            remote_port: 0,
            remote: local,
        };
        // A port where a connection lingers is one that only SO_REUSEADDR may have.
        for _ in EPHEMERAL_FIRST..=u16::MAX {
            let port = self.choose_port(&any)?;
            if !self.is_port_busy(port) {
                return Ok(port);
            }
        }
        Err(Errno::EADDRNOTAVAIL)
    }

    /// The connection is gone.
    pub fn remove(&mut self, tuple: &Tuple) -> Option<C> {
        let hash = tuple.table_hash(self.keys.table);
        let entry = self
            .connections
            .find_entry(hash, |(name, _)| name == tuple)
            .ok()?;
        let ((_, connection), _) = entry.remove();
        if self.connections.is_empty() {
            self.connections = HashTable::new();
        }
        Some(connection)
    }

    /// The connection is over and enters TIME-WAIT.
    pub fn linger(&mut self, now: Instant, tuple: &Tuple, (snd_nxt, rcv_nxt): (Seq, Seq)) {
        if self.remove(tuple).is_some() {
            self.time_wait.enter(now, *tuple, snd_nxt, rcv_nxt);
        }
    }

    /// Whether a connection, or what is left of one, has this local port: then it can be bound only by
    /// who says SO_REUSEADDR.
    pub fn is_port_busy(&self, port: u16) -> bool {
        let is_there = |name: &Tuple| name.local_port == port;
        self.connections.iter().any(|(name, _)| is_there(name)) || self.time_wait.any(is_there)
    }

    /// When [`on_timer`](Demux::on_timer) must be called next.
    pub fn deadline(&self) -> Option<Instant> {
        let deadlines = [self.syn_cache.deadline(), self.time_wait.deadline()];
        deadlines
            .into_iter()
            .flatten()
            .min()
            .map(Instant::from_nanos)
    }

    /// Forgets what is over, and answers the next SYN of ours to be sent again, until there is none.
    pub fn on_timer(&mut self, now: Instant) -> Option<(Tuple, Header)> {
        self.time_wait.expire(now);
        self.syn_cache.next_due(now)
    }

    fn is_taken(&self, tuple: &Tuple) -> bool {
        self.find(tuple).is_some()
            || self.time_wait.contains(tuple)
            || self.syn_cache.contains(tuple)
    }

    fn insert(&mut self, tuple: Tuple, connection: C) -> Result<(), Errno> {
        let key = self.keys.table;
        let hash = tuple.table_hash(key);
        if self
            .connections
            .find(hash, |(name, _)| *name == tuple)
            .is_some()
        {
            return Err(Errno::EEXIST);
        }
        let rehash = |(name, _): &(Tuple, C)| name.table_hash(key);
        let spare = self.connections.capacity() - self.connections.len();
        let room = kmem::room_by(spare, 1, || self.connections.try_reserve(1, rehash));
        room.map_err(|_| Errno::ENOBUFS)?;
        self.connections
            .insert_unique(hash, (tuple, connection), rehash);
        Ok(())
    }

    /// RFC 6056 §3.3.3, simple hash-based selection: of one destination the ports follow each other, of
    /// another they tell nothing.
    fn choose_port(&mut self, tuple: &Tuple) -> Result<u16, Errno> {
        let count = u32::from(u16::MAX - EPHEMERAL_FIRST) + 1;
        let offset = tuple.secret_hash(self.keys.port, 0) as u32;
        for _ in 0..count {
            let step = offset.wrapping_add(self.next_port) % count;
            self.next_port = self.next_port.wrapping_add(1);
            let port = EPHEMERAL_FIRST + step as u16;
            let candidate = Tuple {
                local_port: port,
                ..*tuple
            };
            if !self.ports.is_bound(port) && !self.is_taken(&candidate) {
                return Ok(port);
            }
        }
        Err(Errno::EADDRNOTAVAIL)
    }
}
