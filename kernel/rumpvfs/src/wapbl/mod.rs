//! WAPBL, write-ahead physical block logging: the journal of metadata that NetBSD has for FFS, for any file
//! system that wants it. On the disk it is NetBSD's, both ways.
//!
//! # The log, in ten lines
//!
//! It is an area of the device, cut into *log blocks* of one sector of the device. The first two are commit headers,
//! written in turn; of the two the one with the higher generation counts. The rest is a circular area of records:
//! *blocks*, a list of addresses and then the contents; *revocations*, addresses whose earlier contents do not count any
//! more, since they are something else now; and *inodes*, the files without a name, to be freed after a crash. A
//! transaction is some of each; it counts once a header says that its end is where the next will begin. Numbers
//! have the byte order of the machine that wrote the log; the superblock's fields tell which.
//!
//! # Where things are
//!
//! [`raw`] has the bytes, [`ring`] the arithmetic of positions, [`map`] which sectors are in a log. [`Replay`] reads a log
//! that was left behind, [`Log`] writes one.
//!
//! Source: NetBSD wapbl(4), wapbl(9); sys/sys/wapbl.h, sys/sys/wapbl_replay.h, sys/kern/vfs_wapbl.c.

pub mod log;
pub mod map;
pub mod raw;
pub mod replay;
pub mod ring;

pub use log::{Client, Log, Operation};
pub use raw::{BadLog, ByteOrder};
pub use replay::{Orphan, Replay, Source};

use core::fmt;
use core::ops::Range;
use raw::Fixed;
use rumpuser::{Errno, PAGE_SIZE, SECTOR_SIZE};

/// A shorter log is of no use (NetBSD's MAXPHYS).
pub const LEAST_BYTES: u64 = 64 * 1024;

/// Where a log lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its byte order.
    pub order: ByteOrder,
    /// Its first sector, in units of 512 bytes.
    pub start: u64,
    /// Its length in log blocks.
    pub blocks: u64,
    /// Bytes of a log block.
    pub block_size: u64,
}

impl Place {
    /// The sector behind its end.
    pub fn end(&self) -> u64 {
        let bytes = self.blocks.saturating_mul(self.block_size);
        self.start.saturating_add(bytes / SECTOR_SIZE as u64)
    }

    /// The sector at position `at`.
    fn sector_of(&self, at: u64) -> u64 {
        self.start + at / SECTOR_SIZE as u64
    }

    /// What its headers always say, if it can be a log at all.
    fn fixed(&self) -> Result<Fixed, BadLog> {
        let bad = |field, value| {
            Err(BadLog {
                at: 0,
                field,
                value,
            })
        };
        let size = self.block_size;
        if !size.is_power_of_two() || !(SECTOR_SIZE as u64..=PAGE_SIZE as u64).contains(&size) {
            return bad("size of a log block", size);
        }
        let bytes = self.blocks.checked_mul(size);
        let Some(bytes) = bytes.filter(|bytes| (LEAST_BYTES..=1 << 30).contains(bytes)) else {
            return bad("length in log blocks", self.blocks);
        };
        if self.start.checked_add(bytes / SECTOR_SIZE as u64).is_none() {
            return bad("address", self.start);
        }
        Ok(Fixed {
            order: self.order,
            shift: size.trailing_zeros(),
            circ_size: bytes - 2 * size,
        })
    }
}

/// What a log may speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Sectors of the volume.
    pub sectors: u64,
    /// The numbers of its inodes.
    pub inodes: Range<u32>,
}

/// Why a log cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogError {
    /// It is damaged.
    Bad(BadLog),
    /// The device's error, or no memory.
    Device(Errno),
}

impl From<BadLog> for LogError {
    fn from(bad: BadLog) -> LogError {
        LogError::Bad(bad)
    }
}

impl From<Errno> for LogError {
    fn from(errno: Errno) -> LogError {
        LogError::Device(errno)
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Bad(bad) => bad.fmt(f),
            LogError::Device(errno) => write!(f, "the log cannot be read: {errno}"),
        }
    }
}
