//! What a change says must be on the disk before it is there first, whatever is changed, flushed and evicted
//! meanwhile, by whom, and whatever the disk refuses.

mod testfs;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use rumpkern::uvm::dma::{Bio, BioOp};
use rumpuser::Errno;
use rumpvfs::bufcache::{BufCache, Devvp};
use rumpvfs::specfs::{BlockIo, DeviceInfo};
use rumpvfs::vnode::Wait;
use testfs::attach;

const MEMORY: usize = 4 << 20;
/// Buffers of the disk, a page each.
const PLACES: u64 = 40;

/// The version of each buffer on the disk, and what had to be there before.
#[derive(Default)]
struct Disk {
    versions: BTreeMap<u64, u64>,
    /// Those that a power cut would leave.
    stable: BTreeMap<u64, u64>,
    /// For a buffer and its version: others, and the version of each.
    needs: BTreeMap<(u64, u64), Vec<(u64, u64)>>,
    broken: Vec<String>,
    requests: usize,
}

impl Disk {
    /// Takes the versions that a request writes. Its parts are written in any order, so all that they need is there already, and
    /// stable.
    fn write(&mut self, parts: &[(u64, u64)], has_cache: bool) {
        self.requests += 1;
        for &(place, version) in parts {
            let before = self.versions.get(&place).copied().unwrap_or(0);
            for (_, needs) in self.needs.range((place, before + 1)..=(place, version)) {
                for &(other, needed) in needs {
                    let there = self.stable.get(&other).copied().unwrap_or(0);
                    if there < needed {
                        self.broken
                            .push(format!("{place} v{version} before {other} v{needed}"));
                    }
                }
            }
        }
        self.versions.extend(parts.iter().copied());
        if !has_cache {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.stable.clone_from(&self.versions);
    }
}

/// A disk whose every buffer begins with its version, served by a thread.
struct Recorder {
    disk: Arc<Mutex<Disk>>,
    fails: Arc<AtomicBool>,
    has_cache: bool,
    queue: Mutex<Sender<Bio>>,
}

/// What a test does while a disk flushes its cache.
type OnFlush = Box<dyn FnMut() + Send>;

impl Recorder {
    fn new() -> Arc<Recorder> {
        Recorder::with(false, Box::new(|| ()))
    }

    /// One that has a cache of its own, or not.
    fn with(has_cache: bool, mut on_flush: OnFlush) -> Arc<Recorder> {
        let (queue, requests) = channel::<Bio>();
        let disk = Arc::new(Mutex::new(Disk::default()));
        let fails = Arc::new(AtomicBool::new(false));
        let (theirs, failing) = (disk.clone(), fails.clone());
        std::thread::spawn(move || {
            for mut bio in requests {
                if bio.op == BioOp::Flush {
                    theirs.lock().unwrap().flush();
                    on_flush();
                    (bio.done)(bio.frames, Ok(()));
                    continue;
                }
                let mut disk = theirs.lock().unwrap();
                let first = bio.sector / 8;
                if bio.op == BioOp::Read {
                    let version = disk.versions.get(&first).copied().unwrap_or(0);
                    let page = bio.frames[0].frame.get_mut().unwrap();
                    page[..8].copy_from_slice(&version.to_le_bytes());
                    drop(disk);
                    (bio.done)(bio.frames, Ok(()));
                    continue;
                }
                let parts: Vec<_> = (first..)
                    .zip(&bio.frames)
                    .map(|(place, io)| (place, version(io.frame.as_bytes())))
                    .collect();
                let result = match failing.load(Ordering::SeqCst) {
                    true => Err(Errno::EIO),
                    false => {
                        disk.write(&parts, has_cache);
                        Ok(())
                    }
                };
                drop(disk);
                (bio.done)(bio.frames, result);
            }
        });
        Arc::new(Recorder {
            disk,
            fails,
            has_cache,
            queue: Mutex::new(queue),
        })
    }
}

fn version(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

impl BlockIo for Recorder {
    fn name(&self) -> &str {
        "recorder"
    }

    fn dev(&self) -> u64 {
        7
    }

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            sectors: PLACES * 8,
            sector_size: 512,
            read_only: false,
            volatile_cache: self.has_cache,
            discard: false,
            max_bytes: 64 * 1024,
        }
    }

    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        let sent = self.queue.lock().unwrap().send(bio);
        sent.expect("the disk's thread is there");
        Ok(())
    }
}

