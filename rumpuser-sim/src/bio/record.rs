//! What was written to a disk, in its order, and what of it a power cut leaves.
//!
//! A write whose completion a flush waited for is *stable*: it is there after any cut that comes after the end of the flush. Without a
//! volatile cache every completed write is. Of the others a cut leaves any: all of them, none, some, some sectors of one. Of two writes
//! of one sector the later that was left is what is there, as no cache writes an older version over a newer.
//!
//! Source: virtio 1.2 §5.2.6.2 (VIRTIO_BLK_T_FLUSH), ATA8-ACS §7.15 (FLUSH CACHE): a flush is about writes completed before it was issued.

use crate::seed::Stream;
use rumpuser::SECTOR_SIZE;
use std::collections::BTreeMap;

/// Something that happened to the disk.
enum Step {
    Submitted {
        id: u64,
        sector: u64,
        bytes: Vec<u8>,
    },
    Completed {
        id: u64,
    },
    FlushSubmitted {
        id: u64,
    },
    Flushed {
        id: u64,
    },
}

/// How the power goes.
pub enum PowerCut<'a> {
    /// Every write that completed is there, in order, and nothing else.
    Prefix,
    /// Of what is not stable, whatever the stream says, sectors torn from their request included.
    Any(&'a mut Stream),
}

/// The record of a disk.
pub struct Record {
    before: Vec<u8>,
    volatile_cache: bool,
    steps: Vec<Step>,
}

impl Record {
    pub(super) fn new(before: &[u8], volatile_cache: bool) -> Record {
        Record {
            before: before.to_vec(),
            volatile_cache,
            steps: Vec::new(),
        }
    }

    pub(super) fn submitted(&mut self, id: u64, sector: u64, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        self.steps.push(Step::Submitted { id, sector, bytes });
    }

    pub(super) fn completed(&mut self, id: u64) {
        self.steps.push(Step::Completed { id });
    }

    pub(super) fn flush_submitted(&mut self, id: u64) {
        self.steps.push(Step::FlushSubmitted { id });
    }

    pub(super) fn flushed(&mut self, id: u64) {
        self.steps.push(Step::Flushed { id });
    }

    /// The number of moments: the power can go before each step, and after the last.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The writes, in the order in which they were made, as moment, sector and length in bytes: for a report.
    pub fn writes(&self) -> Vec<(usize, u64, usize)> {
        let steps = self.steps.iter().enumerate();
        let writes = steps.filter_map(|(moment, step)| match step {
            Step::Submitted { sector, bytes, .. } => Some((moment, *sector, bytes.len())),
            _ => None,
        });
        writes.collect()
    }

    /// What the disk holds after the power went at `moment`.
    pub fn cut(&self, moment: usize, mut how: PowerCut<'_>) -> Vec<u8> {
        let steps = &self.steps[..moment.min(self.steps.len())];
        let mut bytes = self.before.clone();
        let stable = self.stable_until(steps);
        let mut under_way: BTreeMap<u64, (u64, &[u8])> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::Submitted { id, sector, bytes } => {
                    under_way.insert(*id, (*sector, bytes));
                }
                Step::Completed { id } => {
                    let Some((sector, data)) = under_way.remove(id) else {
                        continue;
                    };
                    match &mut how {
                        PowerCut::Any(stream) if at >= stable => {
                            tear(&mut bytes, sector, data, stream)
                        }
                        _ => put(&mut bytes, sector, data),
                    }
                }
                Step::FlushSubmitted { .. } | Step::Flushed { .. } => {}
            }
        }
        if let PowerCut::Any(stream) = how {
            for (sector, data) in under_way.into_values() {
                tear(&mut bytes, sector, data, stream);
            }
        }
        bytes
    }

    /// Writes that completed before this step are stable after these steps.
    fn stable_until(&self, steps: &[Step]) -> usize {
        if !self.volatile_cache {
            return steps.len();
        }
        let mut submitted = BTreeMap::new();
        let mut stable = 0;
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::FlushSubmitted { id } => {
                    submitted.insert(*id, at);
                }
                Step::Flushed { id } => {
                    stable = stable.max(submitted.remove(id).unwrap_or(0));
                }
                Step::Submitted { .. } | Step::Completed { .. } => {}
            }
        }
        stable
    }
}

