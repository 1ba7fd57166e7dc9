//! Bad logs: every field of the headers, of every kind of record, and of what the superblock says of the log, with values that break
//! things. Logs that NetBSD left behind and logs of our own, in both byte orders: refused, or replayed within bounds.
//!
//! Each value is tried on what reads a log; some, as `BAD_LOG_SEED` decides, on mounts, for reading and for writing.
//! `BAD_LOG_MOUNTS` says how many of each image, `all` for all of them.

use std::ops::{Range, RangeInclusive};
use std::sync::Mutex;

use rump_tests::disk::{Disk, Format};
use rump_tests::hosted::Mounted;
use rump_tests::random::Random;
use rump_tests::spoil::Image;
use rump_tests::tree::Tree;
use rump_tests::{scratch, volume};
use rumpdev::md::MemoryDisk;
use rumpfs_ffs::corrupt::{Corrupt, Fault};
use rumpfs_ffs::journal::{self, Journal, Sectors};
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::{self, Flags, Superblock, Tolerance};
use rumpkern::{curproc, uvm};
use rumpuser::Errno;
use rumpuser_hosted::Host;
use rumpvfs::syscalls::OpenFlags;
use rumpvfs::vnode::Wait;
use rumpvfs::wapbl::raw::{WC_BLOCKS, WC_INODES, WC_REVOCATIONS};

const SECTOR: usize = 512;
/// Where the journal's fields are in a superblock (NetBSD sys/ufs/ffs/fs.h, `fs_journal_version`).
const FIELDS: usize = 864;
/// What lies behind the volume, to be left alone.
static GUARD: [u8; 64 << 10] = [0xa5; 64 << 10];
/// Types of records.
const TYPES: RangeInclusive<u64> = WC_INODES as u64..=WC_BLOCKS as u64;
/// Pages are counted: one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A volume whose log is in use.
struct Subject {
    name: String,
    bytes: Vec<u8>,
    sb: Superblock,
    journal: Journal,
}

/// A number in a log, or in what the superblock says of it.
#[derive(Clone, Debug)]
struct Field {
    name: &'static str,
    bytes: Range<usize>,
    /// The values that have to be refused.
    refused: Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// That depends.
    Some,
    /// All but what was there.
    All,
    /// All but the types of records, which may have the same shape.
    Types,
    /// Those above.
    Above(u64),
}

impl Subject {
    fn new(name: &str, mut bytes: Vec<u8>) -> Subject {
        let sb = superblock::find(&Image(&bytes), Tolerance::default()).expect("a superblock");
        assert!(sb.flags.contains(Flags::DOWAPBL), "{name}");
        bytes.truncate(sb.size_bytes() as usize);
        bytes.extend_from_slice(&GUARD);
        let journal = sb.journal.expect("a journal");
        Subject {
            name: name.to_owned(),
            bytes,
            sb,
            journal,
        }
    }

    /// The bytes of the log.
    fn log(&self) -> Range<usize> {
        let start = self.journal.address as usize * SECTOR;
        start..start + self.journal.blocks as usize * SECTOR
    }

    fn number(&self, bytes: &Range<usize>) -> u64 {
        let bytes = &self.bytes[bytes.clone()];
        let digits = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        match self.journal.order {
            Order::Little => bytes.iter().rev().fold(0, digits),
            Order::Big => bytes.iter().fold(0, digits),
        }
    }

    fn put(&mut self, bytes: &Range<usize>, number: u64) {
        let place = &mut self.bytes[bytes.clone()];
        let width = place.len();
        match self.journal.order {
            Order::Little => place.copy_from_slice(&number.to_le_bytes()[..width]),
            Order::Big => place.copy_from_slice(&number.to_be_bytes()[8 - width..]),
        }
    }

    /// Where records that count begin, by kind.
    fn records(&self) -> Vec<(u32, usize)> {
        let log = self.log();
        let word = |at: usize| self.number(&(at..at + 4));
        let slots = [log.start, log.start + SECTOR];
        let newest = slots.into_iter().max_by_key(|at| word(at + 12));
        let header = newest.expect("there are two");
        let place = |at: usize| self.number(&(at..at + 8)) as usize;
        let (head, tail) = (place(header + 48), place(header + 56));
        let ring = log.len() - 2 * SECTOR;
        let (mut at, mut found) = (tail, Vec::new());
        while at != head {
            found.push((word(log.start + at) as u32, log.start + at));
            at += word(log.start + at + 4) as usize;
            at -= if at >= log.len() { ring } else { 0 };
        }
        found
    }

