//! Segments that came out of order, until what is missing comes (RFC 9293 §3.10.7.4, seventh step).
//!
//! Pieces are kept sorted and do not overlap: of bytes that come twice the first ones stay. The queue is
//! bounded in pieces and in the memory that they hold, not in the bytes that they say: a stranger who
//! sends one byte in each packet must not make us keep a packet buffer for each.

use super::seq::Seq;
use alloc::collections::VecDeque;
use rumpkern::kmem::Room;

/// The most pieces a queue holds.
const PIECES_MAX: usize = 512;

/// The bytes of a segment, wherever they lie.
pub trait Payload {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the first `bytes`.
    fn trim_front(&mut self, bytes: usize);

    /// Forgets all but the first `bytes`.
    fn truncate(&mut self, bytes: usize);

    /// How much memory it holds.
    fn memory_bytes(&self) -> usize;
}

impl Payload for alloc::vec::Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn trim_front(&mut self, bytes: usize) {
        self.drain(..bytes);
    }

    fn truncate(&mut self, bytes: usize) {
        self.truncate(bytes);
    }

    fn memory_bytes(&self) -> usize {
        self.capacity()
    }
}

struct Piece<P> {
    seq: Seq,
    payload: P,
}

impl<P: Payload> Piece<P> {
    fn end(&self) -> Seq {
        self.seq + self.payload.len() as u32
    }
}

/// The queue of one connection.
pub struct Reassembly<P> {
    pieces: VecDeque<Piece<P>>,
    memory_bytes: usize,
    /// Where a FIN stands that came too early.
    fin: Option<Seq>,
}

impl<P> Default for Reassembly<P> {
    fn default() -> Reassembly<P> {
        Reassembly {
            pieces: VecDeque::new(),
            memory_bytes: 0,
            fin: None,
        }
    }
}

