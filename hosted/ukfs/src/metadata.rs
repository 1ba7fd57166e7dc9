//! What is known of a file.

use rump::sys::Stat;
use rumpuser::WallTime;
use std::time::{Duration, SystemTime};

/// What a file is.
pub use rump::fs::FileType;

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub struct Metadata(Stat);

impl Metadata {
    pub(crate) fn new(stat: Stat) -> Metadata {
        Metadata(stat)
    }

    /// What it is.
    pub fn file_type(&self) -> FileType {
        self.0.attr.vtype
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Dir
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type() == FileType::Reg
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.file_type() == FileType::Lnk
    }

    /// Type and permissions, as `st_mode`.
    pub fn mode(&self) -> u32 {
        u32::from(self.0.attr.vtype.mode_bits() | self.0.attr.mode)
    }

    /// Its names.
    pub fn nlink(&self) -> u32 {
        self.0.attr.nlink
    }

    /// Its owner.
    pub fn uid(&self) -> u32 {
        self.0.attr.uid
    }

    /// Its group.
    pub fn gid(&self) -> u32 {
        self.0.attr.gid
    }

    /// Its inode number.
    pub fn ino(&self) -> u64 {
        self.0.attr.fileid
    }

    /// Its size in bytes.
    #[allow(clippy::len_without_is_empty, reason = "as the standard library's")]
    pub fn len(&self) -> u64 {
        self.0.attr.size
    }

    /// Bytes of the image that it holds.
    pub fn allocated(&self) -> u64 {
        self.0.attr.bytes
    }

    /// The file system's block.
    pub fn blksize(&self) -> u32 {
        self.0.attr.blocksize
    }

    /// Which device a device node stands for.
    pub fn rdev(&self) -> u64 {
        self.0.attr.rdev
    }

    /// File flags, as chflags(2) has them.
    pub fn flags(&self) -> u32 {
        self.0.attr.flags
    }

    /// When its contents last changed, in seconds and nanoseconds.
    pub fn mtime(&self) -> WallTime {
        self.0.attr.mtime
    }

    /// When it was last read, in seconds and nanoseconds.
    pub fn atime(&self) -> WallTime {
        self.0.attr.atime
    }

    /// When its attributes last changed, in seconds and nanoseconds.
    pub fn ctime(&self) -> WallTime {
        self.0.attr.ctime
    }

    /// When its contents last changed; `None` for a time that the host cannot express.
    pub fn modified(&self) -> Option<SystemTime> {
        system_time(self.0.attr.mtime)
    }

    /// When it was last read; `None` for a time that the host cannot express.
    pub fn accessed(&self) -> Option<SystemTime> {
        system_time(self.0.attr.atime)
    }
}

fn system_time(time: WallTime) -> Option<SystemTime> {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let at = match time.seconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(whole),
        _ => SystemTime::UNIX_EPOCH.checked_sub(whole),
    };
    at?.checked_add(Duration::from_nanos(time.nanos.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_before_1970() {
        let time = WallTime {
            seconds: -2,
            nanos: 500_000_000,
        };
        let before = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
        assert_eq!(system_time(time), Some(before));
    }
}
