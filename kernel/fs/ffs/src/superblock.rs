//! The superblock: where it is searched, what is checked before it is believed, and the geometry
//! that follows from it.
//!
//! Every number that later code divides by, shifts by, multiplies or indexes with comes from here
//! and has been checked against the others, so that arithmetic on addresses of a volume that
//! passed cannot overflow and no address it gives lies outside the volume.
//!
//! Addresses are in fragments unless they say otherwise. Sources: NetBSD sys/ufs/ffs/fs.h
//! (1.73), ffs_vfsops.c (`ffs_superblock_validate`, `ffs_oldfscompat_read`).

use bitflags::bitflags;
use rumpuser::{Errno, WallTime};
use zerocopy::byteorder::ByteOrder;
use zerocopy::{BE, FromBytes, LE};

use crate::corrupt::{Corrupt, Fault};
use crate::disk::{Metadata, PIECE, read_with};
use crate::journal::Journal;
use crate::order::Order;
use crate::raw::{self, RawSuperblock};

bitflags! {
    /// `fs_flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// Soft updates were in use; nothing of them is left on the disk.
        const DOSOFTDEP = 0x0000_0002;
        /// POSIX.1e access control lists.
        const POSIX1EACLS = 0x0000_0010;
        /// The journal is in use, and must be replayed first.
        const DOWAPBL = 0x0000_0100;
        /// Quotas are kept inside the volume.
        const DOQUOTA2 = 0x0000_0200;
        /// NFSv4 access control lists.
        const NFS4ACLS = 0x0000_0800;
    }
}

/// Which of the formats a volume has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// FFSv1: 32-bit addresses, inodes of 128 bytes.
    Ufs1,
    /// FFSv2: 64-bit addresses, inodes of 256 bytes.
    Ufs2,
    /// FFSv2 whose inodes have extended attributes.
    Ufs2Ea,
}

impl Format {
    fn of_magic(magic: u32) -> Option<Format> {
        match magic {
            raw::FS_UFS1_MAGIC => Some(Format::Ufs1),
            raw::FS_UFS2_MAGIC => Some(Format::Ufs2),
            raw::FS_UFS2EA_MAGIC => Some(Format::Ufs2Ea),
            _ => None,
        }
    }

    /// The nearest time that an inode can hold: in UFS1 seconds have 32 bits.
    pub fn time(self, time: WallTime) -> WallTime {
        let seconds = time.seconds.clamp(i32::MIN.into(), i32::MAX.into());
        match self.is_ufs2() || seconds == time.seconds {
            true => time,
            false => WallTime { seconds, nanos: 0 },
        }
    }

    /// `fs_magic`.
    pub fn magic(self) -> u32 {
        match self {
            Format::Ufs1 => raw::FS_UFS1_MAGIC,
            Format::Ufs2 => raw::FS_UFS2_MAGIC,
            Format::Ufs2Ea => raw::FS_UFS2EA_MAGIC,
        }
    }

    /// Whether addresses have 64 bits and inodes 256 bytes.
    pub fn is_ufs2(self) -> bool {
        self != Format::Ufs1
    }

    /// Bytes of a pointer to a block.
    pub fn pointer_size(self) -> usize {
        if self.is_ufs2() { 8 } else { 4 }
    }

    /// Bytes of an inode.
    pub fn inode_size(self) -> usize {
        if self.is_ufs2() { 256 } else { 128 }
    }

    /// Bytes of an inode that hold its pointers, or the text of a short symlink.
    pub fn pointer_area(self) -> usize {
        (raw::UFS_NDADDR + raw::UFS_NIADDR) * self.pointer_size()
    }
}

/// `fs_clean`: how the volume was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clean(pub u8);

impl Clean {
    /// It was unmounted, or never written since it was checked.
    pub const IS_CLEAN: Clean = Clean(raw::FS_ISCLEAN);
    /// It is, or was when the machine stopped, mounted for writing after having been clean.
    pub const WAS_CLEAN: Clean = Clean(raw::FS_WASCLEAN);
}

