//! A tree written, read back and compared, deleted.

use acid_tree::{Planned, fill};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use rump::Errno;
use rump::fs::{self, File};
use rumpkern::aprint;

/// What goes wrong: the path, and why.
pub type Fault = (String, String);

fn fault(path: &str, errno: Errno) -> Fault {
    (path.into(), format!("{errno}"))
}

/// A tree in a directory of its own.
pub struct Tree {
    number: u32,
    /// How large it is: as [`acid_tree::files`] says.
    part: u32,
    /// Bytes moved at once.
    piece: usize,
}

impl Tree {
    /// That `part` of tree `number`, whose bytes are moved `piece` at a time.
    pub fn new(number: u32, part: u32, piece: usize) -> Tree {
        Tree {
            number,
            part,
            piece,
        }
    }

    fn files(&self) -> impl Iterator<Item = Planned> {
        acid_tree::files(self.number, self.part)
    }

    /// Writes it; answers how many bytes it has.
    pub fn write(&self) -> Result<u64, Fault> {
        let directory = acid_tree::directory(self.number);
        fs::create_dir(&directory).map_err(|errno| fault(&directory, errno))?;
        let mut total = 0;
        for Planned { path, seed, size } in self.files() {
            self.write_file(&path, seed, size)
                .map_err(|errno| fault(&path, errno))?;
            total += size;
        }
        Ok(total)
    }

    /// Writes it to a disk that may not take all of it: every file is made stable by itself. Says of each whether it is, and compares
    /// those in the end; answers how many bytes they have. The only error that there may be is `EIO`.
    pub fn insist(&self) -> Result<u64, Fault> {
        let directory = acid_tree::directory(self.number);
        fs::create_dir(&directory).map_err(|errno| fault(&directory, errno))?;
        let mut stable = Vec::new();
        for planned in self.files() {
            let Planned { path, seed, size } = &planned;
            let written = self.write_file(path, *seed, *size);
            match written.and_then(|file| file.sync_all()) {
                Ok(()) => {
                    aprint!("acid: stable {path}");
                    stable.push(planned);
                }
                Err(Errno::EIO) => aprint!("acid: told {path}"),
                Err(errno) => return Err(fault(path, errno)),
            }
        }
        for Planned { path, seed, size } in &stable {
            self.compare_file(path, *seed, *size)?;
        }
        Ok(stable.iter().map(|planned| planned.size).sum())
    }

    fn write_file(&self, path: &str, seed: u64, size: u64) -> Result<File, Errno> {
        let file = File::create(path)?;
        let mut bytes = vec![0; self.piece];
        let mut at = 0;
        while at < size {
            let count = (size - at).min(self.piece as u64) as usize;
            fill(seed, at, &mut bytes[..count]);
            put(&file, &bytes[..count])?;
            at += count as u64;
        }
        Ok(file)
    }

    /// Reads it and compares every byte; answers how many it has.
    pub fn compare(&self) -> Result<u64, Fault> {
        let mut total = 0;
        for Planned { path, seed, size } in self.files() {
            self.compare_file(&path, seed, size)?;
            total += size;
        }
        Ok(total)
    }

    fn compare_file(&self, path: &str, seed: u64, size: u64) -> Result<(), Fault> {
        let file = File::open(path).map_err(|errno| fault(path, errno))?;
        let (mut bytes, mut wanted) = (vec![0; self.piece], vec![0; self.piece]);
        let mut at = 0;
        loop {
            let count = file.read(&mut bytes).map_err(|errno| fault(path, errno))?;
            if count == 0 {
                break;
            }
            let past = at + count as u64;
            fill(seed, at, &mut wanted[..count]);
            if bytes[..count] != wanted[..count] {
                return Err((path.into(), format!("wrong bytes between {at} and {past}")));
            }
            at = past;
        }
        match at == size {
            true => Ok(()),
            false => Err((path.into(), format!("{at} bytes instead of {size}"))),
        }
    }

    /// Deletes it; answers how many bytes it had.
    pub fn delete(&self) -> Result<u64, Fault> {
        let mut total = 0;
        for Planned { path, size, .. } in self.files() {
            fs::remove_file(&path).map_err(|errno| fault(&path, errno))?;
            total += size;
        }
        let directory = acid_tree::directory(self.number);
        fs::remove_dir(&directory).map_err(|errno| fault(&directory, errno))?;
        Ok(total)
    }
}

fn put(file: &File, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let count = file.write(bytes)?;
        bytes = &bytes[count..];
    }
    Ok(())
}
