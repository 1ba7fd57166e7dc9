//! The log: what it commits is there after any power cut, and nothing else is.

mod testfs;

use rumpkern::uvm::dma::{Bio, BioOp};
use rumpuser::Errno;
use rumpvfs::bufcache::{BufCache, Devvp};
use rumpvfs::specfs::{BlockIo, DeviceInfo};
use rumpvfs::wapbl::raw::{self, ByteOrder};
use rumpvfs::wapbl::{Bounds, Client, Log, LogError, Orphan, Place, Replay, Source};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use testfs::attach;

const MEMORY: usize = 8 << 20;
const SECTORS: usize = 4096;
const BLOCKS: usize = 24;
/// Where the metadata are, beyond the log.
const FIRST: u64 = 2048;

enum Event {
    Write(usize, Vec<u8>),
    Flush,
}

/// A disk with a volatile cache that remembers in which order it was written to.
struct Recorder {
    bytes: Mutex<Vec<u8>>,
    events: Mutex<Vec<Event>>,
    /// Writes from this sector on fail.
    fails_from: AtomicU64,
}

impl Recorder {
    fn new() -> Arc<Recorder> {
        Arc::new(Recorder {
            bytes: Mutex::new(vec![0; SECTORS * 512]),
            events: Mutex::new(Vec::new()),
            fails_from: AtomicU64::new(u64::MAX),
        })
    }

    fn flushes(&self) -> usize {
        let events = self.events.lock().unwrap();
        let flush = |event: &&Event| matches!(event, Event::Flush);
        events.iter().filter(flush).count()
    }
}

impl BlockIo for Recorder {
    fn name(&self) -> &str {
        "recorder"
    }

    fn dev(&self) -> u64 {
        77
    }

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            sectors: SECTORS as u64,
            sector_size: 512,
            read_only: false,
            volatile_cache: true,
            discard: false,
            max_bytes: 128 * 1024,
        }
    }

    fn start(&self, mut bio: Bio) -> Result<(), (Errno, Bio)> {
        let mut at = bio.sector as usize * 512;
        let mut written = Vec::new();
        let mut bytes = self.bytes.lock().unwrap();
        let fails = bio.op == BioOp::Write && bio.sector >= self.fails_from.load(Ordering::Relaxed);
        for io in bio.frames.iter_mut().filter(|_| !fails) {
            let part = io.offset..io.offset + io.len;
            let disk = &mut bytes[at..at + io.len];
            if bio.op == BioOp::Read {
                io.frame.get_mut().expect("nobody else's")[part].copy_from_slice(disk);
            } else {
                disk.copy_from_slice(&io.frame.as_bytes()[part]);
                written.extend_from_slice(disk);
            }
            at += io.len;
        }
        drop(bytes);
        let mut events = self.events.lock().unwrap();
        match bio.op {
            BioOp::Write if !fails => {
                events.push(Event::Write(bio.sector as usize * 512, written));
            }
            BioOp::Flush => events.push(Event::Flush),
            _ => {}
        }
        drop(events);
        let result = if fails { Err(Errno::EIO) } else { Ok(()) };
        (bio.done)(bio.frames, result);
        Ok(())
    }
}

/// Bytes to read a log from.
struct Bytes<'a>(&'a [u8]);

impl Source for Bytes<'_> {
    fn read(&self, sector: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let at = sector as usize * 512;
        bytes.copy_from_slice(self.0.get(at..at + bytes.len()).ok_or(Errno::EINVAL)?);
        Ok(())
    }
}

/// Counts commits.
#[derive(Default)]
struct Counting(AtomicU64);

