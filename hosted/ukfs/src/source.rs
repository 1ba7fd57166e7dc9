//! Which image, and which part of it.

use crate::disk::{Ending, ImageDisk};
use crate::error::Error;
use crate::host::Rump;
use rumpdev::disk::Disk;
use rumpdev::partition;
use rumpkern::lwp::Attached;
use rumpuser::{Errno, SECTOR_SIZE};
use rumpuser_hosted::ImageFile;
use rumpvfs::Vfs;
use rumpvfs::specfs::BlockIo;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An image, and one of its partitions if that is said.
///
/// ```
/// use ukfs::Source;
///
/// let source = Source::parse("disk.img:e");
/// assert_eq!(source.path().to_str(), Some("disk.img"));
/// assert_eq!(source.partition(), Some("e"));
/// ```
///
/// A partition is named by its letter, by its number counted from 1, by its label, or as the kernel calls it (`ld0e`, `dk0`).
/// Where none is named, the whole image is taken if it has a file system, else its only partition that has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    path: PathBuf,
    partition: Option<String>,
}

impl Source {
    /// The image in `path`.
    pub fn new(path: impl Into<PathBuf>) -> Source {
        Source {
            path: path.into(),
            partition: None,
        }
    }

    /// Its partition `name`.
    pub fn with_partition(mut self, name: impl Into<String>) -> Source {
        self.partition = Some(name.into());
        self
    }

    /// Reads `FILE` or `FILE:PARTITION`. A file that is there under the whole name is taken.
    pub fn parse(text: impl AsRef<OsStr>) -> Source {
        let text = text.as_ref();
        let bytes = text.as_bytes();
        let colon = bytes.iter().rposition(|byte| *byte == b':');
        if let Some(colon) = colon
            && !Path::new(text).exists()
            && let Ok(name) = std::str::from_utf8(&bytes[colon + 1..])
            && !name.is_empty()
            && !name.contains('/')
        {
            return Source::new(OsStr::from_bytes(&bytes[..colon])).with_partition(name);
        }
        Source::new(text)
    }

    /// The image's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The partition.
    pub fn partition(&self) -> Option<&str> {
        self.partition.as_deref()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match &self.partition {
            Some(partition) => write!(f, ":{partition}"),
            None => Ok(()),
        }
    }
}

impl<P: Into<PathBuf>> From<P> for Source {
    fn from(path: P) -> Source {
        Source::new(path)
    }
}

/// A partition of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The kernel's name for it, such as `ld0e` or `dk0`.
    pub name: String,
    /// Its label; empty where the table has none.
    pub label: String,
    /// What the table says that it holds.
    pub kind: &'static str,
    /// Where it starts, in bytes.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The file system that was found on it, if one is known.
    pub fstype: Option<&'static str>,
}

/// The partitions of an image; none if it has no table.
///
/// # Errors
/// What the host says of the file; `EBUSY` while another writes it.
pub fn partitions(path: impl AsRef<Path>) -> Result<Vec<Partition>, Error> {
    let attached = Attachment::open(&Source::new(path.as_ref()), true, None)?;
    let _entered = attached.enter()?;
    let parts = attached.parts()?;
    Ok(parts.into_iter().map(|part| part.partition).collect())
}

/// A partition with the device that it is.
struct Part {
    device: Arc<dyn BlockIo>,
    partition: Partition,
}

/// An image attached to a kernel of its own.
pub(crate) struct Attachment {
    pub(crate) rump: Rump,
    pub(crate) vfs: Arc<Vfs>,
    pub(crate) who: String,
    disk: Arc<Disk>,
    /// Behind the kernel, which writes until it is shut down.
    _ending: Ending,
}

impl Attachment {
    pub(crate) fn open(
        source: &Source,
        read_only: bool,
        memory_limit: Option<usize>,
    ) -> Result<Attachment, Error> {
        let who = source.path.display().to_string();
        let image = ImageFile::open(&source.path, read_only).map_err(|errno| match errno {
            Errno::EFTYPE => Error::because(&*who, "neither a file nor a block device", errno),
            Errno::EBUSY => Error::because(&*who, "in use by another program", errno),
            errno => Error::new(&*who, errno),
        })?;
        let rump = Rump::boot(&who, memory_limit)?;
        let entered = rump.enter().map_err(|errno| Error::new(&*who, errno))?;
        let attach = |image| {
            let vfs = rump.kernel.get::<Vfs>().ok_or(Errno::ENXIO)?;
            let disk = ImageDisk::new(&rump.kernel, image, read_only)?;
            let ending = Ending(disk.clone());
            Ok((vfs, rumpdev::attach_disk(&rump.kernel, disk)?, ending))
        };
        let (vfs, disk, ending) = attach(image).map_err(|errno| match errno {
            Errno::EINVAL => Error::because(&*who, "shorter than a sector", errno),
            errno => Error::new(&*who, errno),
        })?;
        drop(entered);
        Ok(Attachment {
            rump,
            vfs,
            who,
            disk,
            _ending: ending,
        })
    }

