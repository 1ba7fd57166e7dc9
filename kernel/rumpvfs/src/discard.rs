//! Telling a device which of its sectors need not be kept.
//!
//! A file system says what it frees ([`Discards::add`]) and, later, that its metadata on the disk lead there no more
//! ([`Discards::start`]); from then on it is discarded, by and by, while nobody waits. Whoever takes such sectors again says so before
//! anything is written there ([`Discards::taken`]): what is not under way is left out then, and what is under way is waited for.
//! So a discard never meets data that somebody has.
//!
//! It is a hint: what there is no room to remember, and what the device does not take, is not discarded.
//!
//! Locks: a leaf, which completions take; nothing is started under it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::ops::Range;

use rumpkern::kmem;
use rumpkern::locks::{Condvar, Mutex, MutexGuard};
use rumpkern::uvm;
use rumpkern::uvm::dma::{Bio, BioOp};
use rumpuser::{Errno, MAX_DISCARD_SECTORS, SECTOR_SIZE};

use crate::specfs::BlockIo;

/// Requests under way at once.
const DEPTH: usize = 4;

/// Sectors, in ranges that neither meet nor touch, by sector; no more than there was room for at first.
struct Ranges(Vec<Range<u64>>);

impl Ranges {
    fn new(most: usize) -> Result<Ranges, Errno> {
        kmem::try_vec(most).map(Ranges)
    }

    /// The places of the ranges that meet `range`, or touch it if `touching`.
    fn around(&self, range: &Range<u64>, touching: u64) -> Range<usize> {
        let ends_before = |it: &Range<u64>| it.end.saturating_add(touching) <= range.start;
        let begins_before = |it: &Range<u64>| it.start < range.end.saturating_add(touching);
        let first = self.0.partition_point(ends_before);
        first..first + self.0[first..].partition_point(begins_before)
    }

    /// Adds `range`, if there is room.
    fn add(&mut self, mut range: Range<u64>) {
        let around = self.around(&range, 1);
        if around.is_empty() {
            if self.0.len() < self.0.capacity() {
                self.0.insert(around.start, range);
            }
            return;
        }
        range.start = range.start.min(self.0[around.start].start);
        range.end = range.end.max(self.0[around.end - 1].end);
        self.0[around.start] = range;
        self.0.drain(around.start + 1..around.end);
    }

    /// Takes `range` out. The rest behind it goes as well if there is no room for that.
    fn remove(&mut self, range: &Range<u64>) {
        let around = self.around(range, 0);
        let (Some(first), Some(last)) = (
            self.0[around.clone()].first().cloned(),
            self.0[around.clone()].last().cloned(),
        ) else {
            return;
        };
        self.0.drain(around.clone());
        let rests = [range.end..last.end, first.start..range.start];
        for rest in rests.into_iter().filter(|rest| !rest.is_empty()) {
            if self.0.len() < self.0.capacity() {
                self.0.insert(around.start, rest);
            }
        }
    }

    /// Takes the first whole units out, as many as one request may have.
    fn next(&mut self, unit: u64) -> Option<Range<u64>> {
        let most = MAX_DISCARD_SECTORS - MAX_DISCARD_SECTORS % unit;
        while let Some(first) = self.0.first_mut() {
            let start = first.start.next_multiple_of(unit);
            let end = (first.end - first.end % unit).min(start + most);
            match end.cmp(&first.end) {
                Ordering::Less if start < end => first.start = end,
                _ => drop(self.0.remove(0)),
            }
            if start < end {
                return Some(start..end);
            }
        }
        None
    }
}

struct State {
    /// Free, but the disk may not know it yet.
    added: Ranges,
    /// To be discarded.
    ready: Ranges,
    going: [Option<Range<u64>>; DEPTH],
    /// Somebody starts what is ready.
    starting: bool,
    /// The device takes none.
    refused: bool,
}

impl State {
    fn meets(&self, range: &Range<u64>) -> bool {
        let meets = |it: &Range<u64>| it.start < range.end && range.start < it.end;
        self.going.iter().flatten().any(meets)
    }

    fn is_idle(&self) -> bool {
        self.going.iter().all(Option::is_none) && !self.starting
    }
}

/// Sectors of a device that are free, as long as it has not been told.
pub struct Discards {
    device: Arc<dyn BlockIo>,
    state: Mutex<State>,
    ended: Condvar,
}

