//! The power goes while a guest writes: QEMU records every write and flush of its disk, and the disk as it may be after a cut at
//! any of them is mounted in this process and looked at.
//!
//! The guest (`powercut_guest`) changes files in several threads, and after each change writes to a sector of its own how far it is.
//! So the record says what had returned before each moment; what must hold then is [`powercut::judge`]'s: without a log after a repair,
//! with one after a replay, by reading only or by writing, and then there is nothing to repair. `RUMP_POWER_CUTS` says how many cuts of
//! each kind; an image that is not as it may be is kept.

use powercut::history::History;
use powercut::judge::{Found, Rule, judge};
use powercut::plan::{Marker, Past, Plan};
use rump_tests::blklog::{self, Entry};
use rump_tests::disk::Format;
use rump_tests::guest::Boot;
use rump_tests::hosted::Mounted;
use rump_tests::image::image;
use rump_tests::random::Random;
use rump_tests::spoil::Image;
use rump_tests::{scratch, volume};
use rumpdev::md::MemoryDisk;
use rumpfs_ffs::check::check;
use rumpfs_ffs::superblock::{self, Clean, Flags, Superblock, Tolerance};
use rumpuser::Errno;
use rumpvfs::vnode::{VnodeRef, VnodeType};
use std::ops::Range;
use std::time::Duration;

/// Much: the machine may be busy.
const LONG: Duration = Duration::from_secs(300);
const SECTOR: usize = 512;
/// What a sector that was discarded reads as here: nothing that a file system has anywhere, so that whoever shows it is found.
const DISCARDED: u8 = 0xdb;
/// Bytes behind the volume, for markers: too few for a log.
const BEHIND: u64 = 64 << 10;

/// What a guest is to do.
#[derive(Clone, Copy, Debug)]
struct Work {
    format: Format,
    bytes: u64,
    /// Of the mount.
    options: &'static str,
    /// On the command line.
    words: &'static str,
    threads: u8,
    steps: u32,
}

/// What was recorded of a disk.
struct Recorded {
    before: Vec<u8>,
    entries: Vec<Entry>,
    histories: Vec<History>,
    /// From the first marker on until the last the volume was mounted.
    mounted: Range<usize>,
}

impl Recorded {
    /// Lets a guest do `work` as `seed` says.
    fn of(work: Work, seed: u64) -> Recorded {
        let folder = tempfile::tempdir_in(scratch("power_cuts")).expect("a folder under target");
        let (disk, log) = (folder.path().join("disk"), folder.path().join("log"));
        volume::make(&disk, work.format, work.bytes);
        let file = std::fs::OpenOptions::new().write(true).open(&disk);
        let lengthened = file.and_then(|file| file.set_len(work.bytes + BEHIND));
        lengthened.expect("a file under target");
        let before = std::fs::read(&disk).expect("the volume");
        let markers = work.bytes / SECTOR as u64;
        let words = format!(
            "mount=ld0:/:ffs:{} {} threads={} steps={} seed={seed} markers={markers}",
            work.options, work.words, work.threads, work.steps
        );
        let mut boot = Boot::new(image("powercut_guest"))
            .memory("32")
            .without_network()
            .keeping_writes()
            .append(&words)
            .limit(LONG);
        for argument in blklog::drive(&disk, &log) {
            boot = boot.qemu_arg(&argument);
        }
        let mut guest = boot.start();
        assert_eq!(guest.exit_status(LONG), 0, "{}", guest.console());
        let entries = blklog::read(&log);
        let histories = histories(work, seed, &entries);
        let is_marker =
            |entry: &Entry| matches!(entry, Entry::Write(start, _) if *start >= work.bytes);
        let first = entries.iter().position(is_marker).expect("a marker");
        let last = entries.iter().rposition(is_marker).expect("a marker");
        Recorded {
            before,
            entries,
            histories,
            mounted: first + 1..last + 1,
        }
    }

    /// The moments at which the power can go: before each entry, and after the last.
    fn moments(&self) -> usize {
        self.entries.len() + 1
    }

    /// What the disk may hold after a cut: all that was done before `moment`, or with `random` of what was done since the last flush
    /// before it only some, and only some sectors.
    fn cut(&self, moment: usize, mut random: Option<&mut Random>) -> Vec<u8> {
        let mut bytes = self.before.clone();
        let entries = &self.entries[..moment];
        let stable = entries.iter().rposition(|entry| *entry == Entry::Flush);
        for (at, entry) in entries.iter().enumerate() {
            let is_stable = stable.is_some_and(|stable| at < stable);
            let random = random.as_deref_mut().filter(|_| !is_stable);
            match entry {
                Entry::Write(start, data) => put(&mut bytes, *start as usize, data, random),
                Entry::Discard(start, len) => {
                    let discarded = vec![DISCARDED; *len as usize];
                    put(&mut bytes, *start as usize, &discarded, random);
                }
                Entry::Flush => {}
            }
        }
        bytes
    }
}

