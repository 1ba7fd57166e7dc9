//! The pagedaemon: gets memory back when it is short.
//!
//! One thread of the process's. A round: walk the inactive queue, freeing clean pages and starting to write dirty ones; if that did not do, ask the registered
//! [`Drain`]s (caches, pools, slabs), lowest priority first. Pages being written are *outstanding*: the
//! daemon counts them as on their way to being free, and never gives up while there are any; each completion
//! frees pages, which wakes as many waiters. Nor does it give up while a device reads into pages, or writes buffers, that can be
//! freed only when it has ([`Transit`]): with little memory, most of it may be such pages.
//!
//! It is hopeless only if nothing was freed in several rounds, nothing is outstanding, and somebody waits: then it
//! says so once, with the numbers, and tries again after a pause, since memory may also be freed by its
//! owners. After [`PATIENCE`] such rounds in a row those that wait get `ENOMEM`: all memory is in use
//! for what cannot be reclaimed, and waiting for ever would only hide it.
//!
//! The daemon takes no lock but by trying, other than the short and the memory-free ones of uvm itself; it
//! allocates from the reserve only.

use super::limit;
use super::lru::{self, Look, Reclaim, Reclaimed};
use crate::locks::Mutex;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::num::NonZeroU64;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use rumpuser::{Errno, ThreadId, host};

/// Hopeless rounds in a row after which waiters fail.
const PATIENCE: u32 = 10;
/// Rounds in a row that freed nothing while no device had a page, after which they count as hopeless: a lock that was only held is
/// free by then, and who took pages has made use of them.
const VAIN_ROUNDS: u32 = 64;
/// Pause after such a round.
const VAIN_PAUSE: Duration = Duration::from_millis(5);
/// Pause after a hopeless round.
const PAUSE: Duration = Duration::from_millis(500);
/// Pause after a round that brought nothing although nobody waits, or while writes are under way.
const BREATH: Duration = Duration::from_millis(50);
static THREAD: AtomicU64 = AtomicU64::new(0);
static KICKED: AtomicBool = AtomicBool::new(false);
static STARTING: AtomicBool = AtomicBool::new(false);

/// Pages being written to be freed.
static OUTSTANDING: AtomicUsize = AtomicUsize::new(0);
/// Other pages that a device reads or writes.
static IN_TRANSIT: AtomicUsize = AtomicUsize::new(0);
static STARTED: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);
static WOKEN: AtomicU64 = AtomicU64::new(0);
static SCANNED: AtomicU64 = AtomicU64::new(0);
static DRAINED: AtomicU64 = AtomicU64::new(0);
static HOPELESS: AtomicU64 = AtomicU64::new(0);

/// A cache that can give memory back.
pub trait Drain: Send + Sync {
    /// Tries to free `want` pages worth of memory; returns about how many it freed, 0 for nothing.
    /// Called by the pagedaemon: must not wait.
    fn drain(&self, want: usize) -> usize;
}

struct Registered {
    name: &'static str,
    priority: u32,
    drain: Weak<dyn Drain>,
}

static DRAINS: Mutex<Vec<Registered>> = Mutex::with_class(Vec::new(), &super::UVM_CLASS);

/// Registers a cache. Low priorities are asked first: 0 for what costs nothing to lose. Registrations
/// whose cache is gone are forgotten.
///
/// # Errors
/// `ENOMEM`.
pub fn register_drain(
    name: &'static str,
    priority: u32,
    drain: Weak<dyn Drain>,
) -> Result<(), Errno> {
    let mut registered = loop {
        // Made outside of the lock; others may register meanwhile.
        let room = DRAINS.lock().len() + 4;
        let mut drains: Vec<Registered> = crate::kmem::try_vec(room)?;
        let mut registered = DRAINS.lock();
        registered.retain(|r| r.drain.strong_count() > 0);
        if registered.len() < registered.capacity() {
            break registered;
        }
        if registered.len() < drains.capacity() {
            drains.append(&mut registered);
            core::mem::swap(&mut *registered, &mut drains);
            break registered;
        }
    };
    let at = registered.partition_point(|r| r.priority <= priority);
    registered.insert(
        at,
        Registered {
            name,
            priority,
            drain,
        },
    );
    drop(registered);
    Ok(())
}

/// Pages on their way to the disk, to be freed then. Dropping it says that none came free.
#[derive(Debug)]
#[must_use = "dropping it ends the pageout"]
pub struct Pageout {
    pages: usize,
}

/// Counts `pages` pages as outstanding (uvm_pageout_start).
pub fn pageout_started(pages: usize) -> Pageout {
    OUTSTANDING.fetch_add(pages, Ordering::SeqCst);
    STARTED.fetch_add(pages as u64, Ordering::Relaxed);
    Pageout { pages }
}

