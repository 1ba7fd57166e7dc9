//! A piece of memory that crosses the hypercall line.

use core::ptr::NonNull;

/// A piece of the kernel's memory, by address and length. It borrows nothing: whoever hands it over
/// promises that the memory stays (see the call's safety section).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoVec {
    /// Address of the first byte, in the kernel's address space.
    pub base: NonNull<u8>,
    /// Length in bytes.
    pub len: usize,
}

// SAFETY: an address and a length; what may be done with them is said, and proven, where they are used.
unsafe impl Send for IoVec {}
// SAFETY: as above; a shared reference gives no more than a copy of the two numbers.
unsafe impl Sync for IoVec {}
