//! What lies on the disk, byte for byte: every FFS structure with the source's field names.
//!
//! A volume has one byte order, that of the machine which made it; here it is the type parameter
//! `O` ([`zerocopy::LE`] or [`zerocopy::BE`]). Nothing here has an opinion on what the bytes mean:
//! [`crate::superblock`], [`crate::inode`], [`crate::cg`] and [`crate::dir`] judge them.
//!
//! Sources: NetBSD sys/ufs/ffs/fs.h (1.73), sys/ufs/ufs/dinode.h, sys/ufs/ufs/dir.h.

use zerocopy::byteorder::{ByteOrder, I16, I32, I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, LE, Unaligned};

/// A sector as addresses in sectors count it, whatever the device has (DEV_BSIZE).
pub const DEV_BSIZE: u32 = 512;
/// Bytes at the start of the volume that are the boot loader's (BBSIZE).
pub const BBSIZE: u64 = 8192;
/// Bytes that a superblock may take (SBLOCKSIZE).
pub const SBLOCKSIZE: usize = 8192;
/// Where superblocks are searched, in this order (SBLOCKSEARCH).
pub const SBLOCKSEARCH: [u64; 4] = [SBLOCK_UFS2, SBLOCK_UFS1, SBLOCK_FLOPPY, SBLOCK_PIGGY];
/// Where newfs puts the superblock of a UFS2 volume.
pub const SBLOCK_UFS2: u64 = 65536;
/// Where newfs puts the superblock of a UFS1 volume.
pub const SBLOCK_UFS1: u64 = 8192;
/// Superblock of a volume without a boot area.
pub const SBLOCK_FLOPPY: u64 = 0;
/// Superblock behind a large boot area.
pub const SBLOCK_PIGGY: u64 = 262_144;

/// `fs_magic` of UFS1.
pub const FS_UFS1_MAGIC: u32 = 0x0001_1954;
/// `fs_magic` of UFS2.
pub const FS_UFS2_MAGIC: u32 = 0x1954_0119;
/// `fs_magic` of UFS2 whose inodes have extended attributes (NetBSD 10 on).
pub const FS_UFS2EA_MAGIC: u32 = 0x1901_2038;
/// `cg_magic`.
pub const CG_MAGIC: u32 = 0x0009_0255;

/// `fs_inodefmt` of 4.2BSD: 16-bit owners, directory entries without a type.
pub const FS_42INODEFMT: i32 = -1;
/// `fs_inodefmt` of 4.4BSD.
pub const FS_44INODEFMT: i32 = 2;
/// `fs_old_postblformat` of 4.2BSD: a cylinder group with tables of fixed size.
pub const FS_42POSTBLFMT: i32 = -1;
/// `fs_old_postblformat`: the group says where its tables are.
pub const FS_DYNAMICPOSTBLFMT: i32 = 1;
/// Bit of `fs_old_flags`: flags, times and sizes are in the fields of 2003.
pub const FS_FLAGS_UPDATED: u8 = 0x80;

/// `fs_clean`: unmounted properly.
pub const FS_ISCLEAN: u8 = 1;
/// `fs_clean`: mounted for writing, and clean before that.
pub const FS_WASCLEAN: u8 = 2;

/// Inode number of a whiteout's entry.
pub const UFS_WINO: u32 = 1;
/// Inode number of the root directory.
pub const UFS_ROOTINO: u32 = 2;
/// Direct pointers of an inode.
pub const UFS_NDADDR: usize = 12;
/// Indirect pointers of an inode: single, double, triple.
pub const UFS_NIADDR: usize = 3;

/// Longest name of a directory entry.
pub const FFS_MAXNAMLEN: usize = 255;
/// Unit of a directory: entries never cross it, it is written as a whole (UFS_DIRBLKSIZ).
pub const DIRBLKSIZ: usize = 512;
/// `d_type` of a whiteout.
pub const DT_WHT: u8 = 14;

