//! What became of a file: every change, with the moments of the disk's record at which it was begun and had returned. From it
//! follows what a power cut may leave.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// Bytes of a record.
pub const RECORD: usize = 16;

/// A change.
#[derive(Clone, Debug)]
pub enum Change {
    /// It got this name; after a rename the former one is gone.
    Named(String),
    /// `len` bytes at `offset` were written, as write number `number`.
    Written {
        /// Where, a multiple of [`RECORD`].
        offset: usize,
        /// How many bytes, a multiple of [`RECORD`].
        len: usize,
        /// No two writes of a run have the same.
        number: u32,
    },
    /// It was cut off, or extended with a hole.
    Resized(usize),
    /// fsync, or a sync of everything.
    Synced,
    /// Its name was removed, or given to another.
    Gone,
}

/// A change, and when.
#[derive(Clone, Debug)]
pub struct Step {
    /// Of what the disk did before this moment nothing is of the change.
    pub begun: usize,
    /// By this moment the call had returned.
    pub ended: usize,
    /// The call failed: it may have been done partly.
    pub failed: bool,
    /// What was changed.
    pub change: Change,
}

/// A file.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Its number: no two files of a run have the same.
    pub id: u32,
    /// Its inode, which is nobody else's while it is not gone.
    pub ino: u64,
    /// What was done with it, in order.
    pub steps: Vec<Step>,
}

/// The record of file `id`, write `number`, at `offset`.
fn record(id: u32, number: u32, offset: usize) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    bytes[..4].copy_from_slice(&id.to_le_bytes());
    bytes[4..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&(offset as u64).to_le_bytes());
    bytes
}

/// What write `number` of file `id` writes at `offset`.
pub fn data(id: u32, number: u32, offset: usize, len: usize) -> Vec<u8> {
    let offsets = (offset..offset + len).step_by(RECORD);
    offsets.flat_map(|at| record(id, number, at)).collect()
}

/// Whose record this is, and where it belongs; `None` for zeroes.
fn owner(bytes: &[u8]) -> Option<(u32, u64)> {
    if bytes.iter().all(|byte| *byte == 0) {
        return None;
    }
    let id = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
    let offset = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
    Some((id, offset))
}

/// The file that `bytes` belongs to, by its first record that is not zero.
pub fn identity(bytes: &[u8]) -> Option<u32> {
    bytes.chunks_exact(RECORD).find_map(owner).map(|(id, _)| id)
}

/// Where `bytes` has what is not `id`'s, or does not belong where it is.
pub fn foreign(id: u32, bytes: &[u8]) -> Option<(usize, u32, u64)> {
    for (index, part) in bytes.chunks_exact(RECORD).enumerate() {
        let at = index * RECORD;
        if let Some((whose, offset)) = owner(part)
            && (whose != id || offset != at as u64)
        {
            return Some((at, whose, offset));
        }
    }
    None
}

/// Does a change to `content`.
fn apply(id: u32, content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Written {
            offset,
            len,
            number,
        } => {
            let end = offset + len;
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset..end].copy_from_slice(&data(id, *number, *offset, *len));
        }
        Change::Resized(size) => content.resize(*size, 0),
        Change::Named(_) | Change::Synced | Change::Gone => {}
    }
}

/// What must hold of a file after a power cut.
pub struct Promise {
    /// What was synced.
    pub content: Vec<u8>,
    /// Changes begun since.
    pub since: Vec<Change>,
    /// Names that it may have.
    pub names: Vec<String>,
    /// It may be gone.
    pub may_be_gone: bool,
}

