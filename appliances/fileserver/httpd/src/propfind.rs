//! The answer to a PROPFIND, written piece by piece: what was asked about, then, at depth 1, what is in it.

use crate::dav::multistatus::{self, END, START};
use crate::dav::property::Facts;
use crate::dav::question::Wanted;
use crate::http::head::ETag;
use crate::listing::is_shown;
use crate::piece::Piece;
use alloc::string::String;
use alloc::vec::Vec;
use rump::Errno;
use rump::fs::{self, DirEntry, Metadata, ReadDir};

/// What is said of a file without its names, and with short ones.
const USUAL: usize = 1024;

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
        let mut piece = Piece::new(self.chunked)?;
        let entries = match core::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Start(entries) => {
                let room = START.len() + self.most(self.path.len());
                let text = piece.room_for(room)?;
                text.push_str(START);
                write_one(text, &self.path, &self.facts, &self.wanted);
                entries
            }
            Stage::Entries(entries) => Some(entries),
            Stage::Done => return Ok(None),
        };
        let Some(mut entries) = entries else {
            return last(piece);
        };
        loop {
            match entries.next().transpose()? {
                Some(entry) if is_shown(&entry) => self.entry(&mut piece, &entry)?,
                Some(_) => {}
                None => return last(piece),
            }
            if piece.is_full(USUAL) {
                break;
            }
        }
        self.stage = Stage::Entries(entries);
        Ok(Some(piece.finish(false)))
    }

    fn entry(&self, piece: &mut Piece, entry: &DirEntry) -> Result<(), Errno> {
        let full = [&self.full, entry.name()].concat();
        // What is gone meanwhile, or a link to nothing, cannot be had either.
        let Ok(facts) = fs::metadata(&full) else {
            return Ok(());
        };
        let slash: &[u8] = if facts.is_dir() { b"/" } else { b"" };
        let path = [&self.path, entry.name(), slash].concat();
        let text = piece.room_for(self.most(path.len()))?;
        write_one(text, &path, &facts, &self.wanted);
        Ok(())
    }

    /// The most that is said of a file with a path of so many bytes: the path, each byte as `%22`; its name, each as `&quot;`; and what
    /// was asked for.
    fn most(&self, path: usize) -> usize {
        path * 3 + 255 * 6 + USUAL + self.wanted.most()
    }
}

fn last(mut piece: Piece) -> Result<Option<String>, Errno> {
    piece.room_for(END.len())?.push_str(END);
    Ok(Some(piece.finish(true)))
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
