//! Hostile volumes: seeded corruption of everything that is not file data, mounted and walked.
//!
//! Whatever the disk says: an answer or an [`Errno`] with a line in the log, never a panic, an
//! address outside the volume, or work without end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use core::sync::atomic::Ordering;
use rumpuser::Errno;
use rumpvfs::vfsops::{FileSystem, Loaded};
use rumpvfs::vnode::{DirEntry, VnodeType};

use crate::fixture::{Image, Random, TestDisk, logged, mount, options};
use crate::order::Order;
use crate::superblock::{Format, Superblock};

/// Seeds tried; `SEED=N` tries that one alone.
const SEEDS: u64 = 2000;
/// Reads of the disk that one walk may cost: each of some 200 names leads to a file, and the
/// largest directory there can be has as many pieces as the volume.
const MOST_READS: usize = 200_000;

/// A volume, and which of its bytes a corruptor aims at.
struct Target {
    image: Image,
    disk: Arc<TestDisk>,
    /// Start and length of superblocks, groups, used inodes, indirect blocks, directories.
    areas: Vec<Vec<(u64, u64)>>,
}

impl Target {
    fn new(format: Format, order: Order, bsize: u32, fsize: u32) -> Target {
        let image = Image::populated(options(format, order, bsize, fsize));
        let sb = image.sb.clone();
        let inode_size = sb.format.inode_size() as u64;
        // No file has an inode in the other groups.
        let groups = [(sb.byte_of(sb.cgtod(0)), 128)];
        let inodes = (2..14).map(|ino| (image.inode_byte(ino), inode_size));
        let indirect = [5, 6].iter().flat_map(|ino| {
            let tops = (12..15).map(|index| image.pointer_at(image.pointer_byte(*ino, index)));
            tops.filter(|top| *top != 0)
                .map(|top| (sb.byte_of(top), 256))
                .collect::<Vec<_>>()
        });
        let directories = [2, 11, 12, 13].iter().map(|ino| {
            let first = image.pointer_at(image.pointer_byte(*ino, 0));
            (sb.byte_of(first), 512)
        });
        let areas = vec![
            vec![(sb.location, 1376)],
            groups.to_vec(),
            inodes.collect(),
            indirect.collect(),
            directories.collect(),
        ];
        let disk = TestDisk::new(image.bytes.clone());
        Target { image, disk, areas }
    }

    /// Spoils one to four places, each a field of a structure; sometimes cuts the disk short.
    fn spoil(&self, random: &mut Random) {
        let mut bytes = self.disk.bytes.lock().unwrap();
        for _ in 0..=random.below(4) {
            let areas = &self.areas[random.below(self.areas.len() as u64) as usize];
            let (start, length) = areas[random.below(areas.len() as u64) as usize];
            let width = 1 << random.below(4);
            let at = (start + random.below(length / width) * width) as usize;
            let value = match self.image.sb.order {
                Order::Little => random.interesting().to_le_bytes(),
                Order::Big => random.interesting().to_be_bytes(),
            };
            let value = match self.image.sb.order {
                Order::Little => &value[..width as usize],
                Order::Big => &value[8 - width as usize..],
            };
            // Half the time an address, a number or a length that is plausible.
            let other = start as usize + random.below(length / width * width) as usize;
            if random.below(2) == 0 && other + width as usize <= bytes.len() {
                bytes.copy_within(other..other + width as usize, at);
            } else {
                bytes[at..at + width as usize].copy_from_slice(value);
            }
        }
        if random.below(20) == 0 {
            let length = random.below(bytes.len() as u64 / 512) as usize * 512;
            bytes.truncate(length);
        }
    }

    fn mend(&self) {
        let mut bytes = self.disk.bytes.lock().unwrap();
        bytes.resize(self.image.bytes.len(), 0);
        bytes.copy_from_slice(&self.image.bytes);
        self.disk.reads.store(0, Ordering::Relaxed);
    }
}

