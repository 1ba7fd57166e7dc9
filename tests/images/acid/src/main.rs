//! Copies trees to and from an FFS, in two threads at once, within whatever memory limit the command line gives.
//!
//! Each thread writes a tree of files whose contents follow from their names, reads it back and compares, copies
//! it file by file within the volume, compares the copy, and deletes one of the two. So the page cache, the buffer
//! cache and the pagedaemon are under pressure in both directions all the time.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rump::fs::{self, File};
use rump::{Component, Config, Errno, Kernel, sys, thread};
use rumpkern::kmem::Kmem;
use rumpkern::{aprint, uvm};
use rumpuser_baremetal::entry;

entry!(main);

#[global_allocator]
static KMEM: Kmem = Kmem;

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

/// Threads at work.
const THREADS: u32 = 2;
/// The largest file of a tree, in bytes.
const LARGE: u64 = 16 << 20;
/// Small files in a tree.
const SMALL: u32 = 1000;
/// Bytes moved at once: neither a multiple nor a fraction of a page.
const STEP: usize = 3000;

/// The number of threads that found a fault.
static FAULTS: AtomicU64 = AtomicU64::new(0);

/// A file of a tree.
struct Planned {
    name: String,
    size: u64,
}

/// What a tree holds: one large file, sizes around every border of fragments, blocks and indirection, many small ones.
fn plan() -> impl Iterator<Item = Planned> {
    let large = core::iter::once(Planned {
        name: String::from("large"),
        size: LARGE,
    });
    let borders = [
        512u64,
        1024,
        4096,
        8192,
        12 * 8192,
        16_384,
        65_536,
        12 * 16_384,
        1 << 20,
    ];
    let around = borders.into_iter().flat_map(|border| {
        [border - 1, border, border + 1].map(|size| Planned {
            name: format!("border-{size}"),
            size,
        })
    });
    let small = (0..SMALL).map(|number| Planned {
        name: format!("small-{number}"),
        size: u64::from(number.wrapping_mul(2_654_435_761) % 3000),
    });
    large.chain(around).chain(small)
}

/// The bytes of file `seed` from `offset` on.
fn fill(seed: u64, offset: u64, bytes: &mut [u8]) {
    for (at, byte) in (offset..).zip(bytes.iter_mut()) {
        let word = ((at / 8) ^ (seed << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *byte = word.to_le_bytes()[(at % 8) as usize];
    }
}

/// What goes wrong: the path, and why.
type Fault = (String, String);

fn fault(path: &str, errno: Errno) -> Fault {
    (path.into(), format!("{errno}"))
}

fn write(path: &str, seed: u64, size: u64) -> Result<(), Fault> {
    let file = File::create(path).map_err(|errno| fault(path, errno))?;
    let mut bytes = vec![0; STEP];
    let mut at = 0;
    while at < size {
        let count = (size - at).min(STEP as u64) as usize;
        fill(seed, at, &mut bytes[..count]);
        put(&file, &bytes[..count]).map_err(|errno| fault(path, errno))?;
        at += count as u64;
    }
    Ok(())
}

fn put(file: &File, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let count = file.write(bytes)?;
        bytes = &bytes[count..];
    }
    Ok(())
}

fn compare(path: &str, seed: u64, size: u64) -> Result<(), Fault> {
    let file = File::open(path).map_err(|errno| fault(path, errno))?;
    let (mut bytes, mut wanted) = (vec![0; STEP], vec![0; STEP]);
    let mut at = 0;
    loop {
        let count = file.read(&mut bytes).map_err(|errno| fault(path, errno))?;
        if count == 0 {
            break;
        }
        fill(seed, at, &mut wanted[..count]);
        if bytes[..count] != wanted[..count] {
            return Err((
                path.into(),
                format!("wrong bytes between {at} and {}", at + count as u64),
            ));
        }
        at += count as u64;
    }
    match at == size {
        true => Ok(()),
        false => Err((path.into(), format!("{at} bytes instead of {size}"))),
    }
}

fn copy(from: &str, to: &str) -> Result<(), Fault> {
    let source = File::open(from).map_err(|errno| fault(from, errno))?;
    let target = File::create(to).map_err(|errno| fault(to, errno))?;
    let mut bytes = vec![0; STEP];
    loop {
        match source
            .read(&mut bytes)
            .map_err(|errno| fault(from, errno))?
        {
            0 => return Ok(()),
            count => put(&target, &bytes[..count]).map_err(|errno| fault(to, errno))?,
        }
    }
}

fn work(number: u32) -> Result<(), Fault> {
    let (original, double) = (format!("/tree-{number}"), format!("/copy-{number}"));
    let seed_of = |index: usize| u64::from(number) * 100_000 + index as u64;
    for directory in [&original, &double] {
        fs::create_dir(directory).map_err(|errno| fault(directory, errno))?;
    }
    for (index, file) in plan().enumerate() {
        write(
            &format!("{original}/{}", file.name),
            seed_of(index),
            file.size,
        )?;
    }
    aprint!("acid: thread {number}: written");
    for (index, file) in plan().enumerate() {
        compare(
            &format!("{original}/{}", file.name),
            seed_of(index),
            file.size,
        )?;
    }
    aprint!("acid: thread {number}: compared");
    for file in plan() {
        let name = file.name;
        copy(&format!("{original}/{name}"), &format!("{double}/{name}"))?;
    }
    for (index, file) in plan().enumerate() {
        compare(
            &format!("{double}/{}", file.name),
            seed_of(index),
            file.size,
        )?;
    }
    aprint!("acid: thread {number}: copied and compared");
    for file in plan() {
        let path = format!("{original}/{}", file.name);
        fs::remove_file(&path).map_err(|errno| fault(&path, errno))?;
    }
    fs::remove_dir(&original).map_err(|errno| fault(&original, errno))
}

fn main() -> u8 {
    let mut config = Config::from_host();
    config.mounts = config.mounts_or_root();
    let kernel = match Kernel::boot(config, COMPONENTS) {
        Ok(kernel) => kernel,
        Err(errno) => {
            log::error!("acid: the kernel does not boot: {errno}");
            return 1;
        }
    };
    let status = run(&kernel);
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
fn run(kernel: &Arc<Kernel>) -> u8 {
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
    let mut threads = alloc::vec::Vec::new();
    for number in 0..THREADS {
        let body = move || {
            if let Err((path, why)) = work(number) {
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
    if let Err(errno) = sys::sync() {
        log::error!("acid: sync: {errno}");
        return 1;
    }
    drop(process);
    u8::from(FAULTS.load(Ordering::Relaxed) != 0)
}
