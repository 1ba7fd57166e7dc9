//! The list of pieces in a packet: a few in place, more on the heap.

use super::storage::Piece;
use alloc::collections::VecDeque;
use core::array;
use rumpkern::kmem::Room;
use rumpuser::Errno;

/// Pieces that fit in place: headers, and data that straddles a page.
const INLINE: usize = 3;

/// A double-ended queue of pieces that allocates only past [`INLINE`] of them.
#[derive(Clone)]
pub(super) enum Pieces {
    Inline {
        slots: [Option<Piece>; INLINE],
        len: usize,
    },
    Heap(VecDeque<Piece>),
}

impl Pieces {
    pub(super) fn new() -> Pieces {
        Pieces::Inline {
            slots: [const { None }; INLINE],
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Pieces::Inline { len, .. } => *len,
            Pieces::Heap(queue) => queue.len(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<&Piece> {
        match self {
            Pieces::Inline { slots, .. } => slots.get(index)?.as_ref(),
            Pieces::Heap(queue) => queue.get(index),
        }
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Piece> {
        match self {
            Pieces::Inline { slots, .. } => slots.get_mut(index)?.as_mut(),
            Pieces::Heap(queue) => queue.get_mut(index),
        }
    }

    pub(super) fn back_mut(&mut self) -> Option<&mut Piece> {
        self.get_mut(self.len().checked_sub(1)?)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Piece> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Makes room for `more` pieces, on the heap if they do not fit in place.
    pub(super) fn reserve(&mut self, more: usize) -> Result<(), Errno> {
        match self {
            Pieces::Inline { len, .. } if *len + more <= INLINE => Ok(()),
            Pieces::Inline { slots, len } => {
                let mut queue = VecDeque::new();
                queue
                    .room((*len + more).max(2 * INLINE))
                    .map_err(|_| Errno::ENOBUFS)?;
                queue.extend(slots.iter_mut().filter_map(Option::take));
                *self = Pieces::Heap(queue);
                Ok(())
            }
            Pieces::Heap(queue) => queue.room(more).map_err(|_| Errno::ENOBUFS),
        }
    }

    pub(super) fn push_back(&mut self, piece: Piece) -> Result<(), Errno> {
        self.reserve(1)?;
        match self {
            Pieces::Inline { slots, len } => {
                slots[*len] = Some(piece);
                *len += 1;
            }
            Pieces::Heap(queue) => queue.push_back(piece),
        }
        Ok(())
    }

    pub(super) fn push_front(&mut self, piece: Piece) -> Result<(), Errno> {
        self.reserve(1)?;
        match self {
            Pieces::Inline { slots, len } => {
                slots[*len] = Some(piece);
                slots[..=*len].rotate_right(1);
                *len += 1;
            }
            Pieces::Heap(queue) => queue.push_front(piece),
        }
        Ok(())
    }

    pub(super) fn pop_front(&mut self) -> Option<Piece> {
        match self {
            Pieces::Inline { slots, len } => {
                let piece = slots[0].take()?;
                slots[..*len].rotate_left(1);
                *len -= 1;
                Some(piece)
            }
            Pieces::Heap(queue) => queue.pop_front(),
        }
    }

    pub(super) fn pop_back(&mut self) -> Option<Piece> {
        match self {
            Pieces::Inline { slots, len } => {
                *len = len.checked_sub(1)?;
                slots[*len].take()
            }
            Pieces::Heap(queue) => queue.pop_back(),
        }
    }
}

/// Takes the pieces out, front to back.
pub(super) enum IntoPieces {
    Inline(array::IntoIter<Option<Piece>, INLINE>),
    Heap(alloc::collections::vec_deque::IntoIter<Piece>),
}

impl Iterator for IntoPieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        match self {
            // The used slots come first, so the first empty one is the end.
            IntoPieces::Inline(slots) => slots.next().flatten(),
            IntoPieces::Heap(queue) => queue.next(),
        }
    }
}

impl IntoIterator for Pieces {
    type Item = Piece;
    type IntoIter = IntoPieces;

    fn into_iter(self) -> IntoPieces {
        match self {
            Pieces::Inline { slots, .. } => IntoPieces::Inline(slots.into_iter()),
            Pieces::Heap(queue) => IntoPieces::Heap(queue.into_iter()),
        }
    }
}
