//! An open file of an image.

use crate::error::Error;
use crate::image::Mounted;
use crate::metadata::Metadata;
use rumpuser::Errno;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file; closed when dropped.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.img");
/// # ukfs::mkfs::make(&path, &ukfs::mkfs::Options::new().size(4 << 20))?;
/// # let image = ukfs::Image::open(&path, ukfs::Options::new())?;
/// use std::io::{ErrorKind, Read};
///
/// match image.open_file("/etc/motd") {
///     Ok(mut file) => println!("{}", std::io::read_to_string(&mut file)?),
///     Err(error) => assert_eq!(std::io::Error::from(error).kind(), ErrorKind::NotFound),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct File {
    // Dropped before the image can go.
    file: Option<rump::fs::File>,
    mounted: Arc<Mounted>,
    path: PathBuf,
    offset: u64,
}

impl File {
    pub(crate) fn new(mounted: &Arc<Mounted>, path: &Path, file: rump::fs::File) -> File {
        File {
            file: Some(file),
            mounted: mounted.clone(),
            path: path.to_owned(),
            offset: 0,
        }
    }

    fn act<T>(&self, act: impl FnOnce(&rump::fs::File) -> Result<T, Errno>) -> Result<T, Error> {
        self.mounted.act(&self.path, || match &self.file {
            Some(file) => act(file),
            None => Err(Errno::EBADF),
        })
    }

    /// What is known of it.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn metadata(&self) -> Result<Metadata, Error> {
        let metadata = self.act(rump::fs::File::metadata)?;
        Ok(Metadata::new(*metadata.stat()))
    }

    /// Reads at `offset`; 0 at the end.
    ///
    /// # Errors
    /// `EIO` for what cannot be read, on a damaged image too.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Error> {
        self.act(|file| file.read_at(buffer, offset))
    }

    /// Writes at `offset`.
    ///
    /// # Errors
    /// As pwrite(2); `EBADF` for a file that was opened to be read.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize, Error> {
        self.act(|file| file.write_at(bytes, offset))
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// As [`File::write_at`].
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.act(|file| {
            let mut done = 0;
            while let Some(rest @ [_, ..]) = bytes.get(done..) {
                match file.write_at(rest, offset + done as u64)? {
                    0 => return Err(Errno::EIO),
                    count => done += count,
                }
            }
            Ok(())
        })
    }

    /// Cuts it off, or extends it with a hole.
    ///
    /// # Errors
    /// As ftruncate(2).
    pub fn set_len(&self, bytes: u64) -> Result<(), Error> {
        self.act(|file| file.set_len(bytes))
    }

    /// Makes what was written stable.
    ///
    /// # Errors
    /// `EIO` if something could not be written.
    pub fn sync_all(&self) -> Result<(), Error> {
        self.act(rump::fs::File::sync_all)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.write_at(bytes, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }

    /// Does nothing: there is no buffer but the kernel's. See [`File::sync_all`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl Seek for File {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let (from, by) = match position {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.offset, by),
            SeekFrom::End(by) => (self.metadata()?.len(), by),
        };
        let offset = from.checked_add_signed(by);
        self.offset = offset.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.offset)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _entered = self.mounted.attachment.rump.enter();
        self.file = None;
    }
}