impl Pageout {
    /// The writing is over, and `freed` of the pages were freed (uvm_pageout_done). Call it after they
    /// were: freeing a page is what wakes a waiter.
    pub fn done(self, freed: usize) {
        DONE.fetch_add(freed.min(self.pages) as u64, Ordering::Relaxed);
        FREED.fetch_add(freed as u64, Ordering::Relaxed);
        drop(self);
    }
}

impl Drop for Pageout {
    fn drop(&mut self) {
        OUTSTANDING.fetch_sub(self.pages, Ordering::SeqCst);
        if limit::short() {
            kick();
        }
    }
}

/// Pages that a device reads or writes, and that can be freed once it has: not given up on meanwhile.
#[derive(Debug)]
#[must_use = "dropping it says that the device is done with them"]
pub struct Transit {
    pages: usize,
}

impl Transit {
    /// Counts `pages` pages.
    pub fn begin(pages: usize) -> Transit {
        IN_TRANSIT.fetch_add(pages, Ordering::SeqCst);
        Transit { pages }
    }
}

impl Drop for Transit {
    fn drop(&mut self) {
        IN_TRANSIT.fetch_sub(self.pages, Ordering::SeqCst);
        if limit::short() {
            kick();
        }
    }
}

/// Pages that a device has.
fn with_devices() -> usize {
    OUTSTANDING.load(Ordering::SeqCst) + IN_TRANSIT.load(Ordering::SeqCst)
}

/// Counters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) outstanding: usize,
    pub(super) started: u64,
    pub(super) done: u64,
    pub(super) freed: u64,
    pub(super) woken: u64,
    pub(super) scanned: u64,
    pub(super) drained: u64,
    pub(super) hopeless: u64,
}

pub(super) fn counts() -> Counts {
    Counts {
        outstanding: OUTSTANDING.load(Ordering::Relaxed),
        started: STARTED.load(Ordering::Relaxed),
        done: DONE.load(Ordering::Relaxed),
        freed: FREED.load(Ordering::Relaxed),
        woken: WOKEN.load(Ordering::Relaxed),
        scanned: SCANNED.load(Ordering::Relaxed),
        drained: DRAINED.load(Ordering::Relaxed),
        hopeless: HOPELESS.load(Ordering::Relaxed),
    }
}

/// Starts the daemon. Later calls do nothing.
///
/// # Errors
/// The host's, if it has no thread left.
pub(crate) fn start() -> Result<(), Errno> {
    if STARTING.swap(true, Ordering::AcqRel) {
        return Ok(());
    }
    match crate::lwp::spawn_reserve("pagedaemon", run) {
        Ok(daemon) => {
            // Here rather than by the daemon itself: it counts as running from now on.
            THREAD.store(daemon.thread().get(), Ordering::Release);
            Ok(())
        }
        Err(errno) => {
            STARTING.store(false, Ordering::Release);
            Err(errno)
        }
    }
}

/// Whether there is somebody to wait for.
pub(crate) fn is_running() -> bool {
    THREAD.load(Ordering::Acquire) != 0
}

/// Asks for a round. Cheap when one has been asked for.
pub(crate) fn kick() {
    if KICKED.load(Ordering::Relaxed) || KICKED.swap(true, Ordering::SeqCst) {
        return;
    }
    if let Some(thread) = NonZeroU64::new(THREAD.load(Ordering::Acquire)) {
        host().threads().unpark(ThreadId::new(thread));
    }
}

/// Waits until kicked, at most `most`.
fn pause(most: Option<Duration>) {
    let deadline = most.map(|most| host().clock().now() + most);
    while !KICKED.swap(false, Ordering::SeqCst) {
        if host().threads().park(deadline) == rumpuser::Unparked::TimedOut {
            return;
        }
    }
}

fn run() {
    let (mut hopeless, mut vain) = (0, 0);
    loop {
        if !limit::short() {
            (hopeless, vain) = (0, 0);
            pause(None);
            WOKEN.fetch_add(1, Ordering::Relaxed);
        }
        KICKED.store(false, Ordering::SeqCst);
        let shortage = limit::shortage();
        let given = limit::given();
        let before = with_devices();
        let freed = round(shortage.pages);
        let waiters = limit::counts().waiters;
        if freed > 0 {
            (hopeless, vain) = (0, 0);
            // On a cooperative host, let those run that the memory was freed for.
            host().threads().yield_now();
            continue;
        }
        limit::remains(shortage);
        if with_devices() > 0 {
            // Completions kick.
            hopeless = 0;
            pause(Some(BREATH));
            continue;
        }
        if !limit::short() {
            continue;
        }
        if waiters == 0 {
            // Nothing to reclaim, but nobody is kept waiting either.
            nap();
            continue;
        }
        if before > 0 || limit::given() != given {
            // Memory came while the round looked; who waits may not have run yet.
            host().threads().yield_now();
            continue;
        }
        if vain < VAIN_ROUNDS {
            // There may be pages to be had when their locks are free, writes succeed, or somebody who took several has what he
            // wants with them.
            vain += 1;
            pause(Some(VAIN_PAUSE));
            continue;
        }
        hopeless += 1;
        give_up(hopeless, shortage.pages);
    }
}