/// Counters: of a cylinder group, or of the whole volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Directories.
    pub directories: u64,
    /// Wholly free blocks.
    pub free_blocks: u64,
    /// Free inodes.
    pub free_inodes: u64,
    /// Free fragments in blocks that are partly used.
    pub free_fragments: u64,
}

/// A superblock that passed every check.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the source's field names, explained in fs.h")]
pub struct Superblock {
    pub order: Order,
    pub format: Format,
    /// Byte of the volume where it was found.
    pub location: u64,
    /// The layout of 2003 is in use: UFS2, or UFS1 with `FS_FLAGS_UPDATED`.
    pub updated: bool,
    /// Tables of a cylinder group have fixed places, as in 4.2BSD.
    pub old_tables: bool,
    /// Inodes are 4.2BSD's: owners have 16 bits.
    pub old_inodes: bool,
    pub sbsize: u32,
    pub bsize: u32,
    pub fsize: u32,
    pub frag: u32,
    pub bshift: u32,
    pub fshift: u32,
    pub fragshift: u32,
    pub sblkno: u32,
    pub cblkno: u32,
    pub iblkno: u32,
    pub dblkno: u32,
    pub(crate) cgoffset: u32,
    pub(crate) cgmask: u32,
    pub ncg: u32,
    pub ipg: u32,
    pub fpg: u32,
    pub inopb: u32,
    pub nindir: u32,
    /// Fragments of the volume.
    pub size: u64,
    /// Fragments for data.
    pub dsize: u64,
    pub csaddr: u64,
    pub cssize: u32,
    pub cgsize: u32,
    /// `fs_old_cpg` of UFS1, 0 on UFS2.
    pub cpg: u32,
    /// `fs_old_nrpos` of UFS1, 0 on UFS2.
    pub nrpos: u32,
    pub contigsumsize: u32,
    /// Longest `fs_maxcontig` run that the volume's maker thought well of, in blocks; at least 1.
    pub maxcontig: u32,
    pub maxbpg: u32,
    pub minfree: u32,
    /// 0 on volumes without short symlinks; their directory entries have no type.
    pub maxsymlinklen: u32,
    /// Largest file in bytes that pointers can describe.
    pub maxfilesize: u64,
    pub flags: Flags,
    pub clean: Clean,
    pub id: [i32; 2],
    /// Last write, in seconds since 1970.
    pub time: i64,
    pub cstotal: Counts,
    pub volname: [u8; 32],
    /// The journal, if the volume was ever used with one.
    pub journal: Option<Journal>,
    /// Inodes that hold quotas; 0 for none.
    pub quotafile: [u64; 2],
}

/// What a mount tolerates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tolerance {
    /// Mount in spite of flags that are not known, and of a journal that was not replayed.
    pub force: bool,
}

/// Finds the volume's superblock.
///
/// A candidate that does not pass is skipped; if none is left the answer is what was wrong with
/// the first of them, and [`Corrupt::NoSuperblock`] if there was none. A place that cannot be
/// read is skipped likewise: it may lie beyond the end of a small volume.
pub fn find(disk: &dyn Metadata, tolerance: Tolerance) -> Result<Superblock, Fault> {
    // A disk that is wrong says more than one that cannot be read.
    let (mut wrong, mut unread) = (None, None);
    for at in raw::SBLOCKSEARCH {
        let judged = read_with(disk, at, PIECE, |bytes| judge(bytes, at, tolerance));
        match judged {
            Ok(Ok(Some(superblock))) => return Ok(superblock),
            Ok(Ok(None)) => {}
            Ok(Err(corrupt)) => wrong = wrong.or(Some(Fault::Corrupt(corrupt))),
            // Beyond the end of a small device.
            Err(Fault::Device {
                errno: Errno::EINVAL,
                ..
            }) => {}
            Err(fault) => unread = unread.or(Some(fault)),
        }
    }
    let none = Fault::Corrupt(Corrupt::NoSuperblock);
    Err(wrong.or(unread).unwrap_or(none))
}

