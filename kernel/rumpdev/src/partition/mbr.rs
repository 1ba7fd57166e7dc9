//! Master boot record and the chain of extended ones (NetBSD `sys/bootblock.h`, mbr(8)).

use super::{MAX_PARTITIONS, Sector, SectorReader, fits, u16_at, u32_at};
use alloc::vec::Vec;
use log::warn;
use rumpuser::{Errno, SECTOR_SIZE};

/// Type of the one entry that stands for a GPT.
pub(super) const GPT_PROTECTIVE: u8 = 0xee;

const MAGIC_OFFSET: usize = 510;
const MAGIC: u16 = 0xaa55;
const TABLE_OFFSET: usize = 446;
const ENTRY_BYTES: usize = 16;
const ENTRIES: usize = 4;
/// An extended chain longer than this is taken for a loop.
const MAX_CHAIN: usize = MAX_PARTITIONS;

/// A partition of an MBR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) kind: u8,
    pub(super) start: u64,
    pub(super) sectors: u64,
}

/// What a type byte means.
pub(super) fn kind_name(kind: u8) -> &'static str {
    match kind {
        0x01 | 0x04 | 0x06 | 0x0b | 0x0c | 0x0e => "msdos",
        0x07 => "ntfs",
        0x82 => "swap",
        0x83 => "ext2fs",
        0xa5 | 0xa6 | 0xa9 => "ffs",
        _ => "unknown",
    }
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

/// The entries of a boot record, if the sector is one. A boot sector of a file system may have the
/// magic too; then the bytes of the table are hardly all valid entries.
fn entries(sector: &Sector) -> Option<Vec<Slice>> {
    if u16_at(sector, MAGIC_OFFSET)? != MAGIC {
        return None;
    }
    let mut slices = Vec::new();
    for number in 0..ENTRIES {
        let at = TABLE_OFFSET + number * ENTRY_BYTES;
        let entry = sector.get(at..at + ENTRY_BYTES)?;
        if !matches!(entry[0], 0 | 0x80) {
            return None;
        }
        let slice = Slice {
            kind: entry[4],
            start: u32_at(entry, 8)?.into(),
            sectors: u32_at(entry, 12)?.into(),
        };
        if slice.kind != 0 {
            slices.push(slice);
        }
    }
    Some(slices)
}

/// The partitions of the MBR in sector 0: the primary ones, then those of the extended chain.
pub(super) fn read(disk: &str, reader: &dyn SectorReader) -> Result<Vec<Slice>, Errno> {
    let mut sector = [0; SECTOR_SIZE];
    reader.read(0, &mut sector)?;
    let Some(primary) = entries(&sector) else {
        return Ok(Vec::new());
    };
    if primary.iter().any(|slice| slice.kind == GPT_PROTECTIVE) {
        return Ok(primary);
    }
    let mut found = Vec::new();
    for slice in primary {
        if !fits(disk, "MBR", slice.start, slice.sectors, reader.sectors()) {
            continue;
        }
        if is_extended(slice.kind) {
            follow(disk, reader, slice, &mut found);
        } else {
            found.push(slice);
        }
    }
    Ok(found)
}

/// Follows the chain of extended boot records within `extended`. Each holds one partition, relative
/// to itself, and a link to the next, relative to the start of the whole extended partition.
fn follow(disk: &str, reader: &dyn SectorReader, extended: Slice, found: &mut Vec<Slice>) {
    let mut at = extended.start;
    for _ in 0..MAX_CHAIN {
        let mut sector = [0; SECTOR_SIZE];
        if let Err(error) = reader.read(at, &mut sector) {
            warn!("{disk}: extended boot record at sector {at} cannot be read: {error}");
            return;
        }
        let Some(slices) = entries(&sector) else {
            warn!("{disk}: no extended boot record at sector {at}");
            return;
        };
        let mut next = None;
        for slice in slices {
            if is_extended(slice.kind) {
                next = Some(extended.start + slice.start);
                continue;
            }
            let start = at + slice.start;
            if fits(
                disk,
                "extended boot record",
                start,
                slice.sectors,
                reader.sectors(),
            ) {
                found.push(Slice { start, ..slice });
            }
        }
        match next {
            Some(next) if next > at && next < reader.sectors() => at = next,
            Some(next) => {
                warn!("{disk}: extended boot record at sector {at} points to {next}: ignored");
                return;
            }
            None => return,
        }
    }
    warn!("{disk}: more than {MAX_CHAIN} extended boot records: the rest is ignored");
}
