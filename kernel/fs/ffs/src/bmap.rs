//! Where the blocks of a file lie: from a logical block to an address, by way of direct and
//! indirect pointers. Never allocates.
//!
//! [`Path`] says which pointers lead to a block, for reading here and for whoever allocates;
//! [`map`] follows them and answers how far the file goes on in one piece, so that the page cache
//! can move a run at once.
//!
//! Source: NetBSD sys/ufs/ufs/ufs_bmap.c (`ufs_getlbns`, `ufs_bmaparray`).

use crate::corrupt::{Corrupt, Fault};
use crate::disk::{Metadata, PIECE, read_in_block};
use crate::inode::{Contents, Inode, pointer};
use crate::raw::{UFS_NDADDR, UFS_NIADDR};
use crate::superblock::Superblock;
use rumpuser::Errno;

/// The way from an inode to a logical block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Indirect blocks on the way: 0 for a block with a pointer of its own in the inode.
    pub depth: usize,
    /// Which of the inode's direct pointers, if `depth` is 0.
    pub direct: usize,
    /// Which pointer in each indirect block, outermost first; `depth` of them count.
    pub indices: [u32; UFS_NIADDR],
}

impl Path {
    /// The way to logical block `block`; `None` if it is beyond the last that pointers reach.
    pub fn to(nindir: u32, block: u64) -> Option<Path> {
        let n = u64::from(nindir);
        let mut path = Path {
            depth: 0,
            direct: 0,
            indices: [0; UFS_NIADDR],
        };
        if block < UFS_NDADDR as u64 {
            path.direct = block as usize;
            return Some(path);
        }
        let mut rest = block - UFS_NDADDR as u64;
        let mut reach = n;
        for depth in 1..=UFS_NIADDR {
            if rest < reach {
                path.depth = depth;
                for index in path.indices[..depth].iter_mut().rev() {
                    *index = (rest % n) as u32;
                    rest /= n;
                }
                return Some(path);
            }
            rest -= reach;
            reach *= n;
        }
        None
    }

    /// Blocks from this one on to which one pointer leads: the pointer that is `levels` steps away
    /// from data, 1 being that in the inode or indirect block which finds the block itself.
    fn rest_under(&self, nindir: u32, levels: usize) -> u64 {
        let n = u64::from(nindir);
        let below = &self.indices[self.depth + 1 - levels..self.depth];
        let passed = below
            .iter()
            .fold(0, |sum, index| sum * n + u64::from(*index));
        n.pow(levels as u32 - 1) - passed
    }
}

/// A piece of a file that lies together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first fragment; `None` for a hole.
    pub address: Option<u64>,
    /// Bytes of the file in it: whole blocks, but for a last block of only some fragments.
    pub bytes: u64,
}

/// Where logical block `block` of the file lies, and how far the file goes on behind it. Looks at
/// no more than `want` blocks if that costs anything; the answer may be longer or shorter, but
/// holds at least one block.
pub fn map(
    sb: &Superblock,
    disk: &dyn Metadata,
    inode: &Inode,
    block: u64,
    want: u64,
) -> Result<Extent, Fault> {
    let Contents::Blocks { direct, indirect } = &inode.contents else {
        return Ok(hole(sb, want.max(1)));
    };
    // Nothing is wrong with the inode: a size that no pointers reach was refused when it was read.
    let path = Path::to(sb.nindir, block).ok_or(Fault::Refused(Errno::EFBIG))?;
    let mut run = Run::new(sb, inode, block);
    if path.depth == 0 {
        run.extend(direct[path.direct..].iter().copied(), want)?;
        return Ok(run.extent());
    }
    let mut address = indirect[path.depth - 1];
    for (step, index) in path.indices[..path.depth].iter().enumerate() {
        let level = path.depth - step;
        if address == 0 {
            return Ok(hole(sb, path.rest_under(sb.nindir, level + 1)));
        }
        let at = indirect_place(sb, inode, block, level, address)?;
        let width = sb.format.pointer_size();
        let (order, byte) = (sb.order, *index as usize * width);
        address = read_in_block(disk, at, byte, |bytes| {
            if level > 1 {
                return Ok(pointer(order, bytes.get(..width).unwrap_or_default()));
            }
            let pointers = bytes.chunks_exact(width);
            run.extend(pointers.map(|bytes| pointer(order, bytes)), want)?;
            Ok::<i64, Corrupt>(0)
        })??;
    }
    Ok(run.extent())
}

