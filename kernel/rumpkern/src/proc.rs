//! Processes: what lwps share — credentials, descriptors, working directory.

use crate::file::FdTable;
use crate::kauth::Cred;
use crate::kernel::Kernel;
use crate::locks::{LockClass, Mutex};
use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

static PROC_CLASS: LockClass = LockClass {
    name: "proc",
    rank: 800,
};

/// What a faction keeps per process without this crate knowing its type.
pub type Opaque = Arc<dyn Any + Send + Sync>;

/// A process.
pub struct Proc {
    pid: u32,
    kernel: Weak<Kernel>,
    cred: Mutex<Arc<Cred>>,
    fds: FdTable,
    cwd: Mutex<Option<Opaque>>,
    root: Mutex<Option<Opaque>>,
    umask: AtomicU32,
    /// Its lwps.
    lwps: AtomicUsize,
    /// It ends with the last of them.
    ends_with_lwps: AtomicBool,
}

/// An lwp's being one of a process's.
pub(crate) struct Membership(Arc<Proc>);

impl Drop for Membership {
    fn drop(&mut self) {
        let was_last = self.0.lwps.fetch_sub(1, Ordering::AcqRel) == 1;
        if was_last
            && self.0.ends_with_lwps.load(Ordering::Relaxed)
            && let Some(kernel) = self.0.kernel()
        {
            kernel.exit_proc(&self.0);
        }
    }
}

impl Proc {
    pub(crate) fn new(pid: u32, kernel: Weak<Kernel>, cred: Arc<Cred>, fd_limit: usize) -> Proc {
        Proc {
            pid,
            kernel,
            cred: Mutex::with_class(cred, &PROC_CLASS),
            fds: FdTable::new(fd_limit),
            cwd: Mutex::with_class(None, &PROC_CLASS),
            root: Mutex::with_class(None, &PROC_CLASS),
            umask: AtomicU32::new(0o022),
            lwps: AtomicUsize::new(0),
            ends_with_lwps: AtomicBool::new(false),
        }
    }

    /// Counts an lwp, while the answer lives.
    pub(crate) fn enter(self: &Arc<Proc>) -> Membership {
        self.lwps.fetch_add(1, Ordering::Relaxed);
        Membership(self.clone())
    }

    /// From now on it ends when it has no lwp left.
    pub(crate) fn end_with_lwps(&self) {
        self.ends_with_lwps.store(true, Ordering::Relaxed);
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its kernel, unless that is gone.
    pub fn kernel(&self) -> Option<Arc<Kernel>> {
        self.kernel.upgrade()
    }

    /// Its credentials.
    pub fn cred(&self) -> Arc<Cred> {
        self.cred.lock().clone()
    }

    /// Changes its credentials.
    pub fn set_cred(&self, cred: Cred) {
        let cred = Arc::new(cred);
        let before = core::mem::replace(&mut *self.cred.lock(), cred);
        drop(before);
    }

    /// Its descriptors.
    pub fn fds(&self) -> &FdTable {
        &self.fds
    }

    /// Its working directory, as `rumpvfs` keeps it.
    pub fn cwd(&self) -> Option<Opaque> {
        self.cwd.lock().clone()
    }

    /// Sets it; returns the former.
    pub fn set_cwd(&self, cwd: Option<Opaque>) -> Option<Opaque> {
        core::mem::replace(&mut *self.cwd.lock(), cwd)
    }

    /// Its root directory if that was changed (chroot), as `rumpvfs` keeps it.
    pub fn root(&self) -> Option<Opaque> {
        self.root.lock().clone()
    }

    /// Sets it; returns the former.
    pub fn set_root(&self, root: Option<Opaque>) -> Option<Opaque> {
        core::mem::replace(&mut *self.root.lock(), root)
    }

    /// The bits that new files do not get.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Sets them; returns the former.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.umask.swap(umask & 0o777, Ordering::Relaxed)
    }
}
