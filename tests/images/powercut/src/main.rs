//! Changes files in several threads, and marks on the disk how far each is: what is recorded of the disk then says after which of its
//! writes each step had returned.
//!
//! What a thread does follows from the seed ([`powercut::plan`]). After each step it writes a [`Marker`] to a sector of its own, beyond
//! the volume. Words on the command line:
//!
//! | word | value |
//! |---|---|
//! | `threads` | how many threads |
//! | `steps` | what each does |
//! | `seed` | what decides what they do |
//! | `markers` | the first thread's sector |
#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use powercut::history::data;
use powercut::plan::{Marker, Plan, Step};
use rump::fs::{self, OpenOptions};
use rump::{Component, Config, Errno, Kernel, sys, thread};
use rumpkern::kmem::Kmem;
use rumpkern::uvm::dma::{BioOp, IoFrame};
use rumpkern::uvm::{Alloc, Frame};
use rumpuser_baremetal::entry;
use rumpvfs::Vfs;
use rumpvfs::specfs::{BlockIo, transfer};
use rumpvfs::vnode::Wait;

entry!(main);

#[global_allocator]
static KMEM: Kmem = Kmem;

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

/// The disk of both the volume and the markers.
const DISK: &str = "ld0";

/// The number of threads that failed.
static FAILED: AtomicU64 = AtomicU64::new(0);

/// What is to be done.
#[derive(Clone, Copy)]
struct Job {
    threads: u8,
    steps: u32,
    seed: u64,
    markers: u64,
}

impl Job {
    const KEYS: [&str; 4] = ["threads", "steps", "seed", "markers"];

    /// From the command line's words.
    fn of(config: &Config) -> Result<Job, String> {
        let number = |key: &str| {
            let word = config.rest.iter().find(|(word, _)| word == key);
            let value = word.and_then(|(_, value)| value.parse::<u64>().ok());
            value.ok_or_else(|| alloc::format!("{key} wants a number"))
        };
        let threads = u8::try_from(number("threads")?);
        let steps = u32::try_from(number("steps")?);
        Ok(Job {
            threads: threads.map_err(|error| error.to_string())?,
            steps: steps.map_err(|error| error.to_string())?,
            seed: number("seed")?,
            markers: number("markers")?,
        })
    }
}

/// Does one thing. Answers the inode of a file that was made.
fn carry_out(vfs: &Vfs, step: &Step) -> Result<u64, Errno> {
    let old = || OpenOptions::new().read(true).write(true);
    match step {
        Step::MakeDirectory(path) => fs::create_dir(path)?,
        Step::Create(path, _) => {
            let file = old().create_new(true).open(path)?;
            return Ok(file.metadata()?.ino());
        }
        Step::Write {
            path,
            id,
            number,
            offset,
            len,
        } => {
            let bytes = data(*id, *number, *offset, *len);
            if old().open(path)?.write_at(&bytes, *offset as u64)? != *len {
                return Err(Errno::EIO);
            }
        }
        Step::Resize(path, size) => sys::truncate(path.as_bytes(), *size as u64)?,
        Step::Sync(path) => old().open(path)?.sync_all()?,
        Step::SyncAll => vfs.sync(Wait::Stable)?,
        Step::Rename(from, to) => fs::rename(from, to)?,
        Step::Unlink(path) => fs::remove_file(path)?,
    }
    Ok(0)
}

fn mark(disk: &dyn BlockIo, sector: u64, marker: Marker) -> Result<(), Errno> {
    let len = disk.info().sector_size as usize;
    let mut frame = Frame::alloc(Alloc::Wait)?;
    let page = frame.get_mut().ok_or(Errno::EIO)?;
    marker.encode(page.get_mut(..len).ok_or(Errno::EINVAL)?);
    let frames = alloc::vec![IoFrame {
        frame,
        offset: 0,
        len
    }];
    transfer(disk, BioOp::Write, sector, frames).1
}

/// What thread `thread` does.
fn work(vfs: &Vfs, disk: &dyn BlockIo, thread: u8, job: Job) -> Result<(), String> {
    let sector = job.markers + u64::from(thread);
    let plan = Plan::new(job.seed, thread);
    for (steps, step) in (1..=job.steps).zip(plan) {
        let ino = carry_out(vfs, &step).map_err(|errno| alloc::format!("{step:?}: {errno}"))?;
        let marker = Marker { thread, steps, ino };
        mark(disk, sector, marker).map_err(|errno| alloc::format!("a marker: {errno}"))?;
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
            log::error!("powercut: the kernel does not boot: {errno}");
            return 1;
        }
    };
    let done = job.and_then(|job| run(&kernel, job));
    if let Err(why) = &done {
        log::error!("powercut: {why}");
    }
    kernel.halt(u8::from(done.is_err()))
}

/// Lets the threads work.
fn run(kernel: &Arc<Kernel>, job: Job) -> Result<(), String> {
    let told = |errno: Errno| errno.to_string();
    let process = kernel.attach("powercut").map_err(told)?;
    let vfs = kernel.get::<Vfs>().ok_or("no file systems")?;
    if fs::mount_configured() != Ok(1) {
        return Err("nothing is mounted".into());
    }
    let disk = vfs.device(DISK).ok_or("no disk")?;
    let mut threads = Vec::new();
    for number in 0..job.threads {
        let (vfs, disk) = (vfs.clone(), disk.clone());
        let body = move || {
            if let Err(why) = work(&vfs, &*disk, number, job) {
                log::error!("powercut: thread {number}: {why}");
                FAILED.fetch_add(1, Ordering::Relaxed);
            }
        };
        threads.push(thread::spawn("powercut", body).map_err(told)?);
    }
    for thread in threads {
        thread.join();
    }
    drop(process);
    match FAILED.load(Ordering::Relaxed) {
        0 => Ok(()),
        failed => Err(alloc::format!("{failed} threads failed")),
    }
}
