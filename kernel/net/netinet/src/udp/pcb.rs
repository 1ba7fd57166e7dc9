//! Control blocks of UDP, and the table that finds them.
//!
//! The table is hashed by local port with a key of its own, so that nobody outside can choose
//! collisions. A datagram goes to the control block that fits it best: connected to its sender
//! before bound to its address before bound to any address.

use super::Flow;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::sync::atomic::{AtomicU8, Ordering};
use hashbrown::HashMap;
use rumpkern::hash::HashKey;
use rumpkern::kmem::{self, Room};
use rumpkern::locks::{LockClass, Mutex};
use rumpkern::random;
use rumpnet::ifnet::Ifnet;
use rumpnet::socket::Socket;
use rumpuser::Errno;

static UDP_PCB: LockClass = LockClass {
    name: "udppcb",
    rank: 200,
};
static UDP_TABLE: LockClass = LockClass {
    name: "udptable",
    rank: 240,
};

/// Where ephemeral ports start (RFC 6335 §6), and the port after the last.
const EPHEMERAL: (u32, u32) = (49_152, 65_536);

/// Control blocks on one port.
const MAX_PER_PORT: usize = 256;

/// A control block.
pub struct UdpPcb {
    socket: Weak<Socket>,
    ends: Mutex<Ends>,
    ttl: AtomicU8,
}

/// What a control block is bound and connected to.
#[derive(Clone)]
pub(super) struct Ends {
    /// Local address; the port is 0 while unbound.
    pub(super) local: SocketAddrV4,
    /// The one peer, if connected.
    pub(super) remote: Option<SocketAddrV4>,
    /// The one interface, if restricted to one.
    pub(super) ifp: Option<Arc<Ifnet>>,
}

impl UdpPcb {
    pub(super) fn new(so: &Arc<Socket>, ttl: u8) -> UdpPcb {
        UdpPcb {
            socket: Arc::downgrade(so),
            ends: Mutex::with_class(
                Ends {
                    local: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
                    remote: None,
                    ifp: None,
                },
                &UDP_PCB,
            ),
            ttl: AtomicU8::new(ttl),
        }
    }

    /// Its socket, while that lives.
    pub fn socket(&self) -> Option<Arc<Socket>> {
        self.socket.upgrade()
    }

    /// Restricts it to one interface: it receives from that alone, and sends by it straight onto the
    /// wire, even from an unspecified address (RFC 2131 §4.1).
    pub fn bind_interface(&self, ifp: &Arc<Ifnet>) {
        self.ends.lock().ifp = Some(ifp.clone());
    }

    pub(super) fn ends(&self) -> Ends {
        self.ends.lock().clone()
    }

    pub(super) fn set_remote(&self, local: SocketAddrV4, remote: Option<SocketAddrV4>) {
        let mut ends = self.ends.lock();
        (ends.local, ends.remote) = (local, remote);
    }

    pub(super) fn ttl(&self) -> u8 {
        self.ttl.load(Ordering::Relaxed)
    }

    pub(super) fn set_ttl(&self, ttl: u8) {
        self.ttl.store(ttl, Ordering::Relaxed);
    }

    /// How well a datagram fits: more is better, none if not at all.
    fn fit(&self, flow: &Flow, ifp: &Arc<Ifnet>) -> Option<u8> {
        let ends = self.ends.lock();
        let by_interface = ends.ifp.as_ref().is_none_or(|only| Arc::ptr_eq(only, ifp));
        let any = ends.local.ip().is_unspecified();
        let to_us = any || ends.local.ip() == flow.local.ip();
        let from_peer = ends.remote.is_none_or(|remote| remote == flow.remote);
        if !by_interface || !to_us || !from_peer {
            return None;
        }
        Some(2 * u8::from(ends.remote.is_some()) + u8::from(!any))
    }
}

/// How an address may be shared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// Not at all: but a specific address and the unspecified one are two.
    No,
    /// With others that say so too (`SO_REUSEADDR`, `SO_REUSEPORT`).
    Yes,
}

/// A control block on a port, and what it was bound to: its own lock is outside the table's.
struct Bound {
    pcb: Arc<UdpPcb>,
    local: Ipv4Addr,
    ifp: Option<Arc<Ifnet>>,
    share: Share,
}

impl Bound {
    /// Whether another may not be bound like this besides.
    fn excludes(&self, local: Ipv4Addr, ifp: Option<&Arc<Ifnet>>, share: Share) -> bool {
        let both_share = share == Share::Yes && self.share == Share::Yes;
        let apart = match (&self.ifp, ifp) {
            (Some(a), Some(b)) => !Arc::ptr_eq(a, b),
            _ => false,
        };
        self.local == local && !apart && !both_share
    }
}

