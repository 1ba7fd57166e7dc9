//! Vnode cache: which files are in use, and which were lately.
//!
//! A vnode in the cache is *used* (its use count is not zero: someone holds a [`VnodeRef`]) or *idle*.
//! Idle ones keep their pages and inode until room is needed: when the cache holds more than its
//! target, or the page daemon asks. The cache's capacity is fixed when it is made, by the memory
//! there is; when all of it is used, opening one more file is `ENFILE`.

use super::{InodeNumber, Vnode, VnodeRef, Wait};
use crate::lru::LruMap;
use crate::mount::Mount;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rumpkern::hash::HashKey;
use rumpkern::locks::{Condvar, Mutex, MutexGuard};
use rumpkern::{kmem, lwp};
use rumpuser::Errno;

/// Mount and number: what a vnode is found by.
type Key = (u64, InodeNumber);

enum Entry {
    /// The file system is bringing it into use.
    Loading,
    Here(Arc<Vnode>),
    /// It is being forgotten.
    Reclaiming,
}

type Table = LruMap<Key, Entry>;

/// Vnodes that are visited after one look at the table.
const BATCH: usize = 16;

/// How the cache is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnodeStats {
    /// Vnodes there are.
    pub vnodes: usize,
    /// The number of vnodes above which idle ones are forgotten.
    pub target: usize,
    /// Found in the cache.
    pub hits: u64,
    /// Brought in by the file system.
    pub loads: u64,
    /// Forgotten.
    pub reclaims: u64,
}

/// The cache.
pub(crate) struct VnodeCache {
    table: Mutex<Table>,
    /// An entry was settled or removed.
    changed: Condvar,
    target: usize,
    next_id: AtomicU64,
    hits: AtomicU64,
    loads: AtomicU64,
    reclaims: AtomicU64,
}

impl VnodeCache {
    /// A cache that likes to keep `target` vnodes, and can hold twice as many when they are used.
    pub(crate) fn new(target: usize, seed: HashKey) -> Result<VnodeCache, Errno> {
        let target = target.max(1);
        Ok(VnodeCache {
            table: Mutex::new(LruMap::with_capacity(target * 2, seed)?),
            changed: Condvar::new(),
            target,
            next_id: AtomicU64::new(1),
            hits: AtomicU64::new(0),
            loads: AtomicU64::new(0),
            reclaims: AtomicU64::new(0),
        })
    }

    /// The vnode of file `ino` of `mount`, loaded if need be (`vcache_get`).
    pub(crate) fn get(&self, mount: &Arc<Mount>, ino: InodeNumber) -> Result<VnodeRef, Errno> {
        let key = (mount.id(), ino);
        let mut table = self.table.lock();
        loop {
            match table.peek(&key) {
                Some(Entry::Here(vnode)) => {
                    let vnode = VnodeRef::first(vnode);
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(vnode);
                }
                Some(Entry::Loading | Entry::Reclaiming) => table = self.changed.wait(table),
                None => {
                    if !mount.is_live() {
                        return Err(Errno::ENOENT);
                    }
                    if table.len() < self.target {
                        break;
                    }
                    let Some(idle) = spare_one(&mut table) else {
                        // All are used: go over the target.
                        break;
                    };
                    drop(table);
                    self.finish_reclaim(idle);
                    table = self.table.lock();
                }
            }
        }
        if table.insert(key, Entry::Loading).is_err() {
            return Err(Errno::ENFILE);
        }
        drop(table);
        self.load(key, mount)
    }

    fn load(&self, key: Key, mount: &Arc<Mount>) -> Result<VnodeRef, Errno> {
        let loaded = mount.file_system().clone().loadvnode(key.1);
        self.loads.fetch_add(1, Ordering::Relaxed);
        let vnode = loaded.and_then(|loaded| {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            Vnode::new(id, mount.clone(), key.1, loaded)
        });
        let mut table = self.table.lock();
        let result = match vnode {
            Ok(vnode) => {
                let used = VnodeRef::first(&vnode);
                if let Some(entry) = table.peek_mut(&key) {
                    *entry = Entry::Here(vnode);
                }
                Ok(used)
            }
            Err(errno) => {
                table.remove(&key);
                Err(errno)
            }
        };
        drop(table);
        self.changed.notify_all();
        result
    }

