//! From the kernel's vnodes to FUSE (NetBSD's p2k(3), the puffs-to-kernel library): an image is mounted as a user would mount a disk.
//!
//! [`run`] is a whole program: it opens the image, mounts it, goes to the background, serves until it is unmounted or told to end,
//! and leaves a volume that is clean. `rump_fs mount` and `rump_ffs` are that, with a command line each.
//!
//! - `adapter`: FUSE's requests as calls of `rumpvfs`; `convert`: attributes, times, errors.
//! - `nodes`: what Linux knows; `handles`: what it has open.
//! - `session`: from the mount to the end; `daemon`: the background; `options`: `-o`; `told`: the log.
//!
//! # What it promises
//!
//! - Permissions are judged by Linux (`default_permissions`), which knows the caller's capabilities and further groups, by the modes
//!   and owners on the image; here everything is done as the superuser. Without `-o allow_other` nobody but the mounter gets in.
//!   Device nodes and set-ID bits mean nothing without `-o dev` and `-o suid`: an image is not trusted.
//! - A new file gets the group of its directory, as on every FFS; its owner is the caller.
//! - Linux may keep what it knows (names, attributes, links, directories, contents) for as long as it likes: nobody else changes
//!   the image, which is locked. Writes go through to the kernel here before they return, so that what cannot be written is told
//!   to who wrote it (no FUSE writeback cache); when they reach the image is the syncer's business, or fsync's, which is one.
//! - A listing brings the attributes of all that it names. Four requests are answered at once: one that waits for the disk does not hold
//!   up the others.
//! - A file without a name stays until Linux forgets it: open, or somebody's working directory.
//! - `SIGTERM`, `SIGINT` and `SIGHUP` unmount. If files are open then, they are cut off after a moment. What was written is on the image.
//! - After `umount` has returned the image is being finished for a moment still: it is free when the process has ended.
//! - A daemon that is killed leaves an image as a power cut does: `rump_fs check --repair` repairs it, or the journal, at the next mount.
//!
//! # What is not there
//!
//! Extended attributes and ACLs (`EOPNOTSUPP`), `fallocate` (`EOPNOTSUPP`; posix_fallocate(3) then writes zeroes), `RENAME_EXCHANGE` and
//! whiteouts (`EINVAL`), access times by reading, file handles for NFS, chflags(2), which Linux lacks (flags on the image hold: what is
//! immutable gives `EPERM`). Locks (flock(2), fcntl(2)) are Linux's own.
//!
//! # Locks
//! The tables of nodes and of handles are leaves. Whoever uses the image holds `Served::image` shared; ending takes it
//! exclusively, and so waits for what is under way.
//!
//! Sources: Linux fuse(4) and Documentation/filesystems/fuse.rst; NetBSD p2k(3), rump_ffs(8).
#![forbid(unsafe_code)]

mod adapter;
mod convert;
mod daemon;
mod handles;
mod nodes;
mod options;
mod session;
mod told;

pub use options::MountArgs;
pub use session::{Failure, run};
pub use told::start_log;
