//! Making a volume, as newfs(8) does.

use crate::error::Error;
use crate::source::{Attachment, Source};
use rumpfs_ffs::mkfs::{self, Plan};
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::Format;
use rumpuser::Errno;
use rumpuser_hosted::{ImageFile, from_io};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the volume is to be. See [`make`].
#[derive(Clone, Debug)]
pub struct Options {
    version: u8,
    bsize: Option<u32>,
    fsize: Option<u32>,
    size: Option<u64>,
    label: String,
    big_endian: bool,
    memory_limit: Option<usize>,
}

impl Default for Options {
    fn default() -> Options {
        Options::new()
    }
}

impl Options {
    /// FFSv2, little-endian, sizes as newfs(8) chooses them, on all of an image that is there.
    pub fn new() -> Options {
        Options {
            version: 2,
            bsize: None,
            fsize: None,
            size: None,
            label: String::new(),
            big_endian: false,
            memory_limit: None,
        }
    }

    /// FFSv1 or FFSv2.
    pub fn version(mut self, version: u8) -> Options {
        self.version = version;
        self
    }

    /// Bytes of a block.
    pub fn block_size(mut self, bytes: u32) -> Options {
        self.bsize = Some(bytes);
        self
    }

    /// Bytes of a fragment.
    pub fn fragment_size(mut self, bytes: u32) -> Options {
        self.fsize = Some(bytes);
        self
    }

    /// Bytes of the volume. An image file is made, lengthened or cut to it; a device or a partition has to have room.
    pub fn size(mut self, bytes: u64) -> Options {
        self.size = Some(bytes);
        self
    }

    /// The volume's name, of at most 32 bytes.
    pub fn label(mut self, label: impl Into<String>) -> Options {
        self.label = label.into();
        self
    }

    /// Numbers on the disk are big-endian.
    pub fn big_endian(mut self, on: bool) -> Options {
        self.big_endian = on;
        self
    }

    /// As [`crate::Options::memory_limit`], for the kernel that finds a partition.
    pub fn memory_limit(mut self, bytes: usize) -> Options {
        self.memory_limit = Some(bytes);
        self
    }
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Bytes of the device that it is on.
    pub bytes: u64,
}

/// Makes an empty FFS. What was there is lost.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.img");
/// use ukfs::mkfs;
///
/// mkfs::make(&path, &mkfs::Options::new().size(64 << 20).version(1))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// What the host says of the file; `EBUSY` while another program has it open; `EINVAL`: sizes that no volume has; `ENOSPC`: too
/// small.
pub fn make(source: impl Into<Source>, options: &Options) -> Result<Made, Error> {
    let source = source.into();
    let who = source.to_string();
    let told = |errno| Error::new(&*who, errno);
    let format = match options.version {
        1 => Format::Ufs1,
        2 => Format::Ufs2,
        version => {
            let why = format!("there is no FFSv{version}");
            return Err(Error::because(&*who, why, Errno::EINVAL));
        }
    };
    let mut volname = [0; 32];
    let label = options.label.as_bytes();
    match volname.get_mut(..label.len()) {
        Some(room) => room.copy_from_slice(label),
        None => {
            let why = "the label is longer than 32 bytes";
            return Err(Error::because(&*who, why, Errno::ENAMETOOLONG));
        }
    }
    let Room {
        image,
        start,
        bytes,
        new,
    } = Room::of(&source, options)?;
    let mut seed = [0; 4];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| told(from_io(&error.into())))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let plan = Plan::new(mkfs::Options {
        order: match options.big_endian {
            true => Order::Big,
            false => Order::Little,
        },
        bsize: options.bsize,
        fsize: options.fsize,
        volname,
        time: now.map_or(0, |now| now.as_secs().try_into().unwrap_or(i64::MAX)),
        seed: u32::from_ne_bytes(seed),
        ..mkfs::Options::new(format, bytes)
    });
    let plan = plan.map_err(|errno| match errno {
        Errno::EINVAL => Error::because(
            &*who,
            "there is no volume with blocks and fragments of these sizes: blocks have 4096 to 65536 bytes, and 1, 2, 4 or 8 fragments of 512 or more",
            errno,
        ),
        Errno::ENOSPC => Error::because(
            &*who,
            format!("{bytes} bytes are too few, or for FFSv1 too many"),
            errno,
        ),
        errno => told(errno),
    })?;
    // Not before it is known that there can be such a volume.
    if image.is_file() && source.partition().is_none() && bytes != image.bytes() {
        let set = image.file().set_len(bytes);
        set.map_err(|error| told(from_io(&error)))?;
    }
    plan.write(&mut |at, piece| {
        let written = image.file().write_all_at(piece, start + at);
        written.map_err(|error| from_io(&error))
    })
    .map_err(told)?;
    let synced = image.file().sync_all();
    synced.map_err(|error| told(from_io(&error)))?;
    if let Some(new) = new {
        new.keep();
    }
    Ok(Made { bytes })
}

/// A file that was made for a volume; without one it goes again.
struct NewFile<'a>(Option<&'a Path>);

impl NewFile<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // What went wrong first is what is said.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Where a volume is to be.
struct Room<'a> {
    /// Opened to be written.
    image: ImageFile,
    /// The first byte of it that is for the volume.
    start: u64,
    /// The bytes of the volume; a file may still have others.
    bytes: u64,
    /// If there was no such file.
    new: Option<NewFile<'a>>,
}

impl Room<'_> {
    fn of<'a>(source: &'a Source, options: &Options) -> Result<Room<'a>, Error> {
        let size = options.size;
        let who = source.to_string();
        let told = |errno| match errno {
            Errno::ENOENT if size.is_none() => Error::because(
                &*who,
                "there is no such file, and no size to make one",
                errno,
            ),
            Errno::EBUSY => Error::because(&*who, "in use by another program", errno),
            errno => Error::new(&*who, errno),
        };
        if source.partition().is_some() {
            let attachment = Attachment::open(source, true, options.memory_limit)?;
            let (start, room) = attachment.extent(source)?;
            drop(attachment);
            let image = ImageFile::open(source.path(), false).map_err(told)?;
            let bytes = size.unwrap_or(room);
            if bytes > room {
                let why = format!("the partition has {room} bytes only");
                return Err(Error::because(&*who, why, Errno::ENOSPC));
            }
            return Ok(Room {
                image,
                start,
                bytes,
                new: None,
            });
        }
        let mut new = None;
        if size.is_some() && !source.path().exists() {
            let made = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(source.path());
            made.map_err(|error| told(from_io(&error)))?;
            new = Some(NewFile(Some(source.path())));
        }
        let image = ImageFile::open(source.path(), false).map_err(told)?;
        let bytes = size.unwrap_or(image.bytes());
        if bytes > image.bytes() && !image.is_file() {
            let why = format!("the device has {} bytes only", image.bytes());
            return Err(Error::because(&*who, why, Errno::ENOSPC));
        }
        Ok(Room {
            image,
            start: 0,
            bytes,
            new,
        })
    }
}
