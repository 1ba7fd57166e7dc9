//! Stacks of threads: from the heap, with an unmapped page below.

use crate::heap;
use core::alloc::Layout;
use core::ptr::NonNull;
use platform_x86_64::paging;
use rumpuser::{Errno, PAGE_SIZE};

/// Bytes of stack of a thread that asks for no particular size.
pub const USUAL_STACK_BYTES: usize = if cfg!(debug_assertions) {
    64 * 1024
} else {
    20 * 1024
};
const MAX_STACK_BYTES: usize = 1 << 20;

/// What fills a stack that was never used: how deep it was used can be seen by what is left of it.
const UNUSED: u8 = 0xa5;

/// A stack, with its guard page at `base`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stack {
    pub(super) base: NonNull<u8>,
    pub(super) layout: Layout,
}

// SAFETY: an address; what is there is the thread's that runs on it.
unsafe impl Send for Stack {}

impl Stack {
    /// A new stack of `wanted` bytes or a little more; of the usual size for 0.
    pub(super) fn new(wanted: usize) -> Result<Stack, Errno> {
        let bytes = if wanted == 0 {
            USUAL_STACK_BYTES
        } else {
            wanted
        };
        if bytes > MAX_STACK_BYTES {
            return Err(Errno::EAGAIN);
        }
        let bytes = bytes.next_multiple_of(PAGE_SIZE) + PAGE_SIZE;
        let layout = Layout::from_size_align(bytes, PAGE_SIZE).map_err(|_| Errno::EAGAIN)?;
        let stack = Stack {
            base: heap::allocate(layout).map_err(|_| Errno::EAGAIN)?,
            layout,
        };
        // SAFETY: the stack's lowest page, which nobody uses.
        if unsafe { paging::guard(stack.base.as_ptr().addr() as u64) }.is_err() {
            // SAFETY: allocated just now, and used by nobody.
            unsafe { heap::free(stack.base, layout) };
            return Err(Errno::EAGAIN);
        }
        // SAFETY: the rest of the memory allocated above.
        let bottom = unsafe { stack.base.byte_add(PAGE_SIZE) };
        // SAFETY: as above.
        unsafe { bottom.write_bytes(UNUSED, stack.bytes()) };
        Ok(stack)
    }

    /// Gives the stack back.
    pub(super) fn free(self) {
        // SAFETY: RAM of ours, taken out when the stack was made.
        if unsafe { paging::restore(self.base.as_ptr().addr() as u64) }.is_err() {
            // Cannot be: what mapped the page before can do so again. Without it, the memory must not be used.
            return;
        }
        // SAFETY: it came from `new`, and nobody runs on it any more.
        unsafe { heap::free(self.base, self.layout) };
    }

    /// How many bytes at the bottom of a stack still are as they were at first.
    pub(super) fn unused_bytes(self) -> usize {
        let bytes = self.bytes();
        let bottom = self.base.as_ptr().wrapping_add(PAGE_SIZE);
        let untouched = |&offset: &usize| {
            // SAFETY: inside the stack, above its guard page. Its thread does not run meanwhile, and nobody frees it: threads are
            // cooperative, and this one has not ended.
            unsafe { bottom.wrapping_add(offset).read_volatile() == UNUSED }
        };
        (0..bytes).take_while(untouched).count()
    }

    /// Bytes above the guard page.
    pub(super) fn bytes(self) -> usize {
        self.layout.size() - PAGE_SIZE
    }
}