/// Mask of the type in `di_mode`.
pub const IFMT: u16 = 0o170_000;
/// `di_mode`: FIFO.
pub const IFIFO: u16 = 0o010_000;
/// `di_mode`: character device.
pub const IFCHR: u16 = 0o020_000;
/// `di_mode`: directory.
pub const IFDIR: u16 = 0o040_000;
/// `di_mode`: block device.
pub const IFBLK: u16 = 0o060_000;
/// `di_mode`: regular file.
pub const IFREG: u16 = 0o100_000;
/// `di_mode`: symbolic link.
pub const IFLNK: u16 = 0o120_000;
/// `di_mode`: socket.
pub const IFSOCK: u16 = 0o140_000;
/// `di_mode`: whiteout.
pub const IFWHT: u16 = 0o160_000;

/// File flag of the inode that holds the journal.
pub const SF_LOG: u32 = 0x0040_0000;

/// Byte of the superblock where the magic lies.
pub const MAGIC_OFFSET: usize = 1372;
/// Byte of a cylinder group where its maps start (`cg_space`).
pub const CG_MAPS_OFFSET: usize = 168;
/// Byte of a 4.2BSD cylinder group where its magic lies (`struct ocg`).
pub const OLD_CG_MAGIC_OFFSET: usize = 980;
/// Byte of a 4.2BSD cylinder group where its inode map lies.
pub const OLD_CG_IUSED_OFFSET: usize = 724;
/// Byte of a 4.2BSD cylinder group where its map of free fragments starts.
pub const OLD_CG_FREE_OFFSET: usize = 984;
/// Bytes that CGSIZE counts for the group's header: the C structure with its padding.
pub const CG_HEADER_COUNTED: usize = 176;

/// Counters of a cylinder group, as in the summary area (`struct csum`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the source's field names")]
pub struct RawCsum<O: ByteOrder> {
    pub ndir: I32<O>,
    pub nbfree: I32<O>,
    pub nifree: I32<O>,
    pub nffree: I32<O>,
}

/// Counters of the whole volume (`struct csum_total`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the source's field names")]
pub struct RawCsumTotal<O: ByteOrder> {
    pub ndir: I64<O>,
    pub nbfree: I64<O>,
    pub nifree: I64<O>,
    pub nffree: I64<O>,
    pub spare: [I64<O>; 4],
}

/// The journal's part of the superblock (`fs_journal_*`). It is in the byte order `J` of the machine
/// that wrote the log, which need not be the volume's.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the source's field names")]
pub struct RawJournal<J: ByteOrder> {
    pub version: u8,
    pub location: u8,
    pub reserved: [u8; 2],
    pub flags: U32<J>,
    pub locs: [U64<J>; 4],
}

