//! Time: virtual.

use crate::world;
use rumpuser::{Clock, Instant, WallTime};

/// The civil time at which every universe begins: 2020-01-01 00:00:00 UTC.
const BEGINNING: i64 = 1_577_836_800;

/// The universe's clock.
pub(crate) struct SimClock;

impl Clock for SimClock {
    fn now(&self) -> Instant {
        let now = world::try_with(|world| {
            world.now += world::CLOCK_NANOS;
            world.now
        });
        Instant::from_nanos(now.unwrap_or(0))
    }

    fn wall(&self) -> WallTime {
        let now = self.now().as_nanos();
        WallTime {
            seconds: BEGINNING + (now / 1_000_000_000) as i64,
            nanos: (now % 1_000_000_000) as u32,
        }
    }
}
