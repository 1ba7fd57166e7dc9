//! A map of fixed capacity that knows which entry was used least recently.
//!
//! All its memory is taken when it is made: it is changed under locks that the page daemon and I/O
//! completions take, where nothing may wait for memory. It is touched as entries come: where memory is committed
//! lazily, capacity that nobody uses costs address space alone.
//!
//! So what finds a key may not begin as a table of its full size. It is a linear hash table (Litwin, "Linear hashing: a new tool
//! for file and table addressing", VLDB 1980): as many chains as there have been nodes at once, the head of each in the node of its
//! number; with each new node one chain is split, so that none is ever rebuilt whole.

use alloc::vec::Vec;
use core::hash::{BuildHasher, Hash};
use rumpkern::hash::HashKey;
use rumpkern::kmem::Room;
use rumpuser::Errno;

const NONE: u32 = u32::MAX;

struct Node<K, V> {
    /// `None`: the node is free, and `newer` is the next free one.
    entry: Option<(K, V)>,
    older: u32,
    newer: u32,
    /// The first node of the chain that has this node's number.
    head: u32,
    /// The next node of the chain that this node is in.
    next: u32,
}

/// The map. Entries are in order of use; the oldest first.
pub(crate) struct LruMap<K, V> {
    seed: HashKey,
    /// Has room for `capacity`; those that never were in use are not there yet.
    nodes: Vec<Node<K, V>>,
    capacity: usize,
    len: usize,
    free: u32,
    oldest: u32,
    newest: u32,
}

impl<K: Hash + Eq + Copy, V> LruMap<K, V> {
    /// An empty map for at most `capacity` entries.
    pub(crate) fn with_capacity(capacity: usize, seed: HashKey) -> Result<LruMap<K, V>, Errno> {
        let capacity = capacity.clamp(1, NONE as usize - 1);
        let mut nodes = Vec::new();
        nodes.room_exact(capacity)?;
        Ok(LruMap {
            seed,
            nodes,
            capacity,
            len: 0,
            free: NONE,
            oldest: NONE,
            newest: NONE,
        })
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
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
            head: NONE,
            next: NONE,
        });
        self.split();
        Some(self.nodes.len() as u32 - 1)
    }

    /// The newest chain gets what belongs there now of the one that stood for it until now.
    fn split(&mut self) {
        let newest = self.nodes.len() - 1;
        if newest == 0 {
            return;
        }
        let mut at = core::mem::replace(&mut self.nodes[newest - (1 << newest.ilog2())].head, NONE);
        while at != NONE {
            let next = self.nodes[at as usize].next;
            self.chain(at);
            at = next;
        }
    }

    /// The number of the chain that `key` is in, if it is there.
    fn chain_of(&self, key: &K) -> usize {
        let hash = self.seed.hash_one(key) as usize;
        let chains = self.nodes.len();
        let most = chains.next_power_of_two();
        match hash & (most - 1) {
            chain if chain < chains => chain,
            // It has not been split yet.
            chain => chain - most / 2,
        }
    }

    /// Puts a node with an entry into the chain of its key.
    fn chain(&mut self, at: u32) {
        let Some(chain) = self.key_of(at).map(|key| self.chain_of(key)) else {
            return;
        };
        let head = core::mem::replace(&mut self.nodes[chain].head, at);
        self.nodes[at as usize].next = head;
    }

    /// Takes a node out of the chain of its key.
    fn unchain(&mut self, at: u32) {
        let Some(chain) = self.key_of(at).map(|key| self.chain_of(key)) else {
            return;
        };
        let next = self.nodes[at as usize].next;
        let mut before = self.nodes[chain].head;
        if before == at {
            self.nodes[chain].head = next;
            return;
        }
        while let Some(node) = self.nodes.get_mut(before as usize) {
            if node.next == at {
                node.next = next;
                return;
            }
            before = node.next;
        }
    }

    fn find(&self, key: &K) -> Option<u32> {
        let mut at = self.nodes.get(self.chain_of(key))?.head;
        while at != NONE && self.key_of(at) != Some(key) {
            at = self.nodes[at as usize].next;
        }
        (at != NONE).then_some(at)
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
        self.chain(at);
        self.len += 1;
        Ok(())
    }

    /// Takes out the entry of `key`.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.find(key)?;
        self.unlink(at);
        self.unchain(at);
        self.len -= 1;
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

    #[test]
    fn chains_are_split_while_it_grows_and_stay_short() {
        let mut map = LruMap::with_capacity(5000, HashKey::new([3, 4])).unwrap();
        for key in 0..5000u32 {
            assert_eq!(map.insert(key, key * 3), Ok(()));
            if key % 7 == 0 {
                assert!((0..=key).all(|old| map.peek(&old) == Some(&(old * 3))));
            }
        }
        assert_eq!(map.insert(5000, 0), Err(0));
        for key in (0..5000).step_by(2) {
            assert_eq!(map.remove(&key), Some(key * 3));
        }
        for key in 0..5000 {
            assert_eq!(map.peek(&key).is_some(), key % 2 == 1);
        }
        let longest = (0..map.nodes.len()).map(|chain| {
            let mut at = map.nodes[chain].head;
            core::iter::from_fn(|| {
                let node = map.nodes.get(at as usize)?;
                at = node.next;
                Some(())
            })
            .count()
        });
        assert!(longest.max() < Some(12));
    }

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