impl History {
    /// What the file holds if nothing fails.
    pub fn content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        for step in self.steps.iter().filter(|step| !step.failed) {
            apply(self.id, &mut content, &step.change);
        }
        content
    }

    /// Its name, if it has one.
    pub fn name(&self) -> Option<&str> {
        let mut name = None;
        for step in self.steps.iter().filter(|step| !step.failed) {
            match &step.change {
                Change::Named(path) => name = Some(path.as_str()),
                Change::Gone => name = None,
                _ => {}
            }
        }
        name
    }

    /// Whether it may have had the name `path` when the power went at `moment`.
    pub fn had_name(&self, path: &str, moment: usize) -> bool {
        self.steps.iter().any(|step| {
            step.begun < moment && matches!(&step.change, Change::Named(name) if name == path)
        })
    }

    /// What was promised of it when the power went at `moment`; `None` if it was not synced by then.
    pub fn promise(&self, moment: usize) -> Option<Promise> {
        let is_kept = |step: &Step| {
            matches!(step.change, Change::Synced) && !step.failed && step.ended <= moment
        };
        let synced = self.steps.iter().rposition(is_kept)?;
        let mut content = Vec::new();
        let mut name = None;
        for step in &self.steps[..synced] {
            apply(self.id, &mut content, &step.change);
            match &step.change {
                Change::Named(path) => name = Some(path.clone()),
                Change::Gone => return None,
                _ => {}
            }
        }
        let mut names = vec![name?];
        let later = self.steps[synced..].iter();
        let since: Vec<Change> = later
            .filter(|step| step.begun < moment)
            .map(|step| step.change.clone())
            .collect();
        let mut may_be_gone = false;
        for change in &since {
            match change {
                Change::Named(path) => names.push(path.clone()),
                Change::Gone => may_be_gone = true,
                _ => {}
            }
        }
        Some(Promise {
            content,
            since,
            names,
            may_be_gone,
        })
    }
}

impl Promise {
    /// How many bytes are sure to be there.
    pub fn sure(&self) -> usize {
        let cuts = self.since.iter().filter_map(|change| match change {
            Change::Resized(size) => Some(*size),
            _ => None,
        });
        cuts.min().unwrap_or(usize::MAX).min(self.content.len())
    }

    /// Whether `found` has what was written and synced: each byte as it was, or as a write begun since would have it. Where there was a
    /// hole, there may be anything without a log.
    pub fn check_synced(&self, id: u32, found: &[u8]) -> Result<(), String> {
        let sure = self.sure();
        if found.len() < sure {
            return Err(format!("{} bytes instead of {sure}", found.len()));
        }
        for at in (0..sure).step_by(RECORD) {
            let (part, was) = (&found[at..at + RECORD], &self.content[at..at + RECORD]);
            let is_hole = was.iter().all(|byte| *byte == 0);
            if part != was && !is_hole && !self.is_written_since(id, at, part) {
                return Err(format!("at {at} of {}: {part:02x?}", found.len()));
            }
        }
        Ok(())
    }

    /// Whether holes, and what is behind what is sure, are what a change begun since would have there, or zero.
    pub fn check_rest(&self, id: u32, found: &[u8]) -> Result<(), String> {
        let mut longest = self.content.len();
        for change in &self.since {
            longest = longest.max(match change {
                Change::Written { offset, len, .. } => offset + len,
                Change::Resized(size) => *size,
                _ => 0,
            });
        }
        if found.len() > longest {
            return Err(format!("{} bytes instead of {longest}", found.len()));
        }
        for at in (0..found.len()).step_by(RECORD) {
            let part = &found[at..at + RECORD];
            let is_zero = part.iter().all(|byte| *byte == 0);
            let was = self.content.get(at..at + RECORD) == Some(part);
            if !is_zero && !was && !self.is_written_since(id, at, part) {
                return Err(format!("at {at} of {}: {part:02x?}", found.len()));
            }
        }
        Ok(())
    }

    fn is_written_since(&self, id: u32, at: usize, part: &[u8]) -> bool {
        self.since.iter().any(|change| match change {
            Change::Written {
                offset,
                len,
                number,
            } => (*offset..offset + len).contains(&at) && record(id, *number, at) == *part,
            _ => false,
        })
    }
}
