//! Files and directories.

use crate::{Errno, WallTime};
use alloc::sync::Arc;
use alloc::vec::Vec;
use rumpkern::file::File as OpenFile;
use rumpkern::kmem::{self, Room};
use rumpkern::proc::Proc;
use rumpkern::{curkernel, curproc};
use rumpvfs::pagecache::Patience;
use rumpvfs::syscalls::{self, OpenFlags, Stat};
use rumpvfs::vnode::VnodeType;
use rumpvfs::{Vfs, vnode};

/// What a file is.
pub use rumpvfs::vnode::VnodeType as FileType;

/// Bytes of entries read from a directory at once.
const DIRECTORY_BATCH: usize = 4096;

/// The calling thread's process, and its kernel's file systems.
///
/// `ESRCH` for a thread without a process, `ENOSYS` for a kernel without file systems.
pub(crate) fn caller() -> Result<(Arc<Proc>, Arc<Vfs>), Errno> {
    let kernel = curkernel().ok_or(Errno::ESRCH)?;
    let vfs = kernel.get::<Vfs>().ok_or(Errno::ENOSYS)?;
    Ok((curproc()?, vfs))
}

/// An open file or directory; closed when dropped.
pub struct File {
    file: Arc<OpenFile>,
}

/// How to open a file, as the standard library's `OpenOptions`.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    flags: OpenFlags,
    mode: u16,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions::new()
    }
}

impl OpenOptions {
    /// Neither to read nor to write, yet; a file that is made gets mode 0666 less the umask.
    pub fn new() -> OpenOptions {
        OpenOptions {
            flags: OpenFlags::empty(),
            mode: 0o666,
        }
    }

    fn set(mut self, flag: OpenFlags, on: bool) -> OpenOptions {
        self.flags.set(flag, on);
        self
    }

    /// To read.
    pub fn read(self, on: bool) -> OpenOptions {
        self.set(OpenFlags::READ, on)
    }

    /// To write.
    pub fn write(self, on: bool) -> OpenOptions {
        self.set(OpenFlags::WRITE, on)
    }

    /// To write at the end, always.
    pub fn append(self, on: bool) -> OpenOptions {
        self.set(OpenFlags::WRITE | OpenFlags::APPEND, on)
    }

    /// Make it if there is none.
    pub fn create(self, on: bool) -> OpenOptions {
        self.set(OpenFlags::CREAT, on)
    }

    /// Make it; there must be none.
    pub fn create_new(self, on: bool) -> OpenOptions {
        self.set(OpenFlags::CREAT | OpenFlags::EXCL, on)
    }

    /// Cut it to nothing.
    pub fn truncate(self, on: bool) -> OpenOptions {
        self.set(OpenFlags::TRUNC, on)
    }

    /// The permission bits of a file that is made, before the umask.
    pub fn mode(mut self, mode: u16) -> OpenOptions {
        self.mode = mode;
        self
    }

    /// Opens `path`.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(self, path: impl AsRef<[u8]>) -> Result<File, Errno> {
        let (proc, vfs) = caller()?;
        let file = vfs.open(&proc, path.as_ref(), self.flags, self.mode)?;
        Ok(File { file })
    }
}

