//! A file system for tests: names and inodes in memory, contents in blocks on a [`TestDisk`].
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod disk;

pub use disk::TestDisk;

use rumpkern::kauth::Cred;
use rumpkern::lwp::Attached;
use rumpkern::{Config, Kernel};
use rumpuser::{Errno, WallTime};
use rumpvfs::namei::Context;
use rumpvfs::specfs::BlockIo;
use rumpvfs::vfs::{MountRequest, Sizes, Vfs};
use rumpvfs::vfsops::{FileSystem, Loaded, MountArgs, MountOptions, StatVfs, VfsOps};
use rumpvfs::vnode::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock};

/// Memory that the host gives; the budget is what the test says.
const HOST_MEMORY: usize = 32 << 20;

/// Brings a host up, with `limit` bytes of memory for the kernels of this process.
pub fn boot(limit: usize) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rumpuser_hosted::Host::builder()
            .memory(HOST_MEMORY)
            .install()
            .expect("no host was installed before");
        let config = Config {
            memlimit: Some(limit),
            loglevel: log::LevelFilter::Warn,
            ..Config::default()
        };
        let kernel = Kernel::boot(config, &[]).expect("a kernel boots");
        assert!(KERNEL.set(kernel).is_ok());
    });
}

/// The kernel whose lwps the tests' threads are.
static KERNEL: OnceLock<Arc<Kernel>> = OnceLock::new();

/// Makes this thread an lwp, so that it may wait for memory.
pub fn attach(limit: usize) -> Attached {
    boot(limit);
    KERNEL
        .get()
        .expect("it was booted")
        .attach("test")
        .expect("there is room for a process")
}

/// An inode.
pub struct Node {
    pub vtype: VnodeType,
    pub mode: u16,
    pub uid: u32,
    pub nlink: u32,
    pub size: u64,
    pub entries: BTreeMap<Vec<u8>, InodeNumber>,
    pub target: Vec<u8>,
    /// First sector of each block; 0 is a hole.
    pub blocks: Vec<u64>,
}

/// The contents of a volume.
pub struct Volume {
    pub nodes: BTreeMap<InodeNumber, Node>,
    pub next_ino: InodeNumber,
    pub next_sector: u64,
    pub block: u64,
    /// Sectors left free between blocks.
    pub gap: u64,
}

pub const ROOT: InodeNumber = 2;

impl Volume {
    pub fn new(block: u64, gap: u64) -> Volume {
        let mut volume = Volume {
            nodes: BTreeMap::new(),
            next_ino: ROOT,
            next_sector: 8,
            block,
            gap,
        };
        volume.node(VnodeType::Dir, ROOT);
        volume
    }

    fn node(&mut self, vtype: VnodeType, parent: InodeNumber) -> InodeNumber {
        let ino = self.next_ino;
        self.next_ino += 1;
        let mut entries = BTreeMap::new();
        if vtype == VnodeType::Dir {
            entries.insert(b".".to_vec(), ino);
            entries.insert(b"..".to_vec(), parent);
        }
        let node = Node {
            vtype,
            mode: if vtype == VnodeType::Dir {
                0o755
            } else {
                0o644
            },
            uid: 0,
            nlink: 1,
            size: 0,
            entries,
            target: Vec::new(),
            blocks: Vec::new(),
        };
        self.nodes.insert(ino, node);
        ino
    }

    pub fn enter(&mut self, dir: InodeNumber, name: &[u8], ino: InodeNumber) {
        self.nodes
            .get_mut(&dir)
            .unwrap()
            .entries
            .insert(name.to_vec(), ino);
    }

    pub fn dir(&mut self, parent: InodeNumber, name: &str) -> InodeNumber {
        let ino = self.node(VnodeType::Dir, parent);
        self.enter(parent, name.as_bytes(), ino);
        ino
    }

    pub fn link(&mut self, parent: InodeNumber, name: &str, target: &str) -> InodeNumber {
        let ino = self.node(VnodeType::Lnk, parent);
        self.nodes.get_mut(&ino).unwrap().target = target.as_bytes().to_vec();
        self.enter(parent, name.as_bytes(), ino);
        ino
    }