/// The table.
pub(super) struct UdpTable {
    ports: Mutex<HashMap<u16, Vec<Bound>, HashKey>>,
}

impl UdpTable {
    pub(super) fn new() -> Result<UdpTable, Errno> {
        Ok(UdpTable {
            ports: Mutex::with_class(HashMap::with_hasher(HashKey::random()?), &UDP_TABLE),
        })
    }

    /// Binds a control block to `local`; to a port nobody can guess if that is 0 (RFC 6056 §3.3.1).
    pub(super) fn bind(
        &self,
        pcb: &Arc<UdpPcb>,
        local: SocketAddrV4,
        share: Share,
    ) -> Result<SocketAddrV4, Errno> {
        let mut ends = pcb.ends.lock();
        if ends.local.port() != 0 {
            return Err(Errno::EINVAL);
        }
        let mut ports = self.ports.lock();
        let port = match local.port() {
            0 => ephemeral(&ports)?,
            port => port,
        };
        let spare = ports.capacity() - ports.len();
        let room = kmem::room_by(spare, 1, || ports.try_reserve(1));
        room.map_err(|_| Errno::ENOBUFS)?;
        let ifp = ends.ifp.clone();
        let bound = ports.entry(port).or_default();
        let taken = bound
            .iter()
            .any(|b| b.excludes(*local.ip(), ifp.as_ref(), share));
        if taken || bound.len() == MAX_PER_PORT {
            return Err(Errno::EADDRINUSE);
        }
        if bound.room(1).is_err() {
            // A port with nobody on it would count as taken.
            if bound.is_empty() {
                ports.remove(&port);
            }
            return Err(Errno::ENOBUFS);
        }
        bound.push(Bound {
            pcb: pcb.clone(),
            local: *local.ip(),
            ifp,
            share,
        });
        ends.local = SocketAddrV4::new(*local.ip(), port);
        Ok(ends.local)
    }

    /// Forgets a control block.
    pub(super) fn unbind(&self, pcb: &Arc<UdpPcb>) {
        let port = pcb.ends().local.port();
        let mut ports = self.ports.lock();
        let Some(bound) = ports.get_mut(&port) else {
            return;
        };
        bound.retain(|b| !Arc::ptr_eq(&b.pcb, pcb));
        if bound.is_empty() {
            ports.remove(&port);
        }
    }

    /// The control block that a datagram fits best.
    pub(super) fn lookup(&self, flow: &Flow, ifp: &Arc<Ifnet>) -> Option<Arc<UdpPcb>> {
        let pcbs = self.on_port(flow.local.port());
        let fits = pcbs
            .into_iter()
            .filter_map(|pcb| Some((pcb.fit(flow, ifp)?, pcb)));
        fits.max_by_key(|(fit, _)| *fit).map(|(_, pcb)| pcb)
    }

    /// Every control block that a datagram fits.
    pub(super) fn lookup_all(&self, flow: &Flow, ifp: &Arc<Ifnet>) -> Vec<Arc<UdpPcb>> {
        let mut pcbs = self.on_port(flow.local.port());
        pcbs.retain(|pcb| pcb.fit(flow, ifp).is_some());
        pcbs
    }

    /// The control block connected just so.
    pub(super) fn lookup_connected(&self, flow: &Flow) -> Option<Arc<UdpPcb>> {
        self.on_port(flow.local.port()).into_iter().find(|pcb| {
            let ends = pcb.ends();
            ends.remote == Some(flow.remote) && ends.local == flow.local
        })
    }

    /// The control blocks on a port. Cloned, because theirs is the outer lock.
    fn on_port(&self, port: u16) -> Vec<Arc<UdpPcb>> {
        let ports = self.ports.lock();
        let Some(bound) = ports.get(&port) else {
            return Vec::new();
        };
        let mut pcbs = Vec::new();
        if pcbs.room(bound.len()).is_ok() {
            pcbs.extend(bound.iter().map(|b| b.pcb.clone()));
        }
        pcbs
    }
}

/// A free port, found from a random start (RFC 6056 §3.3.1).
fn ephemeral(ports: &HashMap<u16, Vec<Bound>, HashKey>) -> Result<u16, Errno> {
    let (first, past) = EPHEMERAL;
    let count = past - first;
    let start = random::u32()? % count;
    let mut candidates = (0..count).map(|i| (first + (start + i) % count) as u16);
    let free = candidates.find(|port| !ports.contains_key(port));
    free.ok_or(Errno::EADDRNOTAVAIL)
}
