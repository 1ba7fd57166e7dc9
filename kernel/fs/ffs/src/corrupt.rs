//! Every way in which a disk can be wrong, and what a caller is told of it.
//!
//! The code that judges bytes answers [`Corrupt`]: what is wrong, where, and the value found. What
//! reaches the disk may also fail by itself; [`Fault`] is either. At the edge of the component a
//! fault becomes an [`Errno`] in one place, which also logs it with the name of the volume.

use core::fmt;

use rumpuser::Errno;
use rumpvfs::wapbl::{BadLog, LogError};

/// What is wrong with the disk, and where. Offsets are bytes of the volume unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrupt {
    /// None of the four places holds a superblock: some other format, or nothing at all.
    NoSuperblock,
    /// A superblock's field contradicts the others or is out of bounds.
    Superblock {
        /// Where the superblock lies.
        at: u64,
        /// The field, by its name in the source without `fs_`.
        field: &'static str,
        /// What it holds.
        value: i64,
    },
    /// Flags that say that the volume keeps something which this code does not know how to keep.
    Flags {
        /// The flags that are not known.
        unknown: u32,
    },
    /// The journal holds changes that cannot be replayed: a field of the superblock's says where it cannot be.
    Journal {
        /// The field, by its name in the source without `fs_journal_`.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// The journal holds changes that cannot be replayed: it is damaged.
    Log(BadLog),
    /// A cylinder group's field contradicts the superblock.
    Group {
        /// Which group.
        group: u32,
        /// The field, by its name in the source without `cg_`.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// An inode number beyond the last, or 0 or 1.
    InodeNumber {
        /// The number.
        ino: u64,
    },
    /// A name or a handle leads to an inode that is free.
    InodeFree {
        /// The inode.
        ino: u32,
    },
    /// An inode's field has a value that no file can have.
    Inode {
        /// The inode.
        ino: u32,
        /// The field, by its name in the source without `di_`.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A pointer to data leads outside the volume's data area.
    Pointer {
        /// The inode whose file it is.
        ino: u32,
        /// The logical block that it should find.
        block: u64,
        /// The address in fragments, as it is on the disk.
        address: i64,
    },
    /// A pointer to an indirect block leads outside the volume's data area.
    IndirectPointer {
        /// The inode whose file it is.
        ino: u32,
        /// The logical block on whose way it lies.
        block: u64,
        /// Levels of pointers from the indirect block to data: 1 to 3.
        level: u8,
        /// The address in fragments, as it is on the disk.
        address: i64,
    },
    /// A directory has no block where its size says that it has one.
    DirectoryHole {
        /// The directory.
        ino: u32,
        /// Where in the directory.
        offset: u64,
    },
    /// A directory entry is malformed.
    Entry {
        /// The directory.
        ino: u32,
        /// Where in the directory.
        offset: u64,
        /// In what way.
        fault: EntryFault,
    },
    /// A pointer to be freed leads to no place for data.
    FreedPlace {
        /// The address in fragments.
        address: u64,
    },
    /// A symbolic link that is empty or has a NUL in it.
    SymlinkText {
        /// The inode.
        ino: u32,
    },
}

/// How a directory entry can be malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryFault {
    /// Its length is not a multiple of four, or too small for its head.
    Length(u16),
    /// It reaches past the end of its 512-byte unit.
    CrossesUnit(u16),
    /// The name does not fit into the entry, or has more than 255 bytes, or none.
    NameLength(u16),
    /// The name holds a NUL or a slash.
    NameByte(u8),
    /// No NUL follows the name.
    Unterminated,
    /// It names an inode that the volume does not have.
    InodeNumber(u32),
}

/// Why something on the disk could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk holds nonsense.
    Corrupt(Corrupt),
    /// The device, or memory, failed us.
    Device {
        /// The byte of the volume that was wanted.
        at: u64,
        /// Why it cannot be had.
        errno: Errno,
    },
    /// Nothing is wrong with the disk: it is full, or what was asked for cannot be.
    Refused(Errno),
}

/// A fault and the volume on which it was met.
#[derive(Clone, Copy, Debug)]
pub struct Met<'a> {
    fault: Fault,
    volume: &'a str,
}

impl Fault {
    /// This fault, met on `volume`: the form that becomes an [`Errno`].
    pub fn on(self, volume: &str) -> Met<'_> {
        Met {
            fault: self,
            volume,
        }
    }

    /// Whether it was for want of memory, which there may be another time.
    pub(crate) fn is_of_memory(&self) -> bool {
        let (Fault::Refused(errno) | Fault::Device { errno, .. }) = self else {
            return false;
        };
        *errno == Errno::ENOMEM
    }
}

