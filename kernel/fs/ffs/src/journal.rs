//! What the superblock says of the journal: whether there is one, and where.
//!
//! The fields are in the byte order of the machine that wrote the log, even on a volume of the
//! other one; the size of a log block, a power of two that no other order reads as one that is
//! possible, tells which.
//!
//! Source: NetBSD sys/ufs/ufs/ufs_wapbl.h, sys/ufs/ffs/ffs_wapbl.c.

use zerocopy::byteorder::ByteOrder;
use zerocopy::{BE, FromBytes, LE};

use crate::order::Order;
use crate::raw::RawJournal;

/// Where a log lies: inside the volume, as the blocks of an inode that has no name.
pub const IN_FILESYSTEM: u8 = 2;

/// The journal's fields of the superblock, as they are; nothing but the order is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Byte order of the log.
    pub order: Order,
    /// 1.
    pub version: u8,
    /// 1: behind the volume. [`IN_FILESYSTEM`].
    pub location: u8,
    /// 1: make a log at the next mount with one. 2: discard the log that there is.
    pub flags: u32,
    /// The log's start, in log blocks from the start of the partition.
    pub address: u64,
    /// Its length in log blocks.
    pub blocks: u64,
    /// Bytes of a log block.
    pub block_size: u64,
    /// The inode that holds the log, if it is inside the volume.
    pub ino: u64,
}

impl Journal {
    /// The journal that these bytes of a superblock describe, if they describe any.
    pub fn decode(bytes: &[u8; 40]) -> Option<Journal> {
        [
            Journal::in_order::<LE>(bytes, Order::Little),
            Journal::in_order::<BE>(bytes, Order::Big),
        ]
        .into_iter()
        .flatten()
        .find(|journal| journal.block_size.is_power_of_two() && journal.is_block_size_possible())
    }

    fn in_order<J: ByteOrder>(bytes: &[u8; 40], order: Order) -> Option<Journal> {
        let raw = RawJournal::<J>::ref_from_bytes(bytes).ok()?;
        (raw.version != 0).then(|| Journal {
            order,
            version: raw.version,
            location: raw.location,
            flags: raw.flags.get(),
            address: raw.locs[0].get(),
            blocks: raw.locs[1].get(),
            block_size: raw.locs[2].get(),
            ino: raw.locs[3].get(),
        })
    }

    fn is_block_size_possible(&self) -> bool {
        (512..=65536).contains(&self.block_size)
    }

    /// The inode that holds the log inside the volume.
    pub fn inode(&self) -> Option<u32> {
        match self.location {
            IN_FILESYSTEM => u32::try_from(self.ino).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(order: Order, block_size: u64) -> [u8; 40] {
        let mut bytes = [0; 40];
        (bytes[0], bytes[1]) = (1, IN_FILESYSTEM);
        for (index, number) in [1000, 2048, block_size, 3].into_iter().enumerate() {
            let number = match order {
                Order::Little => u64::to_le_bytes(number),
                Order::Big => u64::to_be_bytes(number),
            };
            bytes[8 + 8 * index..16 + 8 * index].copy_from_slice(&number);
        }
        bytes
    }

    #[test]
    fn the_order_of_the_log_is_told_by_the_size_of_its_blocks() {
        for order in [Order::Little, Order::Big] {
            for size in [512, 4096, 65536] {
                let journal = Journal::decode(&bytes(order, size)).expect("a journal");
                assert_eq!((journal.order, journal.block_size), (order, size));
                assert_eq!((journal.address, journal.inode()), (1000, Some(3)));
            }
        }
    }

    #[test]
    fn no_version_or_no_possible_block_is_no_journal() {
        assert_eq!(Journal::decode(&[0; 40]), None);
        assert_eq!(Journal::decode(&bytes(Order::Little, 1000)), None);
        assert_eq!(Journal::decode(&[0xff; 40]), None);
    }
}
