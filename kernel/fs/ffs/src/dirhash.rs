//! Directory hashes: where the names of a large directory lie, and which of its units have room.
//!
//! A directory has no order, so finding a name, or that there is none, reads all of it. The hash of a
//! directory in use tells from a name the offsets of the few entries that may bear it; each is then read and
//! compared, so that a hash never decides by itself what a name stands for. It is made when a name is
//! looked up in a directory of more than [`LEAST_UNITS`] units, follows every change, and may go at
//! any time: without it, whoever asks reads the directory. A directory in which something is wrong has
//! none: reading it says what.
//!
//! Layout: an open table of 8-byte slots (the upper half of a name's hash, and the offset of its entry), probed
//! linearly and kept at most three quarters full; and a byte for every unit, its room. Both lie in pages
//! of the budget ([`Frame`]), which are never waited for. The hash is seeded: who chooses the names of a
//! directory cannot choose where they collide.
//!
//! Bounds: [`Hashes`] holds those of a volume to a quarter of the memory limit, and to `MOST_HASHES` directories; who
//! needs more makes others go, those least recently used first. The page daemon gets all that it asks for.
//!
//! Locks: a directory's vnode lock decides who changes the hash; the lock in [`Hashed`] is a leaf under which nothing waits.
//!
//! What NetBSD's `options UFS_DIRHASH` does (Dowse and Malone, "Recent Filesystem Optimisations in FreeBSD",
//! 2002), in purpose.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use rumpkern::hash::HashKey;
use rumpkern::kmem::{self, Room};
use rumpkern::locks::Mutex;
use rumpkern::uvm::{self, Alloc, Drain, Frame};
use rumpkern::{lwp, random};
use rumpuser::{Errno, PAGE_SIZE};

use crate::corrupt::EntryFault;
use crate::dir::{Shape, entry_size};
use crate::raw::DIRBLKSIZ;

/// A directory of no more units is read: that takes a buffer or two (NetBSD's `ufs_dirhashminblks`).
pub const LEAST_UNITS: u64 = 5;
/// Directories of a volume that have a hash.
const MOST_HASHES: usize = 64;
/// Entries that a look-up compares: more than one bear the same hash once in millions of look-ups.
const MOST_CANDIDATES: usize = 4;
/// Slots that a name may lie away from where it belongs. More than a few dozen are a sign of one name many times over, which
/// only a spoiled directory has: it is read.
const MOST_PROBES: usize = 1024;
/// The page daemon asks for these after buffers, which are read again one by one.
const DRAIN_PRIORITY: u32 = 25;

const UNIT: u64 = DIRBLKSIZ as u64;
const SLOTS_PER_PAGE: usize = PAGE_SIZE / 8;
/// Units that share an entry in the summary of rooms.
const GROUP: usize = 64;

/// There is no memory for the hash, or no hash of that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// Allocates without waiting, by `attempt`. Where memory is short, up to `pages` clean pages of files make room: what is free then
/// is a few pages, and without a hash every look-up reads more than they hold.
fn without_waiting<T, E>(
    pages: usize,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, NoMemory> {
    let _refuse = lwp::refuse_to_wait();
    let made = match attempt() {
        Err(_) if uvm::recycle(pages) > 0 => attempt(),
        made => made,
    };
    made.map_err(|_| NoMemory)
}

/// Room for `more` in `vec`, without waiting for it.
fn reserve<T>(vec: &mut Vec<T>, more: usize) -> Result<(), NoMemory> {
    without_waiting(1, || vec.room(more))
}

/// Bytes in pages of the budget.
struct Pages {
    frames: Vec<Frame>,
    quota: Arc<Quota>,
}

impl Pages {
    fn new(quota: Arc<Quota>) -> Pages {
        Pages {
            frames: Vec::new(),
            quota,
        }
    }

    /// Adds pages of zeroes until there are `count`.
    fn extend(&mut self, count: usize) -> Result<(), NoMemory> {
        let more = count.saturating_sub(self.frames.len());
        reserve(&mut self.frames, more)?;
        while self.frames.len() < count {
            self.quota.take()?;
            let missing = count - self.frames.len();
            match without_waiting(missing, || Frame::alloc_zeroed(Alloc::NoWait)) {
                Ok(frame) => self.frames.push(frame),
                Err(none) => {
                    self.quota.give(1);
                    return Err(none);
                }
            }
        }
        Ok(())
    }

    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let page = self.frames[at / PAGE_SIZE].as_bytes();
        core::array::from_fn(|n| page[at % PAGE_SIZE + n])
    }

    fn set<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        if let Some(page) = self.frames[at / PAGE_SIZE].get_mut() {
            page[at % PAGE_SIZE..at % PAGE_SIZE + N].copy_from_slice(&bytes);
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.quota.give(self.frames.len());
    }
}

