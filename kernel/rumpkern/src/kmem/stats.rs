//! What kmem holds, for people and for the pagedaemon's report.

use super::classes::CLASSES;
use super::{LARGE_PAGES, LARGE_REQUESTED, SLABS};
use crate::locks::short::enter;
use core::fmt::Write;
use core::sync::atomic::Ordering;
use rumpuser::PAGE_SIZE;

/// What kmem holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KmemStats {
    /// Pages, slabs and large allocations.
    pub pages: usize,
    /// Bytes that were asked for and are in use.
    pub requested: usize,
    /// Objects in slabs that are in use.
    pub objects: usize,
    /// Pages of large allocations.
    pub large_pages: usize,
}

impl KmemStats {
    /// The part of the pages that holds nothing that was asked for, in percent.
    pub fn waste_percent(&self) -> usize {
        let bytes = self.pages * PAGE_SIZE;
        (bytes - self.requested.min(bytes)) * 100 / bytes.max(1)
    }
}

/// What kmem holds now.
pub fn stats() -> KmemStats {
    let large_pages = LARGE_PAGES.load(Ordering::Relaxed);
    let mut stats = KmemStats {
        pages: large_pages,
        requested: LARGE_REQUESTED.load(Ordering::Relaxed),
        objects: 0,
        large_pages,
    };
    for (index, slabs) in SLABS.iter().enumerate() {
        let slabs = enter(slabs);
        stats.pages += slabs.slabs * CLASSES[index].pages as usize;
        stats.requested += slabs.requested;
        stats.objects += slabs.objects;
    }
    stats
}

/// What one size class holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassStats {
    /// Bytes of an object.
    pub size: usize,
    /// Pages of its slabs.
    pub pages: usize,
    /// Objects in use.
    pub objects: usize,
    /// Bytes that were asked for, of those.
    pub requested: usize,
}

/// What each size class holds now, small sizes first.
pub fn class_stats() -> impl Iterator<Item = ClassStats> {
    SLABS.iter().zip(CLASSES).map(|(slabs, class)| {
        let slabs = enter(slabs);
        ClassStats {
            size: class.size as usize,
            pages: slabs.slabs * class.pages as usize,
            objects: slabs.objects,
            requested: slabs.requested,
        }
    })
}

/// The counters of kmem, as a group: in all, and of each class, also if it has no slab now: what is there does not change from one look
/// to the next.
pub(crate) fn counters(f: &mut dyn FnMut(&str, &str, u64)) {
    let stats = stats();
    let large = LARGE_REQUESTED.load(Ordering::Relaxed) as u64;
    f(
        "kmem_requested_bytes",
        "bytes asked for",
        stats.requested as u64,
    );
    f(
        "kmem_waste_percent",
        "part of the pages that holds nothing asked for",
        stats.waste_percent() as u64,
    );
    f(
        "kmem_large_pages",
        "pages of large allocations",
        stats.large_pages as u64,
    );
    f(
        "kmem_large_requested_bytes",
        "bytes asked for, of those",
        large,
    );
    for class in class_stats() {
        let mut name = Name::default();
        let values = [
            ("pages", "pages of slabs of this size", class.pages),
            ("objects", "objects of this size in use", class.objects),
            (
                "requested_bytes",
                "bytes asked for, of those",
                class.requested,
            ),
        ];
        for (what, help, value) in values {
            name.len = 0;
            // The longest name fits: `kmem_slab_4096_requested_bytes`.
            let _ = write!(name, "kmem_slab_{:04}_{what}", class.size);
            f(name.as_str(), help, value as u64);
        }
    }
}

/// A short text without allocation.
#[derive(Default)]
struct Name {
    bytes: [u8; 32],
    len: usize,
}

impl Name {
    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Write for Name {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(core::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
