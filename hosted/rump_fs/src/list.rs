//! `ls` and `stat`.

use crate::session::{Failure, Session};
use crate::shown;
use serde::Serialize;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use ukfs::{FileType, Image, Metadata, Shown};

/// A file, as JSON has it.
#[derive(Serialize)]
pub struct Entry {
    path: String,
    /// The path's bytes in hexadecimal, where they are no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    mode: String,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    mtime_nsec: u32,
    inode: u64,
    /// `null` where it was wanted, but could not be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl Entry {
    /// The file at `path`, called `name`.
    pub fn new(
        image: &Image,
        path: &Path,
        name: &Path,
        metadata: &Metadata,
    ) -> Result<Entry, ukfs::Error> {
        let target = match metadata.is_symlink() {
            true => Some(image.read_link(path)?.to_string_lossy().into_owned()),
            false => None,
        };
        let bytes = name.as_os_str().as_encoded_bytes();
        let is_text = std::str::from_utf8(bytes).is_ok();
        Ok(Entry {
            path: name.to_string_lossy().into_owned(),
            path_bytes: (!is_text).then(|| bytes.iter().map(|b| format!("{b:02x}")).collect()),
            mode: format!("{:06o}", metadata.mode()),
            nlink: metadata.nlink(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: metadata.len(),
            mtime: metadata.mtime().seconds,
            mtime_nsec: metadata.mtime().nanos,
            inode: metadata.ino(),
            sha256: None,
            target,
        })
    }
}

/// Lists a directory, or a file.
pub fn ls(
    session: &mut Session,
    image: &OsStr,
    path: Option<&Path>,
    long: bool,
    recursive: bool,
) -> Result<(), Failure> {
    let image = session.open(image)?;
    let path = path.unwrap_or(session.here());
    let metadata = image.metadata(path)?;
    let mut listing = Listing {
        session,
        image: &image,
        long,
        entries: 0,
    };
    if listing.session.json {
        listing.session.write(b"[")?;
    }
    if !metadata.is_dir() {
        listing.show(path, path.as_os_str())?;
    } else if recursive {
        listing.everything(path)?;
    } else {
        listing.directory(path)?;
    }
    if session.json {
        session.line("\n]")?;
    }
    Ok(())
}

struct Listing<'a> {
    session: &'a mut Session,
    image: &'a Image,
    long: bool,
    entries: usize,
}

impl Listing<'_> {
    /// The directory and those below it, each under its name; links are not followed.
    fn everything(&mut self, path: &Path) -> Result<(), Failure> {
        let mut seen = std::collections::HashSet::new();
        let mut ahead = vec![path.to_owned()];
        while let Some(path) = ahead.pop() {
            let inode = self.image.metadata(&path)?.ino();
            // Only a damaged image has a directory twice.
            if !seen.insert(inode) {
                let again = format!(
                    "{}: {}: the directory was listed already",
                    self.image.source(),
                    Shown(&path)
                );
                self.session.complain(&Failure::Said(again));
                continue;
            }
            if !self.session.json {
                let gap = if seen.len() > 1 { "\n" } else { "" };
                self.session.line(&format!("{gap}{}:", Shown(&path)))?;
            }
            let mut below = self.directory(&path)?;
            below.reverse();
            ahead.append(&mut below);
        }
        Ok(())
    }

    /// The directory's entries by name; answers which are directories.
    fn directory(&mut self, path: &Path) -> Result<Vec<PathBuf>, Failure> {
        let mut entries = Vec::new();
        match self.image.read_dir(path) {
            Err(error) => self.session.complain(&error.into()),
            Ok(found) => {
                for entry in found {
                    match entry {
                        Ok(entry) => entries.push(entry),
                        Err(error) => self.session.complain(&error.into()),
                    }
                }
            }
        }
        entries.sort_unstable_by(|a, b| a.file_name().cmp(b.file_name()));
        let mut directories = Vec::new();
        for entry in entries {
            let is_dir = match entry.file_type() {
                Some(kind) => kind == FileType::Dir,
                None => {
                    let metadata = self.image.symlink_metadata(entry.path());
                    metadata.is_ok_and(|metadata| metadata.is_dir())
                }
            };
            self.show(entry.path(), entry.file_name())?;
            if is_dir {
                directories.push(entry.path().to_owned());
            }
        }
        Ok(directories)
    }

    fn show(&mut self, path: &Path, name: &OsStr) -> Result<(), Failure> {
        let name = Path::new(name);
        if !self.session.json && !self.long {
            return self.session.line(&Shown(name).to_string());
        }
        let known = self.image.symlink_metadata(path).and_then(|metadata| {
            let named = if self.session.json { path } else { name };
            Ok((metadata, Entry::new(self.image, path, named, &metadata)?))
        });
        let (metadata, entry) = match known {
            Ok(known) => known,
            Err(error) => {
                self.session.complain(&error.into());
                return Ok(());
            }
        };
        if self.session.json {
            let before = if self.entries == 0 { "\n" } else { ",\n" };
            self.entries += 1;
            self.session.write(before.as_bytes())?;
            return self.session.json(&entry);
        }
        let target = entry.target.map_or_else(String::new, |target| {
            format!(" -> {}", Shown(Path::new(&target)))
        });
        self.session.line(&format!(
            "{} {:>3} {:>5} {:>5} {:>10} {} {}{target}",
            shown::mode(&metadata),
            metadata.nlink(),
            metadata.uid(),
            metadata.gid(),
            metadata.len(),
            shown::time(metadata.mtime()),
            Shown(name),
        ))
    }
}

