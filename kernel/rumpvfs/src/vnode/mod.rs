//! Vnodes: a file in use, whatever file system it is of.

mod attr;
mod ops;

pub use attr::{
    InodeNumber, NewFile, S_IFMT, S_ISGID, S_ISUID, S_ISVTX, SF_APPEND, SF_IMMUTABLE, SetAttr,
    UF_APPEND, UF_IMMUTABLE, Vattr, VnodeType,
};
pub use ops::{Balloc, DirEntry, DirSink, Rename, Run, VnodeOps, Wait};

use alloc::boxed::Box;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};

/// A file in use.
pub struct Vnode {
    ino: InodeNumber,
    vtype: VnodeType,
    size: AtomicU64,
    ops: Box<dyn VnodeOps>,
}

impl Vnode {
    /// The file's number in its file system.
    pub fn ino(&self) -> InodeNumber {
        self.ino
    }

    /// The file's type.
    pub fn vtype(&self) -> VnodeType {
        self.vtype
    }

    /// The file's length in bytes, as the page cache knows it.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// The file system's part.
    pub fn ops(&self) -> &dyn VnodeOps {
        &*self.ops
    }

    /// The file system's part as the type it is, for the file system itself.
    pub fn inode<T: VnodeOps>(&self) -> Option<&T> {
        let any: &dyn Any = &*self.ops;
        any.downcast_ref()
    }
}
