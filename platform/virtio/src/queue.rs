//! Split virtqueues [virtio 1.2 §2.7].
//!
//! One block of pages holds the three areas that the device sees, one after another: descriptor table,
//! available ring (driver area), used ring (device area). With indirect descriptors, a second
//! block holds one table for each ring slot, so that a chain takes one slot whatever its length.
//! What the driver must rely on (which descriptors are free, which chains are outstanding and how
//! many bytes a device may claim) is in a table of its own that no device reaches; nothing is ever read back
//! from the shared areas but the used ring and the device's event index.
//!
//! Notifications: the device is told of new chains only when [`Queue::wants_notification`] says so,
//! once for all chains added since the last time. Interrupts: none is wanted until
//! [`Queue::want_interrupt`], and each such wish is good for one.

use crate::dma::{Dma, Pages, Table};
use crate::fault::Fault;
use crate::transport::{Doorbell, Features};
use core::sync::atomic::{Ordering, fence};

mod chain;
#[cfg(test)]
mod tests;

use chain::Descriptor;
pub use chain::{Chain, ChainError};

const DESC_BYTES: usize = 16;

/// `avail.flags`: no interrupt wanted; `used.flags`: no notification wanted. Not with EVENT_IDX.
const AVAIL_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;

/// How often a driver looks for a used chain when the queue says in turn that there is one and that there
/// is none: an honest device needs two looks, one that plays with its index gets no more.
pub(crate) const LOOKS: usize = 4;

/// How a queue is to be.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many chains it is to hold. Where chains take one slot each, this is the ring's size (the power of two
    /// below, if the device has so many); else the ring is made longer, as far as the device goes.
    pub size: u16,
    /// The most descriptors in a chain. Where the device takes indirect descriptors each slot has
    /// a table of so many; else, or if it is 1, chains lie in the ring and are cut to its size.
    pub chain: u16,
}

/// What the device is told of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Areas {
    /// Number of descriptors.
    pub size: u16,
    /// Bus address of the descriptor table.
    pub descriptors: u64,
    /// Bus address of the available ring.
    pub driver: u64,
    /// Bus address of the used ring.
    pub device: u64,
}

/// A chain that the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The chain's head: the slot that [`Chain::head`] named.
    pub head: u16,
    /// What [`Chain::commit`] was given.
    pub token: u64,
    /// How many bytes the device wrote; at most what the chain had writable.
    pub len: u32,
}

/// What the driver keeps of a descriptor.
#[derive(Clone, Copy)]
struct Slot {
    token: u64,
    /// Bytes that the device may write: the bound of what it may claim.
    writable: u32,
    /// How many descriptors of the ring the chain takes.
    taken: u16,
    /// The next one in its chain, or in the free list.
    next: u16,
    /// A chain starts here and is with the device.
    outstanding: bool,
}

/// A split virtqueue.
pub struct Queue {
    index: u16,
    doorbell: Doorbell,
    size: u16,
    /// The most descriptors in a chain.
    chain: u16,
    event_idx: bool,
    ring: Pages,
    /// Indirect tables of `chain` descriptors each.
    tables: Option<Pages>,
    slots: Table<Slot>,
    free_head: u16,
    free: u16,
    outstanding: u16,
    /// The available index as published.
    avail: u16,
    /// The available index when the device was last notified or found not to care.
    notified: u16,
    /// The used index up to which elements were taken.
    seen: u16,
    /// The used index at which an interrupt was last asked for.
    armed: Option<u16>,
    fault: Option<Fault>,
    dma: &'static dyn Dma,
}

impl Queue {
    /// The largest queue made here. The standard allows 32768; more than this only takes memory.
    pub const MAX_SIZE: u16 = 1024;

