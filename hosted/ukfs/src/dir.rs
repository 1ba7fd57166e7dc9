//! Directories, and whole trees.

use crate::error::Error;
use crate::image::{Image, Mounted};
use crate::metadata::{FileType, Metadata};
use rumpuser::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The entries of a directory, without `.` and `..`, in the order in which it has them.
pub struct ReadDir {
    entries: Option<rump::fs::ReadDir>,
    mounted: Arc<Mounted>,
    path: PathBuf,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    path: PathBuf,
    ino: u64,
    file_type: Option<FileType>,
}

impl DirEntry {
    /// Its name.
    pub fn file_name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// The directory's path and its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's inode number.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// What the file is, where the directory says so.
    pub fn file_type(&self) -> Option<FileType> {
        self.file_type
    }
}

impl ReadDir {
    pub(crate) fn new(mounted: &Arc<Mounted>, path: &Path, entries: rump::fs::ReadDir) -> ReadDir {
        ReadDir {
            entries: Some(entries),
            mounted: mounted.clone(),
            path: path.to_owned(),
        }
    }

    fn advance(&mut self) -> Option<Result<DirEntry, Errno>> {
        let entries = self.entries.as_mut()?;
        loop {
            let entry = match entries.next()? {
                Ok(entry) => entry,
                Err(errno) => return Some(Err(errno)),
            };
            if matches!(entry.name(), b"." | b"..") {
                continue;
            }
            return Some(Ok(DirEntry {
                path: self.path.join(OsStr::from_bytes(entry.name())),
                ino: entry.ino(),
                file_type: entry.file_type(),
            }));
        }
    }
}

impl Iterator for ReadDir {
    type Item = Result<DirEntry, Error>;

    fn next(&mut self) -> Option<Result<DirEntry, Error>> {
        let mounted = self.mounted.clone();
        let path = self.path.clone();
        mounted
            .act(&path, || self.advance().transpose())
            .transpose()
    }
}

impl Drop for ReadDir {
    fn drop(&mut self) {
        let _entered = self.mounted.attachment.rump.enter();
        self.entries = None;
    }
}

/// A file that a [`Walk`] came to.
#[derive(Clone, Debug)]
pub struct WalkEntry {
    path: PathBuf,
    metadata: Metadata,
}

impl WalkEntry {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is known of it; a symbolic link is looked at itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// Everything below a path, a directory before what is in it, names in order; links are not followed.
///
/// What cannot be looked at is an `Err`, and the walk goes on. A directory that is met twice, which only a damaged image has,
/// is `ELOOP` the second time.
pub struct Walk {
    image: Image,
    /// What is still to be visited, the next one last.
    ahead: Vec<PathBuf>,
    errors: Vec<Error>,
    directories: HashSet<u64>,
}

impl Walk {
    pub(crate) fn new(image: &Image, path: &Path) -> Walk {
        Walk {
            image: image.clone(),
            ahead: vec![path.to_owned()],
            errors: Vec::new(),
            directories: HashSet::new(),
        }
    }

    fn enter(&mut self, path: &Path, metadata: &Metadata) -> Result<(), Error> {
        if !self.directories.insert(metadata.ino()) {
            let who = self.image.source().to_string();
            return Err(Error::of_file(&who, path, Errno::ELOOP));
        }
        let mut found = Vec::new();
        for entry in self.image.read_dir(path)? {
            match entry {
                Ok(entry) => found.push(entry.path),
                Err(error) => self.errors.push(error),
            }
        }
        found.sort_unstable_by(|a, b| b.as_os_str().cmp(a.as_os_str()));
        self.ahead.append(&mut found);
        Ok(())
    }
}

impl Iterator for Walk {
    type Item = Result<WalkEntry, Error>;

    fn next(&mut self) -> Option<Result<WalkEntry, Error>> {
        if let Some(error) = self.errors.pop() {
            return Some(Err(error));
        }
        let path = self.ahead.pop()?;
        let metadata = match self.image.symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => return Some(Err(error)),
        };
        if metadata.is_dir()
            && let Err(error) = self.enter(&path, &metadata)
        {
            self.errors.push(error);
        }
        Some(Ok(WalkEntry { path, metadata }))
    }
}
