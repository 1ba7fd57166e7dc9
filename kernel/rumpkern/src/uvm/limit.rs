//! The budget: what is counted, the marks, the reserve, who may wait.
//!
//! Everything that the kernel allocates comes through [`take_pages`] and is counted in pages: frames,
//! slabs, large allocations, and at boot the `vm_page` array. The image, thread stacks and device
//! rings are the host's and are not counted.
//!
//! ```text
//!   0 ........ used ........ target ... wake ... kernel's own ... usable ... limit
//!                                                                  |--reserve--|
//! ```
//! - `limit`: `memlimit=`, or all there is. Never exceeded.
//! - `reserve`: only [`Alloc::PageDaemon`] gets into it: the pagedaemon, I/O completions. Cleaning a
//!   page copies nothing, so it is smaller than NetBSD's 2 × MAXPHYS.
//! - `usable` = limit − reserve: what everybody else gets. The last `kernel_reserve` pages of it are not given out as
//!   [`Frame`](super::Frame)s, of which caches take all they can get, but for slabs and packet buffers: these are often
//!   wanted by threads that cannot wait (NetBSD's `uvmexp.reserve_kernel`).
//! - When less than `free_wake` is left below `usable`, the pagedaemon is woken, and works until `free_target` is left.
//!   It also works while those that wait want more than is free, or a run of pages that what is free does not
//!   contain, whatever the marks say.
//!
//! Who may wait: an lwp whose [`MemoryUse`] is `MayWait`, when it asks with [`Alloc::Wait`]. It sleeps on
//! a sleep queue, and every page given back wakes one. A request that can never be met fails at once.
//!
//! [`MemoryUse`]: crate::lwp::MemoryUse

use super::page::{Alloc, physmem};
use super::pagedaemon;
use crate::locks::sleepq::{self, Wakeup};
use crate::lwp::{self, MemoryUse};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use rumpuser::{Errno, PAGE_SIZE};

/// A limit below this is refused: NetBSD's rule, 2 × MAXPHYS (`vm.c`, `uvm_init`).
pub const MINIMUM_LIMIT_BYTES: usize = 128 * 1024;

static LIMIT: AtomicUsize = AtomicUsize::new(0);
static USED: AtomicUsize = AtomicUsize::new(0);
static HIGH_WATER: AtomicUsize = AtomicUsize::new(0);

/// Threads that wait for memory.
static WAITERS: AtomicUsize = AtomicUsize::new(0);
/// Pages that they wait for.
static WANTED: AtomicUsize = AtomicUsize::new(0);
/// Waiters that want more than one page, in a run.
static RUN_WAITERS: AtomicUsize = AtomicUsize::new(0);
/// A waiter found enough pages free, but no such run: the pagedaemon is to free more.
static FRAGMENTED: AtomicBool = AtomicBool::new(false);
/// Changes whenever memory was given back while somebody waited. What waiters sleep on.
static GIVEN: AtomicU32 = AtomicU32::new(0);
/// Counts the times that the pagedaemon gave up; waiters that see it change fail.
static GIVEN_UP: AtomicU32 = AtomicU32::new(0);
/// Waits begun.
static WAITS: AtomicU64 = AtomicU64::new(0);
/// Requests refused.
static REFUSED: AtomicU64 = AtomicU64::new(0);
/// For tests: allocations until one is refused; 0 = never.
static FAIL_AFTER: AtomicU64 = AtomicU64::new(0);

/// What pages are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A [`Frame`](super::Frame).
    Frame,
    /// A slab, or a large allocation of kmem's.
    Kernel,
}

/// What the waiters of a purpose sleep on: addresses of the two counters, as they are at hand.
fn wait_key(purpose: Purpose) -> usize {
    match purpose {
        Purpose::Frame => (&raw const GIVEN).addr(),
        Purpose::Kernel => (&raw const GIVEN_UP).addr(),
    }
}

/// The marks that follow from a limit, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// The limit.
    pub limit: usize,
    /// Kept for the I/O path.
    pub reserve: usize,
    /// What others may use.
    pub usable: usize,
    /// The part of that which is not for frames.
    pub kernel_reserve: usize,
    /// The pagedaemon works until so many usable pages are free.
    pub free_target: usize,
    /// It is woken when fewer are.
    pub free_wake: usize,
}

