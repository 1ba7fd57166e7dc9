//! The hypercall interface: everything a rump kernel may ask of its host, one narrow trait a file.
#![no_std]

mod errno;
pub use errno::Errno;