/// Random numbers that a seed repeats (Vigna, "SplitMix64").
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// Changes a random buffer after up to three others. `mine` is what of them this thread has changed, and their versions.
fn change(devvp: &Devvp, disk: &Mutex<Disk>, random: &mut Random, mine: &mut BTreeMap<u64, u64>) {
    let place = random.below(PLACES);
    let known: Vec<_> = mine
        .iter()
        .map(|(place, version)| (*place, *version))
        .collect();
    let count = random.below(4).min(known.len() as u64);
    let needs: Vec<(u64, u64)> = (0..count)
        .map(|_| known[random.below(known.len() as u64) as usize])
        .collect();
    let before: Vec<u64> = needs.iter().map(|(place, _)| place * 8).collect();
    let mut buf = devvp.bmodify_after(place * 8, 4096, &before).unwrap();
    let next = version(&buf) + 1;
    let mut disk = disk.lock().unwrap();
    disk.needs.insert((place, next), needs);
    drop(disk);
    buf[..8].copy_from_slice(&next.to_le_bytes());
    match random.below(30) {
        0 => buf.bwrite().unwrap(),
        _ => buf.bdwrite(),
    }
    mine.insert(place, next);
}

/// Seeded work on a disk with or without a cache, by one thread.
fn seeded(has_cache: bool) {
    let _lwp = attach(MEMORY);
    for (seed, buffers) in [(1, 6), (2, 16), (3, 64), (4, 64)] {
        let recorder = Recorder::with(has_cache, Box::new(|| ()));
        let cache = BufCache::new(buffers, [seed, 4]).unwrap();
        let devvp = Devvp::new(cache, recorder.clone());
        let (mut random, mut mine) = (Random(seed), BTreeMap::new());
        for round in 0..4000 {
            change(&devvp, &recorder.disk, &mut random, &mut mine);
            match random.below(100) {
                0 => devvp.flush(Wait::Stable).unwrap(),
                1 => devvp.flush(Wait::Started).unwrap(),
                2 => devvp.write_through(random.below(PLACES) * 8, 4096),
                _ => {}
            }
            let disk = recorder.disk.lock().unwrap();
            assert_eq!(disk.broken, [""; 0], "seed {seed}, round {round}");
        }
        devvp.flush(Wait::Stable).unwrap();
        let disk = recorder.disk.lock().unwrap();
        assert_eq!(disk.broken, [""; 0], "seed {seed}");
        assert_eq!(disk.stable, mine, "seed {seed}: all is written");
    }
}

#[test]
fn nothing_is_written_before_what_it_needs_with_few_buffers_and_with_many() {
    seeded(false);
}

#[test]
fn nothing_is_written_before_what_it_needs_is_out_of_the_disks_cache() {
    seeded(true);
}

#[test]
fn several_threads_order_their_changes_of_the_same_buffers() {
    let _lwp = attach(MEMORY);
    for has_cache in [false, true] {
        let recorder = Recorder::with(has_cache, Box::new(|| ()));
        let cache = BufCache::new(24, [5, 6]).unwrap();
        let devvp = Devvp::new(cache, recorder.clone());
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let (devvp, recorder) = (devvp.clone(), recorder.clone());
                scope.spawn(move || {
                    let _lwp = attach(MEMORY);
                    let (mut random, mut mine) = (Random(seed), BTreeMap::new());
                    for _ in 0..2000 {
                        change(&devvp, &recorder.disk, &mut random, &mut mine);
                        if random.below(200) == 0 {
                            devvp.flush(Wait::Stable).unwrap();
                        }
                    }
                });
            }
        });
        devvp.flush(Wait::Stable).unwrap();
        assert_eq!(recorder.disk.lock().unwrap().broken, [""; 0]);
    }
}

/// Changes a buffer after others, with one of the versions that `disk` counts.
fn set(devvp: &Devvp, disk: &Mutex<Disk>, place: u64, needs: &[u64]) {
    let before: Vec<u64> = needs.iter().map(|place| place * 8).collect();
    let mut buf = devvp.bmodify_after(place * 8, 4096, &before).unwrap();
    let next = version(&buf) + 1;
    let needs = needs.iter().map(|place| {
        let bytes = devvp.bread(place * 8, 4096).unwrap();
        (*place, version(&bytes))
    });
    let needs = needs.collect();
    disk.lock().unwrap().needs.insert((place, next), needs);
    buf[..8].copy_from_slice(&next.to_le_bytes());
    buf.bdwrite();
}

