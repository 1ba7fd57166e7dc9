//! GUID partition table (UEFI 2.10 §5.3).

use super::{MAX_PARTITIONS, Partition, PartitionName, SectorReader, fits, u16_at, u32_at, u64_at};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use log::warn;
use rumpuser::{Errno, SECTOR_SIZE};

const SIGNATURE: &[u8] = b"EFI PART";
const HEADER_BYTES: u32 = 92;
const MIN_ENTRY_BYTES: u32 = 128;
const MAX_ENTRY_BYTES: u32 = 1024;
/// A table of more bytes is refused: 128 entries of 128 bytes are usual.
const MAX_TABLE_BYTES: u64 = 64 * 1024;

/// Partition types, as the 16 bytes on the disk (the first three fields are little-endian).
const KINDS: [([u8; 16], &str); 8] = [
    (
        guid(0x49f4_8d5a, 0xb10e, 0x11dc, 0xb99b_0019_d187_9648),
        "ffs",
    ),
    (
        guid(0x49f4_8d32, 0xb10e, 0x11dc, 0xb99b_0019_d187_9648),
        "swap",
    ),
    (
        guid(0x516e_7cb6, 0x6ecf, 0x11d6, 0x8ff8_0002_2d09_712b),
        "ffs",
    ),
    (
        guid(0x516e_7cb5, 0x6ecf, 0x11d6, 0x8ff8_0002_2d09_712b),
        "swap",
    ),
    (
        guid(0x0fc6_3daf, 0x8483, 0x4772, 0x8e79_3d69_d847_7de4),
        "ext2fs",
    ),
    (
        guid(0x0657_fd6d, 0xa4ab, 0x43c4, 0x84e5_0933_c84b_4f4f),
        "swap",
    ),
    (
        guid(0xebd0_a0a2, 0xb9e5, 0x4433, 0x87c0_68b6_b726_99c7),
        "msdos",
    ),
    (
        guid(0xc12a_7328, 0xf81f, 0x11d2, 0xba4b_00a0_c93e_c93b),
        "msdos",
    ),
];

const fn guid(a: u32, b: u16, c: u16, rest: u64) -> [u8; 16] {
    let (a, b, c, d) = (
        a.to_le_bytes(),
        b.to_le_bytes(),
        c.to_le_bytes(),
        rest.to_be_bytes(),
    );
    [
        a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6],
        d[7],
    ]
}

/// A header that was found good. Addresses in blocks of the device's own size.
struct Header {
    first_usable: u64,
    last_usable: u64,
    table: u64,
    entries: u32,
    entry_bytes: u32,
    table_crc: u32,
}

/// The partitions of the GPT: of the primary one, or of the backup at the end of the disk.
pub(super) fn read(disk: &str, reader: &dyn SectorReader) -> Result<Vec<Partition>, Errno> {
    let per_block = u64::from(reader.sector_size()) / SECTOR_SIZE as u64;
    let blocks = reader.sectors() / per_block.max(1);
    for place in [1, blocks.saturating_sub(1)] {
        match read_at(disk, reader, place, blocks) {
            Ok(found) => return Ok(found),
            Err(why) => warn!("{disk}: GPT at block {place}: {why}"),
        }
    }
    Ok(Vec::new())
}

fn read_blocks(
    reader: &dyn SectorReader,
    block: u64,
    bytes: usize,
) -> Result<Vec<u8>, &'static str> {
    let size = reader.sector_size() as usize;
    let mut buf = vec![0; bytes.next_multiple_of(size)];
    let sector = block
        .checked_mul((size / SECTOR_SIZE) as u64)
        .ok_or("address out of range")?;
    reader
        .read(sector, &mut buf)
        .map_err(|_| "cannot be read")?;
    Ok(buf)
}

