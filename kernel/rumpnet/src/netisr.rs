//! Packets that loop back inside this machine: a bounded queue and a soft interrupt that empties it.
//!
//! Output may hold a control block's lock and must not run the way up; so what it sends to itself is
//! queued here and taken up from a thread of its own.

use crate::ifnet::{Ifnet, count};
use crate::mbuf::Mbuf;
use crate::net::Net;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering;
use rumpkern::Kernel;
use rumpkern::kmem::Room;
use rumpkern::locks::{LockClass, Mutex};
use rumpkern::softint::Softint;
use rumpuser::Errno;

/// Packets that may wait (`IFQ_MAXLEN`).
const IFQ_MAXLEN: usize = 256;

/// Packets taken up before others get to run.
const BATCH: usize = 32;

static NETISR: LockClass = LockClass {
    name: "netisr",
    rank: 290,
};

type Queue = Mutex<VecDeque<(u16, Arc<Ifnet>, Mbuf)>>;

/// The queue.
pub struct Netisr {
    queue: Arc<Queue>,
    softint: Softint,
}

impl Netisr {
    /// A queue whose packets go up in `net`.
    ///
    /// # Errors
    /// The soft interrupt's.
    pub fn new(kernel: &Arc<Kernel>, net: &Arc<Net>) -> Result<Netisr, Errno> {
        let queue = Arc::new(Mutex::with_class(VecDeque::new(), &NETISR));
        let (from, net) = (Arc::clone(&queue), Arc::downgrade(net));
        let softint = Softint::establish(kernel, "netisr", move || drain(&from, &net))?;
        Ok(Netisr { queue, softint })
    }

    /// Queues a packet of `ethertype` as if `ifp` had received it.
    ///
    /// # Errors
    /// `ENOBUFS` if the queue is full.
    pub fn enqueue(&self, ethertype: u16, ifp: &Arc<Ifnet>, packet: Mbuf) -> Result<(), Errno> {
        {
            let mut queue = self.queue.lock();
            if queue.len() >= IFQ_MAXLEN || queue.room(1).is_err() {
                count(&ifp.counters.iqdrops);
                return Err(Errno::ENOBUFS);
            }
            queue.push_back((ethertype, ifp.clone(), packet));
        }
        self.softint.schedule();
        Ok(())
    }
}

fn drain(queue: &Queue, net: &Weak<Net>) {
    let Some(net) = net.upgrade() else { return };
    let mut taken = 0;
    loop {
        let next = queue.lock().pop_front();
        let Some((ethertype, ifp, packet)) = next else {
            return;
        };
        count(&ifp.counters.ipackets);
        let bytes = packet.len() as u64;
        ifp.counters.ibytes.fetch_add(bytes, Ordering::Relaxed);
        net.dispatch(ethertype, &ifp, packet);
        taken += 1;
        if taken % BATCH == 0 {
            rumpuser::host().threads().yield_now();
        }
    }
}
