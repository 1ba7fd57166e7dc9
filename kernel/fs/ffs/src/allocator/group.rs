//! One cylinder group in memory: its maps, and the counters that move with them.
//!
//! Every change of free space is a change of the bits of one block, made by [`Group::set_block`], which
//! moves all counters that depend on them: wholly free blocks, free fragments, runs of fragments,
//! clusters. So they cannot part.
//!
//! Source: NetBSD sys/ufs/ffs/fs.h (`struct cg`); ffs_subr.c (`ffs_fragacct`, `ffs_clusteracct`).

use alloc::vec::Vec;
use core::ops::Range;

use rumpkern::kmem;
use rumpuser::SECTOR_SIZE;
use rumpvfs::bufcache::Devvp;

use crate::cg::Head;
use crate::corrupt::{Corrupt, Fault};
use crate::disk::PIECE;
use crate::raw;
use crate::superblock::Superblock;

/// Bytes of the group where its fields lie (`struct cg`).
mod field {
    pub const OLD_TIME: usize = 8;
    pub const NDIR: usize = 24;
    pub const NBFREE: usize = 28;
    pub const NIFREE: usize = 32;
    pub const NFFREE: usize = 36;
    pub const ROTOR: usize = 40;
    pub const FROTOR: usize = 44;
    pub const IROTOR: usize = 48;
    pub const FRSUM: usize = 52;
    pub const IUSEDOFF: usize = 92;
    pub const FREEOFF: usize = 96;
    pub const CLUSTERSUMOFF: usize = 104;
    pub const CLUSTEROFF: usize = 108;
    pub const INITEDIBLK: usize = 120;
    pub const TIME: usize = 136;
}

/// How counters changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Directories.
    pub directories: i64,
    /// Wholly free blocks.
    pub blocks: i64,
    /// Free inodes.
    pub inodes: i64,
    /// Free fragments in blocks that are partly used.
    pub fragments: i64,
}

/// A group.
pub struct Group {
    index: u32,
    pieces: Vec<Vec<u8>>,
    /// A bit for each piece that differs from the buffer cache's.
    dirty: u32,
    /// Fragments of the group.
    fragments: u32,
    iused: usize,
    free: usize,
    cluster_sums: usize,
    clusters: usize,
}

impl Group {
    /// Reads group `index`, and judges where its maps are.
    pub fn load(sb: &Superblock, device: &Devvp, index: u32) -> Result<Group, Fault> {
        let start = sb.byte_of(sb.cgtod(index));
        let count = (sb.cgsize as usize).div_ceil(PIECE);
        // Not `Refused`: it may be wanted in the middle of a change.
        let memory = |errno| Fault::Device { at: start, errno };
        let mut pieces = kmem::insist(|| kmem::try_vec(count)).map_err(memory)?;
        for n in 0..count {
            let at = start + (n * PIECE) as u64;
            let buf = device
                .bread(at / SECTOR_SIZE as u64, PIECE)
                .map_err(|errno| Fault::Device { at, errno })?;
            let mut piece = kmem::insist(|| kmem::try_vec(PIECE)).map_err(memory)?;
            piece.extend_from_slice(&buf);
            pieces.push(piece);
        }
        if let Some(first) = pieces.first() {
            Head::decode(sb, index, first)?;
        }
        let mut group = Group {
            index,
            pieces,
            dirty: 0,
            fragments: (sb.cgend(index) - sb.cgbase(index)) as u32,
            iused: 0,
            free: 0,
            cluster_sums: 0,
            clusters: 0,
        };
        let maps = |bits: u32| bits.div_ceil(8) as usize;
        group.iused = group.map(sb, "iusedoff", field::IUSEDOFF, maps(sb.ipg))?;
        group.free = group.map(sb, "freeoff", field::FREEOFF, maps(group.fragments))?;
        if sb.contigsumsize > 0 {
            let sums = 4 * (sb.contigsumsize as usize + 1);
            group.cluster_sums = group.map(sb, "clustersumoff", field::CLUSTERSUMOFF, sums)?;
            let blocks = maps(group.fragments / sb.frag);
            group.clusters = group.map(sb, "clusteroff", field::CLUSTEROFF, blocks)?;
        }
        Ok(group)
    }

