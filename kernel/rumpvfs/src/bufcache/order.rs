//! Writing dirty buffers in the order of their ranks.

use super::write::start;
use super::{BufCache, Entry, Key, Settled, State, take};
use crate::specfs::BlockIo;
use crate::vnode::Wait;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use rumpkern::kmem;
use rumpkern::locks::MutexGuard;
use rumpkern::uvm::dma::{Bio, BioOp, IoFrame};
use rumpkern::uvm::{Frame, Transit};
use rumpuser::{Errno, SECTOR_SIZE};

/// Buffers that one look at the table finds.
const BATCH: usize = 64;
/// Buffers in one request.
const CLUSTER: usize = 16;

/// The buffers of device `dev` that a change has to come after, each by any of its sectors; `unit` sectors are what the device
/// reads and writes at once.
pub(super) struct Before<'a> {
    pub(super) dev: u64,
    pub(super) unit: u64,
    pub(super) sectors: &'a [u64],
}

/// A busy buffer on its way to the disk.
struct Writing {
    key: Key,
    frame: Frame,
    bytes: usize,
}

/// Buffers under way to the disk in one request. They settle when this goes.
struct Going {
    cache: Arc<BufCache>,
    device: Arc<dyn BlockIo>,
    cluster: Vec<Writing>,
    result: Result<(), Errno>,
    /// Behind the buffers, which have settled when this goes.
    _transit: Transit,
}

impl Drop for Going {
    fn drop(&mut self) {
        let cluster = core::mem::take(&mut self.cluster);
        let count = cluster.len();
        match self.result {
            Ok(()) => {
                for writing in cluster {
                    self.cache
                        .settle(writing.key, writing.frame, Settled::Clean);
                }
            }
            // Which of them it was shows when each is written alone.
            Err(_) => self.cache.start_each(&self.device, cluster),
        }
        self.cache.ended(count);
    }
}

/// Sectors of a device at which buffers begin, in order. As small as can be: whoever writes back may be deep in his stack.
struct Batch {
    sectors: [u64; BATCH],
    count: usize,
}

impl Batch {
    fn sectors(&self) -> &[u64] {
        &self.sectors[..self.count]
    }
}

/// What a look at the table found of a device's dirty buffers.
#[allow(
    clippy::large_enum_variant,
    reason = "on the stack: nothing is allocated under the lock"
)]
enum Next {
    /// These, of the lowest rank, can be written.
    Write(Batch, Turn),
    /// Those of the lowest rank are all busy.
    Busy,
    /// There are none.
    Nothing,
}

/// Whose turn it is, as a look at the table found it.
#[derive(Clone, Copy)]
struct Turn {
    rank: u64,
    /// The number of the flush that this is for.
    flush: u64,
    /// What [`State::lower`] was, if something can become dirty with a lower rank than this.
    lower: Option<u64>,
}

/// Something of a lower rank became dirty since the look at the table, or was written and is not stable yet: look again.
struct Overtaken;

/// How often writing that nobody asked for looks again, before it sees to it that it is not overtaken any more.
const LOOKS: usize = 2;

impl State {
    /// The rank of a change that must come after others.
    pub(super) fn rank_after(&self, before: &Before<'_>) -> u64 {
        let rank = |sector: &u64| {
            let key = (before.dev, sector - sector % before.unit);
            let rank = match self.table.peek(&key) {
                Some(entry) if entry.dirty => return entry.rank + 1,
                Some(entry) => entry.rank,
                None => self.volatile.highest(before.dev),
            };
            match self.volatile.may_hold_below(before.dev, rank + 1) {
                true => rank + 1,
                false => 0,
            }
        };
        let highest = before.sectors.iter().map(rank).max();
        // Also if they are on the disk already: the next change of its kind, to come after others, then finds it above them.
        highest.map_or(0, |highest| highest.max(self.base + 1))
    }

