//! A compact table by connection name with queues by age: what the SYN cache and TIME_WAIT are made of.
//!
//! Entries lie in one vector and link to each other by index: one hash chain and one of `QUEUES` lists
//! each. A list is first in, first out; where all entries of a list live equally long, the oldest is
//! the one that is due first, so no timer is kept for each. The vector grows with need up to
//! a bound and goes away when the table is empty.

use super::tuple::Tuple;
use alloc::vec::Vec;
use rumpkern::hash::HashKey;
use rumpkern::kmem::Room;

const NONE: u32 = u32::MAX;
const FIRST_BUCKETS: usize = 16;

struct Slot<V> {
    tuple: Tuple,
    value: Option<V>,
    /// The next of the hash chain, or of the free list.
    chain: u32,
    older: u32,
    newer: u32,
    queue: u8,
}

#[derive(Clone, Copy)]
struct Ends {
    oldest: u32,
    newest: u32,
}

const EMPTY: Ends = Ends {
    oldest: NONE,
    newest: NONE,
};

/// Where an entry lies, until the table is next changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index(u32);

/// The table.
pub struct Table<V, const QUEUES: usize> {
    key: HashKey,
    slots: Vec<Slot<V>>,
    buckets: Vec<u32>,
    queues: [Ends; QUEUES],
    free: u32,
    len: usize,
    limit: usize,
}

impl<V, const QUEUES: usize> Table<V, QUEUES> {
    /// An empty table for up to `limit` entries, its chains chosen by the secret `key`.
    pub fn new(key: HashKey, limit: usize) -> Table<V, QUEUES> {
        Table {
            key,
            slots: Vec::new(),
            buckets: Vec::new(),
            queues: [EMPTY; QUEUES],
            free: NONE,
            len: 0,
            limit: limit.min(NONE as usize),
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it holds as many as it may.
    pub fn is_full(&self) -> bool {
        self.len >= self.limit
    }

    /// The memory it takes.
    pub fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<V>>() + self.buckets.capacity() * size_of::<u32>()
    }

    /// The names of all entries.
    pub fn tuples(&self) -> impl Iterator<Item = &Tuple> {
        let used = self.slots.iter().filter(|slot| slot.value.is_some());
        used.map(|slot| &slot.tuple)
    }

    /// Finds the entry of `tuple`.
    pub fn find(&self, tuple: &Tuple) -> Option<Index> {
        if self.is_empty() {
            return None;
        }
        let mut at = self.buckets[self.bucket(tuple)];
        while at != NONE {
            let slot = &self.slots[at as usize];
            if slot.tuple == *tuple {
                return Some(Index(at));
            }
            at = slot.chain;
        }
        None
    }

    /// The entry at `index`.
    pub fn get(&self, index: Index) -> Option<(&Tuple, &V)> {
        let slot = self.slots.get(index.0 as usize)?;
        slot.value.as_ref().map(|value| (&slot.tuple, value))
    }

    /// The entry at `index`, to change.
    pub fn get_mut(&mut self, index: Index) -> Option<&mut V> {
        self.slots.get_mut(index.0 as usize)?.value.as_mut()
    }

    /// Adds an entry, the newest of `queue`. Answers `false`, with nothing changed, if the table is
    /// full or memory is short. The tuple must have no entry yet.
    pub fn insert(&mut self, tuple: Tuple, value: V, queue: usize) -> bool {
        if self.is_full() || !self.make_room() {
            return false;
        }
        let slot = Slot {
            tuple,
            value: Some(value),
            chain: NONE,
            older: NONE,
            newer: NONE,
            queue: queue as u8,
        };
        let at = if self.free == NONE {
            self.slots.push(slot);
            self.slots.len() as u32 - 1
        } else {
            let at = self.free;
            self.free = self.slots[at as usize].chain;
            self.slots[at as usize] = slot;
            at
        };
        self.chain(at);
        self.append(at, queue);
        self.len += 1;
        true
    }

    /// Takes the entry at `index` out.
    pub fn remove(&mut self, index: Index) -> Option<(Tuple, V)> {
        let at = index.0;
        let value = self.slots.get_mut(at as usize)?.value.take()?;
        let tuple = self.slots[at as usize].tuple;
        self.unlink(at);
        self.unchain(at);
        self.slots[at as usize].chain = self.free;
        self.free = at;
        self.len -= 1;
        if self.is_empty() {
            self.slots = Vec::new();
            self.buckets = Vec::new();
            self.free = NONE;
        }
        Some((tuple, value))
    }

    /// Takes out the entries whose name `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&Tuple) -> bool) {
        for at in 0..self.slots.len() {
            // The last removal takes the slots away.
            if self
                .slots
                .get(at)
                .is_some_and(|slot| slot.value.is_some() && !keep(&slot.tuple))
            {
                self.remove(Index(at as u32));
            }
        }
    }

    /// The oldest entry of `queue`.
    pub fn oldest(&self, queue: usize) -> Option<Index> {
        let at = self.queues[queue].oldest;
        (at != NONE).then_some(Index(at))
    }

    /// Makes the entry at `index` the newest of `queue`.
    pub fn requeue(&mut self, index: Index, queue: usize) {
        if self.get(index).is_none() {
            return;
        }
        self.unlink(index.0);
        self.append(index.0, queue);
    }