impl<P: Payload> Reassembly<P> {
    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.fin.is_none()
    }

    /// The memory that the pieces hold.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Keeps `payload`, which starts at `seq`, as far as it is new, if the queue then holds no more
    /// than `limit` bytes of memory. Answers whether it (or what was new of it) is kept.
    pub fn insert(&mut self, mut seq: Seq, mut payload: P, limit: usize) -> bool {
        // Most come in order behind the last hole: look from the end.
        let mut at = self.pieces.len();
        while at > 0 && self.pieces[at - 1].seq.after(seq) {
            at -= 1;
        }
        if let Some(before) = at.checked_sub(1).map(|i| &self.pieces[i]) {
            let overlap = before.end().beyond(seq);
            if overlap as usize >= payload.len() {
                return false;
            }
            payload.trim_front(overlap as usize);
            seq += overlap;
        }
        let end = seq + payload.len() as u32;
        while let Some(next) = self.pieces.get(at)
            && next.end().at_or_before(end)
        {
            self.remove(at);
        }
        if let Some(next) = self.pieces.get(at)
            && next.seq.before(end)
        {
            payload.truncate((next.seq - seq) as usize);
        }
        let memory = payload.memory_bytes();
        if payload.is_empty()
            || self.pieces.len() >= PIECES_MAX
            || self.memory_bytes + memory > limit
            || self.pieces.room(1).is_err()
        {
            return false;
        }
        self.memory_bytes += memory;
        self.pieces.insert(at, Piece { seq, payload });
        true
    }

    /// Remembers that the stream ends at `seq`.
    pub fn insert_fin(&mut self, seq: Seq) {
        self.fin.get_or_insert(seq);
    }

    /// Takes the next piece that continues at `next`, without what lies before it.
    pub fn take(&mut self, next: Seq) -> Option<P> {
        while self.pieces.front()?.seq.at_or_before(next) {
            let mut piece = self.remove(0)?;
            let old = next.beyond(piece.seq) as usize;
            if old < piece.payload.len() {
                piece.payload.trim_front(old);
                return Some(piece.payload);
            }
        }
        None
    }

    /// Whether the stream ends at `next`.
    pub fn fin_at(&self, next: Seq) -> bool {
        self.fin == Some(next)
    }

    /// Drops everything, and the memory with it. It was never acknowledged, so it comes again.
    pub fn clear(&mut self) {
        *self = Reassembly::default();
    }

    fn remove(&mut self, at: usize) -> Option<Piece<P>> {
        let piece = self.pieces.remove(at)?;
        self.memory_bytes = self
            .memory_bytes
            .saturating_sub(piece.payload.memory_bytes());
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
            self.memory_bytes = 0;
        }
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn collect(queue: &mut Reassembly<Vec<u8>>, mut next: Seq) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(piece) = queue.take(next) {
            next += piece.len() as u32;
            all.extend(piece);
        }
        all
    }

    /// Bytes `from..to` of a stream where byte n has the value n.
    fn stream(from: u8, to: u8) -> Vec<u8> {
        (from..to).collect()
    }

    #[test]
    fn pieces_come_out_in_order_whatever_order_they_went_in() {
        let base = Seq(u32::MAX - 10);
        for order in [[0u8, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
            let mut queue = Reassembly::default();
            for i in order {
                let payload = stream(i * 10, i * 10 + 10);
                assert!(queue.insert(base + u32::from(i) * 10, payload, 1 << 20));
            }
            assert_eq!(collect(&mut queue, base), stream(0, 40));
            assert!(queue.is_empty());
            assert_eq!(queue.memory_bytes(), 0);
        }
    }

    #[test]
    fn of_bytes_that_come_twice_the_first_stay() {
        let mut queue = Reassembly::default();
        assert!(queue.insert(Seq(10), stream(10, 20), 1 << 20));
        assert!(queue.insert(Seq(5), [99; 10].to_vec(), 1 << 20));
        let out = collect(&mut queue, Seq(5));
        assert_eq!(out[..5], [99; 5]);
        assert_eq!(out[5..], stream(10, 20));
    }

    #[test]
    fn what_is_covered_already_is_not_kept() {
        let mut queue = Reassembly::default();
        assert!(queue.insert(Seq(10), stream(10, 30), 1 << 20));
        assert!(!queue.insert(Seq(12), stream(12, 20), 1 << 20));
        assert!(!queue.insert(Seq(10), stream(10, 30), 1 << 20));
    }

    #[test]
    fn a_piece_that_covers_several_replaces_them() {
        let mut queue = Reassembly::default();
        assert!(queue.insert(Seq(10), stream(10, 12), 1 << 20));
        assert!(queue.insert(Seq(20), stream(20, 22), 1 << 20));
        assert!(queue.insert(Seq(5), stream(5, 40), 1 << 20));
        assert_eq!(collect(&mut queue, Seq(5)), stream(5, 40));
    }

    #[test]
    fn a_hole_is_waited_for() {
        let mut queue = Reassembly::default();
        assert!(queue.insert(Seq(10), stream(10, 20), 1 << 20));
        assert!(queue.take(Seq(5)).is_none());
        assert_eq!(queue.take(Seq(15)), Some(stream(15, 20)));
    }

    #[test]
    fn memory_and_pieces_are_bounded() {
        let mut queue = Reassembly::default();
        assert!(!queue.insert(Seq(10), stream(0, 100), 50));
        let kept = (0..10_000u32)
            .filter(|i| queue.insert(Seq(i * 2), [0u8].to_vec(), 1 << 20))
            .count();
        assert_eq!(kept, PIECES_MAX);
    }

    #[test]
    fn clearing_gives_everything_back() {
        let mut queue = Reassembly::default();
        assert!(queue.insert(Seq(10), stream(0, 100), 1000));
        queue.insert_fin(Seq(110));
        queue.clear();
        assert!(queue.is_empty());
        assert_eq!(queue.memory_bytes(), 0);
    }

    #[test]
    fn random_pieces_rebuild_the_stream() {
        for seed in 1..200u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut draw = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let base = Seq(0u32.wrapping_sub(100));
            let mut queue = Reassembly::default();
            let mut out: Vec<u8> = Vec::new();
            for _ in 0..2000 {
                let from = draw(200) as u8;
                let to = from.saturating_add(1 + draw(40) as u8).min(200);
                let next = base + out.len() as u32;
                let seq = base + u32::from(from);
                if from < to && seq.at_or_after(next) {
                    queue.insert(seq, stream(from, to), 4096);
                }
                while let Some(piece) = queue.take(base + out.len() as u32) {
                    out.extend(piece);
                }
            }
            assert_eq!(out, stream(0, 200), "seed {seed}");
            assert_eq!(queue.memory_bytes(), 0, "seed {seed}");
        }
    }
}
