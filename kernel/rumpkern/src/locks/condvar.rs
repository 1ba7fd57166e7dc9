//! Condition variables (condvar(9)).

use super::atomic::{AtomicU32, Ordering};
use super::mutex::MutexGuard;
use super::sleepq::{self, Wakeup};
use rumpuser::Instant;

/// How a wait with a deadline ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitResult {
    /// A notification came.
    Signalled,
    /// The deadline passed first.
    TimedOut,
}

/// A place to wait for a condition that a mutex protects. Wake-ups without cause do not happen,
/// but the condition may have changed again before the mutex is retaken: check it in a loop.
#[derive(Debug, Default)]
pub struct Condvar {
    waiters: AtomicU32,
}

impl Condvar {
    /// A condition variable that nobody waits on.
    pub const fn new() -> Condvar {
        Condvar {
            waiters: AtomicU32::new(0),
        }
    }

    fn key(&self) -> usize {
        (&raw const self.waiters).addr()
    }

    /// Releases the mutex, waits for a notification, retakes the mutex (cv_wait).
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.wait_until(guard, None).0
    }

    /// As [`Condvar::wait`], until `deadline` at most (cv_timedwait).
    pub fn wait_until<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, T>, WaitResult) {
        let mutex = guard.mutex();
        // Before the mutex is released: a notifier that has taken it since sees the count.
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let wakeup = sleepq::sleep(self.key(), false, || true, || drop(guard), deadline);
        self.waiters.fetch_sub(1, Ordering::SeqCst);
        let result = match wakeup {
            Wakeup::TimedOut => WaitResult::TimedOut,
            Wakeup::Signalled | Wakeup::Handed | Wakeup::Invalid => WaitResult::Signalled,
        };
        (mutex.lock(), result)
    }

    /// Wakes the one that has waited longest (cv_signal). Costs a load if nobody waits.
    pub fn notify_one(&self) {
        if self.has_waiters() {
            sleepq::wake_one(self.key(), |_| false);
        }
    }

    /// Wakes all that wait (cv_broadcast). Costs a load if nobody waits.
    pub fn notify_all(&self) {
        if self.has_waiters() {
            sleepq::wake_all(self.key(), || ());
        }
    }

    /// Whether somebody waits, or has not yet noticed that it was woken (cv_has_waiters).
    pub fn has_waiters(&self) -> bool {
        self.waiters.load(Ordering::SeqCst) != 0
    }
}
