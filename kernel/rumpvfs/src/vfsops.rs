//! What a file system does as a whole: recognising a disk, mounting it, finding its files.

use crate::bufcache::Devvp;
use crate::vnode::{InodeNumber, VnodeOps, VnodeType, Wait};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use rumpuser::Errno;

/// A kind of file system: what a component registers with `Vfs::register`.
pub trait VfsOps: Sync {
    /// The name for `mount=` and mount(8), such as `"ffs"`.
    fn name(&self) -> &'static str;

    /// Whether `device` holds a file system of this kind, as far as its superblock tells.
    ///
    /// # Errors
    /// The device's, if it cannot be read. A disk that is merely something else, or too short, is `Ok(false)`.
    fn probe(&self, device: &Devvp) -> Result<bool, Errno>;

    /// Mounts. Everything on the device is checked that later code relies on.
    ///
    /// # Errors
    /// `EINVAL`: no file system of this kind, or one that is corrupt; a log line says where.
    /// `EOPNOTSUPP`: features it does not have. `EROFS`: writing wanted, but not possible.
    fn mount(&self, args: &MountArgs) -> Result<Arc<dyn FileSystem>, Errno>;
}

/// What a file system is mounted from, and how.
pub struct MountArgs {
    /// The device; `None` for one that has none (tmpfs).
    pub device: Option<Devvp>,
    /// Options.
    pub options: MountOptions,
}

impl MountArgs {
    /// The device.
    ///
    /// # Errors
    /// `ENXIO` if there is none.
    pub fn device(&self) -> Result<&Devvp, Errno> {
        self.device.as_ref().ok_or(Errno::ENXIO)
    }
}

/// The options of a mount, from text such as `"ro,noatime,log"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Writes are refused (`ro`; `rw` takes it back).
    pub read_only: bool,
    /// Reading does not change access times (`noatime`).
    pub noatime: bool,
    /// Every write is stable before it returns (`sync`).
    pub synchronous: bool,
    /// What the file system itself has to judge (`log`, `discard`, `uid=5`).
    pub own: Vec<(String, Option<String>)>,
}

impl MountOptions {
    /// Reads a comma-separated list. Later options win over earlier ones; empty ones are skipped.
    pub fn parse(text: &str) -> MountOptions {
        let mut options = MountOptions::default();
        for word in text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            match word {
                "ro" | "rdonly" => options.read_only = true,
                "rw" => options.read_only = false,
                "noatime" => options.noatime = true,
                "sync" => options.synchronous = true,
                _ => {
                    let (key, value) = match word.split_once('=') {
                        Some((key, value)) => (key, Some(value.into())),
                        None => (word, None),
                    };
                    options.own.push((key.into(), value));
                }
            }
        }
        options
    }

    /// Whether the file system's own option `key` is there.
    pub fn has(&self, key: &str) -> bool {
        self.own.iter().any(|(own, _)| own == key)
    }
}

/// What a file system hands over when one of its files comes into use.
pub struct Loaded {
    /// The file system's part.
    pub ops: Box<dyn VnodeOps>,
    /// The file's type.
    pub vtype: VnodeType,
    /// Its length in bytes; up to 2⁶³ − 1.
    pub size: u64,
}

/// A mounted file system.
pub trait FileSystem: Any + Send + Sync {
    /// The number of the root directory.
    fn root(&self) -> InodeNumber;

    /// Brings file `ino` into use (`VFS_LOADVNODE`). Called at most once at a time for a number.
    ///
    /// # Errors
    /// `ENOENT` or `ESTALE`: no such file. `EIO` and the like for an inode that is corrupt or cannot
    /// be read.
    fn loadvnode(self: Arc<Self>, ino: InodeNumber) -> Result<Loaded, Errno>;

    /// How full it is.
    ///
    /// # Errors
    /// `EIO` and the like.
    fn statvfs(&self) -> Result<StatVfs, Errno>;

    /// Writes its metadata back; file data has been written already.
    ///
    /// # Errors
    /// `EIO` and the like.
    fn sync(&self, wait: Wait) -> Result<(), Errno> {
        let _ = wait;
        Ok(())
    }

    /// Whether its metadata are in a log once [`FileSystem::sync`] has returned, so that they need not be written in
    /// place to be stable.
    fn keeps_log(&self) -> bool {
        false
    }

    /// Ends the mount: no vnode of it is in use, everything was synced. Leaves the volume clean.
    ///
    /// # Errors
    /// `EIO`; the mount then stays, unless it is forced.
    fn unmount(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Ends the mount by force: from now on nothing is changed, whatever is left half done, and the volume is not said to
    /// be clean. What is under way fails.
    fn abandon(&self) {}

    /// Changes the options of the mount, such as from `ro` to `rw`.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if that cannot be done, and nothing has changed.
    fn remount(&self, options: &MountOptions) -> Result<(), Errno> {
        let _ = options;
        Err(Errno::EOPNOTSUPP)
    }
}

/// How full a file system is (NetBSD `sys/statvfs.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatVfs {
    /// The size that I/O likes best, in bytes.
    pub bsize: u64,
    /// The unit of the block counts, in bytes.
    pub frsize: u64,
    /// Units in all.
    pub blocks: u64,
    /// Units free.
    pub bfree: u64,
    /// Units free for all but the super-user.
    pub bavail: u64,
    /// Units reserved for the super-user.
    pub bresvd: u64,
    /// Files that it can hold.
    pub files: u64,
    /// Files that it can still take.
    pub ffree: u64,
    /// The longest name.
    pub namemax: u32,
    /// Writes are refused. Filled in by the mount table.
    pub read_only: bool,
}