/// The superblock (`struct fs`).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the source's field names")]
pub struct RawSuperblock<O: ByteOrder> {
    pub firstfield: I32<O>,
    pub unused_1: I32<O>,
    pub sblkno: I32<O>,
    pub cblkno: I32<O>,
    pub iblkno: I32<O>,
    pub dblkno: I32<O>,
    pub old_cgoffset: I32<O>,
    pub old_cgmask: I32<O>,
    pub old_time: I32<O>,
    pub old_size: I32<O>,
    pub old_dsize: I32<O>,
    pub ncg: U32<O>,
    pub bsize: I32<O>,
    pub fsize: I32<O>,
    pub frag: I32<O>,
    pub minfree: I32<O>,
    pub old_rotdelay: I32<O>,
    pub old_rps: I32<O>,
    pub bmask: I32<O>,
    pub fmask: I32<O>,
    pub bshift: I32<O>,
    pub fshift: I32<O>,
    pub maxcontig: I32<O>,
    pub maxbpg: I32<O>,
    pub fragshift: I32<O>,
    pub fsbtodb: I32<O>,
    pub sbsize: I32<O>,
    pub spare1: [I32<O>; 2],
    pub nindir: I32<O>,
    pub inopb: U32<O>,
    pub old_nspf: I32<O>,
    pub optim: I32<O>,
    pub old_npsect: I32<O>,
    pub old_interleave: I32<O>,
    pub old_trackskew: I32<O>,
    pub id: [I32<O>; 2],
    pub old_csaddr: I32<O>,
    pub cssize: I32<O>,
    pub cgsize: I32<O>,
    pub spare2: I32<O>,
    pub old_nsect: I32<O>,
    pub old_spc: I32<O>,
    pub old_ncyl: I32<O>,
    pub old_cpg: I32<O>,
    pub ipg: U32<O>,
    pub fpg: I32<O>,
    pub old_cstotal: RawCsum<O>,
    pub fmod: i8,
    pub clean: u8,
    pub ronly: i8,
    pub old_flags: u8,
    pub fsmnt: [u8; 468],
    pub volname: [u8; 32],
    pub swuid: U64<O>,
    pub pad: I32<O>,
    pub cgrotor: I32<O>,
    pub in_core: [u8; 128],
    pub old_cpc: I32<O>,
    pub maxbsize: I32<O>,
    pub journal: [u8; 40],
    pub quota_magic: U32<O>,
    pub quota_flags: u8,
    pub quota_reserved: [u8; 3],
    pub quotafile: [U64<O>; 2],
    pub sparecon64: [I64<O>; 9],
    pub sblockloc: I64<O>,
    pub cstotal: RawCsumTotal<O>,
    pub time: I64<O>,
    pub size: I64<O>,
    pub dsize: I64<O>,
    pub csaddr: I64<O>,
    pub pendingblocks: I64<O>,
    pub pendinginodes: U32<O>,
    pub snapinum: [U32<O>; 20],
    pub avgfilesize: U32<O>,
    pub avgfpdir: U32<O>,
    pub save_cgsize: I32<O>,
    pub sparecon32: [I32<O>; 26],
    pub flags: U32<O>,
    pub contigsumsize: I32<O>,
    pub maxsymlinklen: I32<O>,
    pub old_inodefmt: I32<O>,
    pub maxfilesize: U64<O>,
    pub qbmask: I64<O>,
    pub qfmask: I64<O>,
    pub state: I32<O>,
    pub old_postblformat: I32<O>,
    pub old_nrpos: I32<O>,
    pub spare5: [I32<O>; 2],
    pub magic: U32<O>,
}

/// The head of a cylinder group (`struct cg`); its maps follow where it says.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the source's field names")]
pub struct RawCg<O: ByteOrder> {
    pub firstfield: I32<O>,
    pub magic: U32<O>,
    pub old_time: I32<O>,
    pub cgx: U32<O>,
    pub old_ncyl: I16<O>,
    pub old_niblk: I16<O>,
    pub ndblk: U32<O>,
    pub cs: RawCsum<O>,
    pub rotor: U32<O>,
    pub frotor: U32<O>,
    pub irotor: U32<O>,
    pub frsum: [U32<O>; 8],
    pub old_btotoff: I32<O>,
    pub old_boff: U32<O>,
    pub iusedoff: U32<O>,
    pub freeoff: U32<O>,
    pub nextfreeoff: U32<O>,
    pub clustersumoff: U32<O>,
    pub clusteroff: U32<O>,
    pub nclusterblks: U32<O>,
    pub niblk: U32<O>,
    pub initediblk: U32<O>,
    pub sparecon32: [I32<O>; 3],
    pub time: I64<O>,
    pub sparecon64: [I64<O>; 3],
}

