//! Writes what a [`Plan`] says, in the volume's byte order.

use alloc::vec;
use alloc::vec::Vec;

use rumpuser::Errno;
use zerocopy::byteorder::ByteOrder;
use zerocopy::{FromZeros, IntoBytes};

use super::{Plan, Writer};
use crate::dir::entry_size;
use crate::maps;
use crate::raw::{self, RawCg, RawCsum, RawInode1, RawInode2, RawSuperblock};

/// Writes what a plan says, in byte order `O`.
pub(super) struct Maker<'a, O: ByteOrder> {
    plan: &'a Plan,
    random: u32,
    total: [i64; 4],
    summary: Vec<RawCsum<O>>,
}

impl<'a, O: ByteOrder> Maker<'a, O> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        Maker {
            plan,
            random: plan.options.seed | 1,
            total: [0; 4],
            summary: Vec::new(),
        }
    }

    /// A generation: unpredictable enough that a stale file handle does not meet the new file
    /// (Marsaglia, "Xorshift RNGs", 2003).
    fn generation(&mut self) -> i32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        (self.random >> 1) as i32
    }

    pub(super) fn write(mut self, write: Writer<'_>) -> Result<(), Errno> {
        let plan = self.plan;
        self.erase_stale(write)?;
        for cg in 0..plan.ncg {
            let group = self.group(cg);
            write(plan.byte(plan.cgbase(cg) + u64::from(plan.cblkno)), &group)?;
            self.write_inodes(cg, write)?;
        }
        let mut root = vec![0; plan.fsize as usize];
        root_entries::<O>(&mut root);
        write(plan.byte(u64::from(plan.root_fragment())), &root)?;
        let mut summary = vec![0; plan.cssize as usize];
        let counts = self.summary.as_slice().as_bytes();
        summary[..counts.len()].copy_from_slice(counts);
        write(plan.byte(u64::from(plan.dblkno)), &summary)?;
        let mut superblock = vec![0; raw::SBLOCKSIZE];
        let raw = self.superblock();
        superblock[..size_of_val(&raw)].copy_from_slice(raw.as_bytes());
        for cg in 0..plan.ncg {
            write(
                plan.byte(plan.cgbase(cg) + u64::from(plan.sblkno)),
                &superblock,
            )?;
        }
        write(plan.sblockloc, &superblock)
    }

    /// Zeroes whatever a search would take for a superblock.
    fn erase_stale(&self, write: Writer<'_>) -> Result<(), Errno> {
        let zeroes = vec![0; raw::SBLOCKSIZE];
        let end = self.plan.byte(self.plan.size);
        for at in raw::SBLOCKSEARCH {
            // The first sectors may be a boot loader's; a superblock there starts in them all the same.
            if at + raw::SBLOCKSIZE as u64 <= end {
                write(at, &zeroes)?;
            }
        }
        Ok(())
    }

    /// The block of group `cg`; its counters are added to the totals.
    fn group(&mut self, cg: u32) -> Vec<u8> {
        let plan = self.plan;
        let fragments = plan.fragments_of(cg);
        let mut free = vec![0; plan.fpg.div_ceil(8) as usize];
        let first_data = match cg {
            0 => plan.root_fragment() + 1,
            _ => plan.dblkno,
        };
        (first_data..fragments).for_each(|n| maps::set(&mut free, n));
        if cg != 0 {
            (0..plan.sblkno).for_each(|n| maps::set(&mut free, n));
        }
        let count = maps::count_free(&free, fragments, plan.frag);
        let (used_inodes, directories) = if cg == 0 { (3, 1) } else { (0, 0) };
        let counters = [
            directories,
            count.blocks as i32,
            (plan.ipg - used_inodes) as i32,
            count.fragments as i32,
        ];
        for (total, counter) in self.total.iter_mut().zip(counters) {
            *total += i64::from(counter);
        }
        let sums = csum(counters);
        self.summary.push(sums);

        let mut block = vec![0; plan.cgsize as usize];
        let mut head = self.group_head(cg);
        head.cs = sums;
        for (field, runs) in head.frsum.iter_mut().zip(count.runs) {
            field.set(runs);
        }
        let used_offset = head.iusedoff.get() as usize;
        let free_offset = head.freeoff.get() as usize;
        block[..raw::CG_MAPS_OFFSET].copy_from_slice(head.as_bytes());
        (0..used_inodes).for_each(|n| maps::set(&mut block[used_offset..], n));
        if plan.contigsumsize > 0 {
            self.put_clusters(&mut block, &head, &free, fragments);
        }
        block[free_offset..free_offset + free.len()].copy_from_slice(&free);
        block
    }

    fn group_head(&self, cg: u32) -> RawCg<O> {
        let plan = self.plan;
        let mut head = RawCg::<O>::new_zeroed();
        head.magic.set(raw::CG_MAGIC);
        head.old_time.set(plan.options.time as i32);
        head.time.set(plan.options.time);
        head.cgx.set(cg);
        head.ndblk.set(plan.fragments_of(cg));
        let mut maps = raw::CG_MAPS_OFFSET as u32;
        if plan.is_ufs2() {
            head.niblk.set(plan.ipg);
            head.initediblk.set(plan.initialised());
        } else {
            head.old_ncyl.set(plan.cpg() as i16);
            head.old_niblk.set(plan.ipg as i16);
            head.old_btotoff.set(maps as i32);
            head.old_boff.set(maps + 4 * plan.cpg());
            maps += 6 * plan.cpg();
        }
        head.iusedoff.set(maps);
        maps += plan.ipg.div_ceil(8);
        head.freeoff.set(maps);
        maps += plan.fpg.div_ceil(8);
        if plan.contigsumsize > 0 {
            // Entry 0 does not exist and lies over the end of the free map.
            let sums = (maps - 4).next_multiple_of(4);
            head.clustersumoff.set(sums);
            maps = sums + 4 * (plan.contigsumsize + 1);
            head.clusteroff.set(maps);
            head.nclusterblks.set(plan.fragments_of(cg) / plan.frag);
            maps += (plan.fpg / plan.frag).div_ceil(8);
        }
        head.nextfreeoff.set(maps);
        head
    }

    fn put_clusters(&self, block: &mut [u8], head: &RawCg<O>, free: &[u8], fragments: u32) {
        let plan = self.plan;
        let blocks = fragments / plan.frag;
        let mut clusters = vec![0; (plan.fpg / plan.frag).div_ceil(8) as usize];
        for n in 0..blocks {
            let first = n * plan.frag;
            if (first..first + plan.frag).all(|n| maps::is_set(free, n)) {
                maps::set(&mut clusters, n);
            }
        }
        let mut sums = vec![0; plan.contigsumsize as usize + 1];
        maps::count_clusters(&clusters, blocks, &mut sums);
        for (index, sum) in sums.iter().enumerate().skip(1) {
            let at = head.clustersumoff.get() as usize + 4 * index;
            let sum = zerocopy::U32::<O>::new(*sum);
            block[at..at + 4].copy_from_slice(sum.as_bytes());
        }
        let at = head.clusteroff.get() as usize;
        block[at..at + clusters.len()].copy_from_slice(&clusters);
    }

    /// Writes the inode blocks of group `cg` that are initialised now: free inodes with a
    /// generation each, and the root directory's.
    fn write_inodes(&mut self, cg: u32, write: Writer<'_>) -> Result<(), Errno> {
        let plan = self.plan;
        let first = plan.cgbase(cg) + u64::from(plan.iblkno);
        let mut block = vec![0; plan.bsize as usize];
        for index in 0..plan.initialised() / plan.inopb {
            for (slot, bytes) in block
                .chunks_exact_mut(plan.options.format.inode_size())
                .enumerate()
            {
                let is_root = cg == 0 && index == 0 && slot == raw::UFS_ROOTINO as usize;
                self.put_inode(bytes, is_root);
            }
            let at = first + u64::from(index * plan.frag);
            write(plan.byte(at), &block)?;
        }
        Ok(())
    }

    fn put_inode(&mut self, bytes: &mut [u8], is_root: bool) {
        let plan = self.plan;
        let (time, sectors) = (plan.options.time, plan.fsize / raw::DEV_BSIZE);
        let root = plan.root_fragment();
        let generation = self.generation();
        if plan.is_ufs2() {
            let mut inode = RawInode2::<O>::new_zeroed();
            inode.r#gen.set(generation);
            if is_root {
                inode.mode.set(raw::IFDIR | 0o755);
                inode.nlink.set(2);
                inode.size.set(raw::DIRBLKSIZ as u64);
                inode.blocks.set(u64::from(sectors));
                for field in [
                    &mut inode.atime,
                    &mut inode.mtime,
                    &mut inode.ctime,
                    &mut inode.birthtime,
                ] {
                    field.set(time);
                }
                let pointer = zerocopy::U64::<O>::new(u64::from(root));
                inode.pointers[..8].copy_from_slice(pointer.as_bytes());
            }
            bytes.copy_from_slice(inode.as_bytes());
            return;
        }
        let mut inode = RawInode1::<O>::new_zeroed();
        inode.r#gen.set(generation);
        if is_root {
            inode.mode.set(raw::IFDIR | 0o755);
            inode.nlink.set(2);
            inode.size.set(raw::DIRBLKSIZ as u64);
            inode.blocks.set(sectors);
            for field in [&mut inode.atime, &mut inode.mtime, &mut inode.ctime] {
                field.set(time as i32);
            }
            let pointer = zerocopy::U32::<O>::new(root);
            inode.pointers[..4].copy_from_slice(pointer.as_bytes());
        }
        bytes.copy_from_slice(inode.as_bytes());
    }

    fn superblock(&self) -> RawSuperblock<O> {
        let plan = self.plan;
        let options = &plan.options;
        let mut sb = RawSuperblock::<O>::new_zeroed();
        sb.sblkno.set(plan.sblkno as i32);
        sb.cblkno.set(plan.cblkno as i32);
        sb.iblkno.set(plan.iblkno as i32);
        sb.dblkno.set(plan.dblkno as i32);
        sb.old_cgmask.set(-1);
        sb.ncg.set(plan.ncg);
        sb.bsize.set(plan.bsize as i32);
        sb.fsize.set(plan.fsize as i32);
        sb.frag.set(plan.frag as i32);
        sb.minfree.set(options.minfree as i32);
        sb.bmask.set(-(plan.bsize as i32));
        sb.fmask.set(-(plan.fsize as i32));
        sb.bshift.set(plan.bsize.ilog2() as i32);
        sb.fshift.set(plan.fsize.ilog2() as i32);
        sb.maxcontig.set((65536 / plan.bsize).max(1) as i32);
        let pointer = options.format.pointer_size() as u32;
        sb.maxbpg.set((plan.bsize / pointer) as i32);
        sb.fragshift.set(plan.frag.ilog2() as i32);
        sb.fsbtodb.set((plan.fsize / raw::DEV_BSIZE).ilog2() as i32);
        let sbsize = (size_of_val(&sb) as u32).next_multiple_of(plan.fsize);
        sb.sbsize.set(sbsize.min(raw::SBLOCKSIZE as u32) as i32);
        sb.nindir.set((plan.bsize / pointer) as i32);
        sb.inopb.set(plan.inopb);
        sb.id[0].set(options.time as i32);
        sb.id[1].set(options.seed as i32);
        sb.cssize.set(plan.cssize as i32);
        sb.cgsize.set(plan.cgsize as i32);
        sb.ipg.set(plan.ipg);
        sb.fpg.set(plan.fpg as i32);
        sb.clean = raw::FS_ISCLEAN;
        sb.old_flags = raw::FS_FLAGS_UPDATED;
        sb.volname = options.volname;
        sb.maxbsize.set(plan.bsize as i32);
        sb.sblockloc.set(plan.sblockloc as i64);
        let [ndir, nbfree, nifree, nffree] = self.total;
        sb.cstotal.ndir.set(ndir);
        sb.cstotal.nbfree.set(nbfree);
        sb.cstotal.nifree.set(nifree);
        sb.cstotal.nffree.set(nffree);
        sb.time.set(options.time);
        sb.size.set(plan.size as i64);
        sb.dsize.set(self.dsize());
        sb.csaddr.set(i64::from(plan.dblkno));
        sb.avgfilesize.set(16384);
        sb.avgfpdir.set(64);
        sb.contigsumsize.set(plan.contigsumsize as i32);
        sb.maxsymlinklen.set(options.format.pointer_area() as i32);
        sb.old_inodefmt.set(raw::FS_44INODEFMT);
        let n = u64::from(plan.bsize / pointer);
        let blocks = raw::UFS_NDADDR as u64 + n + n * n + n * n * n;
        sb.maxfilesize.set(u64::from(plan.bsize) * blocks - 1);
        sb.qbmask.set(i64::from(plan.bsize) - 1);
        sb.qfmask.set(i64::from(plan.fsize) - 1);
        sb.magic.set(options.format.magic());
        if !plan.is_ufs2() {
            self.put_old_fields(&mut sb);
        }
        sb
    }

    /// What only UFS1 has: a disk of one cylinder a group.
    fn put_old_fields(&self, sb: &mut RawSuperblock<O>) {
        let plan = self.plan;
        let sectors = plan.fsize / raw::DEV_BSIZE;
        let cylinder = (plan.fpg * sectors) as i32;
        sb.old_time.set(plan.options.time as i32);
        sb.old_size.set(plan.size as i32);
        sb.old_dsize.set(self.dsize() as i32);
        sb.old_csaddr.set(plan.dblkno as i32);
        sb.old_rps.set(60);
        sb.old_nspf.set(sectors as i32);
        sb.old_npsect.set(cylinder);
        sb.old_interleave.set(1);
        sb.old_nsect.set(cylinder);
        sb.old_spc.set(cylinder);
        sb.old_ncyl.set(plan.ncg as i32);
        sb.old_cpg.set(plan.cpg() as i32);
        sb.old_postblformat.set(raw::FS_DYNAMICPOSTBLFMT);
        sb.old_nrpos.set(1);
        sb.old_cstotal = csum(self.total.map(|total| total as i32));
    }

    /// Fragments for data: neither the boot area, nor metadata, nor the summary.
    fn dsize(&self) -> i64 {
        let plan = self.plan;
        let groups = u64::from(plan.ncg) * u64::from(plan.dblkno - plan.sblkno);
        let other = u64::from(plan.sblkno + plan.cssize / plan.fsize);
        plan.size as i64 - (groups + other) as i64
    }
}

fn csum<O: ByteOrder>([ndir, nbfree, nifree, nffree]: [i32; 4]) -> RawCsum<O> {
    let mut sums = RawCsum::<O>::new_zeroed();
    sums.ndir.set(ndir);
    sums.nbfree.set(nbfree);
    sums.nifree.set(nifree);
    sums.nffree.set(nffree);
    sums
}

/// The entries of an empty root directory.
fn root_entries<O: ByteOrder>(unit: &mut [u8]) {
    let dot = entry_size(1);
    for (at, length, name) in [(0, dot, "."), (dot, raw::DIRBLKSIZ - dot, "..")] {
        let mut entry = raw::RawDirent::<O>::new_zeroed();
        entry.ino.set(raw::UFS_ROOTINO);
        entry.reclen.set(length as u16);
        entry.r#type = (raw::IFDIR >> 12) as u8;
        entry.namlen = name.len() as u8;
        unit[at..at + 8].copy_from_slice(entry.as_bytes());
        unit[at + 8..at + 8 + name.len()].copy_from_slice(name.as_bytes());
    }
}
