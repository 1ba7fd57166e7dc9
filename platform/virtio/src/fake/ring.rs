//! The device's side of a split queue.

use super::memory::FakeDma;
use crate::transport::Features;
use std::sync::atomic::{Ordering, fence};

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_INDIRECT: u16 = 4;

/// A piece of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub bus: u64,
    pub len: u32,
    pub device_writes: bool,
}

/// A chain that the driver made available.
#[derive(Clone, Debug)]
pub struct Given {
    pub head: u16,
    pub pieces: Vec<Piece>,
}

impl Given {
    /// All the bytes that the device may read.
    pub fn readable(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in self.pieces.iter().filter(|piece| !piece.device_writes) {
            bytes.extend(FakeDma::read_vec(piece.bus, piece.len as usize));
        }
        bytes
    }

    /// How many bytes it may write.
    pub fn writable(&self) -> u32 {
        let writable = self.pieces.iter().filter(|piece| piece.device_writes);
        writable.map(|piece| piece.len).sum()
    }

    /// Writes `bytes` from the `skip`th writable byte on.
    pub fn write(&self, skip: usize, bytes: &[u8]) {
        let mut skip = skip;
        let mut bytes = bytes;
        for piece in self.pieces.iter().filter(|piece| piece.device_writes) {
            let len = piece.len as usize;
            if skip >= len {
                skip -= len;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(len - skip));
            FakeDma::write(piece.bus + skip as u64, now);
            (bytes, skip) = (later, 0);
        }
        assert!(bytes.is_empty(), "more than the chain holds");
    }
}

/// A queue, as the device knows it.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    pub max: u16,
    pub size: u16,
    pub vector: u16,
    pub enabled: bool,
    pub descriptors: u64,
    pub driver: u64,
    pub device: u64,
    pub notified: bool,
    event_idx: bool,
    next_avail: u16,
    pub used: u16,
    with_device: Vec<u16>,
}

impl Ring {
    pub fn new(max: u16) -> Ring {
        Ring {
            max,
            size: max,
            vector: u16::MAX,
            ..Ring::default()
        }
    }

    pub fn enable(&mut self, features: u64) {
        assert!(self.size.is_power_of_two() && self.size <= self.max);
        assert!(self.descriptors.is_multiple_of(16));
        assert!(self.driver.is_multiple_of(2));
        assert!(self.device.is_multiple_of(4));
        self.event_idx = features & Features::EVENT_IDX.bits() != 0;
        self.enabled = true;
    }

    /// Takes the next chain that the driver made available.
    pub fn pop(&mut self) -> Option<Given> {
        let waiting = self.waiting();
        if waiting == 0 {
            return None;
        }
        assert!(waiting <= self.size, "more available than the ring holds");
        if !self.event_idx {
            // While it looks it need not be told.
            FakeDma::store16(self.device, 1);
        }
        let slot = u64::from(self.next_avail % self.size);
        let head = FakeDma::load16(self.driver + 4 + 2 * slot);
        assert!(head < self.size && !self.with_device.contains(&head));
        self.next_avail = self.next_avail.wrapping_add(1);
        self.with_device.push(head);
        let pieces = self.pieces(head);
        let written = pieces.iter().map(|piece| piece.device_writes);
        assert!(written.is_sorted(), "readable after writable: {pieces:?}");
        assert!(!pieces.is_empty() && pieces.len() <= usize::from(self.size));
        Some(Given { head, pieces })
    }

    /// How many chains are available.
    pub fn waiting(&self) -> u16 {
        match self.enabled {
            true => FakeDma::load16(self.driver + 2).wrapping_sub(self.next_avail),
            false => 0,
        }
    }

    /// The chain that comes after `count` others.
    pub fn peek(&self, count: u16) -> Given {
        assert!(count < self.waiting());
        let slot = u64::from(self.next_avail.wrapping_add(count) % self.size);
        let head = FakeDma::load16(self.driver + 4 + 2 * slot);
        Given {
            head,
            pieces: self.pieces(head),
        }
    }

