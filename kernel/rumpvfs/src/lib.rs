//! File-system faction: vnodes, name lookup, mounts, page cache, buffer cache.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bufcache;
pub mod specfs;
pub mod vfsops;
pub mod vnode;