/// The last block of `inode` that has a place, wherever the file ends. What is corrupt counts as having none.
pub fn last_block(
    sb: &Superblock,
    disk: &dyn Metadata,
    inode: &Inode,
) -> Result<Option<u64>, Fault> {
    let Contents::Blocks { direct, indirect } = &inode.contents else {
        return Ok(None);
    };
    let n = u64::from(sb.nindir);
    let mut first = UFS_NDADDR as u64 + n + n.saturating_mul(n);
    for (level, address) in indirect.iter().enumerate().rev() {
        if let Some(block) = last_under(sb, disk, *address, level + 1)? {
            return Ok(Some(first + block));
        }
        first -= n.saturating_pow(level as u32);
    }
    let last = direct.iter().rposition(|address| *address != 0);
    Ok(last.map(|block| block as u64))
}

/// The last block with a place among those that the indirect block at `address` leads to, counted from its first.
fn last_under(
    sb: &Superblock,
    disk: &dyn Metadata,
    address: i64,
    level: usize,
) -> Result<Option<u64>, Fault> {
    let place = u64::try_from(address).unwrap_or(0);
    if address == 0 || !sb.is_data(place, sb.frag) {
        return Ok(None);
    }
    let width = sb.format.pointer_size();
    let per_piece = PIECE / width;
    let span = u64::from(sb.nindir).saturating_pow(level as u32 - 1);
    for piece in (0..sb.bsize as usize / PIECE).rev() {
        let mut before = per_piece;
        loop {
            let start = piece * PIECE;
            let found = read_in_block(disk, sb.byte_of(place), start, |bytes| {
                let pointers = bytes.chunks_exact(width).take(before);
                let mut known = pointers.map(|bytes| pointer(sb.order, bytes)).enumerate();
                known.rfind(|(_, address)| *address != 0)
            })?;
            let Some((index, child)) = found else {
                break;
            };
            let passed = (piece * per_piece + index) as u64 * span;
            if level == 1 {
                return Ok(Some(passed));
            }
            if let Some(block) = last_under(sb, disk, child, level - 1)? {
                return Ok(Some(passed + block));
            }
            before = index;
        }
    }
    Ok(None)
}

/// The byte at which the indirect block at `address` starts.
fn indirect_place(
    sb: &Superblock,
    inode: &Inode,
    block: u64,
    level: usize,
    address: i64,
) -> Result<u64, Corrupt> {
    match u64::try_from(address) {
        Ok(place) if sb.is_data(place, sb.frag) => Ok(sb.byte_of(place)),
        _ => Err(Corrupt::IndirectPointer {
            ino: inode.ino,
            block,
            level: level as u8,
            address,
        }),
    }
}

fn hole(sb: &Superblock, blocks: u64) -> Extent {
    Extent {
        address: None,
        bytes: blocks << sb.bshift,
    }
}

/// A run that grows pointer by pointer.
struct Run<'a> {
    sb: &'a Superblock,
    inode: &'a Inode,
    block: u64,
    blocks: u64,
    first: i64,
    bytes: u64,
}

impl<'a> Run<'a> {
    fn new(sb: &'a Superblock, inode: &'a Inode, block: u64) -> Run<'a> {
        Run {
            sb,
            inode,
            block,
            blocks: 0,
            first: 0,
            bytes: 0,
        }
    }

    /// Takes up to `want` of `pointers` as long as each goes on where the one before ended. Only
    /// the first is an error if it is bad: the others will be first some day.
    fn extend(&mut self, pointers: impl Iterator<Item = i64>, want: u64) -> Result<(), Corrupt> {
        for address in pointers.take(want.clamp(1, PIECE as u64) as usize) {
            if self.blocks == 0 {
                self.first = address;
            } else if address != self.next() {
                break;
            }
            let block = self.block + self.blocks;
            let bytes = match address {
                0 => self.sb.bsize,
                _ => self.sb.block_bytes(self.inode.size, block),
            };
            if address != 0 && !self.is_data(address, bytes) {
                if self.blocks > 0 {
                    break;
                }
                return Err(Corrupt::Pointer {
                    ino: self.inode.ino,
                    block,
                    address,
                });
            }
            self.blocks += 1;
            self.bytes += u64::from(bytes);
            if bytes < self.sb.bsize {
                break;
            }
        }
        Ok(())
    }

    fn next(&self) -> i64 {
        match self.first {
            0 => 0,
            first => first.wrapping_add((self.blocks << self.sb.fragshift) as i64),
        }
    }

    /// Whether a block of `bytes` may lie at `address`. What lies behind the end of the file has no
    /// bytes, and is judged as a whole block.
    fn is_data(&self, address: i64, bytes: u32) -> bool {
        let count = match bytes {
            0 => self.sb.frag,
            _ => bytes >> self.sb.fshift,
        };
        u64::try_from(address).is_ok_and(|address| self.sb.is_data(address, count))
    }

    fn extent(&self) -> Extent {
        Extent {
            address: (self.first != 0).then_some(self.first as u64),
            bytes: self.bytes,
        }
    }
}

#[cfg(test)]
mod tests;