impl File {
    /// Opens `path` to read.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: impl AsRef<[u8]>) -> Result<File, Errno> {
        OpenOptions::new().read(true).open(path)
    }

    /// Opens `path` to write, empty.
    ///
    /// # Errors
    /// As open(2).
    pub fn create(path: impl AsRef<[u8]>) -> Result<File, Errno> {
        let options = OpenOptions::new().write(true);
        options.create(true).truncate(true).open(path)
    }

    /// Reads at the file's offset; 0 at the end.
    ///
    /// # Errors
    /// As read(2).
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.file.read(buffer)
    }

    /// Writes at the file's offset.
    ///
    /// # Errors
    /// As write(2).
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        self.file.write(bytes)
    }

    /// Reads at `offset` (pread).
    ///
    /// # Errors
    /// As pread(2).
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        self.file.read_at(offset, buffer)
    }

    /// Writes at `offset` (pwrite).
    ///
    /// # Errors
    /// As pwrite(2).
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        self.file.write_at(offset, bytes)
    }

    /// What is known of it.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn metadata(&self) -> Result<Metadata, Errno> {
        syscalls::fstat(&self.file).map(Metadata)
    }

    /// Makes what was written stable (fsync).
    ///
    /// # Errors
    /// `EIO` if something could not be written.
    pub fn sync_all(&self) -> Result<(), Errno> {
        syscalls::fsync(&self.file)
    }

    /// Cuts it off, or extends it with a hole.
    ///
    /// # Errors
    /// As ftruncate(2).
    pub fn set_len(&self, size: u64) -> Result<(), Errno> {
        syscalls::ftruncate(&self.file, size)
    }

    /// As a file, to be waited for with [`poll`](crate::poll).
    pub fn file(&self) -> &Arc<OpenFile> {
        &self.file
    }

    /// The pages that hold up to `len` bytes from `offset` on, to be sent: at least the first is waited for.
    pub(crate) fn frames(
        &self,
        offset: u64,
        len: usize,
    ) -> Result<Vec<rumpkern::uvm::dma::IoFrame>, Errno> {
        syscalls::read_frames(&self.file, offset, len as u64, Patience::Wait)
    }
}

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub struct Metadata(Stat);

impl Metadata {
    /// What it is.
    pub fn file_type(&self) -> FileType {
        self.0.attr.vtype
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type() == VnodeType::Dir
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type() == VnodeType::Reg
    }

    /// Its size in bytes.
    #[allow(clippy::len_without_is_empty, reason = "as the standard library's")]
    pub fn len(&self) -> u64 {
        self.0.attr.size
    }

    /// Its inode number.
    pub fn ino(&self) -> u64 {
        self.0.attr.fileid
    }

    /// When its contents last changed.
    pub fn modified(&self) -> WallTime {
        self.0.attr.mtime
    }

    /// Everything.
    pub fn stat(&self) -> &Stat {
        &self.0
    }
}

/// What is known of the file at `path`; symbolic links are followed.
///
/// # Errors
/// As stat(2).
pub fn metadata(path: impl AsRef<[u8]>) -> Result<Metadata, Errno> {
    let (proc, vfs) = caller()?;
    vfs.stat(&proc, path.as_ref()).map(Metadata)
}

/// What is known of the file at `path`; a symbolic link is looked at itself.
///
/// # Errors
/// As lstat(2).
pub fn symlink_metadata(path: impl AsRef<[u8]>) -> Result<Metadata, Errno> {
    let (proc, vfs) = caller()?;
    vfs.lstat(&proc, path.as_ref()).map(Metadata)
}

/// Where the symbolic link at `path` leads.
///
/// # Errors
/// As readlink(2).
pub fn read_link(path: impl AsRef<[u8]>) -> Result<Vec<u8>, Errno> {
    let (proc, vfs) = caller()?;
    vfs.readlink(&proc, path.as_ref())
}

/// Everything that the file at `path` holds.
///
/// # Errors
/// As open(2) and read(2); `ENOMEM` if it does not fit into memory.
pub fn read(path: impl AsRef<[u8]>) -> Result<Vec<u8>, Errno> {
    const STEP: usize = 16 << 10;
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    loop {
        let filled = bytes.len();
        bytes.room(STEP)?;
        bytes.resize(filled + STEP, 0);
        let count = file.read(&mut bytes[filled..])?;
        bytes.truncate(filled + count);
        if count == 0 {
            return Ok(bytes);
        }
    }
}

/// Makes a directory, mode 0777 less the umask.
///
/// # Errors
/// As mkdir(2).
pub fn create_dir(path: impl AsRef<[u8]>) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.mkdir(&proc, path.as_ref(), 0o777)
}

/// Removes a directory, which must be empty.
///
/// # Errors
/// As rmdir(2).
pub fn remove_dir(path: impl AsRef<[u8]>) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.rmdir(&proc, path.as_ref())
}

/// Removes a file's name.
///
/// # Errors
/// As unlink(2).
pub fn remove_file(path: impl AsRef<[u8]>) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.unlink(&proc, path.as_ref())
}

