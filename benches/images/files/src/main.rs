//! Works on files of its first disk, as `rump-benches files` does in the Linux guest: the same calls in the same order.
//!
//! Prints `phase NAME NANOSECONDS` for each phase, and in the end how much memory was used at most.
#![no_std]
#![no_main]

extern crate alloc;

mod ustar;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use rump::fs::{self, File};
use rump::sys::Times;
use rump::{Component, Config, Errno, Kernel, sys};
use rumpkern::kmem::Kmem;
use rumpkern::time::{WallTime, now};
use rumpkern::{aprint, uvm};
use rumpvfs::Vfs;
use rumpvfs::vnode::Wait;
use ustar::Member;

rumpuser_baremetal::entry!(main);

#[global_allocator]
static KMEM: Kmem = Kmem;

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

const SMALL_FILES: u32 = 10_000;
const SMALL: usize = 1024;
const LARGE: usize = 64 << 20;
const PIECE: usize = 64 << 10;
const DIRECTORIES: u32 = 100;
const FILES_EACH: u32 = 20;
const UNPACKED: u32 = 4;

fn main() -> Result<(), Errno> {
    let mut config = Config::from_host();
    config.mounts = config.mounts_or_root();
    let kernel = Kernel::boot(config, COMPONENTS)?;
    let process = kernel.attach("files")?;
    fs::mount_configured()?;
    let work = Work {
        vfs: kernel.get::<Vfs>().ok_or(Errno::ENODEV)?,
    };
    work.small()?;
    work.large()?;
    work.tree()?;
    work.untar()?;
    drop(process);
    let stats = uvm::stats();
    aprint!("memory {} of {} pages", stats.high_water, stats.limit);
    kernel.halt(0)
}

struct Work {
    vfs: Arc<Vfs>,
}

impl Work {
    fn phase(&self, name: &str, work: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        let start = now();
        work()?;
        aprint!("phase {name} {}", now().saturating_since(start).as_nanos());
        Ok(())
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

    fn small(&self) -> Result<(), Errno> {
        fs::create_dir("/small")?;
        let bytes = [b'x'; SMALL];
        let name = |n: u32| format!("/small/file{n}");
        self.phase("create", || {
            for n in 0..SMALL_FILES {
                put(&File::create(name(n))?, &bytes)?;
            }
            self.sync()
        })?;
        let stat_all = || {
            (0..SMALL_FILES).try_for_each(|n| match fs::metadata(name(n))?.len() == SMALL as u64 {
                true => Ok(()),
                false => Err(Errno::EIO),
            })
        };
        self.phase("stat-warm", stat_all)?;
        self.remount()?;
        self.phase("stat-cold", stat_all)?;
        let renamed = |n: u32| format!("/small/renamed{n}");
        self.phase("rename", || {
            (0..SMALL_FILES).try_for_each(|n| fs::rename(name(n), renamed(n)))?;
            self.sync()
        })?;
        self.phase("delete", || {
            (0..SMALL_FILES).try_for_each(|n| fs::remove_file(renamed(n)))?;
            self.sync()
        })
    }

    fn large(&self) -> Result<(), Errno> {
        let mut piece = vec![b'y'; PIECE];
        self.phase("write", || {
            let file = File::create("/large")?;
            for _ in 0..LARGE / PIECE {
                put(&file, &piece)?;
            }
            drop(file);
            self.sync()
        })?;
        let mut read_all = || {
            let file = File::open("/large")?;
            let mut total = 0;
            loop {
                match file.read(&mut piece)? {
                    0 => break,
                    count => total += count,
                }
            }
            match total == LARGE {
                true => Ok(()),
                false => Err(Errno::EIO),
            }
        };
        self.phase("read-warm", &mut read_all)?;
        self.remount()?;
        self.phase("read-cold", &mut read_all)
    }

    fn tree(&self) -> Result<(), Errno> {
        let bytes = vec![b'z'; 20 << 10];
        fs::create_dir("/tree")?;
        for directory in 0..DIRECTORIES {
            let directory = format!("/tree/directory{directory}");
            fs::create_dir(&directory)?;
            for n in 0..FILES_EACH {
                let size = 1 + (n * 7919 % (20 << 10)) as usize;
                put(
                    &File::create(format!("{directory}/file{n}"))?,
                    &bytes[..size],
                )?;
            }
        }
        self.sync()?;
        self.remount()?;
        self.phase("copy", || {
            fs::create_dir("/copy")?;
            for directory in names("/tree")? {
                fs::create_dir(format!("/copy/{directory}"))?;
                for name in names(&format!("/tree/{directory}"))? {
                    let path = format!("{directory}/{name}");
                    copy(&format!("/tree/{path}"), &format!("/copy/{path}"))?;
                }
            }
            self.sync()
        })
    }
}

impl Work {
    fn untar(&self) -> Result<(), Errno> {
        // Warm, as what was just fetched is.
        let (archive, mut piece) = (File::open("/source.tar")?, vec![0; PIECE]);
        while archive.read(&mut piece)? > 0 {}
        self.phase("untar", || {
            (0..UNPACKED).try_for_each(|n| unpack(&format!("/unpacked{n}")))?;
            self.sync()
        })
    }
}

fn unpack(to: &str) -> Result<(), Errno> {
    fs::create_dir(to)?;
    let archive = File::open("/source.tar")?;
    let mut piece = vec![0; PIECE];
    let mut header = [0; ustar::BLOCK];
    loop {
        get(&archive, &mut header)?;
        let Some(member) = Member::parse(&header) else {
            return Ok(());
        };
        let path = format!("{to}/{}", member.path);
        if member.is_directory {
            match fs::create_dir(&path) {
                Err(Errno::EEXIST) => {}
                made => made?,
            }
        } else {
            let file = File::create(&path)?;
            let mut left = member.size;
            while left > 0 {
                let count = left.min(PIECE);
                get(&archive, &mut piece[..count.next_multiple_of(ustar::BLOCK)])?;
                put(&file, &piece[..count])?;
                left -= count;
            }
        }
        sys::chmod(path.as_bytes(), member.mode as u16)?;
        let time = Some(WallTime {
            seconds: member.modified,
            nanos: 0,
        });
        let times = Times {
            atime: time,
            mtime: time,
        };
        sys::utimens(path.as_bytes(), Some(times))?;
    }
}

/// Fills `bytes`.
fn get(file: &File, mut bytes: &mut [u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let count = file.read(bytes)?;
        if count == 0 {
            return Err(Errno::EIO);
        }
        bytes = &mut bytes[count..];
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

fn names(directory: &str) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = String::from_utf8(entry.name().to_vec()).map_err(|_| Errno::EILSEQ)?;
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn copy(from: &str, to: &str) -> Result<(), Errno> {
    let (source, target) = (File::open(from)?, File::create(to)?);
    let mut piece = vec![0; PIECE];
    loop {
        match source.read(&mut piece)? {
            0 => return Ok(()),
            count => put(&target, &piece[..count])?,
        }
    }
}