/// Sleeps through kicks that come from allocations which succeed; a waiter ends it.
fn nap() {
    let until = host().clock().now() + BREATH;
    while limit::counts().waiters == 0 {
        if host().threads().park(Some(until)) == rumpuser::Unparked::TimedOut {
            return;
        }
        KICKED.store(false, Ordering::SeqCst);
    }
}

fn give_up(hopeless: u32, shortage: usize) {
    HOPELESS.fetch_add(1, Ordering::Relaxed);
    if hopeless == 1 {
        let stats = super::stats();
        log::warn!(
            "pagedaemon: out of memory: {} of {} pages used ({} kmem, {} active, {} inactive), \
             {} wanted, none freed, none outstanding",
            stats.used,
            stats.limit,
            stats.kmem_pages,
            stats.active,
            stats.inactive,
            shortage,
        );
    }
    if hopeless >= PATIENCE {
        limit::wake_all_waiters(true);
    }
    let until = host().clock().now() + PAUSE;
    let used = limit::counts().used;
    while limit::counts().waiters > 0 && limit::counts().used >= used {
        if host().threads().park(Some(until)) == rumpuser::Unparked::TimedOut {
            break;
        }
    }
}

/// One round for `want` pages: returns how many were freed at once. May start writes.
fn round(want: usize) -> usize {
    // A waiter may need pages that lie together: then free ones do not help, and at least one
    // more has to go.
    let want = want.max(1);
    let freed = scan(want);
    if freed + OUTSTANDING.load(Ordering::SeqCst) >= want {
        return freed;
    }
    freed + drain(want - freed)
}

/// Frees up to `want` clean pages that were used once, in the calling thread, and answers how many: what a sequential reader
/// has behind him makes room for what lies ahead. Waits for nothing, and takes no locks but by trying.
pub fn recycle(want: usize) -> usize {
    // Not the whole queue in vain, again and again, while few pages are clean.
    walk(want, 2 * want + 16, Look::Passing)
}

/// Walks the queue until `want` pages are free or being written.
fn scan(want: usize) -> usize {
    let (inactive, active) = lru::lengths();
    let freed = walk(want, inactive, Look::Ageing);
    if freed + OUTSTANDING.load(Ordering::SeqCst) > 0 {
        if freed < want && limit::counts().waiters > 0 {
            // The disk may be slow: while somebody waits, look for clean pages as well.
            return freed + walk(want - freed, inactive, Look::Gentle);
        }
        return freed;
    }
    // All were in use: each twice more, for the first look may only clear its used bit.
    walk(want, 2 * (inactive + active) + 16, Look::Ageing)
}

/// Looks at up to `budget` pages. Writes are started while [`Look::Ageing`] only.
fn walk(want: usize, mut budget: usize, look: Look) -> usize {
    let most_outstanding = (limit::marks().usable / 4).max(16);
    let mut freed = 0;
    let mut seen = 0;
    while freed < want {
        let outstanding = OUTSTANDING.load(Ordering::SeqCst);
        if look == Look::Ageing && freed + outstanding >= want {
            break;
        }
        let Some((object, index)) = lru::next_candidate(&mut budget, look) else {
            break;
        };
        seen += 1;
        if seen % 64 == 0 && look != Look::Passing {
            host().threads().yield_now();
        }
        let Some(object) = object else {
            continue;
        };
        let how = match look == Look::Ageing && outstanding < most_outstanding {
            true => Reclaim::MayWrite,
            false => Reclaim::CleanOnly,
        };
        match object.reclaim(index, want - freed, how) {
            Reclaimed::Freed(pages) => freed += pages,
            Reclaimed::PageoutStarted(_)
            | Reclaimed::Busy
            | Reclaimed::Referenced
            | Reclaimed::Gone => {}
        }
    }
    SCANNED.fetch_add(seen, Ordering::Relaxed);
    FREED.fetch_add(freed as u64, Ordering::Relaxed);
    freed
}

/// Asks the caches.
fn drain(want: usize) -> usize {
    let mut freed = crate::kmem::drain();
    let mut at = 0;
    while freed < want {
        let Some((name, drain)) = nth_drain(at) else {
            break;
        };
        at += 1;
        if let Some(drain) = drain {
            let got = drain.drain(want - freed);
            if got > 0 {
                log::trace!("pagedaemon: {got} pages from {name}");
            }
            freed += got;
        }
    }
    // What the caches freed may have left slabs empty.
    freed += crate::kmem::drain();
    DRAINED.fetch_add(freed as u64, Ordering::Relaxed);
    freed
}

fn nth_drain(at: usize) -> Option<(&'static str, Option<Arc<dyn Drain>>)> {
    let drains = DRAINS.lock();
    let registered = drains.get(at)?;
    Some((registered.name, registered.drain.upgrade()))
}