/// Judges the candidate in `bytes`, which lies at byte `at` of the volume. `None` if it is no
/// superblock, or one that belongs elsewhere.
pub fn judge(bytes: &[u8], at: u64, tolerance: Tolerance) -> Result<Option<Superblock>, Corrupt> {
    let little = RawSuperblock::<LE>::ref_from_prefix(bytes);
    let big = RawSuperblock::<BE>::ref_from_prefix(bytes);
    let (Ok((little, _)), Ok((big, _))) = (little, big) else {
        return Ok(None);
    };
    if let Some(format) = Format::of_magic(little.magic.get()) {
        return Candidate::new(little, Order::Little, format, at).superblock(tolerance);
    }
    if let Some(format) = Format::of_magic(big.magic.get()) {
        return Candidate::new(big, Order::Big, format, at).superblock(tolerance);
    }
    Ok(None)
}

/// A superblock with the right magic, under examination.
struct Candidate<'a, O: ByteOrder> {
    raw: &'a RawSuperblock<O>,
    order: Order,
    format: Format,
    at: u64,
    updated: bool,
}

impl<'a, O: ByteOrder> Candidate<'a, O> {
    fn new(raw: &'a RawSuperblock<O>, order: Order, format: Format, at: u64) -> Self {
        let updated = format.is_ufs2() || raw.old_flags & raw::FS_FLAGS_UPDATED != 0;
        Candidate {
            raw,
            order,
            format,
            at,
            updated,
        }
    }

    fn wrong(&self, field: &'static str, value: i64) -> Corrupt {
        Corrupt::Superblock {
            at: self.at,
            field,
            value,
        }
    }

    fn check(
        &self,
        right: bool,
        field: &'static str,
        value: impl Into<i64>,
    ) -> Result<(), Corrupt> {
        if right {
            Ok(())
        } else {
            Err(self.wrong(field, value.into()))
        }
    }

    /// `value` as a number between `min` and `max`.
    fn bounded64(
        &self,
        field: &'static str,
        value: i64,
        min: u64,
        max: u64,
    ) -> Result<u64, Corrupt> {
        match u64::try_from(value) {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(self.wrong(field, value)),
        }
    }

    /// The same for a field of 32 bits.
    fn bounded(&self, field: &'static str, value: i32, min: u32, max: u32) -> Result<u32, Corrupt> {
        match u32::try_from(value) {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(self.wrong(field, i64::from(value))),
        }
    }

    /// A primary superblock knows its own place; the backups, and UFS1's at 64 KiB, which is the
    /// first backup of a volume with blocks of that size, are not for us.
    fn is_elsewhere(&self) -> bool {
        if self.format == Format::Ufs1 && self.at == raw::SBLOCK_UFS2 {
            return true;
        }
        self.updated && u64::try_from(self.raw.sblockloc.get()) != Ok(self.at)
    }

