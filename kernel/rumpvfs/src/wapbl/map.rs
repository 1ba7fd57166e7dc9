//! Which sectors of a volume a log has newer contents of, and where in the log.

use alloc::vec::Vec;
use rumpkern::kmem::Room;
use rumpuser::{Errno, SECTOR_SIZE};

use super::ring::Ring;

/// Sectors that follow each other on the volume and in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The first of them on the volume.
    pub sector: u64,
    /// How many.
    pub sectors: u64,
    /// The position of their contents in the log, where they may straddle the end of the circular area.
    pub at: u64,
}

impl Logged {
    /// The sector behind the last.
    pub fn end(&self) -> u64 {
        self.sector + self.sectors
    }

    /// What of it lies at `from..to`.
    pub fn part(&self, ring: &Ring, from: u64, to: u64) -> Option<Logged> {
        let (from, to) = (from.max(self.sector), to.min(self.end()));
        let skipped = (from.saturating_sub(self.sector)) * SECTOR_SIZE as u64;
        (from < to).then(|| Logged {
            sector: from,
            sectors: to - from,
            at: ring.advance(self.at, skipped),
        })
    }
}

/// The map: in order of sectors, none of which is in two entries.
#[derive(Debug, Default)]
pub struct Map {
    entries: Vec<Logged>,
}

impl Map {
    /// The entries, by sector.
    pub fn entries(&self) -> &[Logged] {
        &self.entries
    }

    /// The entries that have sectors of `from..to`.
    pub fn within(&self, from: u64, to: u64) -> &[Logged] {
        let first = self.entries.partition_point(|entry| entry.end() <= from);
        let rest = &self.entries[first..];
        &rest[..rest.partition_point(|entry| entry.sector < to)]
    }

    /// Forgets sectors `from..to`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn forget(&mut self, ring: &Ring, from: u64, to: u64) -> Result<(), Errno> {
        let first = self.entries.partition_point(|entry| entry.end() <= from);
        let count = self.within(from, to).len();
        if count == 0 {
            return Ok(());
        }
        // What stays of the first and of the last of them.
        let before = self.entries[first].part(ring, 0, from);
        let behind = self.entries[first + count - 1].part(ring, to, u64::MAX);
        let kept = [before, behind].into_iter().flatten();
        self.entries.room(2)?;
        self.entries.splice(first..first + count, kept);
        Ok(())
    }

    /// From now on `new` is what counts for its sectors.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn insert(&mut self, ring: &Ring, new: Logged) -> Result<(), Errno> {
        let first = self
            .entries
            .partition_point(|entry| entry.end() <= new.sector);
        if let Some(entry) = self.entries.get_mut(first)
            && (entry.sector, entry.sectors) == (new.sector, new.sectors)
        {
            *entry = new;
            return Ok(());
        }
        self.forget(ring, new.sector, new.end())?;
        self.entries.room(1)?;
        let at = self
            .entries
            .partition_point(|entry| entry.sector < new.sector);
        self.entries.insert(at, new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_an_array_of_sectors(
            ops in proptest::collection::vec((any::<bool>(), 0u64..40, 1u64..12, 0u64..64), 1..60)
        ) {
            let ring = Ring { start: 1024, size: 64 * 512 };
            let mut map = Map::default();
            let mut model = [None; 64];
            for (insert, sector, sectors, place) in ops {
                let at = ring.start + place * 512;
                if insert {
                    map.insert(&ring, Logged { sector, sectors, at }).unwrap();
                } else {
                    map.forget(&ring, sector, sector + sectors).unwrap();
                }
                for n in 0..sectors {
                    model[(sector + n) as usize] = insert.then(|| ring.advance(at, n * 512));
                }
                for (sector, expected) in (0..).zip(&model) {
                    let found = map.within(sector, sector + 1);
                    let found = found.first().and_then(|entry| entry.part(&ring, sector, sector + 1));
                    prop_assert_eq!(&found.map(|part| part.at), expected);
                }
                prop_assert!(map.entries().is_sorted_by(|a, b| a.end() <= b.sector));
            }
        }
    }
}