impl Client for Counting {
    fn before_commit(&self) -> Result<(), Errno> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn place(order: ByteOrder) -> Place {
    Place {
        order,
        start: 16,
        blocks: 512,
        block_size: 512,
    }
}

fn rig(order: ByteOrder) -> (Arc<Recorder>, Devvp, Arc<Log>) {
    let disk = Recorder::new();
    let devvp = Devvp::new(BufCache::new(8, [1, 2]).unwrap(), disk.clone());
    let log = Arc::new(Log::create(&devvp, &place(order)).expect("there is room"));
    (disk, devvp, log)
}

fn replay(bytes: &[u8], order: ByteOrder) -> Result<Replay, LogError> {
    let bounds = Bounds {
        sectors: SECTORS as u64,
        inodes: 2..10_000,
    };
    Replay::read(&Bytes(bytes), &place(order), &bounds)
}

fn sector_of(block: usize) -> u64 {
    FIRST + block as u64 * 8
}

/// The first number in each block, as it is after replay.
fn numbers(bytes: &[u8], replay: &Replay) -> Vec<u64> {
    (0..BLOCKS)
        .map(|block| {
            let mut piece = [0; 4096];
            let source = Bytes(bytes);
            source.read(sector_of(block), &mut piece).unwrap();
            replay
                .overlay(&source, sector_of(block), &mut piece)
                .unwrap();
            // All of a block is of one operation.
            let word = |n: usize| u64::from_le_bytes(piece[n * 8..n * 8 + 8].try_into().unwrap());
            assert!(
                (0..512).all(|n| word(n) == word(0)),
                "block {block} is torn"
            );
            word(0)
        })
        .collect()
}

fn set(devvp: &Devvp, block: usize, number: u64) {
    let mut buf = devvp.bmodify(sector_of(block), 4096).unwrap();
    for word in buf.chunks_exact_mut(8) {
        word.copy_from_slice(&number.to_le_bytes());
    }
    buf.bdwrite();
}

struct Random(u64);

impl Random {
    /// Vigna, "SplitMix64".
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// What the disk may hold if the power fails after the first `cut` events: all that was flushed, and any sectors of the rest.
fn after_cut(events: &[Event], cut: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0; SECTORS * 512];
    let is_flush = |event: &Event| matches!(event, Event::Flush);
    let stable = events[..cut].iter().rposition(is_flush).unwrap_or(0);
    for (n, event) in events[..cut].iter().enumerate() {
        let Event::Write(at, written) = event else {
            continue;
        };
        for (sector, from) in written.chunks_exact(512).zip((*at..).step_by(512)) {
            if n < stable || random.below(2) == 0 {
                bytes[from..from + 512].copy_from_slice(sector);
            }
        }
    }
    bytes
}

#[test]
fn after_any_power_cut_there_are_whole_operations_up_to_some_one_and_all_that_were_flushed() {
    let _lwp = attach(MEMORY);
    let seeds = std::env::var("WAPBL_SEEDS").ok();
    let seeds = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(3);
    for seed in 0..seeds {
        let order = [ByteOrder::Little, ByteOrder::Big][seed as usize % 2];
        println!("seed {seed}");
        let mut random = Random(seed);
        let (disk, devvp, log) = rig(order);
        let client = Counting::default();
        let begun = disk.events.lock().unwrap().len();
        let mut states = vec![vec![0; BLOCKS]];
        // After how many events how many operations were flushed.
        let mut flushed = vec![(begun, 0)];
        for number in 1..=120u64 {
            let operation = log.begin(&client, 4).unwrap();
            let mut state = states.last().unwrap().clone();
            for _ in 0..1 + random.below(4) {
                let block = random.below(BLOCKS);
                set(&devvp, block, number);
                state[block] = number;
            }
            drop(operation);
            states.push(state);
            if random.below(6) == 0 {
                log.flush(&client).unwrap();
                flushed.push((disk.events.lock().unwrap().len(), number as usize));
            }
        }
        let events = disk.events.lock().unwrap();
        for cut in begun..=events.len() {
            for _ in 0..2 {
                let bytes = after_cut(&events, cut, &mut random);
                let replay = replay(&bytes, order).expect("a log");
                let found = numbers(&bytes, &replay);
                let least = flushed.iter().rfind(|(at, _)| *at <= cut).unwrap().1;
                assert!(
                    states[least..].contains(&found),
                    "seed {seed}, cut {cut}: {found:?}"
                );
            }
        }
    }
}

/// A thread that commits within an operation would wait for itself.
#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "locking against myself: operation of a log")]
fn a_commit_within_an_operation_is_found_out() {
    let _lwp = attach(MEMORY);
    let (_, _, log) = rig(ByteOrder::Little);
    let client = Counting::default();
    let _operation = log.begin(&client, 1).unwrap();
    let _ = log.flush(&client);
}

#[test]
fn stopping_leaves_an_empty_log_and_everything_in_place() {
    let _lwp = attach(MEMORY);
    let (disk, devvp, log) = rig(ByteOrder::Little);
    let client = Counting::default();
    for block in 0..BLOCKS {
        let _operation = log.begin(&client, 1).unwrap();
        set(&devvp, block, block as u64 + 1);
    }
    log.stop(&client).unwrap();
    let bytes = disk.bytes.lock().unwrap().clone();
    let replay = replay(&bytes, ByteOrder::Little).unwrap();
    assert_eq!((replay.header().head, replay.entries().len()), (0, 0));
    let expected: Vec<u64> = (1..=BLOCKS as u64).collect();
    assert_eq!(numbers(&bytes, &replay), expected);
}

#[test]
fn inodes_without_a_name_are_in_the_log_as_long_as_they_have_none() {
    let _lwp = attach(MEMORY);
    let (disk, devvp, log) = rig(ByteOrder::Little);
    let client = Counting::default();
    let orphans = || {
        let bytes = disk.bytes.lock().unwrap().clone();
        replay(&bytes, ByteOrder::Little)
            .unwrap()
            .orphans()
            .to_vec()
    };
    // More than one record holds.
    for ino in 2..152 {
        let _operation = log.begin(&client, 0).unwrap();
        log.register_inode(ino, 0o100_000).unwrap();
        log.register_inode(ino, 0o100_000).unwrap();
    }
    log.flush(&client).unwrap();
    let all: Vec<Orphan> = (2..152)
        .map(|ino| Orphan {
            ino,
            mode: 0o100_000,
        })
        .collect();
    assert_eq!(orphans(), all);
    // They survive checkpoints.
    for round in 0..100 {
        let operation = log.begin(&client, 4).unwrap();
        (0..4).for_each(|n| set(&devvp, (round + n) % BLOCKS, round as u64));
        drop(operation);
        log.flush(&client).unwrap();
        assert_eq!(orphans().len(), 150);
    }
    assert_eq!(log.stop(&client), Err(Errno::EBUSY));
    for ino in 2..152 {
        let _operation = log.begin(&client, 0).unwrap();
        log.unregister_inode(ino);
    }
    log.flush(&client).unwrap();
    assert_eq!(orphans(), []);
    log.stop(&client).unwrap();
}

#[test]
fn what_is_revoked_is_not_replayed_over_what_is_there_now() {
    let _lwp = attach(MEMORY);
    let (disk, devvp, log) = rig(ByteOrder::Little);
    let client = Counting::default();
    let operation = log.begin(&client, 2).unwrap();
    set(&devvp, 0, 1);
    set(&devvp, 1, 1);
    drop(operation);
    log.flush(&client).unwrap();
    let operation = log.begin(&client, 2).unwrap();
    devvp.invalidate(sector_of(0), 4096);
    log.revoke(sector_of(0), 4096).unwrap();
    drop(operation);
    log.flush(&client).unwrap();
    let bytes = disk.bytes.lock().unwrap().clone();
    let replay = replay(&bytes, ByteOrder::Little).unwrap();
    assert!(!replay.is_logged(sector_of(0), sector_of(1)));
    assert!(replay.is_logged(sector_of(1), sector_of(2)));
}

#[test]
fn a_commit_costs_two_flushes_and_nothing_to_commit_one() {
    let _lwp = attach(MEMORY);
    let (disk, devvp, log) = rig(ByteOrder::Little);
    let client = Counting::default();
    let before = disk.flushes();
    let operation = log.begin(&client, 1).unwrap();
    set(&devvp, 0, 1);
    drop(operation);
    log.flush(&client).unwrap();
    assert_eq!(disk.flushes() - before, 2);
    log.flush(&client).unwrap();
    assert_eq!(disk.flushes() - before, 3);
}

#[test]
fn threads_share_commits_and_none_returns_before_its_own_is_there() {
    let _lwp = attach(MEMORY);
    let (disk, devvp, log) = rig(ByteOrder::Little);
    let client = Counting::default();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (disk, devvp, log, client) = (&disk, &devvp, &log, &client);
            scope.spawn(move || {
                let _lwp = attach(MEMORY);
                for number in 1..=20 {
                    let operation = log.begin(client, 1).unwrap();
                    set(devvp, thread, number);
                    drop(operation);
                    log.flush(client).unwrap();
                    let bytes = disk.bytes.lock().unwrap().clone();
                    if let Ok(replay) = replay(&bytes, ByteOrder::Little) {
                        assert!(numbers(&bytes, &replay)[thread] >= number);
                    }
                }
            });
        }
    });
    assert!(client.0.load(Ordering::Relaxed) <= 8 * 20 + 8);
}

