//! TCP (RFC 9293).
//!
//! Two halves. What TCP *is* knows no stack, no lock and no clock, and is tested by itself:
//!
//! | file | what |
//! |---|---|
//! | [`header`], [`seq`], [`mod@tuple`] | the wire format; sequence numbers; a connection's name |
//! | [`tcb`] (with `calls`, `input`, `ack`, `text`, `output`, `timer`) | one connection: the state machine |
//! | [`cc`], [`rtt`], [`reass`] | congestion control, time-outs, segments out of order |
//! | [`demux`], [`ports`], [`syncache`], [`cookie`], [`timewait`], [`table`] | to whom a segment belongs; connections before they stand and after they are over |
//! | [`isn`] | initial sequence numbers |
//!
//! The other half joins it to sockets, mbufs and IP: this file ([`Tcp`], one for each kernel), `segment.rs` (segments
//! in and out), `pcb.rs` (a connection with its socket and its timer), `usrreq.rs` (what the socket layer asks).
//!
//! Data is never copied here. A segment received goes into the socket buffer as the chain it came in; one
//! sent is a view of the send buffer, whose storage stays until it is acknowledged.
//!
//! Memory: a connection is a control block of a few hundred bytes, a callout and its socket. A
//! connection in the making is an entry of the SYN cache, and one that is over an entry of TIME-WAIT; both
//! are bounded by the memory there is. What waits out of order is bounded by the receive buffer, and dropped when the
//! pagedaemon asks.
//!
//! Lock order: a control block ([`pcb::TcpPcb`], 200) → its socket (220) → the tables (240) → what IP takes. A handle
//! is taken out of the tables, which are unlocked, before its control block is locked.
//!
//! Sources: RFC 9293, 1191, 1337, 2525, 3042, 3465, 4987, 5461, 5681, 5927, 5961, 6056, 6191, 6298, 6528, 6582,
//! 6928, 7323.

mod ack;
mod calls;
pub mod cc;
pub mod cookie;
pub mod demux;
pub mod header;
mod input;
pub mod isn;
mod output;
pub mod pcb;
pub mod ports;
pub mod reass;
pub mod rtt;
mod segment;
pub mod seq;
pub mod syncache;
pub mod table;
pub mod tcb;
mod text;
mod timer;
pub mod timewait;
pub mod tuple;
mod usrreq;

#[cfg(test)]
mod tests;

pub use usrreq::TcpProtocol;

use crate::inet::Inet;
use crate::ip::{IP_MAXPACKET, IpProto};
use alloc::sync::{Arc, Weak};
use core::sync::atomic::AtomicU64;
use core::time::Duration;
use demux::{Demux, Limits, Secrets};
use pcb::TcpPcb;
use rumpkern::callout::Callout;
use rumpkern::locks::{LockClass, Mutex, MutexGuard, OnceLock};
use rumpkern::uvm::{self, Drain, MCLBYTES};
use rumpkern::{Kernel, random, time};
use rumpnet::ifnet::{IfCaps, Ifnet};
use rumpnet::net::Net;
use rumpuser::{Errno, Instant, PAGE_SIZE};
use tcb::{Config, IPV4_TCP_HEADERS, MSS_DEFAULT, MSS_MIN};

static TCP_TABLE: LockClass = LockClass {
    name: "tcptable",
    rank: 240,
};

/// The receive buffer that a listening socket's connections start with, memory allowing.
const RECEIVE_BYTES: usize = 32 << 10;
/// The least memory that pays for one entry of the SYN cache, and of TIME-WAIT.
const BYTES_PER_EMBRYO: usize = 32 << 10;
const BYTES_PER_TIME_WAIT: usize = 16 << 10;

