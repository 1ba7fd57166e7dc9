//! The log of a volume, its journal of metadata (WAPBL): looking at it, making and removing it, as tunefs(8) `-l` does.
//!
//! A log of another size is made by removing the one that is there.
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("disk.img");
//! use ukfs::{Options, log, mkfs};
//!
//! mkfs::make(&path, &mkfs::Options::new().size(16 << 20))?;
//! log::add(&path, &Options::new(), Some(2 << 20))?;
//! let found = log::state(&path, None)?.log.expect("a log");
//! assert_eq!((found.bytes, found.in_use), (2 << 20, false));
//! log::remove(&path, &Options::new())?;
//! assert_eq!(log::state(&path, None)?.log, None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::check::{Volume, told};
use crate::error::Error;
use crate::image::{Image, Options};
use crate::source::{Attachment, Source};
use rumpfs_ffs::corrupt::Fault;
use rumpfs_ffs::journal::{self, Journal};
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::{self, Flags, Superblock, Tolerance};
use rumpfs_ffs::tune::{self, Fields};
use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::bufcache::Devvp;
use rumpvfs::wapbl::Replay;

/// What a volume has of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The log.
    pub log: Option<Log>,
    /// The next mount with a log makes one of so many bytes; 0: of the usual size.
    pub asked: Option<u64>,
}

/// A log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The inode that has its blocks, if it lies inside the file system, not behind.
    pub inode: Option<u32>,
    /// Its first byte, from the volume's on.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Bytes of one of its blocks: a sector of the device that it was made on.
    pub block_size: u64,
    /// Its numbers are big-endian.
    pub big_endian: bool,
    /// The next mount for writing removes it.
    pub to_be_removed: bool,
    /// It holds what is still to be replayed: the volume was not unmounted.
    pub in_use: bool,
    /// What it holds, if it is in use; or why it cannot be replayed.
    pub contents: Option<Result<Contents, Error>>,
}

/// What a log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Transactions.
    pub transactions: u64,
    /// Bytes of the log that they take.
    pub used: u64,
    /// Bytes of metadata that a replay writes.
    pub replayed: u64,
    /// Files without a name, to be freed.
    pub nameless: u64,
}

impl Contents {
    fn of(replay: &Replay) -> Contents {
        let sectors: u64 = replay.entries().iter().map(|entry| entry.sectors).sum();
        Contents {
            transactions: replay.transactions(),
            used: replay.used(),
            replayed: sectors * SECTOR_SIZE as u64,
            nameless: replay.orphans().len() as u64,
        }
    }
}

/// Looks at the log of the FFS on an image. Nothing is changed.
///
/// # Errors
/// As [`Image::open`] of the image; `EFTYPE`: where the log is said to lie, none can be.
pub fn state(source: impl Into<Source>, memory_limit: Option<usize>) -> Result<State, Error> {
    let source = source.into();
    let attachment = Attachment::open(&source, true, memory_limit)?;
    let _entered = attachment.enter()?;
    let device = attachment.device(&source)?;
    let devvp = attachment.vfs.devvp(&device);
    let who = source.to_string();
    let fault = |fault| told(&who, fault);
    let sb = superblock::find(&devvp, Tolerance { force: true }).map_err(fault)?;
    let log = sb.journal.filter(|journal| journal.is_made());
    let log = log.map(|journal| describe(&who, &sb, &devvp, &journal));
    Ok(State {
        log: log.transpose().map_err(fault)?,
        asked: sb.journal.and_then(|journal| journal.asked()),
    })
}

