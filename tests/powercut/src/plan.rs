//! What a thread of a guest does with files of its own: a seed decides it, and nothing that happens changes it. So the host knows
//! what the guest did when it is told how many steps each thread had done.

use crate::history::{Change, History, RECORD, Step as Done};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// The longest file.
const LONGEST: usize = 60_000;
/// The most directories of a thread, and names in each.
const DIRECTORIES: usize = 5;
const NAMES: usize = 10;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make this directory.
    MakeDirectory(String),
    /// Make this file, which there is not; its number.
    Create(String, u32),
    /// Write `len` bytes of file `id` at `offset`, as write number `number`: see [`data`](crate::history::data).
    Write {
        /// The file.
        path: String,
        /// Its number.
        id: u32,
        /// Of the write.
        number: u32,
        /// Where.
        offset: usize,
        /// How much.
        len: usize,
    },
    /// Cut this file, or extend it, to so many bytes.
    Resize(String, usize),
    /// fsync.
    Sync(String),
    /// sync, and wait for it.
    SyncAll,
    /// Rename the first to the second, which may be a file that is there.
    Rename(String, String),
    /// Remove it.
    Unlink(String),
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

/// What one thread does, without end.
pub struct Plan {
    random: Random,
    directories: Vec<String>,
    /// Numbers and lengths of the files that there are.
    files: BTreeMap<String, (u32, usize)>,
    /// The last number of a file, and of a write.
    numbers: u32,
    begun: bool,
}

impl Plan {
    /// What thread `thread`, below 256, does when the seed is `seed`.
    pub fn new(seed: u64, thread: u8) -> Plan {
        let root = format!("/w{thread}");
        Plan {
            random: Random(seed.wrapping_mul(1000) + u64::from(thread)),
            directories: vec![root],
            files: BTreeMap::new(),
            numbers: (u32::from(thread) + 1) << 20,
            begun: false,
        }
    }

    fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    fn any_file(&mut self) -> Option<String> {
        let at = self.random.below(self.files.len());
        self.files.keys().nth(at).cloned()
    }

    fn name(&mut self) -> String {
        let directory = self.random.below(self.directories.len());
        let name = self.random.below(NAMES);
        format!("{}/n{name}", self.directories[directory])
    }

    fn write(&mut self, path: String) -> Option<Step> {
        let (id, size) = *self.files.get(&path)?;
        let records = size / RECORD;
        let offset = match self.random.below(3) {
            0 => records,
            1 => self.random.below(records + 1),
            _ => self.random.below(records + 300),
        } * RECORD;
        let most = [60, 700, 1500][self.random.below(3)];
        let len = (self.random.below(most) + 1) * RECORD;
        if offset + len > LONGEST {
            return None;
        }
        let number = self.number();
        let size = size.max(offset + len);
        self.files.insert(path.clone(), (id, size));
        Some(Step::Write {
            path,
            id,
            number,
            offset,
            len,
        })
    }

    fn resize(&mut self, path: String) -> Option<Step> {
        let (id, size) = *self.files.get(&path)?;
        let size = match self.random.below(3) {
            0 => 0,
            1 => self.random.below(size / RECORD + 1) * RECORD,
            _ => self.random.below(LONGEST / RECORD) * RECORD,
        };
        self.files.insert(path.clone(), (id, size));
        Some(Step::Resize(path, size))
    }

    /// One more thing, if what was drawn can be done.
    fn draw(&mut self) -> Option<Step> {
        match self.random.below(100) {
            0..22 => {
                let path = self.name();
                let is_new = !self.files.contains_key(&path);
                let id = self.number();
                is_new.then(|| {
                    self.files.insert(path.clone(), (id, 0));
                    Step::Create(path, id)
                })
            }
            22..48 => {
                let path = self.any_file()?;
                self.write(path)
            }
            48..56 => {
                let path = self.any_file()?;
                self.resize(path)
            }
            56..74 => self.any_file().map(Step::Sync),
            74..85 => {
                let (from, to) = (self.any_file()?, self.name());
                if from == to {
                    return None;
                }
                let file = self.files.remove(&from)?;
                self.files.insert(to.clone(), file);
                Some(Step::Rename(from, to))
            }
            85..93 => {
                let path = self.any_file()?;
                self.files.remove(&path);
                Some(Step::Unlink(path))
            }
            93..97 if self.directories.len() < DIRECTORIES => {
                let parent = self.random.below(self.directories.len());
                let number = self.directories.len();
                let path = format!("{}/d{number}", self.directories[parent]);
                self.directories.push(path.clone());
                Some(Step::MakeDirectory(path))
            }
            97..99 => Some(Step::SyncAll),
            _ => None,
        }
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if !self.begun {
            self.begun = true;
            return self.directories.first().cloned().map(Step::MakeDirectory);
        }
        // There is always a file that can be made, or one that can be removed.
        loop {
            if let Some(step) = self.draw() {
                return Some(step);
            }
        }
    }
}

