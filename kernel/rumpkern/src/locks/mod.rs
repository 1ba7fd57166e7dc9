//! Locks: [`Mutex`], [`RwLock`], [`Condvar`], [`OnceLock`].
//!
//! All are one word beside their value (debug builds add the class), may be `static`, and take the
//! uncontended path with one atomic operation and no hypercall. Who must wait parks on a sleep
//! queue (`sleepq.rs`) and is woken by the releaser. They are right under any host: threads that
//! run side by side, or one at a time.
//!
//! A sleep queue's bucket lock is the innermost lock of the kernel.

#![allow(unsafe_code)]

mod atomic;
mod class;
mod condvar;
mod mutex;
mod once;
mod rwlock;
pub(crate) mod short;
pub(crate) mod sleepq;

#[cfg(test)]
mod tests;

#[cfg(debug_assertions)]
pub(crate) use class::Held;
pub use class::{LockClass, Ordered, UNRANKED};
pub use condvar::{Condvar, WaitResult};
pub use mutex::{Mutex, MutexGuard};
pub use once::OnceLock;
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How often to look at a taken lock before waiting: not at all where its holder cannot be running.
fn adaptive_spins(spins: u32) -> u32 {
    match rumpuser::try_host() {
        Some(host) if !host.threads().cooperative() => spins,
        _ => 0,
    }
}
