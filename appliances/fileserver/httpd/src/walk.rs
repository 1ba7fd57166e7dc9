//! Going through a tree of files, of any size and depth, in little memory.
//!
//! A walk has one path and, for the innermost `OPEN_MAX` directories, an open reader each; those further out are opened
//! again when it comes back to them. How deep a tree can be is bounded by the length of a path.

use crate::listing::is_dots;
use alloc::vec::Vec;
use rump::Errno;
use rump::fs::{self, DirEntry, FileType, ReadDir};

/// Directories that are open at once.
const OPEN_MAX: usize = 8;

/// What to do with entries that were seen already when a directory is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// They are still there.
    Skip,
    /// They have been removed; what is there is new.
    Take,
}

/// What a walk has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// A directory; what is in it comes next.
    Enter,
    /// Anything else.
    Leaf(FileType),
    /// A directory, after all that is in it; the one it began with, too.
    Leave,
    /// What cannot be looked at.
    Failed(Errno),
}

/// A walk.
pub struct Walk {
    path: Vec<u8>,
    levels: Vec<Level>,
    again: Again,
}

struct Level {
    reader: Option<ReadDir>,
    /// Entries read.
    taken: u64,
    /// How much of the path is this directory's.
    length: usize,
}

impl Walk {
    /// Through the directory at `path`.
    pub fn new(path: Vec<u8>, again: Again) -> Walk {
        let mut walk = Walk {
            path,
            levels: Vec::new(),
            again,
        };
        walk.enter();
        walk
    }

    /// The path of what was visited last.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Begins anew with the directory that was just left.
    pub fn enter(&mut self) {
        self.levels.push(Level {
            reader: None,
            taken: 0,
            length: self.path.len(),
        });
        // Memory for names is needed where the walk is, not where it was.
        if let Some(outer) = self.levels.len().checked_sub(OPEN_MAX + 1) {
            self.levels[outer].reader = None;
        }
    }

    fn visit(&mut self, known: Option<FileType>) -> Visit {
        let file_type = match known {
            Some(file_type) => Ok(file_type),
            None => fs::symlink_metadata(&self.path).map(|facts| facts.file_type()),
        };
        match file_type {
            Ok(FileType::Dir) => {
                self.enter();
                Visit::Enter
            }
            Ok(file_type) => Visit::Leaf(file_type),
            Err(errno) => Visit::Failed(errno),
        }
    }
}

impl Iterator for Walk {
    type Item = Visit;

    /// The next visit; `None` at the end.
    fn next(&mut self) -> Option<Visit> {
        let level = self.levels.last_mut()?;
        self.path.truncate(level.length);
        match level.next(&self.path, self.again) {
            Ok(None) => {
                self.levels.pop();
                Some(Visit::Leave)
            }
            Ok(Some(entry)) => {
                self.path.push(b'/');
                self.path.extend_from_slice(entry.name());
                Some(self.visit(entry.file_type()))
            }
            Err(errno) => {
                self.levels.pop();
                Some(Visit::Failed(errno))
            }
        }
    }
}

impl Level {
    fn next(&mut self, path: &[u8], again: Again) -> Result<Option<DirEntry>, Errno> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let mut reader = fs::read_dir(path)?;
                let skip = match again {
                    Again::Skip => self.taken,
                    Again::Take => 0,
                };
                for _ in 0..skip {
                    reader.next().transpose()?;
                }
                self.reader.insert(reader)
            }
        };
        loop {
            let Some(entry) = reader.next().transpose()? else {
                return Ok(None);
            };
            self.taken += 1;
            if !is_dots(entry.name()) {
                return Ok(Some(entry));
            }
        }
    }
}