    /// Makes a queue; `shape.size` is a power of two. `None`: no memory.
    pub(crate) fn new(
        dma: &'static dyn Dma,
        index: u16,
        shape: Shape,
        features: Features,
    ) -> Option<Queue> {
        let size = shape.size;
        debug_assert!(size.is_power_of_two() && size <= Queue::MAX_SIZE);
        // A chain has at most as many descriptors as the queue, indirect or not [virtio 1.2 §2.7.5.3.1].
        let chain = shape.chain.clamp(1, size);
        let indirect = features.contains(Features::INDIRECT_DESC) && chain > 1;
        let table_bytes = usize::from(size) * usize::from(chain) * DESC_BYTES;
        let ring = Pages::allocate(dma, used_offset(size) + 6 + 8 * usize::from(size))?;
        let tables = match indirect {
            true => Some(Pages::allocate(dma, table_bytes)?),
            false => None,
        };
        let empty = Slot {
            token: 0,
            writable: 0,
            taken: 0,
            next: 0,
            outstanding: false,
        };
        let mut slots = Table::new(dma, usize::from(size), empty)?;
        for (slot, next) in slots.iter_mut().zip(1..) {
            slot.next = next;
        }
        let mut queue = Queue {
            index,
            doorbell: Doorbell(0),
            size,
            chain,
            event_idx: features.contains(Features::EVENT_IDX),
            ring,
            tables,
            slots,
            free_head: 0,
            free: size,
            outstanding: 0,
            avail: 0,
            notified: 0,
            seen: 0,
            armed: None,
            fault: None,
            dma,
        };
        queue.refuse_interrupts();
        Some(queue)
    }

    /// Where it lies.
    pub(crate) fn areas(&self) -> Areas {
        Areas {
            size: self.size,
            descriptors: self.ring.bus(0),
            driver: self.ring.bus(self.avail_offset()),
            device: self.ring.bus(used_offset(self.size)),
        }
    }

    pub(crate) fn set_doorbell(&mut self, doorbell: Doorbell) {
        self.doorbell = doorbell;
    }

    pub(crate) fn doorbell(&self) -> Doorbell {
        self.doorbell
    }

    /// The queue's number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of descriptors in the ring.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The most descriptors in a chain.
    pub fn max_chain(&self) -> u16 {
        self.chain
    }

    /// How many chains of the longest kind it holds at least.
    pub fn depth(&self) -> u16 {
        match self.tables {
            Some(_) => self.size,
            None => self.size / self.chain,
        }
    }