impl Marks {
    /// For a limit of `limit` pages.
    pub fn of(limit: usize) -> Marks {
        let reserve = (limit / 32).clamp(8, 32);
        let usable = limit.saturating_sub(reserve);
        let free_target = (usable / 12).clamp(8, 512);
        Marks {
            limit,
            reserve,
            usable,
            kernel_reserve: free_target / 2,
            free_target,
            free_wake: free_target * 3 / 4,
        }
    }
}

/// The marks now.
pub fn marks() -> Marks {
    Marks::of(LIMIT.load(Ordering::Relaxed))
}

pub(super) fn set_limit(pages: usize) {
    LIMIT.store(pages, Ordering::Relaxed);
}

/// Counts pages that are used for ever.
pub(super) fn charge_fixed(pages: usize) {
    let used = USED.fetch_add(pages, Ordering::Relaxed) + pages;
    HIGH_WATER.fetch_max(used, Ordering::Relaxed);
}

/// Counts as [`super::stats`] shows them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) used: usize,
    pub(super) high_water: usize,
    pub(super) waiters: usize,
    pub(super) waits: u64,
    pub(super) refused: u64,
}

pub(super) fn counts() -> Counts {
    Counts {
        used: USED.load(Ordering::Relaxed),
        high_water: HIGH_WATER.load(Ordering::Relaxed),
        waiters: WAITERS.load(Ordering::Relaxed),
        waits: WAITS.load(Ordering::Relaxed),
        refused: REFUSED.load(Ordering::Relaxed),
    }
}

/// Usable pages that are free.
pub(super) fn free_usable() -> usize {
    marks().usable.saturating_sub(USED.load(Ordering::Relaxed))
}

/// Whether the pagedaemon has work: little is free, or less than those that wait want. Those for which there is
/// enough have been woken; freeing more before they have run would only empty the caches.
pub fn short() -> bool {
    let free = free_usable();
    free < marks().free_wake || wanted() > free || FRAGMENTED.load(Ordering::Relaxed)
}

/// Whether so much is free that a page kept for speed hurts nobody: a quarter.
pub fn plenty() -> bool {
    free_usable() > marks().usable / 4
}

/// How many pages must be free for all that wait.
fn wanted() -> usize {
    match WANTED.load(Ordering::Relaxed) {
        0 => 0,
        wanted => wanted + marks().kernel_reserve,
    }
}

/// What the pagedaemon should free now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shortage {
    /// So many pages,
    pub(super) pages: usize,
    /// also if as many are free, since they do not lie together.
    pub(super) is_of_runs: bool,
}

pub(super) fn shortage() -> Shortage {
    let free = free_usable();
    let wanted = wanted();
    let is_of_runs = FRAGMENTED.swap(false, Ordering::Relaxed);
    let missing = match is_of_runs {
        true => wanted,
        false => wanted.saturating_sub(free),
    };
    Shortage {
        pages: marks().free_target.saturating_sub(free).max(missing),
        is_of_runs,
    }
}

/// What was to be freed could not be: who waits for a run of pages, which nothing wakes then, still does.
pub(super) fn remains(shortage: Shortage) {
    if shortage.is_of_runs && RUN_WAITERS.load(Ordering::SeqCst) > 0 {
        FRAGMENTED.store(true, Ordering::Relaxed);
    }
}

/// The most that may be in use after an allocation.
fn most(marks: &Marks, how: Alloc, purpose: Purpose) -> usize {
    match (how, purpose) {
        (Alloc::PageDaemon, _) => marks.limit,
        (_, Purpose::Kernel) => marks.usable,
        (_, Purpose::Frame) => marks.usable - marks.kernel_reserve,
    }
}

/// Counts `pages` if they fit under what `how` and `purpose` may use.
fn charge(pages: usize, how: Alloc, purpose: Purpose) -> bool {
    let marks = marks();
    let most = most(&marks, how, purpose);
    let mut used = USED.load(Ordering::Relaxed);
    loop {
        if used + pages > most {
            return false;
        }
        match USED.compare_exchange_weak(used, used + pages, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => used = now,
        }
    }
    let used = used + pages;
    if used > HIGH_WATER.load(Ordering::Relaxed) {
        HIGH_WATER.fetch_max(used, Ordering::Relaxed);
    }
    if used + marks.free_wake > marks.usable {
        pagedaemon::kick();
    }
    true
}

