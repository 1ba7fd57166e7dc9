//! Short sections: the spin locks under the kernel's own locks and tables.
//!
//! A holder never parks, never allocates and never calls out, so on a cooperative host a short
//! section is never found taken, and on a pre-emptive one it is held for tens of nanoseconds
//! unless its holder was pre-empted; therefore a waiter spins a little and then yields.

use rumpuser::host;
use spin::mutex::{SpinMutex, SpinMutexGuard};

/// A spin lock for sections as described at the top of this file.
pub(crate) type Short<T> = SpinMutex<T>;
/// Its guard.
pub(crate) type ShortGuard<'a, T> = SpinMutexGuard<'a, T>;

/// Looks at the lock this often before it lets others run.
const SPINS: u32 = 100;

/// Takes `lock`.
#[inline]
pub(crate) fn enter<T>(lock: &Short<T>) -> ShortGuard<'_, T> {
    match lock.try_lock() {
        Some(guard) => guard,
        None => enter_contended(lock),
    }
}

#[cold]
fn enter_contended<T>(lock: &Short<T>) -> ShortGuard<'_, T> {
    let mut spins = 0;
    loop {
        if let Some(guard) = lock.try_lock() {
            return guard;
        }
        spins += 1;
        if spins < SPINS {
            core::hint::spin_loop();
        } else {
            spins = 0;
            host().threads().yield_now();
        }
    }
}
