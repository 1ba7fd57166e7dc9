//! What the superblock says of the journal: whether there is one, and where; and reading it.
//!
//! The fields are in the byte order of the machine that wrote the log, even on a volume of the
//! other one; the size of a log block, a power of two that no other order reads as one that is
//! possible, tells which. tunefs(8) does not make a log, it asks for one ([`crate::tune`]): such fields have version 0 and no size
//! of a log block; of them the flags tell.
//!
//! Source: NetBSD sys/ufs/ufs/ufs_wapbl.h, sys/ufs/ffs/ffs_wapbl.c, sbin/tunefs/tunefs.c.

use core::ops::RangeInclusive;

use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::wapbl::{Bounds, ByteOrder, LEAST_BYTES, LogError, Place, Replay, Source};
use zerocopy::{BE, FromBytes, IntoBytes, LE, byteorder};

use crate::corrupt::{Corrupt, Fault};
use crate::disk::{Metadata, PIECE};
use crate::order::Order;
use crate::raw::RawJournal;
use crate::superblock::{Flags, Superblock};

/// Where a log lies: between the end of the volume and that of the device.
pub const BEHIND_FILESYSTEM: u8 = 1;
/// Where a log lies: inside the volume, as the blocks of an inode that has no name.
pub const IN_FILESYSTEM: u8 = 2;

/// The shortest and the longest log, in bytes.
pub const BYTES: RangeInclusive<u64> = LEAST_BYTES..=1 << 30;

/// The version of the fields; 0 if there is no log.
const VERSION: u8 = 1;

/// Of the journal's flags: make a log at the next mount with one, of as many bytes as the length says if that is not 0.
pub const CREATE: u32 = 1;
/// Of the journal's flags: remove the log at the next mount.
pub const REMOVE: u32 = 2;

