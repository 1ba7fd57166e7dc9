//! `put`: files from the host to an image.

use crate::copy::{AT_ONCE, runs};
use crate::session::{Failure, Session, progress};
use indicatif::ProgressBar;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use ukfs::{Errno, Image, Shown, WallTime};

/// Copies files and directories of the host into the last of `paths`, a directory of the image.
pub fn put(
    session: &mut Session,
    image: &OsStr,
    paths: &[PathBuf],
    archive: bool,
) -> Result<(), Failure> {
    let Some((folder, paths)) = paths.split_last() else {
        return Ok(());
    };
    let image = session.open_to_write(image)?;
    let sizes = paths.iter().map(|path| {
        let metadata = fs::symlink_metadata(path).ok()?;
        metadata.is_file().then_some(metadata.len())
    });
    let bytes = sizes.sum::<Option<u64>>().unwrap_or(0);
    let mut putter = Putter {
        image: &image,
        archive,
        made: HashMap::new(),
        buffer: vec![0; AT_ONCE],
        bar: progress("copying", bytes),
    };
    let done = putter.all(session, paths, folder);
    putter.bar.finish_and_clear();
    drop(putter);
    // What was copied before something failed stays, and is written.
    let closed = session.close(image);
    done?;
    closed
}

struct Putter<'a> {
    image: &'a Image,
    archive: bool,
    /// Where a file with several names was put, by its device and inode.
    made: HashMap<(u64, u64), PathBuf>,
    buffer: Vec<u8>,
    bar: ProgressBar,
}

impl Putter<'_> {
    fn all(
        &mut self,
        session: &mut Session,
        paths: &[PathBuf],
        folder: &Path,
    ) -> Result<(), Failure> {
        if !self.image.metadata(folder)?.is_dir() {
            let sentence = format!(
                "{}: {}: Not a directory",
                self.image.source(),
                Shown(folder)
            );
            return Err(Failure::Said(sentence));
        }
        for path in paths {
            // What is in `.`, `..` and `FOLDER/.` goes straight into the directory.
            let target = match path.file_name() {
                Some(name) if !path.as_os_str().as_bytes().ends_with(b"/.") => folder.join(name),
                _ => folder.to_owned(),
            };
            self.one(session, path, &target)?;
        }
        Ok(())
    }

    /// Copies what is at `path`, and everything below it. What fails is said, and fails this only if it ends all.
    fn one(&mut self, session: &mut Session, path: &Path, target: &Path) -> Result<(), Failure> {
        session.go_on()?;
        let put = fs::symlink_metadata(path)
            .map_err(|error| Failure::host(path, error))
            .and_then(|metadata| self.put(session, path, &metadata, target));
        match put {
            Err(failure) if failure.is_end() => Err(failure),
            Err(failure) => {
                session.complain(&failure);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn put(
        &mut self,
        session: &mut Session,
        path: &Path,
        metadata: &Metadata,
        target: &Path,
    ) -> Result<(), Failure> {
        let key = (metadata.dev(), metadata.ino());
        let kind = metadata.file_type();
        if kind.is_dir() {
            self.directory(session, path, target)?;
        } else if self.archive && self.made.contains_key(&key) {
            self.clear(target)?;
            if let Some(before) = self.made.get(&key) {
                self.image.hard_link(before, target)?;
            }
            return Ok(());
        } else if kind.is_symlink() {
            let leads_to = fs::read_link(path).map_err(|error| Failure::host(path, error))?;
            self.clear(target)?;
            self.image.symlink(leads_to, target)?;
        } else if kind.is_file() {
            self.file(session, path, target)?;
        } else {
            return Err(Failure::Said(format!(
                "{}: neither file, directory nor symbolic link: not copied",
                Shown(path)
            )));
        }
        if metadata.nlink() > 1 && !kind.is_dir() {
            self.made.insert(key, target.to_owned());
        }
        Ok(self.keep(target, metadata)?)
    }

    fn directory(
        &mut self,
        session: &mut Session,
        path: &Path,
        target: &Path,
    ) -> Result<(), Failure> {
        match self.image.create_dir(target) {
            Err(error) if error.errno() == Errno::EEXIST => {
                if !self.image.symlink_metadata(target)?.is_dir() {
                    return Err(error.into());
                }
            }
            made => made?,
        }
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = entries.map_err(|error| Failure::host(path, error))?;
        entries.sort_unstable_by_key(fs::DirEntry::file_name);
        for entry in entries {
            self.one(session, &entry.path(), &target.join(entry.file_name()))?;
        }
        Ok(())
    }

    fn file(&mut self, session: &Session, path: &Path, target: &Path) -> Result<(), Failure> {
        let told = |error| Failure::host(path, error);
        let mut from = File::open(path).map_err(told)?;
        self.clear(target)?;
        let to = self.image.create_file(target)?;
        let mut at = 0;
        loop {
            session.go_on()?;
            let count = from.read(&mut self.buffer).map_err(told)?;
            if count == 0 {
                break;
            }
            for (offset, run) in runs(self.buffer.get(..count).unwrap_or_default()) {
                to.write_all_at(run, at + offset as u64)?;
            }
            at += count as u64;
            self.bar.inc(count as u64);
        }
        // Behind the last byte written there may be a hole.
        if to.metadata()?.len() != at {
            to.set_len(at)?;
        }
        Ok(())
    }

    /// Removes what has the name already, unless it is a directory.
    fn clear(&self, target: &Path) -> Result<(), ukfs::Error> {
        match self.image.symlink_metadata(target) {
            Ok(known) if !known.is_dir() => self.image.remove_file(target),
            _ => Ok(()),
        }
    }

    /// Gives a copy the mode of the original, and with `-a` its owner and times.
    fn keep(&self, target: &Path, metadata: &Metadata) -> Result<(), ukfs::Error> {
        let is_link = metadata.file_type().is_symlink();
        if self.archive {
            let (uid, gid) = (metadata.uid(), metadata.gid());
            self.image.set_owner(target, Some(uid), Some(gid))?;
        }
        if !is_link {
            let kept = if self.archive { 0o7777 } else { 0o777 };
            self.image.set_mode(target, metadata.mode() & kept)?;
        }
        if self.archive {
            let time = |seconds, nanos: i64| WallTime {
                seconds,
                nanos: u32::try_from(nanos).unwrap_or_default(),
            };
            let atime = time(metadata.atime(), metadata.atime_nsec());
            let mtime = time(metadata.mtime(), metadata.mtime_nsec());
            self.image.set_times(target, atime, mtime)?;
        }
        Ok(())
    }
}
