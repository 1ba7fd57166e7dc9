//! A file on its way in: written under a hidden name, then renamed.
//!
//! What was uploaded is made stable (fsync) before it gets its name, so a power cut leaves the old file or the whole
//! new one. Then the directory is made stable, so that what was answered with 201 or 204 is there after a power cut.

use crate::http::head::Status;
use crate::place::{self, Placed};
use alloc::vec::Vec;
use core::time::Duration;
use rump::fs::{self, File, Metadata, OpenOptions};
use rump::{Errno, thread};

/// A pause for the pagedaemon when there was no memory, and how many there are before 503.
const STARVED_PAUSE: Duration = Duration::from_millis(5);
const STARVED_MAX: u32 = 100;

/// Tries for a hidden name that nobody has.
const NAMES_MAX: u32 = 8;

/// An upload. Dropped before it is finished, it leaves nothing.
pub struct Upload {
    file: File,
    hidden: Vec<u8>,
    to: Vec<u8>,
    named: bool,
}

impl Upload {
    /// Begins one that is to be at `to`, with the permission bits `mode` less the umask.
    ///
    /// # Errors
    /// As open(2).
    pub fn new(to: Vec<u8>, mode: u16) -> Result<Upload, Errno> {
        let options = OpenOptions::new().write(true).create_new(true).mode(mode);
        let mut tries = 0;
        loop {
            let hidden = place::beside(&to);
            match options.open(&hidden) {
                Ok(file) => {
                    return Ok(Upload {
                        file,
                        hidden,
                        to,
                        named: false,
                    });
                }
                Err(Errno::EEXIST) if tries < NAMES_MAX => tries += 1,
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Adds bytes at its end.
    ///
    /// # Errors
    /// As write(2).
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        write_all(&self.file, bytes)
    }

    /// Gives it its name, if `may` agrees with what has it now, and makes that stable. Answers what is known of it, and
    /// whether it replaced something.
    ///
    /// # Errors
    /// What `may` says, or the file system. Nothing has changed then, unless the last of it failed: the new file is there then,
    /// but not promised.
    pub fn finish(
        mut self,
        may: impl FnOnce(Option<&Metadata>) -> Result<(), Status>,
    ) -> Result<(Metadata, bool), Status> {
        self.file.sync_all()?;
        let facts = self.file.metadata()?;
        let placed = place::place(&self.hidden, &self.to, may)?;
        self.named = true;
        sync_directory_of(&self.to)?;
        Ok((facts, placed != Placed::New))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.named {
            return;
        }
        match fs::remove_file(&self.hidden) {
            // It went with its directory.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => log::warn!("fileserver: {} stays: {errno}", self.hidden.escape_ascii()),
        }
    }
}

/// Makes the names in the directory that `path` is in stable.
fn sync_directory_of(path: &[u8]) -> Result<(), Errno> {
    let directory = match place::parent(path) {
        b"" => b"/".as_slice(),
        parent => parent,
    };
    match File::open(directory) {
        Ok(directory) => directory.sync_all(),
        // Removed since, with everything in it.
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Writes all of `bytes` at the file's offset; want of memory is waited out for a while.
///
/// # Errors
/// As write(2).
pub fn write_all(file: &File, mut bytes: &[u8]) -> Result<(), Errno> {
    let mut starved = 0;
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(Errno::EIO),
            Ok(count) => {
                bytes = bytes.get(count..).ok_or(Errno::EIO)?;
                starved = 0;
            }
            Err(Errno::ENOMEM) if starved < STARVED_MAX => {
                starved += 1;
                thread::sleep(STARVED_PAUSE);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
