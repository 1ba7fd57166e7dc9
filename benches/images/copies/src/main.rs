//! Copies files to its first disk and back, for the comparison of one memory limit with another.
//!
//! A *stream* is one file of 64 MiB, a *tree* that of the acid test: a large file, some around the borders of blocks, 2,000 small ones,
//! 80 MiB in all. Each is written and synced, and read after an unmount and a mount, so that every byte comes from the disk
//! whatever the limit. What is in the files is one byte, over and over: to make and to compare contents would be most of the work,
//! and the acid test does it.
//!
//! Prints `phase NAME BYTES NANOSECONDS REQUESTS` for each, where requests are those to the disk, flushes among them; and in the end the
//! high-water mark of memory. With the word `counters=` it prints every counter after every phase.
#![no_std]
#![no_main]

extern crate alloc;

use acid_tree::Planned;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use rump::fs::{self, File};
use rump::{Component, Config, Errno, Kernel, sys};
use rumpkern::kmem::Kmem;
use rumpkern::time::now;
use rumpkern::{aprint, uvm};
use rumpvfs::Vfs;
use rumpvfs::vnode::Wait;

rumpuser_baremetal::entry!(main);

#[global_allocator]
static KMEM: Kmem = Kmem;

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

/// Bytes of the stream.
const STREAM: u64 = 64 << 20;
/// Bytes moved at once: little, for they count against the limit like everything else.
const PIECE: usize = 16 << 10;
/// The tree's number.
const TREE: u32 = 0;

fn main() -> Result<(), Errno> {
    let mut config = Config::from_host_with(&["counters"]);
    config.mounts = config.mounts_or_root();
    let says_all = !config.rest.is_empty();
    let kernel = Kernel::boot(config, COMPONENTS)?;
    let process = kernel.attach("copies")?;
    fs::mount_configured()?;
    let copies = Copies {
        vfs: kernel.get::<Vfs>().ok_or(Errno::ENODEV)?,
        kernel: kernel.clone(),
        says_all,
    };
    copies.stream()?;
    copies.tree()?;
    drop((copies, process));
    let stats = uvm::stats();
    aprint!("memory {} of {} pages", stats.high_water, stats.limit);
    kernel.halt(0)
}

struct Copies {
    vfs: Arc<Vfs>,
    kernel: Arc<Kernel>,
    says_all: bool,
}

impl Copies {
    /// Says how long `work` took, which answers how many bytes it moved.
    fn phase(&self, name: &str, work: impl FnOnce() -> Result<u64, Errno>) -> Result<(), Errno> {
        let (before, start) = (self.requests(), now());
        let bytes = work()?;
        let took = now().saturating_since(start).as_nanos();
        let requests = self.requests() - before;
        aprint!("phase {name} {bytes} {took} {requests}");
        if self.says_all {
            let counters = self.kernel.counters();
            counters.for_each(|name, _, value| aprint!("{name} {value}"));
        }
        Ok(())
    }

    /// Requests to the disk so far.
    fn requests(&self) -> u64 {
        let kinds = ["reads", "writes", "flushes"].map(|kind| format!("disk_ld0_{kind}_total"));
        let mut sum = 0;
        self.kernel.counters().for_each(|name, _, value| {
            if kinds.iter().any(|kind| kind == name) {
                sum += value;
            }
        });
        sum
    }

    fn sync(&self) -> Result<(), Errno> {
        self.vfs.sync(Wait::Stable)
    }

    /// Forgets all that is cached.
    fn remount(&self) -> Result<(), Errno> {
        sys::unmount(b"/")?;
        match fs::mount_configured()? {
            0 => Err(Errno::ENODEV),
            _ => Ok(()),
        }
    }

    fn stream(&self) -> Result<(), Errno> {
        self.phase("stream-to", || {
            write("/stream", STREAM)?;
            self.sync()?;
            Ok(STREAM)
        })?;
        self.remount()?;
        self.phase("stream-from", || read("/stream", STREAM))?;
        fs::remove_file("/stream")?;
        self.sync()
    }

    fn tree(&self) -> Result<(), Errno> {
        self.phase("tree-to", || {
            fs::create_dir(acid_tree::directory(TREE))?;
            let mut total = 0;
            for Planned { path, size, .. } in acid_tree::files(TREE, 1) {
                total += write(&path, size)?;
            }
            self.sync()?;
            Ok(total)
        })?;
        self.remount()?;
        self.phase("tree-from", || {
            let mut total = 0;
            for Planned { path, size, .. } in acid_tree::files(TREE, 1) {
                total += read(&path, size)?;
            }
            Ok(total)
        })
    }
}

/// Makes a file of `size` bytes; answers them.
fn write(path: &str, size: u64) -> Result<u64, Errno> {
    let file = File::create(path)?;
    let piece = vec![b'x'; PIECE];
    let mut left = size;
    while left > 0 {
        let now = left.min(PIECE as u64) as usize;
        left -= file.write(&piece[..now])? as u64;
    }
    Ok(size)
}

/// Reads a file that has `size` bytes; answers them.
fn read(path: &str, size: u64) -> Result<u64, Errno> {
    let file = File::open(path)?;
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    loop {
        match file.read(&mut piece)? {
            0 if total == size => return Ok(size),
            0 => return Err(Errno::EIO),
            count => total += count as u64,
        }
    }
}
