//! A hash answers what reading the directory answers, whatever happens to either.

use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::vec::Vec;

use rumpuser::SECTOR_SIZE;
use rumpvfs::vnode::{NewFile, VnodeOps, VnodeType};

use super::*;
use crate::corrupt::Fault;
use crate::fixture::{Image, Random, TestDisk, UFS1, UFS2, devvp, options};
use crate::inode::Inode;
use crate::lookup::{self, Found};
use crate::order::Order;
use crate::raw::UFS_ROOTINO;
use crate::superblock::Format;
use crate::vnops::Node;
use crate::volume::Volume;

const NEW: NewFile = NewFile {
    vtype: VnodeType::Reg,
    mode: 0o644,
    uid: 0,
    rdev: 0,
};

/// Rounds for each seed: `DIRHASH_ROUNDS` says how many more.
fn rounds() -> u64 {
    let more = std::env::var("DIRHASH_ROUNDS").ok();
    more.and_then(|more| more.parse().ok()).unwrap_or(4)
}

fn volume(format: Format, order: Order) -> (Arc<Volume>, Arc<TestDisk>) {
    let mut options = options(format, order, 8192, 1024);
    options.density = Some(4096);
    let image = Image::new(options);
    let disk = TestDisk::writable(image.bytes);
    let volume = Volume::new(image.sb, devvp(disk.clone()));
    volume
        .open_for_writing(false, false)
        .expect("it can be written");
    (Arc::new(volume), disk)
}

fn root(volume: &Arc<Volume>) -> Node {
    let inode = Inode::load(&volume.sb, &volume.device, UFS_ROOTINO).expect("there is a root");
    Node::new(volume.clone(), inode)
}

fn node(volume: &Arc<Volume>, ino: u32) -> Node {
    let inode = Inode::load(&volume.sb, &volume.device, ino).expect("there is such a file");
    Node::new(volume.clone(), inode)
}

/// What reading the directory says.
fn read(dir: &Node, name: &[u8]) -> Result<Option<Found>, Fault> {
    let volume = &dir.volume;
    lookup::lookup(&volume.sb, &volume.device, &dir.inode(), name, 0)
}

fn has_hash(dir: &Node) -> bool {
    dir.hashed
        .get()
        .is_some_and(|hashed| hashed.with(|_| ()).is_some())
}

/// Names of every length, some of which collide in all but the end.
fn name(random: &mut Random) -> Vec<u8> {
    let number = random.below(900);
    let length = 1 + (number * 7 % 255) as usize;
    let mut name = format!("{number}-").into_bytes();
    name.resize(length.max(name.len()), b'x');
    name
}