/// An inode of UFS1 (`struct ufs1_dinode`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the source's field names")]
pub struct RawInode1<O: ByteOrder> {
    pub mode: U16<O>,
    pub nlink: I16<O>,
    pub oldids: [U16<O>; 2],
    pub size: U64<O>,
    pub atime: I32<O>,
    pub atimensec: I32<O>,
    pub mtime: I32<O>,
    pub mtimensec: I32<O>,
    pub ctime: I32<O>,
    pub ctimensec: I32<O>,
    /// `di_db` and `di_ib`, or the text of a short symlink.
    pub pointers: [u8; 60],
    pub flags: U32<O>,
    pub blocks: U32<O>,
    pub r#gen: I32<O>,
    pub uid: U32<O>,
    pub gid: U32<O>,
    pub modrev: U64<O>,
}

/// An inode of UFS2 (`struct ufs2_dinode`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the source's field names")]
pub struct RawInode2<O: ByteOrder> {
    pub mode: U16<O>,
    pub nlink: I16<O>,
    pub uid: U32<O>,
    pub gid: U32<O>,
    pub blksize: U32<O>,
    pub size: U64<O>,
    pub blocks: U64<O>,
    pub atime: I64<O>,
    pub mtime: I64<O>,
    pub ctime: I64<O>,
    pub birthtime: I64<O>,
    pub mtimensec: I32<O>,
    pub atimensec: I32<O>,
    pub ctimensec: I32<O>,
    pub birthnsec: I32<O>,
    pub r#gen: I32<O>,
    pub kernflags: U32<O>,
    pub flags: U32<O>,
    pub extsize: I32<O>,
    pub extb: [I64<O>; 2],
    /// `di_db` and `di_ib`, or the text of a short symlink.
    pub pointers: [u8; 120],
    pub modrev: U64<O>,
    pub spare: [I64<O>; 2],
}

/// The head of a directory entry (`struct direct`); the name follows.
///
/// In the old format bytes 6 and 7 are one 16-bit name length.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the source's field names")]
pub struct RawDirent<O: ByteOrder> {
    pub ino: U32<O>,
    pub reclen: U16<O>,
    pub r#type: u8,
    pub namlen: u8,
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<RawCsum<LE>>() == 16);
    assert!(size_of::<RawJournal<LE>>() == 40);
    assert!(size_of::<RawSuperblock<LE>>() == 1376);
    assert!(offset_of!(RawSuperblock<LE>, old_cstotal) == 192);
    assert!(offset_of!(RawSuperblock<LE>, old_flags) == 211);
    assert!(offset_of!(RawSuperblock<LE>, fsmnt) == 212);
    assert!(offset_of!(RawSuperblock<LE>, in_core) == 728);
    assert!(offset_of!(RawSuperblock<LE>, journal) == 864);
    assert!(offset_of!(RawSuperblock<LE>, sblockloc) == 1000);
    assert!(offset_of!(RawSuperblock<LE>, snapinum) == 1116);
    assert!(offset_of!(RawSuperblock<LE>, flags) == 1312);
    assert!(offset_of!(RawSuperblock<LE>, maxfilesize) == 1328);
    assert!(offset_of!(RawSuperblock<LE>, magic) == MAGIC_OFFSET);
    assert!(size_of::<RawCg<LE>>() == CG_MAPS_OFFSET);
    assert!(offset_of!(RawCg<LE>, iusedoff) == 92);
    assert!(offset_of!(RawCg<LE>, initediblk) == 120);
    assert!(offset_of!(RawCg<LE>, time) == 136);
    assert!(size_of::<RawInode1<LE>>() == 128);
    assert!(offset_of!(RawInode1<LE>, pointers) == 40);
    assert!(offset_of!(RawInode1<LE>, flags) == 100);
    assert!(size_of::<RawInode2<LE>>() == 256);
    assert!(offset_of!(RawInode2<LE>, extb) == 96);
    assert!(offset_of!(RawInode2<LE>, pointers) == 112);
    assert!(offset_of!(RawInode2<LE>, modrev) == 232);
    assert!(size_of::<RawDirent<LE>>() == 8);
};
