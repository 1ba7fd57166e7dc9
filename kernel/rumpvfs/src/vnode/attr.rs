//! What a file is: its type and its attributes.

use rumpuser::WallTime;

/// The number by which a file system knows one of its files (`ino_t`). Unique within a mount while
/// the file lives; the key of the vnode cache.
pub type InodeNumber = u64;

/// The type of a file (NetBSD `sys/vnode.h`, `enum vtype`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VnodeType {
    /// Regular file.
    Reg,
    /// Directory.
    Dir,
    /// Block device.
    Blk,
    /// Character device.
    Chr,
    /// Symbolic link.
    Lnk,
    /// Socket.
    Sock,
    /// FIFO.
    Fifo,
}

/// The type bits of a mode (`S_IFMT`, NetBSD `sys/stat.h`).
pub const S_IFMT: u16 = 0o170_000;
/// Set-user-ID on execution.
pub const S_ISUID: u16 = 0o4000;
/// Set-group-ID on execution.
pub const S_ISGID: u16 = 0o2000;
/// Sticky: in a directory, only a file's owner may remove or rename it.
pub const S_ISVTX: u16 = 0o1000;

impl VnodeType {
    /// The type that the `S_IFMT` bits of `mode` name, if they name one (whiteouts do not).
    pub const fn from_mode(mode: u16) -> Option<VnodeType> {
        match mode & S_IFMT {
            0o010_000 => Some(VnodeType::Fifo),
            0o020_000 => Some(VnodeType::Chr),
            0o040_000 => Some(VnodeType::Dir),
            0o060_000 => Some(VnodeType::Blk),
            0o100_000 => Some(VnodeType::Reg),
            0o120_000 => Some(VnodeType::Lnk),
            0o140_000 => Some(VnodeType::Sock),
            _ => None,
        }
    }

    /// The `S_IFMT` bits.
    pub const fn mode_bits(self) -> u16 {
        match self {
            VnodeType::Fifo => 0o010_000,
            VnodeType::Chr => 0o020_000,
            VnodeType::Dir => 0o040_000,
            VnodeType::Blk => 0o060_000,
            VnodeType::Reg => 0o100_000,
            VnodeType::Lnk => 0o120_000,
            VnodeType::Sock => 0o140_000,
        }
    }

    /// The type's number in directory entries (`DT_*`, NetBSD `sys/dirent.h`): the mode bits
    /// shifted right by 12.
    pub const fn dirent_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }

    /// The type that a `DT_*` number names; `None` for unknown and whiteout.
    pub const fn from_dirent_type(number: u8) -> Option<VnodeType> {
        if number > 15 {
            return None;
        }
        VnodeType::from_mode((number as u16) << 12)
    }
}

/// A file's attributes (NetBSD `sys/vnode.h`, `struct vattr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vattr {
    /// Type.
    pub vtype: VnodeType,
    /// Permission bits, with set-ID and sticky; without the type.
    pub mode: u16,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The file's number within its file system.
    pub fileid: InodeNumber,
    /// Bytes.
    pub size: u64,
    /// The size that I/O likes best, in bytes: the file system's block.
    pub blocksize: u32,
    /// Last access.
    pub atime: WallTime,
    /// Last change of the contents.
    pub mtime: WallTime,
    /// Last change of the attributes.
    pub ctime: WallTime,
    /// Creation; zero where the file system does not keep it.
    pub birthtime: WallTime,
    /// Generation: changes when the number is used again for another file.
    pub generation: u64,
    /// File flags (`chflags(2)`: `UF_*`, `SF_*`).
    pub flags: u32,
    /// For device nodes: which device.
    pub rdev: u64,
    /// Bytes of disk that the file holds.
    pub bytes: u64,
}

/// The owner may change neither the file nor its name (`UF_IMMUTABLE`).
pub const UF_IMMUTABLE: u32 = 0x2;
/// Writes may only append (`UF_APPEND`).
pub const UF_APPEND: u32 = 0x4;
/// As [`UF_IMMUTABLE`], set by the super-user (`SF_IMMUTABLE`).
pub const SF_IMMUTABLE: u32 = 0x2_0000;
/// As [`UF_APPEND`], set by the super-user (`SF_APPEND`).
pub const SF_APPEND: u32 = 0x4_0000;

/// A change of attributes: what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length: cuts off, or extends with a hole.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<WallTime>,
    /// Last change of the contents.
    pub mtime: Option<WallTime>,
    /// Creation.
    pub birthtime: Option<WallTime>,
    /// File flags.
    pub flags: Option<u32>,
}

/// What a new file is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// Type.
    pub vtype: VnodeType,
    /// Permission bits, the creation mask already applied.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// For device nodes: which device.
    pub rdev: u64,
}
