//! A volume made for a test, on a disk in memory, mounted for writing through the whole of `rumpvfs`.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, Once, OnceLock};

use rumpfs_ffs::check::repair::Repairable;
use rumpfs_ffs::check::{Report, check};
use rumpfs_ffs::disk::Metadata;
use rumpfs_ffs::mkfs::{Options, Plan};
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::Format;
use rumpfs_ffs::vfsops::Ffs;
use rumpkern::kauth::Cred;
use rumpkern::lwp::{Attached, curproc};
use rumpkern::proc::Proc;
use rumpkern::uvm;
use rumpkern::uvm::dma::{Bio, BioOp};
use rumpkern::{Config, Kernel};
use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::specfs::{BlockIo, DeviceInfo, Direct};
use rumpvfs::vfs::{MountRequest, Sizes, Vfs};
use rumpvfs::vnode::Wait;

static KERNEL: OnceLock<Arc<Kernel>> = OnceLock::new();

/// Makes this thread an lwp of a kernel with `limit` bytes of memory, the same for all tests of a program.
pub fn attach(limit: usize) -> Attached {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Little more than the budget, for the table of all pages is part of that.
        let host = rumpuser_hosted::Host::builder().memory(2 * limit);
        host.install().expect("no host was installed before");
        let config = Config {
            memlimit: Some(limit),
            loglevel: log::LevelFilter::Warn,
            ..Config::default()
        };
        let kernel = Kernel::boot(config, &[]).expect("a kernel boots");
        assert!(KERNEL.set(kernel).is_ok());
    });
    let kernel = KERNEL.get().expect("it was booted");
    kernel.attach("test").expect("there is room for a process")
}

/// What an image is, to the checker.
pub struct Bytes<'a>(pub &'a [u8]);

impl Metadata for Bytes<'_> {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        visit(self.0.get(start..end).ok_or(Errno::EINVAL)?);
        Ok(())
    }
}

/// An image to be repaired.
pub struct Image(pub Vec<u8>);

impl Metadata for Image {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        Bytes(&self.0).read(offset, len, visit)
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

/// What a disk does wrong.
#[derive(Default)]
pub struct Faults {
    /// Sectors that cannot be read.
    pub reads: Vec<Range<u64>>,
    /// Sectors that cannot be written.
    pub writes: Vec<Range<u64>>,
    /// Any request may fail, one in so many; 0: none does.
    pub one_in: u64,
    pub random: Random,
    /// Requests that failed.
    pub failed: u64,
}

impl Faults {
    fn strike(&mut self, op: BioOp, sectors: Range<u64>) -> bool {
        let bad = match op {
            BioOp::Write => &self.writes,
            _ => &self.reads,
        };
        let hit = bad
            .iter()
            .any(|bad| bad.start < sectors.end && sectors.start < bad.end);
        let strikes = hit || self.one_in > 0 && self.random.below(self.one_in) == 0;
        self.failed += u64::from(strikes);
        strikes
    }
}

/// What sectors that were discarded read as.
pub const DISCARDED: u8 = 0xd5;

/// A disk in memory, served by a thread of its own.
pub struct Disk {
    sectors: u64,
    bytes: Arc<Mutex<Vec<u8>>>,
    queue: Mutex<Sender<Bio>>,
    /// It takes that many more writes; the others are as if the power were gone.
    pub writes_left: Arc<Mutex<u64>>,
    pub faults: Arc<Mutex<Faults>>,
    /// It has direct transfers.
    pub direct: AtomicBool,
}

impl Disk {
    pub fn new(bytes: Vec<u8>) -> Arc<Disk> {
        let sectors = (bytes.len() / SECTOR_SIZE) as u64;
        let bytes = Arc::new(Mutex::new(bytes));
        let writes_left = Arc::new(Mutex::new(u64::MAX));
        let (queue, requests) = channel::<Bio>();
        let faults = Arc::new(Mutex::new(Faults::default()));
        let (theirs, left, wrong) = (bytes.clone(), writes_left.clone(), faults.clone());
        std::thread::spawn(move || {
            for mut bio in requests {
                let len: usize = bio.frames.iter().map(|io| io.len).sum();
                let sectors = bio.sector..bio.sector + (len / SECTOR_SIZE) as u64;
                let goes_wrong = wrong.lock().unwrap().strike(bio.op, sectors);
                let result = match goes_wrong {
                    true => Err(Errno::EIO),
                    false => serve(&mut theirs.lock().unwrap(), &left, &mut bio),
                };
                (bio.done)(bio.frames, result);
            }
        });
        Arc::new(Disk {
            sectors,
            bytes,
            queue: Mutex::new(queue),
            writes_left,
            faults,
            direct: AtomicBool::new(false),
        })
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

fn serve(bytes: &mut [u8], left: &Mutex<u64>, bio: &mut Bio) -> Result<(), Errno> {
    if bio.op == BioOp::Flush {
        return Ok(());
    }
    if bio.op != BioOp::Read {
        let mut left = left.lock().unwrap();
        if *left == 0 {
            return Ok(());
        }
        *left -= 1;
    }
    let mut at = bio.sector as usize * SECTOR_SIZE;
    if let BioOp::Discard { sectors } = bio.op {
        bytes[at..at + sectors as usize * SECTOR_SIZE].fill(DISCARDED);
    }
    for io in &mut bio.frames {
        let disk = &mut bytes[at..at + io.len];
        let part = io.offset..io.offset + io.len;
        if bio.op == BioOp::Read {
            let memory = io.frame.get_mut().expect("it is nobody else's");
            memory[part].copy_from_slice(disk);
        } else {
            disk.copy_from_slice(&io.frame.as_bytes()[part]);
        }
        at += io.len;
    }
    Ok(())
}

impl BlockIo for Disk {
    fn name(&self) -> &str {
        "disk0"
    }

    fn dev(&self) -> u64 {
        1
    }

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            sectors: self.sectors,
            sector_size: 512,
            read_only: false,
            volatile_cache: false,
            discard: true,
            max_bytes: 128 * 1024,
        }
    }

    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        let len: usize = bio.frames.iter().map(|io| io.len).sum();
        let end = bio.sector + (len / SECTOR_SIZE) as u64;
        if end > self.sectors || !len.is_multiple_of(SECTOR_SIZE) {
            return Err((Errno::EINVAL, bio));
        }
        let sent = self.queue.lock().unwrap().send(bio);
        sent.expect("the disk's thread is there");
        Ok(())
    }

