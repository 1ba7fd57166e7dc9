//! The list of what is in a directory, written piece by piece.

pub mod page;

use crate::piece::Piece;
use crate::place;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicUsize, Ordering};
use page::{FOOT, Kind, Page, Row};
use rump::Errno;
use rump::fs::{self, DirEntry, FileType, ReadDir};
use rumpkern::kmem::Room;

/// The most that a row takes: a name of 255 bytes twice, each byte as `%22` and as `&quot;`, and what is around them.
const ROW: usize = 255 * (3 + 6) + 256;

/// The most memory that the names of one directory may take to be sorted; a longer directory is
/// shown in the order in which it lies on the disk.
const SORT_MAX: usize = 512 << 10;

/// How many directories may be sorted at once; others are shown as they lie.
const SORTERS: usize = 2;

static SORTING: AtomicUsize = AtomicUsize::new(0);

/// A directory on its way to a client.
pub struct Listing {
    full: Vec<u8>,
    chunked: bool,
    stage: Stage,
}

enum Stage {
    /// The start of the page has not been given yet.
    Head(String, Entries),
    Rows(Entries),
    Done,
}

/// Where the entries come from.
enum Entries {
    Sorted(Sorted),
    AsTheyLie(ReadDir),
}

impl Listing {
    /// Opens the directory `full` (with a slash at its end), which the client knows as `path`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(full: &[u8], path: &[u8], chunked: bool) -> Result<Listing, Errno> {
        let entries = match Sorted::read(full)? {
            Some(sorted) => Entries::Sorted(sorted),
            None => Entries::AsTheyLie(fs::read_dir(full)?),
        };
        Ok(Listing {
            full: full.to_vec(),
            chunked,
            stage: Stage::Head(Page { path }.head(), entries),
        })
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
        let mut entries = match core::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Head(head, entries) => {
                piece.room_for(head.len())?.push_str(&head);
                entries
            }
            Stage::Rows(entries) => entries,
            Stage::Done => return Ok(None),
        };
        while !piece.is_full(ROW) {
            match entries.next(&self.full)? {
                Some((
                    name,
                    Facts {
                        kind,
                        size,
                        modified,
                    },
                )) => {
                    let row = Row {
                        name: &name,
                        kind,
                        size,
                        modified,
                    };
                    // Writing into a String fails only if a formatter of ours does, and ours do not.
                    let _ = write!(piece.room_for(ROW)?, "{row}");
                }
                None => {
                    piece.room_for(FOOT.len())?.push_str(FOOT);
                    return Ok(Some(piece.finish(true)));
                }
            }
        }
        self.stage = Stage::Rows(entries);
        Ok(Some(piece.finish(false)))
    }
}

/// What the list shows of an entry beside its name.
#[derive(Clone, Copy)]
struct Facts {
    kind: Kind,
    size: Option<u64>,
    modified: Option<i64>,
}

impl Facts {
    /// Looks at the entry `name` of the directory `full`.
    fn of(full: &[u8], name: &[u8], file_type: Option<FileType>) -> Facts {
        // What cannot be looked at (a link to nothing, a damaged inode) is still shown by its name.
        let facts = fs::metadata([full, name].concat()).ok();
        let known = facts.as_ref().map(|facts| facts.file_type()).or(file_type);
        let kind = match known {
            Some(FileType::Dir) => Kind::Directory,
            Some(FileType::Reg) => Kind::File,
            _ => Kind::Other,
        };
        let size = facts.as_ref().filter(|_| kind == Kind::File);
        Facts {
            kind,
            size: size.map(|facts| facts.len()),
            modified: facts.as_ref().map(|facts| facts.modified().seconds),
        }
    }
}

/// An entry to show.
type Shown = (Vec<u8>, Facts);

impl Entries {
    /// The next entry of the directory `full`.
    fn next(&mut self, full: &[u8]) -> Result<Option<Shown>, Errno> {
        match self {
            Entries::Sorted(sorted) => Ok(sorted.next()),
            Entries::AsTheyLie(entries) => loop {
                match entries.next().transpose()? {
                    Some(entry) if is_shown(&entry) => {
                        let facts = Facts::of(full, entry.name(), entry.file_type());
                        return Ok(Some((entry.name().to_vec(), facts)));
                    }
                    Some(_) => {}
                    None => return Ok(None),
                }
            },
        }
    }
}

/// Whether a client may know of the entry.
pub(crate) fn is_shown(entry: &DirEntry) -> bool {
    !is_dots(entry.name()) && !place::is_hidden(entry.name())
}

/// Whether a name is that of the directory itself or of the one above.
pub(crate) fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

/// The entries of a directory in order: directories first, then by the bytes of their names.
///
/// They are looked at in the order in which they lie on the disk, which is how a file system finds one after the other soonest.
///
/// One vector of bytes and one of positions, so that thousands of names cost little more than
/// their letters.
struct Sorted {
    names: Vec<u8>,
    entries: Vec<SortedEntry>,
    at: usize,
    _place: Place,
}

struct SortedEntry {
    start: u32,
    length: u8,
    facts: Facts,
}

/// A place among the sorters, given back when the list has been sent.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let taken = SORTING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < SORTERS).then_some(count + 1)
        });
        taken.ok().map(|_| Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        SORTING.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sorted {
    /// Reads and sorts the directory; `None` if it is too large to be sorted now.
    fn read(full: &[u8]) -> Result<Option<Sorted>, Errno> {
        let Some(place) = Place::take() else {
            return Ok(None);
        };
        let mut sorted = Sorted {
            names: Vec::new(),
            entries: Vec::new(),
            at: 0,
            _place: place,
        };
        for entry in fs::read_dir(full)? {
            let entry = entry?;
            if is_shown(&entry) && sorted.add(full, &entry).is_none() {
                return Ok(None);
            }
        }
        let names = &sorted.names;
        sorted.entries.sort_unstable_by_key(|entry| {
            let file = entry.facts.kind != Kind::Directory;
            (file, entry.name(names))
        });
        Ok(Some(sorted))
    }

    fn add(&mut self, full: &[u8], entry: &DirEntry) -> Option<()> {
        let name = entry.name();
        let used = self.names.len() + self.entries.len() * size_of::<SortedEntry>();
        if used > SORT_MAX {
            return None;
        }
        self.names.room(name.len()).ok()?;
        self.entries.room(1).ok()?;
        self.entries.push(SortedEntry {
            start: self.names.len() as u32,
            length: u8::try_from(name.len()).ok()?,
            facts: Facts::of(full, name, entry.file_type()),
        });
        self.names.extend_from_slice(name);
        Some(())
    }

    fn next(&mut self) -> Option<Shown> {
        let entry = self.entries.get(self.at)?;
        self.at += 1;
        Some((entry.name(&self.names).to_vec(), entry.facts))
    }
}

impl SortedEntry {
    fn name<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        &names[start..start + usize::from(self.length)]
    }
}
