//! Copies trees to and from an FFS, in several threads at once, within whatever memory limit the command line gives.
//!
//! Each thread has a tree of 80 MiB ([`tree`]) and does the steps with it. The page cache, the buffer cache and the
//! pagedaemon are under pressure all the time. Words on the command line:
//!
//! | word | value |
//! |---|---|
//! | `steps` | what each thread does, in order, separated by commas: `write`, `read` (and compare), `sync`, `delete`, `insist` |
//! | `threads` | how many threads |
//! | `first` | the number of the first thread's tree, 0 if not given |
//! | `part` | only this part of each tree ([`acid_tree::files`]) |
//! | `piece` | bytes moved at once |
//! | `counters` | print every counter in the end |
//!
//! `insist` writes to a disk that may not take all of it: `acid: stable PATH` and `acid: told PATH` say which files were made stable and
//! which errors were told, and in the end `acid: sync: OUTCOME` what a sync of everything answered.
//!
//! Prints `acid: thread N: STEP BYTES NANOSECONDS` for each step, and the high-water mark in the end.
#![no_std]
#![no_main]

extern crate alloc;

mod tree;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rump::{Component, Config, Errno, Kernel, fs, sys, thread};
use rumpkern::kmem::Kmem;
use rumpkern::time::now;
use rumpkern::{aprint, uvm};
use rumpuser_baremetal::entry;
use tree::{Fault, Tree};

entry!(main);

#[global_allocator]
static KMEM: Kmem = Kmem;

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

/// The number of threads that found a fault.
static FAULTS: AtomicU64 = AtomicU64::new(0);

/// What is to be done.
struct Job {
    threads: u32,
    first: u32,
    part: u32,
    piece: usize,
    steps: String,
    counters: bool,
}

impl Job {
    const KEYS: [&str; 6] = ["threads", "first", "part", "piece", "steps", "counters"];

    /// From the command line's words; `EINVAL` for a number that is none.
    fn of(config: &Config) -> Result<Job, Errno> {
        let mut job = Job {
            threads: 2,
            first: 0,
            part: 1,
            // Neither a multiple nor a fraction of a page.
            piece: 3000,
            steps: String::from("write,read,delete"),
            counters: false,
        };
        for (key, value) in &config.rest {
            match key.as_str() {
                "threads" => job.threads = value.parse().map_err(|_| Errno::EINVAL)?,
                "first" => job.first = value.parse().map_err(|_| Errno::EINVAL)?,
                "part" => job.part = value.parse().map_err(|_| Errno::EINVAL)?,
                "piece" => job.piece = value.parse().map_err(|_| Errno::EINVAL)?,
                "steps" => job.steps = value.clone(),
                _ => job.counters = true,
            }
        }
        Ok(job)
    }
}

/// What thread `number` does.
fn work(number: u32, job: &Job) -> Result<(), Fault> {
    let tree = Tree::new(number, job.part, job.piece);
    for step in job.steps.split(',') {
        let start = now();
        let bytes = match step {
            "write" => tree.write()?,
            "read" => tree.compare()?,
            "delete" => tree.delete()?,
            "insist" => tree.insist()?,
            "sync" => sys::sync()
                .map(|()| 0)
                .map_err(|errno| (String::from("/"), alloc::format!("{errno}")))?,
            _ => return Err((step.into(), "no such step".into())),
        };
        aprint!(
            "acid: thread {number}: {step} {bytes} {}",
            now().saturating_since(start).as_nanos()
        );
    }
    Ok(())
}

fn main() -> u8 {
    let mut config = Config::from_host_with(&Job::KEYS);
    config.mounts = config.mounts_or_root();
    let job = Job::of(&config);
    let kernel = match Kernel::boot(config, COMPONENTS) {
        Ok(kernel) => kernel,
        Err(errno) => {
            log::error!("acid: the kernel does not boot: {errno}");
            return 1;
        }
    };
    let status = match job {
        Ok(job) => run(&kernel, Arc::new(job)),
        Err(errno) => {
            log::error!("acid: the command line: {errno}");
            1
        }
    };
    let stats = uvm::stats();
    aprint!(
        "acid: high water {} of {} pages, {} pageouts, {} hopeless",
        stats.high_water,
        stats.limit,
        stats.pageouts_done,
        stats.hopeless
    );
    kernel.halt(status)
}

/// Lets the threads work; 0 if none found a fault.
fn run(kernel: &Arc<Kernel>, job: Arc<Job>) -> u8 {
    let process = match kernel.attach("acid") {
        Ok(process) => process,
        Err(errno) => {
            log::error!("acid: {errno}");
            return 1;
        }
    };
    if fs::mount_configured() != Ok(1) {
        return 1;
    }
    let mut threads = Vec::new();
    for number in job.first..job.first + job.threads {
        let job = job.clone();
        let body = move || {
            if let Err((path, why)) = work(number, &job) {
                log::error!("acid: thread {number}: {path}: {why}");
                FAULTS.fetch_add(1, Ordering::Relaxed);
            }
        };
        match thread::spawn("acid", body) {
            Ok(thread) => threads.push(thread),
            Err(errno) => {
                log::error!("acid: no thread: {errno}");
                return 1;
            }
        }
    }
    for thread in threads {
        thread.join();
    }
    let synced = sys::sync();
    if job.steps.contains("insist") {
        aprint!("acid: sync: {synced:?}");
    } else if let Err(errno) = synced {
        log::error!("acid: sync: {errno}");
        return 1;
    }
    if job.counters {
        kernel
            .counters()
            .for_each(|name, _, value| aprint!("{name} {value}"));
    }
    drop(process);
    u8::from(FAULTS.load(Ordering::Relaxed) != 0)
}