    /// The dirty buffers of device `dev` that come next, of ranks up to `most`, but for those to be `skipped`: the first by
    /// sector; or the `oldest` so many.
    fn next(
        &self,
        dev: u64,
        most: u64,
        skipped: impl Fn(&Entry) -> bool,
        oldest: Option<usize>,
    ) -> Next {
        let mut sectors = [0; BATCH];
        let (mut count, mut lowest, mut is_busy) = (0, u64::MAX, false);
        for (key, entry) in self.table.oldest_first() {
            if key.0 != dev || !entry.dirty || entry.rank > most.min(lowest) || skipped(entry) {
                continue;
            }
            if entry.rank < lowest {
                (count, lowest, is_busy) = (0, entry.rank, false);
            }
            let at = match oldest {
                Some(_) => count,
                None => sectors[..count].partition_point(|known| *known < key.1),
            };
            if entry.frame.is_none() {
                is_busy = true;
            } else if at < oldest.unwrap_or(BATCH) {
                count = (count + 1).min(BATCH);
                sectors[at..count].rotate_right(1);
                sectors[at] = key.1;
            }
        }
        match (count, is_busy) {
            (0, true) => Next::Busy,
            (0, false) => Next::Nothing,
            _ => {
                sectors[..count].sort_unstable();
                let turn = Turn {
                    rank: lowest,
                    flush: self.flushes,
                    lower: (lowest > self.base).then_some(self.lower),
                };
                Next::Write(Batch { sectors, count }, turn)
            }
        }
    }

    /// A buffer became dirty with this rank.
    pub(super) fn ranked(&mut self, rank: u64) {
        self.lower += u64::from(rank < self.top);
        self.top = self.top.max(rank);
    }

    /// Whether it is still the turn of these, on `device`: if something of a lower rank became dirty meanwhile, it is in place, and
    /// stable.
    fn check(&mut self, device: &Arc<dyn BlockIo>, turn: &mut Turn) -> Result<(), Overtaken> {
        let dev = device.dev();
        if turn.lower.is_some_and(|lower| lower != self.lower) {
            let mut entries = self.table.oldest_first();
            let is_lower =
                |entry: &Entry| entry.dirty && entry.failed.is_none() && entry.rank < turn.rank;
            if entries.any(|(key, entry)| key.0 == dev && is_lower(entry)) {
                return Err(Overtaken);
            }
            turn.lower = Some(self.lower);
        }
        if device.info().volatile_cache && self.volatile.may_hold_below(dev, turn.rank) {
            return Err(Overtaken);
        }
        Ok(())
    }
}

impl BufCache {
    /// Starts writing those at `sectors`, whose turn it is, neighbours together. What changed meanwhile is left.
    fn start_writes(
        self: &Arc<Self>,
        device: &Arc<dyn BlockIo>,
        sectors: &[u64],
        mut turn: Turn,
    ) -> Result<(), Overtaken> {
        self.settle_before(device, turn.rank);
        let most_bytes = device.info().max_bytes;
        let dev = device.dev();
        let mut keys = sectors.iter().map(|sector| (dev, *sector)).peekable();
        while let Some(first) = keys.next() {
            let mut cluster = kmem::try_vec(CLUSTER).unwrap_or_default();
            let mut state = self.state.lock();
            state.check(device, &mut turn)?;
            let Some(writing) = take_ranked(&mut state, first, &turn) else {
                continue;
            };
            let (mut end, mut bytes) = (end_of(&writing), writing.bytes);
            if cluster.capacity() == 0 {
                drop(state);
                let Writing { key, frame, bytes } = writing;
                self.start_write(device.clone(), key, frame, bytes, |_| ());
                continue;
            }
            cluster.push(writing);
            while cluster.len() < CLUSTER
                && bytes < most_bytes
                && let Some(key) = keys.next_if_eq(&end)
                && let Some(writing) = take_ranked(&mut state, key, &turn)
            {
                (end, bytes) = (end_of(&writing), bytes + writing.bytes);
                cluster.push(writing);
            }
            drop(state);
            self.start_cluster(device, cluster);
        }
        Ok(())
    }

