//! Whether an image is consistent, as fsck_ffs(8) finds out, and making it so.

use crate::error::Error;
use crate::source::{Attachment, Source};
use rumpfs_ffs::check;
use rumpfs_ffs::check::repair::{self, Repairable};
use rumpfs_ffs::corrupt::Fault;
use rumpfs_ffs::disk::{Metadata, PIECE};
use rumpfs_ffs::superblock::Superblock;
use rumpuser::{Errno, SECTOR_SIZE};
use rumpuser_hosted::{ImageFile, from_io};
use std::os::unix::fs::FileExt;

/// What was found, and what there is.
#[derive(Clone, Debug)]
pub struct Report {
    /// What is wrong, a line each.
    pub findings: Vec<String>,
    /// Findings beyond those that are kept.
    pub more: u64,
    /// Inodes in use.
    pub files: u64,
    /// Directories among them.
    pub directories: u64,
    /// Bytes that files hold.
    pub bytes: u64,
}

impl Report {
    fn of(report: &check::Report, sb: &Superblock) -> Report {
        Report {
            findings: report.findings.iter().map(ToString::to_string).collect(),
            more: report.dropped,
            files: report.inodes,
            directories: report.directories,
            bytes: report.fragments.saturating_mul(sb.fsize.into()),
        }
    }

    /// Whether nothing is wrong.
    pub fn is_consistent(&self) -> bool {
        self.findings.is_empty() && self.more == 0
    }
}

/// Checks the FFS on an image. Nothing is changed.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.img");
/// ukfs::mkfs::make(&path, &ukfs::mkfs::Options::new().size(4 << 20))?;
/// let report = ukfs::check::check(&path, None)?;
/// assert!(report.is_consistent());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`Image::open`](crate::Image::open) of the image; `EINVAL` if it is shorter than the volume on it, or too damaged to tell what is
/// right.
pub fn check(source: impl Into<Source>, memory_limit: Option<usize>) -> Result<Report, Error> {
    let source = source.into();
    let attachment = Attachment::open(&source, true, memory_limit)?;
    let _entered = attachment.enter()?;
    let device = attachment.device(&source)?;
    let devvp = attachment.vfs.devvp(&device);
    let who = source.to_string();
    let bytes = devvp.sectors() * SECTOR_SIZE as u64;
    let sb = fits(&who, &devvp, bytes)?;
    let report = check::check(&devvp).map_err(|fault| told(&who, fault))?;
    Ok(Report::of(&report, &sb))
}

/// What was repaired, and how things are now.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// What was found and repaired, a line each.
    pub repaired: Vec<String>,
    /// What is left.
    pub left: Report,
}

/// Repairs the FFS on an image, as fsck_ffs(8) `-y`: files that contradict themselves are lost, those without a name go to
/// `lost+found`.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.img");
/// # ukfs::mkfs::make(&path, &ukfs::mkfs::Options::new().size(4 << 20))?;
/// let repaired = ukfs::check::repair(&path, None)?;
/// assert!(repaired.repaired.is_empty() && repaired.left.is_consistent());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`check()`]; `EBUSY` while another program has the image open; what the host says of writing.
pub fn repair(source: impl Into<Source>, memory_limit: Option<usize>) -> Result<Repaired, Error> {
    let source = source.into();
    let who = source.to_string();
    let mut volume = Volume::open(&source, memory_limit)?;
    let bytes = volume.bytes;
    let sb = fits(&who, &volume, bytes)?;
    let done = repair::repair(&mut volume).map_err(|fault| told(&who, fault))?;
    volume.sync().map_err(|errno| Error::new(&*who, errno))?;
    Ok(Repaired {
        repaired: done.repaired.iter().map(ToString::to_string).collect(),
        left: Report::of(&done.left, &sb),
    })
}

/// The bytes of a volume in its image, past all caches. Nobody else has it open.
pub(crate) struct Volume {
    image: ImageFile,
    start: u64,
    bytes: u64,
}

impl Volume {
    /// Opens it to be changed.
    pub(crate) fn open(source: &Source, memory_limit: Option<usize>) -> Result<Volume, Error> {
        let who = source.to_string();
        let (start, bytes) = Attachment::open(source, true, memory_limit)?.found_extent(source)?;
        let image = ImageFile::open(source.path(), false).map_err(|errno| match errno {
            Errno::EBUSY => Error::because(&*who, "in use by another program", errno),
            errno => Error::new(&*who, errno),
        })?;
        Ok(Volume {
            image,
            start,
            bytes,
        })
    }

    /// Everything that was written is on the disk.
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        let synced = self.image.file().sync_all();
        synced.map_err(|error| from_io(&error))
    }

    /// Where byte `offset` of the volume is in the image, if `len` bytes from there on are the volume's.
    fn place(&self, offset: u64, len: usize) -> Result<u64, Errno> {
        let end = offset.checked_add(len as u64);
        match end.is_some_and(|end| end <= self.bytes) {
            true => Ok(self.start + offset),
            false => Err(Errno::EINVAL),
        }
    }
}

impl Metadata for Volume {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let mut piece = [0; PIECE];
        let piece = piece.get_mut(..len).ok_or(Errno::EINVAL)?;
        let read = self
            .image
            .file()
            .read_exact_at(piece, self.place(offset, len)?);
        read.map_err(|error| from_io(&error))?;
        visit(piece);
        Ok(())
    }
}

impl Repairable for Volume {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let place = self.place(offset, bytes.len())?;
        let written = self.image.file().write_all_at(bytes, place);
        written.map_err(|error| from_io(&error))
    }
}

/// Whether the volume is within its device of `device` bytes. What the check keeps is as large as the volume claims to be, so
/// that a superblock that lies must not get so far.
fn fits(who: &str, disk: &dyn Metadata, device: u64) -> Result<Superblock, Error> {
    let sb = check::superblock(disk).map_err(|fault| told(who, fault))?;
    if sb.size_bytes() > device {
        let why = format!(
            "the volume has {} bytes, the image only {device}",
            sb.size_bytes()
        );
        return Err(Error::because(who, why, Errno::EINVAL));
    }
    Ok(sb)
}

/// The fault as this crate tells it; the log gets it, too.
pub(crate) fn told(who: &str, fault: Fault) -> Error {
    let errno = fault.on(who).into();
    match fault {
        Fault::Corrupt(corrupt) => Error::because(who, corrupt.to_string(), errno),
        _ => Error::new(who, errno),
    }
}
