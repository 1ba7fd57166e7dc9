//! What a device's own cache may still hold, and lose with the power: buffers that were written since it was last emptied.

use super::{BufCache, STABLE, State};
use crate::specfs::{self, BlockIo};
use alloc::sync::Arc;

/// The ranks, from the lowest to the highest, of what was written; none if the lowest is above.
#[derive(Clone, Copy)]
struct Ranks {
    low: u64,
    high: u64,
}

impl Ranks {
    const NONE: Ranks = Ranks {
        low: u64::MAX,
        high: 0,
    };

    fn add(&mut self, rank: u64) {
        self.low = self.low.min(rank);
        self.high = self.high.max(rank);
    }
}

/// A device's cache.
#[derive(Clone, Copy)]
struct Device {
    dev: u64,
    /// Of what it may hold.
    unstable: Ranks,
    /// Of what was written since the flush that is under way began.
    later: Ranks,
    is_flushing: bool,
}

/// The caches of all devices that have one.
pub(super) struct Volatile([Option<Device>; STABLE]);

impl Volatile {
    pub(super) const fn new() -> Volatile {
        Volatile([None; STABLE])
    }

    /// A place for device `dev`: its own, or that of one whose cache holds nothing. `None`: it is one device too many.
    fn place(&mut self, dev: u64) -> Option<&mut Device> {
        let own = |place: &Option<Device>| place.is_some_and(|device| device.dev == dev);
        let free = |place: &Option<Device>| {
            place.is_none_or(|device| !device.is_flushing && device.unstable.low == u64::MAX)
        };
        let at = self.0.iter().position(own);
        let at = at.or_else(|| self.0.iter().position(free))?;
        let place = &mut self.0[at];
        let new = || Device {
            dev,
            unstable: Ranks::NONE,
            later: Ranks::NONE,
            is_flushing: false,
        };
        if place.is_none_or(|device| device.dev != dev) {
            *place = None;
        }
        Some(place.get_or_insert_with(new))
    }

    fn known(&self, dev: u64) -> Option<&Device> {
        self.0.iter().flatten().find(|device| device.dev == dev)
    }

    /// Something of rank `rank` is being written, or was.
    pub(super) fn written(&mut self, dev: u64, rank: u64) {
        if let Some(device) = self.place(dev) {
            device.unstable.add(rank);
            device.later.add(rank);
        }
    }

    /// Whether everything that was written of ranks below `rank` is stable.
    pub(super) fn is_stable_below(&mut self, dev: u64, rank: u64) -> bool {
        self.place(dev)
            .is_some_and(|device| device.unstable.low >= rank)
    }

    /// Whether something that was written of ranks below `rank` may be unstable, as far as is known.
    pub(super) fn may_hold_below(&self, dev: u64, rank: u64) -> bool {
        self.known(dev)
            .is_some_and(|device| device.unstable.low < rank)
    }

    /// The highest rank of what may be unstable; 0 if nothing is.
    pub(super) fn highest(&self, dev: u64) -> u64 {
        self.known(dev).map_or(0, |device| device.unstable.high)
    }

    /// Device `dev` is not used any more.
    pub(super) fn forget(&mut self, dev: u64) {
        for place in &mut self.0 {
            *place = place.filter(|device| device.dev != dev || device.is_flushing);
        }
    }

    fn is_flushing(&self, dev: u64) -> bool {
        self.known(dev).is_some_and(|device| device.is_flushing)
    }

    fn flush_begins(&mut self, dev: u64) {
        if let Some(device) = self.place(dev) {
            (device.later, device.is_flushing) = (Ranks::NONE, true);
        }
    }

    fn flush_ended(&mut self, dev: u64) {
        if let Some(device) = self.place(dev) {
            (device.unstable, device.is_flushing) = (device.later, false);
        }
    }
}

impl State {
    /// Something is being written to a device, with this rank.
    pub(super) fn writes(&mut self, device: &Arc<dyn BlockIo>, rank: u64) {
        if device.info().volatile_cache {
            self.volatile.written(device.dev(), rank);
        }
    }
}

impl BufCache {
    /// Sees to it that what was written of lower ranks is stable, before a device with a cache of its own gets something of rank
    /// `rank`.
    pub(super) fn settle_before(&self, device: &Arc<dyn BlockIo>, rank: u64) {
        if !device.info().volatile_cache {
            return;
        }
        let dev = device.dev();
        let mut state = self.state.lock();
        while !state.volatile.is_stable_below(dev, rank) {
            if state.volatile.is_flushing(dev) {
                state = self.settled.wait(state);
                continue;
            }
            state.volatile.flush_begins(dev);
            drop(state);
            let flushed = specfs::flush(&**device);
            self.state.lock().volatile.flush_ended(dev);
            self.settled.notify_all();
            if let Err(errno) = flushed {
                // Nothing is left to wait for: who wants to know flushes, and gets this error.
                log::error!("{}: its cache could not be flushed: {errno}", device.name());
            }
            return;
        }
    }
}
