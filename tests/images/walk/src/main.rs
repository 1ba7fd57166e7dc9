//! Mounts each of the machine's disks in turn, to read, and walks what is on it: every directory, the start, the middle and
//! the end of every file, every link. What cannot be had is counted. For disks that are spoiled on purpose: whatever is on
//! them, the image must come to its end.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use rump::fs::{self, File, FileType};
use rump::{Component, Config, Errno, Kernel};
use rumpkern::aprint;
use rumpkern::kauth::Cred;
use rumpkern::kmem::Kmem;
use rumpvfs::Vfs;
use rumpvfs::vfs::MountRequest;

rumpuser_baremetal::entry!(main);

#[global_allocator]
static KMEM: Kmem = Kmem;

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

/// The most files of a disk that are looked at.
const FILES: usize = 400;
/// The most names of a directory that are followed.
const NAMES: usize = 100;
/// Bytes read at each place of a file.
const PIECE: usize = 20_000;

fn main() -> u8 {
    let kernel = match Kernel::boot(Config::from_host(), COMPONENTS) {
        Ok(kernel) => kernel,
        Err(errno) => {
            log::error!("walk: the kernel does not boot: {errno}");
            return 1;
        }
    };
    let status = match walk_all(&kernel) {
        Ok(disks) => {
            aprint!("walk: {disks} disks");
            0
        }
        Err(errno) => {
            log::error!("walk: {errno}");
            1
        }
    };
    kernel.halt(status)
}

fn walk_all(kernel: &Arc<Kernel>) -> Result<usize, Errno> {
    let vfs = kernel.get::<Vfs>().ok_or(Errno::ENODEV)?;
    let _process = kernel.attach("walk")?;
    let cred = Arc::new(Cred::root());
    let devices = vfs.devices();
    for device in &devices {
        let request = MountRequest {
            device: device.name(),
            path: "/",
            fstype: None,
            options: "ro",
        };
        match vfs.mount(&cred, &request) {
            Ok(mount) => {
                let errors = walk();
                aprint!("walk: {}: {errors} errors", device.name());
                vfs.unmount(&mount)?;
            }
            Err(errno) => aprint!("walk: {}: refused: {errno}", device.name()),
        }
    }
    Ok(devices.len())
}

/// Walks what is mounted. Answers how much of it could not be had.
fn walk() -> usize {
    let mut seen = BTreeSet::new();
    let mut ahead: Vec<Vec<u8>> = vec![b"/".to_vec()];
    let mut errors = 0;
    while let Some(path) = ahead.pop() {
        if seen.len() == FILES {
            break;
        }
        let facts = match fs::symlink_metadata(&path) {
            Ok(facts) => facts,
            Err(_) => {
                errors += 1;
                continue;
            }
        };
        // A directory may be its own grandchild.
        if !seen.insert(facts.ino()) {
            continue;
        }
        let looked = match facts.file_type() {
            FileType::Dir => directory(&path, &mut ahead),
            FileType::Reg => file(&path, facts.len()),
            FileType::Lnk => fs::read_link(&path).map(drop),
            _ => Ok(()),
        };
        errors += usize::from(looked.is_err());
    }
    errors
}

fn directory(path: &[u8], ahead: &mut Vec<Vec<u8>>) -> Result<(), Errno> {
    for entry in fs::read_dir(path)?.take(NAMES) {
        let entry = entry?;
        if entry.name() == b"." || entry.name() == b".." {
            continue;
        }
        let mut below = path.to_vec();
        if !below.ends_with(b"/") {
            below.push(b'/');
        }
        below.extend_from_slice(entry.name());
        ahead.push(below);
    }
    Ok(())
}

fn file(path: &[u8], size: u64) -> Result<(), Errno> {
    let file = File::open(path)?;
    let mut bytes = vec![0; PIECE];
    for place in [0, 12 * 4096, size / 2, size.saturating_sub(9000)] {
        file.read_at(&mut bytes, place)?;
    }
    Ok(())
}
