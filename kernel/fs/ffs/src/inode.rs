//! Inodes: what the disk says of a file, judged.
//!
//! Pointers are kept as they are on the disk and judged where they are followed
//! ([`crate::bmap`]): a file with one bad pointer can still be read up to it.
//!
//! Source: NetBSD sys/ufs/ufs/dinode.h; sys/ufs/ffs/ffs_vfsops.c (`ffs_loadvnode`).

pub mod encode;

use rumpuser::WallTime;
use rumpvfs::vnode::VnodeType;
use zerocopy::byteorder::ByteOrder;
use zerocopy::{BE, FromBytes, LE};

use crate::cg;
use crate::corrupt::{Corrupt, Fault};
use crate::disk::{Metadata, read_in_block};
use crate::order::Order;
use crate::raw::{self, RawInode1, RawInode2, UFS_NDADDR, UFS_NIADDR};
use crate::superblock::{Format, Superblock};

/// Longest target of a symbolic link (NetBSD sys/syslimits.h, PATH_MAX, without its NUL).
pub const MAX_SYMLINK: u64 = 1023;
/// Largest directory in bytes (NetBSD sys/ufs/ufs/dir.h, UFS_MAXDIRSIZE).
pub(crate) const MAX_DIRECTORY: u64 = 0x7fff_ffff;

/// A file, as its inode describes it.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Its number.
    pub ino: u32,
    /// Its type.
    pub vtype: VnodeType,
    /// Permission bits, with set-ID and sticky.
    pub permissions: u16,
    /// Names it has.
    pub nlink: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// What it holds of the disk, in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: WallTime,
    /// Last change of the contents.
    pub mtime: WallTime,
    /// Last change of the inode.
    pub ctime: WallTime,
    /// Creation; UFS1 does not keep it.
    pub birthtime: Option<WallTime>,
    /// Changes when the number goes to another file.
    pub generation: u32,
    /// File flags (chflags(2)).
    pub flags: u32,
    /// What its pointers hold.
    pub contents: Contents,
}

/// What the pointers of an inode hold.
#[derive(Clone, Debug)]
pub enum Contents {
    /// Addresses of blocks, in fragments; 0 is a hole.
    Blocks {
        /// Of the first twelve blocks.
        direct: [i64; UFS_NDADDR],
        /// Of the indirect blocks: single, double, triple.
        indirect: [i64; UFS_NIADDR],
    },
    /// The text of a short symbolic link.
    Text {
        /// The pointer area.
        bytes: [u8; 120],
        /// Bytes of it that count.
        len: u8,
    },
    /// The number of a device.
    Device(u64),
    /// Nothing: FIFOs and sockets.
    Nothing,
}

/// The fields that both formats have, in the machine's byte order.
struct Fields<'a> {
    mode: u16,
    nlink: i16,
    uid: u32,
    gid: u32,
    size: u64,
    blocks: u64,
    atime: (i64, i32),
    mtime: (i64, i32),
    ctime: (i64, i32),
    birthtime: Option<(i64, i32)>,
    generation: u32,
    flags: u32,
    pointers: &'a [u8],
}

impl Inode {
    /// Reads inode `ino`.
    pub fn load(sb: &Superblock, disk: &dyn Metadata, ino: u32) -> Result<Inode, Fault> {
        let place = sb.inode_place(ino)?;
        if sb.format.is_ufs2() {
            let head = cg::Head::load(sb, disk, ino / sb.ipg)?;
            // What lies there has never been written.
            if ino % sb.ipg >= head.initialised_inodes {
                return Err(Corrupt::InodeFree { ino }.into());
            }
        }
        let decoded = read_in_block(disk, sb.byte_of(place.block), place.byte, |bytes| {
            Inode::decode(sb, ino, bytes)
        })?;
        Ok(decoded?)
    }

    /// Judges the inode at the start of `bytes`.
    pub fn decode(sb: &Superblock, ino: u32, bytes: &[u8]) -> Result<Inode, Corrupt> {
        match (sb.format, sb.order) {
            (Format::Ufs1, Order::Little) => ufs1::<LE>(sb, ino, bytes),
            (Format::Ufs1, Order::Big) => ufs1::<BE>(sb, ino, bytes),
            (_, Order::Little) => ufs2::<LE>(sb, ino, bytes),
            (_, Order::Big) => ufs2::<BE>(sb, ino, bytes),
        }
    }

    /// Its mode: type and permissions.
    pub fn mode(&self) -> u16 {
        self.vtype.mode_bits() | self.permissions
    }
}

/// A structure cut short can only be our mistake in reading it, or a device's: no inode at all.
fn too_short(ino: u32) -> Corrupt {
    Corrupt::InodeNumber {
        ino: u64::from(ino),
    }
}

fn ufs1<O: ByteOrder>(sb: &Superblock, ino: u32, bytes: &[u8]) -> Result<Inode, Corrupt> {
    let (raw, _) = RawInode1::<O>::ref_from_prefix(bytes).map_err(|_| too_short(ino))?;
    let (uid, gid) = match sb.old_inodes {
        true => (
            u32::from(raw.oldids[0].get()),
            u32::from(raw.oldids[1].get()),
        ),
        false => (raw.uid.get(), raw.gid.get()),
    };
    let fields = Fields {
        mode: raw.mode.get(),
        nlink: raw.nlink.get(),
        uid,
        gid,
        size: raw.size.get(),
        blocks: u64::from(raw.blocks.get()),
        atime: (i64::from(raw.atime.get()), raw.atimensec.get()),
        mtime: (i64::from(raw.mtime.get()), raw.mtimensec.get()),
        ctime: (i64::from(raw.ctime.get()), raw.ctimensec.get()),
        birthtime: None,
        generation: raw.r#gen.get() as u32,
        flags: raw.flags.get(),
        pointers: &raw.pointers,
    };
    fields.judge(sb, ino)
}