/// Pages that the hashes of a volume have.
#[derive(Default)]
struct Quota {
    used: AtomicUsize,
}

impl Quota {
    /// How many there may be.
    fn most() -> usize {
        uvm::limit_pages() / 4
    }

    fn take(&self) -> Result<(), NoMemory> {
        if self.used.fetch_add(1, Ordering::AcqRel) < Quota::most() {
            return Ok(());
        }
        self.give(1);
        Err(NoMemory)
    }

    fn give(&self, pages: usize) {
        self.used.fetch_sub(pages, Ordering::AcqRel);
    }
}

/// Offsets that a name may lie at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidates {
    offsets: [u64; MOST_CANDIDATES],
    count: usize,
}

impl Candidates {
    /// The offsets.
    pub fn as_slice(&self) -> &[u64] {
        &self.offsets[..self.count]
    }
}

/// A slot: the hash of a name, and where its entry lies.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot {
    hash: u32,
    offset: u64,
}

impl Slot {
    /// 0 is free. A directory has less than 2^31 bytes, and entries lie on multiples of four.
    fn from_word(word: u64) -> Option<Slot> {
        (word != 0).then(|| Slot {
            hash: (word >> 32) as u32,
            offset: (u64::from(word as u32) - 1) * 4,
        })
    }

    fn word(self) -> u64 {
        u64::from(self.hash) << 32 | (self.offset / 4 + 1)
    }
}

/// The hash of one directory.
pub struct DirHash {
    seed: HashKey,
    table: Pages,
    names: usize,
    /// A byte for each unit: its room, in words of four bytes.
    rooms: Pages,
    units: usize,
    /// The most room in each [`GROUP`] of units.
    most: Vec<u8>,
}

impl DirHash {
    fn new(seed: HashKey, quota: &Arc<Quota>) -> Result<DirHash, NoMemory> {
        let mut hash = DirHash {
            seed,
            table: Pages::new(quota.clone()),
            names: 0,
            rooms: Pages::new(quota.clone()),
            units: 0,
            most: Vec::new(),
        };
        hash.table.extend(1)?;
        Ok(hash)
    }

    fn slots(&self) -> usize {
        self.table.frames.len() * SLOTS_PER_PAGE
    }

    fn slot(&self, at: usize) -> Option<Slot> {
        Slot::from_word(u64::from_le_bytes(self.table.bytes(at * 8)))
    }

    fn set_slot(&mut self, at: usize, slot: Option<Slot>) {
        self.table
            .set(at * 8, slot.map_or(0, Slot::word).to_le_bytes());
    }

