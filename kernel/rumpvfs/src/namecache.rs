//! Name cache: what a name in a directory stands for, or that it stands for nothing.
//!
//! A set-associative table: nothing is allocated after it is made, and forgetting is free. A large one begins with a part of its
//! sets, so that a kernel that looks up little touches little memory, and uses twice as many when names meet: each set's names
//! are then shared out between it and a new one. Directories are known by the id of their vnode, which is never used again; so the names
//! of a directory that was forgotten die by themselves. Names longer than [`NAME_BYTES`] are not kept.
//!
//! Whoever changes a directory purges the name, with the directory's lock held exclusively; whoever
//! enters a name holds it shared. So an entry never contradicts its directory.

use crate::vnode::InodeNumber;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hasher};
use core::sync::atomic::{AtomicU64, Ordering};
use rumpkern::hash::HashKey;
use rumpkern::kmem::Room;
use rumpkern::locks::Mutex;
use rumpuser::{Errno, PAGE_SIZE};

/// The longest name that is kept.
pub const NAME_BYTES: usize = 38;
const WAYS: usize = 4;
/// The part of the sets that a table begins with: one in so many.
const FIRST_PART: usize = 64;
/// A table of fewer sets in each shard begins with all.
const FEW_SETS: usize = 256;
/// Sets under one lock each, so that look-ups on several CPUs rarely meet.
const SHARDS: usize = 8;

#[derive(Clone, Copy)]
struct Entry {
    /// Id of the directory; 0: the entry is free.
    dir: u64,
    target: InodeNumber,
    name: [u8; NAME_BYTES],
    len: u8,
    negative: bool,
    /// Looked up since the hand last passed (second chance).
    used: bool,
}

const FREE: Entry = Entry {
    dir: 0,
    target: 0,
    name: [0; NAME_BYTES],
    len: 0,
    negative: false,
    used: false,
};

impl Entry {
    fn name(&self) -> &[u8] {
        &self.name[..usize::from(self.len)]
    }

    fn is(&self, dir: u64, name: &[u8]) -> bool {
        self.dir == dir && self.name() == name
    }
}

/// What the cache knows about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It names this file.
    File(InodeNumber),
    /// There is no such name.
    Nothing,
}

/// How often the cache knew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameCacheStats {
    /// Look-ups answered with a file.
    pub hits: u64,
    /// Look-ups answered with "no such name".
    pub negative_hits: u64,
    /// Look-ups that had to ask the file system.
    pub misses: u64,
    /// Names that can be kept.
    pub capacity: usize,
}

/// The cache.
pub(crate) struct NameCache {
    seed: HashKey,
    shards: Vec<Mutex<Vec<[Entry; WAYS]>>>,
    /// The most sets of a shard; there is room for them.
    sets: usize,
    hits: AtomicU64,
    negative_hits: AtomicU64,
    misses: AtomicU64,
}

/// As many sets as fill the pages that `sets` of them take: beyond a page, memory comes in whole ones.
fn whole_pages(sets: usize) -> usize {
    let bytes = sets * size_of::<[Entry; WAYS]>();
    match bytes > PAGE_SIZE {
        true => bytes.next_multiple_of(PAGE_SIZE) / size_of::<[Entry; WAYS]>(),
        false => sets,
    }
}