    fn superblock(&self, tolerance: Tolerance) -> Result<Option<Superblock>, Corrupt> {
        if self.is_elsewhere() {
            return Ok(None);
        }
        let raw = self.raw;
        let flags = self.flags(tolerance)?;
        let sizes = self.sizes()?;
        let groups = self.groups(&sizes)?;
        let short = self.format.pointer_area() as i32;
        let maxsymlinklen = raw.maxsymlinklen.get();
        self.check(maxsymlinklen <= short, "maxsymlinklen", maxsymlinklen)?;
        let superblock = Superblock {
            order: self.order,
            format: self.format,
            location: self.at,
            updated: self.updated,
            old_tables: self.old_tables(),
            old_inodes: self.format == Format::Ufs1 && raw.old_inodefmt.get() < raw::FS_44INODEFMT,
            sbsize: self.bounded("sbsize", raw.sbsize.get(), 1376, raw::SBLOCKSIZE as u32)?,
            bsize: sizes.bsize,
            fsize: sizes.fsize,
            frag: sizes.frag,
            bshift: sizes.bshift,
            fshift: sizes.fshift,
            fragshift: sizes.bshift - sizes.fshift,
            nindir: sizes.nindir,
            inopb: sizes.inopb,
            sblkno: groups.sblkno,
            cblkno: groups.cblkno,
            iblkno: groups.iblkno,
            dblkno: groups.dblkno,
            cgoffset: groups.cgoffset,
            cgmask: groups.cgmask,
            ncg: groups.ncg,
            ipg: groups.ipg,
            fpg: groups.fpg,
            size: groups.size,
            dsize: self.dsize(&groups)?,
            cgsize: self.cgsize(&sizes, &groups)?,
            cpg: groups.cpg,
            nrpos: groups.nrpos,
            contigsumsize: groups.contigsumsize,
            csaddr: self.csaddr(),
            cssize: self.cssize(&sizes, &groups)?,
            maxcontig: raw.maxcontig.get().max(1) as u32,
            maxbpg: self.bounded("maxbpg", raw.maxbpg.get(), 1, i32::MAX as u32)?,
            minfree: self.bounded("minfree", raw.minfree.get(), 0, 99)?,
            maxsymlinklen: maxsymlinklen.max(0) as u32,
            maxfilesize: max_file_size(self.format, &sizes),
            flags,
            clean: Clean(raw.clean),
            id: raw.id.map(|word| word.get()),
            time: self.newer(raw.time.get(), raw.old_time.get()),
            cstotal: self.cstotal(&sizes, &groups)?,
            volname: raw.volname,
            journal: self
                .updated
                .then(|| Journal::decode(&raw.journal))
                .flatten(),
            quotafile: match flags.contains(Flags::DOQUOTA2) {
                true => raw.quotafile.map(|ino| ino.get()),
                false => [0; 2],
            },
        };
        self.check_places(&superblock)?;
        Ok(Some(superblock))
    }

    fn flags(&self, tolerance: Tolerance) -> Result<Flags, Corrupt> {
        let bits = if self.updated {
            self.raw.flags.get()
        } else {
            u32::from(self.raw.old_flags & !raw::FS_FLAGS_UPDATED)
        };
        let unknown = bits & !Flags::all().bits();
        if unknown != 0 && !tolerance.force {
            return Err(Corrupt::Flags { unknown });
        }
        Ok(Flags::from_bits_truncate(bits))
    }

    /// The value of a field that moved in 2003.
    fn newer(&self, new: i64, old: i32) -> i64 {
        if self.updated { new } else { i64::from(old) }
    }

    fn old_tables(&self) -> bool {
        !self.updated && self.raw.old_postblformat.get() == raw::FS_42POSTBLFMT
    }

    /// Block and fragment sizes, and what follows from them alone.
    fn sizes(&self) -> Result<Sizes, Corrupt> {
        let raw = self.raw;
        let bsize = self.bounded("bsize", raw.bsize.get(), 4096, 65536)?;
        self.check(bsize.is_power_of_two(), "bsize", bsize)?;
        let fsize = self.bounded("fsize", raw.fsize.get(), raw::DEV_BSIZE, bsize)?;
        self.check(fsize.is_power_of_two(), "fsize", fsize)?;
        let frag = self.bounded("frag", raw.frag.get(), 1, 8)?;
        self.check(frag == bsize / fsize, "frag", frag)?;
        let sizes = Sizes {
            bsize,
            fsize,
            frag,
            bshift: bsize.ilog2(),
            fshift: fsize.ilog2(),
            nindir: bsize / self.format.pointer_size() as u32,
            inopb: bsize / self.format.inode_size() as u32,
        };
        let fragshift = sizes.bshift - sizes.fshift;
        for (field, value, right) in [
            ("bmask", raw.bmask.get(), -i64::from(bsize)),
            ("fmask", raw.fmask.get(), -i64::from(fsize)),
            ("bshift", raw.bshift.get(), i64::from(sizes.bshift)),
            ("fshift", raw.fshift.get(), i64::from(sizes.fshift)),
            ("fragshift", raw.fragshift.get(), i64::from(fragshift)),
            ("nindir", raw.nindir.get(), i64::from(sizes.nindir)),
        ] {
            self.check(i64::from(value) == right, field, value)?;
        }
        self.check(raw.inopb.get() == sizes.inopb, "inopb", raw.inopb.get())?;
        Ok(sizes)
    }