/// Counters (`tcpstat`).
#[derive(Debug, Default)]
pub struct TcpStats {
    /// Segments received.
    pub received: AtomicU64,
    /// Too short for what they say, or no TCP header.
    pub malformed: AtomicU64,
    /// Wrong checksum.
    pub bad_sum: AtomicU64,
    /// Segments sent.
    pub sent: AtomicU64,
    /// Not sent for want of memory or of room at the interface.
    pub send_failed: AtomicU64,
    /// Connections that stood up.
    pub established: AtomicU64,
    /// SYNs that were dropped because the accept queue was full.
    pub listen_overflow: AtomicU64,
    /// Times that memory was short and what waited out of order was dropped.
    pub drained: AtomicU64,
}

type Tables = Demux<Arc<TcpPcb>, Arc<TcpPcb>>;

struct Locked {
    tables: Tables,
    /// What the callout is set to.
    armed: Option<Instant>,
    /// When connections without a user were last given up.
    hastened: Instant,
}

/// Connections without a user are given up at most so often: looking for them is work, and anybody can send SYNs.
const HASTE: Duration = Duration::from_millis(500);

/// TCP of one kernel.
pub struct Tcp {
    inet: Weak<Inet>,
    kernel: Weak<Kernel>,
    locked: Mutex<Locked>,
    /// Sends SYNs of the cache again, and ends TIME-WAITs.
    callout: OnceLock<Callout>,
    receive_bytes: u32,
    receive_max: u32,
    /// Counters.
    pub stats: TcpStats,
}

impl Tcp {
    /// Starts TCP: sockets can be made, segments come in.
    ///
    /// # Errors
    /// `EEXIST` if it was started; `ENXIO` without randomness; `ENOMEM`.
    pub fn attach(kernel: &Arc<Kernel>, inet: &Arc<Inet>, net: &Net) -> Result<Arc<Tcp>, Errno> {
        let mut secrets = Secrets {
            table: [0; 16],
            isn: [0; 16],
            cookie: [0; 16],
            port: [0; 16],
        };
        random::fill(&mut secrets.table)?;
        random::fill(&mut secrets.isn)?;
        random::fill(&mut secrets.cookie)?;
        random::fill(&mut secrets.port)?;
        let receive_max = net.budget().sb_max();
        let locked = Locked {
            tables: Demux::new(&secrets, limits(uvm::limit_pages() * PAGE_SIZE)),
            armed: None,
            hastened: Instant::default(),
        };
        let tcp = Arc::new(Tcp {
            inet: Arc::downgrade(inet),
            kernel: Arc::downgrade(kernel),
            locked: Mutex::with_class(locked, &TCP_TABLE),
            callout: OnceLock::new(),
            receive_bytes: RECEIVE_BYTES.min(receive_max) as u32,
            receive_max: receive_max as u32,
            stats: TcpStats::default(),
        });
        let weak = Arc::downgrade(&tcp);
        let callout = Callout::new(kernel, move || {
            if let Some(tcp) = weak.upgrade() {
                tcp.on_timer();
            }
        });
        let set = tcp.callout.set(callout);
        debug_assert!(set.is_ok(), "set once, here");
        inet.register(IpProto::TCP, tcp.clone())?;
        net.register_protocol(Arc::new(TcpProtocol::new(&tcp)))?;
        let drain: Weak<Tcp> = Arc::downgrade(&tcp);
        uvm::register_drain("tcp reassembly", 0, drain)?;
        Ok(tcp)
    }

    /// How many connections have a control block.
    pub fn connections(&self) -> usize {
        self.tables().connections()
    }

    /// How many connections are in TIME-WAIT.
    pub fn time_waits(&self) -> usize {
        self.tables().time_wait.len()
    }

    /// How many connections are in the making.
    pub fn embryos(&self) -> usize {
        self.tables().syn_cache.len()
    }

