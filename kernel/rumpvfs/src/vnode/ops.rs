//! What a file system does for one of its files.

use super::{InodeNumber, NewFile, SetAttr, Vattr, Vnode, VnodeType};
use crate::specfs;
use crate::wapbl::Operation;
use alloc::sync::Arc;
use core::any::Any;
use rumpuser::Errno;

/// Where a run of a file's bytes lies on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first sector (512 bytes), or `None`: a hole, which reads as zeroes.
    pub sector: Option<u64>,
    /// Bytes that lie there in one piece; at least 1. More than was asked for is welcome: it tells
    /// the page cache how far it can read in one request.
    pub bytes: u64,
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The file's number.
    pub fileid: InodeNumber,
    /// Its type, where the directory says it.
    pub vtype: Option<VnodeType>,
    /// Its name, without a NUL: 1 to 255 bytes.
    pub name: &'a [u8],
    /// Where to go on after this entry.
    pub next_cookie: u64,
}

/// Takes what [`VnodeOps::readdir`] finds.
pub trait DirSink {
    /// Takes `entry`; `false` when there is no room for it, which ends the reading.
    fn entry(&mut self, entry: &DirEntry<'_>) -> bool;
}

impl<F: FnMut(&DirEntry<'_>) -> bool> DirSink for F {
    fn entry(&mut self, entry: &DirEntry<'_>) -> bool {
        self(entry)
    }
}

/// How far an operation that writes waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until everything is stable on the device (`MNT_WAIT`).
    Stable,
    /// Until everything is on its way (`MNT_NOWAIT`).
    Started,
}

/// A file of some file system: what lies inside a [`Vnode`] (its *inode*).
///
/// Locking. Every call but [`bmap`](VnodeOps::bmap) and [`fsync`](VnodeOps::fsync) is made with the vnode's lock held by the
/// caller: shared where the documentation says *shared*, else exclusive. `lookup` and all calls that
/// change a directory get the lock of the directory; the file named is locked too where it is an
/// argument. `bmap` may come at any time, from several threads at once and from the page daemon, with
/// no vnode lock held: an inode protects the map of its blocks by itself, by a lock that is never
/// held while memory is allocated.
///
/// Names are 1 to 255 bytes without `/` and NUL, and never `.`; whoever calls has checked that.
///
/// The calls that change something answer `EROFS` by default, so a file system that only reads need
/// not mention them.
pub trait VnodeOps: Any + Send + Sync {
    /// The attributes. *Shared.*
    ///
    /// # Errors
    /// `EIO` and the like.
    fn getattr(&self) -> Result<Vattr, Errno>;

    /// The number of the file that `name` names in this directory; `..` is asked for as well.
    /// *Shared.*
    ///
    /// # Errors
    /// `ENOENT`: no such name. `EIO`, or whatever a corrupt directory is reported as.
    fn lookup(&self, name: &[u8]) -> Result<InodeNumber, Errno> {
        let _ = name;
        Err(Errno::ENOTDIR)
    }

