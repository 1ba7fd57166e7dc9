//! Block devices: files, and memory.

mod completions;
mod file;
mod image;
mod ram;

pub use file::FileDisk;
pub use image::ImageFile;
pub use ram::{RamDisk, RamDiskStats};

use rumpuser::{BioOp, BioRequest, BlockInfo, Errno, MAX_DISCARD_SECTORS, SECTOR_SIZE};

/// What is true of every request that a device of this host accepts.
///
/// Gives the byte offset of the first sector and the number of bytes in the segments.
fn check(info: &BlockInfo, request: &BioRequest<'_>) -> Result<(u64, usize), Errno> {
    let bytes = request
        .segments
        .iter()
        .try_fold(0usize, |sum, segment| sum.checked_add(segment.len))
        .ok_or(Errno::EINVAL)?;
    let unit = u64::from(info.sector_size);
    if request.sector > info.sectors {
        return Err(Errno::EINVAL);
    }
    let sectors = match request.op {
        BioOp::Read | BioOp::Write => (bytes / SECTOR_SIZE) as u64,
        BioOp::Discard { .. } if !info.discard => return Err(Errno::EOPNOTSUPP),
        BioOp::Discard { sectors } if sectors > MAX_DISCARD_SECTORS => return Err(Errno::EINVAL),
        BioOp::Discard { sectors } => sectors,
        BioOp::Flush => return Ok((0, 0)),
    };
    if info.read_only && request.op != BioOp::Read {
        return Err(Errno::EROFS);
    }
    let aligned = (sectors * SECTOR_SIZE as u64).is_multiple_of(unit)
        && bytes.is_multiple_of(SECTOR_SIZE)
        && (request.sector * SECTOR_SIZE as u64).is_multiple_of(unit);
    let end = request.sector.checked_add(sectors).ok_or(Errno::EINVAL)?;
    let fits = request.segments.len() <= info.max_segments && bytes <= info.max_bytes;
    if sectors == 0 || end > info.sectors || !aligned || !fits {
        return Err(Errno::EINVAL);
    }
    Ok((request.sector * SECTOR_SIZE as u64, bytes))
}