    /// Cylinder groups: how many, how large, and where each has what.
    fn groups(&self, sizes: &Sizes) -> Result<Groups, Corrupt> {
        let raw = self.raw;
        // Pointers of UFS1 are signed 32-bit numbers; bytes are counted in signed 64 bits.
        let max_size = match self.format {
            Format::Ufs1 => i32::MAX as u64,
            _ => (i64::MAX as u64) >> sizes.fshift,
        };
        let size = self.newer(raw.size.get(), raw.old_size.get());
        let size = self.bounded64("size", size, 1, max_size)?;
        let fpg = self.bounded("fpg", raw.fpg.get(), 1, i32::MAX as u32)?;
        let ncg = raw.ncg.get();
        self.check(u64::from(ncg) == size.div_ceil(u64::from(fpg)), "ncg", ncg)?;
        let ipg = raw.ipg.get();
        let max_ipg = u32::MAX / ncg;
        self.check((1..=max_ipg).contains(&ipg), "ipg", ipg)?;
        self.check(ipg.is_multiple_of(sizes.inopb), "ipg", ipg)?;
        // In this order the four areas of a group follow each other.
        let sblkno = self.bounded("sblkno", raw.sblkno.get(), 1, fpg)?;
        let cblkno = self.bounded("cblkno", raw.cblkno.get(), sblkno, fpg)?;
        let iblkno = self.bounded("iblkno", raw.iblkno.get(), cblkno, fpg)?;
        let dblkno = self.bounded("dblkno", raw.dblkno.get(), iblkno, fpg)?;
        let inode_fragments = ipg / (sizes.inopb / sizes.frag);
        self.check(dblkno - iblkno == inode_fragments, "dblkno", dblkno)?;
        let old = self.format == Format::Ufs1;
        Ok(Groups {
            size,
            fpg,
            ncg,
            ipg,
            sblkno,
            cblkno,
            iblkno,
            dblkno,
            cgoffset: if old { self.cgoffset(fpg - dblkno)? } else { 0 },
            cgmask: if old {
                raw.old_cgmask.get() as u32
            } else {
                u32::MAX
            },
            cpg: if old {
                self.bounded("old_cpg", raw.old_cpg.get(), 0, 4096)?
            } else {
                0
            },
            nrpos: if old {
                self.bounded("old_nrpos", raw.old_nrpos.get(), 0, 64)?
            } else {
                0
            },
            contigsumsize: self.bounded("contigsumsize", raw.contigsumsize.get(), 0, 16)?,
        })
    }

    /// The shift of metadata from group to group. The largest of them must leave the group's areas
    /// inside the group, which has `room` fragments to spare.
    fn cgoffset(&self, room: u32) -> Result<u32, Corrupt> {
        let cgoffset = self.bounded("old_cgoffset", self.raw.old_cgoffset.get(), 0, room)?;
        let mask = self.raw.old_cgmask.get();
        let factors = !mask as u32;
        let low_bits = factors & factors.wrapping_add(1) == 0;
        let fits = u64::from(cgoffset) * u64::from(factors) <= u64::from(room);
        self.check(low_bits && (fits || cgoffset == 0), "old_cgmask", mask)?;
        Ok(cgoffset)
    }

    fn dsize(&self, groups: &Groups) -> Result<u64, Corrupt> {
        let dsize = self.newer(self.raw.dsize.get(), self.raw.old_dsize.get());
        self.bounded64("dsize", dsize, 0, groups.size)
    }

