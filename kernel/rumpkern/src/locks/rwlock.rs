//! The readers/writer lock (rwlock(9)).

use super::atomic::{AtomicU32, Ordering};
use super::class::{LockClass, Order, UNRANKED};
use super::sleepq;
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

/// A writer holds it.
const WRITER: u32 = 1;
/// Readers may be on their sleep queue.
const READERS_PARKED: u32 = 2;
/// Writers may be on theirs; new readers wait behind them.
const WRITERS_PARKED: u32 = 4;
const ONE_READER: u32 = 8;
const READERS: u32 = !(ONE_READER - 1);

/// Many readers or one writer. Writers come first: a reader waits while a writer does, so a lock that
/// is always read can still be written; and so a thread that holds it for reading must not ask again.
pub struct RwLock<T: ?Sized> {
    state: AtomicU32,
    order: Order,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands the value from thread to thread.
unsafe impl<T: ?Sized + Send> Send for RwLock<T> {}
// SAFETY: readers of several threads share the value, a writer has it alone.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<T> {}

/// Shared access while it lives.
#[clippy::has_significant_drop]
#[must_use = "the lock is released when its guard is dropped"]
pub struct RwLockReadGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
    not_send: PhantomData<*const ()>,
}

/// Exclusive access while it lives.
#[clippy::has_significant_drop]
#[must_use = "the lock is released when its guard is dropped"]
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
    not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives shared references to the value, no more.
unsafe impl<T: ?Sized + Sync> Sync for RwLockReadGuard<'_, T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync> Sync for RwLockWriteGuard<'_, T> {}

impl<T> RwLock<T> {
    /// A free lock, outside the lock order.
    pub const fn new(value: T) -> RwLock<T> {
        RwLock::with_class(value, &UNRANKED)
    }

    /// A free lock of a class.
    pub const fn with_class(value: T, class: &'static LockClass) -> RwLock<T> {
        RwLock {
            state: AtomicU32::new(0),
            order: Order::new(class),
            value: UnsafeCell::new(value),
        }
    }

    /// The value, when the lock is no longer wanted.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> RwLock<T> {
    fn key(&self) -> usize {
        (&raw const self.state).addr()
    }

    /// Writers wait on the address after the readers': the state word is four bytes long.
    fn writers_key(&self) -> usize {
        self.key() + 1
    }

    /// Takes it for reading.
    #[inline]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.order.check(self.key());
        if !self.try_read_state() {
            self.read_contended();
        }
        self.order.acquired(self.key());
        RwLockReadGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    /// Takes it for reading if no writer holds it or waits.
    #[inline]
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        if !self.try_read_state() {
            return None;
        }
        self.order.acquired(self.key());
        Some(RwLockReadGuard {
            lock: self,
            not_send: PhantomData,
        })
    }

    /// Takes it for writing.
    #[inline]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.order.check(self.key());
        if !self.try_write_state() {
            self.write_contended();
        }
        self.order.acquired(self.key());
        RwLockWriteGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    /// Takes it for writing if nobody holds it.
    #[inline]
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        if !self.try_write_state() {
            return None;
        }
        self.order.acquired(self.key());
        Some(RwLockWriteGuard {
            lock: self,
            not_send: PhantomData,
        })
    }

    /// The value: an exclusive reference to the lock needs no locking.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    #[inline]
    fn try_read_state(&self) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & (WRITER | WRITERS_PARKED) == 0 {
            match self.state.compare_exchange_weak(
                state,
                state + ONE_READER,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    #[inline]
    fn try_write_state(&self) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & (WRITER | READERS) == 0 {
            match self.state.compare_exchange_weak(
                state,
                state | WRITER,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Sets a parked bit while `busy` holds of the state. False if it does not hold (any more).
    fn mark_parked(&self, bit: u32, busy: u32) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & busy != 0 {
            match self.state.compare_exchange_weak(
                state,
                state | bit,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    #[cold]
    fn read_contended(&self) {
        let busy = WRITER | WRITERS_PARKED;
        while !self.try_read_state() {
            if !self.mark_parked(READERS_PARKED, busy) {
                continue;
            }
            let must_wait = || {
                let state = self.state.load(Ordering::Relaxed);
                state & READERS_PARKED != 0 && state & busy != 0
            };
            sleepq::sleep(self.key(), false, must_wait, || (), None);
        }
    }

    #[cold]
    fn write_contended(&self) {
        let busy = WRITER | READERS;
        while !self.try_write_state() {
            if !self.mark_parked(WRITERS_PARKED, busy) {
                continue;
            }
            let must_wait = || {
                let state = self.state.load(Ordering::Relaxed);
                state & WRITERS_PARKED != 0 && state & busy != 0
            };
            sleepq::sleep(self.writers_key(), false, must_wait, || (), None);
        }
    }

    #[inline]
    fn unlock_read(&self) {
        self.order.released(self.key());
        let before = self.state.fetch_sub(ONE_READER, Ordering::Release);
        if before & READERS == ONE_READER && before & (READERS_PARKED | WRITERS_PARKED) != 0 {
            self.wake(before);
        }
    }

    #[inline]
    fn unlock_write(&self) {
        self.order.released(self.key());
        let before = self.state.fetch_and(!WRITER, Ordering::Release);
        if before & (READERS_PARKED | WRITERS_PARKED) != 0 {
            self.wake(before);
        }
    }

    /// Wakes the first writer or, if none waits, all readers. A writer that is woken wakes the
    /// readers when it releases, so nobody is forgotten. The parked bits change under their queue's lock.
    #[cold]
    fn wake(&self, state: u32) {
        if state & WRITERS_PARKED != 0 {
            let woken = sleepq::wake_one(self.writers_key(), |found| {
                if !found.more {
                    self.state.fetch_and(!WRITERS_PARKED, Ordering::Relaxed);
                }
                false
            });
            if woken {
                return;
            }
        }
        sleepq::wake_all(self.key(), || {
            self.state.fetch_and(!READERS_PARKED, Ordering::Relaxed);
        });
    }
}

impl<'a, T: ?Sized> RwLockWriteGuard<'a, T> {
    /// Turns the hold into a reader's, with no moment between in which a writer could come
    /// (rw_downgrade).
    pub fn downgrade(self) -> RwLockReadGuard<'a, T> {
        let lock = self.lock;
        core::mem::forget(self);
        let before = lock.state.fetch_add(ONE_READER - WRITER, Ordering::Release);
        // Other readers may come in now, unless a writer waits.
        if before & WRITERS_PARKED == 0 && before & READERS_PARKED != 0 {
            sleepq::wake_all(lock.key(), || {
                lock.state.fetch_and(!READERS_PARKED, Ordering::Relaxed);
            });
        }
        RwLockReadGuard {
            lock,
            not_send: PhantomData,
        }
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: a reader's hold keeps writers out while the guard lives.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: a writer's hold keeps everybody else out while the guard lives.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and the guard is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.unlock_read();
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.unlock_write();
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> RwLock<T> {
        RwLock::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_read() {
            Some(guard) => f.debug_tuple("RwLock").field(&&*guard).finish(),
            None => f.write_str("RwLock(<locked>)"),
        }
    }
}