    /// The last user of `vnode` is gone. `forget`: it is not worth keeping.
    pub(super) fn idle(&self, vnode: &Arc<Vnode>, forget: bool) {
        let key = vnode.key();
        let mut table = self.table.lock();
        table.touch(&key);
        let is_nearly_full = table.len() > self.target - self.target / 4;
        let idle = if forget {
            take_idle(&mut table, &key)
        } else if table.len() > self.target {
            spare_one(&mut table)
        } else {
            None
        };
        drop(table);
        if let Some(idle) = idle {
            self.finish_reclaim(idle);
        }
        if is_nearly_full && !forget && vnode.dirty_pages() > 0 {
            // It will be forgotten soon, and nobody is to wait for its pages then. What fails is tried again, and told, then.
            let _ = vnode.flush_pages(Wait::Started);
        }
    }

    /// Forgets a vnode that was taken out of use: its entry says `Reclaiming`.
    fn finish_reclaim(&self, vnode: Arc<Vnode>) {
        vnode.reclaim();
        self.reclaims.fetch_add(1, Ordering::Relaxed);
        self.table.lock().remove(&vnode.key());
        self.changed.notify_all();
    }

    /// Gives memory back without waiting for anything: forgets idle vnodes, the oldest first, whose
    /// pages are all clean. Answers about how many pages came free.
    pub(crate) fn drain(&self, want_pages: usize) -> usize {
        let mut freed = 0;
        while freed < want_pages {
            let Some(mut table) = self.table.try_lock() else {
                break;
            };
            let Some(idle) = find_idle(&mut table, |vnode| {
                vnode.pages_are_clean() && !vnode.ops().is_changed()
            }) else {
                break;
            };
            drop(table);
            // The inode, the vnode and its share of slabs: a page for a few of them.
            freed += idle.cached_pages().max(1);
            self.finish_reclaim(idle);
        }
        freed
    }

    /// Forgets every vnode of `mount`.
    ///
    /// # Errors
    /// `EBUSY` when one is used; those that were idle are gone all the same.
    pub(crate) fn forget_mount(&self, mount: &Mount) -> Result<(), Errno> {
        loop {
            let mut table = self.table.lock();
            let of_mount = |key: &Key| key.0 == mount.id();
            if let Some(idle) = find_idle(&mut table, |vnode| of_mount(&vnode.key())) {
                drop(table);
                self.finish_reclaim(idle);
                continue;
            }
            let mut left = table.oldest_first().filter(|(key, _)| of_mount(key));
            match left.next() {
                None => return Ok(()),
                Some((_, Entry::Here(_))) => return Err(Errno::EBUSY),
                Some((_, Entry::Loading | Entry::Reclaiming)) => {}
            }
            drop(left);
            drop(self.changed.wait(table));
        }
    }

    /// Calls `visit` for every vnode of `mount` that `suits`. Those that come, or come to suit, while it goes on may be
    /// missed. Nothing is locked meanwhile.
    pub(crate) fn for_each(
        &self,
        mount: &Mount,
        suits: impl Fn(&Vnode) -> bool,
        mut visit: impl FnMut(&VnodeRef),
    ) {
        if let Some(all) = self.all(mount, &suits) {
            all.iter().for_each(visit);
            return;
        }
        let mut after = 0;
        loop {
            let batch = self.batch_after(mount, after, &suits);
            let Some(last) = batch.iter().flatten().last() else {
                return;
            };
            after = last.id();
            batch.iter().flatten().for_each(&mut visit);
        }
    }

