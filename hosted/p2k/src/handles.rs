//! The files and directories that Linux has open.

use fuser::FileHandle;
use rumpuser::Errno;
use rumpvfs::file::VnodeFile;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The table. What goes from it is to be dropped by a thread of the kernel's.
#[derive(Default)]
pub(crate) struct Handles {
    open: RwLock<HashMap<u64, Arc<VnodeFile>>>,
    last: AtomicU64,
}

impl Handles {
    /// Takes an open file in.
    pub(crate) fn add(&self, file: VnodeFile) -> FileHandle {
        let handle = 1 + self.last.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    /// The open file.
    pub(crate) fn get(&self, handle: FileHandle) -> Result<Arc<VnodeFile>, Errno> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    /// It is closed.
    #[must_use = "dropping it may write"]
    pub(crate) fn remove(&self, handle: FileHandle) -> Option<Arc<VnodeFile>> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.remove(&handle.0)
    }

    /// Everything that is still open, at the end.
    #[must_use = "dropping it may write"]
    pub(crate) fn take_all(&self) -> Vec<Arc<VnodeFile>> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.drain().map(|(_, file)| file).collect()
    }
}