/// Counts and takes a run, or neither.
fn try_take(pages: u32, how: Alloc, purpose: Purpose) -> Option<u32> {
    if !charge(pages as usize, how, purpose) {
        return None;
    }
    let number = physmem().and_then(|physmem| physmem.take(pages));
    if number.is_none() {
        FRAGMENTED.fetch_or(pages > 1, Ordering::Relaxed);
        USED.fetch_sub(pages as usize, Ordering::SeqCst);
    }
    number
}

/// What `how` comes to for the calling thread.
fn allowed(how: Alloc) -> Alloc {
    match (how, lwp::memory_use()) {
        (Alloc::Wait, Some(MemoryUse::MayWait)) => Alloc::Wait,
        // No lwp: a program's own thread before boot. Nobody would wake it.
        (Alloc::Wait, None | Some(MemoryUse::NoWait)) => Alloc::NoWait,
        (Alloc::Wait, Some(MemoryUse::Reserve)) => Alloc::PageDaemon,
        (how, _) => how,
    }
}

/// Takes a run of `pages` pages from the budget and from physical memory.
pub(crate) fn take_pages(pages: u32, how: Alloc, purpose: Purpose) -> Result<u32, Errno> {
    if !super::ready() || injected_failure() {
        return Err(Errno::ENOMEM);
    }
    if let Some(number) = try_take(pages, how, purpose) {
        return Ok(number);
    }
    take_pages_short(pages, how, purpose)
}

#[cold]
fn take_pages_short(pages: u32, how: Alloc, purpose: Purpose) -> Result<u32, Errno> {
    let how = allowed(how);
    pagedaemon::kick();
    let possible = pages as usize <= most(&marks(), how, purpose);
    if how == Alloc::Wait && possible && pagedaemon::is_running() {
        return wait_for(pages, purpose);
    }
    // `allowed` may have opened the reserve.
    try_take(pages, how, purpose).ok_or_else(|| {
        REFUSED.fetch_add(1, Ordering::Relaxed);
        Errno::ENOMEM
    })
}

/// What the pagedaemon or a completion might want, and a waiter holds, is worth knowing.
#[cfg(debug_assertions)]
fn say_locks_held() {
    let mut names = [None; 4];
    lwp::with_held(|held| {
        let mut free = names.iter_mut();
        held.for_each(|class| {
            if let Some(name) = free.next() {
                *name = Some(class.name);
            }
        });
    });
    for name in names.into_iter().flatten() {
        log::debug!("uvm: waits for memory with a lock held: {name}");
    }
}

fn wait_for(pages: u32, purpose: Purpose) -> Result<u32, Errno> {
    #[cfg(debug_assertions)]
    say_locks_held();
    WAITS.fetch_add(1, Ordering::Relaxed);
    // SeqCst, here and where memory is given back: either this thread sees the memory, or the
    // giver sees this waiter.
    WAITERS.fetch_add(1, Ordering::SeqCst);
    WANTED.fetch_add(pages as usize, Ordering::SeqCst);
    RUN_WAITERS.fetch_add((pages > 1) as usize, Ordering::SeqCst);
    let given_up = GIVEN_UP.load(Ordering::SeqCst);
    let mut woken = false;
    let result = loop {
        let given = GIVEN.load(Ordering::SeqCst);
        if let Some(number) = try_take(pages, Alloc::Wait, purpose) {
            break Ok(number);
        }
        if GIVEN_UP.load(Ordering::SeqCst) != given_up {
            REFUSED.fetch_add(1, Ordering::Relaxed);
            break Err(Errno::ENOMEM);
        }
        pagedaemon::kick();
        let must_wait = || GIVEN.load(Ordering::SeqCst) == given;
        woken |=
            sleepq::sleep(wait_key(purpose), false, must_wait, || (), None) == Wakeup::Signalled;
    };
    RUN_WAITERS.fetch_sub((pages > 1) as usize, Ordering::SeqCst);
    WANTED.fetch_sub(pages as usize, Ordering::SeqCst);
    let was_last = WAITERS.fetch_sub(1, Ordering::SeqCst) == 1;
    if was_last && result.is_err() {
        // Whoever waits from now on is not one of those that it has given up on.
        pagedaemon::kick();
    }
    // It may have been woken for a page and have got an earlier one: pass the wake-up on.
    if woken && WAITERS.load(Ordering::SeqCst) > 0 && free_usable() > 0 {
        wake(1);
    }
    result
}