    /// Starts writing buffers that lie next to each other.
    fn start_cluster(self: &Arc<Self>, device: &Arc<dyn BlockIo>, cluster: Vec<Writing>) {
        let Some(sector) = cluster.first().map(|first| first.key.1) else {
            return;
        };
        if cluster.len() == 1 {
            return self.start_each(device, cluster);
        }
        let Ok(mut frames) = kmem::try_vec(cluster.len()) else {
            return self.start_each(device, cluster);
        };
        frames.extend(cluster.iter().map(|writing| IoFrame {
            frame: writing.frame.clone(),
            offset: 0,
            len: writing.bytes,
        }));
        self.writes
            .fetch_add(cluster.len() as u64, Ordering::Relaxed);
        self.state.lock().writing += cluster.len();
        let going = Going {
            cache: self.clone(),
            device: device.clone(),
            _transit: Transit::begin(cluster.len()),
            cluster,
            result: Err(Errno::ENOMEM),
        };
        let done = kmem::try_box(move |frames: Vec<IoFrame>, result: Result<(), Errno>| {
            let mut going = going;
            drop(frames);
            going.result = result;
        });
        // If there was no memory for it, `going` is gone already, and has started each alone.
        let Ok(done) = done else {
            return;
        };
        let bio = Bio {
            op: BioOp::Write,
            sector,
            frames,
            done,
        };
        start(&**device, bio);
    }

    fn start_each(self: &Arc<Self>, device: &Arc<dyn BlockIo>, cluster: Vec<Writing>) {
        for writing in cluster {
            let Writing { key, frame, bytes } = writing;
            self.start_write(device.clone(), key, frame, bytes, |_| ());
        }
    }

    /// Starts writing the oldest dirty buffers of the lowest rank, if they can be written now: those that are changed again
    /// and again, as maps are, stay. Those that failed are tried again by a flush only.
    pub(super) fn write_some(self: &Arc<Self>, device: &Arc<dyn BlockIo>) {
        let few = (self.capacity / 4).clamp(1, BATCH);
        for look in 0..=LOOKS {
            let mut state = self.state.lock();
            let found = state.next(
                device.dev(),
                u64::MAX,
                |entry| entry.failed.is_some(),
                Some(few),
            );
            let Next::Write(batch, mut turn) = found else {
                state.stuck = true;
                return;
            };
            if look == LOOKS {
                state.base = state.base.max(turn.rank);
                turn.lower = None;
            }
            drop(state);
            if self.start_writes(device, batch.sectors(), turn).is_ok() {
                return;
            }
        }
    }

