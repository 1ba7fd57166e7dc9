//! The Berkeley fast file system: UFS1 and UFS2 of either byte order.
//!
//! # The disk, in ten lines
//!
//! Addresses are in *fragments* (512 bytes to a block); a *block* is 1, 2, 4 or 8 of them (4 to 64
//! KiB). The volume is cut into equal *cylinder groups*. Each has, from its start: a copy of
//! the superblock, its own block with counters and bitmaps, its inodes, data. The superblock proper
//! lies at one of four places near the start and has all sizes; behind the metadata of group 0 lies
//! the *summary*, the counters of all groups. An inode has its file's attributes and twelve pointers
//! to blocks, then one each to blocks of pointers of one, two and three levels; 0 is a hole. The last
//! block of a file of at most twelve may be only some fragments. A directory is a file of 512-byte
//! units, each covered by entries of number, length, type and name. Inode 2 is the root.
//!
//! # Where things are
//!
//! [`raw`] has the bytes; [`superblock`], [`geometry`], [`cg`], [`inode`], [`dir`] judge them;
//! [`bmap`] and [`lookup`] find blocks and names, [`dirhash`] those of large directories; [`link`] reads symbolic links;
//! [`corrupt`] lists what can be wrong. All of them
//! see the disk by way of [`disk::Metadata`] alone. What writes: [`allocator`] knows what is free,
//! [`balloc`] and [`mod@truncate`] give and take the blocks of a file, [`entries`] changes directories,
//! `files`, `names` and `rename` are the operations. [`volume`] is a mounted volume; [`vfsops`] and
//! [`vnops`] are what `rumpvfs` is given. [`mkfs`] makes a volume, [`check`] finds what is
//! inconsistent in one.
//!
//! File data never passes through here: the page cache asks [`bmap`] where it lies. Metadata, and
//! with them directories and long symlinks, pass through the buffer cache.
//!
//! # What is refused
//!
//! A journal that cannot be replayed (EFTYPE), unless the mount is for reading and says `force`. Unknown flags
//! (EINVAL), unless it says `force`.
//! Everything in a superblock that contradicts the rest (EINVAL); everything found wrong later (EIO),
//! or an inode that is free (ENOENT). Writing (EROFS) to a volume that was not left clean, unless the mount
//! says `force`; to one with quotas or snapshots; to formats older than 2003. Every refusal is
//! logged with its place.
//!
//! Reading a file does not change its access time.
//!
//! # What a crash leaves
//!
//! With a log (`logging.rs`): whole operations up to some one, at least all that were synced; a replay puts them in place, in
//! time proportional to the log.
//!
//! Without a log, writes are ordered so that a check can always repair: see `names.rs` for
//! names and link counts, [`mod@truncate`] for blocks, [`balloc`] for indirect blocks. Few of them are waited for: a
//! change tells the buffer cache after which others it may be written (`rumpvfs::bufcache`, "Order"). Maps and
//! counters are written late: a check computes them from the inodes. The size and the blocks of a file that is being
//! written are told to the buffer cache when it is closed, or synced. What was synced is there, also on a disk with a volatile
//! cache; but file data is not ordered: a block that was new, a filled hole included, may show what it held before.
//!
//! # Locks
//!
//! A later one is not held when an earlier is taken.
//!
//! 1. vnode locks, as `rumpvfs` orders them: whoever changes a file has its lock exclusively;
//! 2. an operation of the log, where one is kept; a commit is like this lock held exclusively. Pages are made busy within one;
//! 3. a volume's space (`Volume::allocator`): held over reads and writes of groups, inodes and
//!    indirect blocks. The page daemon never takes it;
//! 4. buffers: one at a time;
//! 5. an inode (`Node::inode`): only to be copied, with nothing allocated meanwhile. The page daemon
//!    takes it, to learn where blocks lie.
//!
//! # Sources
//!
//! NetBSD sys/ufs/ffs/fs.h (1.73), sys/ufs/ufs/dinode.h, sys/ufs/ufs/dir.h; ffs_vfsops.c,
//! ufs_bmap.c, ufs_lookup.c; fs(5), newfs(8), fsck_ffs(8). McKusick, Joy, Leffler, Fabry, "A fast
//! file system for UNIX", 1984.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod allocator;
pub mod balloc;
pub mod bmap;
pub mod cg;
pub mod check;
pub mod corrupt;
pub mod dir;
pub mod dirhash;
pub mod disk;
pub mod entries;
mod files;
pub mod geometry;
pub mod inode;
pub mod journal;
pub mod link;
mod logfile;
mod logging;
pub mod lookup;
pub mod maps;
pub mod mkfs;
mod names;
pub mod order;
pub mod raw;
pub mod recover;
mod rename;
pub mod superblock;
pub mod truncate;
pub mod tune;
pub mod vfsops;
pub mod vnops;
pub mod volume;

use alloc::sync::Arc;

use rumpkern::Kernel;
use rumpkern::init::{Class, Component};
use rumpuser::Errno;
use rumpvfs::Vfs;

/// The file system, for a kernel that is to have it. Needs `rumpvfs`.
pub const COMPONENT: Component = Component {
    name: "ffs",
    class: Class::Vfs,
    init,
};

fn init(kernel: &Arc<Kernel>) -> Result<(), Errno> {
    let vfs = kernel.get::<Vfs>().ok_or(Errno::ENODEV)?;
    vfs.register(&vfsops::Ffs)
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod hostile;
