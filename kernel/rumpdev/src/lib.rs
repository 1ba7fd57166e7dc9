//! Device faction: autoconfiguration, disks and their partitions.
//!
//! - [`autoconf`]: the device tree of a kernel, and the boot log's lines;
//! - [`disk`]: the host's block devices as `ld0`, `ld1`…, and parts of them; a request is checked, split where the
//!   device takes less at once, counted, and its failure logged;
//! - [`partition`]: what an MBR, a GPT or a BSD disklabel says, none of it believed unchecked;
//! - [`md`]: a disk in memory;
//! - [`attach_disk`], [`DISKS`]: finding them all, and handing them to the file systems.
//!
//! A program names [`COMPONENT`] for the faction and [`DISKS`] for the host's disks. Without `rumpvfs` the disks are
//! there all the same, but nothing is mounted from them.
//!
//! Locks: each is a leaf; none is held while a device is called.
//!
//! Sources: NetBSD ld(4), dk(4), md(4), disklabel(5), mbr(8), gpt(8); `sys/disklabel.h`, `sys/bootblock.h`; UEFI 2.10 §5.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod attach;
pub mod autoconf;
pub mod disk;
pub mod md;
pub mod partition;

pub use attach::{COMPONENT, DISKS, Disks, attach_disk};