fn put(disk: &mut [u8], sector: u64, data: &[u8]) {
    let at = sector as usize * SECTOR_SIZE;
    disk[at..at + data.len()].copy_from_slice(data);
}

/// Writes all, nothing, the beginning, or any sectors of `data`.
fn tear(disk: &mut [u8], sector: u64, data: &[u8], stream: &mut Stream) {
    let sectors = (data.len() / SECTOR_SIZE) as u64;
    let beginning = stream.below(sectors + 1);
    let how = stream.below(6);
    for (index, part) in (0..).zip(data.chunks_exact(SECTOR_SIZE)) {
        let is_left = match how {
            0 | 1 => true,
            2 | 3 => false,
            4 => index < beginning,
            _ => stream.chance(1, 2),
        };
        if is_left {
            put(disk, sector + index, part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(byte: u8) -> Vec<u8> {
        vec![byte; SECTOR_SIZE]
    }

    /// Sector 0 is written, flushed; sector 1 is written; sector 2 is under way.
    fn record(volatile_cache: bool) -> Record {
        let mut record = Record::new(&vec![0; 3 * SECTOR_SIZE], volatile_cache);
        record.submitted(1, 0, &sector(1));
        record.completed(1);
        record.flush_submitted(2);
        record.flushed(2);
        record.submitted(3, 1, &sector(2));
        record.completed(3);
        record.submitted(4, 2, &sector(3));
        record
    }

    /// Every outcome of many cuts at `moment`, as the first byte of each sector.
    fn outcomes(record: &Record, moment: usize) -> std::collections::BTreeSet<[u8; 3]> {
        let mut stream = Stream::new(7, "outcomes");
        let cut = |stream: &mut Stream| {
            let bytes = record.cut(moment, PowerCut::Any(stream));
            [bytes[0], bytes[SECTOR_SIZE], bytes[2 * SECTOR_SIZE]]
        };
        (0..200).map(|_| cut(&mut stream)).collect()
    }

    #[test]
    fn a_cut_leaves_what_was_flushed_and_any_part_of_the_rest() {
        let record = record(true);
        let end = record.len();
        let all = [[1, 0, 0], [1, 0, 3], [1, 2, 0], [1, 2, 3]];
        assert_eq!(outcomes(&record, end), all.into());
        assert_eq!(outcomes(&record, 3), [[0, 0, 0], [1, 0, 0]].into());
        assert_eq!(outcomes(&record, 4), [[1, 0, 0]].into());
    }

    #[test]
    fn without_a_cache_what_completed_is_there() {
        let record = record(false);
        assert_eq!(
            outcomes(&record, record.len()),
            [[1, 2, 0], [1, 2, 3]].into()
        );
        assert_eq!(outcomes(&record, 1), [[0, 0, 0], [1, 0, 0]].into());
    }

    #[test]
    fn a_prefix_has_every_write_that_completed_and_no_other() {
        let record = record(true);
        let bytes = record.cut(record.len(), PowerCut::Prefix);
        assert_eq!([bytes[0], bytes[512], bytes[1024]], [1, 2, 0]);
    }

    #[test]
    fn a_flush_is_not_about_writes_that_completed_after_it_was_made() {
        let mut record = Record::new(&vec![0; 3 * SECTOR_SIZE], true);
        record.submitted(1, 0, &sector(1));
        record.flush_submitted(2);
        record.completed(1);
        record.flushed(2);
        assert_eq!(outcomes(&record, 4), [[0, 0, 0], [1, 0, 0]].into());
    }
}
