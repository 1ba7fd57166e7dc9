//! How far to read ahead: a window for each open file, that grows while reading is sequential.
//!
//! Each open file has its own, so that many readers of one file at different places do not
//! look like one that jumps about.

/// The first window of a sequential reader: 64 KiB.
pub const FIRST_WINDOW: u32 = 16;
/// The largest: 256 KiB.
pub const MAX_WINDOW: u32 = 64;

/// The state of one reader. In pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadAhead {
    /// The page after the last one that was read.
    next: u64,
    /// Pages to start at once; 0: the last access was a jump.
    window: u32,
    /// Reading was started up to here (exclusive).
    started: u64,
}

/// What to do about an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// If the first page is missing: how many pages from it on to read in one go.
    pub(super) cluster: u64,
    /// Pages to start reading without waiting: first, count. Not past the end of the file.
    pub(super) ahead: Option<(u64, u64)>,
}

impl ReadAhead {
    /// A reader that has not read yet: one that starts at the front counts as sequential.
    pub const fn new() -> ReadAhead {
        ReadAhead {
            next: 0,
            window: 0,
            started: 0,
        }
    }

    /// Whether the last accesses were sequential.
    pub fn is_sequential(&self) -> bool {
        self.window > 0
    }

    /// Whether an access that starts at page `first` goes on where the last one ended.
    pub(super) fn continues_at(&self, first: u64) -> bool {
        // The page read last may be read again: its second half.
        first == self.next || first + 1 == self.next
    }

    /// The reader took less than it announced: it goes on at page `next`.
    pub(super) fn rewind(&mut self, next: u64) {
        self.next = self.next.min(next);
    }

    /// Notes an access to the `count` pages from `first` on, in a file of `end` pages. `max_window` says
    /// what memory allows.
    pub(super) fn access(&mut self, first: u64, count: u64, end: u64, max_window: u32) -> Plan {
        let last = first.saturating_add(count).min(end);
        if !self.continues_at(first) {
            *self = ReadAhead {
                next: last,
                window: 0,
                started: last,
            };
            return Plan {
                cluster: last.saturating_sub(first).max(1),
                ahead: None,
            };
        }
        let behind = last >= self.started;
        let near = self.started.saturating_sub(last) <= u64::from(self.window / 2);
        self.next = last;
        if !near && !behind {
            return Plan {
                cluster: self.started.saturating_sub(first).max(1),
                ahead: None,
            };
        }
        self.window = (self.window * 2).clamp(FIRST_WINDOW.min(max_window), max_window.max(1));
        if behind {
            // Nothing ahead was started, or the reader has caught up: read what it wants and a window more, as one.
            let to = last.max(first + u64::from(self.window)).min(end);
            self.started = to;
            return Plan {
                cluster: to.saturating_sub(first).max(1),
                ahead: None,
            };
        }
        let from = self.started;
        let to = (from + u64::from(self.window)).min(end);
        self.started = to;
        Plan {
            cluster: from.saturating_sub(first).max(1),
            ahead: (to > from).then(|| (from, to - from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequential_reader_moves_in_growing_runs_that_start_before_they_are_needed() {
        let mut reader = ReadAhead::new();
        let mut runs = alloc::vec::Vec::new();
        let mut cached = 0;
        for page in 0..1000 {
            let plan = reader.access(page, 1, 1000, MAX_WINDOW);
            if page >= cached {
                runs.push(plan.cluster);
                cached = page + plan.cluster;
            }
            if let Some((from, count)) = plan.ahead {
                assert_eq!(
                    from, cached,
                    "read-ahead leaves no gap and reads nothing twice"
                );
                assert!(
                    from > page + 1,
                    "started while there is still something to read"
                );
                runs.push(count);
                cached = from + count;
            }
        }
        assert_eq!(cached, 1000);
        assert_eq!(&runs[..3], &[16, 32, 64]);
        assert!(runs.len() <= 3 + 1000 / 64 + 1, "{runs:?}");
    }

    #[test]
    fn a_random_reader_reads_what_it_asks_for_and_no_more() {
        let mut reader = ReadAhead::new();
        reader.access(0, 1, 10_000, MAX_WINDOW);
        for page in [700, 20, 9000, 431, 5] {
            let plan = reader.access(page, 2, 10_000, MAX_WINDOW);
            assert_eq!(
                plan,
                Plan {
                    cluster: 2,
                    ahead: None
                }
            );
        }
    }

    #[test]
    fn a_jump_followed_by_sequential_reading_starts_a_window_again() {
        let mut reader = ReadAhead::new();
        reader.access(500, 1, 10_000, MAX_WINDOW);
        let plan = reader.access(501, 1, 10_000, MAX_WINDOW);
        assert_eq!(plan.cluster, u64::from(FIRST_WINDOW));
    }

    #[test]
    fn reading_byte_by_byte_within_a_page_is_sequential_and_starts_nothing_twice() {
        let mut reader = ReadAhead::new();
        assert_eq!(reader.access(0, 1, 100, MAX_WINDOW).cluster, 16);
        for _ in 0..100 {
            let plan = reader.access(0, 1, 100, MAX_WINDOW);
            assert_eq!(plan.ahead, None);
        }
    }

    #[test]
    fn nothing_is_read_beyond_the_end_and_the_window_keeps_to_what_memory_allows() {
        let mut reader = ReadAhead::new();
        assert_eq!(reader.access(0, 1, 3, MAX_WINDOW).cluster, 3);
        let mut reader = ReadAhead::new();
        for page in 0..100 {
            let plan = reader.access(page, 1, 100, 4);
            assert!(plan.cluster <= 8, "{plan:?}");
            assert!(plan.ahead.is_none_or(|(_, count)| count <= 4), "{plan:?}");
        }
    }
}
