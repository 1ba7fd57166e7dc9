//! Phase 3: what groups, summary area, superblock and its backups count and map, against what the
//! inodes were found to claim. (fsck_ffs, pass5.c, setup.c.)

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use zerocopy::byteorder::ByteOrder;
use zerocopy::{BE, FromBytes, LE};

use super::{Check, Finding, State, Topic};
use crate::cg::{Head, Layout};
use crate::corrupt::Fault;
use crate::disk::{PIECE, read_with};
use crate::maps::{self, FreeCount};
use crate::order::Order;
use crate::raw::{self, RawCg, RawCsum, RawSuperblock};
use crate::superblock::{Flags, Format};

/// What a group should hold.
pub(super) struct Right {
    pub(super) free: Vec<u8>,
    pub(super) used_inodes: Vec<u8>,
    pub(super) clusters: Vec<u8>,
    pub(super) cluster_sums: Vec<u32>,
    pub(super) fragments: u32,
    pub(super) count: FreeCount,
    /// ndir, nbfree, nifree, nffree.
    pub(super) counters: [i64; 4],
}

const COUNTERS: [&str; 4] = ["ndir", "nbfree", "nifree", "nffree"];

impl Check<'_> {
    pub(super) fn check_groups(&mut self) -> Result<(), Fault> {
        match self.sb.order {
            Order::Little => self.check_groups_in::<LE>(),
            Order::Big => self.check_groups_in::<BE>(),
        }
    }

    fn check_groups_in<O: ByteOrder>(&mut self) -> Result<(), Fault> {
        let primary = self.read_superblock(self.sb.location)?;
        self.check_superblock::<O>(&primary);
        let mut totals = [0; 4];
        for cg in 0..self.sb.ncg {
            let right = self.right(cg);
            for (total, counter) in totals.iter_mut().zip(right.counters) {
                *total += counter;
            }
            self.check_group::<O>(cg, &right)?;
            self.check_summary::<O>(cg, &right)?;
            let at = self.sb.byte_of(self.sb.cgsblock(cg));
            let backup = self.read_superblock(at)?;
            self.check_backup::<O>(cg, &primary, &backup);
        }
        let counted = &self.sb.cstotal;
        let says = [
            counted.directories,
            counted.free_blocks,
            counted.free_inodes,
            counted.free_fragments,
        ];
        for ((field, says), right) in COUNTERS.into_iter().zip(says).zip(totals) {
            self.number(Topic::Superblock, field, says as i64, right);
        }
        Ok(())
    }

    fn number(&mut self, topic: Topic, field: &'static str, says: i64, right: i64) {
        if says != right {
            self.report.add(Finding::Number {
                topic,
                field,
                says,
                right,
            });
        }
    }

    /// What group `cg` should hold.
    pub(super) fn right(&self, cg: u32) -> Right {
        let sb = &self.sb;
        let fragments = (sb.cgend(cg) - sb.cgbase(cg)) as u32;
        let mut free = vec![0; sb.fpg.div_ceil(8) as usize];
        for n in 0..fragments {
            if !self.is_used(sb.cgbase(cg) + u64::from(n)) {
                maps::set(&mut free, n);
            }
        }
        let mut used_inodes = vec![0; sb.ipg.div_ceil(8) as usize];
        let (mut used, mut directories) = (0, 0);
        for n in 0..sb.ipg {
            let ino = cg * sb.ipg + n;
            let state = self.inodes[ino as usize].state;
            if state != State::Free || ino < raw::UFS_ROOTINO {
                maps::set(&mut used_inodes, n);
                used += 1;
            }
            directories += i64::from(state == State::Directory);
        }
        let count = maps::count_free(&free, fragments, sb.frag);
        let blocks = fragments / sb.frag;
        let mut clusters = vec![0; sb.fpg.div_ceil(sb.frag).div_ceil(8) as usize];
        for block in 0..blocks {
            let first = block * sb.frag;
            if (first..first + sb.frag).all(|n| maps::is_set(&free, n)) {
                maps::set(&mut clusters, block);
            }
        }
        let mut cluster_sums = vec![0; sb.contigsumsize as usize + 1];
        maps::count_clusters(&clusters, blocks, &mut cluster_sums);
        Right {
            free,
            used_inodes,
            clusters,
            cluster_sums,
            fragments,
            count,
            counters: [
                directories,
                i64::from(count.blocks),
                i64::from(sb.ipg) - used,
                i64::from(count.fragments),
            ],
        }
    }

    fn check_group<O: ByteOrder>(&mut self, cg: u32, right: &Right) -> Result<(), Fault> {
        let start = self.sb.byte_of(self.sb.cgtod(cg));
        let block = self.read_all(start, self.sb.cgsize as usize)?;
        if let Err(corrupt) = Head::decode(&self.sb, cg, &block) {
            self.report.add(Finding::Corrupt(corrupt));
            return Ok(());
        }
        let Ok((head, _)) = RawCg::<O>::ref_from_prefix(&block) else {
            return Ok(());
        };
        let topic = Topic::Group(cg);
        for ((field, says), right) in COUNTERS
            .into_iter()
            .zip(counters(&head.cs))
            .zip(right.counters)
        {
            self.number(topic, field, says, right);
        }
        for k in 1..self.sb.frag as usize {
            let says = i64::from(head.frsum[k].get());
            self.number(topic, "frsum", says, i64::from(right.count.runs[k]));
        }
        for (field, says, end) in [
            ("rotor", head.rotor.get(), right.fragments),
            ("frotor", head.frotor.get(), right.fragments),
            ("irotor", head.irotor.get(), self.sb.ipg),
        ] {
            if says >= end {
                self.number(topic, field, i64::from(says), 0);
            }
        }
        let layout = Layout::of(&self.sb);
        self.check_layout(cg, head, &layout);
        // Where they are for whoever mounts it, if that is inside the block; else that was reported.
        let used = self.map_range(head.iusedoff.get(), right.used_inodes.len());
        let free = self.map_range(head.freeoff.get(), right.free.len());
        self.compare(cg, "inodes", &block[used], &right.used_inodes, self.sb.ipg);
        self.compare(cg, "fragments", &block[free], &right.free, right.fragments);
        if self.sb.contigsumsize > 0 {
            self.check_clusters::<O>(cg, head, &block, right);
        }
        Ok(())
    }

    fn check_clusters<O: ByteOrder>(
        &mut self,
        cg: u32,
        head: &RawCg<O>,
        block: &[u8],
        right: &Right,
    ) {
        let sums = self.map_range(head.clustersumoff.get(), right.cluster_sums.len() * 4);
        let blocks = right.fragments / self.sb.frag;
        let length = blocks.div_ceil(8) as usize;
        let map = self.map_range(head.clusteroff.get(), length);
        let says = i64::from(head.nclusterblks.get());
        self.number(Topic::Group(cg), "nclusterblks", says, i64::from(blocks));
        self.compare(cg, "clusters", &block[map], &right.clusters, blocks);
        // Entry 0 does not exist.
        let says = block[sums].chunks_exact(4).zip(&right.cluster_sums).skip(1);
        for (bytes, right) in says {
            let says = self.sb.order.u32([bytes[0], bytes[1], bytes[2], bytes[3]]);
            self.number(
                Topic::Group(cg),
                "clustersum",
                i64::from(says),
                i64::from(*right),
            );
        }
    }

    /// The maps lie where every group of the volume has them.
    fn check_layout<O: ByteOrder>(&mut self, cg: u32, head: &RawCg<O>, layout: &Layout) {
        let mut fields = vec![
            ("iusedoff", head.iusedoff.get(), layout.iusedoff),
            ("freeoff", head.freeoff.get(), layout.freeoff),
        ];
        // FreeBSD's fsck_ffs(8) leaves the sums where they need not be aligned.
        let unaligned = layout.freeoff + self.sb.fpg.div_ceil(8) - 4;
        let is_packed = head.clustersumoff.get() == unaligned
            && head.clusteroff.get() == unaligned + 4 * (self.sb.contigsumsize + 1);
        if self.sb.contigsumsize > 0 && !is_packed {
            fields.extend([
                (
                    "clustersumoff",
                    head.clustersumoff.get(),
                    layout.clustersumoff,
                ),
                ("clusteroff", head.clusteroff.get(), layout.clusteroff),
            ]);
        }
        for (field, says, right) in fields {
            self.number(Topic::Group(cg), field, i64::from(says), i64::from(right));
        }
    }

    /// Where a map of `length` bytes at `offset` lies in the group's block; nowhere if it does not lie inside.
    fn map_range(&self, offset: u32, length: usize) -> Range<usize> {
        let start = offset as usize;
        let end = start.saturating_add(length);
        match start < raw::CG_MAPS_OFFSET || end > self.sb.cgsize as usize {
            true => 0..0,
            false => start..end,
        }
    }

    /// Compares the first `bits` bits of two maps; that a map is not there was reported already.
    fn compare(&mut self, group: u32, map: &'static str, says: &[u8], right: &[u8], bits: u32) {
        if says.is_empty() {
            return;
        }
        let mut wrong = (0..bits).filter(|n| maps::is_set(says, *n) != maps::is_set(right, *n));
        if let Some(first) = wrong.next() {
            let count = 1 + wrong.count() as u32;
            self.report.add(Finding::Map {
                group,
                map,
                first,
                count,
            });
        }
    }

    fn check_summary<O: ByteOrder>(&mut self, cg: u32, right: &Right) -> Result<(), Fault> {
        let byte = u64::from(cg) * 16;
        let piece = self.sb.tail_piece() as u64;
        let at = self.sb.byte_of(self.sb.csaddr) + byte - byte % piece;
        let into = (byte % piece) as usize;
        let says = read_with(self.disk, at, piece as usize, |bytes| {
            let entry = bytes.get(into..).unwrap_or_default();
            RawCsum::<O>::read_from_prefix(entry)
                .ok()
                .map(|(sums, _)| counters(&sums))
        })?;
        let says = COUNTERS.into_iter().zip(says.into_iter().flatten());
        for ((field, says), right) in says.zip(right.counters) {
            self.number(Topic::Summary(cg), field, says, right);
        }
        Ok(())
    }

    fn read_superblock(&self, at: u64) -> Result<Vec<u8>, Fault> {
        read_with(self.disk, at, PIECE, <[u8]>::to_vec)
    }

    fn read_all(&self, start: u64, length: usize) -> Result<Vec<u8>, Fault> {
        let mut all = Vec::with_capacity(length);
        while all.len() < length {
            let at = start + all.len() as u64;
            all.extend(read_with(self.disk, at, PIECE, <[u8]>::to_vec)?);
        }
        all.truncate(length);
        Ok(all)
    }

    /// What nothing else depends on, but fsck_ffs(8) wants right.
    fn check_superblock<O: ByteOrder>(&mut self, bytes: &[u8]) {
        let Ok((raw, _)) = RawSuperblock::<O>::ref_from_prefix(bytes) else {
            return;
        };
        let sb = &self.sb;
        let (block, n) = (u64::from(sb.bsize), u64::from(sb.nindir));
        let blocks = raw::UFS_NDADDR as u64 + n + n * n + n * n * n;
        let mut numbers = vec![(
            "optim",
            i64::from(raw.optim.get()),
            i64::from(raw.optim.get().clamp(0, 1)),
        )];
        if sb.updated {
            numbers.extend([
                ("qbmask", raw.qbmask.get(), i64::from(sb.bsize) - 1),
                ("qfmask", raw.qfmask.get(), i64::from(sb.fsize) - 1),
                (
                    "maxfilesize",
                    raw.maxfilesize.get() as i64,
                    (block * blocks) as i64 - 1,
                ),
            ]);
        }
        if sb.updated {
            let flags = raw.flags.get();
            numbers.extend([
                (
                    "flags",
                    i64::from(flags),
                    i64::from(flags & Flags::all().bits()),
                ),
                ("pendingblocks", raw.pendingblocks.get(), 0),
                ("pendinginodes", raw.pendinginodes.get().into(), 0),
            ]);
        }
        if !sb.format.is_ufs2() {
            let interleave = i64::from(raw.old_interleave.get());
            numbers.push(("old_interleave", interleave, interleave.max(1)));
        }
        if sb.maxsymlinklen > 0 {
            let right = sb.format.pointer_area() as i64;
            numbers.push(("maxsymlinklen", i64::from(sb.maxsymlinklen), right));
        }
        for (field, says, right) in numbers {
            self.number(Topic::Superblock, field, says, right);
        }
    }

    /// A backup must be able to stand in for the primary: it has the same geometry.
    fn check_backup<O: ByteOrder>(&mut self, cg: u32, primary: &[u8], backup: &[u8]) {
        let primary = RawSuperblock::<O>::ref_from_prefix(primary);
        let backup = RawSuperblock::<O>::ref_from_prefix(backup);
        let (Ok((primary, _)), Ok((backup, _))) = (primary, backup) else {
            return;
        };
        let topic = Topic::Backup(cg);
        let moved = match self.sb.updated {
            true => [("size", backup.size.get(), primary.size.get())],
            false => {
                let size = |raw: &RawSuperblock<O>| i64::from(raw.old_size.get());
                [("old_size", size(backup), size(primary))]
            }
        };
        let shift = match self.sb.format {
            Format::Ufs1 => (backup.old_cgoffset.get(), primary.old_cgoffset.get()),
            _ => (0, 0),
        };
        let fields = [
            (
                "magic",
                backup.magic.get() as i32,
                primary.magic.get() as i32,
            ),
            ("old_cgoffset", shift.0, shift.1),
        ];
        let fields = fields.into_iter().chain(
            geometry(backup)
                .into_iter()
                .zip(geometry(primary))
                .map(|((field, says), (_, right))| (field, says, right)),
        );
        let fields = fields.map(|(field, says, right)| (field, i64::from(says), i64::from(right)));
        for (field, says, right) in fields.chain(moved) {
            self.number(topic, field, says, right);
        }
    }
}

