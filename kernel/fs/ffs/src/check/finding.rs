//! What a check can find.

use core::fmt;

use crate::corrupt::Corrupt;

/// One thing that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Something that a mounted volume would answer an error for.
    Corrupt(Corrupt),
    /// A free inode has a size or pointers.
    PartlyAllocated {
        /// The inode.
        ino: u32,
    },
    /// A pointer behind the end of the file is not 0.
    BeyondEnd {
        /// The inode.
        ino: u32,
        /// The logical block that it would find.
        block: u64,
        /// The address.
        address: i64,
    },
    /// A fragment has two owners.
    Duplicate {
        /// The fragment.
        fragment: u64,
        /// Who came first; 0 if it is metadata.
        first: u32,
        /// Who came then.
        second: u32,
    },
    /// An inode counts other blocks than it has, in units of 512 bytes.
    Blocks {
        /// The inode.
        ino: u32,
        /// What it says.
        says: u64,
        /// What it has.
        has: u64,
    },
    /// The root is no directory.
    Root,
    /// A directory's first entry is not `.`, or leads elsewhere.
    Dot {
        /// The directory.
        ino: u32,
    },
    /// A directory's second entry is not `..`, or leads elsewhere than to where its name lies.
    DotDot {
        /// The directory.
        ino: u32,
        /// Where it leads; 0 if there is no such entry.
        says: u32,
        /// The directory in which its name lies; 0 if there is none.
        parent: u32,
    },
    /// A name leads to a free or broken inode.
    NameOfNothing {
        /// The directory.
        ino: u32,
        /// Where in it.
        offset: u64,
        /// The inode.
        target: u32,
    },
    /// A name says another type than the inode.
    NameType {
        /// The directory.
        ino: u32,
        /// Where in it.
        offset: u64,
        /// The inode.
        target: u32,
    },
    /// A directory has a second name.
    SecondName {
        /// The directory in which it lies.
        ino: u32,
        /// Where in it.
        offset: u64,
        /// The directory that has it.
        target: u32,
    },
    /// A directory is not reached from the root.
    Unreached {
        /// The directory.
        ino: u32,
    },
    /// A file has no name.
    Nameless {
        /// The inode.
        ino: u32,
    },
    /// A file has more or fewer names than it says.
    Links {
        /// The inode.
        ino: u32,
        /// What it says.
        says: u32,
        /// What there is.
        has: u32,
    },
    /// A number of a group, of the summary area, of the superblock or of a backup is wrong.
    Number {
        /// Whose.
        topic: Topic,
        /// The field, by its name in the source.
        field: &'static str,
        /// What it holds.
        says: i64,
        /// What it should hold.
        right: i64,
    },
    /// A group's map of inodes, fragments or clusters differs from what there is.
    Map {
        /// The group.
        group: u32,
        /// The map.
        map: &'static str,
        /// The first bit that differs.
        first: u32,
        /// How many differ.
        count: u32,
    },
}

/// Whose number is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The primary superblock.
    Superblock,
    /// The copy of the superblock in a group.
    Backup(u32),
    /// A group.
    Group(u32),
    /// The summary area's entry of a group.
    Summary(u32),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topic::Superblock => write!(f, "superblock"),
            Topic::Backup(group) => write!(f, "superblock's copy in group {group}"),
            Topic::Group(group) => write!(f, "group {group}"),
            Topic::Summary(group) => write!(f, "summary of group {group}"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Finding::Corrupt(corrupt) => write!(f, "{corrupt}"),
            Finding::PartlyAllocated { ino } => {
                write!(f, "inode {ino} is free, but has a size or blocks")
            }
            Finding::BeyondEnd {
                ino,
                block,
                address,
            } => write!(
                f,
                "inode {ino}: block {block} is behind the end, but has address {address}"
            ),
            Finding::Duplicate {
                fragment,
                first,
                second,
            } => write!(
                f,
                "fragment {fragment} belongs to inode {first} and to inode {second}"
            ),
            Finding::Blocks { ino, says, has } => {
                write!(f, "inode {ino} counts {says} sectors, and has {has}")
            }
            Finding::Root => write!(f, "the root is no directory"),
            Finding::Dot { ino } => write!(f, "directory {ino}: . is missing or wrong"),
            Finding::DotDot { ino, says, parent } => write!(
                f,
                "directory {ino}: .. leads to {says}, its name lies in {parent}"
            ),
            Finding::NameOfNothing {
                ino,
                offset,
                target,
            } => write!(
                f,
                "directory {ino}: the name at offset {offset} leads to inode {target}, which is no file"
            ),
            Finding::NameType {
                ino,
                offset,
                target,
            } => write!(
                f,
                "directory {ino}: the name at offset {offset} has another type than inode {target}"
            ),
            Finding::SecondName {
                ino,
                offset,
                target,
            } => write!(
                f,
                "directory {ino}: the name at offset {offset} is a second one of directory {target}"
            ),
            Finding::Unreached { ino } => {
                write!(f, "directory {ino} is not reached from the root")
            }
            Finding::Nameless { ino } => write!(f, "inode {ino} has no name"),
            Finding::Links { ino, says, has } => {
                write!(f, "inode {ino} counts {says} links, and has {has}")
            }
            Finding::Number {
                topic,
                field,
                says,
                right,
            } => write!(f, "{topic}: {field} is {says}, should be {right}"),
            Finding::Map {
                group,
                map,
                first,
                count,
            } => write!(
                f,
                "group {group}: {count} bits of the map of {map} are wrong, the first at {first}"
            ),
        }
    }
}
