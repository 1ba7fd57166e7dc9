//! Memory (uvm(9)): physical pages, the budget, the queues of page-cache pages, the pagedaemon, and
//! the way of pages to the host's devices.
//!
//! Physical memory is the process's, shared by all kernels in it, as in NetBSD's rump kernel: the
//! one exception to "a kernel is a value".
//!
//! - `page.rs`: the host's regions, `vm_page`, free lists, [`Frame`];
//! - `limit.rs`: what is counted, marks, reserve, who may wait;
//! - [`lru`]: which page-cache page goes first;
//! - `pagedaemon.rs`: what is done when memory is short;
//! - [`cluster`]: 2 KiB packet buffers;
//! - [`dma`]: frames and clusters under way to and from devices.

pub mod cluster;
pub mod dma;
mod limit;
pub mod lru;
#[allow(unsafe_code)]
mod page;
mod pagedaemon;

pub use cluster::{Cluster, MCLBYTES, MLEN, SmallBuffer};
pub use limit::{MINIMUM_LIMIT_BYTES, Marks, fail_after, marks, plenty, short};
pub use page::{Alloc, Frame, PageBytes};
pub use pagedaemon::{Drain, Pageout, Transit, pageout_started, recycle, register_drain};

pub(crate) use limit::{Purpose, extend, give_pages, injected_failure, take_pages};
pub(crate) use page::{KIND_LARGE, KIND_SLAB, KIND_SLAB_TAIL, NIL, PhysMem, VmPage, physmem};
pub(crate) use pagedaemon::start as start_pagedaemon;

use crate::locks::LockClass;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use rumpuser::{Errno, PAGE_SIZE, try_host};

/// Tables of uvm: taken under any other lock.
pub(crate) static UVM_CLASS: LockClass = LockClass {
    name: "uvm",
    rank: 950,
};

static READY: AtomicBool = AtomicBool::new(false);
static MANAGED: AtomicUsize = AtomicUsize::new(0);

/// Whether memory can be allocated; brings it up if there is a host.
#[inline]
pub(crate) fn ready() -> bool {
    READY.load(Ordering::Acquire) || bring_up()
}

/// Takes the host's memory into use, with the limit that the host's parameters give.
#[cold]
fn bring_up() -> bool {
    let Some(host) = try_host() else {
        return false;
    };
    let regions = host.memory().regions();
    let total: usize = regions.iter().map(|region| region.pages).sum();
    let limit = crate::params::memlimit(host.params().command_line())
        .filter(|bytes| *bytes >= MINIMUM_LIMIT_BYTES)
        .map(|bytes| limit::pages_in(bytes).min(total));
    // Twice the limit is managed, so that a run of pages can be found in spite of fragmentation.
    let Some((managed, metadata)) = page::load(regions, limit.map(|pages| pages * 2)) else {
        return false;
    };
    // Several threads may come here at first; one of them counts.
    if MANAGED
        .compare_exchange(0, managed, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
    {
        limit::set_limit(limit.unwrap_or(managed + metadata));
        limit::charge_fixed(metadata);
        READY.store(true, Ordering::Release);
    }
    while !READY.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    true
}

/// Sets the limit of memory in bytes, for a program that decides it itself rather than by `memlimit=`.
/// What is above the new limit already stays until it is freed.
///
/// # Errors
/// `EINVAL` if it is less than [`MINIMUM_LIMIT_BYTES`]; `ENOMEM` if there is less memory, or none.
pub fn set_limit(bytes: usize) -> Result<(), Errno> {
    if !ready() {
        return Err(Errno::ENOMEM);
    }
    if bytes < MINIMUM_LIMIT_BYTES {
        return Err(Errno::EINVAL);
    }
    if bytes / PAGE_SIZE > MANAGED.load(Ordering::Relaxed) {
        return Err(Errno::ENOMEM);
    }
    limit::set_limit(bytes / PAGE_SIZE);
    Ok(())
}

/// The limit in pages.
pub fn limit_pages() -> usize {
    marks().limit
}

/// Pages that the host gave and that are managed.
pub fn physmem_pages() -> usize {
    MANAGED.load(Ordering::Relaxed)
}

/// As [`physmem_pages`], in bytes.
pub fn physmem_bytes() -> usize {
    let _ = ready();
    physmem_pages() * PAGE_SIZE
}

/// Where memory is, in pages, and what the pagedaemon did, in events since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UvmStats {
    /// The limit.
    pub limit: usize,
    /// In use, all kinds.
    pub used: usize,
    /// Free under the limit.
    pub free: usize,
    /// The most that was ever in use.
    pub high_water: usize,
    /// Slabs and large allocations.
    pub kmem_pages: usize,
    /// Page-cache pages that were used again.
    pub active: usize,
    /// Page-cache pages next to be reclaimed.
    pub inactive: usize,
    /// The longest run of pages that is free.
    pub largest_free: usize,
    /// Pages being written to be freed.
    pub outstanding: usize,
    /// Pages whose writing was started to free them.
    pub pageouts_started: u64,
    /// Pages freed after they were written.
    pub pageouts_done: u64,
    /// Pages that the pagedaemon freed, written or not.
    pub freed: u64,
    /// Times that the pagedaemon was woken.
    pub pdwoke: u64,
    /// Pages that it looked at.
    pub scanned: u64,
    /// Pages that caches and pools gave back.
    pub drained: u64,
    /// Rounds that were hopeless.
    pub hopeless: u64,
    /// Allocations that had to wait.
    pub waits: u64,
    /// Allocations that were refused.
    pub refused: u64,
    /// Threads that wait now.
    pub waiters: usize,
}

