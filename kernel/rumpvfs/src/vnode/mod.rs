//! Vnodes: a file in use, whatever file system it is of.
//!
//! An `Arc<Vnode>` *holds* a vnode: its memory stays. A [`VnodeRef`] *uses* it: it stays in the vnode
//! cache, with its pages and its inode. The file system is told when the last user is gone
//! ([`VnodeOps::inactive`]) and when the vnode is forgotten ([`VnodeOps::reclaim`]). I/O in flight and
//! the page daemon only hold.

mod attr;
mod ops;
mod vcache;

pub use attr::{
    InodeNumber, NewFile, S_IFMT, S_ISGID, S_ISUID, S_ISVTX, SF_APPEND, SF_IMMUTABLE, SetAttr,
    UF_APPEND, UF_IMMUTABLE, Vattr, VnodeType,
};
pub use ops::{Balloc, DirEntry, DirSink, Rename, Run, VnodeOps, Wait};
pub(crate) use vcache::VnodeCache;
pub use vcache::VnodeStats;

use crate::mount::Mount;
use crate::pagecache::PageObject;
use crate::vfsops::Loaded;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use rumpkern::kmem;
use rumpkern::locks::{LockClass, Mutex, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use rumpuser::Errno;

/// Vnode locks nest, parent before child; the order between them is name look-up's business.
static VNODE_LOCK: LockClass = LockClass {
    name: "vnode",
    rank: 0,
};

/// A file in use.
pub struct Vnode {
    /// Never used again for another vnode of the kernel.
    id: u64,
    me: OnceLock<Weak<Vnode>>,
    mount: Arc<Mount>,
    ino: InodeNumber,
    vtype: VnodeType,
    size: AtomicU64,
    users: AtomicU32,
    lock: RwLock<()>,
    pub(crate) pages: PageObject,
    /// What is mounted on this directory, and quickly whether anything is.
    mounted_here: Mutex<Option<Arc<Mount>>>,
    is_covered: AtomicBool,
    ops: Box<dyn VnodeOps>,
}

impl Vnode {
    pub(crate) fn new(
        id: u64,
        mount: Arc<Mount>,
        ino: InodeNumber,
        loaded: Loaded,
    ) -> Result<Arc<Vnode>, Errno> {
        // Offsets are signed to users; and sums of them and a block then never overflow.
        if loaded.size > i64::MAX as u64 {
            log::error!("{}: file {ino} of {} bytes", mount.name(), loaded.size);
            return Err(Errno::EFBIG);
        }
        let vnode = kmem::try_arc(Vnode {
            id,
            me: OnceLock::new(),
            mount,
            ino,
            vtype: loaded.vtype,
            size: AtomicU64::new(loaded.size),
            users: AtomicU32::new(0),
            lock: RwLock::with_class((), &VNODE_LOCK),
            pages: PageObject::new(),
            mounted_here: Mutex::new(None),
            is_covered: AtomicBool::new(false),
            ops: loaded.ops,
        })?;
        // It is new: nobody has set it.
        let _ = vnode.me.set(Arc::downgrade(&vnode));
        Ok(vnode)
    }

    /// Itself, to be held.
    pub(crate) fn me(&self) -> Option<Arc<Vnode>> {
        self.me.get()?.upgrade()
    }

    /// A number that no other vnode of this kernel has, had or will have.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it is a file of.
    pub fn mount(&self) -> &Arc<Mount> {
        &self.mount
    }

    /// The file's number in its file system.
    pub fn ino(&self) -> InodeNumber {
        self.ino
    }

    /// What the vnode cache finds it by.
    pub(crate) fn key(&self) -> (u64, InodeNumber) {
        (self.mount.id(), self.ino)
    }

    /// The file's type.
    pub fn vtype(&self) -> VnodeType {
        self.vtype
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.vtype == VnodeType::Dir
    }

    /// The file's length in bytes, as the page cache knows it.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// The file is `size` bytes long from now on (`uvm_vnp_setsize`); the vnode's lock is held exclusively.
    pub fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// The file system's part.
    pub fn ops(&self) -> &dyn VnodeOps {
        &*self.ops
    }

    /// The file system's part as the type it is, for the file system itself.
    pub fn inode<T: VnodeOps>(&self) -> Option<&T> {
        let any: &dyn Any = &*self.ops;
        any.downcast_ref()
    }

    /// Locks it for looking: others may look as well.
    pub fn lock_shared(&self) -> RwLockReadGuard<'_, ()> {
        self.lock.read()
    }

    /// Locks it for a change.
    pub fn lock_exclusive(&self) -> RwLockWriteGuard<'_, ()> {
        self.lock.write()
    }

    pub(crate) fn is_used(&self) -> bool {
        self.users.load(Ordering::Acquire) != 0
    }

    /// Whether this is the root directory of its mount.
    pub fn is_mount_root(&self) -> bool {
        self.ino == self.mount.root_ino()
    }

    /// What is mounted on this directory.
    pub fn mounted_here(&self) -> Option<Arc<Mount>> {
        if !self.is_covered.load(Ordering::Acquire) {
            return None;
        }
        self.mounted_here.lock().clone()
    }

    pub(crate) fn set_mounted_here(&self, mount: Option<Arc<Mount>>) {
        let mut here = self.mounted_here.lock();
        self.is_covered.store(mount.is_some(), Ordering::Release);
        let old = core::mem::replace(&mut *here, mount);
        drop(here);
        drop(old);
    }

    /// The vnode is forgotten: nobody uses it.
    fn reclaim(self: &Arc<Self>) {
        self.release_pages();
        self.ops.reclaim();
    }
}