    /// All vnodes of `mount` that `suits`, if there is memory for their list.
    fn all(&self, mount: &Mount, suits: &impl Fn(&Vnode) -> bool) -> Option<Vec<VnodeRef>> {
        let count = self.table.lock().len();
        let refuse = lwp::refuse_to_wait();
        let mut found = kmem::try_vec(count + BATCH).ok()?;
        drop(refuse);
        let table = self.table.lock();
        for (key, entry) in table.oldest_first() {
            if let Entry::Here(vnode) = entry
                && key.0 == mount.id()
                && found.len() < found.capacity()
                && suits(vnode)
            {
                found.push(VnodeRef::first(vnode));
            }
        }
        Some(found)
    }

    /// The vnodes of `mount` with the smallest ids above `after` that `suits`, in order.
    fn batch_after(
        &self,
        mount: &Mount,
        after: u64,
        suits: &impl Fn(&Vnode) -> bool,
    ) -> [Option<VnodeRef>; BATCH] {
        let mut found = [const { None::<&Arc<Vnode>> }; BATCH];
        let table = self.table.lock();
        for (key, entry) in table.oldest_first() {
            let Entry::Here(vnode) = entry else {
                continue;
            };
            if key.0 != mount.id() || vnode.id() <= after || !suits(vnode) {
                continue;
            }
            let is_behind =
                |there: &Option<&Arc<Vnode>>| there.is_some_and(|there| there.id() < vnode.id());
            let at = found.partition_point(is_behind);
            if at < BATCH {
                found[at..].rotate_right(1);
                found[at] = Some(vnode);
            }
        }
        found.map(|vnode| vnode.map(VnodeRef::first))
    }

    /// The counters.
    pub(crate) fn stats(&self) -> VnodeStats {
        VnodeStats {
            vnodes: self.table.lock().len(),
            target: self.target,
            hits: self.hits.load(Ordering::Relaxed),
            loads: self.loads.load(Ordering::Relaxed),
            reclaims: self.reclaims.load(Ordering::Relaxed),
        }
    }
}

/// Marks an idle vnode as being forgotten, to make room: one without pages if there is one among the oldest, since
/// with a vnode go its pages; else one whose pages the device takes, if it can.
fn spare_one(table: &mut MutexGuard<'_, Table>) -> Option<Arc<Vnode>> {
    /// Idle vnodes that are looked at.
    const LOOKED_AT: usize = 64;
    let idle = || {
        let idle = table.oldest_first().filter_map(|(key, entry)| match entry {
            Entry::Here(vnode) if !vnode.is_used() => Some((*key, vnode)),
            _ => None,
        });
        idle.take(LOOKED_AT)
    };
    let without_pages = idle().find(|(_, vnode)| vnode.cached_pages() == 0);
    let writable = || idle().find(|(_, vnode)| vnode.failed_pages() == 0);
    let (key, _) = without_pages.or_else(writable).or_else(|| idle().next())?;
    take_idle(table, &key)
}

/// Marks the oldest idle vnode that `suits` as being forgotten.
fn find_idle(
    table: &mut MutexGuard<'_, Table>,
    suits: impl Fn(&Vnode) -> bool,
) -> Option<Arc<Vnode>> {
    let idle = |entry: &Entry| match entry {
        Entry::Here(vnode) => !vnode.is_used() && suits(vnode),
        Entry::Loading | Entry::Reclaiming => false,
    };
    let key = *table.oldest_first().find(|(_, entry)| idle(entry))?.0;
    take_idle(table, &key)
}

/// Marks the vnode of `key` as being forgotten, if it is idle.
fn take_idle(table: &mut MutexGuard<'_, Table>, key: &Key) -> Option<Arc<Vnode>> {
    let entry = table.peek_mut(key)?;
    if !matches!(entry, Entry::Here(vnode) if !vnode.is_used()) {
        return None;
    }
    match core::mem::replace(entry, Entry::Reclaiming) {
        Entry::Here(vnode) => Some(vnode),
        Entry::Loading | Entry::Reclaiming => None,
    }
}
