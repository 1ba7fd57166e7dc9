//! Mbufs: packets and stream data as chains of ranges of shared storage.
//!
//! An [`Mbuf`] is a whole chain. Its bytes lie in [`Piece`]s: ranges of a small buffer, of a cluster,
//! of a page (a page of the page cache is sent by reference) or of static data. Storage is counted, so
//! [`Mbuf::copy_range`] shares instead of copying, and a header is put in front of shared data by
//! [`Mbuf::prepend`], which writes only to storage that nobody else holds.
//!
//! Whatever allocates may answer `ENOBUFS`; nothing here waits for memory.
//!
//! Source of the shapes: NetBSD mbuf(9), `sys/mbuf.h`.

mod hdr;
mod pieces;
mod storage;

#[cfg(test)]
mod tests;

pub use hdr::{MbufFlags, PktHdr, TxChecksum};
pub use rumpkern::uvm::{MCLBYTES, MLEN};
pub use storage::{Piece, Storage};

use pieces::Pieces;
use rumpkern::uvm::{Alloc, Cluster, Frame, SmallBuffer};
use rumpuser::{Errno, PAGE_SIZE};

/// The most bytes that a chain may hold; lengths fit in 31 bits with room for headers.
pub const M_MAXLEN: usize = 1 << 30;

/// A chain of pieces, and what the stack knows of it as a packet.
#[derive(Clone)]
pub struct Mbuf {
    pieces: Pieces,
    len: usize,
    /// What is known of the chain as a packet.
    pub pkthdr: PktHdr,
}

impl Default for Mbuf {
    fn default() -> Mbuf {
        Mbuf::new()
    }
}

impl core::fmt::Debug for Mbuf {
    /// Its lengths, not its contents.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "Mbuf({} bytes in {} pieces)",
            self.len,
            self.pieces.len()
        )
    }
}

impl Mbuf {
    /// An empty chain. Allocates nothing.
    pub fn new() -> Mbuf {
        Mbuf {
            pieces: Pieces::new(),
            len: 0,
            pkthdr: PktHdr::default(),
        }
    }

    /// A chain of one piece.
    pub fn from_piece(piece: Piece) -> Mbuf {
        let mut m = Mbuf::new();
        m.len = piece.len();
        // An empty chain has room for one in place.
        let pushed = m.pieces.push_back(piece);
        debug_assert!(pushed.is_ok());
        m
    }

    /// The `len` bytes at `offset` of a cluster.
    ///
    /// # Errors
    /// `EINVAL` if they are not inside it.
    pub fn from_cluster(cluster: Cluster, offset: usize, len: usize) -> Result<Mbuf, Errno> {
        Piece::new(Storage::Cluster(cluster), offset, len).map(Mbuf::from_piece)
    }

    /// The `len` bytes at `offset` of a page.
    ///
    /// # Errors
    /// `EINVAL` if they are not inside it.
    pub fn from_frame(frame: Frame, offset: usize, len: usize) -> Result<Mbuf, Errno> {
        Piece::new(Storage::Frame(frame), offset, len).map(Mbuf::from_piece)
    }

    /// Bytes of the program's image, by reference.
    pub fn from_static(bytes: &'static [u8]) -> Result<Mbuf, Errno> {
        Piece::new(Storage::Static(bytes), 0, bytes.len()).map(Mbuf::from_piece)
    }

    /// A copy of `bytes`.
    ///
    /// # Errors
    /// `ENOBUFS`.
    pub fn from_slice(bytes: &[u8]) -> Result<Mbuf, Errno> {
        let mut m = Mbuf::new();
        m.append_slice(bytes)?;
        Ok(m)
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, front to back.
    pub fn pieces(&self) -> impl DoubleEndedIterator<Item = &Piece> + '_ {
        self.pieces.iter()
    }

    /// How many pieces there are.
    pub fn piece_count(&self) -> usize {
        self.pieces.len()
    }

    /// The pieces themselves.
    pub fn into_pieces(self) -> impl Iterator<Item = Piece> {
        self.pieces.into_iter()
    }