    /// How many chains are with the device.
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// Starts a chain; `None`: no descriptor is free.
    pub fn begin(&mut self) -> Option<Chain<'_>> {
        if self.free == 0 {
            return None;
        }
        Some(Chain::new(self))
    }

    /// Takes the next chain that the device is done with.
    ///
    /// # Errors
    /// The device broke the rules: the queue answers the same from now on, but
    /// for [`abandon`](Queue::abandon).
    pub fn take(&mut self) -> Result<Option<Used>, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let taken = self.take_checked();
        if let Err(fault) = taken {
            self.fault = Some(fault);
        }
        taken
    }

    /// How many chains the device says it is done with, beyond those taken.
    pub fn pending(&mut self) -> Result<u16, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let used = used_offset(self.size);
        // Acquire: the elements and the buffers were written before the index.
        let ahead = self
            .ring
            .load16(used + 2, Ordering::Acquire)
            .wrapping_sub(self.seen);
        if ahead <= self.outstanding {
            return Ok(ahead);
        }
        let fault = Fault::UsedIndex {
            ahead,
            outstanding: self.outstanding,
        };
        self.fault = Some(fault);
        Err(fault)
    }

    fn take_checked(&mut self) -> Result<Option<Used>, Fault> {
        if self.pending()? == 0 {
            return Ok(None);
        }
        let slot = usize::from(self.seen & (self.size - 1));
        let element = used_offset(self.size) + 4 + 8 * slot;
        let id = self.ring.load32(element, Ordering::Relaxed);
        let len = self.ring.load32(element + 4, Ordering::Relaxed);
        let Ok(head) = u16::try_from(id) else {
            return Err(Fault::UsedId { id });
        };
        let slot = self.slots.get(usize::from(head));
        let Some(slot) = slot.filter(|slot| slot.outstanding) else {
            return Err(Fault::UsedId { id });
        };
        if len > slot.writable {
            return Err(Fault::UsedLength {
                claimed: len,
                writable: slot.writable,
            });
        }
        let token = slot.token;
        self.release(head);
        self.seen = self.seen.wrapping_add(1);
        if !self.event_idx && self.armed.is_some() {
            // The flag stays until it is changed; an event index is passed once.
            self.refuse_interrupts();
        }
        Ok(Some(Used { head, token, len }))
    }

    /// Takes a chain that is outstanding, in no order, without asking the device, which must have been
    /// stopped.
    pub fn abandon(&mut self) -> Option<u64> {
        if self.outstanding == 0 {
            return None;
        }
        let head = self.slots.iter().position(|slot| slot.outstanding)?;
        let token = self.slots[head].token;
        self.release(head as u16);
        Some(token)
    }

    /// Gives the descriptors of the chain at `head` back to the free list.
    fn release(&mut self, head: u16) {
        let taken = self.slots[usize::from(head)].taken;
        let mut last = head;
        for _ in 1..taken {
            last = self.slots[usize::from(last)].next;
        }
        self.slots[usize::from(last)].next = self.free_head;
        self.slots[usize::from(head)].outstanding = false;
        self.free_head = head;
        self.free += taken;
        self.outstanding -= 1;
    }

    /// Whether the device wants to be told of the chains added since the last call. It counts as told.
    pub fn wants_notification(&mut self) -> bool {
        let old = core::mem::replace(&mut self.notified, self.avail);
        let added = self.avail.wrapping_sub(old);
        if added == 0 {
            return false;
        }
        // The device writes its wish, then reads the index; we wrote the index, now read the wish.
        fence(Ordering::SeqCst);
        let used = used_offset(self.size);
        if !self.event_idx {
            return self.ring.load16(used, Ordering::Relaxed) & USED_NO_NOTIFY == 0;
        }
        let event = used + 4 + 8 * usize::from(self.size);
        let event = self.ring.load16(event, Ordering::Relaxed);
        // Did the index pass the event [virtio 1.2 §2.7.10.1]?
        self.avail.wrapping_sub(event).wrapping_sub(1) < added
    }

    /// Asks for an interrupt once the device is done with `further` more chains than were taken (at
    /// least 1). `false`: it is already, so that none may come; take them instead.
    pub fn want_interrupt(&mut self, further: u16) -> bool {
        let further = further.max(1);
        let target = self.seen.wrapping_add(further - 1);
        if self.armed != Some(target) {
            self.armed = Some(target);
            match self.event_idx {
                true => self.store_used_event(target),
                false => self.ring.store16(self.avail_offset(), 0, Ordering::Relaxed),
            }
            // The device writes the index, then reads our wish; we wrote the wish, now read the index.
            fence(Ordering::SeqCst);
        }
        // A used index that makes no sense counts as done: taking will find out.
        self.pending().is_ok_and(|ahead| ahead < further)
    }

    /// Asks for no interrupt.
    fn refuse_interrupts(&mut self) {
        self.armed = None;
        match self.event_idx {
            // One behind what was taken: passed again only after 2^16 chains.
            true => self.store_used_event(self.seen.wrapping_sub(1)),
            false => self
                .ring
                .store16(self.avail_offset(), AVAIL_NO_INTERRUPT, Ordering::Relaxed),
        }
    }

    fn store_used_event(&self, index: u16) {
        let used_event = self.avail_offset() + 4 + 2 * usize::from(self.size);
        self.ring.store16(used_event, index, Ordering::Relaxed);
    }

    fn avail_offset(&self) -> usize {
        DESC_BYTES * usize::from(self.size)
    }

    /// Writes a descriptor of the ring, or of the indirect table of `table`.
    fn write_descriptor(&self, table: Option<u16>, index: u16, descriptor: Descriptor, next: u16) {
        let (pages, offset) = match (table, &self.tables) {
            (Some(table), Some(tables)) => {
                let first = usize::from(table) * usize::from(self.chain);
                (tables, (first + usize::from(index)) * DESC_BYTES)
            }
            _ => (&self.ring, usize::from(index) * DESC_BYTES),
        };
        pages.store64(offset, descriptor.address, Ordering::Relaxed);
        let word =
            u64::from(descriptor.len) | u64::from(descriptor.flags) << 32 | u64::from(next) << 48;
        pages.store64(offset + 8, word, Ordering::Relaxed);
    }
}

/// Offset of the used ring in the ring's pages: behind the available ring, aligned to 4.
fn used_offset(size: u16) -> usize {
    let size = usize::from(size);
    (DESC_BYTES * size + 6 + 2 * size).next_multiple_of(4)
}