    fn pieces(&self, head: u16) -> Vec<Piece> {
        let at = self.descriptors + 16 * u64::from(head);
        let (bus, len, flags, _) = descriptor(at);
        if flags & DESC_INDIRECT == 0 {
            return walk(self.descriptors, self.size, head);
        }
        assert_eq!(flags, DESC_INDIRECT, "INDIRECT goes alone");
        assert!(len > 0 && len.is_multiple_of(16));
        walk(bus, (len / 16) as u16, 0)
    }

    /// Says that the device is done with the chain at `head`; answers whether it interrupts.
    pub fn push(&mut self, head: u16, len: u32) -> bool {
        let at = self.with_device.iter().position(|&with| with == head);
        self.with_device
            .swap_remove(at.expect("not with the device"));
        self.push_anything(u32::from(head), len)
    }

    /// As [`push`](Self::push), without asking whether it is true.
    pub fn push_anything(&mut self, id: u32, len: u32) -> bool {
        let element = self.device + 4 + 8 * u64::from(self.used % self.size);
        FakeDma::write(element, &id.to_le_bytes());
        FakeDma::write(element + 4, &len.to_le_bytes());
        self.advance(1)
    }

    /// Moves the used index on by `count`; answers whether the device interrupts.
    pub fn advance(&mut self, count: u16) -> bool {
        let old = self.used;
        self.used = old.wrapping_add(count);
        FakeDma::store16(self.device + 2, self.used);
        // The index is there before the driver's wish is looked at.
        fence(Ordering::SeqCst);
        let flags = FakeDma::load16(self.driver);
        if !self.event_idx {
            return flags & 1 == 0;
        }
        assert_eq!(flags, 0, "flags are 0 with EVENT_IDX");
        let event = FakeDma::load16(self.driver + 4 + 2 * u64::from(self.size));
        self.used.wrapping_sub(event).wrapping_sub(1) < count
    }

    /// Stops looking until it is notified. Answers false if something came meanwhile.
    pub fn sleep(&mut self) -> bool {
        let avail_event = self.device + 4 + 8 * u64::from(self.size);
        FakeDma::store16(avail_event, self.next_avail);
        FakeDma::store16(self.device, 0);
        // The wish is there before the driver's index is looked at.
        fence(Ordering::SeqCst);
        self.notified = false;
        FakeDma::load16(self.driver + 2) == self.next_avail
    }

    /// Chains that are with the device.
    pub fn outstanding(&self) -> usize {
        self.with_device.len()
    }

    /// Writes nonsense where the driver wrote, which is no business of an honest device.
    pub fn scribble(&self, byte: u8) {
        for at in 0..16 * u64::from(self.size) {
            FakeDma::write(self.descriptors + at, &[byte]);
        }
        for at in 0..2 * u64::from(self.size) {
            FakeDma::write(self.driver + 4 + at, &[byte]);
        }
    }
}

/// Follows a chain in the table at `table`.
fn walk(table: u64, size: u16, first: u16) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut index = first;
    loop {
        assert!(index < size, "descriptor out of the table");
        assert!(pieces.len() < usize::from(size), "the chain is a loop");
        let (bus, len, flags, next) = descriptor(table + 16 * u64::from(index));
        assert!(flags & DESC_INDIRECT == 0 && len > 0);
        pieces.push(Piece {
            bus,
            len,
            device_writes: flags & DESC_WRITE != 0,
        });
        if flags & DESC_NEXT == 0 {
            return pieces;
        }
        index = next;
    }
}

fn descriptor(at: u64) -> (u64, u32, u16, u16) {
    (
        u64::from_le_bytes(FakeDma::read(at)),
        u32::from_le_bytes(FakeDma::read(at + 8)),
        u16::from_le_bytes(FakeDma::read(at + 12)),
        u16::from_le_bytes(FakeDma::read(at + 14)),
    )
}