/// The journal's fields of the superblock, as they are; nothing but the order is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Byte order of the log.
    pub order: Order,
    /// 1; 0 if there is no log, and only the flags count.
    pub version: u8,
    /// [`BEHIND_FILESYSTEM`] or [`IN_FILESYSTEM`].
    pub location: u8,
    /// [`CREATE`] or [`REMOVE`].
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
        .find(|journal| match journal.version {
            // Elsewhere than with NetBSD these bytes count something (FreeBSD's `fs_unrefs`).
            0 => journal.location == IN_FILESYSTEM && matches!(journal.flags, CREATE | REMOVE),
            _ => journal.block_size.is_power_of_two() && journal.is_block_size_possible(),
        })
    }

    /// What asks for a log of `bytes` bytes, or, with 0, of the usual length, at the next mount with one.
    pub fn asking(bytes: u64) -> Journal {
        Journal {
            order: Order::NATIVE,
            version: 0,
            location: IN_FILESYSTEM,
            flags: CREATE,
            address: 0,
            blocks: bytes,
            block_size: 0,
            ino: 0,
        }
    }

    fn in_order<J: byteorder::ByteOrder>(bytes: &[u8; 40], order: Order) -> Option<Journal> {
        let raw = RawJournal::<J>::ref_from_bytes(bytes).ok()?;
        Some(Journal {
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

    /// The bytes that describe it in a superblock.
    pub fn encode(&self) -> [u8; 40] {
        match self.order {
            Order::Little => self.encode_in::<LE>(),
            Order::Big => self.encode_in::<BE>(),
        }
    }

    fn encode_in<J: byteorder::ByteOrder>(&self) -> [u8; 40] {
        let raw = RawJournal::<J> {
            version: self.version,
            location: self.location,
            reserved: [0; 2],
            flags: self.flags.into(),
            locs: [self.address, self.blocks, self.block_size, self.ino].map(Into::into),
        };
        let mut bytes = [0; 40];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Whether it says where a log is, and not only that there should be one.
    pub fn is_made(&self) -> bool {
        self.version == VERSION && matches!(self.location, BEHIND_FILESYSTEM | IN_FILESYSTEM)
    }

    /// Whether the next mount for writing is to remove it.
    pub fn is_removed(&self) -> bool {
        self.flags & REMOVE != 0
    }

    /// The bytes of the log that is asked for, 0 for the usual length, if one is.
    pub fn asked(&self) -> Option<u64> {
        (!self.is_made() && self.flags == CREATE).then_some(self.blocks)
    }

    fn is_block_size_possible(&self) -> bool {
        (512..=65536).contains(&self.block_size)
    }

    /// Where the log lies, on a device of `sectors` sectors.
    pub fn place(&self, sb: &Superblock, sectors: u64) -> Result<Place, Corrupt> {
        let bad = |field, value| Err(Corrupt::Journal { field, value });
        if self.version != VERSION {
            return bad("version", u64::from(self.version));
        }
        let start = self
            .address
            .checked_mul(self.block_size / SECTOR_SIZE as u64);
        let place = Place {
            order: match self.order {
                Order::Little => ByteOrder::Little,
                Order::Big => ByteOrder::Big,
            },
            start: start.unwrap_or(u64::MAX),
            blocks: self.blocks,
            block_size: self.block_size,
        };
        let volume = sb.size_bytes() / SECTOR_SIZE as u64;
        let room = match self.location {
            BEHIND_FILESYSTEM => volume..sectors,
            // Not over the superblock, at least.
            IN_FILESYSTEM => (sb.location / SECTOR_SIZE as u64 + 1)..volume.min(sectors),
            other => return bad("location", u64::from(other)),
        };
        if !room.contains(&place.start) {
            return bad("address", self.address);
        }
        if place.end() > room.end {
            return bad("length", self.blocks);
        }
        Ok(place)
    }

    /// The inode that holds the log inside the volume.
    pub fn inode(&self) -> Option<u32> {
        match self.location {
            IN_FILESYSTEM if self.is_made() => u32::try_from(self.ino).ok(),
            _ => None,
        }
    }
}

/// What a log of the volume may speak of.
pub fn bounds(sb: &Superblock) -> Bounds {
    Bounds {
        sectors: sb.size_bytes() / SECTOR_SIZE as u64,
        inodes: 2..sb.inodes(),
    }
}

/// What the log of a volume that is in use has to say.
pub fn read(sb: &Superblock, source: &dyn Source, sectors: u64) -> Result<Replay, Fault> {
    let Some(journal) = &sb.journal else {
        return Err(Corrupt::Journal {
            field: "version",
            value: 0,
        }
        .into());
    };
    let place = journal.place(sb, sectors)?;
    Replay::read(source, &place, &bounds(sb)).map_err(|error| match error {
        // A check does not know where its device ends.
        LogError::Device(Errno::EINVAL) => Corrupt::Journal {
            field: "address",
            value: journal.address,
        }
        .into(),
        // Only a message has the place.
        error => Fault::of_log(place.start.saturating_mul(SECTOR_SIZE as u64), error),
    })
}

/// A volume as it is when its log was replayed.
pub struct Replayed<'a> {
    disk: &'a dyn Metadata,
    /// What the log says.
    pub replay: Replay,
}

impl<'a> Replayed<'a> {
    /// The volume on `disk`, if its log was in use.
    pub fn of(disk: &'a dyn Metadata, sb: &Superblock) -> Result<Option<Replayed<'a>>, Fault> {
        if !sb.flags.contains(Flags::DOWAPBL) {
            return Ok(None);
        }
        let replay = read(sb, &Sectors(disk), u64::MAX)?;
        Ok(Some(Replayed { disk, replay }))
    }
}

impl Metadata for Replayed<'_> {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let sector = offset / SECTOR_SIZE as u64;
        let logged = self
            .replay
            .is_logged(sector, sector + (len / SECTOR_SIZE) as u64);
        if !logged || len > PIECE {
            return self.disk.read(offset, len, visit);
        }
        let mut bytes = [0; PIECE];
        let bytes = &mut bytes[..len];
        self.disk
            .read(offset, len, &mut |found| bytes.copy_from_slice(found))?;
        self.replay.overlay(&Sectors(self.disk), sector, bytes)?;
        visit(bytes);
        Ok(())
    }
}

/// A volume, to be read by sectors.
pub struct Sectors<'a>(pub &'a dyn Metadata);

impl Source for Sectors<'_> {
    fn read(&self, sector: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let at = sector
            .checked_mul(SECTOR_SIZE as u64)
            .ok_or(Errno::EINVAL)?;
        for (n, part) in bytes.chunks_mut(PIECE).enumerate() {
            let at = at + (n * PIECE) as u64;
            self.0
                .read(at, part.len(), &mut |found| part.copy_from_slice(found))?;
        }
        Ok(())
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
    fn what_tunefs_asks_for_is_told_by_the_flags_in_either_order() {
        for order in [Order::Little, Order::Big] {
            let asking = Journal {
                order,
                ..Journal::asking(3 << 20)
            };
            let found = Journal::decode(&asking.encode()).expect("a request");
            assert_eq!((found, found.asked()), (asking, Some(3 << 20)));
            assert!(!found.is_made() && found.inode().is_none());
            let removing = Journal {
                flags: REMOVE,
                ..asking
            };
            let found = Journal::decode(&removing.encode()).expect("a request");
            assert!(found.is_removed() && found.asked().is_none());
            let both = Journal {
                flags: CREATE | REMOVE,
                ..asking
            };
            assert_eq!(Journal::decode(&both.encode()), None);
        }
    }

    #[test]
    fn no_version_or_no_possible_block_is_no_journal() {
        assert_eq!(Journal::decode(&[0; 40]), None);
        assert_eq!(Journal::decode(&bytes(Order::Little, 1000)), None);
        assert_eq!(Journal::decode(&[0xff; 40]), None);
    }
}