    fn has_direct(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }

    /// A transfer that fails has done half of what was asked.
    fn direct(&self, sector: u64, memory: Direct<'_>) -> Result<(), Errno> {
        let sectors = sector..sector + (memory.bytes() / SECTOR_SIZE) as u64;
        assert!(sectors.end <= self.sectors && memory.bytes().is_multiple_of(SECTOR_SIZE));
        let strikes = self.faults.lock().unwrap().strike(memory.op(), sectors);
        let moved = memory.bytes() >> u32::from(strikes);
        let mut bytes = self.bytes.lock().unwrap();
        let disk = &mut bytes[sector as usize * SECTOR_SIZE..][..moved];
        match memory {
            Direct::Read(memory) => memory[..moved].copy_from_slice(disk),
            Direct::Write(memory) => disk.copy_from_slice(&memory[..moved]),
        }
        if strikes { Err(Errno::EIO) } else { Ok(()) }
    }
}

/// What a volume is to be, for a test.
pub fn options(format: Format, order: Order, bsize: u32, frag: u32, blocks: u64) -> Options {
    Options {
        order,
        bsize: Some(bsize),
        fsize: Some(bsize / frag),
        density: Some(bsize * 2),
        ..Options::new(format, u64::from(bsize) * blocks)
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
    .expect("memory does not fail");
    bytes
}

/// Kinds of volumes: both formats and byte orders, blocks and fragments of several sizes.
pub fn kinds() -> Vec<Options> {
    let (little, big) = (Order::Little, Order::Big);
    let mut kinds = Vec::new();
    for (format, order, bsize, frag) in [
        (Format::Ufs1, little, 4096, 8),
        (Format::Ufs2, little, 4096, 1),
        (Format::Ufs1, big, 8192, 8),
        (Format::Ufs2, big, 8192, 4),
        (Format::Ufs2, little, 16384, 8),
        (Format::Ufs1, big, 16384, 2),
        (Format::Ufs2, little, 65536, 8),
    ] {
        let blocks = (16 << 20) / u64::from(bsize);
        kinds.push(options(format, order, bsize, frag, blocks));
    }
    kinds
}

/// Options of a mount that is to be tried: without a log and with one.
pub const MOUNTS: [&str; 2] = ["", "log"];

/// The same volume, which is to get a log of `bytes` bytes when it is mounted with one.
pub fn asking_for_log(volume: Vec<u8>, bytes: u64) -> Vec<u8> {
    let mut image = Image(volume);
    rumpfs_ffs::tune::ask_for_log(&mut image, bytes).expect("it has none");
    image.0
}

/// A faction with one volume mounted at `/`.
pub struct Rig {
    pub vfs: Arc<Vfs>,
    pub disk: Arc<Disk>,
    pub proc: Arc<Proc>,
}

impl Rig {
    pub fn new(bytes: Vec<u8>) -> Rig {
        Rig::with(bytes, "").expect("it can be mounted")
    }

    pub fn with(bytes: Vec<u8>, options: &str) -> Result<Rig, Errno> {
        let disk = Disk::new(bytes);
        let sizes = Sizes {
            vnodes: 24,
            names: 64,
            // Half of them may be dirty, which only room in the cache gets rid of.
            buffers: if uvm::limit_pages() < 256 { 8 } else { 16 },
        };
        let vfs = Vfs::new(sizes, || 0x1234_5678_9abc_def0)?;
        vfs.register(&Ffs)?;
        vfs.add_device(disk.clone())?;
        let rig = Rig {
            vfs,
            disk,
            proc: curproc().expect("the thread is an lwp"),
        };
        rig.mount(options)?;
        Ok(rig)
    }

    pub fn mount(&self, options: &str) -> Result<(), Errno> {
        let request = MountRequest {
            device: "disk0",
            path: "/",
            fstype: None,
            options,
        };
        self.vfs
            .mount(&Arc::new(Cred::root()), &request)
            .map(|_| ())
    }

    pub fn unmount(&self) {
        let mounts = self.vfs.mounts();
        self.vfs.unmount(&mounts[0]).expect("it can be unmounted");
    }

    /// What a check finds once everything is written; the volume stays mounted.
    pub fn check_mounted(&self) -> Report {
        self.vfs.sync(Wait::Stable).expect("synced");
        check(&Bytes(&self.disk.bytes())).expect("it can be checked")
    }

    /// Ends the mount, and sees that nothing is wrong.
    pub fn finish(self, what: &str) -> Vec<u8> {
        self.unmount();
        let bytes = self.disk.bytes();
        let report = check(&Bytes(&bytes)).expect("it can be checked");
        assert_consistent(&report, what);
        bytes
    }
}

pub fn assert_consistent(report: &Report, what: &str) {
    let text: Vec<String> = report.findings.iter().map(|f| f.to_string()).collect();
    assert!(text.is_empty(), "{what}: {text:#?}");
}

/// Random numbers that a seed repeats (Vigna, "SplitMix64").
#[derive(Default)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