#[test]
fn a_log_that_cannot_be_written_fails_and_the_disk_is_as_before() {
    let _lwp = attach(MEMORY);
    let (disk, devvp, log) = rig(ByteOrder::Little);
    let client = Counting::default();
    let operation = log.begin(&client, 1).unwrap();
    set(&devvp, 0, 1);
    drop(operation);
    disk.fails_from.store(0, Ordering::Relaxed);
    assert_eq!(log.flush(&client), Err(Errno::EIO));
    let bytes = disk.bytes.lock().unwrap().clone();
    assert_eq!(
        replay(&bytes, ByteOrder::Little).unwrap().entries().len(),
        0
    );
    // Only records were not written: the transaction is still there.
    disk.fails_from.store(u64::MAX, Ordering::Relaxed);
    log.flush(&client).unwrap();
    let bytes = disk.bytes.lock().unwrap().clone();
    assert_eq!(
        replay(&bytes, ByteOrder::Little).unwrap().entries().len(),
        1
    );
}

#[test]
fn while_metadata_cannot_be_written_in_place_operations_get_the_disks_error_and_afterwards_all_is_well()
 {
    let _lwp = attach(MEMORY);
    let (disk, devvp, log) = rig(ByteOrder::Little);
    let client = Counting::default();
    disk.fails_from.store(FIRST, Ordering::Relaxed);
    let (mut told, mut newest) = (0, 0);
    // There is room yet: an operation begins whoever was told what.
    let operation = log.begin(&client, 1).expect("nothing failed so far");
    set(&devvp, 0, 1);
    drop(operation);
    assert_eq!(log.settle(&client), Err(Errno::EIO));
    drop(log.begin(&client, 1).expect("the log is nearly empty"));
    for number in 2..=300 {
        match log.begin(&client, 1) {
            Ok(operation) => {
                // Fewer than the cache has, and never the first again: what is held anew need not be in place.
                set(&devvp, 1 + number as usize % 3, number);
                drop(operation);
                newest = number;
                let flushed = log.flush(&client);
                assert!(flushed.is_ok() || flushed == Err(Errno::EIO), "{flushed:?}");
            }
            Err(errno) => {
                assert_eq!(errno, Errno::EIO, "operation {number}");
                told += 1;
            }
        }
    }
    assert!(told > 200, "{told}");
    // The log has what was committed.
    let bytes = disk.bytes.lock().unwrap().clone();
    let held = replay(&bytes, ByteOrder::Little).expect("a log");
    assert_eq!(numbers(&bytes, &held).into_iter().max(), Some(newest));
    // Once the disk takes it, it is in place, and operations begin again.
    disk.fails_from.store(u64::MAX, Ordering::Relaxed);
    let operation = log.begin(&client, 1).expect("the disk is well");
    set(&devvp, 0, newest + 1);
    drop(operation);
    log.settle(&client).expect("the disk is well");
    let bytes = disk.bytes.lock().unwrap().clone();
    let empty = replay(&bytes, ByteOrder::Little).expect("a log");
    assert_eq!(empty.entries().len(), 0);
    assert_eq!(numbers(&bytes, &empty).into_iter().max(), Some(newest + 1));
}

#[test]
fn a_place_that_is_none_for_a_log_is_refused() {
    let _lwp = attach(MEMORY);
    let disk = Recorder::new();
    let devvp = Devvp::new(BufCache::new(8, [1, 2]).unwrap(), disk);
    let good = place(ByteOrder::Little);
    for bad in [
        Place {
            blocks: 100,
            ..good
        },
        Place {
            blocks: u64::MAX,
            ..good
        },
        Place {
            block_size: 1000,
            ..good
        },
        Place {
            block_size: 4096,
            ..good
        },
        Place {
            start: u64::MAX,
            ..good
        },
    ] {
        assert!(Log::create(&devvp, &bad).is_err(), "{bad:?}");
    }
    assert_eq!(raw::WC_HEADER, 0x5741_424c);
}