    /// The number of slots is a power of two.
    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.slots() - 1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.slots() - 1)
    }

    fn hash_of(&self, name: &[u8]) -> u32 {
        (self.seed.name_hash(name) >> 32) as u32
    }

    /// Where `name` may lie; nowhere else.
    fn candidates(&self, name: &[u8]) -> Candidates {
        let hash = self.hash_of(name);
        let mut found = Candidates::default();
        let mut at = self.home(hash);
        while let Some(slot) = self.slot(at) {
            if slot.hash == hash && found.count < MOST_CANDIDATES {
                found.offsets[found.count] = slot.offset;
                found.count += 1;
            }
            at = self.next(at);
        }
        found
    }

    /// `name` lies at `offset` from now on.
    pub fn insert(&mut self, name: &[u8], offset: u64) -> Result<(), NoMemory> {
        if (self.names + 1) * 4 > self.slots() * 3 {
            self.double()?;
        }
        let hash = self.hash_of(name);
        self.put(Slot { hash, offset })?;
        self.names += 1;
        Ok(())
    }

    fn put(&mut self, slot: Slot) -> Result<(), NoMemory> {
        let mut at = self.home(slot.hash);
        for _ in 0..MOST_PROBES {
            if self.slot(at).is_none() {
                self.set_slot(at, Some(slot));
                return Ok(());
            }
            at = self.next(at);
        }
        Err(NoMemory)
    }

    fn double(&mut self) -> Result<(), NoMemory> {
        let mut larger = Pages::new(self.table.quota.clone());
        larger.extend(self.table.frames.len() * 2)?;
        let smaller = core::mem::replace(&mut self.table, larger);
        for at in 0..smaller.frames.len() * SLOTS_PER_PAGE {
            if let Some(slot) = Slot::from_word(u64::from_le_bytes(smaller.bytes(at * 8))) {
                self.put(slot)?;
            }
        }
        Ok(())
    }

    /// `name` does not lie at `offset` any more.
    pub fn remove(&mut self, name: &[u8], offset: u64) {
        let gone = Slot {
            hash: self.hash_of(name),
            offset,
        };
        let mut at = self.home(gone.hash);
        loop {
            match self.slot(at) {
                None => return,
                Some(slot) if slot == gone => break,
                Some(_) => at = self.next(at),
            }
        }
        self.names -= 1;
        // Those behind it move up, as far as each may from where it belongs.
        let mask = self.slots() - 1;
        let mut behind = self.next(at);
        while let Some(slot) = self.slot(behind) {
            let from_home = behind.wrapping_sub(self.home(slot.hash)) & mask;
            let to_hole = behind.wrapping_sub(at) & mask;
            if from_home >= to_hole {
                self.set_slot(at, Some(slot));
                at = behind;
            }
            behind = self.next(behind);
        }
        self.set_slot(at, None);
    }

    /// The unit at `offset` has `room` bytes to spare. The one behind the last is a new one.
    pub fn set_room(&mut self, offset: u64, room: usize) -> Result<(), NoMemory> {
        let unit = (offset / UNIT) as usize;
        if unit >= self.units {
            self.rooms.extend((unit + 1).div_ceil(PAGE_SIZE))?;
            let groups = (unit + 1).div_ceil(GROUP);
            let more = groups.saturating_sub(self.most.len());
            reserve(&mut self.most, more)?;
            self.most.resize(groups, 0);
            self.units = unit + 1;
        }
        let (room, before) = ((room / 4) as u8, self.room(unit));
        self.rooms.set(unit, [room]);
        let group = unit / GROUP;
        if room >= self.most[group] {
            self.most[group] = room;
        } else if before == self.most[group] {
            let end = self.units.min((group + 1) * GROUP);
            let rooms = (group * GROUP..end).map(|unit| self.room(unit));
            self.most[group] = rooms.max().unwrap_or(0);
        }
        Ok(())
    }

    fn room(&self, unit: usize) -> u8 {
        let [room] = self.rooms.bytes(unit);
        room
    }

    /// The first unit with `need` bytes to spare.
    pub fn find_room(&self, need: usize) -> Option<u64> {
        let need = need.div_ceil(4) as u8;
        let group = self.most.iter().position(|most| *most >= need)?;
        let mut units = group * GROUP..self.units.min((group + 1) * GROUP);
        let unit = units.find(|unit| self.room(*unit) >= need)?;
        Some(unit as u64 * UNIT)
    }

    /// The directory is `size` bytes long from now on; what is cut off holds no names.
    pub fn cut(&mut self, size: u64) -> Result<(), NoMemory> {
        let units = (size / UNIT) as usize;
        while self.units > units {
            self.set_room((self.units as u64 - 1) * UNIT, 0)?;
            self.units -= 1;
        }
        self.most.truncate(self.units.div_ceil(GROUP));
        Ok(())
    }

    /// Takes in the names and the room of `unit`, which lies at `offset`; answers whether there was memory for
    /// them.
    pub fn learn(
        &mut self,
        shape: &Shape,
        unit: &[u8],
        offset: u64,
    ) -> Result<bool, (u64, EntryFault)> {
        let mut used = 0;
        let taken = shape.walk_unit(unit, offset, &mut |at, entry| {
            used += entry.map_or(0, |entry| entry_size(entry.name.len()));
            entry.is_none_or(|entry| self.insert(entry.name, at).is_ok())
        })?;
        Ok(taken && self.set_room(offset, unit.len() - used).is_ok())
    }

    /// Forgets the names of `unit`, which is about to be arranged anew.
    pub fn unlearn(&mut self, shape: &Shape, unit: &[u8], offset: u64) {
        let walked = shape.walk_unit(unit, offset, &mut |at, entry| {
            if let Some(entry) = entry {
                self.remove(entry.name, at);
            }
            true
        });
        debug_assert!(walked.is_ok(), "whoever changes a unit has judged it");
    }

    fn pages(&self) -> usize {
        self.table.frames.len() + self.rooms.frames.len()
    }
}

