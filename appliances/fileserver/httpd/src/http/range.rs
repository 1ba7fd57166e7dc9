//! Byte ranges (RFC 9110 §14): one range; a list of several is answered with the whole.

/// What a `Range` field asks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// The whole file: no field, or one that is to be ignored.
    Whole,
    /// These bytes: `start` up to, not including, `end`; never empty.
    Part {
        /// The first byte.
        start: u64,
        /// The byte behind the last.
        end: u64,
    },
    /// Nothing that the file has: 416.
    Unsatisfiable,
}

impl Range {
    /// Judges the field's value for a file of `size` bytes. A unit other than bytes, several ranges
    /// and bad syntax are ignored, as RFC 9110 §14.2 lets a server do.
    pub fn parse(value: &[u8], size: u64) -> Range {
        match specifier(value) {
            Some((Some(first), last)) => {
                let end = last.map_or(size, |last| last.saturating_add(1).min(size));
                match first < size {
                    true => Range::Part { start: first, end },
                    false => Range::Unsatisfiable,
                }
            }
            Some((None, Some(suffix))) if suffix > 0 && size > 0 => Range::Part {
                start: size.saturating_sub(suffix),
                end: size,
            },
            Some((None, Some(_))) => Range::Unsatisfiable,
            _ => Range::Whole,
        }
    }
}

/// The two numbers of `bytes=FIRST-LAST`, either of which may be missing, not both.
fn specifier(value: &[u8]) -> Option<(Option<u64>, Option<u64>)> {
    let text = core::str::from_utf8(value).ok()?.trim();
    let unit = text.get(..6)?;
    if !unit.eq_ignore_ascii_case("bytes=") {
        return None;
    }
    let (first, last) = text[6..].trim().split_once('-')?;
    let first = number(first)?;
    let last = number(last)?;
    match (first, last) {
        (None, None) => None,
        (Some(first), Some(last)) if first > last => None,
        both => Some(both),
    }
}

/// A number; `Some(None)` where there is none, `None` for what is no number. One beyond 64 bits is
/// beyond every file.
fn number(text: &str) -> Option<Option<u64>> {
    if text.is_empty() {
        return Some(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, end: u64) -> Range {
        Range::Part { start, end }
    }

    #[test]
    fn single_open_and_suffix_ranges_are_cut_to_the_file() {
        assert_eq!(Range::parse(b"bytes=0-0", 10), part(0, 1));
        assert_eq!(Range::parse(b"bytes=2-5", 10), part(2, 6));
        assert_eq!(Range::parse(b"Bytes=5-", 10), part(5, 10));
        assert_eq!(
            Range::parse(b"bytes=5-99999999999999999999999", 10),
            part(5, 10)
        );
        assert_eq!(Range::parse(b"bytes=-3", 10), part(7, 10));
        assert_eq!(Range::parse(b"bytes=-30", 10), part(0, 10));
    }

    #[test]
    fn what_the_file_does_not_have_is_unsatisfiable() {
        for value in [
            &b"bytes=10-"[..],
            b"bytes=10-12",
            b"bytes=-0",
            b"bytes=99999999999999999999-",
        ] {
            assert_eq!(Range::parse(value, 10), Range::Unsatisfiable);
        }
        assert_eq!(Range::parse(b"bytes=0-", 0), Range::Unsatisfiable);
        assert_eq!(Range::parse(b"bytes=-5", 0), Range::Unsatisfiable);
    }

    #[test]
    fn what_cannot_be_read_is_ignored() {
        for value in [
            &b"bytes"[..],
            b"bytes=",
            b"bytes=-",
            b"bytes=5-2",
            b"bytes=a-b",
            b"lines=1-2",
            b"bytes=0-1,3-4",
            b"bytes=+1-2",
            b"\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(Range::parse(value, 10), Range::Whole);
        }
    }
}