/// Walks a volume as far as it goes, and judges every answer.
struct Walk<'a> {
    fs: &'a Arc<dyn FileSystem>,
    size_bytes: u64,
    seen: BTreeSet<u64>,
    faults: usize,
}

impl Walk<'_> {
    /// The answer, if there is one; an error must have been logged.
    fn judge<T>(&mut self, answer: Result<T, Errno>) -> Option<T> {
        let lines = logged();
        match answer {
            Ok(value) => Some(value),
            Err(errno) => {
                assert!(
                    lines
                        .iter()
                        .any(|line| line.starts_with("ERROR: ffs: test0: ")),
                    "{errno:?} without a line: {lines:?}"
                );
                self.faults += 1;
                None
            }
        }
    }

    fn file(&mut self, ino: u64) {
        if !self.seen.insert(ino) {
            return;
        }
        let loaded = self.fs.clone().loadvnode(ino);
        let Some(file) = self.judge(loaded) else {
            return;
        };
        let attributes = file.ops.getattr().expect("what was loaded has attributes");
        assert_eq!(attributes.fileid, ino);
        match file.vtype {
            VnodeType::Dir => self.directory(&file),
            VnodeType::Reg => self.contents(&file),
            VnodeType::Lnk => {
                let mut text = [0; 1024];
                let read = file.ops.readlink(&mut text);
                if let Some(len) = self.judge(read) {
                    assert!((1..1024).contains(&len) && !text[..len].contains(&0));
                }
            }
            _ => {}
        }
    }

    fn directory(&mut self, file: &Loaded) {
        let mut names: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut last = 0;
        let read = file.ops.readdir(0, &mut |entry: &DirEntry<'_>| {
            assert!(entry.next_cookie > last && entry.next_cookie <= file.size);
            last = entry.next_cookie;
            names.push((entry.fileid, entry.name.to_vec()));
            names.len() < 300
        });
        self.judge(read);
        for (ino, name) in names.iter().take(30) {
            let found = file.ops.lookup(name);
            // The same name may be there twice; then the first counts.
            if let Some(found) = self.judge(found) {
                assert!(
                    names
                        .iter()
                        .any(|(ino, other)| *ino == found && other == name)
                );
            }
            self.file(*ino);
        }
        let absent = file.ops.lookup(b"no such name");
        assert!(absent.is_err());
        logged();
    }

    fn contents(&mut self, file: &Loaded) {
        let mut at = 0;
        for _ in 0..100 {
            if at >= file.size {
                break;
            }
            at = match self.run(file, at) {
                Some(bytes) => at.saturating_add(bytes),
                None => at + 65536,
            };
        }
        if file.size > 0 {
            self.run(file, (file.size - 1) / 512 * 512);
        }
    }

    fn run(&mut self, file: &Loaded, at: u64) -> Option<u64> {
        let run = file.ops.bmap(at, 1 << 20);
        let run = self.judge(run)?;
        assert!(run.bytes > 0);
        if let Some(sector) = run.sector {
            assert!(sector > 0 && sector * 512 + run.bytes <= self.size_bytes);
        }
        // Behind the last block there may be no whole multiple of a sector.
        Some(run.bytes.next_multiple_of(512))
    }
}

fn try_seed(target: &Target, seed: u64) -> Option<usize> {
    let mut random = Random::new(seed);
    target.spoil(&mut random);
    logged();
    let options = if random.below(2) == 0 { "force" } else { "" };
    let mounted = mount(target.disk.clone(), options);
    let faults = match mounted {
        Ok(fs) => {
            let sb: &Superblock = {
                let any: &dyn core::any::Any = &*fs;
                &any.downcast_ref::<crate::volume::Volume>()
                    .expect("ours")
                    .sb
            };
            let mut walk = Walk {
                fs: &fs,
                size_bytes: sb.size_bytes(),
                seen: BTreeSet::new(),
                faults: 0,
            };
            walk.file(fs.root());
            fs.statvfs().expect("numbers are in memory");
            Some(walk.faults)
        }
        Err(_) => None,
    };
    let reads = target.disk.reads.load(Ordering::Relaxed);
    assert!(reads < MOST_READS, "{reads} reads");
    target.mend();
    faults
}

