//! What the file-system scenarios share: volumes, a kernel that mounts one, workers that know what they wrote ([`powercut`]).
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod worker;

use std::sync::Arc;

use powercut::judge::Found;
use rump::{Component, Config, Kernel};
use rumpfs_ffs::check::repair::Repairable;
use rumpfs_ffs::disk::Metadata;
use rumpfs_ffs::mkfs::{Options, Plan};
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::Format;
use rumpkern::kauth::Cred;
use rumpkern::lwp::{Attached, curproc};
use rumpkern::proc::Proc;
use rumpuser::Errno;
use rumpuser_sim::{SimDisk, Stream, Universe};
use rumpvfs::Vfs;
use rumpvfs::mount::Mount;
use rumpvfs::syscalls::OpenFlags;
use rumpvfs::vfs::MountRequest;

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

/// What a kernel with a disk and a wire has.
pub const WITH_A_WIRE: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpnet::COMPONENT,
    &rumpnet_netinet::COMPONENT,
    &rumpnet_netinet::CONFIG_COMPONENT,
    &rumpnet_net::LOOPBACK_COMPONENT,
    &rumpnet_virtif::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

/// Draws what a volume of `bytes` bytes is to be like.
pub fn draw(stream: &mut Stream, bytes: u64) -> Options {
    let format = [Format::Ufs1, Format::Ufs2][stream.below(2) as usize];
    let order = [Order::Little, Order::Big][stream.below(2) as usize];
    let (bsize, frag) =
        [(4096, 8), (4096, 1), (8192, 8), (16384, 8), (16384, 2)][stream.below(5) as usize];
    Options {
        order,
        bsize: Some(bsize),
        fsize: Some(bsize / frag),
        density: Some(bsize * 2),
        ..Options::new(format, bytes)
    }
}

/// An empty volume.
pub fn make(options: Options) -> Vec<u8> {
    let mut bytes = vec![0; options.size as usize];
    let plan = Plan::new(options).expect("the geometry is possible");
    plan.write(&mut |at, data| {
        bytes[at as usize..at as usize + data.len()].copy_from_slice(data);
        Ok(())
    })
    .expect("memory takes it");
    bytes
}

/// An image to be checked or repaired.
pub struct Image(pub Vec<u8>);

impl Metadata for Image {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        visit(self.0.get(start..end).ok_or(Errno::EINVAL)?);
        Ok(())
    }
}

impl Repairable for Image {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let place = self.0.get_mut(start..start + bytes.len());
        place.ok_or(Errno::EINVAL)?.copy_from_slice(bytes);
        Ok(())
    }
}

/// A kernel with one disk.
pub struct System {
    pub kernel: Arc<Kernel>,
    pub vfs: Arc<Vfs>,
    pub proc: Arc<Proc>,
    pub disk: &'static SimDisk,
    attached: Attached,
}

impl System {
    /// Boots a kernel with `memlimit` bytes beside a disk that holds `bytes`. Nothing is mounted yet.
    pub fn boot(
        universe: &Universe,
        bytes: Vec<u8>,
        volatile_cache: bool,
        memlimit: usize,
    ) -> System {
        let disk = SimDisk::new("ld0", bytes, volatile_cache);
        universe.here().add_disk(disk);
        let config = Config {
            memlimit: Some(memlimit),
            ..Config::default()
        };
        let kernel = Kernel::boot(config, COMPONENTS).expect("a kernel boots");
        let attached = kernel.attach("main").expect("there is room for a process");
        System {
            vfs: kernel.get::<Vfs>().expect("the kernel has file systems"),
            proc: curproc().expect("this thread is an lwp"),
            kernel,
            disk,
            attached,
        }
    }

    /// Mounts `device` at the root.
    pub fn mount(&self, device: &str, options: &str) -> Result<Arc<Mount>, Errno> {
        let request = MountRequest {
            device,
            path: "/",
            fstype: None,
            options,
        };
        self.vfs.mount(&Arc::new(Cred::root()), &request)
    }

    /// Ends the kernel; the mounts were ended before.
    pub fn shutdown(self) {
        drop(self.attached);
        self.kernel.shutdown();
    }

    /// Every file below `path`, with what it holds.
    pub fn tree(&self, path: &str, found: &mut Tree) -> Result<(), Errno> {
        let flags = OpenFlags::READ | OpenFlags::DIRECTORY;
        let below = if path.is_empty() { "/" } else { path };
        let directory = self.vfs.open(&self.proc, below.as_bytes(), flags, 0)?;
        let mut names: Vec<String> = Vec::new();
        loop {
            let before = names.len();
            let mut sink = |entry: &rumpvfs::vnode::DirEntry<'_>| {
                names.push(String::from_utf8_lossy(entry.name).into_owned());
                true
            };
            rumpvfs::syscalls::getdents(&directory, &mut sink)?;
            if names.len() == before {
                break;
            }
        }
        names.retain(|name| name != "." && name != "..");
        for name in names {
            let path = format!("{path}/{name}");
            let attr = self.vfs.lstat(&self.proc, path.as_bytes())?.attr;
            match attr.vtype {
                rumpvfs::vnode::VnodeType::Dir => self.tree(&path, found)?,
                rumpvfs::vnode::VnodeType::Reg => {
                    let bytes = self.read(&path)?;
                    let ino = attr.fileid;
                    found.push(Found { path, ino, bytes });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// All that a file holds.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let file = self
            .vfs
            .open(&self.proc, path.as_bytes(), OpenFlags::READ, 0)?;
        let mut bytes = Vec::new();
        let mut piece = vec![0; 20_000];
        loop {
            let count = file.read_at(bytes.len() as u64, &mut piece)?;
            if count == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&piece[..count]);
        }
    }
}

/// All files that were found.
pub type Tree = Vec<Found>;