    /// Which group it is.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Fragments of the group.
    pub fn fragments(&self) -> u32 {
        self.fragments
    }

    /// Where a map of `length` bytes lies, as the field at `at` says.
    fn map(
        &self,
        sb: &Superblock,
        name: &'static str,
        at: usize,
        length: usize,
    ) -> Result<usize, Corrupt> {
        let offset = self.number(sb, at);
        let end = (offset as usize).saturating_add(length);
        if (offset as usize) < raw::CG_MAPS_OFFSET || end > sb.cgsize as usize {
            return Err(self.wrong(name, offset));
        }
        Ok(offset as usize)
    }

    /// What is wrong with the group.
    pub fn wrong(&self, field: &'static str, value: u32) -> Corrupt {
        Corrupt::Group {
            group: self.index,
            field,
            value: u64::from(value),
        }
    }

    /// Gives what was changed to the buffer cache, to be written later.
    pub fn store(&mut self, sb: &Superblock, device: &Devvp) -> Result<(), Fault> {
        if self.dirty == 0 {
            return Ok(());
        }
        let now = rumpkern::time::wall().seconds;
        self.set_number(sb, field::OLD_TIME, now as u32);
        if let Some(bytes) = self.pieces[0].get_mut(field::TIME..field::TIME + 8) {
            bytes.copy_from_slice(&sb.order.bytes64(now as u64));
        }
        let start = sb.byte_of(sb.cgtod(self.index));
        for (n, piece) in self.pieces.iter().enumerate() {
            if self.dirty & (1 << n) == 0 {
                continue;
            }
            let at = start + (n * PIECE) as u64;
            let mut buf = device
                .bmodify(at / SECTOR_SIZE as u64, PIECE)
                .map_err(|errno| Fault::Device { at, errno })?;
            buf.copy_from_slice(piece);
            buf.bdwrite();
        }
        self.dirty = 0;
        Ok(())
    }

    fn byte(&self, at: usize) -> u8 {
        self.pieces[at / PIECE][at % PIECE]
    }

    fn set_byte(&mut self, at: usize, value: u8) {
        self.pieces[at / PIECE][at % PIECE] = value;
        self.dirty |= 1 << (at / PIECE);
    }

    fn number(&self, sb: &Superblock, at: usize) -> u32 {
        sb.order
            .u32(core::array::from_fn(|byte| self.byte(at + byte)))
    }

    fn set_number(&mut self, sb: &Superblock, at: usize, value: u32) {
        for (n, byte) in sb.order.bytes32(value).into_iter().enumerate() {
            self.set_byte(at + n, byte);
        }
    }

    /// Adds `by` to the counter at `at`.
    fn add(
        &mut self,
        sb: &Superblock,
        name: &'static str,
        at: usize,
        by: i64,
    ) -> Result<(), Corrupt> {
        if by == 0 {
            return Ok(());
        }
        let was = self.number(sb, at);
        match u32::try_from(i64::from(was) + by) {
            Ok(is) => {
                self.set_number(sb, at, is);
                Ok(())
            }
            Err(_) => Err(self.wrong(name, was)),
        }
    }

    fn bit(&self, map: usize, n: u32) -> bool {
        self.byte(map + (n / 8) as usize) & (1 << (n % 8)) != 0
    }

    fn set_bit(&mut self, map: usize, n: u32, value: bool) {
        let at = map + (n / 8) as usize;
        let byte = self.byte(at);
        let bit = 1 << (n % 8);
        self.set_byte(at, if value { byte | bit } else { byte & !bit });
    }

    /// Which fragments of block `block` are free: bit `n` is its `n`th.
    pub fn block(&self, sb: &Superblock, block: u32) -> u8 {
        let first = block * sb.frag;
        let byte = self.byte(self.free + (first / 8) as usize);
        let bits = (byte >> (first % 8)) & full(sb);
        // What is behind the end of the group is not there.
        match self.fragments.saturating_sub(first) {
            left if left < sb.frag => bits & ((1u16 << left) - 1) as u8,
            _ => bits,
        }
    }

