//! The bitmaps of a cylinder group, and the counters that must agree with them.
//!
//! Bit `n` of a map is bit `n % 8` of byte `n / 8`. In the map of free fragments 1 is free, in that
//! of inodes 1 is used, in that of clusters 1 is a wholly free block.
//!
//! Source: NetBSD sys/ufs/ffs/fs.h; ffs_subr.c (`ffs_fragacct`, `ffs_clusteracct`).

/// Whether bit `n` of `map` is set; bits beyond the map are not.
pub fn is_set(map: &[u8], n: u32) -> bool {
    map.get((n / 8) as usize)
        .is_some_and(|byte| byte & (1 << (n % 8)) != 0)
}

/// Sets bit `n` of `map`, if it has one.
pub fn set(map: &mut [u8], n: u32) {
    if let Some(byte) = map.get_mut((n / 8) as usize) {
        *byte |= 1 << (n % 8);
    }
}

/// Clears bit `n` of `map`, if it has one.
pub fn clear(map: &mut [u8], n: u32) {
    if let Some(byte) = map.get_mut((n / 8) as usize) {
        *byte &= !(1 << (n % 8));
    }
}

/// What a map of free fragments says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreeCount {
    /// Wholly free blocks.
    pub blocks: u32,
    /// Free fragments in blocks that are partly used.
    pub fragments: u32,
    /// `[k]`: runs of exactly `k` free fragments within a block that is partly used.
    pub runs: [u32; 8],
}

/// Counts the first `fragments` bits of `free`, in blocks of `frag` (1, 2, 4 or 8).
pub fn count_free(free: &[u8], fragments: u32, frag: u32) -> FreeCount {
    let mut count = FreeCount::default();
    for block in 0..fragments.div_ceil(frag) {
        let first = block * frag;
        let end = fragments.min(first + frag);
        let bits = (first..end).filter(|n| is_set(free, *n)).count() as u32;
        if bits == frag {
            count.blocks += 1;
            continue;
        }
        count.fragments += bits;
        count_runs(
            first..end,
            |n| is_set(free, n),
            |run| {
                if let Some(runs) = count.runs.get_mut(run as usize) {
                    *runs += 1;
                }
            },
        );
    }
    count
}

/// Fills `sums` with how many runs of each length the first `blocks` bits of the map `clusters`
/// hold; `sums[0]` stays, the last counts all runs of its length or more.
pub fn count_clusters(clusters: &[u8], blocks: u32, sums: &mut [u32]) {
    let Some(longest) = sums.len().checked_sub(1).filter(|longest| *longest > 0) else {
        return;
    };
    sums[1..].fill(0);
    count_runs(
        0..blocks,
        |n| is_set(clusters, n),
        |run| {
            sums[(run as usize).min(longest)] += 1;
        },
    );
}

/// Calls `take` with the length of each run of set bits.
fn count_runs(
    bits: core::ops::Range<u32>,
    is_set: impl Fn(u32) -> bool,
    mut take: impl FnMut(u32),
) {
    let mut run = 0;
    for n in bits {
        if is_set(n) {
            run += 1;
        } else if run > 0 {
            take(run);
            run = 0;
        }
    }
    if run > 0 {
        take(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_fragments_are_in_a_whole_block_or_in_a_run_never_in_both() {
        // Blocks of four: whole, two runs of one, a run of three, none.
        let map = [0b1010_1111, 0b0000_1110];
        let count = count_free(&map, 16, 4);
        assert_eq!(count.blocks, 1);
        assert_eq!(count.fragments, 5);
        assert_eq!(count.runs, [0, 2, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_last_block_cut_off_by_the_end_is_never_whole() {
        let count = count_free(&[0xff], 6, 4);
        assert_eq!((count.blocks, count.fragments), (1, 2));
        assert_eq!(count.runs[2], 1);
    }

    #[test]
    fn long_runs_of_free_blocks_count_in_the_last_sum() {
        // Runs of 1, 2 and 9.
        let mut sums = [0; 5];
        count_clusters(&[0b1110_1101, 0b0011_1111], 16, &mut sums);
        assert_eq!(sums, [0, 1, 1, 0, 1]);
    }

    #[test]
    fn volumes_without_cluster_sums_have_nothing_to_count() {
        count_clusters(&[0xff], 8, &mut []);
        count_clusters(&[0xff], 8, &mut [0]);
    }
}