/// Writes all of `data`, or as `random` says all, nothing, the beginning, or any sectors.
fn put(bytes: &mut [u8], start: usize, data: &[u8], random: Option<&mut Random>) {
    let Some(random) = random else {
        bytes[start..start + data.len()].copy_from_slice(data);
        return;
    };
    let beginning = random.below(data.len() / SECTOR + 1);
    let how = random.below(6);
    for (index, sector) in data.chunks(SECTOR).enumerate() {
        let is_left = match how {
            0 | 1 => true,
            2 | 3 => false,
            4 => index < beginning,
            _ => random.below(2) == 0,
        };
        if is_left {
            let at = start + index * SECTOR;
            bytes[at..at + sector.len()].copy_from_slice(sector);
        }
    }
}

/// What became of the files, with the moments of the record: a step was over when its marker was written, and begun when that of
/// the step before was.
fn histories(work: Work, seed: u64, entries: &[Entry]) -> Vec<History> {
    let first = work.bytes;
    let mut threads: Vec<_> = (0..work.threads)
        .map(|thread| (Plan::new(seed, thread), Past::default(), 0, 0))
        .collect();
    for (at, entry) in entries.iter().enumerate() {
        let Entry::Write(start, data) = entry else {
            continue;
        };
        // QEMU makes one write of neighbours.
        for marker in data.chunks(SECTOR).filter_map(Marker::decode) {
            assert!(*start >= first, "a marker in a file");
            let (plan, past, done, since) = &mut threads[usize::from(marker.thread)];
            *done += 1;
            assert_eq!(marker.steps, *done, "a marker of each step");
            let step = plan.next().expect("a plan has no end");
            past.done(&step, (*since, at + 1), marker.ino);
            *since = at + 1;
        }
    }
    threads
        .into_iter()
        .flat_map(|(_, past, done, _)| {
            assert_eq!(done, work.steps);
            past.histories()
        })
        .collect()
}

/// Every file of a volume.
fn files(mounted: &Mounted) -> Result<Vec<Found>, Errno> {
    let mut found = Vec::new();
    add(mounted, "", &mounted.file("/")?, &mut found)?;
    Ok(found)
}

