//! A file in use, as `rumpvfs` asks for it.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rumpkern::kmem;
use rumpkern::locks::{Mutex, OnceLock};
use rumpuser::{Errno, SECTOR_SIZE, WallTime};
use rumpvfs::vnode::{
    Balloc, DirEntry, DirSink, InodeNumber, NewFile, Rename, Run, SetAttr, Vattr, Vnode, VnodeOps,
    VnodeType, Wait,
};
use rumpvfs::wapbl::Operation;

use crate::bmap;
use crate::corrupt::Fault;
use crate::dir::{self, Shape};
use crate::dirhash::{Candidates, Hashed, LEAST_UNITS};
use crate::inode::{Contents, Inode};
use crate::link;
use crate::logging::cost;
use crate::lookup::{self, Found};
use crate::raw::DIRBLKSIZ;
use crate::volume::Volume;

/// A file of a mounted volume.
///
/// Whoever changes the file holds its vnode's lock exclusively, works on a copy of the inode and puts
/// that back; the lock of the inode is held for no longer than a copy takes, and nothing is allocated
/// under it: the page daemon takes it, too.
pub struct Node {
    pub(crate) volume: Arc<Volume>,
    pub(crate) ino: u32,
    pub(crate) vtype: VnodeType,
    inode: Mutex<Inode>,
    /// Where in a directory the last look-up ended (`i_diroff`).
    pub(crate) found: AtomicU64,
    /// Of a large directory: where its names are.
    pub(crate) hashed: OnceLock<Arc<Hashed>>,
    /// Units of a directory before this offset have no room.
    pub(crate) room: AtomicU64,
    /// The buffer cache has an older inode: other times, or without blocks that the file was given since.
    pub(crate) is_changed: AtomicBool,
    /// It has no name and no blocks any more: its inode is a free one.
    pub(crate) gone: AtomicBool,
    /// Its data have to be on the disk before the next commit.
    is_fresh: AtomicBool,
}

impl Node {
    /// The file that `inode` describes.
    pub fn new(volume: Arc<Volume>, inode: Inode) -> Node {
        Node {
            volume,
            ino: inode.ino,
            vtype: inode.vtype,
            inode: Mutex::new(inode),
            found: AtomicU64::new(0),
            hashed: OnceLock::new(),
            room: AtomicU64::new(0),
            is_changed: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            is_fresh: AtomicBool::new(false),
        }
    }

    /// The inode as it is now.
    pub(crate) fn inode(&self) -> Inode {
        self.inode.lock().clone()
    }

    /// Whether its data have to be on the disk before the next commit.
    pub(crate) fn is_fresh(&self) -> bool {
        self.is_fresh.load(Ordering::Acquire)
    }

    /// Says so. Answers whether that is news.
    pub(crate) fn set_fresh(&self, is_fresh: bool) -> bool {
        self.is_fresh.swap(is_fresh, Ordering::AcqRel) != is_fresh
    }

    /// Runs a change of up to `buffers` buffers as an operation.
    fn operate<T>(
        &self,
        buffers: usize,
        change: impl FnOnce() -> Result<T, Fault>,
    ) -> Result<T, Errno> {
        self.volume.changed(self.volume.operate(buffers, change))
    }

    /// How many names it has.
    pub(crate) fn names(&self) -> u16 {
        self.inode.lock().nlink
    }

    /// Puts a changed copy of the inode back.
    pub(crate) fn set_inode(&self, inode: &Inode) {
        self.inode.lock().clone_from(inode);
    }

    fn must_be(&self, vtype: VnodeType, otherwise: Errno) -> Result<(), Errno> {
        if self.vtype == vtype {
            Ok(())
        } else {
            Err(otherwise)
        }
    }

    /// Where `name` is in this directory, which `inode` describes.
    pub(crate) fn find(&self, inode: &Inode, name: &[u8]) -> Result<Option<Found>, Fault> {
        let (sb, disk) = (&self.volume.sb, &self.volume.device);
        if let Some(candidates) = self.candidates(inode, name) {
            return lookup::among(sb, disk, inode, name, candidates.as_slice());
        }
        let hint = self.found.load(Ordering::Relaxed);
        let found = lookup::lookup(sb, disk, inode, name, hint)?;
        if let Some(found) = found {
            self.found.store(found.offset, Ordering::Relaxed);
        }
        Ok(found)
    }

    /// Where `name` may be, and nowhere else; `None`: the directory has to be read.
    fn candidates(&self, inode: &Inode, name: &[u8]) -> Option<Candidates> {
        let units = inode.size / DIRBLKSIZ as u64;
        if units <= LEAST_UNITS {
            return None;
        }
        let volume = &*self.volume;
        let hashes = volume.hashes.as_ref()?;
        if self.hashed.get().is_none() {
            // Somebody else may have been faster: one is as good as the other.
            let _ = self.hashed.set(kmem::try_arc(Hashed::default()).ok()?);
        }
        let (sb, disk) = (&volume.sb, &volume.device);
        hashes.candidates(self.hashed.get()?, units, name, |hash| {
            let shape = Shape::of(sb);
            let range = (0, inode.size);
            let walked = dir::walk_units(sb, disk, inode, range, &mut |unit, offset| {
                hash.learn(&shape, unit, offset)
            });
            walked.unwrap_or(false)
        })
    }

