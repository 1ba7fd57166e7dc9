//! Volumes of every size and shape are consistent, or refused.

use super::*;
use crate::check::check;
use crate::disk::Metadata;
use crate::fixture::Random;
use crate::superblock::{self, Superblock, Tolerance};
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

/// A device that keeps what was written, by pages.
#[derive(Default)]
struct Sparse(BTreeMap<u64, Vec<u8>>);

impl Sparse {
    fn made(options: Options) -> Result<Sparse, Errno> {
        let plan = Plan::new(options)?;
        let mut disk = Sparse::default();
        plan.write(&mut |at, bytes| {
            assert!(at + bytes.len() as u64 <= options.size, "beyond the end");
            assert!(at.is_multiple_of(512) && bytes.len().is_multiple_of(512));
            for (n, sector) in (at / 512..).zip(bytes.chunks(512)) {
                disk.0.insert(n, sector.to_vec());
            }
            Ok(())
        })?;
        Ok(disk)
    }

    fn superblock(&self) -> Superblock {
        superblock::find(self, Tolerance::default()).expect("what was made is found")
    }
}

impl Metadata for Sparse {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let mut bytes = vec![0; len];
        for (n, sector) in (offset / 512..).zip(bytes.chunks_mut(512)) {
            if let Some(written) = self.0.get(&n) {
                sector.copy_from_slice(written);
            }
        }
        visit(&bytes);
        Ok(())
    }
}

#[test]
fn volumes_of_any_size_and_shape_are_consistent_or_refused() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    std::println!("SEED={seed}");
    let mut random = Random::new(seed);
    let (mut made, mut refused) = (0, 0);
    for round in 0..60 {
        let bsize = 4096 << random.below(5);
        let most: u64 = 1 << (16 + random.below(8));
        let most = random.below(most);
        let options = Options {
            order: [Order::Little, Order::Big][random.below(2) as usize],
            bsize: Some(bsize),
            fsize: Some(bsize >> random.below(4)),
            density: Some(2048 << random.below(6)),
            max_fpg: (random.below(2) == 0).then(|| 64 + random.below(8000) as u32),
            minfree: random.below(100) as u32,
            seed: random.next() as u32,
            ..Options::new(
                [Format::Ufs1, Format::Ufs2, Format::Ufs2Ea][random.below(3) as usize],
                most / 512 * 512,
            )
        };
        match Sparse::made(options) {
            Ok(disk) => {
                let report = check(&disk).expect("it can be checked");
                assert_eq!(report.findings, [], "round {round}: {options:?}");
                made += 1;
            }
            Err(errno) => {
                assert_eq!(errno, Errno::ENOSPC, "round {round}: {options:?}");
                refused += 1;
            }
        }
    }
    std::println!("made {made}, refused {refused}");
    assert!(made > 20 && refused > 5);
}

#[test]
fn large_volumes_have_the_sizes_that_newfs_gives_them() {
    for (format, size, sizes) in [
        (Format::Ufs1, 2 << 30, (16384, 2048)),
        (Format::Ufs2, 8 << 30, (16384, 2048)),
        (Format::Ufs2, 16 << 40, (32768, 4096)),
        (Format::Ufs2, 200 << 30, (32768, 4096)),
    ] {
        let plan = Plan::new(Options::new(format, size)).expect("possible");
        assert_eq!((plan.bsize, plan.fsize), sizes);
        let made = plan.size * u64::from(plan.fsize);
        let group = u64::from(plan.fpg) * u64::from(plan.fsize);
        assert!(made <= size && size - made < group && plan.cg_needs() <= plan.bsize);
    }
}

#[test]
fn the_last_group_without_room_for_data_is_cut_off() {
    let options = Options {
        max_fpg: Some(1024),
        ..Options::new(Format::Ufs2, (4 * 1024 + 3) * 512)
    };
    let sb = Sparse::made(options).expect("possible").superblock();
    assert_eq!((sb.ncg, sb.size), (4, 4 * 1024));
}

#[test]
fn sizes_that_no_volume_has_are_refused() {
    let usual = Options::new(Format::Ufs2, 8 << 20);
    for wrong in [
        Options {
            bsize: Some(2048),
            ..usual
        },
        Options {
            bsize: Some(131_072),
            ..usual
        },
        Options {
            bsize: Some(5000),
            ..usual
        },
        Options {
            fsize: Some(256),
            ..usual
        },
        Options {
            bsize: Some(16384),
            fsize: Some(1024),
            ..usual
        },
        Options {
            bsize: Some(4096),
            fsize: Some(8192),
            ..usual
        },
        Options {
            minfree: 100,
            ..usual
        },
        Options {
            density: Some(0),
            ..usual
        },
    ] {
        assert_eq!(Plan::new(wrong).map(|_| ()), Err(Errno::EINVAL));
    }
    for size in [0, 512, 65536] {
        let small = Options { size, ..usual };
        assert_eq!(Plan::new(small).map(|_| ()), Err(Errno::ENOSPC));
    }
    let large = Options {
        format: Format::Ufs1,
        fsize: Some(512),
        bsize: Some(4096),
        size: 1 << 41,
        ..usual
    };
    assert_eq!(Plan::new(large).map(|_| ()), Err(Errno::ENOSPC));
}

#[test]
fn a_write_that_fails_ends_it() {
    let plan = Plan::new(Options::new(Format::Ufs2, 8 << 20)).expect("possible");
    let mut left = 3;
    let outcome = plan.write(&mut |_, _| {
        left -= 1;
        if left > 0 { Ok(()) } else { Err(Errno::EIO) }
    });
    assert_eq!((outcome, left), (Err(Errno::EIO), 0));
}