fn read_at(
    disk: &str,
    reader: &dyn SectorReader,
    place: u64,
    blocks: u64,
) -> Result<Vec<Partition>, &'static str> {
    let block = read_blocks(reader, place, reader.sector_size() as usize)?;
    let header = header(&block, place, blocks)?;
    let bytes = u64::from(header.entries) * u64::from(header.entry_bytes);
    if bytes > MAX_TABLE_BYTES {
        return Err("too many entries");
    }
    let bytes = bytes as usize;
    let table = read_blocks(reader, header.table, bytes)?;
    let table = table.get(..bytes).ok_or("table cut off")?;
    if crc32(&[table]) != header.table_crc {
        return Err("checksum of the table is wrong");
    }
    let per_block = u64::from(reader.sector_size()) / SECTOR_SIZE as u64;
    let mut found = Vec::new();
    for entry in table.chunks_exact(header.entry_bytes as usize) {
        let Some(partition) = entry_partition(disk, entry, &header, per_block, reader.sectors())
        else {
            continue;
        };
        if found.len() == MAX_PARTITIONS {
            warn!("{disk}: GPT: more than {MAX_PARTITIONS} partitions: the rest is ignored");
            break;
        }
        found.push(partition);
    }
    Ok(found)
}

fn header(block: &[u8], place: u64, blocks: u64) -> Result<Header, &'static str> {
    const CUT: &str = "header cut off";
    if block.get(..8) != Some(SIGNATURE) {
        return Err("no signature");
    }
    let header_bytes = u32_at(block, 12).ok_or(CUT)?;
    if header_bytes < HEADER_BYTES || header_bytes as usize > block.len() {
        return Err("size of the header is wrong");
    }
    let covered = &block[..header_bytes as usize];
    // The checksum is taken with its own field as zero.
    let sum = crc32(&[&covered[..16], &[0; 4], &covered[20..]]);
    if u32_at(block, 16) != Some(sum) {
        return Err("checksum of the header is wrong");
    }
    if u64_at(block, 24) != Some(place) {
        return Err("header is not of this block");
    }
    let header = Header {
        first_usable: u64_at(block, 40).ok_or(CUT)?,
        last_usable: u64_at(block, 48).ok_or(CUT)?,
        table: u64_at(block, 72).ok_or(CUT)?,
        entries: u32_at(block, 80).ok_or(CUT)?,
        entry_bytes: u32_at(block, 84).ok_or(CUT)?,
        table_crc: u32_at(block, 88).ok_or(CUT)?,
    };
    if !(MIN_ENTRY_BYTES..=MAX_ENTRY_BYTES).contains(&header.entry_bytes)
        || !header.entry_bytes.is_power_of_two()
    {
        return Err("size of an entry is wrong");
    }
    if header.first_usable > header.last_usable || header.last_usable >= blocks {
        return Err("usable blocks are not within the disk");
    }
    Ok(header)
}

fn entry_partition(
    disk: &str,
    entry: &[u8],
    header: &Header,
    per_block: u64,
    capacity: u64,
) -> Option<Partition> {
    let kind = entry.get(..16)?;
    if kind.iter().all(|&byte| byte == 0) {
        return None;
    }
    let (first, last) = (u64_at(entry, 32)?, u64_at(entry, 40)?);
    if first < header.first_usable || last > header.last_usable || first > last {
        warn!("{disk}: GPT: partition of blocks {first} to {last} is outside the usable ones");
        return None;
    }
    let start = first.checked_mul(per_block)?;
    let sectors = (last - first + 1).checked_mul(per_block)?;
    if !fits(disk, "GPT", start, sectors, capacity) {
        return None;
    }
    let known = KINDS.iter().find(|(guid, _)| guid[..] == *kind);
    Some(Partition {
        name: PartitionName::Wedge,
        start,
        sectors,
        kind: known.map_or("unknown", |(_, name)| name),
        label: label(entry.get(56..128)?),
    })
}

/// The name: UTF-16, up to 36 units, ended by a zero.
fn label(bytes: &[u8]) -> String {
    let units = (0..bytes.len() / 2).filter_map(|number| u16_at(bytes, number * 2));
    char::decode_utf16(units.take_while(|&unit| unit != 0))
        .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER))
        .map(|char| if char.is_control() { '?' } else { char })
        .collect()
}

/// CRC-32 of the concatenated `pieces` (reflected polynomial 0xedb88320).
pub(super) fn crc32(pieces: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for byte in pieces.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry != 0 {
                crc ^= 0xedb8_8320;
            }
        }
    }
    !crc
}