/// Makes the symbolic link `link`, which leads to `target`.
///
/// # Errors
/// As symlink(2).
pub fn symlink(target: impl AsRef<[u8]>, link: impl AsRef<[u8]>) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.symlink(&proc, target.as_ref(), link.as_ref())
}

/// Renames a file, replacing what has the new name.
///
/// # Errors
/// As rename(2).
pub fn rename(from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.rename(&proc, from.as_ref(), to.as_ref())
}

/// Mounts what the kernel's command line says (`mount=`). What cannot be mounted is logged; answers how many were.
///
/// # Errors
/// `ESRCH`, `ENOSYS` as every call.
pub fn mount_configured() -> Result<usize, Errno> {
    let kernel = curkernel().ok_or(Errno::ESRCH)?;
    let vfs = kernel.get::<Vfs>().ok_or(Errno::ENOSYS)?;
    Ok(vfs.mount_configured(&kernel))
}

/// The entries of a directory, `.` and `..` included, in the order in which it has them.
pub struct ReadDir {
    directory: File,
    batch: Vec<u8>,
    at: usize,
    ended: bool,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    name: Vec<u8>,
    ino: u64,
    file_type: Option<FileType>,
}

impl DirEntry {
    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The file's inode number.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// What the file is, where the directory says so.
    pub fn file_type(&self) -> Option<FileType> {
        self.file_type
    }
}

/// Opens the directory `path` to read its entries.
///
/// # Errors
/// As open(2); `ENOTDIR`.
pub fn read_dir(path: impl AsRef<[u8]>) -> Result<ReadDir, Errno> {
    let flags = OpenFlags::READ | OpenFlags::DIRECTORY;
    let options = OpenOptions { flags, mode: 0 };
    Ok(ReadDir {
        directory: options.open(path)?,
        batch: Vec::new(),
        at: 0,
        ended: false,
    })
}

/// In a batch an entry is its inode number (8 bytes), its type (0 for none), the length of its name, its name.
const ENTRY_HEADER: usize = 10;

impl ReadDir {
    /// Fills the batch again. It does not grow beyond what it was made with.
    fn fill(&mut self) -> Result<(), Errno> {
        if self.batch.capacity() < DIRECTORY_BATCH {
            self.batch = kmem::try_vec(DIRECTORY_BATCH)?;
        }
        self.batch.clear();
        self.at = 0;
        let batch = &mut self.batch;
        let mut sink = |entry: &vnode::DirEntry<'_>| {
            let Ok(length) = u8::try_from(entry.name.len()) else {
                return false;
            };
            if batch.len() + ENTRY_HEADER + entry.name.len() > DIRECTORY_BATCH {
                return false;
            }
            batch.extend_from_slice(&entry.fileid.to_le_bytes());
            batch.push(entry.vtype.map_or(0, VnodeType::dirent_type));
            batch.push(length);
            batch.extend_from_slice(entry.name);
            true
        };
        syscalls::getdents(&self.directory.file, &mut sink)?;
        self.ended = self.batch.is_empty();
        Ok(())
    }

    fn take(&mut self) -> Option<Result<DirEntry, Errno>> {
        let rest = self.batch.get(self.at..)?;
        let (ino, rest) = rest.split_first_chunk::<8>()?;
        let (&[file_type, length], rest) = rest.split_first_chunk::<2>()?;
        let name = rest.get(..usize::from(length))?;
        let mut copy = match kmem::try_vec(name.len()) {
            Ok(copy) => copy,
            Err(errno) => return Some(Err(errno)),
        };
        copy.extend_from_slice(name);
        self.at += ENTRY_HEADER + name.len();
        Some(Ok(DirEntry {
            name: copy,
            ino: u64::from_le_bytes(*ino),
            file_type: VnodeType::from_dirent_type(file_type),
        }))
    }
}

impl Iterator for ReadDir {
    type Item = Result<DirEntry, Errno>;

    fn next(&mut self) -> Option<Result<DirEntry, Errno>> {
        if self.at >= self.batch.len()
            && !self.ended
            && let Err(errno) = self.fill()
        {
            // What is wrong stays wrong: the next call ends.
            self.ended = true;
            self.batch.clear();
            return Some(Err(errno));
        }
        self.take()
    }
}