#[test]
fn seeded_corruption_is_answered_by_errors_never_by_a_panic_or_endless_work() {
    let targets = [
        Target::new(Format::Ufs1, Order::Little, 4096, 512),
        Target::new(Format::Ufs1, Order::Big, 8192, 1024),
        Target::new(Format::Ufs2, Order::Little, 4096, 4096),
        Target::new(Format::Ufs2, Order::Big, 4096, 1024),
    ];
    let one = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = one.map_or(0..SEEDS, |seed| seed..seed + 1);
    let (mut refused, mut faulty, mut sound) = (0, 0, 0);
    for seed in seeds {
        std::println!("SEED={seed}");
        let target = &targets[(seed % targets.len() as u64) as usize];
        match try_seed(target, seed) {
            None => refused += 1,
            Some(0) => sound += 1,
            Some(_) => faulty += 1,
        }
    }
    std::println!("refused {refused}, with faults {faulty}, without {sound}");
    assert!(one.is_some() || (refused > 50 && faulty > 100 && sound > 100));
}

#[test]
fn a_volume_that_nobody_spoiled_has_no_faults() {
    for order in [Order::Little, Order::Big] {
        for format in [Format::Ufs1, Format::Ufs2, Format::Ufs2Ea] {
            let target = Target::new(format, order, 8192, 1024);
            let fs = mount(target.disk.clone(), "").expect("mounted");
            let mut walk = Walk {
                fs: &fs,
                size_bytes: target.image.sb.size_bytes(),
                seen: BTreeSet::new(),
                faults: 0,
            };
            walk.file(fs.root());
            assert_eq!((walk.faults, walk.seen.len()), (0, 11));
        }
    }
}

#[test]
fn directories_in_a_circle_and_with_two_names_are_walked_once() {
    let mut target = Target::new(Format::Ufs2, Order::Little, 4096, 512);
    let (a, b) = (
        [(&b"."[..], 12, 4), (b"down", 13, 4)],
        [(&b"."[..], 13, 4), (b"up", 12, 4)],
    );
    target.image.put_directory(12, &a);
    target.image.put_directory(13, &b);
    target.mend();
    let fs = mount(target.disk.clone(), "").expect("mounted");
    let mut walk = Walk {
        fs: &fs,
        size_bytes: target.image.sb.size_bytes(),
        seen: BTreeSet::new(),
        faults: 0,
    };
    walk.file(12);
    assert_eq!(walk.seen.into_iter().collect::<Vec<_>>(), [12, 13]);
}

#[test]
fn a_directory_as_large_as_the_volume_is_read_to_its_end() {
    let mut target = Target::new(Format::Ufs1, Order::Little, 4096, 4096);
    let size = target.image.sb.size_bytes() / 4096 * 4096;
    let data = target.image.directory(&[(&b"name"[..], 5, 8); 25]);
    let place = target.image.take_block();
    let at = target.image.sb.byte_of(place);
    for unit in 0..8 {
        target.image.put_bytes(at + unit * 512, &data[..512]);
    }
    target.image.put_inode(12, crate::raw::IFDIR, size);
    for block in 0..size / 4096 {
        target.image.put_pointer(12, block, place);
    }
    target.mend();
    let fs = mount(target.disk.clone(), "").expect("mounted");
    let file = fs.loadvnode(12).expect("loaded");
    assert_eq!(file.ops.lookup(b"absent"), Err(Errno::ENOENT));
    assert!(target.disk.reads.load(Ordering::Relaxed) < MOST_READS);
}
