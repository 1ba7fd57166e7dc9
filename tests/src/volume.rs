//! FFS volumes that are to be written: made empty by the file system's own newfs, and checked afterwards.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use rumpfs_ffs::check::check;
use rumpfs_ffs::check::repair::{self, Repairable, Repaired};
use rumpfs_ffs::disk::Metadata;
use rumpfs_ffs::mkfs::{Options, Plan};
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::{self, Clean, Tolerance};
use rumpuser::Errno;
use rumpuser_hosted::Host;

use crate::disk::Format;
use crate::spoil::Image;

/// An image file as the file system's own code reads it.
pub struct ImageFile(RefCell<File>);

impl ImageFile {
    /// The file at `path`.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Self {
        Self(RefCell::new(File::open(path).expect("the image")))
    }

    /// The file at `path`, to be repaired.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn open_to_write(path: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(path);
        Self(RefCell::new(file.expect("the image")))
    }
}

impl Metadata for ImageFile {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let mut file = self.0.borrow_mut();
        let mut bytes = vec![0; len];
        let read = file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|_| Errno::EINVAL)?;
        visit(&bytes);
        Ok(())
    }
}

impl Repairable for ImageFile {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let file = self.0.get_mut();
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.write_all(bytes))
            .map_err(|_| Errno::EIO)
    }
}

/// An image in memory, to be checked and repaired.
pub struct Bytes(pub Vec<u8>);

impl Metadata for Bytes {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        Image(&self.0).read(offset, len, visit)
    }
}

impl Repairable for Bytes {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let place = self.0.get_mut(start..start + bytes.len());
        place.ok_or(Errno::EINVAL)?.copy_from_slice(bytes);
        Ok(())
    }
}

/// Replays and repairs a volume, after which nothing is wrong with it.
///
/// # Panics
/// If it cannot be repaired.
pub fn repair(image: &mut dyn Repairable) -> Repaired {
    // Replaying a log takes memory of the kernel's.
    Host::install_for_tests();
    let done = repair::repair(image).expect("it can be repaired");
    assert!(done.left.is_consistent(), "{:?}", done.left);
    done
}

/// Makes an empty volume of so many bytes.
///
/// # Panics
/// If the format has no such volume.
pub fn make(image: &Path, format: Format, bytes: u64) {
    let mut file = File::create(image).expect("a file under target");
    file.set_len(bytes).expect("room under target");
    let options = Options {
        order: match format.big_endian {
            true => Order::Big,
            false => Order::Little,
        },
        bsize: Some(u32::try_from(format.block).expect("at most 64 KiB")),
        fsize: Some(u32::try_from(format.fragment).expect("at most 64 KiB")),
        seed: 1,
        ..Options::new(format.superblocks(), bytes)
    };
    let plan = Plan::new(options).expect("a volume of such sizes");
    let written = plan.write(&mut |offset, bytes| {
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.write_all(bytes))
            .map_err(|_| Errno::EIO)
    });
    written.expect("a file under target");
}

/// Fails unless the checker finds nothing wrong.
///
/// # Panics
/// With all that is.
pub fn assert_consistent(image: &Path) {
    let report = check(&ImageFile::open(image)).expect("a volume that can be checked");
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_consistent(), "{}", findings.join("\n"));
}

/// Fails unless the volume says that it was unmounted, and is consistent.
///
/// # Panics
/// With what it says.
pub fn assert_clean(image: &Path) {
    let sb = superblock::find(&ImageFile::open(image), Tolerance::default()).expect("a volume");
    assert_eq!(sb.clean, Clean::IS_CLEAN);
    assert_consistent(image);
}
