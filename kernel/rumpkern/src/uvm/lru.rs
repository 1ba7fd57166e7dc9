//! The queues of page-cache pages: which to reclaim first.
//!
//! Two queues. A new page goes to the tail of the *inactive* queue, from whose head the pagedaemon
//! takes. A page that was used since is not reclaimed but moved to the *active* queue; when that has
//! become the longer one, its head moves back. The use that a page was read for does not count: so a file that is read once passes
//! through without pushing out what is read again and again. A use sets a bit in the page, with no lock.
//!
//! The queues hold no reference: a frame that is freed leaves them by itself. A page that could not
//! be reclaimed goes to the tail, so nothing blocks the head.

use super::page::{
    FLAG_ACTIVE, FLAG_INACTIVE, FLAG_NEW, FLAG_QUEUED, FLAG_REFERENCED, Frame, NIL, VmPage, physmem,
};
use crate::kmem;
use crate::locks::short::{Short, enter};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use rumpuser::Errno;

/// How far the pagedaemon may go with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaim {
    /// Free it if it is clean.
    CleanOnly,
    /// If it is dirty, start writing it, and its dirty neighbours, and free it when that is done.
    MayWrite,
}

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaimed {
    /// So many pages were freed.
    Freed(usize),
    /// So many pages are being written and will be freed ([`super::pageout_started`] counts them).
    PageoutStarted(usize),
    /// It is busy, or its object is, or it is dirty and may not be written now.
    Busy,
    /// Trying again soon is no use: somebody else holds the frame, so that freeing the cache's handle would free
    /// nothing; or the device did not take it.
    Referenced,
    /// The object no longer has this page.
    Gone,
}

/// What holds page-cache pages, as the pagedaemon sees it (a `uvm_object` with its `pgo_put`).
pub trait Object: Send + Sync {
    /// Reclaims page `index`; and if that is clean, those behind it that are too and [`is_cold`], up to `most` in all. Called by the
    /// pagedaemon: must not wait for locks, memory or I/O, only try; may allocate from the reserve. The pagedaemon's reference may
    /// turn out to be the last, so dropping an object must not wait either.
    fn reclaim(&self, index: u64, most: usize, how: Reclaim) -> Reclaimed;
}

/// An object's number in the pages that it owns; kept by the object, and given up by a drop.
#[derive(Debug)]
pub struct Owner {
    number: u32,
}

struct Queue {
    head: u32,
    tail: u32,
    len: usize,
}

impl Queue {
    const EMPTY: Queue = Queue {
        head: NIL,
        tail: NIL,
        len: 0,
    };
}

struct Lru {
    inactive: Queue,
    active: Queue,
}

static LRU: Short<Lru> = Short::new(Lru {
    inactive: Queue::EMPTY,
    active: Queue::EMPTY,
});

struct Owners {
    objects: Vec<Option<Weak<dyn Object>>>,
    free: Vec<u32>,
}

static OWNERS: crate::locks::Mutex<Owners> = crate::locks::Mutex::with_class(
    Owners {
        objects: Vec::new(),
        free: Vec::new(),
    },
    &super::UVM_CLASS,
);

impl Owner {
    /// Gives `object` a number.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(object: Weak<dyn Object>) -> Result<Owner, Errno> {
        // Allocating may wait for the pagedaemon, which takes this lock: grow outside of it.
        loop {
            let (len, capacity) = {
                let mut owners = OWNERS.lock();
                if let Some(number) = owners.free.pop() {
                    owners.objects[number as usize] = Some(object);
                    return Ok(Owner { number });
                }
                let len = owners.objects.len();
                if len < owners.objects.capacity() && len < owners.free.capacity() {
                    owners.objects.push(Some(object));
                    return Ok(Owner { number: len as u32 });
                }
                (len, len + len / 2 + 16)
            };
            let mut objects = kmem::try_vec(capacity)?;
            let mut free = kmem::try_vec(capacity)?;
            let mut owners = OWNERS.lock();
            if owners.objects.len() == len {
                // Both moves stay within the new capacity: no allocation under the lock. The old
                // vectors are freed after it.
                objects.append(&mut owners.objects);
                free.append(&mut owners.free);
                core::mem::swap(&mut owners.objects, &mut objects);
                core::mem::swap(&mut owners.free, &mut free);
            }
            drop(owners);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let object = {
            let mut owners = OWNERS.lock();
            owners.free.push(self.number);
            owners.objects[self.number as usize].take()
        };
        drop(object);
    }
}

fn object(number: u32) -> Option<Arc<dyn Object>> {
    let owners = OWNERS.lock();
    owners.objects.get(number as usize)?.as_ref()?.upgrade()
}

/// Puts `frame` on the inactive queue as page `index` of `owner`. On a frame that is queued already,
/// changes owner and index.
pub fn enqueue(frame: &Frame, owner: &Owner, index: u64) {
    let (physmem, number, page) = frame.page();
    let mut lru = enter(&LRU);
    page.a.store(owner.number, Ordering::Relaxed);
    page.index.store(index, Ordering::Relaxed);
    if page.flags.fetch_or(FLAG_QUEUED, Ordering::Relaxed) & FLAG_QUEUED == 0 {
        lru.push(physmem, number, page, FLAG_INACTIVE);
    }
}

/// Takes `frame` off its queue, if it is on one.
pub fn dequeue(frame: &Frame) {
    let (_, number, page) = frame.page();
    forget(number, page);
}

/// Notes that `frame` was read from a disk, for somebody who has yet to use it.
pub fn mark_new(frame: &Frame) {
    frame.page().2.flags.fetch_or(FLAG_NEW, Ordering::Relaxed);
}

