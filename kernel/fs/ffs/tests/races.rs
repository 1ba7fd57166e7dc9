//! Eight threads that make, link, move, write, cut and remove the same few names, files and directories alike, with enough
//! memory and with next to none, with a log and without: nobody waits for ever, and the volume is consistent afterwards.
//!
//! `FFS_RACE_ROUNDS` and `FFS_RACE_SEED` say how many rounds, and from which seed on.

mod rig;

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rig::{MOUNTS, Random, Rig, assert_consistent, attach, kinds, make};
use rumpfs_ffs::check::check;
use rumpkern::{lwp, uvm};
use rumpuser::Errno;
use rumpvfs::syscalls::{self, OpenFlags};
use rumpvfs::vnode::{DirEntry, Wait};

const MEMORY: usize = 8 << 20;
const TINY: usize = 512 << 10;
const THREADS: u64 = 8;
const STEPS: u64 = 150;
const NEW: OpenFlags = OpenFlags::READ
    .union(OpenFlags::WRITE)
    .union(OpenFlags::CREAT);

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

/// Any of a few names, up to three levels deep: directories are moved into each other, and files replace directories.
fn path(random: &mut Random) -> String {
    let levels = 1 + random.below(3);
    (0..levels)
        .map(|_| format!("/{}", random.below(4)))
        .collect()
}

/// Each may fail for what the others do; nothing else.
fn step(rig: &Rig, random: &mut Random) {
    let (vfs, proc) = (&rig.vfs, &rig.proc);
    let (one, two) = (path(random), path(random));
    let (from, to) = (one.as_bytes(), two.as_bytes());
    let size = random.below(40_000);
    let done = match random.below(16) {
        0..3 => vfs
            .open(proc, from, NEW, 0o666)
            .and_then(|file| file.write_at(size, &[7; 9000]).map(drop)),
        3 => vfs
            .open(proc, from, NEW | OpenFlags::APPEND, 0o666)
            .and_then(|file| {
                // It may lose its name meanwhile.
                let wrote = file.write(&vec![8; size as usize + 1]).map(drop);
                let _ = vfs.unlink(proc, from);
                file.read_at(0, &mut [0; 5000])?;
                wrote
            }),
        4 | 5 => vfs.mkdir(proc, from, 0o777),
        6..9 => vfs.rename(proc, from, to),
        9 | 10 => vfs.link(proc, from, to),
        11 => vfs.rmdir(proc, from),
        12 => vfs.truncate(proc, from, size),
        13 => vfs
            .open(proc, from, OpenFlags::READ, 0)
            .and_then(|file| syscalls::getdents(&file, &mut |_: &DirEntry<'_>| true)),
        14 => vfs.symlink(proc, b"nowhere", from),
        _ => vfs.unlink(proc, from),
    };
    let expected = [
        Errno::ENOENT,
        Errno::EEXIST,
        Errno::ENOTDIR,
        Errno::EISDIR,
        Errno::ENOTEMPTY,
        Errno::EINVAL,
        Errno::EPERM,
        Errno::EROFS,
    ];
    if let Err(errno) = done {
        assert!(expected.contains(&errno), "{one} {two}: {errno}");
    }
}

/// Threads that do nothing for minutes wait for each other: better an end with a reason.
struct Watch {
    steps: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Watch {
    fn new(what: String) -> Watch {
        let watch = Watch {
            steps: Arc::default(),
            over: Arc::default(),
        };
        let (steps, over) = (watch.steps.clone(), watch.over.clone());
        std::thread::spawn(move || {
            let (mut last, mut idle) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_secs(1));
                let now = steps.load(Ordering::Relaxed);
                idle = if now == last { idle + 1 } else { 0 };
                last = now;
                if idle > 120 {
                    eprintln!("deadlock: {what}, after {now} steps");
                    std::process::exit(1);
                }
            }
        });
        watch
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// One round: threads at work, and then a check.
fn round(seed: u64, memory: usize, mount: &str, meanwhile: impl FnOnce(&Arc<Rig>)) {
    uvm::set_limit(memory).expect("the host has as much");
    let all = kinds();
    let options = all[(seed % all.len() as u64) as usize];
    let what = format!("seed {seed}, {memory} bytes, {mount}, {options:?}");
    let rig = Rig::with(make(options), mount).expect("it can be mounted");
    let rig = Arc::new(rig);
    let watch = Watch::new(what.clone());
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (rig, steps) = (rig.clone(), watch.steps.clone());
            let mut random = Random(seed * THREADS + thread);
            let work = move || {
                for _ in 0..STEPS {
                    step(&rig, &mut random);
                    steps.fetch_add(1, Ordering::Relaxed);
                }
            };
            lwp::spawn("worker", work).expect("a thread")
        })
        .collect();
    meanwhile(&rig);
    for thread in threads {
        thread.join();
    }
    drop(watch);
    let rig = Arc::into_inner(rig).expect("the threads are gone");
    assert_consistent(&rig.check_mounted(), &what);
    rig.finish(&what);
    uvm::set_limit(MEMORY).expect("as before");
}

#[test]
fn with_enough_memory_and_with_next_to_none_the_volume_stays_consistent() {
    let _lwp = attach(MEMORY);
    let seed = number("FFS_RACE_SEED", 1);
    for seed in seed..seed + number("FFS_RACE_ROUNDS", 14) {
        println!("seed {seed}");
        let memory = if seed % 2 == 0 { MEMORY } else { TINY };
        for mount in MOUNTS {
            round(seed, memory, mount, |rig| {
                for _ in 0..20 {
                    // Meanwhile, as the syncer would.
                    rig.vfs.sync(Wait::Started).expect("the disk is whole");
                    std::thread::yield_now();
                }
            });
        }
    }
}

#[test]
fn changing_to_read_only_and_back_meanwhile_leaves_a_clean_volume_clean() {
    let _lwp = attach(MEMORY);
    let seed = number("FFS_RACE_SEED", 1);
    for seed in seed..seed + number("FFS_RACE_ROUNDS", 14) {
        for options in MOUNTS {
            println!("seed {seed}, {options}, read-only and back");
            let mut settled = 0;
            round(1000 + seed, MEMORY, options, |rig| {
                let mount = rig.vfs.mounts()[0].clone();
                for _ in 0..30 {
                    match rig.vfs.remount(&mount, &format!("ro,{options}")) {
                        Ok(()) => {
                            settled += 1;
                            let image = rig::Image(rig.disk.bytes());
                            let report = check(&image).expect("it can be checked");
                            assert_consistent(&report, &format!("seed {seed}, read-only"));
                            let back = rig.vfs.remount(&mount, &format!("rw,{options}"));
                            back.expect("it is clean");
                        }
                        // A file without a name is open.
                        Err(errno) => assert_eq!(errno, Errno::EBUSY, "seed {seed}"),
                    }
                    std::thread::yield_now();
                }
            });
            println!("{settled} of 30 times read-only");
        }
    }
}