impl fmt::Debug for Vnode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} of {}", self.vtype, self.ino, self.mount.name())
    }
}

/// A use of a vnode (`vref`); dropping it ends the use (`vrele`).
///
/// Dropping the last one may write to the disk (a file without a name left is freed): not for the
/// page daemon, nor for completions of I/O, which hold an `Arc<Vnode>`.
pub struct VnodeRef(Arc<Vnode>);

impl VnodeRef {
    /// A use counted from whatever there was, which may be none: under the vnode cache's lock only.
    fn first(vnode: &Arc<Vnode>) -> VnodeRef {
        vnode.users.fetch_add(1, Ordering::AcqRel);
        VnodeRef(vnode.clone())
    }

    /// Whether both are the same file.
    pub fn same(&self, other: &Vnode) -> bool {
        self.0.id == other.id
    }

    /// The vnode, to be held.
    pub fn arc(&self) -> &Arc<Vnode> {
        &self.0
    }
}

impl Clone for VnodeRef {
    fn clone(&self) -> VnodeRef {
        self.0.users.fetch_add(1, Ordering::AcqRel);
        VnodeRef(self.0.clone())
    }
}

impl Deref for VnodeRef {
    type Target = Arc<Vnode>;

    fn deref(&self) -> &Arc<Vnode> {
        &self.0
    }
}

impl fmt::Debug for VnodeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Drop for VnodeRef {
    fn drop(&mut self) {
        let vnode = &self.0;
        loop {
            let users = vnode.users.load(Ordering::Acquire);
            // Still counted, so that nobody forgets the vnode meanwhile; and locked until it is not, so that
            // nobody takes its last name between what the file system decides and then. Of a mount that is only
            // read, no file has anything left to be done.
            let is_last = users == 1 && !vnode.mount.is_quiet();
            let locked = is_last.then(|| vnode.lock_exclusive());
            let forget = locked.is_some() && vnode.ops.inactive(vnode) || vnode.mount.is_gone();
            let left =
                vnode
                    .users
                    .compare_exchange(users, users - 1, Ordering::AcqRel, Ordering::Acquire);
            drop(locked);
            if left.is_err() {
                continue;
            }
            if users == 1
                && let Some(cache) = vnode.mount.vnodes()
            {
                if forget {
                    // Nobody will ever read it again.
                    vnode.drop_pages(0);
                }
                cache.idle(vnode, forget);
            }
            return;
        }
    }
}