    /// Makes the fragments `bits` of block `block` the free ones; answers how the counters changed.
    pub fn set_block(&mut self, sb: &Superblock, block: u32, bits: u8) -> Result<Change, Corrupt> {
        let old = self.block(sb, block);
        let mut change = Change::default();
        self.count(sb, block, old, -1, &mut change)?;
        let first = block * sb.frag;
        let at = self.free + (first / 8) as usize;
        let mask = full(sb) << (first % 8);
        let byte = self.byte(at) & !mask | bits << (first % 8) & mask;
        self.set_byte(at, byte);
        self.count(sb, block, bits, 1, &mut change)?;
        self.add(sb, "nbfree", field::NBFREE, change.blocks)?;
        self.add(sb, "nffree", field::NFFREE, change.fragments)?;
        Ok(change)
    }

    /// Counts the free fragments `bits` of block `block` in (1) or out (-1).
    fn count(
        &mut self,
        sb: &Superblock,
        block: u32,
        bits: u8,
        sign: i64,
        change: &mut Change,
    ) -> Result<(), Corrupt> {
        if bits == full(sb) {
            change.blocks += sign;
            return self.count_cluster(sb, block, sign);
        }
        change.fragments += sign * i64::from(bits.count_ones());
        for (_, length) in runs(bits) {
            self.add(sb, "frsum", field::FRSUM + 4 * length as usize, sign)?;
        }
        Ok(())
    }

    /// Block `block` becomes wholly free, or stops being so.
    fn count_cluster(&mut self, sb: &Superblock, block: u32, sign: i64) -> Result<(), Corrupt> {
        let most = sb.contigsumsize;
        let blocks = self.fragments / sb.frag;
        if most == 0 || block >= blocks {
            return Ok(());
        }
        self.set_bit(self.clusters, block, sign > 0);
        let is_free = |n: &u32| self.bit(self.clusters, *n);
        let end = blocks.min(block.saturating_add(1 + most));
        let after = (block + 1..end).take_while(is_free).count() as u32;
        let start = block.saturating_sub(most);
        let before = (start..block).rev().take_while(is_free).count() as u32;
        let sum = |length: u32| self.cluster_sums + 4 * length as usize;
        let (whole, before, after) = (
            sum((before + after + 1).min(most)),
            (before > 0).then(|| sum(before)),
            (after > 0).then(|| sum(after)),
        );
        self.add(sb, "clustersum", whole, sign)?;
        for part in [before, after].into_iter().flatten() {
            self.add(sb, "clustersum", part, -sign)?;
        }
        Ok(())
    }

    /// Whether `block` is a whole block of the group, and free.
    pub fn is_free(&self, sb: &Superblock, block: u32) -> bool {
        block < self.fragments / sb.frag && self.block(sb, block) == full(sb)
    }

    /// A wholly free block: `wish`, or the next from the last one taken.
    pub fn find_block(&self, sb: &Superblock, wish: Option<u32>) -> Option<u32> {
        let blocks = self.fragments / sb.frag;
        if let Some(wish) = wish.filter(|wish| self.is_free(sb, *wish)) {
            return Some(wish);
        }
        let rotor = (self.number(sb, field::ROTOR) / sb.frag).min(blocks);
        let free = |block: u32| self.is_free(sb, block).then_some(block);
        let found = self.find_in(sb, rotor..blocks, &[0], free);
        found.or_else(|| self.find_in(sb, 0..rotor, &[0], free))
    }

    /// What `test` finds first in `blocks`. It is not asked for those whose byte of the map of free fragments is one of `dull`: most of
    /// them, where many must be looked at, are wholly free or wholly taken.
    fn find_in<T>(
        &self,
        sb: &Superblock,
        blocks: Range<u32>,
        dull: &[u8],
        test: impl Fn(u32) -> Option<T>,
    ) -> Option<T> {
        let per_byte = 8 / sb.frag;
        // The last block may end behind the group, and is not what its byte looks like.
        let end = self.free + (blocks.end / per_byte).min(self.fragments / 8) as usize;
        let mut block = blocks.start;
        while block < blocks.end {
            if block.is_multiple_of(per_byte) {
                let byte = self.free + (block / per_byte) as usize;
                block += self.dull_bytes(byte..end, dull) as u32 * per_byte;
            }
            if block < blocks.end
                && let Some(found) = test(block)
            {
                return Some(found);
            }
            block += 1;
        }
        None
    }