enum State {
    None,
    /// Somebody makes it.
    Building,
    Here(DirHash),
}

/// The hash of a directory in use, while it has one.
pub struct Hashed {
    state: Mutex<State>,
    /// When it was used last, by the clock of [`Hashes`].
    used: AtomicU64,
    /// Look-ups to go until it is worth trying again to make one.
    pause: AtomicU32,
}

impl Hashed {
    /// What `ask` says of the hash, if there is one.
    fn with<T>(&self, ask: impl FnOnce(&mut DirHash) -> T) -> Option<T> {
        match &mut *self.state.lock() {
            State::Here(hash) => Some(ask(hash)),
            State::None | State::Building => None,
        }
    }

    /// There is none any more; answers how many pages it had.
    pub fn forget(&self) -> usize {
        let state = core::mem::replace(&mut *self.state.lock(), State::None);
        match state {
            State::Here(hash) => hash.pages(),
            State::None | State::Building => 0,
        }
    }

    /// The same, unless somebody uses it just now.
    fn try_forget(&self) -> usize {
        let Some(mut state) = self.state.try_lock() else {
            return 0;
        };
        if !matches!(&*state, State::Here(_)) {
            return 0;
        }
        let gone = core::mem::replace(&mut *state, State::None);
        drop(state);
        match gone {
            State::Here(hash) => hash.pages(),
            State::None | State::Building => 0,
        }
    }

    /// Changes the hash along with the directory, whose lock is held exclusively. It goes if it cannot
    /// follow.
    pub fn follow(&self, change: impl FnOnce(&mut DirHash) -> Result<(), NoMemory>) {
        if self.with(change) == Some(Err(NoMemory)) {
            self.forget();
        }
    }

    /// The first unit with `need` bytes to spare, or that there is none; nothing if there is no hash.
    pub fn find_room(&self, need: usize) -> Option<Option<u64>> {
        self.with(|hash| hash.find_room(need))
    }
}

/// The directory hashes of a volume.
pub struct Hashes {
    seed: HashKey,
    quota: Arc<Quota>,
    /// Those that have one, or had.
    directories: Mutex<Vec<Weak<Hashed>>>,
    clock: AtomicU64,
}