    /// Bytes of a cylinder group's block: CGSIZE must fit.
    fn cgsize(&self, sizes: &Sizes, groups: &Groups) -> Result<u32, Corrupt> {
        let free_map = groups.fpg.div_ceil(8);
        let counted = raw::CG_HEADER_COUNTED as u32 + 4 + groups.cpg * 6;
        let needed = if self.old_tables() {
            raw::OLD_CG_FREE_OFFSET as u32 + free_map
        } else {
            let maps = groups.ipg.div_ceil(8).saturating_add(free_map);
            let clusters = match groups.contigsumsize {
                0 => 0,
                sums => sums * 4 + (groups.fpg / sizes.frag).div_ceil(8),
            };
            counted.saturating_add(maps).saturating_add(clusters)
        };
        self.bounded("cgsize", self.raw.cgsize.get(), needed, sizes.bsize)
    }

    fn csaddr(&self) -> u64 {
        // Judged by `check_places`, which finds a negative address beyond the end.
        self.newer(self.raw.csaddr.get(), self.raw.old_csaddr.get()) as u64
    }

    /// Bytes of the summary area: an entry for each group, and less than a block more.
    fn cssize(&self, sizes: &Sizes, groups: &Groups) -> Result<u32, Corrupt> {
        let needed = u64::from(groups.ncg) * 16;
        let most = needed + u64::from(sizes.bsize);
        let cssize = i64::from(self.raw.cssize.get());
        Ok(self.bounded64("cssize", cssize, needed, most)? as u32)
    }

    fn cstotal(&self, sizes: &Sizes, groups: &Groups) -> Result<Counts, Corrupt> {
        let (new, old) = (&self.raw.cstotal, &self.raw.old_cstotal);
        let inodes = u64::from(groups.ncg) * u64::from(groups.ipg);
        let count =
            |field, new: i64, old: i32, most| self.bounded64(field, self.newer(new, old), 0, most);
        let blocks = groups.size / u64::from(sizes.frag);
        Ok(Counts {
            directories: count("cstotal.ndir", new.ndir.get(), old.ndir.get(), inodes)?,
            free_blocks: count("cstotal.nbfree", new.nbfree.get(), old.nbfree.get(), blocks)?,
            free_inodes: count("cstotal.nifree", new.nifree.get(), old.nifree.get(), inodes)?,
            free_fragments: count(
                "cstotal.nffree",
                new.nffree.get(),
                old.nffree.get(),
                groups.size,
            )?,
        })
    }

    /// What only the whole geometry can tell: the last group has room for its metadata, and the
    /// summary area lies among the data of one group.
    fn check_places(&self, sb: &Superblock) -> Result<(), Corrupt> {
        let last = sb.cgdmin(sb.ncg - 1);
        // makefs(8) makes a last group that is metadata to its end.
        self.check(last <= sb.size, "size", sb.size as i64)?;
        let summary = sb.summary();
        let inside = sb.is_data_run(summary.start, summary.end - summary.start);
        self.check(inside, "csaddr", sb.csaddr as i64)
    }
}

/// Sizes of blocks and what follows from them.
struct Sizes {
    bsize: u32,
    fsize: u32,
    frag: u32,
    bshift: u32,
    fshift: u32,
    nindir: u32,
    inopb: u32,
}

/// Sizes and places of cylinder groups.
struct Groups {
    size: u64,
    fpg: u32,
    ncg: u32,
    ipg: u32,
    sblkno: u32,
    cblkno: u32,
    iblkno: u32,
    dblkno: u32,
    cgoffset: u32,
    cgmask: u32,
    cpg: u32,
    nrpos: u32,
    contigsumsize: u32,
}

/// The largest file: one byte less than its direct blocks would hold, and all that three levels
/// of indirect blocks reach; on UFS1 also no more than addresses of 31 bits reach.
fn max_file_size(format: Format, sizes: &Sizes) -> u64 {
    let (block, n) = (u64::from(sizes.bsize), u64::from(sizes.nindir));
    let pointers = raw::UFS_NDADDR as u64 + n + n * n + n * n * n;
    let most = block * pointers - 1;
    match format {
        Format::Ufs1 => most.min((block << 31) - 1),
        _ => most,
    }
}

#[cfg(test)]
mod tests;
