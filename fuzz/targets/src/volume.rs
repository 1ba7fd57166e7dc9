//! Small volumes in memory: made, mounted without a thread, walked and changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rumpdev::disk::{Backend, Disk};
use rumpdev::md::MemoryDisk;
use rumpfs_ffs::check::repair::Repairable;
use rumpfs_ffs::disk::Metadata;
use rumpfs_ffs::mkfs::{Options, Plan};
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::Format;
use rumpfs_ffs::vfsops::Ffs;
use rumpkern::lwp::curproc;
use rumpkern::proc::Proc;
use rumpkern::uvm::dma::Bio;
use rumpuser::{BlockInfo, Errno};
use rumpvfs::mount::Mount;
use rumpvfs::namei::Last;
use rumpvfs::syscalls::{self, OpenFlags, Times};
use rumpvfs::vfs::{MountRequest, Sizes, Vfs};
use rumpvfs::vnode::{DirEntry, VnodeType};

/// Requests that a disk takes in one run: far more than the worst of these volumes needs.
const MOST_REQUESTS: u64 = 100_000;

/// A disk in memory that counts requests.
struct Counting {
    memory: Arc<MemoryDisk>,
    requests: AtomicU64,
}

impl Backend for Counting {
    fn info(&self) -> &BlockInfo {
        self.memory.info()
    }

    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        assert!(count < MOST_REQUESTS, "work without end");
        self.memory.start(bio)
    }
}

/// An image, as the checker sees it.
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
        let end = start.checked_add(bytes.len()).ok_or(Errno::EINVAL)?;
        let place = self.0.get_mut(start..end).ok_or(Errno::EINVAL)?;
        place.copy_from_slice(bytes);
        Ok(())
    }
}

/// A faction with a disk, on which something may be mounted at `/`.
pub struct Machine {
    vfs: Arc<Vfs>,
    disk: Arc<MemoryDisk>,
    proc: Arc<Proc>,
}

impl Machine {
    /// One with `bytes` as its disk. The thread must be an lwp.
    pub fn new(bytes: Vec<u8>) -> Machine {
        let sizes = Sizes {
            vnodes: 24,
            names: 64,
            buffers: 16,
        };
        let vfs = Vfs::new(sizes, || 0x1234_5678_9abc_def0).expect("there is memory");
        vfs.register(&Ffs).expect("the only one");
        let disk = MemoryDisk::new(bytes);
        let backend = Counting {
            memory: disk.clone(),
            requests: AtomicU64::new(0),
        };
        vfs.add_device(Disk::new(0, Arc::new(backend)))
            .expect("the only one");
        Machine {
            vfs,
            disk,
            proc: curproc().expect("the thread is an lwp"),
        }
    }

    /// Mounts the disk.
    pub fn mount(&self, options: &str) -> Result<Arc<Mount>, Errno> {
        let request = MountRequest {
            device: "ld0",
            path: "/",
            fstype: Some("ffs"),
            options,
        };
        self.vfs.mount(&self.proc.cred(), &request)
    }

    /// Ends the mount. What cannot be written to a spoiled volume may prevent that; then it is made read-only, which
    /// prevents nothing.
    pub fn unmount(&self, mount: &Arc<Mount>) -> Result<(), Errno> {
        self.vfs.unmount(mount)
    }

    /// What the disk holds.
    pub fn bytes(&self) -> Vec<u8> {
        self.disk.with_bytes(|bytes| bytes.to_vec())
    }

    /// Looks at what is below `path`: answers the paths found, at most `most`, and what could not be had, and why.
    pub fn walk(&self, path: &str, most: usize) -> (Vec<Vec<u8>>, Vec<(String, Errno)>) {
        let mut found: Vec<Vec<u8>> = vec![path.as_bytes().to_vec()];
        let (mut next, mut errors) = (0, Vec::new());
        while let Some(path) = found.get(next).cloned() {
            next += 1;
            let below = self.look(&path);
            if let Err(errno) = below {
                errors.push((path.escape_ascii().to_string(), errno));
            }
            for name in below.unwrap_or_default() {
                if found.len() < most {
                    let slash: &[u8] = if path == b"/" { b"" } else { b"/" };
                    found.push([&path[..], slash, &name].concat());
                }
            }
        }
        (found, errors)
    }

