//! Putting what is complete under its name.
//!
//! Whatever takes long to make (an upload, the copy of a tree) is made under a hidden name in the directory
//! where it is to be, and renamed when it is complete: a reader sees the old or the new, never a part. No client can
//! name or see a hidden name. A power cut may leave one behind; it goes when its directory is removed.

use crate::http::head::Status;
use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rump::fs::{self, Metadata};
use rump::sync::Mutex;
use rump::{Errno, time};

/// How hidden names begin.
const HIDDEN: &[u8] = b".#rump-";

/// Held while a name is judged and then changed, so that a condition still holds when it counts. The innermost lock of
/// the server.
static NAMES: Mutex<()> = Mutex::new(());

/// Whether `name` is one that only the server uses.
pub fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(HIDDEN)
}

/// Whether a name on the way is.
pub fn is_hidden_path(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(is_hidden)
}

/// A hidden name beside `path`, new with every call.
pub fn beside(path: &[u8]) -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // The time tells it from what an earlier run left behind.
    let now = time::wall();
    let unique = format!("{:x}.{:x}.{number:x}", now.seconds, now.nanos);
    [parent(path), b"/", HIDDEN, unique.as_bytes()].concat()
}

/// The directory that `path`, which has no slash at its end, is in; empty for the root.
pub fn parent(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    path.get(..slash.unwrap_or(0)).unwrap_or(b"")
}

/// What was under the name before.
#[derive(Debug, PartialEq, Eq)]
pub enum Placed {
    /// Nothing.
    New,
    /// Something that is gone now.
    Replaced,
    /// Something that is under this hidden name now, to be removed.
    Aside(Vec<u8>),
}

/// Renames `from` to `to` if `may` agrees with what is there.
///
/// # Errors
/// What `may` says, or the file system; then everything is as it was.
pub fn place(
    from: &[u8],
    to: &[u8],
    may: impl FnOnce(Option<&Metadata>) -> Result<(), Status>,
) -> Result<Placed, Status> {
    let _alone = NAMES.lock();
    let source = fs::symlink_metadata(from)?;
    let current = existing(to)?;
    may(current.as_ref())?;
    match current {
        None => fs::rename(from, to).map(|()| Placed::New),
        Some(current) if !current.is_dir() && !source.is_dir() => {
            fs::rename(from, to).map(|()| Placed::Replaced)
        }
        Some(_) => swap(from, to).map(Placed::Aside),
    }
    .map_err(Status::from)
}

/// Removes the name of what is no directory, if `may` agrees with what is there.
///
/// # Errors
/// As [`place`].
pub fn remove(
    path: &[u8],
    may: impl FnOnce(Option<&Metadata>) -> Result<(), Status>,
) -> Result<(), Status> {
    let _alone = NAMES.lock();
    may(existing(path)?.as_ref())?;
    Ok(fs::remove_file(path)?)
}

/// rename(2) replaces neither a directory that is not empty nor one kind by another.
fn swap(from: &[u8], to: &[u8]) -> Result<Vec<u8>, Errno> {
    let aside = beside(to);
    fs::rename(to, &aside)?;
    match fs::rename(from, to) {
        Ok(()) => Ok(aside),
        Err(errno) => {
            if let Err(back) = fs::rename(&aside, to) {
                log::error!(
                    "fileserver: {} is now {}: {back}",
                    to.escape_ascii(),
                    aside.escape_ascii()
                );
            }
            Err(errno)
        }
    }
}

/// What is at `path`, if anything; a symbolic link is looked at itself.
///
/// # Errors
/// The file system's.
pub fn existing(path: &[u8]) -> Result<Option<Metadata>, Errno> {
    match fs::symlink_metadata(path) {
        Ok(facts) => Ok(Some(facts)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_a_path_is_what_is_before_its_last_slash() {
        assert_eq!(parent(b"/a/b"), b"/a");
        assert_eq!(parent(b"/a"), b"");
        assert_eq!(parent(b""), b"");
    }

    #[test]
    fn hidden_names_are_known_wherever_they_stand() {
        assert!(is_hidden_path(b"/a/.#rump-1/b"));
        assert!(!is_hidden_path(b"/a/#rump-1/.#other"));
    }
}
