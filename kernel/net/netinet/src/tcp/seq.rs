//! Sequence numbers: 32 bits that wrap (RFC 9293 §3.4).

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

/// A sequence number. It has no total order, so it is not `Ord`: `a` is before `b` when the way
/// from `a` up to `b` is shorter than half the space.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// Whether `self` lies before `other`.
    pub const fn before(self, other: Seq) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Whether `self` lies after `other`.
    pub const fn after(self, other: Seq) -> bool {
        other.before(self)
    }

    /// Whether `self` is `other` or lies before it.
    pub const fn at_or_before(self, other: Seq) -> bool {
        !other.before(self)
    }

    /// Whether `self` is `other` or lies after it.
    pub const fn at_or_after(self, other: Seq) -> bool {
        !self.before(other)
    }

    /// Whether `self` lies in the `len` numbers from `start` on.
    pub const fn within(self, start: Seq, len: u32) -> bool {
        self.0.wrapping_sub(start.0) < len
    }

    /// The later of two.
    pub const fn later(self, other: Seq) -> Seq {
        if self.before(other) { other } else { self }
    }

    /// The number `by` places back.
    pub const fn back(self, by: u32) -> Seq {
        Seq(self.0.wrapping_sub(by))
    }

    /// How far `self` lies beyond `start`; 0 if it lies before it.
    pub const fn beyond(self, start: Seq) -> u32 {
        if self.before(start) {
            0
        } else {
            self.0.wrapping_sub(start.0)
        }
    }
}

impl Add<u32> for Seq {
    type Output = Seq;

    fn add(self, by: u32) -> Seq {
        Seq(self.0.wrapping_add(by))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, by: u32) {
        self.0 = self.0.wrapping_add(by);
    }
}

impl Sub for Seq {
    type Output = u32;

    /// The distance from `earlier` up to `self`, modulo 2^32.
    fn sub(self, earlier: Seq) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let last = Seq(u32::MAX);
        assert!(last.before(last + 1));
        assert!((last + 10).after(last));
        assert_eq!((last + 10) - last, 10);
        assert_eq!((last + 10).beyond(last), 10);
        assert_eq!(last.beyond(last + 10), 0);
        assert_eq!((last + 1).later(last), Seq(0));
    }

    #[test]
    fn a_window_may_span_the_wrap_and_an_empty_one_holds_nothing() {
        let start = Seq(u32::MAX - 1);
        assert!(Seq(0).within(start, 3));
        assert!(!Seq(1).within(start, 3));
        assert!(!start.within(start, 0));
        assert!(!start.back(1).within(start, 3));
    }
}
