//! Time: the system's monotonic and civil clocks.

use rumpuser::{Clock, Instant, WallTime};
use std::time::{SystemTime, UNIX_EPOCH};

/// Monotonic time counted from the making of the host.
pub(crate) struct HostClock {
    start: std::time::Instant,
}

impl HostClock {
    pub(crate) fn new(start: std::time::Instant) -> HostClock {
        HostClock { start }
    }
}

impl Clock for HostClock {
    fn now(&self) -> Instant {
        let nanos = self.start.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> WallTime {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => WallTime {
                seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                nanos: since.subsec_nanos(),
            },
            Err(before) => {
                let by = before.duration();
                let whole = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
                match by.subsec_nanos() {
                    0 => WallTime {
                        seconds: -whole,
                        nanos: 0,
                    },
                    nanos => WallTime {
                        seconds: -whole - 1,
                        nanos: 1_000_000_000 - nanos,
                    },
                }
            }
        }
    }
}
