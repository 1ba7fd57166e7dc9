//! The way of memory to the host's devices and back: the only place where frames and clusters meet a device.
//!
//! A [`BlockQueue`] or [`PacketQueue`] has a table of what the device has in hand. The table *owns* the
//! frames and clusters until the device gives their token back: for what the device writes it is the only
//! holder, so nobody else can look; for what the device reads there may be others, and none of them can
//! write, since a frame with several holders gives no exclusive reference. That is what the
//! hypercalls' safety sections ask for, so nothing above this module is unsafe.
//!
//! What a device answers is not believed: a token that was not given out, or twice, is said and
//! ignored; lengths and offsets are checked against the buffer.

#![allow(unsafe_code)]

mod block;
mod packet;

pub use block::{Bio, BlockQueue, BlockStats, DoneFn, IoFrame};
pub use packet::{PacketQueue, RxPiece, TxPiece};
pub use rumpuser::{BioOp, BlockInfo, PacketFeatures, PacketInfo, RxChecksum, TxOffload};

use crate::locks::LockClass;

/// The tables of what devices have in hand.
static DMA_CLASS: LockClass = LockClass {
    name: "dma",
    rank: 920,
};

/// Numbers the entries of a table so that a token is good once: the slot below, a generation above.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Token(u64);

impl Token {
    fn new(slot: usize, generation: u32) -> Token {
        Token(slot as u64 | (generation as u64) << 32)
    }

    fn slot(self) -> usize {
        self.0 as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests;
