//! Chains of descriptors in the making.

use super::{DESC_BYTES, Queue};
use crate::dma::{Extent, Segment};
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

/// Descriptor flags [virtio 1.2 §2.7.5].
const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_INDIRECT: u16 = 4;

/// The longest chain in bytes [virtio 1.2 §2.7.4].
const CHAIN_BYTES: u64 = u32::MAX as u64;

/// What a descriptor says, but for the one that comes next.
#[derive(Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
}

/// Why a piece did not fit into a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainError {
    /// The chain has as many descriptors, or bytes, as a chain may have, or a device cannot reach the memory.
    TooLong,
    /// No descriptor of the ring is free now.
    Full,
}

/// A chain in the making. Dropped before it is committed, it leaves no trace.
pub struct Chain<'a> {
    queue: &'a mut Queue,
    head: u16,
    /// The next free descriptor of the ring, where chains lie in the ring.
    ring_next: u16,
    /// The last one taken.
    ring_last: u16,
    /// Descriptors so far, the pending one included.
    count: u16,
    /// The last descriptor, not written yet: another may follow, or be merged into it.
    pending: Option<(u16, Descriptor)>,
    readable: u64,
    writable: u64,
}

impl<'a> Chain<'a> {
    /// A chain of no descriptors yet; at least one of the ring's is free.
    pub(super) fn new(queue: &'a mut Queue) -> Chain<'a> {
        let head = queue.free_head;
        Chain {
            queue,
            head,
            ring_next: head,
            ring_last: head,
            count: 0,
            pending: None,
            readable: 0,
            writable: 0,
        }
    }

    /// The slot that the chain has in [`Used::head`](super::Used::head); less than [`Queue::size`].
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Adds `len` bytes at bus address `address`, which the device is to write or to read. All
    /// that it reads come first.
    pub fn push(&mut self, address: u64, len: u32, device_writes: bool) -> Result<(), ChainError> {
        debug_assert!(len > 0 && (device_writes || self.writable == 0));
        if self.count == self.queue.chain {
            return Err(ChainError::TooLong);
        }
        let total = match device_writes {
            true => &mut self.writable,
            false => &mut self.readable,
        };
        *total += u64::from(len);
        if self.readable + self.writable > CHAIN_BYTES {
            return Err(ChainError::TooLong);
        }
        let index = match self.queue.tables {
            Some(_) => self.count,
            None if self.count == self.queue.free => return Err(ChainError::Full),
            None => {
                self.ring_last = self.ring_next;
                self.ring_next = self.queue.slots[usize::from(self.ring_last)].next;
                self.ring_last
            }
        };
        let flags = if device_writes { DESC_WRITE } else { 0 };
        let descriptor = Descriptor {
            address,
            len,
            flags,
        };
        if let Some((before, mut written)) = self.pending.replace((index, descriptor)) {
            written.flags |= DESC_NEXT;
            self.queue
                .write_descriptor(self.table(), before, written, index);
        }
        self.count += 1;
        Ok(())
    }

    /// Adds a piece of memory in as many descriptors of at most `max` bytes as it takes; what follows
    /// directly on the piece before is joined to it.
    pub fn push_segment(
        &mut self,
        segment: Segment,
        max: u32,
        device_writes: bool,
    ) -> Result<(), ChainError> {
        let mut done = 0;
        while done < segment.len {
            let left = segment.len - done;
            let address = segment.base.as_ptr().wrapping_add(done);
            let Extent { bus, len } = NonNull::new(address)
                .and_then(|address| self.queue.dma.translate(address, left))
                .filter(|extent| extent.len > 0)
                .ok_or(ChainError::TooLong)?;
            let len = len.min(left).min(max as usize) as u32;
            if !self.merge(bus, len, max, device_writes) {
                self.push(bus, len, device_writes)?;
            }
            done += len as usize;
        }
        Ok(())
    }

    /// Lengthens the last piece by what lies directly behind it.
    fn merge(&mut self, address: u64, len: u32, max: u32, device_writes: bool) -> bool {
        let Some((_, last)) = &mut self.pending else {
            return false;
        };
        let same = (last.flags & DESC_WRITE != 0) == device_writes;
        let adjacent = last.address.checked_add(u64::from(last.len)) == Some(address);
        let together = last.len.checked_add(len).filter(|&sum| sum <= max);
        let (true, true, Some(together)) = (same, adjacent, together) else {
            return false;
        };
        let total = self.readable + self.writable + u64::from(len);
        if total > CHAIN_BYTES {
            return false;
        }
        match device_writes {
            true => self.writable += u64::from(len),
            false => self.readable += u64::from(len),
        }
        last.len = together;
        true
    }

    fn table(&self) -> Option<u16> {
        self.queue.tables.as_ref().map(|_| self.head)
    }

    /// Hands the chain, which is not empty, to the device. `token` comes back in [`Used`](super::Used).
    pub fn commit(mut self, token: u64) {
        let Some((index, last)) = self.pending.take() else {
            debug_assert!(false, "an empty chain");
            return;
        };
        let head = self.head;
        let taken = match self.table() {
            // A table of one would only cost the device a look.
            Some(_) if self.count == 1 => {
                self.queue.write_descriptor(None, head, last, 0);
                1
            }
            Some(table) => {
                self.queue.write_descriptor(Some(table), index, last, 0);
                self.point_at_table(table);
                1
            }
            None => {
                self.queue.write_descriptor(None, index, last, 0);
                self.count
            }
        };
        let queue = &mut *self.queue;
        let tail = match queue.tables {
            Some(_) => head,
            None => self.ring_last,
        };
        queue.free_head = queue.slots[usize::from(tail)].next;
        queue.free -= taken;
        queue.outstanding += 1;
        let slot = &mut queue.slots[usize::from(head)];
        slot.token = token;
        slot.taken = taken;
        slot.writable = self.writable as u32;
        slot.outstanding = true;

        let avail = queue.avail_offset();
        let entry = usize::from(queue.avail & (queue.size - 1));
        queue
            .ring
            .store16(avail + 4 + 2 * entry, head, Ordering::Relaxed);
        queue.avail = queue.avail.wrapping_add(1);
        // Release: the device that sees the index sees the descriptors.
        queue
            .ring
            .store16(avail + 2, queue.avail, Ordering::Release);
    }

    /// Makes the ring's descriptor point at the chain's table [virtio 1.2 §2.7.5.3].
    fn point_at_table(&self, table: u16) {
        let Some(tables) = &self.queue.tables else {
            return;
        };
        let table_bytes = usize::from(self.queue.chain) * DESC_BYTES;
        let descriptor = Descriptor {
            address: tables.bus(usize::from(table) * table_bytes),
            len: u32::from(self.count) * DESC_BYTES as u32,
            flags: DESC_INDIRECT,
        };
        self.queue.write_descriptor(None, self.head, descriptor, 0);
    }
}
