//! Buffers of a transaction: held in memory until the log has them on the disk.

use super::{BufCache, Key};
use alloc::vec::Vec;
use rumpkern::uvm::Frame;

impl BufCache {
    /// How many buffers may be held.
    pub fn most_held(&self) -> usize {
        self.most_held
    }

    /// How many buffers are held now.
    pub fn held_count(&self) -> usize {
        self.state.lock().held
    }

    /// Adds the sectors of the held buffers of device `dev` to `sectors`, as far as that has room without allocating.
    pub(super) fn list_held(&self, dev: u64, sectors: &mut Vec<u64>) {
        let state = self.state.lock();
        let held = state.table.oldest_first();
        let held = held.filter(|(key, entry)| entry.held && key.0 == dev);
        let room = sectors.capacity() - sectors.len();
        sectors.extend(held.map(|(key, _)| key.1).take(room));
    }

    /// The contents of the held buffer of `key`, once nobody changes it, and how many bytes of them count.
    pub(super) fn held(&self, key: Key) -> Option<(Frame, usize)> {
        let mut state = self.state.lock();
        loop {
            let entry = state.table.peek(&key).filter(|entry| entry.held)?;
            if let Some(frame) = &entry.frame {
                return Some((frame.clone(), entry.bytes));
            }
            state = self.settled.wait(state);
        }
    }

    /// The held buffers of device `dev` are dirty now. Answers how many there were.
    pub(super) fn release_held(&self, dev: u64) -> usize {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut released = 0;
        for (key, entry) in state.table.iter_mut() {
            if key.0 == dev && entry.held {
                (entry.held, entry.dirty) = (false, true);
                entry.rank = state.base;
                released += 1;
            }
        }
        state.held -= released;
        state.dirty += released;
        state.ranked(state.base);
        released
    }
}