    fn tables(&self) -> TableGuard<'_> {
        TableGuard(self.locked.lock())
    }

    /// What a connection by `ifp` starts with.
    fn config(&self, ifp: &Ifnet) -> Config {
        let headers = usize::from(IPV4_TCP_HEADERS);
        // What the driver takes of whole clusters, with pieces left for headers and for parts of clusters at both ends.
        let whole = ifp.max_pieces().saturating_sub(4).saturating_mul(MCLBYTES);
        let most = (IP_MAXPACKET - headers).min(whole);
        // Two at least fit in a receive buffer, or one would wait for the other's acknowledgment.
        let half_a_buffer = (self.receive_bytes as usize / 2).max(usize::from(MSS_DEFAULT));
        let mss = ifp
            .mtu()
            .saturating_sub(headers)
            .clamp(usize::from(MSS_MIN), half_a_buffer);
        let offloads = IfCaps::IFCAP_TSOV4 | IfCaps::IFCAP_CSUM_TX;
        Config {
            mss: mss as u16,
            receive_bytes: self.receive_bytes,
            receive_max: self.receive_max,
            offload_bytes: if ifp.caps().contains(offloads) {
                most.min(ifp.tso_max()) as u32
            } else {
                0
            },
            no_delay: false,
            keepalive: None,
        }
    }

    /// Sees to it that the callout runs when the tables need it.
    fn arm(&self) {
        let mut locked = self.locked.lock();
        let Some(deadline) = locked.tables.deadline() else {
            return;
        };
        if locked.armed.is_none_or(|armed| deadline < armed)
            && let Some(callout) = self.callout.get()
        {
            locked.armed = Some(deadline);
            callout.schedule_at(deadline);
        }
    }

    fn on_timer(&self) {
        let Some(inet) = self.inet.upgrade() else {
            return;
        };
        let now = time::now();
        self.locked.lock().armed = None;
        loop {
            let due = self.tables().on_timer(now);
            let Some((tuple, header)) = due else { break };
            self.respond(&inet, &tuple, header);
        }
        self.arm();
    }
}

/// The tables, locked.
struct TableGuard<'a>(MutexGuard<'a, Locked>);

impl Tcp {
    /// There are as many sockets as memory allows: those that nobody has, and that wait for nothing but the other side's end, make
    /// room, by their timers. Who asked is to ask again.
    fn hasten(&self, now: Instant) {
        let mut locked = self.locked.lock();
        if now.saturating_since(locked.hastened) < HASTE {
            return;
        }
        locked.hastened = now;
        locked.tables.for_each(|pcb| pcb.hasten(now));
    }
}

impl core::ops::Deref for TableGuard<'_> {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        &self.0.tables
    }
}

impl core::ops::DerefMut for TableGuard<'_> {
    fn deref_mut(&mut self) -> &mut Tables {
        &mut self.0.tables
    }
}

impl Drain for Tcp {
    fn drain(&self, want: usize) -> usize {
        let Some(locked) = self.locked.try_lock() else {
            return 0;
        };
        let mut freed_bytes = 0;
        let now = time::now();
        locked.tables.for_each(|pcb| {
            pcb.hasten(now);
            if freed_bytes < want * PAGE_SIZE {
                freed_bytes += pcb.drain();
            }
        });
        drop(locked);
        if freed_bytes > 0 {
            rumpnet::ifnet::count(&self.stats.drained);
        }
        freed_bytes / PAGE_SIZE
    }
}

impl Drop for Tcp {
    /// Lets go of sockets whose user is gone: they and their control blocks hold each other.
    fn drop(&mut self) {
        let mut pcbs = alloc::vec::Vec::new();
        self.tables().for_each(|pcb| pcbs.push(pcb.clone()));
        pcbs.iter().for_each(|pcb| pcb.forget());
    }
}

/// How much is kept for those who have no socket, in a kernel of so much memory.
fn limits(memory_bytes: usize) -> Limits {
    Limits {
        syn_cache: (memory_bytes / BYTES_PER_EMBRYO).clamp(32, 2048),
        time_wait: (memory_bytes / BYTES_PER_TIME_WAIT).clamp(64, 8192),
    }
}