impl NameCache {
    /// A cache for about `capacity` names.
    pub(crate) fn new(capacity: usize, seed: HashKey) -> Result<NameCache, Errno> {
        let sets = whole_pages((capacity / WAYS / SHARDS).max(1));
        let (sets, first) = match sets {
            0..FEW_SETS => (sets, sets),
            _ => (sets - sets % FIRST_PART, sets / FIRST_PART),
        };
        let mut shards = Vec::new();
        shards.room_exact(SHARDS)?;
        for _ in 0..SHARDS {
            let mut shard = Vec::new();
            shard.room_exact(sets)?;
            shard.resize(first, [FREE; WAYS]);
            shards.push(Mutex::new(shard));
        }
        Ok(NameCache {
            seed,
            shards,
            sets,
            hits: AtomicU64::new(0),
            negative_hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    fn hash(&self, dir: u64, name: &[u8]) -> u64 {
        let mut hasher = self.seed.build_hasher();
        hasher.write_u64(dir);
        hasher.write(name);
        hasher.finish()
    }

    fn with_set<R>(&self, dir: u64, name: &[u8], f: impl FnOnce(&mut [Entry; WAYS]) -> R) -> R {
        let hash = self.hash(dir, name);
        let mut shard = self.shards[hash as usize % SHARDS].lock();
        let sets = shard.len();
        f(&mut shard[(hash >> 32) as usize % sets])
    }

    /// The name would push another out: its shard uses twice as many sets, if there are more.
    fn make_room(&self, dir: u64, name: &[u8]) {
        let hash = self.hash(dir, name);
        let mut shard = self.shards[hash as usize % SHARDS].lock();
        let sets = shard.len();
        let set = &shard[(hash >> 32) as usize % sets];
        let fits = |old: &Entry| old.dir == 0 || old.is(dir, name);
        if sets == self.sets || set.iter().any(fits) {
            return;
        }
        // The room was reserved: this takes no memory.
        shard.resize(sets * 2, [FREE; WAYS]);
        let (old, new) = shard.split_at_mut(sets);
        for (number, (from, to)) in old.iter_mut().zip(new).enumerate() {
            for (entry, place) in from.iter_mut().zip(to) {
                let hash = self.hash(entry.dir, entry.name());
                if entry.dir != 0 && (hash >> 32) as usize % (sets * 2) != number {
                    *place = core::mem::replace(entry, FREE);
                }
            }
        }
    }

    /// What is known about `name` in `dir`.
    pub(crate) fn lookup(&self, dir: u64, name: &[u8]) -> Option<Known> {
        let known = self.with_set(dir, name, |set| {
            let entry = set.iter_mut().find(|entry| entry.is(dir, name))?;
            entry.used = true;
            Some(if entry.negative {
                Known::Nothing
            } else {
                Known::File(entry.target)
            })
        });
        let counter = match known {
            Some(Known::File(_)) => &self.hits,
            Some(Known::Nothing) => &self.negative_hits,
            None => &self.misses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        known
    }

    /// Keeps what `name` in `dir` was found to be.
    pub(crate) fn enter(&self, dir: u64, name: &[u8], known: Known) {
        if name.len() > NAME_BYTES {
            return;
        }
        let mut entry = FREE;
        entry.dir = dir;
        entry.len = name.len() as u8;
        entry.name[..name.len()].copy_from_slice(name);
        match known {
            Known::File(target) => entry.target = target,
            Known::Nothing => entry.negative = true,
        }
        self.make_room(dir, name);
        self.with_set(dir, name, |set| {
            let place = set
                .iter()
                .position(|old| old.is(dir, name))
                .or_else(|| set.iter().position(|old| old.dir == 0))
                .or_else(|| set.iter().position(|old| !old.used))
                .unwrap_or(0);
            if set[place].dir != 0 {
                // The hand has passed over all: each must be used again to stay next time.
                set.iter_mut().for_each(|old| old.used = false);
            }
            // The newest goes last, so that the first of several unused ones is the oldest.
            set[place..].rotate_left(1);
            set[WAYS - 1] = entry;
        });
    }

    /// Forgets `name` in `dir`.
    pub(crate) fn purge(&self, dir: u64, name: &[u8]) {
        self.with_set(dir, name, |set| {
            for entry in set.iter_mut().filter(|entry| entry.is(dir, name)) {
                *entry = FREE;
            }
        });
    }

    /// The counters.
    pub(crate) fn stats(&self) -> NameCacheStats {
        NameCacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            negative_hits: self.negative_hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            capacity: self.sets * WAYS * SHARDS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(capacity: usize) -> NameCache {
        NameCache::new(capacity, HashKey::new([7, 9])).unwrap()
    }

    #[test]
    fn knows_names_and_the_absence_of_names_by_directory() {
        let cache = cache(64);
        cache.enter(1, b"a", Known::File(10));
        cache.enter(2, b"a", Known::Nothing);
        assert_eq!(cache.lookup(1, b"a"), Some(Known::File(10)));
        assert_eq!(cache.lookup(2, b"a"), Some(Known::Nothing));
        assert_eq!(cache.lookup(3, b"a"), None);
        assert_eq!(cache.lookup(1, b"ab"), None);
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.negative_hits, stats.misses), (1, 1, 2));
    }

    #[test]
    fn a_purged_or_replaced_name_is_not_remembered() {
        let cache = cache(64);
        cache.enter(1, b"a", Known::Nothing);
        cache.enter(1, b"a", Known::File(4));
        assert_eq!(cache.lookup(1, b"a"), Some(Known::File(4)));
        cache.purge(1, b"a");
        assert_eq!(cache.lookup(1, b"a"), None);
    }

    #[test]
    fn long_names_are_not_kept() {
        let cache = cache(64);
        cache.enter(1, &[b'x'; NAME_BYTES + 1], Known::File(4));
        assert_eq!(cache.lookup(1, &[b'x'; NAME_BYTES + 1]), None);
        cache.enter(1, &[b'x'; NAME_BYTES], Known::File(4));
        assert_eq!(cache.lookup(1, &[b'x'; NAME_BYTES]), Some(Known::File(4)));
    }

    #[test]
    fn a_table_that_grows_keeps_what_it_has_room_for_and_never_tells_what_was_purged() {
        let cache = cache(64 << 10);
        let name = |number: u32| number.to_le_bytes();
        for number in 0..20_000 {
            cache.enter(1, &name(number), Known::File(number.into()));
            if number % 3 == 0 {
                cache.purge(1, &name(number / 2));
            }
        }
        let mut known = 0;
        for number in 0..20_000 {
            let found = cache.lookup(1, &name(number));
            let purged = (0..20_000)
                .step_by(3)
                .any(|at| at / 2 == number && at >= number);
            match found {
                Some(found) => assert!(!purged && found == Known::File(number.into())),
                None => continue,
            }
            known += 1;
        }
        assert!(known > 8_000, "{known}");
    }

    #[test]
    fn a_name_in_use_outlives_a_flood_of_others() {
        let cache = cache(64);
        cache.enter(1, b"hot", Known::File(4));
        for number in 0..10_000u32 {
            assert_eq!(
                cache.lookup(1, b"hot"),
                Some(Known::File(4)),
                "after {number}"
            );
            cache.enter(1, &number.to_le_bytes(), Known::File(5));
        }
    }
}
