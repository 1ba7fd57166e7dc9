//! `cat` and `get`: files from an image to the host.
//!
//! Nothing on the host is written through a link that an image brought: files are made anew, and a directory to be
//! entered must be one.

use crate::session::{Failure, Session, progress};
use indicatif::ProgressBar;
use rustix::fs::{AtFlags, CWD, Gid, Timestamps, Uid, chownat, utimensat};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use ukfs::{FileType, Image, Metadata, Shown, WallTime};

/// Bytes read at once.
pub const AT_ONCE: usize = 256 << 10;
/// What is all zeroes and as long as this becomes a hole.
const HOLE: usize = 4096;

/// Writes a file to standard output.
pub fn cat(session: &mut Session, image: &OsStr, path: &Path) -> Result<(), Failure> {
    let image = session.open(image)?;
    let file = image.open_file(path)?;
    let mut buffer = vec![0; AT_ONCE];
    let mut at = 0;
    loop {
        let count = file.read_at(&mut buffer, at)?;
        if count == 0 {
            return Ok(());
        }
        session.write(buffer.get(..count).unwrap_or_default())?;
        at += count as u64;
    }
}

/// Copies files and directories into the last of `paths`.
pub fn get(
    session: &mut Session,
    image: &OsStr,
    paths: &[PathBuf],
    archive: bool,
) -> Result<(), Failure> {
    let Some((folder, paths)) = paths.split_last() else {
        return Ok(());
    };
    let known = fs::metadata(folder).map_err(|error| Failure::host(folder, error))?;
    if !known.is_dir() {
        return Err(Failure::host(folder, io::ErrorKind::NotADirectory.into()));
    }
    let image = session.open(image)?;
    let sizes = paths.iter().map(|path| {
        let metadata = image.symlink_metadata(path).ok()?;
        metadata.is_file().then_some(metadata.len())
    });
    let bytes = sizes.sum::<Option<u64>>().unwrap_or(0);
    let mut copier = Copier {
        image: &image,
        archive,
        is_root: rustix::process::geteuid().is_root(),
        made: HashMap::new(),
        directories: Vec::new(),
        buffer: vec![0; AT_ONCE],
        bar: progress("copying", bytes),
    };
    for path in paths {
        copier.get(session, path, folder)?;
    }
    copier.finish(session);
    Ok(())
}

struct Copier<'a> {
    image: &'a Image,
    archive: bool,
    is_root: bool,
    /// Where a file with several names was put.
    made: HashMap<u64, PathBuf>,
    /// Directories whose attributes are set when everything is in them.
    directories: Vec<(PathBuf, Metadata)>,
    buffer: Vec<u8>,
    bar: ProgressBar,
}

