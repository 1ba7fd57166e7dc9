//! Block devices: a disk that takes its time, fails when told to, and remembers what a power cut would leave.
//!
//! - `disk`: [`SimDisk`], and the [`DiskFaults`] that it is given;
//! - `record`: the [`Record`] of its writes and flushes, from which [`Record::cut`] makes the disk after a [`PowerCut`].

mod disk;
mod record;

pub(crate) use disk::gather;
pub use disk::{DiskFaults, SimDisk};
pub use record::{PowerCut, Record};
