//! Base faction: lwps, locks, memory and the pagedaemon, callouts, components, descriptors.
//!
//! What every other part of the kernel stands on. It knows its host by `rumpuser` alone.
//!
//! | module | what |
//! |---|---|
//! | [`init`], [`kernel`], [`params`] | booting: components by class; the kernel as a value; the command line |
//! | [`lwp`], [`proc`], [`kauth`] | threads, processes, credentials |
//! | [`locks`] | mutex, readers/writer lock, condition variable |
//! | [`uvm`] | pages, the budget, the LRU, the pagedaemon, DMA tables |
//! | [`kmem`], [`pool`] | slabs behind `alloc`; pools |
//! | [`callout`], [`softint`], [`time`] | what runs later |
//! | [`file`](mod@file), [`poll`] | descriptors, and waiting for many |
//! | [`counter`], [`logger`] | what a user reads |
//! | [`random`], [`hash`] | randomness, keyed hashing |
//!
//! # Lock order
//! Ranks of [`locks::LockClass`], low taken first: 10 file offset, 20 filedesc, 100–199 file systems,
//! 200–299 networking, 800 proc, 810 kernel, 850 selinfo, 860 event queue, 900 callout, 910 softint, 920 DMA tables, 930
//! pool, 940 random, 950 uvm; below them all the short sections (spin locks) of the LRU, the slabs, the free lists and
//! the sleep queues, none of which is held while another lock but a sleep queue's is taken.
//! Memory may be allocated, and so waited for, under any lock that the pagedaemon and I/O completions do
//! not take; those of rank 850 and above they do take, and so are never held over an allocation, except where a table
//! is set up.
//!
//! Unsafe code is in `locks`, `lwp`, `kmem`, and in `uvm` in `page`, `cluster` and `dma`; the compiler refuses it
//! elsewhere.
//!
//! Sources: NetBSD manual pages of section 9 as named in the modules; `rump/librump/rumpkern` for what a rump
//! kernel's base must do.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod callout;
pub mod counter;
pub mod file;
pub mod hash;
pub mod init;
pub mod kauth;
pub mod kernel;
pub mod kmem;
pub mod locks;
pub mod logger;
pub mod lwp;
pub mod params;
pub mod poll;
pub mod pool;
pub mod proc;
pub mod random;
pub mod softint;
pub mod time;
pub mod uvm;

#[cfg(test)]
mod testing;

pub use init::{Class, Component};
pub use kernel::Kernel;
pub use lwp::{curkernel, curlwp, curproc, spawn};
pub use params::{Config, IpConfig, MountSpec};
