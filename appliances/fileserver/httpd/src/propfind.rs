//! The answer to a PROPFIND, written piece by piece: what was asked about, then, at depth 1, what is in it.

use crate::dav::multistatus::{self, END, START};
use crate::dav::property::Facts;
use crate::dav::question::Wanted;
use crate::http::head::ETag;
use crate::listing::is_shown;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use rump::Errno;
use rump::fs::{self, DirEntry, Metadata, ReadDir};

/// Text gathered before it is handed on.
const PIECE: usize = 4096;

/// An answer on its way.
pub struct Propfind {
    full: Vec<u8>,
    path: Vec<u8>,
    facts: Metadata,
    wanted: Wanted,
    chunked: bool,
    stage: Stage,
}

enum Stage {
    Start(Option<ReadDir>),
    Entries(ReadDir),
    Done,
}

impl Propfind {
    /// About the file at `full`, which the client knows as `path`; `deep`: also about what is in it.
    ///
    /// # Errors
    /// What the file system says; `ENOTDIR` for a file that was asked for with a slash at its end.
    pub fn open(
        full: &[u8],
        path: &[u8],
        deep: bool,
        wanted: Wanted,
        chunked: bool,
    ) -> Result<Propfind, Errno> {
        let facts = fs::metadata(full)?;
        let (mut full, mut path) = (full.to_vec(), path.to_vec());
        let mut entries = None;
        match (facts.is_dir(), path.ends_with(b"/")) {
            (true, false) => {
                full.push(b'/');
                path.push(b'/');
            }
            (false, true) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        if facts.is_dir() && deep {
            entries = Some(fs::read_dir(&full)?);
        }
        Ok(Propfind {
            full,
            path,
            facts,
            wanted,
            chunked,
            stage: Stage::Start(entries),
        })
    }

    /// The path of what it is about, with a slash at its end if that is a directory.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Whether the last piece has been given.
    pub fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// The next piece of the body, framed as RFC 9112 §7.1 says if it is chunked.
    ///
    /// # Errors
    /// What the file system says; the body cannot be ended properly then.
    pub fn next_piece(&mut self) -> Result<Option<String>, Errno> {
        let mut text = String::new();
        let entries = match core::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Start(entries) => {
                text.push_str(START);
                write_one(&mut text, &self.path, &self.facts, &self.wanted);
                entries
            }
            Stage::Entries(entries) => Some(entries),
            Stage::Done => return Ok(None),
        };
        let Some(mut entries) = entries else {
            return Ok(Some(self.last(text)));
        };
        while text.len() < PIECE {
            match entries.next().transpose()? {
                Some(entry) if is_shown(&entry) => self.entry(&mut text, &entry),
                Some(_) => {}
                None => return Ok(Some(self.last(text))),
            }
        }
        self.stage = Stage::Entries(entries);
        Ok(Some(self.framed(&text, "")))
    }

    fn entry(&self, text: &mut String, entry: &DirEntry) {
        let full = [&self.full, entry.name()].concat();
        // What is gone meanwhile, or a link to nothing, cannot be had either.
        let Ok(facts) = fs::metadata(&full) else {
            return;
        };
        let slash: &[u8] = if facts.is_dir() { b"/" } else { b"" };
        let path = [&self.path, entry.name(), slash].concat();
        write_one(text, &path, &facts, &self.wanted);
    }

    fn last(&self, mut text: String) -> String {
        text.push_str(END);
        self.framed(&text, "0\r\n\r\n")
    }

    fn framed(&self, text: &str, end: &str) -> String {
        let mut framed = String::with_capacity(text.len() + 16);
        if !self.chunked {
            framed.push_str(text);
            return framed;
        }
        // Writing into a String fails only if a formatter of ours does, and ours do not.
        let _ = write!(framed, "{:x}\r\n{text}\r\n{end}", text.len());
        framed
    }
}

/// The version of a file.
pub fn tag_of(facts: &Metadata) -> ETag {
    let modified = facts.modified();
    ETag {
        inode: facts.ino(),
        size: facts.len(),
        modified: (modified.seconds, modified.nanos),
    }
}

fn write_one(text: &mut String, path: &[u8], facts: &Metadata, wanted: &Wanted) {
    let without_slash = path.strip_suffix(b"/").unwrap_or(path);
    let name = without_slash.rsplit(|byte| *byte == b'/').next();
    let born = facts.stat().attr.birthtime.seconds;
    let facts = Facts {
        name: name.unwrap_or(b""),
        is_collection: facts.is_dir(),
        tag: tag_of(facts),
        // Volumes without times of birth say 0.
        created: (born > 0).then_some(born),
    };
    multistatus::properties(text, path, &facts, wanted);
}