/// What every superblock of a volume must say alike (fsck_ffs, setup.c, `cmpsblks`).
fn geometry<O: ByteOrder>(raw: &RawSuperblock<O>) -> [(&'static str, i32); 23] {
    [
        ("sblkno", raw.sblkno.get()),
        ("cblkno", raw.cblkno.get()),
        ("iblkno", raw.iblkno.get()),
        ("dblkno", raw.dblkno.get()),
        ("ncg", raw.ncg.get() as i32),
        ("bsize", raw.bsize.get()),
        ("fsize", raw.fsize.get()),
        ("frag", raw.frag.get()),
        ("bmask", raw.bmask.get()),
        ("fmask", raw.fmask.get()),
        ("bshift", raw.bshift.get()),
        ("fshift", raw.fshift.get()),
        ("fragshift", raw.fragshift.get()),
        ("fsbtodb", raw.fsbtodb.get()),
        ("sbsize", raw.sbsize.get()),
        ("nindir", raw.nindir.get()),
        ("inopb", raw.inopb.get() as i32),
        ("ipg", raw.ipg.get() as i32),
        ("fpg", raw.fpg.get()),
        ("cgsize", raw.cgsize.get()),
        ("cssize", raw.cssize.get()),
        ("contigsumsize", raw.contigsumsize.get()),
        ("old_cgmask", raw.old_cgmask.get()),
    ]
}

fn counters<O: ByteOrder>(sums: &RawCsum<O>) -> [i64; 4] {
    [&sums.ndir, &sums.nbfree, &sums.nifree, &sums.nffree].map(|sum| i64::from(sum.get()))
}
