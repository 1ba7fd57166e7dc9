//! Open files and descriptors (file(9), filedesc(9)).
//!
//! A descriptor is an index in a process's table; it refers to a [`File`], which has an offset and flags and is
//! shared by duplicates; that refers to what does the work, a vnode or a socket, by [`FileOps`].

use crate::kmem;
use crate::locks::{LockClass, Mutex};
use crate::poll::{Events, SelInfo};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering};
use rumpuser::Errno;

static FDTABLE_CLASS: LockClass = LockClass {
    name: "filedesc",
    rank: 20,
};

static OFFSET_CLASS: LockClass = LockClass {
    name: "file offset",
    rank: 10,
};

bitflags! {
    /// How a file was opened, and `O_NONBLOCK`, `O_APPEND` as they are now.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FileFlags: u32 {
        /// May be read.
        const READ = 1;
        /// May be written.
        const WRITE = 2;
        /// `O_NONBLOCK`: answer `EAGAIN` rather than wait.
        const NONBLOCK = 4;
        /// `O_APPEND`: each write goes to the end.
        const APPEND = 8;
        /// `O_SYNC`: a write is stable when it returns.
        const SYNC = 16;
    }
}

/// What a file does.
pub trait FileOps: Send + Sync {
    /// Reads into `buffer` at `offset`, and moves that along. Returns the number of bytes, 0 at the end.
    ///
    /// # Errors
    /// `EAGAIN` where it would wait and `flags` say not to; the object's.
    fn read(&self, offset: &mut u64, buffer: &mut [u8], flags: FileFlags) -> Result<usize, Errno>;

    /// Writes `buffer` at `offset`, and moves that along. Returns the number of bytes, which may be less than all.
    ///
    /// # Errors
    /// As for [`FileOps::read`].
    fn write(&self, offset: &mut u64, buffer: &[u8], flags: FileFlags) -> Result<usize, Errno>;

    /// Whether reads and writes use the offset. Where they do not (sockets), several may wait at once.
    fn seekable(&self) -> bool {
        true
    }

    /// Which of `interest` hold now. Must not wait.
    fn poll(&self, interest: Events) -> Events {
        interest & (Events::READABLE | Events::WRITABLE)
    }

    /// Where to wait for a change of what [`FileOps::poll`] says; `None` if it never changes.
    fn selinfo(&self) -> Option<&SelInfo> {
        None
    }

    /// Device control.
    ///
    /// # Errors
    /// `ENOTTY` unless the object has such a request.
    fn ioctl(&self, request: u32, data: &mut [u8]) -> Result<(), Errno> {
        let _ = (request, data);
        Err(Errno::ENOTTY)
    }

    /// The last descriptor was closed.
    fn close(&self) {}

    /// For whoever knows the type, such as the socket calls.
    fn as_any(&self) -> &dyn Any;
}

/// An open file (struct file). Closed when the last reference goes.
pub struct File {
    flags: AtomicU32,
    offset: Mutex<u64>,
    ops: Arc<dyn FileOps>,
}

impl File {
    /// An open file at offset 0.
    pub fn new(flags: FileFlags, ops: Arc<dyn FileOps>) -> File {
        File {
            flags: AtomicU32::new(flags.bits()),
            offset: Mutex::with_class(0, &OFFSET_CLASS),
            ops,
        }
    }

    /// The flags now.
    pub fn flags(&self) -> FileFlags {
        FileFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }

    /// Sets or clears `NONBLOCK`, `APPEND` or `SYNC`; other flags stay as they were opened.
    pub fn set_flags(&self, flags: FileFlags, on: bool) {
        let changeable = FileFlags::NONBLOCK | FileFlags::APPEND | FileFlags::SYNC;
        let bits = (flags & changeable).bits();
        match on {
            true => self.flags.fetch_or(bits, Ordering::Relaxed),
            false => self.flags.fetch_and(!bits, Ordering::Relaxed),
        };
    }

    /// What does the work.
    pub fn ops(&self) -> &Arc<dyn FileOps> {
        &self.ops
    }

    /// Reads at the file's offset.
    ///
    /// # Errors
    /// `EBADF` if it was not opened for reading; else as [`FileOps::read`].
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let flags = self.opened_for(FileFlags::READ)?;
        match self.ops.seekable() {
            true => self.ops.read(&mut self.offset.lock(), buffer, flags),
            false => self.ops.read(&mut 0, buffer, flags),
        }
    }

    /// Writes at the file's offset.
    ///
    /// # Errors
    /// `EBADF` if it was not opened for writing; else as [`FileOps::write`].
    pub fn write(&self, buffer: &[u8]) -> Result<usize, Errno> {
        let flags = self.opened_for(FileFlags::WRITE)?;
        match self.ops.seekable() {
            true => self.ops.write(&mut self.offset.lock(), buffer, flags),
            false => self.ops.write(&mut 0, buffer, flags),
        }
    }

    /// Reads at `offset` (pread).
    ///
    /// # Errors
    /// `ESPIPE` if it has no offset; else as [`File::read`].
    pub fn read_at(&self, mut offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let flags = self.opened_for(FileFlags::READ)?;
        if !self.ops.seekable() {
            return Err(Errno::ESPIPE);
        }
        self.ops.read(&mut offset, buffer, flags)
    }

    /// Writes at `offset` (pwrite).
    ///
    /// # Errors
    /// `ESPIPE` if it has no offset; else as [`File::write`].
    pub fn write_at(&self, mut offset: u64, buffer: &[u8]) -> Result<usize, Errno> {
        let flags = self.opened_for(FileFlags::WRITE)?;
        if !self.ops.seekable() {
            return Err(Errno::ESPIPE);
        }
        self.ops.write(&mut offset, buffer, flags)
    }

    /// The offset, to look at and to set (lseek).
    pub fn offset(&self) -> &Mutex<u64> {
        &self.offset
    }

    fn opened_for(&self, what: FileFlags) -> Result<FileFlags, Errno> {
        let flags = self.flags();
        match flags.contains(what) {
            true => Ok(flags),
            false => Err(Errno::EBADF),
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.ops.close();
    }
}