impl Copier<'_> {
    /// Copies `path` and what is below it to `folder`.
    fn get(&mut self, session: &mut Session, path: &Path, folder: &Path) -> Result<(), Failure> {
        // The root has no name: what is in it goes straight into the folder.
        let name = path.file_name().map(Path::new).unwrap_or(Path::new(""));
        for entry in self.image.walk(path) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    session.complain(&error.into());
                    continue;
                }
            };
            let Ok(below) = entry.path().strip_prefix(path) else {
                continue;
            };
            let own = below.components().chain(name.components());
            if own
                .into_iter()
                .any(|part| !matches!(part, Component::Normal(_)))
            {
                let why = format!(
                    "{}: {}: no name for a file of the host",
                    self.image.source(),
                    Shown(entry.path())
                );
                session.complain(&Failure::Said(why));
                continue;
            }
            let target: PathBuf = folder
                .join(name)
                .components()
                .chain(below.components())
                .collect();
            match self.one(session, entry.path(), entry.metadata(), &target) {
                Err(failure) if failure.is_end() => return Err(failure),
                Err(failure) => session.complain(&failure),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn one(
        &mut self,
        session: &Session,
        path: &Path,
        metadata: &Metadata,
        target: &Path,
    ) -> Result<(), Failure> {
        session.go_on()?;
        let told = |error| Failure::host(target, error);
        match metadata.file_type() {
            FileType::Dir => {
                self.directory(target).map_err(told)?;
                self.directories.push((target.to_owned(), *metadata));
                return Ok(());
            }
            FileType::Reg if self.link(metadata, target).map_err(told)? => return Ok(()),
            FileType::Reg => self.file(session, path, metadata, target)?,
            FileType::Lnk => {
                let leads_to = self.image.read_link(path)?;
                clear(target)
                    .and_then(|()| symlink(leads_to, target))
                    .map_err(told)?;
            }
            kind => {
                return Err(Failure::Said(format!(
                    "{}: {}: a {} is not copied",
                    self.image.source(),
                    Shown(path),
                    crate::shown::kind(kind)
                )));
            }
        }
        if metadata.nlink() > 1 && metadata.is_file() {
            self.made.insert(metadata.ino(), target.to_owned());
        }
        self.keep(target, metadata).map_err(told)
    }

    /// Makes a link to where the file was put before, if it was.
    fn link(&mut self, metadata: &Metadata, target: &Path) -> io::Result<bool> {
        match self.made.get(&metadata.ino()) {
            Some(before) if self.archive => {
                clear(target)?;
                fs::hard_link(before, target)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn directory(&self, target: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o755).create(target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match fs::symlink_metadata(target)?.is_dir() {
                    true => Ok(()),
                    false => Err(error),
                }
            }
            made => made,
        }
    }

    fn file(
        &mut self,
        session: &Session,
        path: &Path,
        metadata: &Metadata,
        target: &Path,
    ) -> Result<(), Failure> {
        let told = |error| Failure::host(target, error);
        let from = self.image.open_file(path)?;
        clear(target).map_err(told)?;
        let to = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(if self.archive {
                0o600
            } else {
                metadata.mode() & 0o777
            })
            .open(target)
            .map_err(told)?;
        let mut at = 0;
        loop {
            session.go_on()?;
            let count = from.read_at(&mut self.buffer, at)?;
            if count == 0 {
                break;
            }
            for (offset, run) in runs(self.buffer.get(..count).unwrap_or_default()) {
                to.write_all_at(run, at + offset as u64).map_err(told)?;
            }
            at += count as u64;
            self.bar.inc(count as u64);
        }
        // Behind the last byte written there may be a hole.
        to.set_len(at).map_err(told)
    }

    /// Gives a copy the owner, mode and times of the original.
    fn keep(&self, target: &Path, metadata: &Metadata) -> io::Result<()> {
        if !self.archive {
            return Ok(());
        }
        if self.is_root {
            chownat(
                CWD,
                target,
                Some(Uid::from_raw(metadata.uid())),
                Some(Gid::from_raw(metadata.gid())),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
        if !metadata.is_symlink() {
            // Set-ID bits are worth what the owner is.
            let bits = if self.is_root { 0o7777 } else { 0o1777 };
            fs::set_permissions(target, Permissions::from_mode(metadata.mode() & bits))?;
        }
        let times = Timestamps {
            last_access: timespec(metadata.atime()),
            last_modification: timespec(metadata.mtime()),
        };
        utimensat(CWD, target, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Sets what is known of the directories, those below first.
    fn finish(self, session: &mut Session) {
        for (target, metadata) in self.directories.iter().rev() {
            if let Err(error) = self.keep(target, metadata) {
                session.complain(&Failure::host(target, error));
            }
        }
        self.bar.finish_and_clear();
    }
}

/// The parts of `bytes` that are not holes to be, with their offsets.
pub fn runs(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let is_hole = |piece: &[u8]| piece.iter().all(|byte| *byte == 0);
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..)?;
        let skipped = rest.chunks(HOLE).take_while(|piece| is_hole(piece)).count();
        let start = (at + skipped * HOLE).min(bytes.len());
        let rest = bytes.get(start..).filter(|rest| !rest.is_empty())?;
        let kept = rest
            .chunks(HOLE)
            .take_while(|piece| !is_hole(piece))
            .count();
        at = (start + kept * HOLE).min(bytes.len());
        bytes.get(start..at).map(|run| (start, run))
    })
}

/// Removes what has the name already, unless it is a directory.
fn clear(target: &Path) -> io::Result<()> {
    match fs::remove_file(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn timespec(time: WallTime) -> rustix::fs::Timespec {
    rustix::fs::Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanos.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_holes_alternate() {
        let mut bytes = vec![0; 5 * HOLE + 10];
        bytes[HOLE] = 1;
        bytes[3 * HOLE - 1] = 1;
        bytes[5 * HOLE + 9] = 1;
        let found: Vec<(usize, usize)> = runs(&bytes).map(|(at, run)| (at, run.len())).collect();
        assert_eq!(found, [(HOLE, 2 * HOLE), (5 * HOLE, 10)]);
        assert_eq!(runs(&bytes[..HOLE]).count(), 0);
        assert_eq!(runs(&[]).count(), 0);
    }
}
