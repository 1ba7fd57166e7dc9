//! File-system faction: vnodes, name lookup, mounts, page cache, buffer cache.
//!
//! What a file system is written against, and what a program uses files by:
//!
//! | module | what |
//! |---|---|
//! | [`vfsops`], [`vnode`] | the two interfaces of a file system: [`vfsops::VfsOps`], [`vfsops::FileSystem`], [`vnode::VnodeOps`] |
//! | [`vfs`], [`mount`] | the faction of a kernel: types, devices, mounts |
//! | [`namei`], `namecache` | from a path to a vnode |
//! | [`pagecache`] | file contents: read-ahead, write-back, pages lent to the network |
//! | [`bufcache`] | metadata |
//! | [`wapbl`] | the journal of metadata |
//! | [`discard`] | telling devices what is free |
//! | [`specfs`] | block devices, as file systems see them |
//! | `syncer` | writing back what nobody waits for |
//! | [`mod@file`], [`syscalls`] | open files, and the system calls |
//! | `boot` | bringing the faction up, and mounting what the command line says |
//!
//! A read goes [`syscalls`] → [`mod@file`] → [`pagecache`] → the file system's `bmap` → [`specfs::BlockIo`], and comes back by
//! the completion, which publishes the page.
//!
//! # Lock order
//! Low taken first; a lock of a line is not taken while one of a later line is held.
//!
//! 1. the lock of mounting and unmounting; a mount's rename lock;
//! 2. vnode locks: a directory before what is in it; two directories only under the rename lock, the upper first;
//! 3. what file systems have inside;
//! 4. busy pages, by index; busy buffers, in the file system's order;
//! 5. leaves: the lists of types, devices and mounts; the tables of the vnode, name and buffer caches; the pages of a
//!    vnode. Completions of I/O and the page daemon take the latter three kinds, so nothing waits, allocates or
//!    calls a file system or a device under them.
//!
//! The page daemon takes leaves only, and only by trying. It does not use vnodes, so that it is never the last user.
//!
//! Sources: NetBSD vnode(9), vnodeops(9), vfsops(9), namei(9), namecache(9), buffercache(9), vnsubr(9), uvm(9);
//! POSIX.1-2017 for what the calls answer.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod boot;
pub mod bufcache;
pub mod discard;
pub mod file;
mod lru;
pub mod mount;
mod namecache;
pub mod namei;
pub mod pagecache;
pub mod specfs;
mod syncer;
pub mod syscalls;
pub mod vfs;
pub mod vfsops;
pub mod vnode;
pub mod wapbl;

pub use boot::COMPONENT;
pub use namecache::NameCacheStats;
pub use vfs::Vfs;