impl Hashes {
    /// None yet. The page daemon may take them.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Hashes>, Errno> {
        let key = || random::u64().unwrap_or_else(|_| rumpkern::time::wall().nanos.into());
        let hashes = kmem::try_arc(Hashes {
            seed: HashKey::new([key(), key()]),
            quota: kmem::try_arc(Quota::default())?,
            directories: Mutex::new(kmem::try_vec(MOST_HASHES)?),
            clock: AtomicU64::new(0),
        })?;
        let drain: Weak<dyn Drain> = Arc::<Hashes>::downgrade(&hashes);
        uvm::register_drain("dirhash", DRAIN_PRIORITY, drain)?;
        Ok(hashes)
    }

    /// Where `name` may lie, by the hash of a directory of `units` units. If there is none, `fill` makes it, by giving it all
    /// names and rooms of the directory, whose lock is held; that answers whether all went well.
    /// `None`: the directory has to be read.
    pub fn candidates(
        &self,
        hashed: &Arc<Hashed>,
        units: u64,
        name: &[u8],
        fill: impl FnOnce(&mut DirHash) -> bool,
    ) -> Option<Candidates> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        hashed.used.store(now, Ordering::Relaxed);
        if let Some(found) = hashed.with(|hash| hash.candidates(name)) {
            return Some(found);
        }
        let pause = hashed.pause.load(Ordering::Relaxed);
        if pause > 0 {
            hashed.pause.store(pause - 1, Ordering::Relaxed);
            return None;
        }
        let mut state = hashed.state.lock();
        if !matches!(*state, State::None) {
            return None;
        }
        *state = State::Building;
        drop(state);
        let made = self.make(hashed, fill);
        let found = made.as_ref().map(|hash| hash.candidates(name));
        if made.is_none() {
            // Making one costs as much as reading all units once more.
            hashed.pause.store(units as u32, Ordering::Relaxed);
        }
        *hashed.state.lock() = made.map_or(State::None, State::Here);
        found
    }

    fn make(
        &self,
        hashed: &Arc<Hashed>,
        fill: impl FnOnce(&mut DirHash) -> bool,
    ) -> Option<DirHash> {
        if !self.enlist(hashed) {
            return None;
        }
        if self.quota.used.load(Ordering::Relaxed) >= Quota::most() * 3 / 4 {
            self.drain(Quota::most() / 4);
        }
        let mut hash = DirHash::new(self.seed, &self.quota).ok()?;
        fill(&mut hash).then_some(hash)
    }

    /// Remembers who has a hash. If all places are taken, somebody loses his.
    fn enlist(&self, hashed: &Arc<Hashed>) -> bool {
        let mut directories = self.directories.lock();
        let here = |known: &Weak<Hashed>| core::ptr::eq(known.as_ptr(), Arc::as_ptr(hashed));
        if directories.iter().any(here) {
            return true;
        }
        directories.retain(|known| known.strong_count() > 0);
        if directories.len() < MOST_HASHES {
            directories.push(Arc::downgrade(hashed));
            return true;
        }
        let Some((at, oldest)) = oldest(&directories, |_| true) else {
            return false;
        };
        directories[at] = Arc::downgrade(hashed);
        drop(directories);
        oldest.try_forget();
        true
    }
}

/// Which of `directories` that `suit` was used longest ago.
fn oldest(
    directories: &[Weak<Hashed>],
    suit: impl Fn(&Hashed) -> bool,
) -> Option<(usize, Arc<Hashed>)> {
    let live = directories.iter().enumerate();
    let live = live.filter_map(|(at, known)| Some((at, known.upgrade()?)));
    let suitable = live.filter(|(_, hashed)| suit(hashed));
    suitable.min_by_key(|(_, hashed)| hashed.used.load(Ordering::Relaxed))
}

impl Drain for Hashes {
    fn drain(&self, want: usize) -> usize {
        let mut freed = 0;
        let has_hash = |hashed: &Hashed| {
            let state = hashed.state.try_lock();
            state.is_some_and(|state| matches!(*state, State::Here(_)))
        };
        for _ in 0..MOST_HASHES {
            if freed >= want {
                break;
            }
            let Some(directories) = self.directories.try_lock() else {
                break;
            };
            let found = oldest(&directories, has_hash);
            drop(directories);
            let Some((_, oldest)) = found else {
                break;
            };
            freed += oldest.try_forget();
        }
        freed
    }
}

impl Default for Hashed {
    fn default() -> Hashed {
        Hashed {
            state: Mutex::new(State::None),
            used: AtomicU64::new(0),
            pause: AtomicU32::new(0),
        }
    }
}

#[cfg(test)]
mod tests;