    fn fields(&self, random: &mut Random) -> Vec<Field> {
        let mut fields = Vec::new();
        let mut add = |name, at: usize, width: usize, refused| {
            fields.push(Field {
                name,
                bytes: at..at + width,
                refused,
            });
        };
        let some = Refused::Some;
        let at = self.sb.location as usize + FIELDS;
        for (name, offset, width) in [
            ("superblock: version", 0, 1),
            ("superblock: location", 1, 1),
            ("superblock: flags", 4, 4),
            ("superblock: address", 8, 8),
            ("superblock: length", 16, 8),
            ("superblock: block size", 24, 8),
            ("superblock: inode", 32, 8),
        ] {
            add(name, at + offset, width, some);
        }
        for slot in 0..2 {
            let at = self.log().start + slot * SECTOR;
            for (name, offset, width) in [
                ("header: type", 0, 4),
                ("header: len", 4, 4),
                ("header: checksum", 8, 4),
                ("header: generation", 12, 4),
                ("header: fsid", 16, 8),
                ("header: time", 24, 8),
                ("header: timensec", 32, 4),
                ("header: version", 36, 4),
                ("header: log_dev_bshift", 40, 4),
                ("header: fs_dev_bshift", 44, 4),
                ("header: head", 48, 8),
                ("header: tail", 56, 8),
                ("header: circ_off", 64, 8),
                ("header: circ_size", 72, 8),
            ] {
                // The other slot may count.
                add(name, at + offset, width, some);
            }
        }
        let records = self.records();
        let volume = self.sb.size_bytes() / SECTOR as u64;
        for kind in [WC_BLOCKS, WC_REVOCATIONS, WC_INODES] {
            let all: Vec<usize> = records
                .iter()
                .filter(|(found, _)| *found == kind)
                .map(|(_, at)| *at)
                .collect();
            let some_of_them = [
                all.first().copied(),
                all.last().copied(),
                (!all.is_empty()).then(|| all[random.below(all.len())]),
            ];
            for at in some_of_them.into_iter().flatten() {
                let count = self.number(&(at + 8..at + 12)) as usize;
                add("record: type", at, 4, Refused::Types);
                add("record: len", at + 4, 4, Refused::All);
                let entry = if kind == WC_INODES { 8 } else { 16 };
                let most = (SECTOR - 16) / entry;
                add("record: count", at + 8, 4, Refused::Above(most as u64));
                add("record: unused or clear", at + 12, 4, some);
                if count == 0 {
                    continue;
                }
                for n in [0, count - 1, random.below(count)] {
                    let at = at + 16 + n * entry;
                    if kind == WC_INODES {
                        let inodes = u64::from(self.sb.inodes()) - 1;
                        add("entry: inode", at, 4, Refused::Above(inodes));
                        add("entry: mode", at + 4, 4, some);
                    } else {
                        add("entry: address", at, 8, Refused::Above(volume - 1));
                        add("entry: unused", at + 8, 4, some);
                        let ring = (self.log().len() - 2 * SECTOR) as u64;
                        add("entry: length", at + 12, 4, Refused::Above(ring));
                    }
                }
            }
        }
        fields
    }

    /// What a field is to become.
    fn values(&self, field: &Field, random: &mut Random) -> Vec<u64> {
        let old = self.number(&field.bytes);
        let width = field.bytes.len() * 8;
        let all = u64::MAX >> (64 - width);
        let log = self.log();
        let mut values = vec![
            0,
            1,
            all,
            all >> 1,
            (all >> 1) + 1,
            old.wrapping_add(1),
            old.wrapping_sub(1),
            old.wrapping_add(SECTOR as u64),
            old.wrapping_sub(SECTOR as u64),
            old.wrapping_mul(2),
            old ^ 1 << random.below(width),
            random.number(),
            self.sb.size_bytes() / SECTOR as u64,
            (log.start / SECTOR) as u64,
            (log.end / SECTOR - 1) as u64,
            log.len() as u64,
            old.swap_bytes() >> (64 - width),
        ];
        for value in &mut values {
            *value &= all;
        }
        values.sort_unstable();
        values.dedup();
        values.retain(|value| *value != old);
        values
    }