/// What became of the files of a thread.
#[derive(Default)]
pub struct Past {
    files: BTreeMap<String, History>,
    gone: Vec<History>,
}

impl Past {
    /// A step was done: begun at the moment `begun`, over by `ended`. A file that it made has inode `ino`.
    pub fn done(&mut self, step: &Step, (begun, ended): (usize, usize), ino: u64) {
        let note = |file: &mut History, change| {
            file.steps.push(Done {
                begun,
                ended,
                failed: false,
                change,
            });
        };
        let mut change = |path: &String, change| {
            if let Some(file) = self.files.get_mut(path) {
                note(file, change);
            }
        };
        match step {
            Step::MakeDirectory(_) => {}
            Step::Create(path, id) => {
                let (id, steps) = (*id, Vec::new());
                let mut file = History { id, ino, steps };
                note(&mut file, Change::Named(path.clone()));
                self.files.insert(path.clone(), file);
            }
            Step::Write {
                path,
                number,
                offset,
                len,
                ..
            } => change(
                path,
                Change::Written {
                    offset: *offset,
                    len: *len,
                    number: *number,
                },
            ),
            Step::Resize(path, size) => change(path, Change::Resized(*size)),
            Step::Sync(path) => change(path, Change::Synced),
            Step::SyncAll => {
                let files = self.files.values_mut();
                files.for_each(|file| note(file, Change::Synced));
            }
            Step::Rename(from, to) => {
                change(to, Change::Gone);
                change(from, Change::Named(to.clone()));
                self.gone.extend(self.files.remove(to));
                if let Some(file) = self.files.remove(from) {
                    self.files.insert(to.clone(), file);
                }
            }
            Step::Unlink(path) => {
                change(path, Change::Gone);
                self.gone.extend(self.files.remove(path));
            }
        }
    }

    /// All files that there are and were.
    pub fn histories(self) -> Vec<History> {
        let mut all = self.gone;
        all.extend(self.files.into_values());
        all
    }
}

/// What a thread writes to a sector of its own after each step: how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Which thread.
    pub thread: u8,
    /// How many steps it has done.
    pub steps: u32,
    /// The inode of the file that the last of them made, if it made one.
    pub ino: u64,
}

const MAGIC: [u8; 8] = *b"powercut";

impl Marker {
    /// Puts it into a sector.
    pub fn encode(&self, sector: &mut [u8]) {
        sector.fill(0);
        sector[..8].copy_from_slice(&MAGIC);
        sector[8] = self.thread;
        sector[12..16].copy_from_slice(&self.steps.to_le_bytes());
        sector[16..24].copy_from_slice(&self.ino.to_le_bytes());
    }

    /// The marker in a sector.
    pub fn decode(sector: &[u8]) -> Option<Marker> {
        let thread = *sector.get(8)?;
        let steps = u32::from_le_bytes(sector.get(12..16)?.try_into().ok()?);
        let ino = u64::from_le_bytes(sector.get(16..24)?.try_into().ok()?);
        let marker = Marker { thread, steps, ino };
        sector.starts_with(&MAGIC).then_some(marker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_the_same_every_time_and_another_for_another_thread() {
        let steps = |seed, thread| Plan::new(seed, thread).take(500).collect::<Vec<_>>();
        assert_eq!(steps(1, 0), steps(1, 0));
        assert_ne!(steps(1, 0), steps(2, 0));
        assert_ne!(steps(1, 0)[1..], steps(1, 1)[1..]);
        let count = |is: fn(&Step) -> bool| steps(1, 0).iter().filter(|step| is(step)).count() > 10;
        assert!(count(|step| matches!(step, Step::Rename(..))));
        assert!(count(|step| matches!(step, Step::Sync(_))));
        assert!(count(|step| matches!(step, Step::Resize(..))));
    }

    #[test]
    fn a_marker_is_read_as_it_was_written() {
        let marker = Marker {
            thread: 3,
            steps: 70_000,
            ino: 12,
        };
        let mut sector = [0xff; 512];
        marker.encode(&mut sector);
        assert_eq!(Marker::decode(&sector), Some(marker));
        assert_eq!(Marker::decode(&[0; 512]), None);
    }
}
