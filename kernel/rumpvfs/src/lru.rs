//! A map of fixed capacity that knows which entry was used least recently.
//!
//! All its memory is taken when it is made: it is changed under locks that the page daemon and I/O
//! completions take, where nothing may wait for memory. It is touched as entries come: where memory is committed
//! lazily, capacity that nobody uses costs address space alone.

use alloc::vec::Vec;
use core::hash::{BuildHasher, Hash};
use hashbrown::HashTable;
use rumpkern::hash::HashKey;
use rumpuser::Errno;

const NONE: u32 = u32::MAX;

struct Node<K, V> {
    /// `None`: the node is free, and `newer` is the next free one.
    entry: Option<(K, V)>,
    older: u32,
    newer: u32,
}

/// The map. Entries are in order of use; the oldest first.
pub(crate) struct LruMap<K, V> {
    seed: HashKey,
    table: HashTable<u32>,
    /// Has room for `capacity`; those that never were in use are not there yet.
    nodes: Vec<Node<K, V>>,
    capacity: usize,
    free: u32,
    oldest: u32,
    newest: u32,
}

impl<K: Hash + Eq + Copy, V> LruMap<K, V> {
    /// An empty map for at most `capacity` entries.
    pub(crate) fn with_capacity(capacity: usize, seed: HashKey) -> Result<LruMap<K, V>, Errno> {
        let capacity = capacity.clamp(1, NONE as usize - 1);
        let mut nodes = Vec::new();
        nodes
            .try_reserve_exact(capacity)
            .map_err(|_| Errno::ENOMEM)?;
        let mut table = HashTable::new();
        table
            .try_reserve(capacity, |_| 0)
            .map_err(|_| Errno::ENOMEM)?;
        Ok(LruMap {
            seed,
            table,
            nodes,
            capacity,
            free: NONE,
            oldest: NONE,
            newest: NONE,
        })
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// How many there can be.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// A node that is free.
    fn take_node(&mut self) -> Option<u32> {
        if let Some(node) = self.nodes.get(self.free as usize) {
            let at = self.free;
            self.free = node.newer;
            return Some(at);
        }
        if self.nodes.len() == self.capacity {
            return None;
        }
        // The room was reserved: this takes no memory.
        self.nodes.push(Node {
            entry: None,
            older: NONE,
            newer: NONE,
        });
        Some(self.nodes.len() as u32 - 1)
    }

    fn find(&self, key: &K) -> Option<u32> {
        let hash = self.seed.hash_one(key);
        let same = |&at: &u32| self.key_of(at) == Some(key);
        self.table.find(hash, same).copied()
    }

    fn key_of(&self, at: u32) -> Option<&K> {
        let entry = self.nodes[at as usize].entry.as_ref();
        entry.map(|(key, _)| key)
    }

    /// The entry of `key`, without counting as a use.
    pub(crate) fn peek(&self, key: &K) -> Option<&V> {
        let at = self.find(key)?;
        self.nodes[at as usize]
            .entry
            .as_ref()
            .map(|(_, value)| value)
    }

    /// The entry of `key`, to be changed, without counting as a use.
    pub(crate) fn peek_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.find(key)?;
        self.nodes[at as usize]
            .entry
            .as_mut()
            .map(|(_, value)| value)
    }

    /// Makes `key` the newest.
    pub(crate) fn touch(&mut self, key: &K) {
        if let Some(at) = self.find(key)
            && self.newest != at
        {
            self.unlink(at);
            self.link_newest(at);
        }
    }

    /// Inserts an entry for a key that has none. Gives it back if the map is full.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Result<(), V> {
        let Some(at) = self.take_node() else {
            return Err(value);
        };
        self.nodes[at as usize].entry = Some((key, value));
        self.link_newest(at);
        let (nodes, seed) = (&self.nodes, &self.seed);
        let hash_of = |&at: &u32| match &nodes[at as usize].entry {
            Some((key, _)) => seed.hash_one(key),
            None => 0,
        };
        self.table.insert_unique(seed.hash_one(key), at, hash_of);
        Ok(())
    }

    /// Takes out the entry of `key`.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let hash = self.seed.hash_one(key);
        let nodes = &self.nodes;
        let same = |&at: &u32| matches!(&nodes[at as usize].entry, Some((own, _)) if own == key);
        let Ok(found) = self.table.find_entry(hash, same) else {
            return None;
        };
        let (at, _) = found.remove();
        self.unlink(at);
        let node = &mut self.nodes[at as usize];
        node.newer = self.free;
        self.free = at;
        node.entry.take().map(|(_, value)| value)
    }

    /// The entries, the least recently used first.
    pub(crate) fn oldest_first(&self) -> impl Iterator<Item = (&K, &V)> {
        let mut at = self.oldest;
        core::iter::from_fn(move || {
            let node = self.nodes.get(at as usize)?;
            at = node.newer;
            node.entry.as_ref().map(|(key, value)| (key, value))
        })
    }

    /// The entries in any order, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        let entries = self.nodes.iter_mut().filter_map(|node| node.entry.as_mut());
        entries.map(|(key, value)| (&*key, value))
    }

    fn unlink(&mut self, at: u32) {
        let Node { older, newer, .. } = self.nodes[at as usize];
        match self.nodes.get_mut(older as usize) {
            Some(node) => node.newer = newer,
            None => self.oldest = newer,
        }
        match self.nodes.get_mut(newer as usize) {
            Some(node) => node.older = older,
            None => self.newest = older,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let last = self.newest;
        let node = &mut self.nodes[at as usize];
        node.older = last;
        node.newer = NONE;
        match self.nodes.get_mut(last as usize) {
            Some(node) => node.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_a_list_in_order_of_use(ops in proptest::collection::vec((0u8..4, 0u16..12), 1..300)) {
            let mut map = LruMap::with_capacity(8, HashKey::new([1, 2])).unwrap();
            let mut model: Vec<(u16, usize)> = Vec::new();
            for (number, (op, key)) in ops.into_iter().enumerate() {
                let place = model.iter().position(|entry| entry.0 == key);
                match (op, place) {
                    (0, None) => {
                        let room = model.len() < 8;
                        prop_assert_eq!(map.insert(key, number).is_ok(), room);
                        if room {
                            model.push((key, number));
                        }
                    }
                    (1, place) => {
                        let gone = place.map(|at| model.remove(at).1);
                        prop_assert_eq!(map.remove(&key), gone);
                    }
                    (2, Some(at)) => {
                        let entry = model.remove(at);
                        model.push(entry);
                        map.touch(&key);
                    }
                    (_, place) => {
                        prop_assert_eq!(map.peek(&key), place.map(|at| &model[at].1));
                    }
                }
                prop_assert_eq!(map.len(), model.len());
                let order: Vec<_> = map.oldest_first().map(|(key, value)| (*key, *value)).collect();
                prop_assert_eq!(&order, &model);
            }
        }
    }
}