    /// What reads the log is to say of it, or to show within bounds. Answers whether it was refused.
    fn judge(&self, what: &str) -> bool {
        let image = Image(&self.bytes);
        let sb = match superblock::find(&image, Tolerance::default()) {
            Ok(sb) => sb,
            Err(fault) => panic!("{what}: {fault:?}"),
        };
        let sectors = (self.bytes.len() / SECTOR) as u64;
        let replay = match journal::read(&sb, &Sectors(&image), sectors) {
            Ok(replay) => replay,
            Err(Fault::Corrupt(Corrupt::Journal { .. } | Corrupt::Log(_))) => return true,
            Err(fault) => panic!("{what}: {fault:?}"),
        };
        let journal = sb.journal.expect("it was found");
        let place = journal.place(&sb, sectors).expect("it was read");
        let volume = sb.size_bytes() / SECTOR as u64;
        let length = journal.blocks * journal.block_size;
        let (mut end, mut logged) = (0, 0);
        for entry in replay.entries() {
            assert!(entry.sectors > 0 && entry.sector >= end, "{what}");
            end = entry.sector.checked_add(entry.sectors).expect("a place");
            assert!(end <= volume, "{what}");
            assert!(end <= place.start || entry.sector >= place.end(), "{what}");
            let ring = 2 * journal.block_size..length;
            assert!(ring.contains(&entry.at), "{what}");
            logged += entry.sectors * SECTOR as u64;
        }
        assert!(logged < length && replay.used() < length, "{what}");
        assert!(replay.orphans().len() as u64 <= length / 8, "{what}");
        let inodes = 2..sb.inodes();
        let known = |orphan: &rumpvfs::wapbl::Orphan| inodes.contains(&orphan.ino);
        assert!(replay.orphans().iter().all(known), "{what}");
        false
    }

    /// Mounts it for reading, and for writing with and without a log.
    fn mount(&self, name: &str, what: &str) -> Option<Errno> {
        let look = |options: &str| {
            let disk = MemoryDisk::new(self.bytes.clone());
            let outcome = Mounted::new(disk.clone(), options).map(|mounted| {
                // It may be spoiled by what was replayed.
                let _: Result<Tree, Errno> = mounted.tree();
                // And writing may fail; whatever it does is looked at below.
                if mounted.end().is_err() {
                    println!("{what}: cannot be unmounted");
                }
            });
            let known = [
                Errno::EFTYPE,
                Errno::EINVAL,
                Errno::EIO,
                Errno::ENOENT,
                Errno::EROFS,
                Errno::ENOSPC,
            ];
            if let Err(errno) = outcome {
                assert!(known.contains(&errno), "{what}, {options}: {errno}");
            }
            let left = disk.with_bytes(|bytes| bytes.to_vec());
            let guard = &left[left.len() - GUARD.len()..];
            assert!(guard == GUARD, "{what}, {options}: behind the volume");
            (outcome.err(), left)
        };
        let (refused, left) = look("");
        assert!(left == self.bytes, "{what}: changed by a mount for reading");
        let (_, left) = look("rw");
        if !name.starts_with("superblock") {
            let log = self.log();
            assert!(left[log.clone()] == self.bytes[log], "{what}: the log");
        }
        look("rw,log");
        refused
    }
}

/// A volume that was in use here, with every kind of record in its log, which is of that byte order.
fn own(format: Format, order: Order) -> Subject {
    let folder = tempfile::tempdir_in(scratch("logs")).expect("a folder under target");
    let image = folder.path().join("image");
    volume::make(&image, format, 6 << 20);
    let disk = MemoryDisk::new(std::fs::read(&image).expect("the image"));
    let mounted = Mounted::new(disk.clone(), "rw,log").expect("mounted");
    mounted.end().expect("unmounted");
    // Logs are in the order of the machine; the next mount goes on with the one that it finds.
    let mut bytes = disk.with_bytes(|bytes| bytes.to_vec());
    let sb = superblock::find(&Image(&bytes), Tolerance::default()).expect("a superblock");
    let journal = Journal {
        order,
        ..sb.journal.expect("a log was made")
    };
    let at = sb.location as usize + FIELDS;
    bytes[at..at + 40].copy_from_slice(&journal.encode());
    let disk = MemoryDisk::new(bytes);
    let mounted = Mounted::new(disk.clone(), "rw,log").expect("mounted");
    let (vfs, proc) = (&mounted.vfs, &curproc().expect("an lwp"));
    let new = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREAT;
    let open = |path: &str| vfs.open(proc, path.as_bytes(), new, 0o644).expect("a file");
    let mut open_files = Vec::new();
    for round in 0..4 {
        for n in 0..6 {
            let path = format!("/d{round}-{n}");
            vfs.mkdir(proc, path.as_bytes(), 0o755)
                .expect("a directory");
        }
        for n in 0..3 {
            let path = format!("/gone{round}-{n}");
            let file = open(&path);
            file.write_at(0, &[round; 30_000]).expect("room");
            vfs.unlink(proc, path.as_bytes()).expect("it is there");
            open_files.push(file);
        }
        open(&format!("/kept{round}"))
            .write_at(0, &[round; 9000])
            .expect("room");
        vfs.sync(Wait::Stable).expect("synced");
        for n in 0..3 {
            vfs.rmdir(proc, format!("/d{round}-{n}").as_bytes())
                .expect("it is empty");
        }
        vfs.sync(Wait::Stable).expect("synced");
    }
    let bytes = disk.with_bytes(|bytes| bytes.to_vec());
    drop(open_files);
    mounted.end().expect("unmounted");
    let subject = Subject::new(&format!("our own, {order:?}"), bytes);
    for kind in [WC_BLOCKS, WC_REVOCATIONS, WC_INODES] {
        let records = subject.records();
        assert!(
            records.iter().any(|(found, _)| *found == kind),
            "{kind:x}: {records:x?}"
        );
    }
    subject
}

