//! How many pages writers hold at once: an eighth of memory, all together.
//!
//! A writer makes the pages that it changes busy, which keeps them from being reclaimed, and may then have to wait for memory:
//! for the next page, or for a buffer. If many did so with many pages each, all memory would be with those that wait
//! for it. As memory is, this is the process's.

use rumpkern::locks::{Condvar, Mutex};
use rumpkern::uvm;

static HELD: Mutex<u64> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// The right to hold so many pages.
pub(super) struct Share {
    pages: u64,
}

impl Share {
    /// The right to hold `pages`, as soon as others leave room for so many. Whoever is alone gets any number.
    pub(super) fn of(pages: u64) -> Share {
        let mut held = HELD.lock();
        while *held > 0 && *held + pages > most() {
            held = GIVEN_BACK.wait(held);
        }
        *held += pages;
        Share { pages }
    }

    /// The right to hold up to `pages`, at least one, as soon as others leave room for that.
    pub(super) fn up_to(pages: u64) -> Share {
        let mut held = HELD.lock();
        while *held > 0 && *held >= most() {
            held = GIVEN_BACK.wait(held);
        }
        let pages = pages.min(most().saturating_sub(*held)).max(1);
        *held += pages;
        Share { pages }
    }

    pub(super) fn pages(&self) -> u64 {
        self.pages
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *HELD.lock() -= self.pages;
        GIVEN_BACK.notify_all();
    }
}

fn most() -> u64 {
    (uvm::limit_pages() / 8) as u64
}
