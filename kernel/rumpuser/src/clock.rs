//! Time.

use core::ops::{Add, Sub};
use core::time::Duration;

/// A point in the host's monotonic time, in nanoseconds since an epoch of its own (its entry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The point `nanos` nanoseconds after the epoch.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn saturating_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// Later by `by`; the end of time if that is out of range.
    fn add(self, by: Duration) -> Instant {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        self.saturating_since(earlier)
    }
}

/// A point in civil time: seconds and nanoseconds since 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct WallTime {
    /// Whole seconds; negative before 1970.
    pub seconds: i64,
    /// The rest, 0 to 999,999,999.
    pub nanos: u32,
}

/// Time, as the host has it.
pub trait Clock: Sync {
    /// Monotonic time: never goes back, runs while the kernel sleeps.
    fn now(&self) -> Instant;

    /// Civil time. A host without a clock of its own starts at the epoch.
    fn wall(&self) -> WallTime;
}
