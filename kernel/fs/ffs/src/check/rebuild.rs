//! Maps and counters computed anew: what a check finds that they should be, written over what they are.
//! (fsck_ffs, pass5.c.)

use alloc::vec::Vec;

use super::groups::Right;
use super::{Check, Finding, Topic};
use crate::cg::Layout;
use crate::corrupt::{Corrupt, Fault};
use crate::disk::{Metadata, PIECE, read_with};
use crate::raw::{self, FS_ISCLEAN, RawSuperblock, SBLOCKSIZE};
use crate::superblock::{self, Tolerance};
use zerocopy::LE;

/// Takes bytes, and where on the volume they go.
pub(super) type Put<'a> = &'a mut dyn FnMut(u64, Vec<u8>);

impl Check<'_> {
    /// Gives `put` every group, the summary area and the superblock as they should be.
    pub(super) fn rebuild(&self, put: Put<'_>) -> Result<(), Fault> {
        let sb = &self.sb;
        let order = sb.order;
        let layout = Layout::of(sb);
        let mut totals = [0i64; 4];
        let summary_bytes = (sb.cssize as usize).next_multiple_of(sb.fsize as usize);
        let mut summary = self.read(sb.byte_of(sb.csaddr), summary_bytes, sb.tail_piece())?;
        for cg in 0..sb.ncg {
            let right = self.right(cg);
            for ((total, counter), at) in totals
                .iter_mut()
                .zip(right.counters)
                .zip((cg as usize * 16..).step_by(4))
            {
                *total += counter;
                summary[at..at + 4].copy_from_slice(&order.bytes32(counter as u32));
            }
            self.rebuild_group(cg, &right, &layout, put)?;
        }
        let piece = sb.tail_piece();
        for (n, bytes) in summary.chunks(piece).enumerate() {
            put(sb.byte_of(sb.csaddr) + (n * piece) as u64, bytes.to_vec());
        }
        let mut bytes = self.read(sb.location, PIECE, PIECE)?;
        let new = core::mem::offset_of!(RawSuperblock<LE>, cstotal);
        let old = core::mem::offset_of!(RawSuperblock<LE>, old_cstotal);
        for (n, total) in totals.into_iter().enumerate() {
            if sb.updated {
                bytes[new + 8 * n..new + 8 * n + 8].copy_from_slice(&order.bytes64(total as u64));
            }
            if !sb.format.is_ufs2() {
                bytes[old + 4 * n..old + 4 * n + 4].copy_from_slice(&order.bytes32(total as u32));
            }
        }
        self.right_numbers(&mut bytes);
        put(sb.location, bytes.clone());
        self.rebuild_backups(&bytes, put)
    }

    fn rebuild_group(
        &self,
        cg: u32,
        right: &Right,
        layout: &Layout,
        put: Put<'_>,
    ) -> Result<(), Fault> {
        let sb = &self.sb;
        let order = sb.order;
        let start = sb.byte_of(sb.cgtod(cg));
        let size = (sb.cgsize as usize).next_multiple_of(PIECE);
        let mut block = self.read(start, size, PIECE)?;
        let word = |block: &[u8], at: usize| {
            order.u32([block[at], block[at + 1], block[at + 2], block[at + 3]]) as usize
        };
        let mut set = |at: usize, value: u32| {
            block[at..at + 4].copy_from_slice(&order.bytes32(value));
        };
        // Those of the clusters are right in more than one way.
        let keeps_clusters = !self.has_wrong_clusters(cg);
        set(84, layout.old_btotoff);
        set(88, layout.old_boff);
        set(92, layout.iusedoff);
        set(96, layout.freeoff);
        if sb.contigsumsize > 0 && !keeps_clusters {
            set(100, layout.nextfreeoff);
            set(104, layout.clustersumoff);
            set(108, layout.clusteroff);
            set(112, right.fragments / sb.frag);
        }
        set(4, raw::CG_MAGIC);
        set(12, cg);
        set(20, right.fragments);
        for (n, counter) in right.counters.into_iter().enumerate() {
            set(24 + 4 * n, counter as u32);
        }
        for (k, runs) in right.count.runs.iter().enumerate().skip(1) {
            set(52 + 4 * k, *runs);
        }
        for (at, end) in [(40, right.fragments), (44, right.fragments), (48, sb.ipg)] {
            if word(&block, at) >= end as usize {
                block[at..at + 4].fill(0);
            }
        }
        let (iused, free) = (word(&block, 92), word(&block, 96));
        let (sums, clusters) = (word(&block, 104), word(&block, 108));
        // Entry 0 of the sums overlaps the end of the map: the map comes last.
        if sb.contigsumsize > 0 {
            for (n, sum) in right.cluster_sums.iter().enumerate().skip(1) {
                fill(&mut block, sums + 4 * n, &order.bytes32(*sum));
            }
            fill(&mut block, clusters, &right.clusters);
        }
        fill(&mut block, iused, &right.used_inodes);
        fill(&mut block, free, &right.free);
        if sb.format.is_ufs2() {
            // Inodes in use were written, whatever the group says.
            let initialised = order.u32([block[120], block[121], block[122], block[123]]);
            if initialised > sb.ipg {
                block[120..124].copy_from_slice(&order.bytes32(sb.ipg));
            }
        }
        for (n, piece) in block.chunks(PIECE).enumerate() {
            put(start + (n * PIECE) as u64, piece.to_vec());
        }
        Ok(())
    }

    /// Whether where the clusters of group `cg` are counted and mapped was found wrong, or the group cannot be believed at all.
    fn has_wrong_clusters(&self, cg: u32) -> bool {
        let wrong = |finding: &Finding| match finding {
            Finding::Corrupt(Corrupt::Group { group, .. }) => *group == cg,
            Finding::Number {
                topic: Topic::Group(group),
                field,
                ..
            } => *group == cg && field.contains("cluster"),
            _ => false,
        };
        self.report.findings.iter().any(wrong)
    }

    /// What the superblock itself should say.
    fn right_numbers(&self, bytes: &mut [u8]) {
        for finding in &self.report.findings {
            let Finding::Number {
                topic: Topic::Superblock,
                field,
                right,
                ..
            } = finding
            else {
                continue;
            };
            let (at, wide) = match *field {
                "optim" => (core::mem::offset_of!(RawSuperblock<LE>, optim), false),
                "old_interleave" => (
                    core::mem::offset_of!(RawSuperblock<LE>, old_interleave),
                    false,
                ),
                "flags" => (core::mem::offset_of!(RawSuperblock<LE>, flags), false),
                "pendingblocks" => (
                    core::mem::offset_of!(RawSuperblock<LE>, pendingblocks),
                    true,
                ),
                "pendinginodes" => (
                    core::mem::offset_of!(RawSuperblock<LE>, pendinginodes),
                    false,
                ),
                "qbmask" => (core::mem::offset_of!(RawSuperblock<LE>, qbmask), true),
                "qfmask" => (core::mem::offset_of!(RawSuperblock<LE>, qfmask), true),
                "maxfilesize" => (core::mem::offset_of!(RawSuperblock<LE>, maxfilesize), true),
                "maxsymlinklen" => (
                    core::mem::offset_of!(RawSuperblock<LE>, maxsymlinklen),
                    false,
                ),
                _ => continue,
            };
            let order = self.sb.order;
            match wide {
                true => fill(bytes, at, &order.bytes64(*right as u64)),
                false => fill(bytes, at, &order.bytes32(*right as u32)),
            }
        }
    }

    /// Backups that could not stand in for the primary become copies of it.
    fn rebuild_backups(&self, primary: &[u8], put: Put<'_>) -> Result<(), Fault> {
        debug_assert!(primary.len() <= SBLOCKSIZE);
        for finding in &self.report.findings {
            if let Finding::Number {
                topic: Topic::Backup(cg),
                ..
            } = finding
            {
                put(self.sb.byte_of(self.sb.cgsblock(*cg)), primary.to_vec());
            }
        }
        Ok(())
    }

    fn read(&self, start: u64, length: usize, piece: usize) -> Result<Vec<u8>, Fault> {
        let mut all = Vec::with_capacity(length);
        while all.len() < length {
            let at = start + all.len() as u64;
            all.extend(read_with(self.disk, at, piece, <[u8]>::to_vec)?);
        }
        Ok(all)
    }
}

/// Puts `bytes` at `at`, as far as they fit.
fn fill(block: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = block.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// The superblock of a volume that is consistent, marked clean.
pub(super) fn clean(disk: &dyn Metadata) -> Result<(u64, Vec<u8>), Fault> {
    let sb = superblock::find(disk, Tolerance { force: true })?;
    let mut bytes = read_with(disk, sb.location, PIECE, <[u8]>::to_vec)?;
    bytes[core::mem::offset_of!(RawSuperblock<LE>, clean)] = FS_ISCLEAN;
    Ok((sb.location, bytes))
}