    /// A file with `bytes` in it; blocks of zeroes are holes if `holes`.
    pub fn file(
        &mut self,
        disk: &TestDisk,
        parent: InodeNumber,
        name: &str,
        bytes: &[u8],
        holes: bool,
    ) -> InodeNumber {
        let ino = self.node(VnodeType::Reg, parent);
        let mut blocks = Vec::new();
        for chunk in bytes.chunks(self.block as usize) {
            if holes && chunk.iter().all(|&byte| byte == 0) {
                blocks.push(0);
                continue;
            }
            let sector = self.allocate();
            let at = sector as usize * 512;
            disk.shared().bytes.lock().unwrap()[at..at + chunk.len()].copy_from_slice(chunk);
            // The rest of the last block is not zeroes: nobody may ever see it.
            let rest = at + chunk.len()..at + self.block as usize;
            disk.shared().bytes.lock().unwrap()[rest].fill(0xdb);
            blocks.push(sector);
        }
        let node = self.nodes.get_mut(&ino).unwrap();
        node.size = bytes.len() as u64;
        node.blocks = blocks;
        self.enter(parent, name.as_bytes(), ino);
        ino
    }

    fn allocate(&mut self) -> u64 {
        let sector = self.next_sector;
        self.next_sector += self.block / 512 + self.gap;
        sector
    }
}

/// A kind of file system that mounts one volume.
pub struct TestVfs {
    name: &'static str,
    pub fs: Arc<TestFs>,
}

pub struct TestFs {
    pub volume: Mutex<Volume>,
    pub loads: AtomicUsize,
    pub lookups: AtomicUsize,
    pub reclaims: AtomicUsize,
    pub unmounts: AtomicUsize,
}

impl VfsOps for TestVfs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn probe(&self, device: &rumpvfs::bufcache::Devvp) -> Result<bool, Errno> {
        Ok(device.bread(0, 512)?[..6] == *b"TESTFS")
    }

    fn mount(&self, _args: &MountArgs) -> Result<Arc<dyn FileSystem>, Errno> {
        Ok(self.fs.clone())
    }
}

impl FileSystem for TestFs {
    fn root(&self) -> InodeNumber {
        ROOT
    }

    fn loadvnode(self: Arc<Self>, ino: InodeNumber) -> Result<Loaded, Errno> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let volume = self.volume.lock().unwrap();
        let node = volume.nodes.get(&ino).ok_or(Errno::ENOENT)?;
        Ok(Loaded {
            vtype: node.vtype,
            size: node.size,
            ops: Box::new(TestNode {
                ino,
                fs: self.clone(),
            }),
        })
    }

    fn statvfs(&self) -> Result<StatVfs, Errno> {
        Ok(StatVfs::default())
    }

    fn remount(&self, _: &MountOptions) -> Result<(), Errno> {
        Ok(())
    }

    fn unmount(&self) -> Result<(), Errno> {
        self.unmounts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

struct TestNode {
    ino: InodeNumber,
    fs: Arc<TestFs>,
}

impl TestNode {
    fn with<R>(&self, f: impl FnOnce(&Node) -> R) -> Result<R, Errno> {
        let volume = self.fs.volume.lock().unwrap();
        Ok(f(volume.nodes.get(&self.ino).ok_or(Errno::ESTALE)?))
    }

    fn volume(&self) -> MutexGuard<'_, Volume> {
        self.fs.volume.lock().unwrap()
    }
}

