//! The API that programs are written against: boot a kernel, open files, accept connections.
//!
//! ```no_run
//! # static FFS: rump::Component = rump::Component { name: "ffs", class: rump::Class::Vfs, init: |_| Ok(()) };
//! use rump::{Config, Kernel, fs::File};
//!
//! let kernel = Kernel::boot(Config::from_host(), &[&FFS])?;
//! let _process = kernel.attach("example")?;
//! let file = File::open("/etc/motd")?;
//! let mut text = [0; 80];
//! let count = file.read(&mut text)?;
//! # let _ = count; Ok::<(), rump::Errno>(())
//! ```
//!
//! - [`fs`] and [`net`] feel like the standard library's; paths are bytes, errors are [`Errno`].
//! - [`sys`] has the system calls, on descriptors of the calling thread's process (`rump_sys_*`).
//! - [`poll`] waits for many files and sockets at once; [`thread`], [`sync`] and [`time`] are what
//!   else a program needs.
//!
//! Every call works for the process that the calling thread is attached to ([`Kernel::attach`]);
//! a thread without one gets `ESRCH`. Threads made by [`thread::spawn`] belong to their maker's process.
//!
//! Sources: NetBSD rump(3), rump_lwproc(3); POSIX.1-2017 for what the calls do.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod fs;
pub mod net;
pub mod sys;

pub use rumpkern::{Class, Component, Config, IpConfig, Kernel, MountSpec};
pub use rumpuser::{Errno, Instant, WallTime};

/// Waiting for many files and sockets at once: those have a method `file`, which answers with a [`File`](poll::File).
pub mod poll {
    pub use rumpkern::file::File;
    pub use rumpkern::poll::{
        Event, EventQueue, Events, MAX_WATCHED, PollFd, SelInfo, Watch, poll,
    };
}

/// Locks.
pub mod sync {
    pub use rumpkern::locks::{Condvar, Mutex, MutexGuard, OnceLock, RwLock, WaitResult};
}

/// Threads.
pub mod thread {
    pub use rumpkern::lwp::{KthreadHandle as JoinHandle, spawn};
    pub use rumpkern::time::sleep;
}

/// Time.
pub mod time {
    pub use rumpkern::time::{now, wall};
}
