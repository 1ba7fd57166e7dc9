//! The adaptive mutex (mutex(9)).

use super::atomic::{AtomicU32, Ordering};
use super::class::{LockClass, Order, UNRANKED};
use super::sleepq::{self, Wakeup};
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

const LOCKED: u32 = 1;
/// Somebody may be on the sleep queue.
const PARKED: u32 = 2;

/// Looks this often at a taken lock before waiting, on a host whose threads run side by side.
const SPINS: u32 = 60;
/// A waiter that was woken this often and found the lock taken again is handed it.
const PATIENCE: u32 = 2;

/// Mutual exclusion. Taking it free is one atomic operation and no hypercall; a thread that finds it
/// taken parks. Not recursive. Held across anything, but see the rank rules of [`LockClass`].
pub struct Mutex<T: ?Sized> {
    state: AtomicU32,
    order: Order,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives the value to one thread at a time; that moves it between threads.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above: shared access to the lock is exclusive access to the value, in turn.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

/// Gives access to the value while it lives.
#[clippy::has_significant_drop]
#[must_use = "the mutex is released when its guard is dropped"]
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    /// A lock is released by the thread that took it: the order checks say so.
    not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives a shared reference to the value, no more.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<T> Mutex<T> {
    /// A free mutex, outside the lock order.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex::with_class(value, &UNRANKED)
    }

    /// A free mutex of a class.
    pub const fn with_class(value: T, class: &'static LockClass) -> Mutex<T> {
        Mutex {
            state: AtomicU32::new(0),
            order: Order::new(class),
            value: UnsafeCell::new(value),
        }
    }

    /// The value, when the mutex is no longer wanted.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    fn key(&self) -> usize {
        (&raw const self.state).addr()
    }

    /// Takes the mutex, waiting for it if need be.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.order.check(self.key());
        if self
            .state
            .compare_exchange_weak(0, LOCKED, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            self.lock_contended();
        }
        self.order.acquired(self.key());
        self.guard()
    }

    /// Takes the mutex if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & LOCKED == 0 {
            match self.state.compare_exchange_weak(
                state,
                state | LOCKED,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    self.order.acquired(self.key());
                    return Some(self.guard());
                }
                Err(now) => state = now,
            }
        }
        None
    }

    /// The value: an exclusive reference to the mutex needs no lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Whether somebody holds it: for assertions.
    pub fn is_locked(&self) -> bool {
        self.state.load(Ordering::Relaxed) & LOCKED != 0
    }

    fn guard(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            mutex: self,
            not_send: PhantomData,
        }
    }

    #[cold]
    fn lock_contended(&self) {
        let spins = super::adaptive_spins(SPINS);
        let mut spun = 0;
        let mut woken = 0;
        loop {
            let state = self.state.load(Ordering::Relaxed);
            if state & LOCKED == 0 {
                if self.swap_state(state, state | LOCKED) {
                    return;
                }
                continue;
            }
            if state & PARKED == 0 {
                if spun < spins {
                    spun += 1;
                    core::hint::spin_loop();
                    continue;
                }
                if !self.swap_state(state, state | PARKED) {
                    continue;
                }
            }
            let must_wait = || self.state.load(Ordering::Relaxed) == LOCKED | PARKED;
            match sleepq::sleep(self.key(), woken >= PATIENCE, must_wait, || (), None) {
                Wakeup::Handed => return,
                Wakeup::Signalled => woken += 1,
                Wakeup::Invalid | Wakeup::TimedOut => {}
            }
            spun = 0;
        }
    }

    fn swap_state(&self, from: u32, to: u32) -> bool {
        self.state
            .compare_exchange_weak(from, to, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Releases; the caller held it.
    #[inline]
    pub(super) fn unlock(&self) {
        self.order.released(self.key());
        if self
            .state
            .compare_exchange(LOCKED, 0, Ordering::Release, Ordering::Relaxed)
            .is_err()
        {
            self.unlock_contended();
        }
    }

    #[cold]
    fn unlock_contended(&self) {
        sleepq::wake_one(self.key(), |found| {
            let parked = if found.more { PARKED } else { 0 };
            let hand_over = found.any && found.impatient;
            let locked = if hand_over { LOCKED } else { 0 };
            self.state.store(locked | parked, Ordering::Release);
            hand_over
        });
    }
}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// The mutex, for a condition variable that releases and retakes it.
    pub(super) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard's thread holds the lock while the guard lives; `lock` acquired it.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and the guard is borrowed exclusively.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.mutex.unlock();
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Mutex<T> {
        Mutex::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(guard) => f.debug_tuple("Mutex").field(&&*guard).finish(),
            None => f.write_str("Mutex(<locked>)"),
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