    /// Gives the entries of this directory from `cookie` on (0 is the start, others come from
    /// [`DirEntry::next_cookie`]) to `sink`, `.` and `..` included, until it is full or the
    /// directory ends. *Shared.*
    ///
    /// # Errors
    /// `EINVAL`: a cookie that cannot be one. `EIO` and the like; entries before the error
    /// have been given.
    fn readdir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        let _ = (cookie, sink);
        Err(Errno::ENOTDIR)
    }

    /// Puts the target of this symbolic link into the front of `buf` and answers its length; what
    /// does not fit is cut off. *Shared.*
    ///
    /// # Errors
    /// `EIO` and the like.
    fn readlink(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        let _ = buf;
        Err(Errno::EINVAL)
    }

    /// Where the bytes of this file from `offset` on lie. `offset` is a multiple of 512 and below
    /// the size rounded up to the block; what lies further is a hole. The run starts exactly at `offset`; `want` says how
    /// many bytes the caller could use, so that the file system need not look further. Never allocates blocks.
    ///
    /// # Errors
    /// `EIO` and the like for a map that is corrupt or cannot be read. `EDEADLK`: the answer
    /// would need memory or a lock that the page daemon may not wait for.
    fn bmap(&self, offset: u64, want: u64) -> Result<Run, Errno> {
        let _ = (offset, want);
        Err(Errno::EOPNOTSUPP)
    }

    /// Sees to it that every byte of `offset..offset + len` has a place on the device, so that
    /// writing it back needs no allocation. Bytes of newly allocated blocks outside the range
    /// that lie within the file must read as zeroes: the page cache dirties zeroed pages for them,
    /// as [`Balloc`] says.
    ///
    /// # Errors
    /// `ENOSPC`, `EDQUOT`, `EFBIG`; nothing beyond what was allocated before has changed.
    fn balloc(&self, vnode: &Arc<Vnode>, offset: u64, len: u64) -> Result<Balloc, Errno> {
        let _ = (vnode, offset, len);
        Err(Errno::EROFS)
    }

    /// Begins the operation of a journaled file system that a write is. The page cache begins it before it makes pages busy
    /// that it then asks places for ([`balloc`](VnodeOps::balloc)), and ends it when they are dirty: whoever commits may
    /// wait for pages, so nobody waits for a commit with pages. `None`: there is no journal.
    ///
    /// # Errors
    /// Those of a commit that had to come first.
    fn begin_write(&self) -> Result<Option<Operation>, Errno> {
        Ok(None)
    }

    /// Which bytes have to be in memory when the file grows from its size to `size`: the last block, if
    /// that gets more room and perhaps another place. Where it starts, and how far the file can grow
    /// within it. The page cache brings its pages in, keeps them, and calls
    /// [`balloc`](VnodeOps::balloc) for the bytes from the old end to there, before any other that lets
    /// the file grow. *Exclusive.*
    fn tail(&self, size: u64) -> Option<(u64, u64)> {
        let _ = size;
        None
    }

    /// Changes attributes. Before it frees what lies beyond a smaller size, the file system has the page cache drop that:
    /// [`Vnode::truncate_pages`].
    ///
    /// # Errors
    /// `EROFS`, `ENOSPC`, `EFBIG`, `EPERM` for immutable files.
    fn setattr(&self, vnode: &Arc<Vnode>, attributes: &SetAttr) -> Result<(), Errno> {
        let _ = (vnode, attributes);
        Err(Errno::EROFS)
    }

    /// Makes a file of any type but symbolic link and directory in this directory.
    ///
    /// # Errors
    /// `EROFS`, `EEXIST`, `ENOSPC`.
    fn create(&self, dvp: &Arc<Vnode>, name: &[u8], new: &NewFile) -> Result<InodeNumber, Errno> {
        let _ = (dvp, name, new);
        Err(Errno::EROFS)
    }

    /// Makes a directory in this directory.
    ///
    /// # Errors
    /// `EROFS`, `EEXIST`, `ENOSPC`, `EMLINK`.
    fn mkdir(&self, dvp: &Arc<Vnode>, name: &[u8], new: &NewFile) -> Result<InodeNumber, Errno> {
        let _ = (dvp, name, new);
        Err(Errno::EROFS)
    }

    /// Makes a symbolic link to `target` in this directory.
    ///
    /// # Errors
    /// `EROFS`, `EEXIST`, `ENOSPC`.
    fn symlink(
        &self,
        dvp: &Arc<Vnode>,
        name: &[u8],
        new: &NewFile,
        target: &[u8],
    ) -> Result<InodeNumber, Errno> {
        let _ = (dvp, name, new, target);
        Err(Errno::EROFS)
    }

    /// Gives `target`, a file of the same mount and no directory, one more name in this directory.
    ///
    /// # Errors
    /// `EROFS`, `EEXIST`, `ENOSPC`, `EMLINK`.
    fn link(&self, dvp: &Arc<Vnode>, name: &[u8], target: &Arc<Vnode>) -> Result<(), Errno> {
        let _ = (dvp, name, target);
        Err(Errno::EROFS)
    }

    /// Removes `name`, which names `target` and no directory.
    ///
    /// # Errors
    /// `EROFS`, `EPERM` for immutable files.
    fn remove(&self, dvp: &Arc<Vnode>, name: &[u8], target: &Arc<Vnode>) -> Result<(), Errno> {
        let _ = (dvp, name, target);
        Err(Errno::EROFS)
    }

    /// Removes the directory `name`, which is `target`.
    ///
    /// # Errors
    /// `EROFS`, `ENOTEMPTY`.
    fn rmdir(&self, dvp: &Arc<Vnode>, name: &[u8], target: &Arc<Vnode>) -> Result<(), Errno> {
        let _ = (dvp, name, target);
        Err(Errno::EROFS)
    }

    /// Renames as [`Rename`] says. `self` is the directory renamed from.
    ///
    /// # Errors
    /// `EROFS`, `ENOTEMPTY`, `ENOSPC`, `EMLINK`; the caller has excluded loops and other mounts.
    fn rename(&self, rename: &Rename<'_>) -> Result<(), Errno> {
        let _ = rename;
        Err(Errno::EROFS)
    }

    /// Makes the file's metadata stable as far as `wait` says; the buffer cache has them ([`update`](VnodeOps::update)), and its pages
    /// are written already, to a device that may keep them in a cache of its own: [`Wait::Stable`] includes that. The vnode is
    /// not locked.
    ///
    /// # Errors
    /// `EIO` and the like.
    fn fsync(&self, vnode: &Arc<Vnode>, wait: Wait) -> Result<(), Errno> {
        match (wait, vnode.mount().device()) {
            (Wait::Stable, Some(device)) => specfs::flush(&**device),
            _ => Ok(()),
        }
    }

    /// Whether the buffer cache has older metadata of the file than the file system: then [`update`](VnodeOps::update) is called
    /// before a sync, and the page daemon leaves the vnode alone. Asked at any time, from any thread.
    fn is_changed(&self) -> bool {
        false
    }

    /// Gives what is in memory of the file's metadata to the buffer cache (`VOP_UPDATE`).
    ///
    /// # Errors
    /// `EIO` and the like.
    fn update(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// The last user is gone; not called on a mount that is only read. A file without a name left is truncated and freed here; answers
    /// whether the vnode should be forgotten at once instead of being cached; its pages are dropped then, and
    /// not written.
    fn inactive(&self, vnode: &Arc<Vnode>) -> bool {
        let _ = vnode;
        false
    }

    /// The vnode is about to be forgotten: nobody uses it and its pages are clean and gone. What of it
    /// [changed](VnodeOps::is_changed) is kept by this.
    fn reclaim(&self) {}
}

/// What [`VnodeOps::balloc`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balloc {
    /// The byte range that got new blocks, and so holds stale bytes on the device; empty if none.
    /// The page cache zeroes what of it the writer does not overwrite.
    pub new: (u64, u64),
    /// The [tail](VnodeOps::tail) lies elsewhere now, where nothing of it is yet: its pages are dirty.
    pub moved: bool,
}

/// A rename: everything that [`VnodeOps::rename`] needs, all locked, all of one mount.
pub struct Rename<'a> {
    /// The directory renamed from.
    pub from_dir: &'a Arc<Vnode>,
    /// The name there.
    pub from_name: &'a [u8],
    /// The file it names.
    pub from: &'a Arc<Vnode>,
    /// The directory renamed to; may be `from_dir`.
    pub to_dir: &'a Arc<Vnode>,
    /// The name there.
    pub to_name: &'a [u8],
    /// What that name names so far: it is replaced.
    pub to: Option<&'a Arc<Vnode>>,
}
