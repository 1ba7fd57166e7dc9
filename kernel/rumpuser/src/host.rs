//! The host as a whole, and where a process keeps it.

use crate::{BlockDevice, Clock, Console, Exit, Memory, PacketDevice, Params, Random, Threads};
use core::sync::atomic::{AtomicU8, Ordering};

/// What a rump kernel runs on: one object for each group of hypercalls.
pub trait Host: Sync {
    /// Threads, and waiting.
    fn threads(&self) -> &dyn Threads;
    /// Time.
    fn clock(&self) -> &dyn Clock;
    /// The memory that the kernel's page pool is made of.
    fn memory(&self) -> &dyn Memory;
    /// Randomness.
    fn random(&self) -> &dyn Random;
    /// The console.
    fn console(&self) -> &dyn Console;
    /// Boot parameters.
    fn params(&self) -> &dyn Params;
    /// The way out.
    fn exit(&self) -> &dyn Exit;

    /// The block device of index `unit`, counted from 0 without gaps; `None` past the last.
    ///
    /// The set is fixed once the host is installed.
    fn block_device(&self, unit: usize) -> Option<&'static dyn BlockDevice>;

    /// The packet device of index `unit`, counted from 0 without gaps; `None` past the last.
    ///
    /// The set is fixed once the host is installed.
    fn packet_device(&self, unit: usize) -> Option<&'static dyn PacketDevice>;
}

const EMPTY: u8 = 0;
const FILLING: u8 = 1;
const READY: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(EMPTY);
static mut HOST: Option<&'static dyn Host> = None;

/// Makes `host` the process's host. The first call wins, for ever: kernels keep what it hands out.
///
/// # Errors
/// Gives `host` back when there is one already.
pub fn install(host: &'static dyn Host) -> Result<(), &'static dyn Host> {
    if STATE
        .compare_exchange(EMPTY, FILLING, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        return Err(host);
    }
    // SAFETY: the exchange above succeeds once in the life of the process, and readers look only
    // after READY, which the store below publishes; so this write has no rival.
    unsafe { HOST = Some(host) };
    STATE.store(READY, Ordering::Release);
    Ok(())
}

/// The host, if one is installed.
pub fn try_host() -> Option<&'static dyn Host> {
    if STATE.load(Ordering::Acquire) != READY {
        return None;
    }
    // SAFETY: READY is stored after the only write, with release order, and was loaded with acquire.
    unsafe { HOST }
}

/// The host.
///
/// # Panics
/// If none was installed: a program must call [`install`] before it boots a kernel.
pub fn host() -> &'static dyn Host {
    try_host().expect("rumpuser::install was not called before the kernel was used")
}