/// Who needs room looks which buffers to write, flushes the disk, and writes then. What is changed meanwhile comes before one of those
/// that were found.
#[test]
fn what_is_changed_between_the_look_and_the_writing_comes_first() {
    let _lwp = attach(MEMORY);
    let meanwhile: Arc<Mutex<Option<OnFlush>>> = Arc::default();
    let theirs = meanwhile.clone();
    let on_flush = Box::new(move || {
        let meanwhile = theirs.lock().unwrap().take();
        if let Some(mut meanwhile) = meanwhile {
            let _lwp = attach(MEMORY);
            meanwhile();
        }
    });
    let recorder = Recorder::with(true, on_flush);
    let cache = BufCache::new(16, [1, 2]).unwrap();
    let devvp = Devvp::new(cache, recorder.clone());
    set(&devvp, &recorder.disk, 1, &[]);
    devvp.flush(Wait::Stable).unwrap();
    // Less than half are dirty, so nothing is written yet; all others are busy.
    for place in 2..9 {
        set(&devvp, &recorder.disk, place, &[1]);
    }
    let mut first = devvp.bmodify(0, 4096).unwrap();
    let busy: Vec<_> = (10..18)
        .map(|place| devvp.bmodify(place * 8, 4096).unwrap())
        .collect();
    let (theirs, disk) = (devvp.clone(), recorder.disk.clone());
    first[..8].copy_from_slice(&1_u64.to_le_bytes());
    let mut first = Some(first);
    *meanwhile.lock().unwrap() = Some(Box::new(move || {
        first.take().unwrap().bdwrite();
        set(&theirs, &disk, 2, &[0]);
    }));
    devvp.bread(20 * 8, 4096).unwrap();
    assert!(meanwhile.lock().unwrap().is_none(), "nothing was flushed");
    drop(busy);
    devvp.flush(Wait::Stable).unwrap();
    let disk = recorder.disk.lock().unwrap();
    assert_eq!(disk.broken, [""; 0]);
    assert_eq!((disk.stable[&0], disk.stable[&2]), (1, 2));
}

#[test]
fn a_change_that_only_follows_others_waits_for_nothing_and_neighbours_go_together() {
    let _lwp = attach(MEMORY);
    let recorder = Recorder::new();
    let cache = BufCache::new(64, [7, 8]).unwrap();
    let devvp = Devvp::new(cache, recorder.clone());
    for round in 0..10 {
        for place in 0..16 {
            let mut inode = devvp.bmodify(place * 8, 4096).unwrap();
            inode[8] = round;
            inode.bdwrite();
            let mut name = devvp.bmodify_after(20 * 8, 4096, &[place * 8]).unwrap();
            name[8] = round;
            name.bdwrite();
        }
    }
    assert_eq!(recorder.disk.lock().unwrap().requests, 0);
    devvp.flush(Wait::Stable).unwrap();
    assert_eq!(recorder.disk.lock().unwrap().requests, 2);
}

#[test]
fn a_disk_that_refuses_everything_for_a_while_loses_nothing_and_stops_nobody() {
    let _lwp = attach(MEMORY);
    let recorder = Recorder::new();
    let cache = BufCache::new(64, [9, 1]).unwrap();
    let devvp = Devvp::new(cache, recorder.clone());
    let mut last = BTreeMap::new();
    let mut set = |place: u64, before: &[u64]| {
        let mut buf = devvp.bmodify_after(place * 8, 4096, before).unwrap();
        let next = version(&buf) + 1;
        buf[..8].copy_from_slice(&next.to_le_bytes());
        buf.bdwrite();
        last.insert(place, next);
    };
    set(1, &[]);
    set(2, &[8]);
    recorder.fails.store(true, Ordering::SeqCst);
    assert_eq!(devvp.flush(Wait::Stable), Err(Errno::EIO));
    // Either order, although neither can be written.
    set(1, &[16]);
    set(2, &[8]);
    assert_eq!(devvp.flush(Wait::Stable), Err(Errno::EIO));
    recorder.fails.store(false, Ordering::SeqCst);
    devvp.flush(Wait::Stable).unwrap();
    assert_eq!(recorder.disk.lock().unwrap().versions, last);
}