    pub(crate) fn enter(&self) -> Result<Option<Attached>, Error> {
        self.rump.enter().map_err(|errno| self.error(errno))
    }

    pub(crate) fn error(&self, errno: Errno) -> Error {
        Error::new(&*self.who, errno)
    }

    fn parts(&self) -> Result<Vec<Part>, Error> {
        let told = partition::scan(self.disk.name(), &*self.disk);
        let told = told.map_err(|errno| self.error(errno))?;
        let mut devices = self.vfs.devices();
        devices.retain(|device| device.part_of() == Some(self.disk.dev()));
        // A partition's number is its place in the table (`DiskPart::new`).
        let parts = (1..).zip(told).filter_map(|(number, part)| {
            let device = devices
                .iter()
                .find(|device| device.dev() == self.disk.dev() + number)?;
            let partition = Partition {
                name: device.name().to_owned(),
                label: part.label,
                kind: part.kind,
                start: part.start * SECTOR_SIZE as u64,
                bytes: part.sectors * SECTOR_SIZE as u64,
                fstype: self.vfs.probe(device).ok().map(|ops| ops.name()),
            };
            Some(Part {
                device: device.clone(),
                partition,
            })
        });
        Ok(parts.collect())
    }

    /// The device that `source` names; what it is mounted from.
    pub(crate) fn device(&self, source: &Source) -> Result<Arc<dyn BlockIo>, Error> {
        if let Some(name) = source.partition() {
            return self.named(name).map(|part| part.device);
        }
        let whole: Arc<dyn BlockIo> = self.disk.clone();
        match self.vfs.probe(&whole) {
            Ok(_) => return Ok(whole),
            Err(Errno::EFTYPE) => {}
            Err(errno) => return Err(self.error(errno)),
        }
        let parts = self.parts()?;
        let mut known = parts.iter().filter(|part| part.partition.fstype.is_some());
        match (known.next(), known.next()) {
            (Some(only), None) => Ok(only.device.clone()),
            (Some(_), Some(_)) => Err(Error::because(
                &*self.who,
                format!("name one of its partitions: {}", list(&parts)),
                Errno::EINVAL,
            )),
            (None, _) if parts.is_empty() => Err(Error::because(
                &*self.who,
                "no file system that is known, and no partitions",
                Errno::EFTYPE,
            )),
            (None, _) => Err(Error::because(
                &*self.who,
                format!(
                    "no partition has a file system that is known: {}",
                    list(&parts)
                ),
                Errno::EFTYPE,
            )),
        }
    }

    fn named(&self, name: &str) -> Result<Part, Error> {
        let mut parts = self.parts()?;
        let own = format!("{}{name}", self.disk.name());
        let number = name.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
        let found = parts
            .iter()
            .position(|part| part.partition.name == name || part.partition.name == own)
            .or_else(|| parts.iter().position(|part| part.partition.label == name))
            .or(number.filter(|number| *number < parts.len()));
        match found {
            Some(found) => Ok(parts.swap_remove(found)),
            None if parts.is_empty() => Err(Error::because(
                &*self.who,
                format!("no partition {name}: it has none"),
                Errno::ENXIO,
            )),
            None => Err(Error::because(
                &*self.who,
                format!("no partition {name} among {}", list(&parts)),
                Errno::ENXIO,
            )),
        }
    }

    /// Where the file system that `source` names is in the image: the first byte, and how many.
    pub(crate) fn found_extent(&self, source: &Source) -> Result<(u64, u64), Error> {
        let _entered = self.enter()?;
        let device = self.device(source)?;
        let bytes = device.info().sectors * SECTOR_SIZE as u64;
        let parts = match device.part_of() {
            Some(_) => self.parts()?,
            None => Vec::new(),
        };
        let part = parts.iter().find(|part| part.device.dev() == device.dev());
        Ok((part.map_or(0, |part| part.partition.start), bytes))
    }

    /// The bytes of the image that `source` names: where they start, how many they are.
    pub(crate) fn extent(&self, source: &Source) -> Result<(u64, u64), Error> {
        let _entered = self.enter()?;
        match source.partition() {
            Some(name) => {
                let part = self.named(name)?.partition;
                Ok((part.start, part.bytes))
            }
            None => Ok((0, self.disk.info().sectors * SECTOR_SIZE as u64)),
        }
    }
}

fn list(parts: &[Part]) -> String {
    let describe = |part: &Part| {
        let Partition {
            name, label, kind, ..
        } = &part.partition;
        match label.as_str() {
            "" => format!("{name} ({kind})"),
            label => format!("{name} ({kind}, {label})"),
        }
    };
    parts.iter().map(describe).collect::<Vec<_>>().join(", ")
}
