//! Positions in the circular area of a log, in bytes from the start of the log. 0 stands for "nowhere": in an empty log.

/// The circular area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Where it begins.
    pub start: u64,
    /// Its bytes.
    pub size: u64,
}

impl Ring {
    /// Where it ends.
    fn end(&self) -> u64 {
        self.start + self.size
    }

    /// The position `by` bytes behind `at`; `by` is at most the size.
    pub fn advance(&self, at: u64, by: u64) -> u64 {
        let at = if at == 0 { self.start } else { at };
        let to = at + by;
        if to >= self.end() { to - self.size } else { to }
    }

    /// Bytes between `tail` and `head`.
    pub fn used(&self, head: u64, tail: u64) -> u64 {
        match (head, tail) {
            (0, _) => 0,
            _ => (head + self.size - 1 - tail) % self.size + 1,
        }
    }

    /// The parts of `len` bytes from `at` on that do not straddle the end: one or two, the second perhaps empty.
    pub fn parts(&self, at: u64, len: u64) -> [(u64, u64); 2] {
        let first = len.min(self.end().saturating_sub(at));
        [(at, first), (self.start, len - first)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_advance_to_the_end_is_one_to_the_start() {
        let ring = Ring {
            start: 1024,
            size: 4096,
        };
        assert_eq!(ring.advance(0, 512), 1536);
        assert_eq!(ring.advance(4608, 512), 1024);
        assert_eq!(ring.advance(4608, 1024), 1536);
        assert_eq!(ring.used(0, 0), 0);
        assert_eq!(ring.used(1024, 1024), 4096);
        assert_eq!(ring.parts(4608, 1024), [(4608, 512), (1024, 512)]);
    }

    proptest! {
        #[test]
        fn what_was_advanced_is_used(at in 0u64..64, by in 1u64..64) {
            let ring = Ring { start: 1024, size: 64 * 512 };
            let tail = ring.start + at * 512;
            let head = ring.advance(tail, by * 512);
            prop_assert_eq!(ring.used(head, tail), by * 512);
            let parts = ring.parts(tail, by * 512);
            prop_assert_eq!(parts[0].1 + parts[1].1, by * 512);
            prop_assert!(parts[0].0 + parts[0].1 <= ring.start + ring.size);
        }
    }
}