fn subjects() -> Vec<Subject> {
    Host::install_for_tests();
    let mut subjects = vec![
        own(Format::UFS2, Order::Little),
        own(Format::UFS2, Order::Big),
        own(Format::VARIED[0], Order::Little),
    ];
    for name in [
        "ffs1-log-cut-a",
        "ffs2-log-cut-a",
        "ffs2-log-cut-b",
        "ffs2-log-cut-16k",
        "ffs2-be-log-cut-dirty",
    ] {
        if let Some(disk) = Disk::by_netbsd_untold(name) {
            let bytes = std::fs::read(&disk.image).expect("the image");
            subjects.push(Subject::new(name, bytes));
        }
    }
    subjects
}

#[test]
fn whatever_a_field_says_the_log_is_refused_or_read_within_bounds() {
    let _one = ONE_AT_A_TIME.lock();
    for mut subject in subjects() {
        let mut random = Random::new(1);
        let name = subject.name.clone();
        assert!(!subject.judge(&name), "{name} is sound");
        let (mut refused, mut read) = (0, 0);
        for field in subject.fields(&mut random) {
            let old = subject.number(&field.bytes);
            for value in subject.values(&field, &mut random) {
                let what = format!("{name}: {field:?}: {value:#x}");
                subject.put(&field.bytes, value);
                let is_refused = subject.judge(&what);
                let must = match field.refused {
                    Refused::Some => false,
                    Refused::All => true,
                    Refused::Types => !TYPES.contains(&value),
                    Refused::Above(most) => value > most,
                };
                assert!(is_refused || !must, "{what} was followed");
                refused += usize::from(is_refused);
                read += usize::from(!is_refused);
            }
            subject.put(&field.bytes, old);
        }
        println!("{name}: refused {refused}, read {read}");
        assert!(refused > 300 && read > 100, "{name}: {refused}, {read}");
    }
}

#[test]
fn a_spoiled_log_is_mounted_or_not_and_nothing_but_the_volume_changes() {
    let _one = ONE_AT_A_TIME.lock();
    let number = |name| std::env::var(name).ok();
    let mounts = number("BAD_LOG_MOUNTS");
    let seed = number("BAD_LOG_SEED").and_then(|seed| seed.parse().ok());
    let mut random = Random::new(seed.unwrap_or(1));
    let mut free = None;
    let (mut refused, mut mounted) = (0, 0);
    for mut subject in subjects() {
        let name = subject.name.clone();
        let mut cases: Vec<(Field, u64)> = Vec::new();
        for field in subject.fields(&mut random) {
            let values = subject.values(&field, &mut random);
            cases.extend(values.into_iter().map(|value| (field.clone(), value)));
        }
        let wanted = match mounts.as_deref() {
            Some("all") => cases.len(),
            Some(count) => count.parse().expect("a number"),
            None => 24,
        };
        for n in 0..wanted.min(cases.len()) {
            let chosen = n + random.below(cases.len() - n);
            cases.swap(n, chosen);
            let (field, value) = cases[n].clone();
            let what = format!("{name}: {field:?}: {value:#x}");
            let old = subject.number(&field.bytes);
            subject.put(&field.bytes, value);
            match subject.mount(field.name, &what) {
                Some(_) => refused += 1,
                None => mounted += 1,
            }
            subject.put(&field.bytes, old);
        }
        free.get_or_insert(uvm::stats().free);
    }
    println!("refused {refused}, mounted {mounted}");
    assert!(refused > 10 && mounted > 10, "{refused}, {mounted}");
    // What lasts was there after the first image.
    let lost = free.map_or(0, |free| free.saturating_sub(uvm::stats().free));
    assert!(lost < 400, "{lost} pages are gone");
}