/// Gives a run back.
pub(crate) fn give_pages(number: u32, pages: u32) {
    if let Some(physmem) = physmem() {
        physmem.put(number, pages);
        give_budget(pages as usize);
    }
}

/// Gives counted pages back and wakes as many waiters.
pub(super) fn give_budget(pages: usize) {
    USED.fetch_sub(pages, Ordering::SeqCst);
    if WAITERS.load(Ordering::SeqCst) > 0 {
        wake(pages);
    }
}

/// Makes a run that was taken longer, in place.
pub(crate) fn extend(number: u32, pages: u32, wanted: u32) -> bool {
    let more = (wanted - pages) as usize;
    if !charge(more, Alloc::NoWait, Purpose::Kernel) {
        return false;
    }
    if physmem().is_some_and(|physmem| physmem.extend(number, pages, wanted)) {
        return true;
    }
    give_budget(more);
    false
}

/// Wakes up to `most` waiters, longest waiting first, those for frames after the others; all, if one of them may find
/// that what there is does not make the run it wants, and would leave it to the others.
fn wake(most: usize) {
    if RUN_WAITERS.load(Ordering::SeqCst) > 0 {
        return wake_all_waiters(false);
    }
    GIVEN.fetch_add(1, Ordering::SeqCst);
    let mut left = most;
    while left > 0 && sleepq::wake_one(wait_key(Purpose::Kernel), |_| false) {
        left -= 1;
    }
    let for_frames = free_usable().saturating_sub(marks().kernel_reserve);
    for _ in 0..left.min(for_frames) {
        if !sleepq::wake_one(wait_key(Purpose::Frame), |_| false) {
            break;
        }
    }
}

/// A number that changes when memory is given back while somebody waits.
pub(super) fn given() -> u32 {
    GIVEN.load(Ordering::SeqCst)
}

/// Makes all that wait look again; if `give_up`, they fail unless there is memory after all.
pub(super) fn wake_all_waiters(give_up: bool) {
    if give_up {
        GIVEN_UP.fetch_add(1, Ordering::SeqCst);
    }
    GIVEN.fetch_add(1, Ordering::SeqCst);
    for purpose in [Purpose::Kernel, Purpose::Frame] {
        sleepq::wake_all(wait_key(purpose), || ());
    }
}

/// For tests: the `allocations`th from now on is refused, once; 0 refuses none. Counted are those of pages, and those of kmem that may be
/// refused: [`Room`](crate::kmem::Room), [`try_vec`](crate::kmem::try_vec) and their like, if they take memory. (Where kmem is the
/// program's allocator one of these may count twice: itself, and the page that its slab needs.) Allocations that nobody can refuse
/// are not. Answers what was left of the last such wish: 0 if it has come true.
pub fn fail_after(allocations: u64) -> u64 {
    FAIL_AFTER.swap(allocations, Ordering::Relaxed)
}

/// Whether a test has the allocation that asks refused.
#[inline]
pub(crate) fn injected_failure() -> bool {
    FAIL_AFTER.load(Ordering::Relaxed) != 0 && FAIL_AFTER.fetch_sub(1, Ordering::Relaxed) == 1
}

/// Pages in `bytes`, rounded down.
pub(super) fn pages_in(bytes: usize) -> usize {
    bytes / PAGE_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marks_are_in_order_for_every_limit_that_is_accepted() {
        for limit in (MINIMUM_LIMIT_BYTES / PAGE_SIZE..4096).chain([1 << 20, 1 << 28]) {
            let marks = Marks::of(limit);
            assert_eq!(marks.usable + marks.reserve, limit);
            assert!(0 < marks.kernel_reserve && marks.kernel_reserve < marks.free_wake);
            assert!(marks.free_wake < marks.free_target);
            assert!(marks.free_target < marks.usable, "{marks:?}");
        }
    }

    #[test]
    fn only_the_io_path_gets_into_the_reserve_and_frames_leave_some_to_slabs() {
        let marks = Marks::of(256);
        for how in [Alloc::NoWait, Alloc::Wait] {
            assert_eq!(most(&marks, how, Purpose::Kernel), marks.usable);
            let frames = most(&marks, how, Purpose::Frame);
            assert_eq!(frames, marks.usable - marks.kernel_reserve);
        }
        assert_eq!(most(&marks, Alloc::PageDaemon, Purpose::Frame), 256);
    }
}
