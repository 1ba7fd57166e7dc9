//! Time: the machine's, with the battery-backed clock's at boot as the base of civil time.

use platform_x86_64::clock::now_nanos;
use platform_x86_64::rtc::read_civil_time;
use rumpuser::{Instant, WallTime};
use spin::Once;

pub(crate) struct Clock {
    /// Seconds since 1970 at the machine's entry; 0 without a battery-backed clock.
    epoch: Once<i64>,
}

pub(crate) static CLOCK: Clock = Clock { epoch: Once::new() };

const NANOS_PER_SECOND: u64 = 1_000_000_000;

impl Clock {
    /// Reads the battery-backed clock. Once.
    pub(crate) fn init(&self) {
        self.epoch.call_once(|| {
            let entered = (now_nanos() / NANOS_PER_SECOND) as i64;
            read_civil_time().map_or(0, |seconds| seconds - entered)
        });
    }
}

impl rumpuser::Clock for Clock {
    fn now(&self) -> Instant {
        Instant::from_nanos(now_nanos())
    }

    fn wall(&self) -> WallTime {
        let now = now_nanos();
        let epoch = self.epoch.get().copied().unwrap_or(0);
        WallTime {
            seconds: epoch + (now / NANOS_PER_SECOND) as i64,
            nanos: (now % NANOS_PER_SECOND) as u32,
        }
    }
}