    /// How many bytes of the group from the first of `range` on are among `dull`.
    fn dull_bytes(&self, range: Range<usize>, dull: &[u8]) -> usize {
        let is_dull = |byte: u8| dull.contains(&byte);
        let is_one_byte =
            |many: [u8; 16]| u128::from_ne_bytes(many) == u128::from_ne_bytes([many[0]; 16]);
        let mut at = range.start;
        while at < range.end {
            let rest = &self.pieces[at / PIECE][at % PIECE..];
            let rest = &rest[..rest.len().min(range.end - at)];
            match rest.first_chunk::<16>() {
                Some(many) if is_dull(many[0]) && is_one_byte(*many) => at += many.len(),
                _ if is_dull(rest[0]) => at += 1,
                _ => break,
            }
        }
        at.saturating_sub(range.start)
    }

    /// The first run of `wanted` wholly free blocks, or the longest if there is none: its first block, and how many.
    pub fn longest_run(&self, sb: &Superblock, wanted: u32) -> Option<(u32, u32)> {
        let mut longest = None;
        let (mut start, mut count) = (0, 0);
        for block in 0..self.fragments / sb.frag {
            if self.block(sb, block) != full(sb) {
                count = 0;
                continue;
            }
            if count == 0 {
                start = block;
            }
            count += 1;
            if longest.is_none_or(|(_, known)| count > known) {
                longest = Some((start, count));
            }
            if count == wanted {
                break;
            }
        }
        longest
    }

    /// The last block taken by search was `block`.
    pub fn set_rotor(&mut self, sb: &Superblock, block: u32) {
        self.set_number(sb, field::ROTOR, block * sb.frag);
    }

    /// A place for `count` fragments in a partly used block: the first of the shortest run that is
    /// long enough.
    pub fn find_fragments(&self, sb: &Superblock, wish: Option<u32>, count: u32) -> Option<u32> {
        let length = (count..sb.frag)
            .find(|length| self.number(sb, field::FRSUM + 4 * *length as usize) > 0)?;
        let blocks = self.fragments.div_ceil(sb.frag);
        let start = wish.unwrap_or_else(|| self.number(sb, field::FROTOR)) / sb.frag;
        let start = start.min(blocks);
        let fits = |block: u32| {
            let bits = self.block(sb, block);
            if bits == full(sb) {
                return None;
            }
            let run = runs(bits).find(|(_, found)| *found == length)?;
            Some(block * sb.frag + run.0)
        };
        let found = self.find_in(sb, start..blocks, &[0, 0xff], fits);
        found.or_else(|| self.find_in(sb, 0..start, &[0, 0xff], fits))
    }

    /// The last fragments taken by search start at `fragment`.
    pub fn set_frotor(&mut self, sb: &Superblock, fragment: u32) {
        self.set_number(sb, field::FROTOR, fragment);
    }

    /// A free inode: `wish`, or the first from the last one taken.
    pub fn find_inode(&self, sb: &Superblock, wish: Option<u32>) -> Option<u32> {
        let is_free = |n: &u32| !self.bit(self.iused, *n);
        if let Some(wish) = wish.filter(is_free) {
            return Some(wish);
        }
        let rotor = self.number(sb, field::IROTOR).min(sb.ipg);
        (rotor..sb.ipg).chain(0..rotor).find(is_free)
    }

    /// Inodes of the group that were ever written.
    pub fn initialised(&self, sb: &Superblock) -> u32 {
        if sb.format.is_ufs2() {
            self.number(sb, field::INITEDIBLK).min(sb.ipg)
        } else {
            sb.ipg
        }
    }

    /// The first `count` inodes of the group were written.
    pub fn set_initialised(&mut self, sb: &Superblock, count: u32) {
        self.set_number(sb, field::INITEDIBLK, count);
    }