/// The counters now.
pub fn stats() -> UvmStats {
    let limit = marks().limit;
    let counts = limit::counts();
    let daemon = pagedaemon::counts();
    let (inactive, active) = lru::lengths();
    UvmStats {
        limit,
        used: counts.used,
        free: limit.saturating_sub(counts.used),
        high_water: counts.high_water,
        kmem_pages: crate::kmem::stats().pages,
        active,
        inactive,
        largest_free: physmem().map_or(0, |p| p.largest_free() as usize),
        outstanding: daemon.outstanding,
        pageouts_started: daemon.started,
        pageouts_done: daemon.done,
        freed: daemon.freed,
        pdwoke: daemon.woken,
        scanned: daemon.scanned,
        drained: daemon.drained,
        hopeless: daemon.hopeless,
        waits: counts.waits,
        refused: counts.refused,
        waiters: counts.waiters,
    }
}

/// A counter's name, what it counts, and how to get it.
type Gauge = (&'static str, &'static str, fn(&UvmStats) -> u64);

const GAUGES: [Gauge; 17] = [
    ("uvm_limit_pages", "the budget", |s| s.limit as u64),
    ("uvm_used_pages", "in use", |s| s.used as u64),
    ("uvm_free_pages", "free under the limit", |s| s.free as u64),
    ("uvm_high_water_pages", "most ever in use", |s| {
        s.high_water as u64
    }),
    ("uvm_kmem_pages", "slabs and large allocations", |s| {
        s.kmem_pages as u64
    }),
    ("uvm_active_pages", "cached and used again", |s| {
        s.active as u64
    }),
    ("uvm_inactive_pages", "cached, next to go", |s| {
        s.inactive as u64
    }),
    ("uvm_pageouts_outstanding", "pages being written", |s| {
        s.outstanding as u64
    }),
    ("uvm_pageouts_started_total", "pages written out", |s| {
        s.pageouts_started
    }),
    (
        "uvm_pageouts_done_total",
        "pages freed after writing",
        |s| s.pageouts_done,
    ),
    ("uvm_pagedaemon_freed_total", "pages freed", |s| s.freed),
    ("uvm_pagedaemon_wakeups_total", "wake-ups", |s| s.pdwoke),
    ("uvm_pagedaemon_scanned_total", "pages looked at", |s| {
        s.scanned
    }),
    ("uvm_pagedaemon_drained_total", "pages from caches", |s| {
        s.drained
    }),
    ("uvm_pagedaemon_hopeless_total", "rounds in vain", |s| {
        s.hopeless
    }),
    ("uvm_waits_total", "allocations that waited", |s| s.waits),
    ("uvm_refused_total", "allocations refused", |s| s.refused),
];

/// The counters of memory, as a group.
pub(crate) fn counters(f: &mut dyn FnMut(&str, &str, u64)) {
    let stats = stats();
    for (name, help, value) in GAUGES {
        f(name, help, value(&stats));
    }
}
