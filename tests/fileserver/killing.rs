//! QEMU is killed at any moment while clients upload: every file that was answered for is there afterwards, whole.
//!
//! What a killed QEMU had written to its image is there, so this is about the death of the kernel at any moment; what a disk
//! forgets when the power goes is the business of `power_cuts`. With a log nothing is repaired: the next guest replays it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rump_tests::disk::Format;
use rump_tests::guest::{Boot, Guest, SOON};
use rump_tests::hosted::Mounted;
use rump_tests::http::Connection;
use rump_tests::random::Random;
use rump_tests::spoil::Image;
use rump_tests::{scratch, volume};
use rumpdev::md::MemoryDisk;
use rumpfs_ffs::check::check;

use crate::{assert_sane, fileserver};

/// Clients at the same time, and the names that each uploads to.
const CLIENTS: u64 = 4;
const NAMES: usize = 8;
/// The longest upload, in bytes.
const LONGEST: usize = 40_000;

/// What is known of the files, by their targets.
#[derive(Default)]
struct Known(Mutex<BTreeMap<String, File>>);

/// What is known of a file: which uploads it may hold. The contents follow from the number of the upload.
#[derive(Clone, Default)]
struct File {
    /// The last that was answered with 201 or 204; before it there may be no file.
    promised: Option<u64>,
    /// One that was not answered.
    begun: Option<u64>,
}

impl Known {
    fn with<T>(&self, target: &str, change: impl FnOnce(&mut File) -> T) -> T {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(files.entry(target.to_owned()).or_default())
    }
}

/// What upload number `number` uploads.
fn contents(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let len = random.below(LONGEST);
    random.bytes(len)
}

/// Uploads something, and notes what was answered; false if nothing was.
fn put(connection: &mut Connection, target: &str, number: u64, known: &Known) -> bool {
    let bytes = contents(number);
    known.with(target, |file| file.begun = Some(number));
    let length = format!("Content-Length: {}", bytes.len());
    let answer = connection
        .request("PUT", target, &[&length])
        .and_then(|()| connection.send(&bytes))
        .and_then(|()| connection.response("PUT"));
    let Ok(answer) = answer else {
        return false;
    };
    assert!([201, 204].contains(&answer.status), "{}", answer.text());
    known.with(target, |file| {
        (file.promised, file.begun) = (file.begun.take(), None);
    });
    true
}

/// Uploads until the guest does not answer any more. Answers how many uploads were promised.
fn upload(guest: &Guest, client: u64, seed: u64, next: &AtomicU64, known: &Known) -> u64 {
    let mut random = Random::new(seed ^ (client << 32));
    let mut promised = 0;
    let Ok(mut connection) = Connection::open(guest.address()) else {
        return 0;
    };
    loop {
        let target = format!("/client{client}-{}", random.below(NAMES));
        let number = next.fetch_add(1, Ordering::Relaxed);
        if !put(&mut connection, &target, number, known) {
            return promised;
        }
        promised += 1;
    }
}

/// The volume is mounted for writing.
fn assert_writable(guest: &Guest, client: u64, next: &AtomicU64, known: &Known) {
    let mut connection = Connection::open(guest.address()).expect("a connection");
    for file in 0..NAMES {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let target = format!("/first{client}-{file}");
        assert!(put(&mut connection, &target, number, known), "no answer");
    }
}

/// Every file is as it was promised. From now on what is there is what is known.
fn verify(guest: &Guest, known: &Known) {
    let mut connection = Connection::open(guest.address()).expect("a connection");
    let mut files = known.0.lock().unwrap_or_else(PoisonError::into_inner);
    for (target, file) in files.iter_mut() {
        let answer = connection.exchange("GET", target, &[]).expect("an answer");
        let found = (answer.status != 404).then_some(answer.body);
        let may_be: Vec<Option<u64>> = match file.begun {
            Some(begun) => vec![file.promised, Some(begun)],
            None => vec![file.promised],
        };
        let is = |number: &Option<u64>| number.map(contents) == found;
        let Some(number) = may_be.iter().find(|number| is(number)) else {
            let len = found.map(|bytes| bytes.len());
            panic!("{target}: {len:?} bytes, which is none of the uploads {may_be:?}");
        };
        (file.promised, file.begun) = (*number, None);
    }
}