impl VnodeOps for TestNode {
    fn getattr(&self) -> Result<Vattr, Errno> {
        let time = WallTime::default();
        self.with(|node| Vattr {
            vtype: node.vtype,
            mode: node.mode,
            nlink: node.nlink,
            uid: node.uid,
            gid: 0,
            fileid: self.ino,
            size: node.size,
            blocksize: 4096,
            atime: time,
            mtime: time,
            ctime: time,
            birthtime: time,
            generation: 1,
            flags: 0,
            rdev: 0,
            bytes: node.size,
        })
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeNumber, Errno> {
        self.fs.lookups.fetch_add(1, Ordering::Relaxed);
        self.with(|node| node.entries.get(name).copied())?
            .ok_or(Errno::ENOENT)
    }

    fn readdir(&self, cookie: u64, sink: &mut dyn DirSink) -> Result<(), Errno> {
        let entries = self.with(|node| node.entries.clone())?;
        for (number, (name, ino)) in entries.iter().enumerate().skip(cookie as usize) {
            let entry = DirEntry {
                fileid: *ino,
                vtype: None,
                name,
                next_cookie: number as u64 + 1,
            };
            if !sink.entry(&entry) {
                break;
            }
        }
        Ok(())
    }

    fn readlink(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        self.with(|node| {
            let len = node.target.len().min(buf.len());
            buf[..len].copy_from_slice(&node.target[..len]);
            len
        })
    }

    fn bmap(&self, offset: u64, _want: u64) -> Result<Run, Errno> {
        let block = self.volume().block;
        self.with(|node| {
            let number = (offset / block) as usize;
            let within = offset % block;
            let first = node.blocks.get(number).copied().unwrap_or(0);
            Run {
                sector: (first != 0).then(|| first + within / 512),
                bytes: block - within,
            }
        })
    }

    fn balloc(&self, _vnode: &Arc<Vnode>, offset: u64, len: u64) -> Result<Balloc, Errno> {
        let mut volume = self.volume();
        let block = volume.block;
        let (first, past) = (offset / block, (offset + len).div_ceil(block));
        let mut new = None;
        for number in first as usize..past as usize {
            let blocks = &mut volume.nodes.get_mut(&self.ino).unwrap().blocks;
            if blocks.len() <= number {
                blocks.resize(number + 1, 0);
            }
            if blocks[number] == 0 {
                let sector = volume.allocate();
                volume.nodes.get_mut(&self.ino).unwrap().blocks[number] = sector;
                let start = new.map_or(number as u64 * block, |(start, _)| start);
                new = Some((start, (number as u64 + 1) * block));
            }
        }
        let node = volume.nodes.get_mut(&self.ino).unwrap();
        node.size = node.size.max(offset + len);
        Ok(Balloc {
            new: new.unwrap_or((0, 0)),
            moved: false,
        })
    }

    fn create(&self, _: &Arc<Vnode>, name: &[u8], new: &NewFile) -> Result<InodeNumber, Errno> {
        let mut volume = self.volume();
        let ino = volume.node(new.vtype, self.ino);
        volume.nodes.get_mut(&ino).unwrap().mode = new.mode;
        volume.enter(self.ino, name, ino);
        Ok(ino)
    }

    fn mkdir(&self, _: &Arc<Vnode>, name: &[u8], new: &NewFile) -> Result<InodeNumber, Errno> {
        let mut volume = self.volume();
        let ino = volume.node(new.vtype, self.ino);
        volume.nodes.get_mut(&ino).unwrap().mode = new.mode;
        volume.enter(self.ino, name, ino);
        Ok(ino)
    }

    fn remove(&self, _: &Arc<Vnode>, name: &[u8], target: &Arc<Vnode>) -> Result<(), Errno> {
        let mut volume = self.volume();
        volume
            .nodes
            .get_mut(&self.ino)
            .unwrap()
            .entries
            .remove(name);
        volume.nodes.get_mut(&target.ino()).unwrap().nlink -= 1;
        Ok(())
    }

    fn rmdir(&self, _: &Arc<Vnode>, name: &[u8], target: &Arc<Vnode>) -> Result<(), Errno> {
        let mut volume = self.volume();
        if volume.nodes[&target.ino()].entries.len() > 2 {
            return Err(Errno::ENOTEMPTY);
        }
        volume
            .nodes
            .get_mut(&self.ino)
            .unwrap()
            .entries
            .remove(name);
        volume.nodes.get_mut(&target.ino()).unwrap().nlink -= 1;
        Ok(())
    }

    fn symlink(
        &self,
        _: &Arc<Vnode>,
        name: &[u8],
        new: &NewFile,
        target: &[u8],
    ) -> Result<InodeNumber, Errno> {
        let mut volume = self.volume();
        let ino = volume.node(new.vtype, self.ino);
        volume.nodes.get_mut(&ino).unwrap().target = target.to_vec();
        volume.enter(self.ino, name, ino);
        Ok(ino)
    }

    fn link(&self, _: &Arc<Vnode>, name: &[u8], target: &Arc<Vnode>) -> Result<(), Errno> {
        let mut volume = self.volume();
        volume.nodes.get_mut(&target.ino()).unwrap().nlink += 1;
        volume.enter(self.ino, name, target.ino());
        Ok(())
    }

    fn rename(&self, rename: &Rename<'_>) -> Result<(), Errno> {
        let mut volume = self.volume();
        if let Some(to) = rename.to {
            if volume.nodes[&to.ino()].entries.len() > 2 {
                return Err(Errno::ENOTEMPTY);
            }
            volume.nodes.get_mut(&to.ino()).unwrap().nlink -= 1;
        }
        let from_dir = volume.nodes.get_mut(&rename.from_dir.ino()).unwrap();
        from_dir.entries.remove(rename.from_name);
        let (dir, ino) = (rename.to_dir.ino(), rename.from.ino());
        volume.enter(dir, rename.to_name, ino);
        let moved = volume.nodes.get_mut(&ino).unwrap();
        if moved.vtype == VnodeType::Dir {
            moved.entries.insert(b"..".to_vec(), dir);
        }
        Ok(())
    }

    fn setattr(&self, vnode: &Arc<Vnode>, attributes: &SetAttr) -> Result<(), Errno> {
        if let Some(size) = attributes.size {
            vnode.truncate_pages(size)?;
        }
        let mut volume = self.volume();
        let block = volume.block;
        let node = volume.nodes.get_mut(&self.ino).unwrap();
        if let Some(size) = attributes.size {
            assert_eq!(size, vnode.size());
            node.size = size;
            node.blocks.truncate(size.div_ceil(block) as usize);
        }
        node.mode = attributes.mode.unwrap_or(node.mode);
        node.uid = attributes.uid.unwrap_or(node.uid);
        Ok(())
    }

    fn inactive(&self, _: &Arc<Vnode>) -> bool {
        let mut volume = self.volume();
        let gone = volume
            .nodes
            .get(&self.ino)
            .is_some_and(|node| node.nlink == 0);
        if gone {
            volume.nodes.remove(&self.ino);
        }
        gone
    }

    fn reclaim(&self) {
        self.fs.reclaims.fetch_add(1, Ordering::Relaxed);
    }
}

/// A faction with one mount of a volume at `/`.
pub struct Rig {
    pub vfs: Arc<Vfs>,
    pub fs: Arc<TestFs>,
    pub disk: Arc<TestDisk>,
    context: Mutex<Option<Context>>,
}

impl Rig {
    /// `make` fills the volume, of blocks of `block` bytes with `gap` sectors between them.
    pub fn new(
        sizes: Sizes,
        sectors: u64,
        (block, gap): (u64, u64),
        make: impl FnOnce(&mut Volume, &TestDisk),
    ) -> Rig {
        let disk = TestDisk::new(sectors);
        disk.shared().bytes.lock().unwrap()[..6].copy_from_slice(b"TESTFS");
        let mut volume = Volume::new(block, gap);
        make(&mut volume, &disk);
        let vfs = Vfs::new(sizes, || 0x1234_5678_9abc_def0).unwrap();
        vfs.add_device(disk.clone()).unwrap();
        let fs = add_fs(&vfs, "testfs", volume);
        let rig = Rig {
            vfs,
            fs,
            disk,
            context: Mutex::new(None),
        };
        rig.mount().unwrap();
        rig
    }

