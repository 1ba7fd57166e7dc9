//! The hypercalls in a Linux process: the host for tools, tests and fuzzers.
//!
//! A program builds a [`Host`], installs it and boots kernels:
//!
//! ```
//! use rumpuser_hosted::Host;
//! let host = Host::builder().memory(8 << 20).command_line("loglevel=warn").install()?;
//! assert!(rumpuser::try_host().is_some());
//! # let _ = host; Ok::<(), rumpuser::Errno>(())
//! ```
//!
//! - `threads`: a host thread per kernel thread; park and unpark on one futex word each.
//! - `memory`: one region of address space, committed by the system page by page as it is touched.
//! - `bio`: [`FileDisk`] on image files and block devices, served by a small pool of threads, with a
//!   lock so that two writers are refused ([`ImageFile`]); [`RamDisk`] in memory, with faults on demand, for tests.
//! - `net`: [`Switch`], an Ethernet switch inside the process; [`Tap`], a tap device.
//!
//! Lock order: each object has one lock of its own, and none is held while another is taken or a
//! thread is unparked.
//!
//! Sources: pread(2), futex(2), flock(2), mmap(2), tun(4) of Linux's networking documentation.

mod bio;
mod clock;
mod console;
mod errno;
mod exit;
mod host;
mod memory;
mod net;
mod params;
mod random;
mod threads;

pub use bio::{FileDisk, ImageFile, RamDisk, RamDiskStats};
pub use errno::{from_io, to_raw_os_error};
pub use host::{Builder, Host};
pub use net::{RawPort, Switch, SwitchPort, Tap};
