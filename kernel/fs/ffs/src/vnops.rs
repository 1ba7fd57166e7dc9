//! A file in use, as `rumpvfs` asks for it.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use rumpuser::{Errno, SECTOR_SIZE, WallTime};
use rumpvfs::vnode::{DirEntry, DirSink, InodeNumber, Run, Vattr, VnodeOps, VnodeType};

use crate::bmap;
use crate::corrupt::{Corrupt, Fault};
use crate::dir;
use crate::disk::read_with;
use crate::inode::{Contents, Inode};
use crate::lookup;
use crate::vfsops::Volume;

/// A file of a mounted volume.
pub struct Node {
    volume: Arc<Volume>,
    inode: Inode,
    /// Where in a directory the last look-up ended (`i_diroff`).
    found: AtomicU64,
}

impl Node {
    /// The file that `inode` describes.
    pub fn new(volume: Arc<Volume>, inode: Inode) -> Node {
        Node {
            volume,
            inode,
            found: AtomicU64::new(0),
        }
    }

    fn must_be(&self, vtype: VnodeType, otherwise: Errno) -> Result<(), Errno> {
        if self.inode.vtype == vtype {
            Ok(())
        } else {
            Err(otherwise)
        }
    }

    /// Puts as much of a long link's text as fits into `buf`; how much that is.
    fn read_link_block(&self, buf: &mut [u8]) -> Result<usize, Fault> {
        let (sb, disk) = (&self.volume.sb, &self.volume.device);
        let extent = bmap::map(sb, disk, &self.inode, 0, 1)?;
        let len = buf.len().min(self.inode.size as usize);
        let Some(address) = extent.address else {
            return Err(Corrupt::SymlinkText {
                ino: self.inode.ino,
            }
            .into());
        };
        let piece = sb.tail_piece();
        for (index, part) in buf[..len].chunks_mut(piece).enumerate() {
            let at = sb.byte_of(address) + (index * piece) as u64;
            read_with(disk, at, piece, |bytes| {
                part.copy_from_slice(&bytes[..part.len()]);
            })?;
        }
        Ok(len)
    }

    fn run(&self, offset: u64, want: u64) -> Result<Run, Fault> {
        let sb = &self.volume.sb;
        let (block, into) = (offset >> sb.bshift, offset % u64::from(sb.bsize));
        let blocks = into.saturating_add(want).div_ceil(u64::from(sb.bsize));
        let extent = bmap::map(sb, &self.volume.device, &self.inode, block, blocks)?;
        if into >= extent.bytes {
            // Behind the fragments of a last block, but within the block.
            return Ok(Run {
                sector: None,
                bytes: u64::from(sb.bsize) - into,
            });
        }
        let bytes = extent.bytes - into;
        let Some(address) = extent.address else {
            return Ok(Run {
                sector: None,
                bytes,
            });
        };
        let start = sb.byte_of(address) + into;
        let sector = start / SECTOR_SIZE as u64;
        let left = self.volume.device.sectors().saturating_sub(sector);
        if left == 0 {
            return Err(Fault::Device {
                at: start,
                errno: Errno::EINVAL,
            });
        }
        Ok(Run {
            sector: Some(sector),
            bytes: bytes.min(left * SECTOR_SIZE as u64),
        })
    }
}

impl VnodeOps for Node {
    fn getattr(&self) -> Result<Vattr, Errno> {
        let inode = &self.inode;
        Ok(Vattr {
            vtype: inode.vtype,
            mode: inode.permissions,
            nlink: u32::from(inode.nlink),
            uid: inode.uid,
            gid: inode.gid,
            fileid: InodeNumber::from(inode.ino),
            size: inode.size,
            blocksize: self.volume.sb.bsize,
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
            birthtime: inode.birthtime.unwrap_or(WallTime {
                seconds: 0,
                nanos: 0,
            }),
            generation: u64::from(inode.generation),
            flags: inode.flags,
            rdev: match inode.contents {
                Contents::Device(number) => number,
                _ => 0,
            },
            bytes: inode.blocks.saturating_mul(SECTOR_SIZE as u64),
        })
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeNumber, Errno> {
        self.must_be(VnodeType::Dir, Errno::ENOTDIR)?;
        let (sb, disk) = (&self.volume.sb, &self.volume.device);
        let hint = self.found.load(Ordering::Relaxed);
        let found = lookup::lookup(sb, disk, &self.inode, name, hint);
        let found = self.volume.told(found)?.ok_or(Errno::ENOENT)?;
        self.found.store(found.offset, Ordering::Relaxed);
        Ok(InodeNumber::from(found.ino))
    }

    fn readdir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        self.must_be(VnodeType::Dir, Errno::ENOTDIR)?;
        if !cookie.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let (sb, disk) = (&self.volume.sb, &self.volume.device);
        let range = (cookie, self.inode.size);
        let walked = dir::walk(sb, disk, &self.inode, range, &mut |entry| {
            sink.entry(&DirEntry {
                fileid: InodeNumber::from(entry.ino),
                vtype: entry.vtype,
                name: entry.name,
                next_cookie: entry.offset + u64::from(entry.reclen),
            })
        });
        self.volume.told(walked).map(|_| ())
    }

    fn readlink(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        self.must_be(VnodeType::Lnk, Errno::EINVAL)?;
        let len = match &self.inode.contents {
            Contents::Text { bytes, len } => {
                let len = usize::from(*len).min(buf.len());
                buf[..len].copy_from_slice(&bytes[..len]);
                len
            }
            _ => self.volume.told(self.read_link_block(buf))?,
        };
        let ino = self.inode.ino;
        if buf[..len].contains(&0) {
            return self.volume.told(Err(Corrupt::SymlinkText { ino }.into()));
        }
        Ok(len)
    }

    fn bmap(&self, offset: u64, want: u64) -> Result<Run, Errno> {
        self.volume.told(self.run(offset, want))
    }
}