#[test]
fn a_hashed_directory_answers_as_a_read_one_through_changes_and_drains() {
    for (seed, format, order) in [(1, UFS1, Order::Little), (2, UFS2, Order::Big)] {
        let mut random = Random::new(seed);
        let (volume, _) = volume(format, order);
        let dir = root(&volume);
        let mut model: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        let (mut hashed, mut drained) = (0, 0);
        for round in 0..rounds() * 1000 {
            let name = name(&mut random);
            // It grows at first, shrinks in the end, and is in between between.
            let grows = random.below(rounds() * 1000) > round;
            match (model.get(&name), grows) {
                (None, true) => {
                    let ino = dir.make_file(&name, &NEW).expect("there is room");
                    model.insert(name, ino as u32);
                }
                (Some(&ino), false) => {
                    let target = node(&volume, ino);
                    dir.remove_file(&name, &target).expect("it is there");
                    model.remove(&name);
                    let mut inode = target.inode();
                    volume.erase(&mut inode).expect("it can be erased");
                    volume.release(ino, false);
                }
                (known, _) => {
                    let found = dir.find(&dir.inode(), &name).expect("nothing is wrong");
                    assert_eq!(found.map(|found| found.ino), known.copied(), "seed {seed}");
                    assert_eq!(found, read(&dir, &name).expect("it can be read"));
                }
            }
            hashed += u32::from(has_hash(&dir));
            if random.below(40) == 0 {
                let hashes = volume.hashes.as_ref().expect("there is memory");
                drained += hashes.drain(1);
                assert!(!has_hash(&dir));
            }
        }
        for (name, ino) in &model {
            assert_eq!(dir.lookup(name).map(|ino| ino as u32), Ok(*ino));
        }
        assert!(
            hashed > 1000 && drained > 10,
            "seed {seed}: {hashed}, {drained}"
        );
        let quota = &volume.hashes.as_ref().expect("it is there").quota;
        dir.hashed.get().expect("it was hashed").forget();
        assert_eq!(quota.used.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_spoiled_directory_is_read_with_the_fault_and_the_names_that_reading_finds() {
    for seed in 0..rounds() * 10 {
        let mut random = Random::new(seed);
        let (volume, disk) = volume(UFS2, Order::Little);
        let dir = root(&volume);
        let names: Vec<String> = (0..300).map(|n| format!("a name {n}")).collect();
        for name in &names {
            dir.make_file(name.as_bytes(), &NEW).expect("there is room");
        }
        let is_hashed_before = random.below(2) == 0;
        if is_hashed_before {
            let _ = dir.lookup(b"nothing").expect_err("it is not there");
            assert!(has_hash(&dir));
        }
        volume
            .device
            .flush(rumpvfs::vnode::Wait::Stable)
            .expect("memory does not fail");
        for _ in 0..1 + random.below(3) {
            let unit = random.below(dir.inode().size / UNIT) * UNIT;
            let (sb, device) = (&volume.sb, &volume.device);
            let (at, _) = crate::dir::place(sb, device, &dir.inode(), unit, UNIT).expect("a place");
            let at = at + random.below(UNIT);
            disk.bytes.lock().unwrap()[at as usize] = random.interesting() as u8;
        }
        for sector in 0..volume.device.sectors() {
            volume.device.invalidate(sector, SECTOR_SIZE);
        }
        for name in &names {
            let (found, read) = (
                dir.find(&dir.inode(), name.as_bytes()),
                read(&dir, name.as_bytes()),
            );
            match (found, read) {
                (Ok(found), Ok(read)) if !is_hashed_before => {
                    assert_eq!(found, read, "seed {seed}")
                }
                // What was learnt before it was spoiled may lead past what is wrong, never to something else.
                (Ok(Some(found)), Ok(Some(read))) => assert_eq!(found.ino, read.ino, "seed {seed}"),
                (Err(Fault::Corrupt(_)), Err(Fault::Corrupt(_))) => {}
                (found, read) => {
                    assert!(is_hashed_before, "seed {seed}: {found:?}, not {read:?}");
                }
            }
        }
    }
}

#[test]
fn a_hash_that_gets_no_memory_leaves_the_directory_to_be_read() {
    let (volume, _) = volume(UFS2, Order::Little);
    let dir = root(&volume);
    for n in 0..300 {
        dir.make_file(format!("{n}").as_bytes(), &NEW)
            .expect("there is room");
    }
    let quota = &volume.hashes.as_ref().expect("it is there").quota;
    let most = Quota::most();
    quota.used.fetch_add(most, Ordering::AcqRel);
    for n in 0..300 {
        dir.lookup(format!("{n}").as_bytes()).expect("it is there");
        assert!(!has_hash(&dir));
    }
    quota.give(most);
    for _ in 0..dir.inode().size / UNIT + 1 {
        dir.lookup(b"7").expect("it is there");
    }
    assert!(has_hash(&dir), "it was tried again");
}

#[test]
fn of_more_directories_than_have_places_the_least_recently_used_loses_its_hash() {
    let (volume, _) = volume(UFS1, Order::Little);
    let hashes = volume.hashes.as_ref().expect("it is there");
    let all: Vec<_> = (0..MOST_HASHES + 1)
        .map(|_| Arc::new(Hashed::default()))
        .collect();
    for hashed in &all {
        hashes.candidates(hashed, 10, b"a", |hash| hash.insert(b"a", 0).is_ok());
    }
    let here = |hashed: &Arc<Hashed>| hashed.with(|_| ()).is_some();
    assert!(!here(&all[0]));
    assert!(all[1..].iter().all(here));
}

#[test]
fn names_are_found_where_they_were_put_and_nowhere_after_they_went() {
    let quota = Arc::new(Quota::default());
    let _host = devvp(TestDisk::new(std::vec![0; 512]));
    drop(Frame::alloc(Alloc::NoWait).expect("there is memory"));
    for seed in 0..rounds() {
        let mut random = Random::new(seed);
        let mut hash = DirHash::new(HashKey::new([seed, 1]), &quota).expect("there is memory");
        let mut model: BTreeSet<(u64, u64)> = BTreeSet::new();
        for _ in 0..20_000 {
            let (name, offset) = (random.below(1500), random.below(2) * 512);
            let bytes = name.to_le_bytes();
            if model.remove(&(name, offset)) {
                hash.remove(&bytes, offset);
            } else {
                hash.insert(&bytes, offset).expect("there is memory");
                model.insert((name, offset));
            }
            let (name, found) = {
                let name = random.below(1500);
                (name, hash.candidates(&name.to_le_bytes()))
            };
            for offset in [0, 512] {
                let is_there = found.as_slice().contains(&offset);
                assert_eq!(is_there, model.contains(&(name, offset)), "seed {seed}");
            }
            assert_eq!(hash.names, model.len());
        }
    }
}

#[test]
fn room_is_found_in_the_first_unit_that_has_it() {
    let quota = Arc::new(Quota::default());
    let _host = devvp(TestDisk::new(std::vec![0; 512]));
    drop(Frame::alloc(Alloc::NoWait).expect("there is memory"));
    for seed in 0..rounds() {
        let mut random = Random::new(seed);
        let mut hash = DirHash::new(HashKey::new([seed, 1]), &quota).expect("there is memory");
        let mut model: Vec<usize> = Vec::new();
        for _ in 0..5_000 {
            match random.below(8) {
                0 => {
                    model.push(random.below(129) as usize * 4);
                    let last = model.len() - 1;
                    hash.set_room(last as u64 * UNIT, model[last])
                        .expect("memory");
                }
                1 if model.len() > 200 => {
                    model.truncate(model.len() - random.below(70) as usize);
                    hash.cut(model.len() as u64 * UNIT).expect("it is shorter");
                }
                _ if !model.is_empty() => {
                    let unit = random.below(model.len() as u64) as usize;
                    model[unit] = random.below(30) as usize * 4;
                    hash.set_room(unit as u64 * UNIT, model[unit])
                        .expect("memory");
                }
                _ => {}
            }
            let need = 12 + random.below(60) as usize * 4;
            let first = model.iter().position(|room| *room >= need);
            assert_eq!(
                hash.find_room(need),
                first.map(|unit| unit as u64 * UNIT),
                "seed {seed}"
            );
        }
    }
}
