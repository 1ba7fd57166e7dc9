//! Allocations that may be refused: for what an input decides the size or number of.

use alloc::alloc::{alloc, dealloc};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::AtomicUsize;
use rumpuser::Errno;

/// An empty vector with room for `capacity`.
///
/// # Errors
/// `ENOMEM`.
pub fn try_vec<T>(capacity: usize) -> Result<Vec<T>, Errno> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(capacity).map_err(|_| Errno::ENOMEM)?;
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