fn describe(who: &str, sb: &Superblock, devvp: &Devvp, journal: &Journal) -> Result<Log, Fault> {
    let place = journal.place(sb, devvp.sectors())?;
    let in_use = sb.flags.contains(Flags::DOWAPBL);
    let contents = in_use.then(|| {
        let replay = journal::read(sb, &&**devvp.device(), devvp.sectors());
        let contents = replay.map(|replay| Contents::of(&replay));
        contents.map_err(|fault| told(who, fault))
    });
    Ok(Log {
        inode: journal.inode(),
        start: place.start * SECTOR_SIZE as u64,
        bytes: (place.end() - place.start) * SECTOR_SIZE as u64,
        block_size: place.block_size,
        big_endian: journal.order == Order::Big,
        to_be_removed: journal.is_removed(),
        in_use,
        contents,
    })
}

/// Makes a log of `bytes` bytes; if they are not given, of those that tunefs(8) asked for, or of the usual size, a 1024th of the
/// volume. It lies behind the volume and takes all that is there, if that is enough; else inside. `options`: how the image is
/// opened.
///
/// # Errors
/// As [`Image::open`] to write. `EEXIST`: there is one. `EINVAL`: no log has so many bytes. `ENOSPC`: so many do not lie together.
pub fn add(source: impl Into<Source>, options: &Options, bytes: Option<u64>) -> Result<(), Error> {
    let source = source.into();
    let who = source.to_string();
    if let Some(bytes) = bytes.filter(|bytes| !journal::BYTES.contains(bytes)) {
        let (least, most) = journal::BYTES.into_inner();
        let why = format!("a log has {least} to {most} bytes, not {bytes}");
        return Err(Error::because(who, why, Errno::EINVAL));
    }
    let asked = state(source.clone(), options.memory_limit)?.asked;
    let bytes = bytes.or(asked).unwrap_or(0);
    let options = options.clone().write(true).log(true);
    let told = |errno| match errno {
        Errno::EEXIST => Error::because(&*who, "it has a log already", errno),
        Errno::ENOSPC => Error::because(&*who, "no room for the log in one piece", errno),
        errno => Error::new(&*who, errno),
    };
    carry_out(&source, options, told, |volume| {
        tune::ask_for_log(volume, bytes)
    })
}

/// Removes the log, or takes back that tunefs(8) asked for one. What it still held is replayed before. `options`: how the image
/// is opened.
///
/// # Errors
/// As [`Image::open`] to write. `ENOENT`: there is none.
pub fn remove(source: impl Into<Source>, options: &Options) -> Result<(), Error> {
    let source = source.into();
    let who = source.to_string();
    let options = options.clone().write(true).log(false);
    let told = |errno| match errno {
        Errno::ENOENT => Error::because(&*who, "it has no log", errno),
        errno => Error::new(&*who, errno),
    };
    carry_out(&source, options, told, |volume| {
        tune::ask_for_removal(volume)
    })
}

/// Asks for something on an image, and mounts it to have it done. If that fails, nobody has asked.
fn carry_out(
    source: &Source,
    options: Options,
    own: impl Fn(Errno) -> Error,
    ask: impl FnOnce(&mut Volume) -> Result<(Fields, Fields), Fault>,
) -> Result<(), Error> {
    let who = source.to_string();
    let fault = |fault| match fault {
        Fault::Refused(Errno::EOPNOTSUPP) => {
            let why = "its superblock is of an old kind, which knows of no log";
            Error::because(&*who, why, Errno::EOPNOTSUPP)
        }
        Fault::Refused(errno) => own(errno),
        fault => told(&who, fault),
    };
    let memory_limit = options.memory_limit;
    let mut volume = Volume::open(source, memory_limit)?;
    let asked = ask(&mut volume).map_err(fault)?;
    volume.sync().map_err(&own)?;
    drop(volume);
    let done = Image::open(source.clone(), options).and_then(Image::close);
    done.map_err(|error| {
        let taken_back = Volume::open(source, memory_limit).and_then(|mut volume| {
            tune::take_back(&mut volume, &asked).map_err(fault)?;
            volume.sync().map_err(&own)
        });
        match (taken_back, error.errno()) {
            (Err(error), _) => error,
            (Ok(()), Errno::ENOSPC) => own(Errno::ENOSPC),
            (Ok(()), _) => error,
        }
    })
}
