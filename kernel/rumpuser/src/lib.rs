//! The hypercall interface: everything a rump kernel may ask of its host, one narrow trait a file.
//!
//! A *host* is bare metal (`rumpuser-baremetal`), a Linux process (`rumpuser-hosted`) or the
//! simulator (`rumpuser-sim`). It is installed once per process, before any kernel boots, and every
//! kernel in the process shares it. Nothing here runs: these are contracts, types and the error
//! numbers.
//!
//! What replaces NetBSD's rumpuser(3) calls, and why it is less:
//! - locks: the kernel's own, on [`Threads::park`] and [`Threads::unpark`]; so the 23 lock calls are two;
//! - rump CPUs (schedule, unschedule, the upcall table): gone, `Send` and `Sync` carry that proof;
//! - malloc, free: the kernel takes whole regions once ([`Memory::regions`]) and manages pages itself;
//! - open, bio, syncfd: [`BlockDevice`], asynchronous, a flush is a request like the others.
//!
//! Rules that hold for every call:
//! - A call may be made from any thread the host started or adopted, never from an interrupt handler.
//! - A call returns promptly unless its documentation says that it may block.
//! - Nothing that crosses the line on the data path is allocated: buffers go by address and length
//!   ([`IoVec`]) and come back by the integer token that the kernel gave with them.
//! - `Ok` from a call that starts work means exactly one completion later, never from inside the
//!   call. `Err` means that nothing was started and the buffers are the caller's again.
//!
//! Sources: NetBSD rumpuser(3), `rump/rumpuser.h` rev. 1.117, for what a kernel needs of a host.
#![no_std]

mod bio;
mod clock;
mod console;
mod errno;
mod exit;
mod host;
mod iovec;
mod memory;
mod net;
mod params;
mod random;
mod threads;

pub use bio::{
    BioDone, BioOp, BioRequest, BlockDevice, BlockInfo, MAX_DISCARD_SECTORS, SECTOR_SIZE,
};
pub use clock::{Clock, Instant, WallTime};
pub use console::Console;
pub use errno::Errno;
pub use exit::Exit;
pub use host::{Host, host, install, try_host};
pub use iovec::IoVec;
pub use memory::{Memory, PAGE_SIZE, Region};
pub use net::{
    PacketDevice, PacketFeatures, PacketInfo, RxBuffer, RxChecksum, RxPart, TxOffload, TxPacket,
};
pub use params::Params;
pub use random::Random;
pub use threads::{ThreadId, ThreadMain, ThreadSpec, Threads, Unparked};