/// What is done about a volume when its guest was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    /// It is checked and repaired.
    Repair,
    /// Nothing: the next guest replays its log.
    Replay,
}

impl Recovery {
    /// The options of the mount.
    fn options(self) -> &'static str {
        match self {
            Recovery::Repair => "rw",
            Recovery::Replay => "rw,log",
        }
    }
}

/// A copy of the volume, when its log is replayed and nothing is repaired, is consistent.
fn assert_replayable(disk: &Path) {
    let bytes = std::fs::read(disk).expect("our own file");
    let memory = MemoryDisk::new(bytes);
    let mounted = Mounted::new(memory.clone(), "rw").expect("the log can be replayed");
    mounted.end().expect("it can be unmounted");
    let report = memory.with_bytes(|bytes| check(&Image(bytes)).expect("it can be checked"));
    let wrong: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Kills guests that serve a volume, as often as `RUMP_KILLS` says.
fn kill(name: &str, format: Format, words: &str, recovery: Recovery) {
    let kills = std::env::var("RUMP_KILLS").ok();
    let kills: u64 = kills.and_then(|kills| kills.parse().ok()).unwrap_or(3);
    let mut random = Random::announced();
    let disk = scratch("killing").join(name);
    volume::make(&disk, format, 16 << 20);
    let boot = || {
        Boot::new(fileserver())
            .disk(&disk)
            .keeping_writes()
            .append(&format!("mount=ld0:/:ffs:{} {words}", recovery.options()))
            .start()
            .serving()
    };
    let (next, known) = (AtomicU64::new(1), Known::default());
    let (mut promised, mut replayed) = (0, 0);
    for round in 0..kills {
        let mut guest = boot();
        replayed += u64::from(guest.line_with("journal replayed").is_some());
        verify(&guest, &known);
        assert_writable(&guest, 0, &next, &known);
        let after = Duration::from_millis(random.below(900) as u64 + 100);
        let seed = random.number();
        promised += std::thread::scope(|scope| {
            let (guest, next, known) = (&guest, &next, &known);
            let upload = |client| scope.spawn(move || upload(guest, client, seed, next, known));
            let clients: Vec<_> = (0..CLIENTS).map(upload).collect();
            sleep(after);
            guest.kill_qemu();
            let promised = |client: std::thread::ScopedJoinHandle<'_, u64>| client.join();
            clients
                .into_iter()
                .map(|client| promised(client).expect("no upload was refused"))
                .sum::<u64>()
        });
        guest.exit_status(SOON);
        assert_sane(&guest);
        drop(guest);
        println!("kill {round} after {after:?}: {promised} uploads promised so far");
        match recovery {
            Recovery::Repair => drop(volume::repair(&mut volume::ImageFile::open_to_write(&disk))),
            Recovery::Replay => assert_replayable(&disk),
        }
    }
    let mut guest = boot();
    replayed += u64::from(guest.line_with("journal replayed").is_some());
    verify(&guest, &known);
    let until = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        let (guest, next, known) = (&guest, &next, &known);
        for client in 0..CLIENTS {
            scope.spawn(move || {
                while Instant::now() < until {
                    assert_writable(guest, client, next, known)
                }
            });
        }
    });
    guest.signal(libc::SIGTERM);
    assert_eq!(guest.exit_status(SOON), 0, "{}", guest.console());
    assert!(guest.stack_used() < 0.9, "one that is full ends the guest");
    drop(guest);
    volume::assert_clean(&disk);
    println!("{kills} kills, {promised} uploads promised, {replayed} journals replayed");
    assert!(promised > 0, "nothing was uploaded");
    assert_eq!(replayed > 0, recovery == Recovery::Replay);
    std::fs::remove_file(&disk).expect("our own file");
}

#[test]
fn every_upload_that_was_answered_for_is_there_after_qemu_was_killed_and_a_repair() {
    kill("plain", Format::UFS2, "", Recovery::Repair);
}

#[test]
fn every_upload_that_was_answered_for_is_there_after_qemu_was_killed_with_a_log() {
    kill("log", Format::UFS2, "", Recovery::Replay);
}

#[test]
fn every_upload_that_was_answered_for_is_there_after_qemu_was_killed_with_a_log_and_a_megabyte() {
    kill("log-1M", Format::VARIED[0], "memlimit=1M", Recovery::Replay);
}
