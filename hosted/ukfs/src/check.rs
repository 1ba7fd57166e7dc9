//! Whether an image is consistent, as fsck_ffs(8) finds out. Nothing is changed.

use crate::error::Error;
use crate::source::{Attachment, Source};
use rumpfs_ffs::check;
use rumpfs_ffs::corrupt::Fault;
use rumpfs_ffs::superblock::{self, Superblock, Tolerance};
use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::bufcache::Devvp;

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
    /// Whether nothing is wrong.
    pub fn is_consistent(&self) -> bool {
        self.findings.is_empty() && self.more == 0
    }
}

/// Checks the FFS on an image.
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
    let sb = fits(&who, &devvp)?;
    let report = check::check(&devvp).map_err(|fault| told(&who, &devvp, fault))?;
    Ok(Report {
        findings: report.findings.iter().map(ToString::to_string).collect(),
        more: report.dropped,
        files: report.inodes,
        directories: report.directories,
        bytes: report.fragments * u64::from(sb.fsize),
    })
}

/// Whether the volume is within its device. What the check keeps is as large as the volume claims to be, so that a
/// superblock that lies must not get so far.
fn fits(who: &str, devvp: &Devvp) -> Result<Superblock, Error> {
    let sb = superblock::find(devvp, Tolerance { force: true })
        .map_err(|fault| told(who, devvp, fault))?;
    let device = devvp.sectors() * SECTOR_SIZE as u64;
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
fn told(who: &str, devvp: &Devvp, fault: Fault) -> Error {
    let errno = fault.on(devvp.name()).into();
    match fault {
        Fault::Corrupt(corrupt) => Error::because(who, corrupt.to_string(), errno),
        _ => Error::new(who, errno),
    }
}
