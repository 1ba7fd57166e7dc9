//! Open files that are vnodes (`vnops` of file(9)).

use crate::pagecache::{Patience, ReadAhead};
use crate::vnode::{DirSink, VnodeRef};
use alloc::vec::Vec;
use core::any::Any;
use rumpkern::file::{FileFlags, FileOps};
use rumpkern::locks::Mutex;
use rumpkern::uvm::dma::IoFrame;
use rumpuser::Errno;

/// The vnode behind an open file, and how this file reads ahead.
pub struct VnodeFile {
    vnode: VnodeRef,
    reader: Mutex<ReadAhead>,
}

impl VnodeFile {
    /// An open file on `vnode`.
    pub fn new(vnode: VnodeRef) -> VnodeFile {
        VnodeFile {
            vnode,
            reader: Mutex::new(ReadAhead::new()),
        }
    }

    /// The vnode.
    pub fn vnode(&self) -> &VnodeRef {
        &self.vnode
    }

    /// Lets `read` have this file's read-ahead, and keeps count of those that read sequentially.
    fn with_reader<R>(&self, read: impl FnOnce(&mut ReadAhead) -> R) -> R {
        // A copy: threads that share a file may each have to wait for the disk.
        let mut reader = *self.reader.lock();
        let result = read(&mut reader);
        let mut kept = self.reader.lock();
        let before = kept.is_sequential();
        *kept = reader;
        if before != reader.is_sequential() {
            self.vnode.mount().page_stats().reader(!before);
        }
        result
    }

    /// The pages that hold `len` bytes from `offset` on, to be sent without a copy: see
    /// [`Vnode::read_frames`](crate::vnode::Vnode::read_frames).
    ///
    /// # Errors
    /// As there.
    pub fn read_frames(
        &self,
        offset: u64,
        len: u64,
        patience: Patience,
    ) -> Result<Vec<IoFrame>, Errno> {
        self.with_reader(|reader| self.vnode.read_frames(offset, len, reader, patience))
    }

    /// Gives the entries of this directory from `cookie` on to `sink`: see
    /// [`VnodeOps::readdir`](crate::vnode::VnodeOps::readdir).
    ///
    /// # Errors
    /// `ENOTDIR`, `EINVAL`, `EIO`.
    pub fn readdir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        if !self.vnode.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let _locked = self.vnode.lock_shared();
        self.vnode.mount().check_there()?;
        self.vnode.ops().readdir(cookie, sink)
    }
}

impl FileOps for VnodeFile {
    fn read(&self, offset: &mut u64, buffer: &mut [u8], _: FileFlags) -> Result<usize, Errno> {
        let count = self.with_reader(|reader| self.vnode.read(*offset, buffer, reader))?;
        *offset += count as u64;
        Ok(count)
    }

    fn write(&self, offset: &mut u64, buffer: &[u8], flags: FileFlags) -> Result<usize, Errno> {
        self.vnode.mount().check_writable()?;
        let locked = self.vnode.lock_exclusive();
        if flags.contains(FileFlags::APPEND) {
            *offset = self.vnode.size();
        }
        let count = self.vnode.write(*offset, buffer)?;
        drop(locked);
        *offset += count as u64;
        if flags.contains(FileFlags::SYNC) {
            self.vnode.fsync()?;
        }
        Ok(count)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for VnodeFile {
    fn drop(&mut self) {
        if self.reader.get_mut().is_sequential() {
            self.vnode.mount().page_stats().reader(false);
        }
    }
}