    fn bucket(&self, tuple: &Tuple) -> usize {
        tuple.table_hash(self.key) as usize & (self.buckets.len() - 1)
    }

    /// Memory for one entry more; buckets grow with the entries.
    fn make_room(&mut self) -> bool {
        if self.free == NONE && self.slots.len() == self.slots.capacity() {
            let want = self
                .slots
                .len()
                .clamp(FIRST_BUCKETS, self.limit - self.len + FIRST_BUCKETS);
            if self.slots.room_exact(want).is_err() {
                return false;
            }
        }
        if self.len < self.buckets.len() {
            return true;
        }
        let mut larger = Vec::new();
        let count = (self.buckets.len() * 2).max(FIRST_BUCKETS);
        if larger.room_exact(count).is_err() {
            // Longer chains will do, but there must be one.
            return !self.buckets.is_empty();
        }
        larger.resize(count, NONE);
        self.buckets = larger;
        for at in 0..self.slots.len() {
            if self.slots[at].value.is_some() {
                self.chain(at as u32);
            }
        }
        true
    }

    fn chain(&mut self, at: u32) {
        let bucket = self.bucket(&self.slots[at as usize].tuple);
        self.slots[at as usize].chain = self.buckets[bucket];
        self.buckets[bucket] = at;
    }

    fn unchain(&mut self, at: u32) {
        let bucket = self.bucket(&self.slots[at as usize].tuple);
        let next = self.slots[at as usize].chain;
        if self.buckets[bucket] == at {
            self.buckets[bucket] = next;
            return;
        }
        let mut before = self.buckets[bucket];
        while before != NONE {
            let slot = &mut self.slots[before as usize];
            if slot.chain == at {
                slot.chain = next;
                return;
            }
            before = slot.chain;
        }
    }

    fn append(&mut self, at: u32, queue: usize) {
        let newest = self.queues[queue].newest;
        let slot = &mut self.slots[at as usize];
        slot.queue = queue as u8;
        slot.older = newest;
        slot.newer = NONE;
        match self.slots.get_mut(newest as usize) {
            Some(before) => before.newer = at,
            None => self.queues[queue].oldest = at,
        }
        self.queues[queue].newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let Slot {
            older,
            newer,
            queue,
            ..
        } = self.slots[at as usize];
        let queue = usize::from(queue);
        match self.slots.get_mut(older as usize) {
            Some(before) => before.newer = newer,
            None => self.queues[queue].oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(after) => after.older = older,
            None => self.queues[queue].newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{IpAddr, Ipv4Addr};
    use std::collections::HashMap;

    fn tuple(n: u32) -> Tuple {
        Tuple {
            local: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            local_port: 80,
            remote_port: n as u16,
            remote: IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + (n >> 16))),
        }
    }

    #[test]
    fn what_is_inserted_is_found_until_it_is_removed() {
        let mut table: Table<u32, 2> = Table::new(HashKey::from_bytes([3; 16]), 10_000);
        for n in 0..5000 {
            assert!(table.insert(tuple(n), n, (n % 2) as usize));
        }
        for n in 0..5000 {
            let index = table.find(&tuple(n)).unwrap();
            assert_eq!(table.remove(index), Some((tuple(n), n)));
            assert_eq!(table.find(&tuple(n)), None);
        }
        assert_eq!(table.memory_bytes(), 0, "an empty table holds no memory");
    }

    #[test]
    fn it_never_holds_more_than_its_limit() {
        let mut table: Table<u32, 1> = Table::new(HashKey::from_bytes([3; 16]), 100);
        let kept = (0..1000).filter(|&n| table.insert(tuple(n), n, 0)).count();
        assert_eq!((kept, table.len()), (100, 100));
    }

    #[test]
    fn each_queue_is_first_in_first_out_and_requeueing_makes_new() {
        let mut table: Table<u32, 2> = Table::new(HashKey::from_bytes([3; 16]), 100);
        for n in 0..4 {
            table.insert(tuple(n), n, 0);
        }
        table.requeue(table.find(&tuple(0)).unwrap(), 0);
        table.requeue(table.find(&tuple(2)).unwrap(), 1);
        let mut drain = |queue| {
            let mut order = Vec::new();
            while let Some(index) = table.oldest(queue) {
                order.push(table.remove(index).unwrap().1);
            }
            order
        };
        assert_eq!(drain(0), [1, 3, 0]);
        assert_eq!(drain(1), [2]);
    }

    #[test]
    fn random_changes_agree_with_a_map() {
        let mut table: Table<u64, 3> = Table::new(HashKey::from_bytes([9; 16]), 64);
        let mut model = HashMap::new();
        let mut random = 88_172_645_463_325_252u64;
        for step in 0..50_000u64 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let n = (random >> 8) as u32 % 100;
            match (table.find(&tuple(n)), random % 3) {
                (None, _) => {
                    if table.insert(tuple(n), step, (step % 3) as usize) {
                        model.insert(n, step);
                    } else {
                        assert_eq!(model.len(), 64);
                    }
                }
                (Some(index), 0) => table.requeue(index, (step % 3) as usize),
                (Some(index), _) => {
                    assert_eq!(table.remove(index).map(|(_, v)| v), model.remove(&n));
                }
            }
            assert_eq!(table.len(), model.len());
        }
    }
}
