//! A mounted file system, and where it is mounted.

use crate::pagecache::PageCacheStats;
use crate::specfs::BlockIo;
use crate::vfsops::{FileSystem, MountOptions, StatVfs};
use crate::vnode::{InodeNumber, VnodeCache, VnodeRef};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, Ordering};
use rumpkern::locks::Mutex;
use rumpuser::Errno;

/// A mounted file system (`struct mount`).
pub struct Mount {
    id: u64,
    /// `"ld0a on /"`, for people.
    name: String,
    fstype: &'static str,
    path: String,
    device: Option<Arc<dyn BlockIo>>,
    file_system: Arc<dyn FileSystem>,
    root: InodeNumber,
    /// The directory it is mounted on; `None` for the root file system, and after unmounting.
    covered: Mutex<Option<VnodeRef>>,
    live: AtomicBool,
    read_only: AtomicBool,
    /// No change is under way: the last user of a file leaves nothing to be done.
    quiet: AtomicBool,
    /// It was unmounted although files of it were in use.
    gone: AtomicBool,
    /// Why data were lost since this was last told.
    loss: Mutex<Option<Errno>>,
    vnodes: Weak<VnodeCache>,
    pages: Arc<PageCacheStats>,
    /// Renames that move a directory exclude each other, so that no loop is made
    /// (`vfs_renamelock`).
    rename: Mutex<()>,
}

/// What a mount is made of.
pub(crate) struct MountParts {
    pub(crate) id: u64,
    pub(crate) fstype: &'static str,
    pub(crate) path: String,
    pub(crate) device: Option<Arc<dyn BlockIo>>,
    pub(crate) file_system: Arc<dyn FileSystem>,
    pub(crate) covered: Option<VnodeRef>,
    pub(crate) options: MountOptions,
    pub(crate) vnodes: Weak<VnodeCache>,
    pub(crate) pages: Arc<PageCacheStats>,
}

impl Mount {
    pub(crate) fn new(parts: MountParts) -> Mount {
        let device = parts
            .device
            .as_ref()
            .map_or(parts.fstype, |device| device.name());
        let device_read_only = |device: &Arc<dyn BlockIo>| device.info().read_only;
        let read_only =
            parts.options.read_only || parts.device.as_ref().is_some_and(device_read_only);
        Mount {
            id: parts.id,
            name: alloc::format!("{device} on {}", parts.path),
            fstype: parts.fstype,
            path: parts.path,
            root: parts.file_system.root(),
            file_system: parts.file_system,
            covered: Mutex::new(parts.covered),
            live: AtomicBool::new(true),
            read_only: AtomicBool::new(read_only),
            quiet: AtomicBool::new(read_only),
            gone: AtomicBool::new(false),
            loss: Mutex::new(None),
            device: parts.device,
            vnodes: parts.vnodes,
            pages: parts.pages,
            rename: Mutex::new(()),
        }
    }

    /// A number that no other mount of this kernel has, had or will have (`f_fsid`).
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What is mounted where, for people: `"ld0a on /"`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kind of file system, such as `"ffs"`.
    pub fn fstype(&self) -> &'static str {
        self.fstype
    }

    /// Where it is mounted.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What it is mounted from.
    pub fn device(&self) -> Option<&Arc<dyn BlockIo>> {
        self.device.as_ref()
    }

    /// The file system.
    pub fn file_system(&self) -> &Arc<dyn FileSystem> {
        &self.file_system
    }

    /// The number of the root directory.
    pub fn root_ino(&self) -> InodeNumber {
        self.root
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// Refuses what would write. Whoever changes a file asks under its lock: see `Vfs::remount`.
    ///
    /// # Errors
    /// `EROFS`; `EIO` if it was unmounted by force.
    pub fn check_writable(&self) -> Result<(), Errno> {
        self.check_there()?;
        if self.is_read_only() {
            Err(Errno::EROFS)
        } else {
            Ok(())
        }
    }

    /// How full it is.
    ///
    /// # Errors
    /// The file system's.
    pub fn statvfs(&self) -> Result<StatVfs, Errno> {
        let mut stat = self.file_system.statvfs()?;
        stat.read_only = self.is_read_only();
        Ok(stat)
    }

    /// Data of a file could not be written and are gone.
    pub(crate) fn note_loss(&self, errno: Errno) {
        *self.loss.lock() = Some(errno);
    }

    /// Tells of such a loss, once.
    pub(crate) fn take_loss(&self) -> Result<(), Errno> {
        self.loss.lock().take().map_or(Ok(()), Err)
    }

    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.read_only.store(read_only, Ordering::Release);
    }

    /// Refuses the use of files of a mount that was ended by force.
    ///
    /// # Errors
    /// `EIO`.
    pub(crate) fn check_there(&self) -> Result<(), Errno> {
        match self.is_gone() {
            true => Err(Errno::EIO),
            false => Ok(()),
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Acquire)
    }

    pub(crate) fn set_quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::Release);
    }

    /// Whether files may come into use: it is not being unmounted.
    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    pub(crate) fn set_live(&self, live: bool) {
        self.live.store(live, Ordering::Release);
    }

    pub(crate) fn covered(&self) -> Option<VnodeRef> {
        self.covered.lock().clone()
    }

    pub(crate) fn take_covered(&self) -> Option<VnodeRef> {
        self.covered.lock().take()
    }

    /// The kernel's vnode cache; `None` when the kernel is gone.
    pub(crate) fn vnodes(&self) -> Option<Arc<VnodeCache>> {
        self.vnodes.upgrade()
    }

    pub(crate) fn page_stats(&self) -> &PageCacheStats {
        &self.pages
    }

    /// The lock of renames that move a directory.
    pub fn rename_lock(&self) -> &Mutex<()> {
        &self.rename
    }

    /// File `ino` of this mount, brought into use if need be (`VFS_VGET`).
    ///
    /// # Errors
    /// `ENFILE`: too many files are in use. What the file system says of a file that it cannot load.
    pub fn vget(self: &Arc<Self>, ino: InodeNumber) -> Result<VnodeRef, Errno> {
        self.vnodes().ok_or(Errno::ENXIO)?.get(self, ino)
    }

    /// The root directory.
    ///
    /// # Errors
    /// As [`Mount::vget`].
    pub fn root(self: &Arc<Self>) -> Result<VnodeRef, Errno> {
        self.vget(self.root)
    }
}
