//! The file-system faction of one kernel: its file system types, devices, caches and mounts.

use crate::bufcache::{BufCache, BufStats, Devvp};
use crate::mount::{Mount, MountParts};
use crate::namecache::{NameCache, NameCacheStats};
use crate::namei::Context;
use crate::pagecache::{PageCacheCounts, PageCacheStats};
use crate::specfs::BlockIo;
use crate::syncer::Syncer;
use crate::vfsops::{MountArgs, MountOptions, VfsOps};
use crate::vnode::{Vnode, VnodeCache, VnodeRef, VnodeStats, Wait};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use rumpkern::hash::HashKey;
use rumpkern::kauth::Cred;
use rumpkern::locks::{Mutex, OnceLock, RwLock};
use rumpkern::uvm;
use rumpuser::Errno;

/// How large the caches are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Vnodes to keep; twice as many can be in use.
    pub vnodes: usize,
    /// Names.
    pub names: usize,
    /// Buffers, of up to a page.
    pub buffers: usize,
}

/// Buffers at least, however small the memory: what the largest operation of a file system works on, and a little. With fewer, each
/// operation reads again what the one before it had. The page daemon gets back what is clean.
const LEAST_BUFFERS: usize = 24;

impl Sizes {
    /// For a memory of `pages` pages: about 5 % of it for buffers, 1 % for names.
    pub fn for_pages(pages: usize) -> Sizes {
        Sizes {
            vnodes: vnodes(pages),
            names: (pages / 2).clamp(64, 16384),
            buffers: (pages / 20).clamp(LEAST_BUFFERS, 8192),
        }
    }
}

/// Vnodes to keep in a memory of `pages` pages: one for every 8 pages, and for every 2 of those beyond 16 MiB, as what is plenty may
/// be spent on not reading inodes again. The page daemon gets back what is needed otherwise.
fn vnodes(pages: usize) -> usize {
    const FEW: usize = 4096;
    (pages.min(FEW) / 8 + pages.saturating_sub(FEW) / 2).clamp(48, 32_768)
}

/// The mounts of a kernel.
struct Mounts {
    list: Vec<Arc<Mount>>,
    next_id: u64,
    /// Something was mounted, if only once.
    any_yet: bool,
}

/// The file-system faction of a kernel. It is in the kernel by its type: `kernel.get::<Vfs>()`.
pub struct Vfs {
    types: RwLock<Vec<&'static dyn VfsOps>>,
    devices: RwLock<Vec<Arc<dyn BlockIo>>>,
    mounts: RwLock<Mounts>,
    /// One mounts or unmounts at a time. Held while the disk is read.
    mounting: Mutex<()>,
    pub(crate) vnodes: Arc<VnodeCache>,
    pub(crate) names: NameCache,
    bufs: Arc<BufCache>,
    pages: Arc<PageCacheStats>,
    pub(crate) syncer: Syncer,
    /// Called at the first mount: by then the devices have registered what they do at shutdown, which comes
    /// in reverse order.
    pub(crate) first_mount: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// What to mount, where and how.
#[derive(Clone, Copy, Debug)]
pub struct MountRequest<'a> {
    /// The device's name; empty for a file system without one.
    pub device: &'a str,
    /// Where.
    pub path: &'a str,
    /// The kind of file system; `None`: find out.
    pub fstype: Option<&'a str>,
    /// Options, as [`MountOptions::parse`] reads them.
    pub options: &'a str,
}

