//! BSD disklabel (NetBSD `sys/disklabel.h`, disklabel(5)), of either byte order.

use super::{LETTERS, Partition, PartitionName, Sector, SectorReader, fits, u16_at, u32_at};
use alloc::string::String;
use alloc::vec::Vec;
use log::warn;
use rumpuser::{Errno, SECTOR_SIZE};

const MAGIC: u32 = 0x8256_4557;
const MAGIC2_OFFSET: usize = 132;
const SECSIZE_OFFSET: usize = 40;
const NPARTITIONS_OFFSET: usize = 138;
const PARTITIONS_OFFSET: usize = 148;
const PARTITION_BYTES: usize = 16;
/// Ports differ in where the label is: in the first or the second sector, at one of these bytes.
const LABEL_SECTORS: [u64; 2] = [1, 0];
const LABEL_OFFSETS: [usize; 3] = [0, 64, 128];
/// `FS_UNUSED`.
const UNUSED: u8 = 0;

/// Whether a partition of this MBR type has a disklabel in it (FreeBSD, OpenBSD, NetBSD).
pub(super) fn lives_in(mbr_kind: u8) -> bool {
    matches!(mbr_kind, 0xa5 | 0xa6 | 0xa9)
}

/// What `p_fstype` means.
fn kind_name(fstype: u8) -> &'static str {
    match fstype {
        1 => "swap",
        7 => "ffs",
        8 => "msdos",
        12 => "cd9660",
        17 => "ext2fs",
        18 => "raid",
        _ => "unknown",
    }
}

/// Reads little-endian or big-endian fields, as the magic says.
struct Fields<'a> {
    bytes: &'a [u8],
    swapped: bool,
}

impl Fields<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        let value = u16_at(self.bytes, at)?;
        Some(if self.swapped {
            value.swap_bytes()
        } else {
            value
        })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let value = u32_at(self.bytes, at)?;
        Some(if self.swapped {
            value.swap_bytes()
        } else {
            value
        })
    }
}

/// The partitions of the label in the slice that starts at sector `slice`, if there is one.
pub(super) fn read(
    disk: &str,
    reader: &dyn SectorReader,
    slice: u64,
) -> Result<Option<Vec<Partition>>, Errno> {
    for sector in LABEL_SECTORS {
        let at = slice.saturating_add(sector);
        if at >= reader.sectors() {
            continue;
        }
        let mut buf: Sector = [0; SECTOR_SIZE];
        reader.read(at, &mut buf)?;
        for offset in LABEL_OFFSETS {
            let found = parse(disk, &buf[offset..], slice, reader.sectors());
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

fn parse(disk: &str, bytes: &[u8], slice: u64, capacity: u64) -> Option<Vec<Partition>> {
    let magic = u32_at(bytes, 0)?;
    if magic != MAGIC && magic != MAGIC.swap_bytes() {
        return None;
    }
    let fields = Fields {
        bytes,
        swapped: magic != MAGIC,
    };
    if fields.u32(MAGIC2_OFFSET)? != MAGIC {
        return None;
    }
    let count = usize::from(fields.u16(NPARTITIONS_OFFSET)?);
    let end = PARTITIONS_OFFSET + count * PARTITION_BYTES;
    let covered = bytes.get(..end)?;
    let sum = (0..end / 2).filter_map(|word| u16_at(covered, word * 2));
    // The sum of a label, checksum included, is zero (in whatever byte order).
    if count == 0 || count > usize::from(LETTERS) || sum.fold(0, |sum, word| sum ^ word) != 0 {
        warn!("{disk}: disklabel of the slice at sector {slice} is damaged: ignored");
        return None;
    }
    let unit = match fields.u32(SECSIZE_OFFSET)? as usize {
        size if size.is_power_of_two() && (SECTOR_SIZE..=65536).contains(&size) => {
            (size / SECTOR_SIZE) as u64
        }
        size => {
            warn!("{disk}: disklabel with sectors of {size} bytes: ignored");
            return None;
        }
    };
    let entries = entries(&fields, count, unit)?;
    let base = base(&entries, slice);
    let mut found = Vec::new();
    for entry in entries
        .iter()
        .filter(|entry| entry.fstype != UNUSED && entry.sectors > 0)
    {
        let start = entry.start.checked_add(base)?;
        if fits(disk, "disklabel", start, entry.sectors, capacity) {
            found.push(Partition {
                name: PartitionName::Letter(char::from(b'a' + entry.number)),
                start,
                sectors: entry.sectors,
                kind: kind_name(entry.fstype),
                label: String::new(),
            });
        }
    }
    Some(found)
}

struct Entry {
    number: u8,
    start: u64,
    sectors: u64,
    fstype: u8,
}

fn entries(fields: &Fields<'_>, count: usize, unit: u64) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    for number in 0..count {
        let at = PARTITIONS_OFFSET + number * PARTITION_BYTES;
        entries.push(Entry {
            number: number as u8,
            sectors: u64::from(fields.u32(at)?) * unit,
            start: u64::from(fields.u32(at + 4)?) * unit,
            fstype: *fields.bytes.get(at + 12)?,
        });
    }
    Some(entries)
}

/// What the offsets of a label are relative to. NetBSD's are absolute. FreeBSD's are relative to the slice:
/// some entry then lies before the slice's start.
fn base(entries: &[Entry], slice: u64) -> u64 {
    let relative = entries
        .iter()
        .any(|entry| entry.fstype == 7 && entry.sectors > 0 && entry.start < slice);
    if relative { slice } else { 0 }
}