impl Discards {
    /// For `device`; `None` if it does not discard.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(device: &Arc<dyn BlockIo>) -> Result<Option<Arc<Discards>>, Errno> {
        if !device.info().discard {
            return Ok(None);
        }
        // Of a small memory, little.
        let most = (uvm::limit_pages() / 8).clamp(64, 4096);
        let state = State {
            added: Ranges::new(most)?,
            ready: Ranges::new(most)?,
            going: [const { None }; DEPTH],
            starting: false,
            refused: false,
        };
        let discards = kmem::try_arc(Discards {
            device: device.clone(),
            state: Mutex::new(state),
            ended: Condvar::new(),
        });
        discards.map(Some)
    }

    /// The `count` sectors from `sector` on are free, whatever the disk says yet.
    pub fn add(&self, sector: u64, count: u64) {
        let mut state = self.state.lock();
        if !state.refused && count > 0 {
            state.added.add(sector..sector.saturating_add(count));
        }
    }

    /// The `count` sectors from `sector` on are free no more. Waits for what is under way there.
    pub fn taken(&self, sector: u64, count: u64) {
        let range = sector..sector.saturating_add(count);
        let mut state = self.state.lock();
        state.added.remove(&range);
        state.ready.remove(&range);
        while state.meets(&range) {
            state = self.ended.wait(state);
        }
    }

    /// The disk knows that all that was added so far is free: it is discarded from now on.
    pub fn start(self: &Arc<Self>) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        for range in state.added.0.drain(..) {
            state.ready.add(range);
        }
        self.go_on(guard);
    }

    /// Waits until all is discarded that was started, and forgets what was added later.
    pub fn finish(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.added.0.clear();
        while !(state.is_idle() && state.ready.0.is_empty()) {
            if !state.is_idle() {
                state = self.ended.wait(state);
                continue;
            }
            self.go_on(state);
            state = self.state.lock();
        }
    }

    /// Forgets what is not under way, and waits for what is.
    pub fn abandon(&self) {
        let mut state = self.state.lock();
        state.added.0.clear();
        state.ready.0.clear();
        while !state.is_idle() {
            state = self.ended.wait(state);
        }
    }

    /// Starts what is ready, as much as may be under way. What there is no memory for is left out.
    fn go_on<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State>) {
        if state.starting {
            return;
        }
        state.starting = true;
        let mut refused = None;
        let unit = u64::from(self.device.info().sector_size) / SECTOR_SIZE as u64;
        while let Some(slot) = state.going.iter().position(Option::is_none) {
            let Some(range) = state.ready.next(unit.max(1)) else {
                break;
            };
            state.going[slot] = Some(range.clone());
            drop(state);
            let started = self.discard(slot, range);
            state = self.state.lock();
            if let Err(errno) = started {
                state.going[slot] = None;
                refused = (errno != Errno::ENOMEM).then_some(errno);
                break;
            }
        }
        state.starting = false;
        drop(state);
        self.ended.notify_all();
        self.refuse(refused);
    }

    fn discard(self: &Arc<Self>, slot: usize, range: Range<u64>) -> Result<(), Errno> {
        let this = self.clone();
        let done = kmem::try_box(move |_, result| this.discarded(slot, result))?;
        let bio = Bio {
            op: BioOp::Discard {
                sectors: range.end - range.start,
            },
            sector: range.start,
            frames: Vec::new(),
            done,
        };
        self.device.start(bio).map_err(|(errno, _)| errno)
    }

    fn discarded(self: &Arc<Self>, slot: usize, result: Result<(), Errno>) {
        self.refuse(result.err());
        let mut state = self.state.lock();
        state.going[slot] = None;
        self.ended.notify_all();
        self.go_on(state);
    }

    /// If the device does not do it: it is not asked again.
    fn refuse(&self, errno: Option<Errno>) {
        let Some(errno) = errno else {
            return;
        };
        let mut state = self.state.lock();
        state.added.0.clear();
        state.ready.0.clear();
        if !core::mem::replace(&mut state.refused, true) {
            drop(state);
            log::warn!("{}: discards nothing more: {errno}", self.device.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers as if at random (Vigna, "SplitMix64").
    fn next(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn sectors(ranges: &Ranges) -> Vec<u64> {
        let apart = |pair: &[Range<u64>]| pair[0].end < pair[1].start;
        assert!(ranges.0.windows(2).all(apart), "{:?}", ranges.0);
        ranges.0.iter().cloned().flatten().collect()
    }

    #[test]
    fn ranges_are_a_set_of_sectors() {
        let mut ranges = Ranges::new(64).unwrap();
        let mut model = [false; 100];
        let mut seed = 1;
        for _ in 0..5000 {
            let start = next(&mut seed) % 90;
            let range = start..start + 1 + next(&mut seed) % 10;
            let adds = next(&mut seed).is_multiple_of(2);
            match adds {
                true => ranges.add(range.clone()),
                false => ranges.remove(&range),
            }
            model[range.start as usize..range.end as usize].fill(adds);
            let expected = (0..100).filter(|at| model[*at as usize]);
            assert_eq!(sectors(&ranges), expected.collect::<Vec<u64>>());
        }
    }

    #[test]
    fn what_there_is_no_room_for_is_never_more_than_was_asked_for() {
        let mut ranges = Ranges::new(2).unwrap();
        for at in [0, 10, 20] {
            ranges.add(at..at + 5);
        }
        assert_eq!(ranges.0, [0..5, 10..15]);
        ranges.remove(&(11..12));
        assert_eq!(sectors(&ranges), [0, 1, 2, 3, 4, 12, 13, 14]);
    }

    #[test]
    fn requests_are_whole_units_and_not_too_large() {
        let mut ranges = Ranges::new(8).unwrap();
        let end = 16 + MAX_DISCARD_SECTORS + 9;
        for range in [1..7, 9..15, 15..end] {
            ranges.add(range);
        }
        assert_eq!(ranges.next(8), Some(16..16 + MAX_DISCARD_SECTORS));
        assert_eq!(
            ranges.next(8),
            Some(16 + MAX_DISCARD_SECTORS..24 + MAX_DISCARD_SECTORS)
        );
        assert_eq!(ranges.next(8), None);
        assert!(ranges.0.is_empty());
    }
}