#[derive(Clone)]
struct Entry {
    file: Arc<File>,
    close_on_exec: bool,
}

#[derive(Default)]
struct Table {
    entries: Vec<Option<Entry>>,
    /// No descriptor below is free.
    first_free: usize,
}

/// A process's descriptors.
pub struct FdTable {
    table: Mutex<Table>,
    limit: usize,
}

impl FdTable {
    /// A table without descriptors, for at most `limit`.
    pub fn new(limit: usize) -> FdTable {
        FdTable {
            table: Mutex::with_class(Table::default(), &FDTABLE_CLASS),
            limit,
        }
    }

    /// The lowest free descriptor for `file` (fd_alloc).
    ///
    /// # Errors
    /// `EMFILE` if there is none below the limit, `ENOMEM`.
    pub fn alloc(&self, file: Arc<File>) -> Result<usize, Errno> {
        self.alloc_from(0, file)
    }

    /// The lowest free descriptor not below `least` (`F_DUPFD`).
    ///
    /// # Errors
    /// `EINVAL` if `least` is beyond the limit; as [`FdTable::alloc`].
    pub fn alloc_from(&self, least: usize, file: Arc<File>) -> Result<usize, Errno> {
        if least >= self.limit {
            return Err(Errno::EINVAL);
        }
        let entry = Entry {
            file,
            close_on_exec: false,
        };
        let mut table = self.table.lock();
        let from = least.max(table.first_free);
        let free = (from..table.entries.len()).find(|fd| table.entries[*fd].is_none());
        let fd = free.unwrap_or(from.max(table.entries.len()));
        if fd >= self.limit {
            return Err(Errno::EMFILE);
        }
        table.make_room(fd)?;
        table.entries[fd] = Some(entry);
        if least <= table.first_free {
            table.first_free = fd + 1;
        }
        Ok(fd)
    }

    /// The file behind a descriptor (fd_getfile).
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, fd: usize) -> Result<Arc<File>, Errno> {
        let table = self.table.lock();
        let entry = table.entries.get(fd).and_then(Option::as_ref);
        entry.map(|entry| entry.file.clone()).ok_or(Errno::EBADF)
    }

    /// Frees a descriptor. The file is closed when nobody uses it any more.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close(&self, fd: usize) -> Result<(), Errno> {
        let entry = self.table.lock().remove(fd).ok_or(Errno::EBADF)?;
        // Closing may wait; the table is not locked meanwhile.
        drop(entry);
        Ok(())
    }

    /// Another descriptor for the same file (dup).
    ///
    /// # Errors
    /// `EBADF`; as [`FdTable::alloc`].
    pub fn dup(&self, fd: usize) -> Result<usize, Errno> {
        self.alloc(self.get(fd)?)
    }

    /// Makes `to` a descriptor for the file behind `fd`; what it was is closed (dup2).
    ///
    /// # Errors
    /// `EBADF`, also for a `to` beyond the limit; `ENOMEM`.
    pub fn dup2(&self, fd: usize, to: usize) -> Result<usize, Errno> {
        let file = self.get(fd)?;
        if to >= self.limit {
            return Err(Errno::EBADF);
        }
        if fd == to {
            return Ok(to);
        }
        let former = {
            let mut table = self.table.lock();
            table.make_room(to)?;
            table.entries[to].replace(Entry {
                file,
                close_on_exec: false,
            })
        };
        drop(former);
        Ok(to)
    }

    /// Whether a descriptor is closed at an exec (`FD_CLOEXEC`).
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close_on_exec(&self, fd: usize) -> Result<bool, Errno> {
        let table = self.table.lock();
        let entry = table.entries.get(fd).and_then(Option::as_ref);
        entry.map(|entry| entry.close_on_exec).ok_or(Errno::EBADF)
    }

    /// Sets that.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_close_on_exec(&self, fd: usize, on: bool) -> Result<(), Errno> {
        let mut table = self.table.lock();
        let entry = table.entries.get_mut(fd).and_then(Option::as_mut);
        entry.ok_or(Errno::EBADF)?.close_on_exec = on;
        Ok(())
    }

    /// How many descriptors are open.
    pub fn count(&self) -> usize {
        self.table.lock().entries.iter().flatten().count()
    }

    /// Closes all.
    pub fn close_all(&self) {
        let entries = {
            let mut table = self.table.lock();
            table.first_free = 0;
            core::mem::take(&mut table.entries)
        };
        drop(entries);
    }
}

impl Table {
    fn make_room(&mut self, fd: usize) -> Result<(), Errno> {
        let len = self.entries.len();
        if fd < len {
            return Ok(());
        }
        if fd >= self.entries.capacity() {
            // By half as much again, so that a row of opens does not copy the table each time.
            let mut entries = kmem::try_vec((fd + 1).max(len + len / 2).max(16))?;
            entries.append(&mut self.entries);
            self.entries = entries;
        }
        self.entries.resize_with(fd + 1, || None);
        Ok(())
    }

    fn remove(&mut self, fd: usize) -> Option<Entry> {
        let entry = self.entries.get_mut(fd)?.take()?;
        self.first_free = self.first_free.min(fd);
        Some(entry)
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
