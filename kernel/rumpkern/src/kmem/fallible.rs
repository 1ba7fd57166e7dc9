//! Allocations that may be refused: for what an input decides the size or number of.
//!
//! All of them come through here, whatever the program's global allocator is. So a test can have any of them refused on every host
//! ([`fail_after`](crate::uvm::fail_after)): those that take memory are counted, those that find room that is there are not.

use crate::lwp::{self, MemoryUse};
use crate::{time, uvm};
use alloc::alloc::{alloc, dealloc};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;
use core::time::Duration;
use rumpuser::Errno;

/// Collections that can be made to have room beforehand, so that adding to them takes no memory.
pub trait Room {
    /// Sees to it that there is room for `more` elements, or bytes of text; and for some beyond, if it takes memory.
    ///
    /// # Errors
    /// `ENOMEM`; nothing has changed then.
    fn room(&mut self, more: usize) -> Result<(), Errno>;

    /// As [`Room::room`], with nothing beyond: for what does not grow any more.
    ///
    /// # Errors
    /// `ENOMEM`; nothing has changed then.
    fn room_exact(&mut self, more: usize) -> Result<(), Errno>;
}

/// What the collections of `alloc` have in common but for a trait.
macro_rules! has_room {
    ($collection:ty $(, $element:ident)?) => {
        impl $(<$element>)? Room for $collection {
            #[inline]
            fn room(&mut self, more: usize) -> Result<(), Errno> {
                let spare = self.capacity() - self.len();
                room_by(spare, more, || self.try_reserve(more))
            }

            #[inline]
            fn room_exact(&mut self, more: usize) -> Result<(), Errno> {
                let spare = self.capacity() - self.len();
                room_by(spare, more, || self.try_reserve_exact(more))
            }
        }
    };
}

has_room!(Vec<T>, T);
has_room!(VecDeque<T>, T);
has_room!(String);

/// For collections that are not `alloc`'s, what [`Room::room`] is for those that are: unless their `spare` room is enough for `more`,
/// `reserve` asks the allocator.
///
/// # Errors
/// `ENOMEM` for whatever `reserve` answers.
#[inline]
pub fn room_by<E>(
    spare: usize,
    more: usize,
    reserve: impl FnOnce() -> Result<(), E>,
) -> Result<(), Errno> {
    if more <= spare {
        return Ok(());
    }
    granted()?;
    reserve().map_err(|_| Errno::ENOMEM)
}

/// Whether a test lets this allocation be made.
#[inline]
fn granted() -> Result<(), Errno> {
    match uvm::injected_failure() {
        true => Err(Errno::ENOMEM),
        false => Ok(()),
    }
}

/// How often [`insist`] asks again; and how long it pauses, in milliseconds: twice as long each time, up to the most.
const INSISTENCE: u32 = 50;
const LONGEST_PAUSE: u64 = 32;

/// Makes `attempt` again, for a second or two, as long as there is no memory for it: for what must not fail half way of a change. Not if the
/// calling thread may not wait. The caller's locks are held meanwhile: none that an I/O completion or the pagedaemon waits for.
///
/// # Errors
/// `attempt`'s, the last.
pub fn insist<T>(mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let mut pause = 1;
    for _ in 0..INSISTENCE {
        let outcome = attempt();
        let is_short = matches!(outcome, Err(Errno::ENOMEM));
        if !is_short || lwp::memory_use() != Some(MemoryUse::MayWait) {
            return outcome;
        }
        time::sleep(Duration::from_millis(pause));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    attempt()
}

/// An empty vector with room for `capacity`.
///
/// # Errors
/// `ENOMEM`.
pub fn try_vec<T>(capacity: usize) -> Result<Vec<T>, Errno> {
    let mut vec = Vec::new();
    vec.room_exact(capacity)?;
    Ok(vec)
}

/// `value` in a box.
///
/// # Errors
/// `ENOMEM`; the value is dropped.
pub fn try_box<T>(value: T) -> Result<Box<T>, Errno> {
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        return Ok(Box::new(value));
    }
    let at = allocated(layout)?.cast::<T>();
    // SAFETY: the block is new, and large and aligned enough for a T.
    unsafe { at.write(value) };
    // SAFETY: it holds a T, and came from the global allocator with T's layout: what a Box is.
    Ok(unsafe { Box::from_raw(at.as_ptr()) })
}

/// `value` in a box, for which it [`insist`]s.
///
/// # Errors
/// `ENOMEM`; the value is dropped.
pub fn insist_box<T>(value: T) -> Result<Box<T>, Errno> {
    let place = insist(|| try_box(MaybeUninit::<T>::uninit()))?;
    Ok(Box::write(place, value))
}

/// `value` in an `Arc`.
///
/// Stable Rust has no `Arc` that may be refused. So its block is allocated and freed first, which leaves
/// it ready for the `Arc`: if another thread snatches it, the `Arc` itself waits for memory.
///
/// # Errors
/// `ENOMEM`; the value is dropped.
pub fn try_arc<T>(value: T) -> Result<Arc<T>, Errno> {
    // Two counts in front of the value, as `Arc` documents for `Arc::into_raw`'s neighbours in practice; a
    // wrong guess would make this probe less exact, no more.
    let counts = Layout::new::<[AtomicUsize; 2]>();
    let (layout, _) = counts
        .extend(Layout::new::<T>())
        .map_err(|_| Errno::ENOMEM)?;
    let layout = layout.pad_to_align();
    let at = allocated(layout)?;
    // SAFETY: allocated just now with this layout, and used by nobody.
    unsafe { dealloc(at.as_ptr(), layout) };
    Ok(Arc::new(value))
}

/// A block of the global allocator's; the size is not 0.
fn allocated(layout: Layout) -> Result<NonNull<u8>, Errno> {
    debug_assert!(layout.size() > 0);
    granted()?;
    // SAFETY: the size is not 0: callers see to it.
    let at = unsafe { alloc(layout) };
    NonNull::new(at).ok_or(Errno::ENOMEM)
}

/// A block of memory straight from kmem, whatever the program's global allocator is; uninitialised, and freed
/// when dropped. For tables that are charged to the budget on every host.
pub struct Run {
    address: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a block of memory that nobody else refers to.
unsafe impl Send for Run {}
// SAFETY: a shared reference gives nothing but the address.
unsafe impl Sync for Run {}

impl Run {
    /// A block.
    ///
    /// # Errors
    /// `ENOMEM`, depending on `how`.
    pub fn alloc(layout: Layout, how: crate::uvm::Alloc) -> Result<Run, Errno> {
        let address = super::allocate(layout, how).ok_or(Errno::ENOMEM)?;
        Ok(Run { address, layout })
    }

    /// Where it is.
    pub fn address(&self) -> NonNull<u8> {
        self.address
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; nobody else was given it.
        unsafe { super::release(self.address, self.layout) };
    }
}