    /// Takes inode `n` of the group, or gives it back.
    pub fn set_inode(
        &mut self,
        sb: &Superblock,
        n: u32,
        taken: bool,
        is_directory: bool,
    ) -> Result<Change, Corrupt> {
        if self.bit(self.iused, n) == taken {
            return Err(self.wrong("inode map", n));
        }
        self.set_bit(self.iused, n, taken);
        let sign = if taken { 1 } else { -1 };
        let change = Change {
            inodes: -sign,
            directories: if is_directory { sign } else { 0 },
            ..Change::default()
        };
        self.add(sb, "nifree", field::NIFREE, change.inodes)?;
        self.add(sb, "ndir", field::NDIR, change.directories)?;
        if taken || n < self.number(sb, field::IROTOR) {
            self.set_number(sb, field::IROTOR, n);
        }
        Ok(change)
    }
}

/// All fragments of a block.
pub fn full(sb: &Superblock) -> u8 {
    ((1u16 << sb.frag) - 1) as u8
}

/// `count` fragments of a block from its `first` on.
pub fn mask(first: u32, count: u32) -> u8 {
    (((1u16 << count) - 1) << first) as u8
}

/// Runs of set bits: where each starts, and how long it is.
fn runs(bits: u8) -> impl Iterator<Item = (u32, u32)> {
    let mut at = 0;
    core::iter::from_fn(move || {
        let rest = bits.checked_shr(at).filter(|rest| *rest != 0)?;
        let start = at + rest.trailing_zeros();
        let length = (bits >> start).trailing_ones();
        at = start + length;
        Some((start, length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Image, Random, all_kinds};
    use std::vec;
    use std::vec::Vec;

    /// A group with maps of `fragments` fragments and nothing else.
    fn group(fragments: u32, map: Vec<u8>) -> Group {
        const FREE: usize = 200;
        let mut bytes = vec![0; FREE];
        bytes.extend(map);
        bytes.resize(bytes.len().next_multiple_of(PIECE), 0xa5);
        Group {
            index: 0,
            pieces: bytes.chunks(PIECE).map(<[u8]>::to_vec).collect(),
            dirty: 0,
            fragments,
            iused: 0,
            free: FREE,
            cluster_sums: 0,
            clusters: 0,
        }
    }

    #[test]
    fn what_is_looked_for_in_the_map_is_found_wherever_it_is_and_first() {
        let mut random = Random::new(5);
        for options in all_kinds().into_iter().take(5) {
            let sb = Image::new(options).sb;
            for _ in 0..200 {
                let fragments = 1 + random.below(60_000) as u32;
                let mut map = vec![0; fragments.div_ceil(8) as usize];
                for _ in 0..random.below(4) {
                    let at = random.below(map.len() as u64) as usize;
                    let end = at + random.below((map.len() - at) as u64 + 1) as usize;
                    map[at..end].fill([0xff, 0, 0x31][random.below(3) as usize]);
                }
                let group = group(fragments, map);
                let blocks = fragments.div_ceil(sb.frag);
                let from = random.below(u64::from(blocks) + 1) as u32;
                let is_part = |block: u32| {
                    let bits = group.block(&sb, block);
                    (bits != 0 && bits != full(&sb)).then_some(block)
                };
                let is_whole = |block: u32| group.is_free(&sb, block).then_some(block);
                assert_eq!(
                    group.find_in(&sb, from..blocks, &[0, 0xff], is_part),
                    (from..blocks).find_map(is_part)
                );
                assert_eq!(
                    group.find_in(&sb, from..blocks, &[0], is_whole),
                    (from..blocks).find_map(is_whole)
                );
            }
        }
    }

    #[test]
    fn runs_are_found_to_the_last_bit() {
        let found: Vec<_> = runs(0b1110_0101).collect();
        assert_eq!(found, [(0, 1), (2, 1), (5, 3)]);
        assert_eq!(runs(0xff).collect::<Vec<_>>(), [(0, 8)]);
        assert_eq!(runs(0).count(), 0);
    }
}