/// Notes that `frame` was used. No lock, and usually no write.
#[inline]
pub fn mark_used(frame: &Frame) {
    let page = frame.page().2;
    let flags = page.flags.load(Ordering::Relaxed);
    if flags & FLAG_NEW != 0 {
        page.flags.fetch_and(!FLAG_NEW, Ordering::Relaxed);
    } else if flags & FLAG_REFERENCED == 0 {
        page.flags.fetch_or(FLAG_REFERENCED, Ordering::Relaxed);
    }
}

/// Whether `frame` would be reclaimed if it came to the queue's head now. Without a lock: a guess.
#[inline]
pub fn is_cold(frame: &Frame) -> bool {
    let flags = frame.page().2.flags.load(Ordering::Relaxed);
    flags & (FLAG_INACTIVE | FLAG_REFERENCED | FLAG_NEW) == FLAG_INACTIVE
}

/// Lengths of the inactive and the active queue in pages.
pub fn lengths() -> (usize, usize) {
    let lru = enter(&LRU);
    (lru.inactive.len, lru.active.len)
}

/// Takes a page off whatever queue it is on.
pub(super) fn forget(number: u32, page: &VmPage) {
    // FLAG_QUEUED is set by holders of the frame alone, and stays while the pagedaemon moves the page from queue to
    // queue; so a caller who holds the last handle reads a stable answer without the lock.
    if page.flags.load(Ordering::Relaxed) & FLAG_QUEUED == 0 {
        return;
    }
    let mut lru = enter(&LRU);
    if let Some(physmem) = physmem() {
        lru.unlink(physmem, number, page);
    }
    page.flags.fetch_and(!FLAG_QUEUED, Ordering::Relaxed);
}

/// What a look at the queue does with pages that are not to be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Used ones go to the active queue, and count as not used since. Those that nobody has had yet count as if he had.
    Ageing,
    /// The same, but those that nobody has had yet are left as they are: somebody is about to want them.
    Passing,
    /// All are left as they are.
    Gentle,
}

/// The next page to look at: moves it to the inactive queue's tail and says whose it is. `None` when `budget`
/// pages were passed, or none are left.
pub(super) fn next_candidate(
    budget: &mut usize,
    look: Look,
) -> Option<(Option<Arc<dyn Object>>, u64)> {
    let physmem = physmem()?;
    loop {
        *budget = budget.checked_sub(1)?;
        let mut lru = enter(&LRU);
        if look != Look::Gentle {
            lru.balance(physmem);
        }
        let number = lru.inactive.head;
        if number == NIL {
            return None;
        }
        let page = physmem.page(number);
        lru.unlink(physmem, number, page);
        if look != Look::Gentle && take(page, FLAG_REFERENCED) {
            lru.push(physmem, number, page, FLAG_ACTIVE);
            continue;
        }
        lru.push(physmem, number, page, FLAG_INACTIVE);
        let passed = match look {
            Look::Ageing => take(page, FLAG_NEW),
            Look::Passing => has(page, FLAG_NEW),
            Look::Gentle => has(page, FLAG_REFERENCED | FLAG_NEW),
        };
        if passed {
            continue;
        }
        let owner = page.a.load(Ordering::Relaxed);
        let index = page.index.load(Ordering::Relaxed);
        drop(lru);
        return Some((object(owner), index));
    }
}

fn has(page: &VmPage, flags: u8) -> bool {
    page.flags.load(Ordering::Relaxed) & flags != 0
}

/// Takes a flag away, and says whether it was there.
fn take(page: &VmPage, flag: u8) -> bool {
    has(page, flag) && page.flags.fetch_and(!flag, Ordering::Relaxed) & flag != 0
}

impl Lru {
    /// Moves a few pages from the active queue's head back, if that is the longer queue. Used
    /// ones go round once more.
    fn balance(&mut self, physmem: &super::page::PhysMem) {
        for _ in 0..4 {
            if self.active.len <= self.inactive.len {
                return;
            }
            let number = self.active.head;
            let page = physmem.page(number);
            self.unlink(physmem, number, page);
            let to = match take(page, FLAG_REFERENCED) {
                true => FLAG_ACTIVE,
                false => FLAG_INACTIVE,
            };
            self.push(physmem, number, page, to);
        }
    }

    fn queue(&mut self, flag: u8) -> &mut Queue {
        match flag {
            FLAG_ACTIVE => &mut self.active,
            _ => &mut self.inactive,
        }
    }

    fn push(&mut self, physmem: &super::page::PhysMem, number: u32, page: &VmPage, flag: u8) {
        let queue = self.queue(flag);
        page.next.store(NIL, Ordering::Relaxed);
        page.prev.store(queue.tail, Ordering::Relaxed);
        match queue.tail {
            NIL => queue.head = number,
            tail => physmem.page(tail).next.store(number, Ordering::Relaxed),
        }
        queue.tail = number;
        queue.len += 1;
        page.flags.fetch_or(flag, Ordering::Relaxed);
    }

    fn unlink(&mut self, physmem: &super::page::PhysMem, number: u32, page: &VmPage) {
        let flag = page.flags.load(Ordering::Relaxed) & (FLAG_INACTIVE | FLAG_ACTIVE);
        if flag == 0 {
            return;
        }
        let next = page.next.load(Ordering::Relaxed);
        let prev = page.prev.load(Ordering::Relaxed);
        let queue = self.queue(flag);
        debug_assert!(prev != NIL || queue.head == number);
        match prev {
            NIL => queue.head = next,
            prev => physmem.page(prev).next.store(next, Ordering::Relaxed),
        }
        match next {
            NIL => queue.tail = prev,
            next => physmem.page(next).prev.store(prev, Ordering::Relaxed),
        }
        queue.len -= 1;
        page.flags.fetch_and(!flag, Ordering::Relaxed);
    }
}