/// Everything about a file.
#[derive(Serialize)]
struct Everything {
    #[serde(flatten)]
    entry: Entry,
    kind: &'static str,
    blksize: u32,
    allocated: u64,
    atime: i64,
    atime_nsec: u32,
    ctime: i64,
    ctime_nsec: u32,
    rdev: u64,
    flags: u32,
}

/// Shows everything about a file; a link is looked at itself.
pub fn stat(session: &mut Session, image: &OsStr, path: &Path) -> Result<(), Failure> {
    let image = session.open(image)?;
    let metadata = image.symlink_metadata(path)?;
    let all = Everything {
        entry: Entry::new(&image, path, path, &metadata)?,
        kind: shown::kind(metadata.file_type()),
        blksize: metadata.blksize(),
        allocated: metadata.allocated(),
        atime: metadata.atime().seconds,
        atime_nsec: metadata.atime().nanos,
        ctime: metadata.ctime().seconds,
        ctime_nsec: metadata.ctime().nanos,
        rdev: metadata.rdev(),
        flags: metadata.flags(),
    };
    if session.json {
        session.json(&all)?;
        return session.line("");
    }
    session.line(&format!("    path: {}", Shown(path)))?;
    if let Some(target) = &all.entry.target {
        session.line(&format!("  target: {}", Shown(Path::new(target))))?;
    }
    session.line(&format!("    kind: {}", all.kind))?;
    session.line(&format!(
        "    mode: {} ({})",
        shown::mode(&metadata),
        all.entry.mode
    ))?;
    session.line(&format!(
        "   owner: {}, group {}",
        all.entry.uid, all.entry.gid
    ))?;
    session.line(&format!(
        "    size: {} bytes, {} on the disk, in blocks of {}",
        all.entry.size, all.allocated, all.blksize
    ))?;
    session.line(&format!(
        "   inode: {}, {} links, flags {:#x}",
        all.entry.inode, all.entry.nlink, all.flags
    ))?;
    if matches!(metadata.file_type(), FileType::Blk | FileType::Chr) {
        session.line(&format!("  device: {:#x}", all.rdev))?;
    }
    for (name, time) in [
        ("    read", metadata.atime()),
        (" written", metadata.mtime()),
        (" changed", metadata.ctime()),
    ] {
        session.line(&format!(
            "{name}: {}.{:09} UTC",
            shown::time(time),
            time.nanos
        ))?;
    }
    Ok(())
}