    /// Waits until something settles, if there is no room and all that could go is being written or changed.
    pub(super) fn wait_for_a_write(&self, device: &Arc<dyn BlockIo>) -> MutexGuard<'_, State> {
        let state = self.state.lock();
        let is_clean = |(_, entry): (&Key, &Entry)| !entry.dirty && entry.may_go();
        if state.others() < self.capacity || state.table.oldest_first().any(is_clean) {
            return state;
        }
        let next = state.next(
            device.dev(),
            u64::MAX,
            |entry| entry.failed.is_some(),
            Some(1),
        );
        match matches!(next, Next::Busy) || state.writing > 0 {
            true => self.settled.wait(state),
            false => state,
        }
    }

    /// Writes every dirty buffer of `device` with a rank of at most `rank`, in order, and waits for it.
    pub(super) fn write_ranks(self: &Arc<Self>, device: &Arc<dyn BlockIo>, rank: u64) {
        let mut state = self.state.lock();
        state.base = state.base.max(rank + 1);
        state.top = state.top.max(rank);
        state.flushes += 1;
        let flush = state.flushes;
        loop {
            match state.next(device.dev(), rank, given_up(flush), None) {
                Next::Nothing => return,
                Next::Busy => state = self.settled.wait(state),
                Next::Write(batch, turn) => {
                    drop(state);
                    // If others wrote something meanwhile that has to be stable first, the next look is for the same.
                    let _overtaken =
                        self.start_writes(device, batch.sectors(), Turn { flush, ..turn });
                    state = self.state.lock();
                }
            }
        }
    }

    /// Writes every dirty buffer of `device`.
    pub(super) fn flush(
        self: &Arc<Self>,
        device: &Arc<dyn BlockIo>,
        wait: Wait,
    ) -> Result<(), Errno> {
        let state = self.state.lock();
        let rank = state.top;
        let is_one_rank = state.is_one_rank(device.dev());
        drop(state);
        if wait == Wait::Started && is_one_rank {
            self.start_dirty(device);
            return Ok(());
        }
        self.write_ranks(device, rank);
        if wait == Wait::Started {
            return Ok(());
        }
        let mut state = self.state.lock();
        while state.writing > 0 {
            state = self.settled.wait(state);
        }
        let own = |(key, entry): (&Key, &Entry)| entry.failed.filter(|_| key.0 == device.dev());
        let failed = state.table.oldest_first().filter_map(own);
        // What the disk says is worse than that there was no memory.
        let worst = failed.reduce(|one, other| if one == Errno::ENOMEM { other } else { one });
        worst.map_or(Ok(()), Err)
    }

    /// Starts writing all dirty buffers of `device` that are of the lowest rank, as they all are where a log orders them, and not
    /// busy. Answers the highest rank there is: what becomes dirty from now on gets a higher one.
    pub(super) fn start_dirty(self: &Arc<Self>, device: &Arc<dyn BlockIo>) -> u64 {
        let mut state = self.state.lock();
        let rank = state.top;
        state.flushes += 1;
        state.base = state.base.max(rank + 1);
        let flush = state.flushes;
        loop {
            let found = state.next(device.dev(), rank, given_up(flush), None);
            drop(state);
            let Next::Write(batch, turn) = found else {
                return rank;
            };
            let _overtaken = self.start_writes(device, batch.sectors(), Turn { flush, ..turn });
            state = self.state.lock();
        }
    }

    /// Whether no buffer of device `dev` with a rank of at most `rank` is dirty, or on its way.
    pub(super) fn is_in_place(&self, dev: u64, rank: u64) -> bool {
        let state = self.state.lock();
        let mut entries = state.table.oldest_first();
        !entries.any(|(key, entry)| key.0 == dev && entry.dirty && entry.rank <= rank)
    }
}

impl State {
    /// Whether all dirty buffers of device `dev` have the same rank.
    fn is_one_rank(&self, dev: u64) -> bool {
        let dirty = |(key, entry): &(&Key, &Entry)| key.0 == dev && entry.dirty;
        let mut ranks = self.table.oldest_first().filter(dirty).map(|it| it.1.rank);
        let first = ranks.next();
        ranks.all(|rank| Some(rank) == first)
    }
}

/// Takes a dirty buffer to write it, if it still has the rank whose turn it is.
fn take_ranked(state: &mut MutexGuard<'_, State>, key: Key, turn: &Turn) -> Option<Writing> {
    let entry = state.table.peek_mut(&key)?;
    if !entry.dirty || entry.rank != turn.rank {
        return None;
    }
    entry.tried = turn.flush;
    let (device, frame, bytes) = take(state, &key)?;
    state.writes(&device, turn.rank);
    Some(Writing { key, frame, bytes })
}

/// Those that flush number `flush` could not write.
fn given_up(flush: u64) -> impl Fn(&Entry) -> bool {
    move |entry| entry.failed.is_some() && entry.tried == flush
}

fn end_of(writing: &Writing) -> Key {
    let (dev, sector) = writing.key;
    (dev, sector + (writing.bytes / SECTOR_SIZE) as u64)
}
