//! File-system images in a program, without root and without a driver: the rump kernel's own file systems, in this process.
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("disk.img");
//! use ukfs::{Image, Options, mkfs};
//!
//! mkfs::make(&path, &mkfs::Options::new().size(4 << 20).label("demo"))?;
//! let image = Image::open(&path, Options::new())?;
//! assert_eq!(image.fstype(), "ffs");
//! for entry in image.walk("/") {
//!     let entry = entry?;
//!     println!("{:o} {}", entry.metadata().mode(), entry.path().display());
//! }
//! image.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("disk.img");
//! # ukfs::mkfs::make(&path, &ukfs::mkfs::Options::new().size(4 << 20))?;
//! use std::io::Write;
//! use ukfs::{Image, Options};
//!
//! let image = Image::open(&path, Options::new().write(true))?;
//! image.create_dir("/etc")?;
//! image.create_file("/etc/motd")?.write_all(b"Welcome.\n")?;
//! image.close()?; // Everything is written, or this says why not.
//!
//! let image = Image::open(&path, Options::new())?;
//! assert_eq!(image.read("/etc/motd")?, b"Welcome.\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`Image`] is a mounted image: read, list, walk, look at, change. Its parts: [`File`] (which is `Read`, `Write` and `Seek`), [`ReadDir`],
//!   [`Walk`], [`Metadata`].
//! - [`Source`] names an image as people do, `FILE` or `FILE:PARTITION`; [`partitions`] tells what partitions there are, by
//!   MBR, GPT or BSD disklabel.
//! - [`mkfs`] makes a volume, [`check`] finds and repairs what is wrong with one, [`log`] looks at its journal, makes and removes it.
//! - What fails is an [`Error`], which names the image, the file and the reason.
//!
//! Every image is a small kernel of its own; they are used from any thread. Memory is one for the process: the kernels' caches
//! live in a budget, [`Options::memory_limit`], beside the program's own heap.
//!
//! What is on an image is not trusted: it gives errors and log lines (by the `log` crate), no panics.
//!
//! Nobody else writes an image that is open (flock(2), which others have to ask for as well), and one opened here to read does
//! not change, not by a byte.
//!
//! Sources: NetBSD ukfs(3), the library of the same name and purpose.
#![forbid(unsafe_code)]

mod change;
pub mod check;
mod dir;
mod disk;
mod error;
mod file;
mod host;
mod image;
pub mod log;
mod metadata;
pub mod mkfs;
mod source;

pub use dir::{DirEntry, ReadDir, Walk, WalkEntry};
pub use error::{Error, Shown};
pub use file::File;
pub use image::{Entered, Image, Options};
pub use metadata::{FileType, Metadata};
pub use rumpuser::{Errno, WallTime};
pub use rumpvfs::vfsops::StatVfs;
pub use source::{Partition, Source, partitions};
