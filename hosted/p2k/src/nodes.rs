//! The files that Linux knows: how often it was told of each, so that one without a name is kept until all of that is forgotten.
//!
//! Files that have names need not be kept: their numbers find them. So the table costs a few words for each, and none of the
//! kernel's budget.

use rumpvfs::vnode::{InodeNumber, VnodeRef};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct Known {
    /// Answers that named it, less what was forgotten of them.
    lookups: u64,
    /// It has no name any more.
    nameless: Option<VnodeRef>,
}

/// The table.
#[derive(Default)]
pub(crate) struct Nodes {
    table: Mutex<HashMap<InodeNumber, Known>>,
}

impl Nodes {
    fn table(&self) -> MutexGuard<'_, HashMap<InodeNumber, Known>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Linux is told of file `ino`.
    pub(crate) fn told(&self, ino: InodeNumber) {
        self.table().entry(ino).or_default().lookups += 1;
    }

    /// Linux forgets `count` tellings. What is given back was kept for it alone, and is to be dropped by a thread of the kernel's.
    #[must_use = "dropping it may write"]
    pub(crate) fn forget(&self, ino: InodeNumber, count: u64) -> Option<VnodeRef> {
        let mut table = self.table();
        let known = table.get_mut(&ino)?;
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups > 0 {
            return None;
        }
        table.remove(&ino)?.nameless
    }

    /// `vnode` lost its last name: it stays as long as Linux knows it.
    pub(crate) fn keep(&self, vnode: &VnodeRef) {
        if let Some(known) = self.table().get_mut(&vnode.ino()) {
            known.nameless.get_or_insert_with(|| vnode.clone());
        }
    }

    /// Everything that was kept, at the end.
    #[must_use = "dropping it may write"]
    pub(crate) fn take_all(&self) -> Vec<VnodeRef> {
        let mut table = self.table();
        table
            .drain()
            .filter_map(|(_, known)| known.nameless)
            .collect()
    }
}