impl Vfs {
    /// A faction with nothing mounted. `random` are bits that nobody outside knows.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(sizes: Sizes, mut random: impl FnMut() -> u64) -> Result<Arc<Vfs>, Errno> {
        let mut key = || [random(), random()];
        let vnodes = VnodeCache::new(sizes.vnodes, HashKey::new(key()))?;
        Ok(Arc::new(Vfs {
            types: RwLock::new(Vec::new()),
            devices: RwLock::new(Vec::new()),
            mounts: RwLock::new(Mounts {
                list: Vec::new(),
                next_id: 1,
                any_yet: false,
            }),
            mounting: Mutex::new(()),
            vnodes: Arc::new(vnodes),
            names: NameCache::new(sizes.names, HashKey::new(key()))?,
            bufs: BufCache::new(sizes.buffers, key())?,
            pages: Arc::new(PageCacheStats::default()),
            syncer: Syncer::new(),
            first_mount: OnceLock::new(),
        }))
    }

    /// Adds a kind of file system.
    ///
    /// # Errors
    /// `EEXIST`: there is one of that name.
    pub fn register(&self, ops: &'static dyn VfsOps) -> Result<(), Errno> {
        let mut types = self.types.write();
        if types.iter().any(|known| known.name() == ops.name()) {
            return Err(Errno::EEXIST);
        }
        types.push(ops);
        Ok(())
    }

    /// Adds a block device to mount from.
    ///
    /// # Errors
    /// `EEXIST`: there is one of that name.
    pub fn add_device(&self, device: Arc<dyn BlockIo>) -> Result<(), Errno> {
        let mut devices = self.devices.write();
        if devices.iter().any(|known| known.name() == device.name()) {
            return Err(Errno::EEXIST);
        }
        devices.push(device);
        Ok(())
    }

    /// The block device called `name`, with or without `/dev/`.
    pub fn device(&self, name: &str) -> Option<Arc<dyn BlockIo>> {
        let name = name.strip_prefix("/dev/").unwrap_or(name);
        let devices = self.devices.read();
        devices.iter().find(|device| device.name() == name).cloned()
    }

    /// All block devices, in the order in which they came.
    pub fn devices(&self) -> Vec<Arc<dyn BlockIo>> {
        self.devices.read().clone()
    }

    /// A file system's way to `device`.
    pub fn devvp(&self, device: &Arc<dyn BlockIo>) -> Devvp {
        Devvp::new(self.bufs.clone(), device.clone())
    }

    /// What kind of file system `device` holds.
    ///
    /// # Errors
    /// `EFTYPE`: none that is known. The device's error, if it cannot be read.
    pub fn probe(&self, device: &Arc<dyn BlockIo>) -> Result<&'static dyn VfsOps, Errno> {
        let devvp = self.devvp(device);
        let types = self.types.read().clone();
        for ops in types {
            if ops.probe(&devvp)? {
                return Ok(ops);
            }
        }
        Err(Errno::EFTYPE)
    }

    fn find_type(&self, name: &str) -> Result<&'static dyn VfsOps, Errno> {
        let types = self.types.read();
        let found = types.iter().find(|ops| ops.name() == name);
        found.copied().ok_or(Errno::ENODEV)
    }

    /// Mounts. The first mount is on `/` and becomes the root.
    ///
    /// # Errors
    /// `ENXIO`: no such device. `EBUSY`: the device or the directory is mounted already. `ENODEV`: no such kind
    /// of file system. `EFTYPE`: the device holds none that is known. `ENOTDIR`. What the file system says.
    pub fn mount(&self, cred: &Arc<Cred>, request: &MountRequest<'_>) -> Result<Arc<Mount>, Errno> {
        if !cred.is_root() {
            return Err(Errno::EPERM);
        }
        let _one_at_a_time = self.mounting.lock();
        let covered = self.mount_point(cred, request.path)?;
        let device = match request.device {
            "" => None,
            name => Some(self.device(name).ok_or(Errno::ENXIO)?),
        };
        if device
            .as_ref()
            .is_some_and(|device| self.is_mounted(&**device))
        {
            return Err(Errno::EBUSY);
        }
        let ops = match (request.fstype, &device) {
            (Some(name), _) => self.find_type(name)?,
            (None, Some(device)) => self.probe(device)?,
            (None, None) => return Err(Errno::EINVAL),
        };
        let mut options = MountOptions::parse(request.options);
        if device
            .as_ref()
            .is_some_and(|device| device.info().read_only)
        {
            options.read_only = true;
        }
        let args = MountArgs {
            device: device.as_ref().map(|device| self.devvp(device)),
            options: options.clone(),
        };
        let file_system = ops.mount(&args)?;
        let id = {
            let mut mounts = self.mounts.write();
            mounts.next_id += 1;
            mounts.next_id
        };
        let mount = Arc::new(Mount::new(MountParts {
            id,
            fstype: ops.name(),
            path: String::from(request.path),
            device,
            file_system,
            covered: covered.clone(),
            options,
            vnodes: Arc::downgrade(&self.vnodes),
            pages: self.pages.clone(),
        }));
        // That its root can be used shows now, not at the first look-up.
        let root = mount.root()?;
        if !root.is_dir() {
            log::error!("{}: the root is no directory", mount.name());
            return Err(Errno::EINVAL);
        }
        drop(root);
        let mut mounts = self.mounts.write();
        mounts.list.push(mount.clone());
        let is_first = !core::mem::replace(&mut mounts.any_yet, true);
        drop(mounts);
        if let Some(first_mount) = self.first_mount.get()
            && is_first
        {
            first_mount();
        }
        if let Some(covered) = covered {
            covered.set_mounted_here(Some(mount.clone()));
        }
        Ok(mount)
    }

    /// The directory to mount on; `None` if it will be the root.
    fn mount_point(&self, cred: &Arc<Cred>, path: &str) -> Result<Option<VnodeRef>, Errno> {
        let Ok(root) = self.root() else {
            // Without a root there is nothing else to mount on.
            return if path == "/" {
                Ok(None)
            } else {
                Err(Errno::ENOENT)
            };
        };
        let context = Context {
            cwd: root.clone(),
            root,
            cred: cred.clone(),
        };
        let covered = self.lookup(&context, path.as_bytes())?;
        if !covered.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if covered.is_mount_root() {
            return Err(Errno::EBUSY);
        }
        Ok(Some(covered))
    }

    /// Whether `device` is mounted, or the disk that it is a partition of, or a partition of it.
    fn is_mounted(&self, device: &dyn BlockIo) -> bool {
        let mounts = self.mounts.read();
        let mut devices = mounts.list.iter().filter_map(|mount| mount.device());
        devices.any(|own| {
            own.dev() == device.dev()
                || own.part_of() == Some(device.dev())
                || device.part_of() == Some(own.dev())
        })
    }

    /// Ends `mount`, after everything was written.
    ///
    /// # Errors
    /// `EBUSY`: a file of it is in use, or something is mounted on it; `EIO` if something could not be written. It
    /// stays mounted then. `EINVAL`: it is not mounted.
    pub fn unmount(&self, mount: &Arc<Mount>) -> Result<(), Errno> {
        let _one_at_a_time = self.mounting.lock();
        let mounts = self.mounts.read();
        let is_known = mounts.list.iter().any(|known| Arc::ptr_eq(known, mount));
        drop(mounts);
        if !is_known {
            return Err(Errno::EINVAL);
        }
        self.sync_mount(mount, Wait::Stable)?;
        mount.set_live(false);
        let ended = self.end(mount);
        if ended.is_err() {
            mount.set_live(true);
            return ended;
        }
        self.mounts
            .write()
            .list
            .retain(|known| !Arc::ptr_eq(known, mount));
        if let Some(covered) = mount.take_covered() {
            covered.set_mounted_here(None);
        }
        Ok(())
    }

    /// Ends `mount` whatever is in use, and whatever could not be written, which is lost: what a device leaves to be done
    /// that does not work any more. Files that are open answer `EIO` from then on.
    ///
    /// # Errors
    /// `EBUSY`: something is mounted on it. `EINVAL`: it is not mounted.
    pub fn unmount_forced(&self, mount: &Arc<Mount>) -> Result<(), Errno> {
        let _one_at_a_time = self.mounting.lock();
        let mut mounts = self.mounts.write();
        if !mounts.list.iter().any(|known| Arc::ptr_eq(known, mount)) {
            return Err(Errno::EINVAL);
        }
        let is_on_it = |other: &Arc<Mount>| {
            let covered = other.covered();
            covered.is_some_and(|covered| Arc::ptr_eq(covered.mount(), mount))
        };
        if mounts.list.iter().any(is_on_it) {
            return Err(Errno::EBUSY);
        }
        mounts.list.retain(|known| !Arc::ptr_eq(known, mount));
        drop(mounts);
        mount.set_gone();
        mount.set_live(false);
        mount.set_quiet(true);
        mount.file_system().abandon();
        self.let_changes_end(mount);
        let has_pages = |vnode: &Vnode| vnode.cached_pages() > 0;
        let drop_pages = |vnode: &VnodeRef| vnode.drop_pages(0);
        self.vnodes.for_each(mount, has_pages, drop_pages);
        let in_use = self.vnodes.forget_mount(mount);
        if let Some(device) = mount.device() {
            self.devvp(device).forget();
        }
        if let Some(covered) = mount.take_covered() {
            covered.set_mounted_here(None);
        }
        let left = in_use.map_or("; files of it are still open", |()| "");
        log::warn!("{}: unmounted by force{left}", mount.name());
        Ok(())
    }

    /// Waits for all changes that began before they were refused: whoever changes a file has it locked, and asked then
    /// whether that may be.
    fn let_changes_end(&self, mount: &Arc<Mount>) {
        let all = |_: &Vnode| true;
        let ended = |vnode: &VnodeRef| drop(vnode.lock_exclusive());
        self.vnodes.for_each(mount, all, ended);
    }

    fn end(&self, mount: &Arc<Mount>) -> Result<(), Errno> {
        self.vnodes.forget_mount(mount)?;
        mount.file_system().unmount()?;
        if let Some(device) = mount.device() {
            let devvp = self.devvp(device);
            if !mount.is_read_only() {
                devvp.flush(Wait::Stable)?;
            }
            devvp.forget();
        }
        Ok(())
    }

    /// Unmounts everything, the latest first; says what cannot be.
    pub fn unmount_all(&self) {
        for mount in self.mounts().iter().rev() {
            if let Err(errno) = self.unmount(mount) {
                log::error!("{}: cannot be unmounted: {errno}", mount.name());
            }
        }
    }

    /// Changes the options of `mount`, such as `rw` to `ro`.
    ///
    /// # Errors
    /// `EOPNOTSUPP` or whatever the file system says; nothing has changed then.
    pub fn remount(&self, mount: &Arc<Mount>, options: &str) -> Result<(), Errno> {
        let _one_at_a_time = self.mounting.lock();
        let options = MountOptions::parse(options);
        let device_read_only = mount.device().is_some_and(|device| device.info().read_only);
        if device_read_only && !options.read_only {
            return Err(Errno::EROFS);
        }
        let was = mount.is_read_only();
        if options.read_only && !was {
            // Nothing new gets dirty while the rest is written.
            mount.set_read_only(true);
            self.let_changes_end(mount);
            let synced = self.write_back(mount, Wait::Stable);
            let changed = synced.and_then(|()| mount.file_system().remount(&options));
            match changed {
                Ok(()) => mount.set_quiet(true),
                Err(_) => mount.set_read_only(false),
            }
            return changed;
        }
        mount.file_system().remount(&options)?;
        mount.set_quiet(options.read_only);
        mount.set_read_only(options.read_only);
        Ok(())
    }

    /// The mount that was made next after that of number `id`: a way to go through them that allocates nothing.
    pub(crate) fn mount_after(&self, id: u64) -> Option<Arc<Mount>> {
        let mounts = self.mounts.read();
        mounts.list.iter().find(|mount| mount.id() > id).cloned()
    }

    /// The mounts, in the order in which they were made.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.mounts.read().list.clone()
    }

    /// The root directory.
    ///
    /// # Errors
    /// `ENOENT`: nothing is mounted.
    pub fn root(&self) -> Result<VnodeRef, Errno> {
        let first = self.mounts.read().list.first().cloned();
        first.ok_or(Errno::ENOENT)?.root()
    }

    /// The buffer cache.
    pub fn bufs(&self) -> &Arc<BufCache> {
        &self.bufs
    }

    /// What the caches did.
    pub fn stats(&self) -> VfsStats {
        VfsStats {
            vnodes: self.vnodes.stats(),
            names: self.names.stats(),
            buffers: self.bufs.stats(),
            pages: self.pages.counts(),
        }
    }
}

/// What the caches of a kernel's faction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VfsStats {
    /// The vnode cache.
    pub vnodes: VnodeStats,
    /// The name cache.
    pub names: NameCacheStats,
    /// The buffer cache.
    pub buffers: BufStats,
    /// The page cache.
    pub pages: PageCacheCounts,
}

/// Gives the memory of idle vnodes, with their pages and inodes, back.
impl uvm::Drain for VnodeCache {
    fn drain(&self, want: usize) -> usize {
        VnodeCache::drain(self, want)
    }
}

impl uvm::Drain for BufCache {
    fn drain(&self, want: usize) -> usize {
        BufCache::drain(self, want)
    }
}

#[cfg(test)]
mod tests {
    use super::Sizes;

    #[test]
    fn the_smallest_memory_has_the_buffers_of_an_operation_and_a_large_one_its_share() {
        // The largest operation of FFS, a rename, changes up to 22.
        assert!(Sizes::for_pages(32).buffers >= 22);
        assert_eq!(Sizes::for_pages(20_000).buffers, 1000);
    }
}
