//! `tree`: everything that is there, with sums of files.

use crate::list::Entry;
use crate::session::{Failure, Session, progress};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use ukfs::{Image, Shown, WalkEntry};

/// Bytes read at once.
const AT_ONCE: usize = 256 << 10;

/// Shows everything below `path`. `largest`: the largest file whose sum is wanted.
pub fn tree(
    session: &mut Session,
    image: &OsStr,
    path: Option<&Path>,
    largest: Option<u64>,
) -> Result<(), Failure> {
    let image = session.open(image)?;
    let path = path.unwrap_or(session.here());
    // Not there, not a tree.
    image.metadata(path)?;
    let used = image.statvfs()?;
    let bytes = used
        .blocks
        .saturating_sub(used.bfree)
        .saturating_mul(used.frsize);
    let bar = match largest {
        // On a terminal what is shown tells how far it is, and would run into a bar.
        Some(_) if !io::stdout().is_terminal() => progress("reading", bytes),
        _ => ProgressBar::hidden(),
    };
    let mut shower = Shower {
        image: &image,
        path,
        largest,
        bar,
        buffer: vec![0; AT_ONCE],
        shown: 0,
    };
    if session.json {
        let name = image.source().to_string();
        session.write(b"{\"image\": ")?;
        session.json(&name)?;
        session.write(b", \"fstype\": ")?;
        session.json(&image.fstype())?;
        session.write(b", \"entries\": [")?;
    }
    for entry in image.walk(path) {
        let shown = match entry {
            Ok(entry) => shower.show(session, &entry),
            Err(error) => Err(error.into()),
        };
        match shown {
            Err(failure @ Failure::Image(_)) => session.complain(&failure),
            shown => shown?,
        }
    }
    shower.bar.finish_and_clear();
    if session.json {
        session.line("\n]}")?;
    }
    Ok(())
}

struct Shower<'a> {
    image: &'a Image,
    path: &'a Path,
    largest: Option<u64>,
    bar: ProgressBar,
    buffer: Vec<u8>,
    shown: usize,
}

impl Shower<'_> {
    fn show(&mut self, session: &mut Session, found: &WalkEntry) -> Result<(), Failure> {
        let metadata = found.metadata();
        let name = match found.path().strip_prefix(self.path) {
            Ok(name) if !name.as_os_str().is_empty() => name,
            // The start itself is shown if it is no directory.
            _ if metadata.is_dir() => return Ok(()),
            _ => found.path(),
        };
        let mut entry = Entry::new(self.image, found.path(), name, metadata)?;
        if self.largest.is_some() && metadata.is_file() {
            let sum = self.sum(session, found)?;
            entry.sha256 = Some(sum);
        }
        if session.json {
            let before = if self.shown == 0 { "\n" } else { ",\n" };
            session.write(before.as_bytes())?;
            session.json(&entry)?;
        } else {
            let slash = if metadata.is_dir() { "/" } else { "" };
            let sum = match (self.largest, &entry.sha256) {
                (None, _) => String::new(),
                (_, Some(Some(sum))) => format!("{sum}  "),
                _ => format!("{:-<64}  ", ""),
            };
            let target = match metadata.is_symlink() {
                true => format!(" -> {}", Shown(&self.image.read_link(found.path())?)),
                false => String::new(),
            };
            session.line(&format!("{sum}{}{slash}{target}", Shown(name)))?;
        }
        self.shown += 1;
        Ok(())
    }

    /// The file's sum; what stands in the way is said.
    fn sum(&mut self, session: &mut Session, found: &WalkEntry) -> Result<Option<String>, Failure> {
        let size = found.metadata().len();
        if self.largest.is_some_and(|largest| size > largest) {
            let why = format!(
                "{}: {}: {size} bytes are more than --largest: no hash",
                self.image.source(),
                Shown(found.path())
            );
            session.complain(&Failure::Said(why));
            return Ok(None);
        }
        match self.read(session, found.path()) {
            Ok(sum) => Ok(Some(sum)),
            Err(failure) if failure.is_end() => Err(failure),
            Err(failure) => {
                session.complain(&failure);
                Ok(None)
            }
        }
    }

    fn read(&mut self, session: &Session, path: &Path) -> Result<String, Failure> {
        let file = self.image.open_file(path)?;
        let mut sum = Sha256::new();
        let mut at = 0;
        loop {
            session.go_on()?;
            let count = file.read_at(&mut self.buffer, at)?;
            if count == 0 {
                break;
            }
            let read = self.buffer.get(..count).unwrap_or_default();
            sum.update(read);
            at += count as u64;
            self.bar.inc(count as u64);
        }
        Ok(sum
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}