fn add(
    mounted: &Mounted,
    path: &str,
    directory: &VnodeRef,
    found: &mut Vec<Found>,
) -> Result<(), Errno> {
    for name in mounted.names(directory)? {
        let path = format!("{path}/{}", String::from_utf8_lossy(&name));
        let file = mounted.file(&path)?;
        match file.vtype() {
            VnodeType::Dir => add(mounted, &path, &file, found)?,
            VnodeType::Reg => {
                let (ino, len) = (file.ino(), file.size() as usize);
                let bytes = mounted.read(&file, 0, len)?;
                found.push(Found { path, ino, bytes });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Mounts what is left, and gives all files, and what is on the disk afterwards.
fn look(bytes: Vec<u8>, options: &str) -> (Vec<Found>, Vec<u8>) {
    let disk = MemoryDisk::new(bytes);
    let mounted = Mounted::new(disk.clone(), options).expect("it can be mounted");
    let found = files(&mounted).expect("all of it can be read");
    mounted.end().expect("it can be unmounted");
    (found, disk.with_bytes(|bytes| bytes.to_vec()))
}

fn superblock_of(bytes: &[u8]) -> Superblock {
    superblock::find(&Image(bytes), Tolerance::default()).expect("a superblock")
}

fn judged(recorded: &Recorded, found: &[Found], moment: usize, rule: Rule) {
    let judged = judge(found, &recorded.histories, moment, rule);
    judged.unwrap_or_else(|what| panic!("{what}"));
}

/// Looks at a volume without a log after a cut, which is repaired.
fn repair(recorded: &Recorded, moment: usize, bytes: Vec<u8>, _: &mut Random) {
    let mut image = volume::Bytes(bytes);
    volume::repair(&mut image);
    let (found, _) = look(image.0, "ro");
    judged(recorded, &found, moment, Rule::Repaired);
}

/// Looks at a volume with a log after a cut: the mount replays it, in one of all ways, and nothing is wrong with it then.
fn replay(recorded: &Recorded, moment: usize, bytes: Vec<u8>, random: &mut Random) {
    let sb = superblock_of(&bytes);
    let is_logged = sb.flags.contains(Flags::DOWAPBL);
    let is_mounted = recorded.mounted.contains(&moment);
    assert!(is_logged || !is_mounted, "it has no log");
    // While its log is made, there is none yet that holds what changes.
    let is_sound = is_logged || sb.clean == Clean::IS_CLEAN;
    let (bytes, rule) = match is_sound {
        true => (bytes, Rule::Replayed),
        false => {
            let mut image = volume::Bytes(bytes);
            volume::repair(&mut image);
            (image.0, Rule::Repaired)
        }
    };
    let options = ["ro", "rw", "rw,log", "rw,log,discard"][random.below(4)];
    println!("mounted {options}");
    let (found, left) = look(bytes.clone(), options);
    judged(recorded, &found, moment, rule);
    if options == "ro" {
        assert!(left == bytes, "it was mounted to read");
        return;
    }
    assert_eq!(superblock_of(&left).clean, Clean::IS_CLEAN);
    let report = check(&Image(&left)).expect("it can be checked");
    let wrong: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Keeps an image while somebody looks at it, if he panics.
struct Kept<'a>(&'a [u8]);

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = scratch("power_cuts").join(format!("{}.img", std::process::id()));
            match std::fs::write(&path, self.0) {
                Ok(()) => eprintln!("the image is {}", path.display()),
                Err(error) => eprintln!("{}: {error}", path.display()),
            }
        }
    }
}

/// Looks at a volume after a cut.
type Look = fn(&Recorded, usize, Vec<u8>, &mut Random);

/// Cuts what guests recorded at as many moments as `RUMP_POWER_CUTS` says.
fn cuts(mut work: impl FnMut(&mut Random) -> Work, look: Look) {
    let wanted = std::env::var("RUMP_POWER_CUTS").ok();
    let mut left: usize = wanted.and_then(|cuts| cuts.parse().ok()).unwrap_or(100);
    let mut random = Random::announced();
    while left > 0 {
        let seed = random.number() % 1_000_000;
        let work = work(&mut random);
        println!("guest seed {seed}: {work:?}");
        let recorded = Recorded::of(work, seed);
        let moments = recorded.moments();
        let count = |is: fn(&&Entry) -> bool| recorded.entries.iter().filter(is).count();
        println!(
            "{moments} moments, {} flushes, {} discards",
            count(|entry| **entry == Entry::Flush),
            count(|entry| matches!(entry, Entry::Discard(..)))
        );
        // Every prefix if so many are wanted, and as many others.
        let here = left.min(2 * moments);
        for number in 0..here {
            let moment = match here == 2 * moments {
                true => number / 2,
                false => random.below(moments),
            };
            let seed = random.number();
            println!("cut at {moment}, seed {seed}, subset {}", number % 2);
            let mut random = Random::new(seed);
            let subset = (number % 2 == 1).then_some(&mut random);
            let bytes = recorded.cut(moment, subset);
            let kept = Kept(&bytes);
            look(&recorded, moment, bytes.clone(), &mut random);
            drop(kept);
        }
        left -= here;
    }
}

/// Volumes that a guest writes to.
const FORMATS: [Format; 3] = [
    Format {
        version: 2,
        big_endian: false,
        block: 4096,
        fragment: 512,
    },
    Format {
        version: 1,
        big_endian: false,
        block: 8192,
        fragment: 1024,
    },
    Format {
        version: 2,
        big_endian: true,
        block: 8192,
        fragment: 2048,
    },
];

fn work(random: &mut Random, bytes: u64, options: [&'static str; 2]) -> Work {
    Work {
        format: FORMATS[random.below(FORMATS.len())],
        bytes,
        options: options[random.below(options.len())],
        words: ["", "memlimit=1M"][random.below(2)],
        threads: 4,
        // Many more fill a log of the least size more than once.
        steps: [60, 60, 400][random.below(3)],
    }
}

#[test]
fn what_a_guest_synced_without_a_log_is_there_after_a_power_cut_and_a_repair() {
    cuts(|random| work(random, 3 << 20, ["rw", "rw,discard"]), repair);
}

#[test]
fn what_a_guest_synced_with_a_log_is_there_after_a_power_cut_and_a_replay() {
    cuts(
        |random| work(random, 6 << 20, ["rw,log", "rw,log,discard"]),
        replay,
    );
}
