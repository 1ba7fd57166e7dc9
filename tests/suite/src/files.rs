//! Cases for a file system. Paths are relative: each case has a directory of its own.

mod attributes;
mod data;
mod directories;
mod names;
mod opening;
mod permissions;
mod renaming;
mod threads;

use crate::Case;
use alloc::vec::Vec;
use rump::fs::{self, File, FileType};
use rump::{Errno, sys};

/// All of them.
pub(crate) const TABLES: [&[Case]; 8] = [
    names::CASES,
    opening::CASES,
    data::CASES,
    renaming::CASES,
    directories::CASES,
    attributes::CASES,
    permissions::CASES,
    threads::CASES,
];

/// Makes a file that holds `bytes`, or gives it them.
fn put(path: &str, bytes: &[u8]) -> Result<(), Errno> {
    let file = File::create(path)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = file.write(rest)?;
        rest = &rest[count..];
    }
    Ok(())
}

/// The names in a directory, but for `.` and `..`, in order of their bytes.
fn names_in(path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !matches!(entry.name(), b"." | b"..") {
            names.push(entry.name().to_vec());
        }
    }
    names.sort();
    Ok(names)
}

/// How many links a file has.
fn links(path: &str) -> Result<u32, Errno> {
    Ok(sys::lstat(path.as_bytes())?.attr.nlink)
}

/// A file's number.
fn ino(path: &str) -> Result<u64, Errno> {
    Ok(sys::lstat(path.as_bytes())?.attr.fileid)
}

/// Whether there is a file of that name.
fn is_there(path: &str) -> bool {
    sys::lstat(path.as_bytes()).is_ok()
}

/// Bytes that do not repeat with any block's length.
pub(crate) fn pattern(seed: u8, count: usize) -> Vec<u8> {
    (0..count)
        .map(|at| (at % 251) as u8 ^ (at / 251) as u8 ^ seed)
        .collect()
}

/// Removes what is at `path`, and all below.
pub(crate) fn remove_all(path: &[u8]) -> Result<(), Errno> {
    if fs::symlink_metadata(path)?.file_type() != FileType::Dir {
        return fs::remove_file(path);
    }
    for name in names_in(path)? {
        remove_all(&[path, b"/", &name].concat())?;
    }
    fs::remove_dir(path)
}
