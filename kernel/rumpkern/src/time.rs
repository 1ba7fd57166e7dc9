//! Time, as the host has it.

use crate::locks::{Condvar, Mutex, WaitResult};
use core::time::Duration;
use rumpuser::host;
pub use rumpuser::{Instant, WallTime};

/// Monotonic time.
#[inline]
pub fn now() -> Instant {
    host().clock().now()
}

/// Civil time.
pub fn wall() -> WallTime {
    host().clock().wall()
}

/// Waits for `time` (kpause).
pub fn sleep(time: Duration) {
    let deadline = now() + time;
    let nothing = Mutex::new(());
    let never = Condvar::new();
    let mut guard = nothing.lock();
    loop {
        let (again, result) = never.wait_until(guard, Some(deadline));
        if result == WaitResult::TimedOut {
            return;
        }
        guard = again;
    }
}