impl Corrupt {
    /// The error number that a caller sees.
    ///
    /// NetBSD answers EINVAL for a superblock that does not pass, EPERM for a journal that it cannot
    /// replay for lack of code, EFTYPE for one that is damaged, ENOENT for an inode that is no file, and EIO for anything else.
    pub fn errno(self) -> Errno {
        match self {
            Corrupt::NoSuperblock | Corrupt::Superblock { .. } | Corrupt::Flags { .. } => {
                Errno::EINVAL
            }
            Corrupt::Journal { .. } | Corrupt::Log(_) => Errno::EFTYPE,
            Corrupt::InodeNumber { .. } | Corrupt::InodeFree { .. } => Errno::ENOENT,
            _ => Errno::EIO,
        }
    }
}

impl From<Corrupt> for Fault {
    fn from(corrupt: Corrupt) -> Fault {
        Fault::Corrupt(corrupt)
    }
}

impl Fault {
    /// Why a log, which lies at byte `at`, cannot be used.
    pub fn of_log(at: u64, error: LogError) -> Fault {
        match error {
            LogError::Bad(bad) => Corrupt::Log(bad).into(),
            LogError::Device(errno) => Fault::Device { at, errno },
        }
    }
}

impl From<Met<'_>> for Errno {
    fn from(met: Met<'_>) -> Errno {
        match met.fault {
            // Probing looks at every disk; that one is of another kind is no news.
            Fault::Corrupt(Corrupt::NoSuperblock) => {
                log::debug!("ffs: {}: {}", met.volume, Corrupt::NoSuperblock);
                Errno::EINVAL
            }
            Fault::Corrupt(corrupt) => {
                log::error!("ffs: {}: {corrupt}", met.volume);
                corrupt.errno()
            }
            Fault::Refused(errno) => errno,
            // The page daemon may not wait, and comes again.
            Fault::Device {
                errno: Errno::EDEADLK,
                ..
            } => Errno::EDEADLK,
            Fault::Device {
                at,
                errno: Errno::EINVAL,
            } => {
                log::error!(
                    "ffs: {}: byte {at} is behind the end of the device",
                    met.volume
                );
                Errno::EIO
            }
            Fault::Device { at, errno } => {
                log::error!("ffs: {}: byte {at}: {errno}", met.volume);
                errno
            }
        }
    }
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Corrupt::NoSuperblock => write!(f, "no superblock"),
            Corrupt::Superblock { at, field, value } => {
                write!(f, "superblock at byte {at}: {field} is {value}")
            }
            Corrupt::Flags { unknown } => {
                write!(f, "superblock: flags {unknown:#x} are not supported")
            }
            Corrupt::Journal { field, value } => write!(
                f,
                "the journal (WAPBL) cannot be replayed: superblock: journal {field} is {value:#x}; \
                 only a forced read-only mount ignores it"
            ),
            Corrupt::Log(bad) => write!(
                f,
                "the journal (WAPBL) cannot be replayed: {bad}; only a forced read-only mount ignores it"
            ),
            Corrupt::Group {
                group,
                field,
                value,
            } => write!(f, "cylinder group {group}: {field} is {value:#x}"),
            Corrupt::FreedPlace { address } => {
                write!(f, "fragment {address} is freed, but is no place for data")
            }
            Corrupt::InodeNumber { ino } => write!(f, "there is no inode {ino}"),
            Corrupt::InodeFree { ino } => write!(f, "inode {ino} is free, but has a name"),
            Corrupt::Inode { ino, field, value } => {
                write!(f, "inode {ino}: {field} is {value:#x}")
            }
            Corrupt::Pointer {
                ino,
                block,
                address,
            } => write!(
                f,
                "inode {ino}: block {block} is at fragment {address}, which is no data"
            ),
            Corrupt::IndirectPointer {
                ino,
                block,
                level,
                address,
            } => write!(
                f,
                "inode {ino}: indirect block of level {level} for block {block} \
                 is at fragment {address}, which is no data"
            ),
            Corrupt::DirectoryHole { ino, offset } => {
                write!(f, "directory {ino}: nothing at offset {offset}")
            }
            Corrupt::Entry { ino, offset, fault } => {
                write!(f, "directory {ino}: entry at offset {offset}: {fault}")
            }
            Corrupt::SymlinkText { ino } => {
                write!(f, "symbolic link {ino}: empty, or has a NUL in it")
            }
        }
    }
}

impl fmt::Display for EntryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryFault::Length(length) => write!(f, "length is {length}"),
            EntryFault::CrossesUnit(length) => {
                write!(f, "length {length} crosses the end of the unit")
            }
            EntryFault::NameLength(length) => write!(f, "name length is {length}"),
            EntryFault::NameByte(byte) => write!(f, "name holds byte {byte:#04x}"),
            EntryFault::Unterminated => write!(f, "no NUL after the name"),
            EntryFault::InodeNumber(ino) => write!(f, "there is no inode {ino}"),
        }
    }
}