    /// Looks at the file at `path`; answers the names that it has if it is a directory.
    fn look(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        let stat = self.vfs.lstat(&self.proc, path)?;
        match stat.attr.vtype {
            VnodeType::Dir => self.names(path),
            VnodeType::Lnk => {
                self.vfs.readlink(&self.proc, path)?;
                // Where it leads need not exist.
                let _ = self.vfs.stat(&self.proc, path);
                Ok(Vec::new())
            }
            VnodeType::Reg => {
                let file = self.vfs.open(&self.proc, path, OpenFlags::READ, 0)?;
                let size = stat.attr.size;
                for at in [0, size / 2, size.saturating_sub(5000)] {
                    let (mut bytes, mut done) = ([0; 6000], 0);
                    let wanted = (size - at).min(6000) as usize;
                    while done < wanted {
                        let count = file.read_at(at + done as u64, &mut bytes[done..wanted])?;
                        assert!(count > 0, "it ends before its end");
                        done += count;
                    }
                }
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        let flags = OpenFlags::READ | OpenFlags::DIRECTORY;
        let directory = self.vfs.open(&self.proc, path, flags, 0)?;
        let mut names = Vec::new();
        let mut sink = |entry: &DirEntry<'_>| {
            if !matches!(entry.name, b"." | b"..") {
                names.push(entry.name.to_vec());
            }
            true
        };
        syscalls::getdents(&directory, &mut sink)?;
        Ok(names)
    }

    /// Does one thing to the file at `path`, and another where that needs one.
    pub fn change(&self, change: Change, path: &[u8], other: &[u8]) -> Result<(), Errno> {
        let (vfs, proc) = (&self.vfs, &*self.proc);
        match change {
            Change::Write(offset, count) => {
                let flags = OpenFlags::WRITE | OpenFlags::CREAT;
                let file = vfs.open(proc, path, flags, 0o644)?;
                let bytes = [0x5a; 9000];
                file.write_at(offset, &bytes[..count.min(bytes.len())])?;
                match offset % 2 {
                    0 => syscalls::fsync(&file),
                    _ => Ok(()),
                }
            }
            Change::Truncate(size) => vfs.truncate(proc, path, size),
            Change::Unlink => vfs.unlink(proc, path),
            Change::Mkdir => vfs.mkdir(proc, path, 0o755),
            Change::Rmdir => vfs.rmdir(proc, path),
            Change::Rename => vfs.rename(proc, path, other),
            Change::Link => vfs.link(proc, path, other),
            Change::Symlink => vfs.symlink(proc, path, other),
            Change::Mknod => vfs.mknod(proc, path, VnodeType::Fifo, 0o600, 0),
            Change::Chmod(mode) => vfs.chmod(proc, path, mode),
            Change::Chown(id) => vfs.chown(proc, path, Last::NoFollow, Some(id), Some(id)),
            Change::Touch => {
                let none: Option<Times> = None;
                vfs.utimens(proc, path, Last::NoFollow, none)
            }
            Change::Look => self.look(path).map(|_| ()),
            Change::Sync => vfs.sys_sync(),
            Change::Statvfs => vfs.statvfs(proc, path).map(|_| ()),
        }
    }
}

/// Something that a user does to files.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Write(u64, usize),
    Truncate(u64),
    Unlink,
    Mkdir,
    Rmdir,
    Rename,
    Link,
    Symlink,
    Mknod,
    Chmod(u16),
    Chown(u32),
    Touch,
    Look,
    Sync,
    Statvfs,
}

/// The kinds of volumes to start from.
const KINDS: [(Format, Order, u32, u32); 4] = [
    (Format::Ufs1, Order::Little, 4096, 512),
    (Format::Ufs2, Order::Little, 4096, 1024),
    (Format::Ufs1, Order::Big, 8192, 8192),
    (Format::Ufs2, Order::Big, 8192, 1024),
];

/// Blocks of a volume.
const BLOCKS: u64 = 96;

/// An empty volume of each kind.
pub fn empty() -> Vec<Vec<u8>> {
    KINDS.iter().map(|kind| make(*kind)).collect()
}

fn make((format, order, bsize, fsize): (Format, Order, u32, u32)) -> Vec<u8> {
    let size = u64::from(bsize) * BLOCKS;
    let options = Options {
        order,
        bsize: Some(bsize),
        fsize: Some(fsize),
        density: Some(bsize * 2),
        max_fpg: Some(bsize / fsize * 48),
        ..Options::new(format, size)
    };
    let mut bytes = vec![0; size as usize];
    let plan = Plan::new(options).expect("the geometry is possible");
    plan.write(&mut |at, data| {
        bytes[at as usize..at as usize + data.len()].copy_from_slice(data);
        Ok(())
    })
    .expect("memory does not fail");
    bytes
}

/// A volume of each kind with some of everything on it. The thread must be an lwp.
pub fn filled() -> Vec<Vec<u8>> {
    empty().into_iter().map(fill).collect()
}

fn fill(bytes: Vec<u8>) -> Vec<u8> {
    let machine = Machine::new(bytes);
    let mount = machine.mount("").expect("a fresh volume");
    let long_target = "t/".repeat(100);
    let long_name = format!("/d/{}", "n".repeat(255));
    let things: [(Change, &str, &str); 14] = [
        (Change::Mkdir, "/d", ""),
        (Change::Mkdir, "/d/e", ""),
        (Change::Write(0, 700), "/short", ""),
        (Change::Write(9000, 9000), "/d/long", ""),
        // With holes, and indirect blocks of two levels.
        (Change::Write(8192 * 11 + 1, 9000), "/d/sparse", ""),
        (Change::Write(8192 * 2100, 1), "/d/sparse", ""),
        (Change::Link, "/short", "/d/linked"),
        (Change::Symlink, "d/e", "/link"),
        (Change::Symlink, &long_target, "/d/long-link"),
        (Change::Symlink, "loop", "/loop"),
        (Change::Mknod, "/fifo", ""),
        (Change::Write(0, 0), "/empty", ""),
        (Change::Mkdir, &long_name, ""),
        (Change::Chmod(0o4711), "/short", ""),
    ];
    for (change, path, other) in things {
        let done = machine.change(change, path.as_bytes(), other.as_bytes());
        assert_eq!(done, Ok(()), "{change:?} {path}");
    }
    for number in 0..40 {
        let path = format!("/d/e/{number:0>12}");
        let done = machine.change(Change::Write(0, 0), path.as_bytes(), b"");
        assert_eq!(done, Ok(()), "{path}");
    }
    machine.unmount(&mount).expect("nothing is in use");
    machine.bytes()
}
