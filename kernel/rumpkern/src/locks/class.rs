//! Lock classes and the order checks of debug builds (NetBSD's LOCKDEBUG).
//!
//! Every lwp remembers the locks it holds. Taking a lock of a class whose rank is not above the
//! highest rank held is a bug, said at once rather than met as a deadlock once a year; so is taking
//! a lock that the lwp holds already. Threads that are no lwps are not checked.

/// A set of locks with a place in the order. Locks are taken in increasing rank; two locks of one
/// class are never held together, unless the second was got by a `try_`. Rank 0 is not checked.
///
/// Ranks: 100 to 199 file systems and `rumpvfs`, 200 to 299 networking, from 800 on `rumpkern`'s own,
/// which may be taken under all others.
#[derive(Debug)]
pub struct LockClass {
    /// For reports.
    pub name: &'static str,
    /// Place in the order.
    pub rank: u32,
}

/// The class of locks that are not checked.
pub static UNRANKED: LockClass = LockClass {
    name: "unranked",
    rank: 0,
};

/// Which locks an lwp holds; in release builds, nothing.
#[cfg(debug_assertions)]
pub(crate) use checked::Held;

#[cfg(debug_assertions)]
mod checked {
    use super::LockClass;
    use core::cell::{Cell, RefCell};

    /// More locks than this at once are not tracked.
    const DEPTH: usize = 24;

    /// The locks that one lwp holds, each by address and class.
    #[derive(Debug)]
    pub(crate) struct Held {
        entries: RefCell<[(usize, Option<&'static LockClass>); DEPTH]>,
        depth: Cell<usize>,
    }

    impl Held {
        pub(crate) const fn new() -> Held {
            Held {
                entries: RefCell::new([(0, None); DEPTH]),
                depth: Cell::new(0),
            }
        }

        /// Before a blocking acquisition.
        pub(crate) fn check(&self, lock: usize, class: &'static LockClass) {
            let entries = self.entries.borrow();
            for (held, held_class) in &entries[..self.depth.get()] {
                assert!(
                    *held != lock,
                    "locking against myself: {} at {lock:#x}",
                    class.name
                );
                let Some(held_class) = held_class else {
                    continue;
                };
                assert!(
                    class.rank == 0 || held_class.rank < class.rank,
                    "lock order: {} (rank {}) taken while {} (rank {}) is held",
                    class.name,
                    class.rank,
                    held_class.name,
                    held_class.rank
                );
            }
        }

        /// After an acquisition, blocking or tried.
        pub(crate) fn push(&self, lock: usize, class: &'static LockClass) {
            let depth = self.depth.get();
            if depth < DEPTH {
                self.entries.borrow_mut()[depth] = (lock, Some(class));
                self.depth.set(depth + 1);
            }
        }

        /// Names the locks that are held, but for those that are not ranked.
        pub(crate) fn for_each(&self, mut f: impl FnMut(&'static LockClass)) {
            let entries = self.entries.borrow();
            for (_, class) in &entries[..self.depth.get()] {
                if let Some(class) = class.filter(|class| class.rank != 0) {
                    f(class);
                }
            }
        }

        /// At a release.
        pub(crate) fn pop(&self, lock: usize) {
            let depth = self.depth.get();
            let mut entries = self.entries.borrow_mut();
            let Some(at) = entries[..depth].iter().rposition(|(held, _)| *held == lock) else {
                return;
            };
            entries.copy_within(at + 1..depth, at);
            self.depth.set(depth - 1);
        }
    }
}

/// What is waited for like a lock and is none of this crate's, such as a file system's transaction: while this lives the calling lwp has it.
/// Its place in the order is checked as that of a lock. It is dropped by the thread that made it.
pub struct Ordered {
    order: Order,
    at: usize,
}

impl Ordered {
    /// Before the calling lwp waits for what `at` is the address of, and has it after that: panics if that is out of order, in debug builds.
    pub fn enter(class: &'static LockClass, at: usize) -> Ordered {
        let order = Order::new(class);
        order.check(at);
        order.acquired(at);
        Ordered { order, at }
    }
}

impl Drop for Ordered {
    fn drop(&mut self) {
        self.order.released(self.at);
    }
}

/// The part of a lock that knows its class.
#[derive(Clone, Copy)]
pub(crate) struct Order {
    #[cfg(debug_assertions)]
    class: &'static LockClass,
}

#[cfg(debug_assertions)]
impl Order {
    pub(crate) const fn new(class: &'static LockClass) -> Order {
        Order { class }
    }

    /// Before a blocking acquisition of the lock at `lock`.
    pub(crate) fn check(self, lock: usize) {
        if let Some(host) = rumpuser::try_host() {
            host.threads().may_preempt();
        }
        crate::lwp::with_held(|held| held.check(lock, self.class));
    }

    /// After an acquisition.
    pub(crate) fn acquired(self, lock: usize) {
        crate::lwp::with_held(|held| held.push(lock, self.class));
    }

    /// At a release.
    pub(crate) fn released(self, lock: usize) {
        crate::lwp::with_held(|held| held.pop(lock));
    }
}

#[cfg(not(debug_assertions))]
impl Order {
    pub(crate) const fn new(_class: &'static LockClass) -> Order {
        Order {}
    }

    #[inline(always)]
    pub(crate) fn check(self, _lock: usize) {}

    #[inline(always)]
    pub(crate) fn acquired(self, _lock: usize) {}

    #[inline(always)]
    pub(crate) fn released(self, _lock: usize) {}
}
