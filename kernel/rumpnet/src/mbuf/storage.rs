//! What holds the bytes of an mbuf, and the ranges of it that packets are made of.

use rumpkern::uvm::{Cluster, Frame, SmallBuffer};
use rumpuser::Errno;

/// What holds the bytes. Cloning shares it.
#[derive(Clone)]
pub enum Storage {
    /// A small buffer: headers and short data.
    Small(SmallBuffer),
    /// A cluster, as interfaces receive into.
    Cluster(Cluster),
    /// A page, maybe one of the page cache: lent, never written to while anyone else holds it.
    Frame(Frame),
    /// Bytes of the program's image.
    Static(&'static [u8]),
}

impl Storage {
    /// All its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Storage::Small(small) => small.as_bytes(),
            Storage::Cluster(cluster) => cluster.as_bytes(),
            Storage::Frame(frame) => frame.as_bytes(),
            Storage::Static(bytes) => bytes,
        }
    }

    /// All its bytes to write to, if nobody else holds it and it is the network's own. A page is
    /// never written to: one that came from the page cache might still be on its way to a disk.
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        match self {
            Storage::Small(small) => small.get_mut().map(|bytes| &mut bytes[..]),
            Storage::Cluster(cluster) => cluster.get_mut().map(|bytes| &mut bytes[..]),
            Storage::Frame(_) | Storage::Static(_) => None,
        }
    }

    /// Whether both are one piece of memory.
    fn is_same(&self, other: &Storage) -> bool {
        match (self, other) {
            (Storage::Small(a), Storage::Small(b)) => a.ptr_eq(b),
            (Storage::Cluster(a), Storage::Cluster(b)) => a.ptr_eq(b),
            (Storage::Frame(a), Storage::Frame(b)) => a.ptr_eq(b),
            (Storage::Static(a), Storage::Static(b)) => core::ptr::eq(*a, *b),
            _ => false,
        }
    }

    /// Bytes of memory that it holds on to, whoever else does too.
    pub fn held_bytes(&self) -> usize {
        match self {
            Storage::Static(_) => 0,
            other => other.as_bytes().len(),
        }
    }
}

/// A range of some storage.
#[derive(Clone)]
pub struct Piece {
    storage: Storage,
    offset: u32,
    len: u32,
}

impl Piece {
    /// The `len` bytes at `offset` of `storage`.
    ///
    /// # Errors
    /// `EINVAL` if they are not inside it.
    pub fn new(storage: Storage, offset: usize, len: usize) -> Result<Piece, Errno> {
        let end = offset.checked_add(len).ok_or(Errno::EINVAL)?;
        if end > storage.as_bytes().len() {
            return Err(Errno::EINVAL);
        }
        Ok(Piece {
            storage,
            offset: u32::try_from(offset).map_err(|_| Errno::EINVAL)?,
            len: u32::try_from(len).map_err(|_| Errno::EINVAL)?,
        })
    }

    /// The storage.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The storage, and where in it the bytes lie: offset and length.
    pub fn into_parts(self) -> (Storage, usize, usize) {
        (self.storage, self.offset as usize, self.len as usize)
    }

    /// Where in the storage its bytes start.
    pub fn offset(&self) -> usize {
        self.offset as usize
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        let start = self.offset();
        &self.storage.as_bytes()[start..start + self.len()]
    }

    /// The bytes, to write to, if they are nobody else's.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let (start, len) = (self.offset(), self.len());
        Some(&mut self.storage.get_mut()?[start..start + len])
    }

    /// Drops its first `n` bytes, or all if it has fewer.
    pub(super) fn trim_front(&mut self, n: usize) {
        let n = n.min(self.len()) as u32;
        self.offset += n;
        self.len -= n;
    }

    /// Keeps its first `n` bytes only.
    pub(super) fn truncate(&mut self, n: usize) {
        self.len = n.min(self.len()) as u32;
    }

    /// A second view of `len` of its bytes from `from` on, both inside it.
    pub(super) fn view(&self, from: usize, len: usize) -> Piece {
        debug_assert!(from + len <= self.len());
        Piece {
            storage: self.storage.clone(),
            offset: self.offset + from as u32,
            len: len as u32,
        }
    }

    /// Takes in `next` if that is where it ends.
    pub(super) fn absorb(&mut self, next: &Piece) -> bool {
        let adjoins = self.offset + self.len == next.offset && self.storage.is_same(&next.storage);
        if adjoins {
            self.len += next.len;
        }
        adjoins
    }

    /// Grows by `n` bytes towards the front and returns them, if there is room and it is nobody else's.
    pub(super) fn grow_front(&mut self, n: usize) -> Option<&mut [u8]> {
        let start = self.offset().checked_sub(n)?;
        let bytes = self.storage.get_mut()?;
        self.offset = start as u32;
        self.len += n as u32;
        Some(&mut bytes[start..start + n])
    }

    /// Grows by up to `n` bytes at the end and returns them (fewer, or none, without room).
    pub(super) fn grow_back(&mut self, n: usize) -> &mut [u8] {
        let end = self.offset() + self.len();
        let Some(bytes) = self.storage.get_mut() else {
            return &mut [];
        };
        let n = n.min(bytes.len() - end);
        self.len += n as u32;
        &mut bytes[end..end + n]
    }
}
