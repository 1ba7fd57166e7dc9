//! Partitions: what an MBR, a GPT or a BSD disklabel says about a disk.
//!
//! Nothing here is believed unchecked: a table has a bound on its entries, a chain on its length,
//! and a partition that does not lie within the disk is left out, with a log line.
//!
//! Naming is NetBSD's. Partitions of a disklabel have their letter (`ld0a`); those of an MBR that no
//! disklabel mentions get the next free letters from `e` on (`ld0e`); those of a GPT become
//! wedges (`dk0`), numbered in the order in which they are found.

mod disklabel;
mod gpt;
mod mbr;

use alloc::string::String;
use alloc::vec::Vec;
use log::warn;
use rumpuser::{Errno, SECTOR_SIZE};

/// The most partitions that one disk may have.
pub const MAX_PARTITIONS: usize = 128;

/// The letters that a disk's partitions may have: `a` to `p` (`MAXPARTITIONS` is 16).
const LETTERS: u8 = 16;
/// The first letter for partitions of an MBR without a disklabel: `e`, as on NetBSD/i386.
const FIRST_MBR_LETTER: u8 = 4;

/// What a partition is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionName {
    /// A letter behind the disk's name.
    Letter(char),
    /// A wedge: it gets a name of its own, `dk` and a number.
    Wedge,
}

/// A part of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// How it is named.
    pub name: PartitionName,
    /// The first sector, in units of 512 bytes.
    pub start: u64,
    /// Its length in units of 512 bytes; at least 1.
    pub sectors: u64,
    /// What the table says that it holds: `"ffs"`, `"msdos"`, `"swap"`…; `"unknown"` otherwise.
    pub kind: &'static str,
    /// Its label; empty where the table has none.
    pub label: String,
}

/// What the tables of a disk are read from.
pub trait SectorReader {
    /// Capacity in units of 512 bytes.
    fn sectors(&self) -> u64;

    /// Bytes in a block of the device's own: what the addresses in a GPT count.
    fn sector_size(&self) -> u32;

    /// Reads whole sectors.
    ///
    /// # Errors
    /// `EINVAL` beyond the end, `EIO`.
    fn read(&self, sector: u64, buf: &mut [u8]) -> Result<(), Errno>;
}

/// Finds the partitions of the disk called `disk`. A disk without a table has none.
///
/// # Errors
/// The device's, if its first sectors cannot be read.
pub fn scan(disk: &str, reader: &dyn SectorReader) -> Result<Vec<Partition>, Errno> {
    let mut found = Vec::new();
    if reader.sectors() == 0 {
        return Ok(found);
    }
    let slices = mbr::read(disk, reader)?;
    if slices.iter().any(|slice| slice.kind == mbr::GPT_PROTECTIVE) {
        return gpt::read(disk, reader);
    }
    let holders = slices
        .iter()
        .filter(|slice| disklabel::lives_in(slice.kind));
    let places = holders.map(|slice| slice.start).chain(core::iter::once(0));
    for place in places {
        if let Some(label) = disklabel::read(disk, reader, place)? {
            found = label;
            break;
        }
    }
    name_the_rest(disk, &slices, &mut found);
    Ok(found)
}

/// Gives letters to the slices that no partition of the disklabel stands for.
fn name_the_rest(disk: &str, slices: &[mbr::Slice], found: &mut Vec<Partition>) {
    let mut letters = FIRST_MBR_LETTER..LETTERS;
    for slice in slices {
        let known = found.iter().any(|partition| {
            partition.start >= slice.start && partition.start - slice.start < slice.sectors
        });
        if known {
            continue;
        }
        let free = letters.find(|&letter| {
            let name = PartitionName::Letter(char::from(b'a' + letter));
            found.iter().all(|partition| partition.name != name)
        });
        let Some(letter) = free else {
            warn!(
                "{disk}: no letter left for the partition at sector {}",
                slice.start
            );
            return;
        };
        found.push(Partition {
            name: PartitionName::Letter(char::from(b'a' + letter)),
            start: slice.start,
            sectors: slice.sectors,
            kind: mbr::kind_name(slice.kind),
            label: String::new(),
        });
    }
}

/// Whether `start..start + sectors` is a part of a disk of `capacity` sectors; says so if not.
fn fits(disk: &str, table: &str, start: u64, sectors: u64, capacity: u64) -> bool {
    let inside = sectors > 0
        && start
            .checked_add(sectors)
            .is_some_and(|end| end <= capacity);
    if !inside {
        warn!(
            "{disk}: {table}: partition of {sectors} sectors at {start} is not within the {capacity} of the disk"
        );
    }
    inside
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// One sector, for the readers of tables.
type Sector = [u8; SECTOR_SIZE];

#[cfg(test)]
mod tests;