    /// Unmounts the root. The context's own uses of it end before.
    pub fn unmount(&self) -> Result<(), Errno> {
        let context = self.context.lock().unwrap().take();
        drop(context);
        let mounts = self.vfs.mounts();
        self.vfs.unmount(&mounts[0])
    }

    /// Makes the context again, after an unmounting that failed.
    pub fn restore(&self) {
        let root = self.vfs.root().unwrap();
        *self.context.lock().unwrap() = Some(Context {
            root: root.clone(),
            cwd: root,
            cred: Arc::new(Cred::root()),
        });
    }

    /// Mounts it again.
    pub fn mount(&self) -> Result<(), Errno> {
        let cred = Arc::new(Cred::root());
        let request = MountRequest {
            device: self.disk.name(),
            path: "/",
            fstype: None,
            options: "",
        };
        self.vfs.mount(&cred, &request)?;
        self.restore();
        Ok(())
    }

    pub fn context(&self) -> Context {
        self.context
            .lock()
            .unwrap()
            .clone()
            .expect("the root is mounted")
    }

    pub fn lookup(&self, path: &str) -> Result<VnodeRef, Errno> {
        self.vfs.lookup(&self.context(), path.as_bytes())
    }
}

/// Registers a kind of file system called `name` that mounts `volume`.
pub fn add_fs(vfs: &Vfs, name: &'static str, volume: Volume) -> Arc<TestFs> {
    let fs = Arc::new(TestFs {
        volume: Mutex::new(volume),
        loads: AtomicUsize::new(0),
        lookups: AtomicUsize::new(0),
        reclaims: AtomicUsize::new(0),
        unmounts: AtomicUsize::new(0),
    });
    let ops = Box::leak(Box::new(TestVfs {
        name,
        fs: fs.clone(),
    }));
    vfs.register(ops).unwrap();
    fs
}

/// Bytes that differ from page to page and from file to file.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