fn ufs2<O: ByteOrder>(sb: &Superblock, ino: u32, bytes: &[u8]) -> Result<Inode, Corrupt> {
    let (raw, _) = RawInode2::<O>::ref_from_prefix(bytes).map_err(|_| too_short(ino))?;
    let fields = Fields {
        mode: raw.mode.get(),
        nlink: raw.nlink.get(),
        uid: raw.uid.get(),
        gid: raw.gid.get(),
        size: raw.size.get(),
        blocks: raw.blocks.get(),
        atime: (raw.atime.get(), raw.atimensec.get()),
        mtime: (raw.mtime.get(), raw.mtimensec.get()),
        ctime: (raw.ctime.get(), raw.ctimensec.get()),
        birthtime: Some((raw.birthtime.get(), raw.birthnsec.get())),
        generation: raw.r#gen.get() as u32,
        flags: raw.flags.get(),
        pointers: &raw.pointers,
    };
    fields.judge(sb, ino)
}

impl Fields<'_> {
    fn judge(&self, sb: &Superblock, ino: u32) -> Result<Inode, Corrupt> {
        if self.mode == 0 {
            return Err(Corrupt::InodeFree { ino });
        }
        let wrong = |field, value| Corrupt::Inode { ino, field, value };
        let vtype =
            VnodeType::from_mode(self.mode).ok_or_else(|| wrong("mode", u64::from(self.mode)))?;
        let nlink =
            u16::try_from(self.nlink).map_err(|_| wrong("nlink", self.nlink as u16 as u64))?;
        if !self.is_size_possible(sb, vtype) {
            return Err(wrong("size", self.size));
        }
        Ok(Inode {
            ino,
            vtype,
            permissions: self.mode & !raw::IFMT,
            nlink,
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            blocks: self.blocks,
            atime: time(self.atime),
            mtime: time(self.mtime),
            ctime: time(self.ctime),
            birthtime: self.birthtime.map(time),
            generation: self.generation,
            flags: self.flags,
            contents: self.contents(sb, vtype),
        })
    }

    /// Whether the size suits the type. A directory has no holes, so the volume's size bounds the
    /// work that it can cause; the size of anything but files, directories and links is no matter.
    fn is_size_possible(&self, sb: &Superblock, vtype: VnodeType) -> bool {
        match vtype {
            VnodeType::Reg => self.size <= sb.maxfilesize,
            VnodeType::Dir => {
                self.size.is_multiple_of(raw::DIRBLKSIZ as u64)
                    && self.size <= MAX_DIRECTORY
                    && self.size <= sb.size_bytes()
            }
            VnodeType::Lnk => (1..=MAX_SYMLINK).contains(&self.size),
            _ => true,
        }
    }

    fn contents(&self, sb: &Superblock, vtype: VnodeType) -> Contents {
        let width = sb.format.pointer_size();
        let mut pointers = self
            .pointers
            .chunks_exact(width)
            .map(|bytes| pointer(sb.order, bytes));
        let mut next = || pointers.next().unwrap_or(0);
        match vtype {
            VnodeType::Fifo | VnodeType::Sock => Contents::Nothing,
            // UFS1 has 32 bits for it, without a sign.
            VnodeType::Blk | VnodeType::Chr if width == 4 => {
                Contents::Device(u64::from(next() as u32))
            }
            VnodeType::Blk | VnodeType::Chr => Contents::Device(next() as u64),
            VnodeType::Lnk if self.is_short_link(sb) => {
                let mut bytes = [0; 120];
                let len = (self.size as usize).min(self.pointers.len());
                bytes[..len].copy_from_slice(&self.pointers[..len]);
                Contents::Text {
                    bytes,
                    len: len as u8,
                }
            }
            VnodeType::Lnk | VnodeType::Reg | VnodeType::Dir => Contents::Blocks {
                direct: core::array::from_fn(|_| next()),
                indirect: core::array::from_fn(|_| next()),
            },
        }
    }

    /// Volumes too old to say how long a short link may be have one where there are no blocks.
    fn is_short_link(&self, sb: &Superblock) -> bool {
        match sb.maxsymlinklen {
            0 => self.blocks == 0 && self.size <= self.pointers.len() as u64,
            max => self.size < u64::from(max),
        }
    }
}

/// The pointer in `bytes`, which are 4 (UFS1) or 8 (UFS2).
pub fn pointer(order: Order, bytes: &[u8]) -> i64 {
    if let Ok(bytes) = <[u8; 8]>::try_from(bytes) {
        return order.u64(bytes) as i64;
    }
    match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => i64::from(order.u32(bytes) as i32),
        Err(_) => 0,
    }
}

/// A time; nanoseconds that are none count as 0, as no reader depends on them.
fn time((seconds, nanos): (i64, i32)) -> WallTime {
    let nanos = u32::try_from(nanos).unwrap_or(0);
    WallTime {
        seconds,
        nanos: if nanos < 1_000_000_000 { nanos } else { 0 },
    }
}

#[cfg(test)]
mod tests;
