//! virtio 1.2 devices: transports, virtqueues, block, network, entropy.
//!
//! The device is not trusted. Whatever it writes (indices, ids, lengths, status bytes, packet
//! headers, registers, capability lists) is read once and judged; a device that broke the rules
//! is reset, cut off from memory and given up ([`Fault`]): what was outstanding comes back as an
//! error, and so does every later request.
//!
//! - [`registers`]: windows of device registers, [`Mmio`] for real ones;
//! - [`transport`]: [`Transport`], the life cycle of a [`Device`], and two transports:
//!   [`transport::pci`] over a [`PciFunction`] that the bus driver implements, [`transport::mmio`];
//! - [`dma`]: memory that devices reach, from a [`Dma`] that the host implements;
//! - [`queue`]: split virtqueues, with event indices and indirect descriptors;
//! - [`blk`], [`net`], [`rng`]: the drivers. Each is `&mut self` throughout: whoever shares one puts
//!   a lock around it. None of them allocates once it is attached, and none handles an interrupt:
//!   the handler wakes a thread, which reaps.
//!
//! Nothing here uses the global allocator: on bare metal that one is the kernel's, and depends on
//! disks being there.
//!
//! Sources: OASIS *Virtual I/O Device (VIRTIO) Version 1.2*; PCI Local Bus 3.0 for the
//! configuration space.
#![cfg_attr(not(test), no_std)]

pub mod blk;
pub mod dma;
#[cfg(test)]
mod fake;
mod fault;
pub mod net;
pub mod queue;
pub mod registers;
pub mod rng;
pub mod transport;

pub use dma::{Dma, Extent, PAGE_SIZE, Segment};
pub use fault::{AttachError, Fault, RequestError};
pub use registers::{Mmio, Registers};
pub use transport::mmio::MmioTransport;
pub use transport::pci::{PciFunction, PciTransport};
pub use transport::{Device, DeviceType, Features, Status, Transport};