    /// Puts as much of a long link's text as fits into `buf`; how much that is.
    fn run(&self, offset: u64, want: u64) -> Result<Run, Fault> {
        let sb = &self.volume.sb;
        let (block, into) = (offset >> sb.bshift, offset % u64::from(sb.bsize));
        let blocks = into.saturating_add(want).div_ceil(u64::from(sb.bsize));
        let extent = bmap::map(sb, &self.volume.device, &self.inode(), block, blocks)?;
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
        let inode = self.inode.lock();
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
        let found = self.volume.told(self.find(&self.inode(), name))?;
        found
            .map(|found| InodeNumber::from(found.ino))
            .ok_or(Errno::ENOENT)
    }

    fn readdir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        self.must_be(VnodeType::Dir, Errno::ENOTDIR)?;
        if !cookie.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let (sb, disk) = (&self.volume.sb, &self.volume.device);
        let inode = self.inode();
        let range = (cookie, inode.size);
        let walked = dir::walk(sb, disk, &inode, range, &mut |entry| {
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
        let (sb, disk) = (&self.volume.sb, &self.volume.device);
        self.volume
            .told(link::read_text(sb, disk, &self.inode(), buf))
    }

    fn bmap(&self, offset: u64, want: u64) -> Result<Run, Errno> {
        self.volume.told(self.run(offset, want))
    }

    fn tail(&self, size: u64) -> Option<(u64, u64)> {
        self.growing_tail(size)
    }

    fn begin_write(&self) -> Result<Option<Operation>, Errno> {
        self.volume.told(self.volume.begin(cost::WRITE))
    }

    fn balloc(&self, vnode: &Arc<Vnode>, offset: u64, len: u64) -> Result<Balloc, Errno> {
        self.volume.changed(self.allocate(vnode, offset, len))
    }

    fn setattr(&self, vnode: &Arc<Vnode>, attributes: &SetAttr) -> Result<(), Errno> {
        self.volume.changed(self.change(vnode, attributes))
    }

    fn create(&self, _: &Arc<Vnode>, name: &[u8], new: &NewFile) -> Result<InodeNumber, Errno> {
        self.operate(cost::NAME, || self.make_file(name, new))
    }

    fn mkdir(&self, _: &Arc<Vnode>, name: &[u8], new: &NewFile) -> Result<InodeNumber, Errno> {
        self.operate(cost::NAME, || self.make_directory(name, new))
    }

    fn symlink(
        &self,
        _: &Arc<Vnode>,
        name: &[u8],
        new: &NewFile,
        target: &[u8],
    ) -> Result<InodeNumber, Errno> {
        self.operate(cost::NAME, || self.make_link(name, new, target))
    }

    fn link(&self, _: &Arc<Vnode>, name: &[u8], target: &Arc<Vnode>) -> Result<(), Errno> {
        let target = node(target)?;
        self.operate(cost::NAME, || self.add_name(name, target))
    }

    fn remove(&self, _: &Arc<Vnode>, name: &[u8], target: &Arc<Vnode>) -> Result<(), Errno> {
        let target = node(target)?;
        self.operate(cost::REMOVE, || self.remove_file(name, target))
    }

    fn rmdir(&self, _: &Arc<Vnode>, name: &[u8], target: &Arc<Vnode>) -> Result<(), Errno> {
        let target = node(target)?;
        self.operate(cost::REMOVE, || self.remove_directory(name, target))
    }

    fn rename(&self, rename: &Rename<'_>) -> Result<(), Errno> {
        let moving = crate::rename::Moving {
            from_dir: node(rename.from_dir)?,
            from_name: rename.from_name,
            file: node(rename.from)?,
            to_dir: node(rename.to_dir)?,
            to_name: rename.to_name,
            replaced: rename.to.map(node).transpose()?,
        };
        self.operate(cost::RENAME, || moving.run())
    }

    fn fsync(&self, _: &Arc<Vnode>, wait: Wait) -> Result<(), Errno> {
        if self.volume.told(self.volume.commit())? {
            return Ok(());
        }
        // The inode shares its buffer; what else belongs to the file are its indirect blocks.
        self.volume.device.flush(wait)
    }

    fn inactive(&self, vnode: &Arc<Vnode>) -> bool {
        self.let_go(vnode)
    }

    fn reclaim(&self) {
        if self.gone.load(Ordering::Acquire) {
            self.volume.release(self.ino, self.vtype == VnodeType::Dir);
            self.volume.nameless.fetch_sub(1, Ordering::AcqRel);
        } else {
            // If it fails, it was logged, and what is on the disk is to be checked.
            let _ = self.volume.changed(self.store_changed());
        }
    }

    fn is_changed(&self) -> bool {
        self.is_changed.load(Ordering::Acquire) && !self.gone.load(Ordering::Acquire)
    }

    fn update(&self) -> Result<(), Errno> {
        self.volume.told(self.store_changed())
    }
}

/// The file system's part of a vnode of the same volume.
fn node(vnode: &Arc<Vnode>) -> Result<&Node, Errno> {
    vnode.inode::<Node>().ok_or(Errno::EXDEV)
}