    /// Bytes of memory that it holds on to (`sb_mbcnt` counts these): storage that two of its
    /// pieces share counts twice.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes_from(0)
    }

    /// The same of the pieces from the `first`th on.
    pub fn held_bytes_from(&self, first: usize) -> usize {
        (first..self.pieces.len())
            .filter_map(|index| self.pieces.get(index))
            .map(|piece| piece.storage().held_bytes())
            .sum()
    }

    /// Appends a piece; one that goes on where the last ends becomes one with it.
    ///
    /// # Errors
    /// `ENOBUFS`; `EMSGSIZE` past [`M_MAXLEN`].
    pub fn push(&mut self, piece: Piece) -> Result<(), Errno> {
        if piece.is_empty() {
            return Ok(());
        }
        let len = self.len + piece.len();
        if len > M_MAXLEN {
            return Err(Errno::EMSGSIZE);
        }
        let absorbed = self
            .pieces
            .back_mut()
            .is_some_and(|last| last.absorb(&piece));
        if !absorbed {
            self.pieces.push_back(piece)?;
        }
        self.len = len;
        Ok(())
    }

    /// Appends another chain (m_cat). On an error nothing has changed but that `tail` is gone.
    ///
    /// # Errors
    /// `ENOBUFS`; `EMSGSIZE` past [`M_MAXLEN`].
    pub fn append(&mut self, tail: Mbuf) -> Result<(), Errno> {
        if self.len + tail.len > M_MAXLEN {
            return Err(Errno::EMSGSIZE);
        }
        self.pieces.reserve(tail.pieces.len())?;
        for piece in tail.pieces {
            self.push(piece)?;
        }
        Ok(())
    }

    /// Appends a copy of `bytes`: into the room behind the last piece if that is ours alone, then
    /// into new small buffers or clusters. On an error nothing has changed.
    ///
    /// # Errors
    /// `ENOBUFS`; `EMSGSIZE` past [`M_MAXLEN`].
    pub fn append_slice(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let before = self.len;
        if bytes.len() > M_MAXLEN - before {
            return Err(Errno::EMSGSIZE);
        }
        let mut rest = bytes;
        if let Some(last) = self.pieces.back_mut() {
            let room = last.grow_back(rest.len());
            let n = room.len();
            room.copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            self.len += n;
        }
        while !rest.is_empty() {
            let added = fresh_piece(rest).and_then(|piece| {
                let n = piece.len();
                self.push(piece)?;
                Ok(n)
            });
            match added {
                Ok(n) => rest = &rest[n..],
                Err(error) => {
                    self.truncate(before);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Puts `n` bytes, at most [`MLEN`], in front and returns them to be filled in (M_PREPEND). They
    /// are one piece; their contents are undefined until written.
    ///
    /// # Errors
    /// `ENOBUFS`; `EINVAL` if `n` is too large.
    pub fn prepend(&mut self, n: usize) -> Result<&mut [u8], Errno> {
        if n > MLEN {
            return Err(Errno::EINVAL);
        }
        // Asked twice, because a conditional return of the borrow does not pass the borrow checker.
        let fits = self
            .pieces
            .get_mut(0)
            .is_some_and(|first| first.offset() >= n && first.bytes_mut().is_some());
        if !fits {
            // At the storage's end, so that lower layers find room in front of it.
            let piece = Piece::new(small()?, MLEN, 0)?;
            self.pieces.push_front(piece)?;
        }
        self.len += n;
        self.pieces
            .get_mut(0)
            .and_then(|first| first.grow_front(n))
            .ok_or(Errno::ENOBUFS)
    }

    /// Puts a header in front.
    ///
    /// # Errors
    /// As [`Mbuf::prepend`].
    pub fn prepend_slice(&mut self, header: &[u8]) -> Result<(), Errno> {
        self.prepend(header.len())?.copy_from_slice(header);
        Ok(())
    }

    /// Drops the first `n` bytes, or all if there are fewer (m_adj). Answers how many bytes of
    /// storage it holds no longer (see [`Mbuf::held_bytes`]).
    pub fn trim_front(&mut self, n: usize) -> usize {
        let mut left = n.min(self.len);
        let mut let_go = 0;
        self.len -= left;
        while left > 0 {
            let Some(first) = self.pieces.get_mut(0) else {
                break;
            };
            if first.len() > left {
                first.trim_front(left);
                break;
            }
            left -= first.len();
            let_go += first.storage().held_bytes();
            self.pieces.pop_front();
        }
        let_go
    }

    /// Keeps the first `n` bytes only.
    pub fn truncate(&mut self, n: usize) {
        while self.len > n {
            let excess = self.len - n;
            let Some(last) = self.pieces.back_mut() else {
                return;
            };
            let have = last.len();
            if have > excess {
                last.truncate(have - excess);
                self.len = n;
                return;
            }
            self.len -= have;
            self.pieces.pop_back();
        }
    }

    /// A chain of the `len` bytes from `offset` on, sharing the storage (m_copym). The packet
    /// header is not copied.
    ///
    /// # Errors
    /// `EINVAL` if they are not all there; `ENOBUFS`.
    pub fn copy_range(&self, offset: usize, len: usize) -> Result<Mbuf, Errno> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Errno::EINVAL);
        }
        let mut out = Mbuf::new();
        let (mut skip, mut left) = (offset, len);
        for piece in self.pieces() {
            if left == 0 {
                break;
            }
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let n = left.min(piece.len() - skip);
            out.push(piece.view(skip, n))?;
            (skip, left) = (0, left - n);
        }
        Ok(out)
    }

    /// Takes the first `n` bytes off into a chain of their own (m_split the other way round). The
    /// packet header stays here.
    ///
    /// # Errors
    /// `EINVAL` if there are fewer; `ENOBUFS`, and nothing has changed.
    pub fn split_to(&mut self, n: usize) -> Result<Mbuf, Errno> {
        if n > self.len {
            return Err(Errno::EINVAL);
        }
        let mut out = Mbuf::new();
        while out.len < n {
            let want = n - out.len;
            let Some(first) = self.pieces.get_mut(0) else {
                return Err(Errno::EINVAL);
            };
            if first.len() > want {
                let view = first.view(0, want);
                if out.push(view).is_err() {
                    return Err(self.give_back(out));
                }
                first.trim_front(want);
                self.len -= want;
                break;
            }
            if out.pieces.reserve(1).is_err() {
                return Err(self.give_back(out));
            }
            if let Some(piece) = self.pieces.pop_front() {
                self.len -= piece.len();
                out.push(piece)?;
            }
        }
        Ok(out)
    }

    /// Puts what [`Mbuf::split_to`] took so far back in front. The room is there: it was just freed.
    fn give_back(&mut self, out: Mbuf) -> Errno {
        self.len += out.len;
        let mut pieces = out.pieces;
        while let Some(piece) = pieces.pop_back() {
            let pushed = self.pieces.push_front(piece);
            debug_assert!(pushed.is_ok());
        }
        Errno::ENOBUFS
    }

    /// Copies bytes from `offset` on into all of `to` (m_copydata).
    ///
    /// # Errors
    /// `EINVAL` if there are too few.
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) -> Result<(), Errno> {
        if offset
            .checked_add(to.len())
            .is_none_or(|end| end > self.len)
        {
            return Err(Errno::EINVAL);
        }
        let (mut skip, mut done) = (offset, 0);
        for piece in self.pieces() {
            if done == to.len() {
                break;
            }
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let from = &piece.bytes()[skip..];
            let n = from.len().min(to.len() - done);
            to[done..done + n].copy_from_slice(&from[..n]);
            (skip, done) = (0, done + n);
        }
        Ok(())
    }

    /// The `N` bytes at `offset`: a fixed header.
    ///
    /// # Errors
    /// `EINVAL` if they are not all there.
    pub fn header<const N: usize>(&self, offset: usize) -> Result<[u8; N], Errno> {
        let mut header = [0; N];
        self.copy_out(offset, &mut header)?;
        Ok(header)
    }

    /// Makes the first `n` bytes, at most [`MCLBYTES`], one piece and returns them (m_pullup).
    ///
    /// # Errors
    /// `EINVAL` if there are fewer or `n` is too large; `ENOBUFS`.
    pub fn pullup(&mut self, n: usize) -> Result<&[u8], Errno> {
        if n > self.len || n > MCLBYTES {
            return Err(Errno::EINVAL);
        }
        if self.pieces.get(0).map_or(0, Piece::len) < n {
            self.gather(n)?;
        }
        let first = self.pieces.get(0).map_or(&[][..], Piece::bytes);
        Ok(&first[..n])
    }

    /// As [`Mbuf::pullup`], to write to: copies the first `n` bytes if they are shared.
    ///
    /// # Errors
    /// As [`Mbuf::pullup`].
    pub fn pullup_mut(&mut self, n: usize) -> Result<&mut [u8], Errno> {
        if n > self.len || n > MCLBYTES {
            return Err(Errno::EINVAL);
        }
        let ready = self
            .pieces
            .get_mut(0)
            .is_some_and(|first| first.len() >= n && first.bytes_mut().is_some());
        if !ready && n > 0 {
            self.gather(n)?;
        }
        match self.pieces.get_mut(0).and_then(Piece::bytes_mut) {
            Some(bytes) => Ok(&mut bytes[..n]),
            None if n == 0 => Ok(&mut []),
            None => Err(Errno::ENOBUFS),
        }
    }

    /// Copies the first `n` bytes into one new piece in front of the rest.
    fn gather(&mut self, n: usize) -> Result<(), Errno> {
        let mut piece = if n <= MLEN / 2 {
            // At the end, with room in front for headers.
            Piece::new(small()?, MLEN - n, n)?
        } else {
            Piece::new(cluster()?, MCLBYTES - n, n)?
        };
        let bytes = piece.bytes_mut().ok_or(Errno::ENOBUFS)?;
        self.copy_out(0, bytes)?;
        self.pieces.reserve(1)?;
        self.trim_front(n);
        self.pieces.push_front(piece)?;
        self.len += n;
        Ok(())
    }

    /// A copy whose bytes nobody else holds, without the packet header, in as few pieces as can be.
    ///
    /// # Errors
    /// `ENOBUFS`.
    pub fn deep_copy(&self) -> Result<Mbuf, Errno> {
        let mut out = Mbuf::new();
        while out.len() < self.len() {
            let left = self.len() - out.len();
            let storage = if left <= MLEN { small()? } else { cluster()? };
            let n = left.min(storage.as_bytes().len());
            let mut piece = Piece::new(storage, 0, n)?;
            let to = piece.bytes_mut().ok_or(Errno::ENOBUFS)?;
            self.copy_out(out.len(), to)?;
            out.push(piece)?;
        }
        Ok(out)
    }

    /// A copy of its first `n` bytes, at most [`MLEN`].
    ///
    /// # Errors
    /// `ENOBUFS`; `EINVAL` if there are fewer or `n` is too large.
    pub fn copy_start(&self, n: usize) -> Result<Mbuf, Errno> {
        let mut out = Mbuf::new();
        self.copy_out(0, out.prepend(n)?)?;
        Ok(out)
    }

    /// A copy in whole pages: in as few pieces as can be.
    ///
    /// # Errors
    /// `ENOBUFS`.
    pub fn to_pages(&self) -> Result<Mbuf, Errno> {
        let mut out = Mbuf::new();
        while out.len < self.len {
            let n = (self.len - out.len).min(PAGE_SIZE);
            let mut frame = Frame::alloc(Alloc::NoWait).map_err(|_| Errno::ENOBUFS)?;
            let bytes = frame.get_mut().ok_or(Errno::ENOBUFS)?;
            self.copy_out(out.len, &mut bytes[..n])?;
            out.push(Piece::new(Storage::Frame(frame), 0, n)?)?;
        }
        Ok(out)
    }
}

/// A small buffer. It is not waited for: the caller may hold locks, or be the way to more memory.
fn small() -> Result<Storage, Errno> {
    let buffer = SmallBuffer::alloc(Alloc::NoWait);
    buffer.map(Storage::Small).map_err(|_| Errno::ENOBUFS)
}

/// A cluster, likewise.
fn cluster() -> Result<Storage, Errno> {
    let cluster = Cluster::alloc(Alloc::NoWait);
    cluster.map(Storage::Cluster).map_err(|_| Errno::ENOBUFS)
}

/// A new piece with a copy of the start of `bytes`, as much as fits; a small one or a cluster.
fn fresh_piece(bytes: &[u8]) -> Result<Piece, Errno> {
    let storage = if bytes.len() <= MLEN {
        small()?
    } else {
        cluster()?
    };
    let n = bytes.len().min(storage.as_bytes().len());
    let mut piece = Piece::new(storage, 0, n)?;
    let to = piece.bytes_mut().ok_or(Errno::ENOBUFS)?;
    to.copy_from_slice(&bytes[..n]);
    Ok(piece)
}
