//! Volumes in memory for tests: made by [`crate::mkfs`], with files put into them block by block.
//!
//! Nothing is counted as allocated: readers do not look, and a test that needs the counters right
//! uses a volume as it was made.

use core::cell::RefCell;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::string::String;
use std::sync::{Arc, Mutex, Once};
use std::vec;
use std::vec::Vec;

use rumpkern::uvm::dma::{Bio, BioOp};
use rumpuser::Errno;
use rumpvfs::bufcache::{BufCache, Devvp};
use rumpvfs::specfs::{BlockIo, DeviceInfo};
use rumpvfs::vfsops::{FileSystem, MountArgs, MountOptions, VfsOps};

use crate::bmap::Path;
use crate::disk::Metadata;
use crate::inode::Inode;
use crate::mkfs::{Options, Plan};
use crate::order::Order;
use crate::raw;
use crate::superblock::{self, Format, Superblock, Tolerance};
use crate::vfsops::Ffs;

pub const UFS1: Format = Format::Ufs1;
pub const UFS2: Format = Format::Ufs2;

/// Every format and byte order, with a block and a fragment size from one end or the other.
pub fn all_kinds() -> Vec<Options> {
    let mut kinds = Vec::new();
    for format in [Format::Ufs1, Format::Ufs2, Format::Ufs2Ea] {
        for order in [Order::Little, Order::Big] {
            for (bsize, frag) in [(4096, 8), (4096, 1), (8192, 4), (16384, 8), (65536, 2)] {
                kinds.push(options(format, order, bsize, bsize / frag));
            }
        }
    }
    kinds
}

pub fn options(format: Format, order: Order, bsize: u32, fsize: u32) -> Options {
    Options {
        order,
        bsize: Some(bsize),
        fsize: Some(fsize),
        density: Some(64 * 1024),
        ..Options::new(format, u64::from(bsize) * 1024)
    }
}

pub struct Image {
    pub bytes: Vec<u8>,
    pub sb: Superblock,
    next: u64,
}

impl Metadata for Image {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        visit(self.bytes.get(start..end).ok_or(Errno::EINVAL)?);
        Ok(())
    }
}

impl Image {
    pub fn new(options: Options) -> Image {
        let mut bytes = vec![0; options.size as usize];
        let plan = Plan::new(options).expect("the geometry is possible");
        plan.write(&mut |at, data| {
            bytes[at as usize..at as usize + data.len()].copy_from_slice(data);
            Ok(())
        })
        .expect("memory does not fail");
        Image::open(bytes)
    }

    pub fn small(format: Format) -> Image {
        Image::new(options(format, Order::Little, 4096, 512))
    }

    fn open(bytes: Vec<u8>) -> Image {
        let at = [65536, 8192].into_iter().find_map(|at| {
            superblock::judge(&bytes[at as usize..], at, Tolerance::default())
                .expect("what was made is right")
        });
        let sb = at.expect("there is a superblock");
        let next = sb.cgdmin(0) + u64::from(8 * sb.frag + sb.cssize / sb.fsize);
        Image {
            bytes,
            next: next - next % u64::from(sb.frag),
            sb,
        }
    }

    pub fn find(&self) -> Result<Superblock, crate::corrupt::Fault> {
        superblock::find(self, Tolerance::default())
    }

    pub fn inode(&self, ino: u32) -> Inode {
        Inode::load(&self.sb, self, ino).expect("the inode is right")
    }

    /// Overwrites `width` bytes at byte `at` with `value`.
    pub fn put(&mut self, at: u64, width: usize, value: u64) {
        let (little, big) = (value.to_le_bytes(), value.to_be_bytes());
        let bytes = match self.sb.order {
            Order::Little => &little[..width],
            Order::Big => &big[8 - width..],
        };
        self.bytes[at as usize..at as usize + width].copy_from_slice(bytes);
    }

    pub fn put_bytes(&mut self, at: u64, bytes: &[u8]) {
        self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// Takes a whole block; its fragment.
    pub fn take_block(&mut self) -> u64 {
        loop {
            let here = self.next;
            self.next += u64::from(self.sb.frag);
            assert!(self.next <= self.sb.size, "the volume is full");
            if self.sb.is_data(here, self.sb.frag) {
                return here;
            }
        }
    }

    pub fn inode_byte(&self, ino: u32) -> u64 {
        let place = self.sb.inode_place(ino).expect("there is such an inode");
        self.sb.byte_of(place.block) + place.byte as u64
    }

    /// Byte of the inode's pointer `index` (0 to 14).
    pub fn pointer_byte(&self, ino: u32, index: usize) -> u64 {
        let area = if self.sb.format.is_ufs2() { 112 } else { 40 };
        self.inode_byte(ino) + area + (index * self.sb.format.pointer_size()) as u64
    }

    /// Makes `ino` a file of `mode` and `size`, without any block.
    pub fn put_inode(&mut self, ino: u32, mode: u16, size: u64) {
        let at = self.inode_byte(ino);
        let length = self.sb.format.inode_size();
        self.put_bytes(at, &vec![0; length]);
        self.put(at, 2, u64::from(mode));
        self.put(at + 2, 2, 1);
        let size_at = if self.sb.format.is_ufs2() { 16 } else { 8 };
        self.put(at + size_at, 8, size);
        self.initialise(ino);
    }

    /// Makes the group of `ino` say that it was written.
    fn initialise(&mut self, ino: u32) {
        if self.sb.format.is_ufs2() {
            let cg = self.sb.byte_of(self.sb.cgtod(ino / self.sb.ipg));
            self.put(cg + 120, 4, u64::from(self.sb.ipg));
        }
    }

    /// Lets logical block `block` of `ino` lie at fragment `address`; makes the indirect blocks on
    /// the way.
    pub fn put_pointer(&mut self, ino: u32, block: u64, address: u64) {
        let width = self.sb.format.pointer_size();
        let path = Path::to(self.sb.nindir, block).expect("pointers reach the block");
        if path.depth == 0 {
            let at = self.pointer_byte(ino, path.direct);
            return self.put(at, width, address);
        }
        let mut at = self.pointer_byte(ino, 11 + path.depth);
        for index in &path.indices[..path.depth] {
            let mut next = self.pointer_at(at);
            if next == 0 {
                next = self.take_block();
                self.put(at, width, next);
            }
            at = self.sb.byte_of(next) + u64::from(*index) * width as u64;
        }
        self.put(at, width, address);
    }

    pub fn pointer_at(&self, at: u64) -> u64 {
        let width = self.sb.format.pointer_size();
        let bytes = &self.bytes[at as usize..at as usize + width];
        crate::inode::pointer(self.sb.order, bytes) as u64
    }

    /// Makes `ino` a file of `mode` that holds `data`.
    pub fn put_file(&mut self, ino: u32, mode: u16, data: &[u8]) {
        self.put_inode(ino, mode, data.len() as u64);
        for (block, bytes) in data.chunks(self.sb.bsize as usize).enumerate() {
            let address = self.take_block();
            self.put_pointer(ino, block as u64, address);
            let at = self.sb.byte_of(address);
            self.put_bytes(at, bytes);
        }
    }

    /// Makes `ino` a directory with these names; the last entry of a unit has the rest of it.
    pub fn put_directory(&mut self, ino: u32, names: &[(&[u8], u32, u8)]) {
        let data = self.directory(names);
        self.put_file(ino, raw::IFDIR | 0o755, &data);
    }

    pub fn directory(&self, names: &[(&[u8], u32, u8)]) -> Vec<u8> {
        let order = self.sb.order;
        let mut data = Vec::new();
        let mut unit: Vec<u8> = Vec::new();
        let mut last = 0;
        for (name, ino, dtype) in names {
            let size = crate::dir::entry_size(name.len());
            if unit.len() + size > raw::DIRBLKSIZ {
                close(&mut unit, last, order);
                data.append(&mut unit);
            }
            last = unit.len();
            unit.extend(bytes32(order, *ino));
            unit.extend(bytes16(order, size as u16));
            if self.sb.has_old_directories() {
                unit.extend(bytes16(order, name.len() as u16));
            } else {
                unit.extend([*dtype, name.len() as u8]);
            }
            unit.extend(*name);
            unit.resize(last + size, 0);
        }
        close(&mut unit, last, order);
        data.append(&mut unit);
        data
    }
}

/// Gives the rest of the unit to its last entry.
fn close(unit: &mut Vec<u8>, last: usize, order: Order) {
    let rest = (raw::DIRBLKSIZ - last) as u16;
    unit.resize(raw::DIRBLKSIZ, 0);
    unit[last + 4..last + 6].copy_from_slice(&bytes16(order, rest));
}

fn bytes16(order: Order, value: u16) -> [u8; 2] {
    match order {
        Order::Little => value.to_le_bytes(),
        Order::Big => value.to_be_bytes(),
    }
}

fn bytes32(order: Order, value: u32) -> [u8; 4] {
    match order {
        Order::Little => value.to_le_bytes(),
        Order::Big => value.to_be_bytes(),
    }
}

/// Random numbers that a seed repeats (Vigna, "SplitMix64").
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

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

    /// A number of the kind that breaks things: near 0, near a power of two, negative, or any.
    pub fn interesting(&mut self) -> u64 {
        let near = self.below(5).wrapping_sub(2);
        match self.below(4) {
            0 => near,
            1 => (1u64 << self.below(64)).wrapping_add(near),
            2 => u64::MAX - self.below(64),
            _ => self.next(),
        }
    }
}

/// A disk that a test can change under a mounted volume, and whose reads it can count.
pub struct TestDisk {
    pub bytes: Mutex<Vec<u8>>,
    pub reads: AtomicUsize,
    writable: bool,
}

impl TestDisk {
    pub fn new(bytes: Vec<u8>) -> Arc<TestDisk> {
        TestDisk::with(bytes, false)
    }

    pub fn writable(bytes: Vec<u8>) -> Arc<TestDisk> {
        TestDisk::with(bytes, true)
    }

    fn with(bytes: Vec<u8>, writable: bool) -> Arc<TestDisk> {
        Arc::new(TestDisk {
            bytes: Mutex::new(bytes),
            reads: AtomicUsize::new(0),
            writable,
        })
    }

    fn serve(&self, bio: &mut Bio) -> Result<(), Errno> {
        match bio.op {
            BioOp::Read => self.reads.fetch_add(1, Ordering::Relaxed),
            BioOp::Write if self.writable => return self.take(bio),
            _ => panic!("nothing writes"),
        };
        let start = usize::try_from(bio.sector).map_err(|_| Errno::EINVAL)?;
        let mut start = start.checked_mul(512).ok_or(Errno::EINVAL)?;
        let bytes = self.bytes.lock().unwrap();
        for io in &mut bio.frames {
            let end = start.checked_add(io.len).ok_or(Errno::EINVAL)?;
            let from = bytes.get(start..end).ok_or(Errno::EINVAL)?;
            let page = io.frame.get_mut().expect("nobody else has it");
            page[io.offset..io.offset + io.len].copy_from_slice(from);
            start = end;
        }
        Ok(())
    }
}

impl TestDisk {
    fn take(&self, bio: &mut Bio) -> Result<(), Errno> {
        let mut start = bio.sector as usize * 512;
        let mut bytes = self.bytes.lock().unwrap();
        for io in &mut bio.frames {
            let part = &io.frame.as_bytes()[io.offset..io.offset + io.len];
            bytes[start..start + io.len].copy_from_slice(part);
            start += io.len;
        }
        Ok(())
    }
}

impl BlockIo for TestDisk {
    fn name(&self) -> &str {
        "test0"
    }

    fn dev(&self) -> u64 {
        1
    }

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            sectors: self.bytes.lock().unwrap().len() as u64 / 512,
            sector_size: 512,
            read_only: !self.writable,
            volatile_cache: false,
            discard: false,
            max_bytes: 128 * 1024,
        }
    }

    fn start(&self, mut bio: Bio) -> Result<(), (Errno, Bio)> {
        let result = self.serve(&mut bio);
        (bio.done)(bio.frames, result);
        Ok(())
    }
}

/// Brings a host up: buffers, and what is read of a log, are pages of its memory.
pub fn install_host() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let host = rumpuser_hosted::Host::builder().memory(64 << 20).install();
        host.expect("no other host is there");
    });
}

/// The way to `disk`, through a cache of its own.
pub fn devvp(disk: Arc<TestDisk>) -> Devvp {
    install_host();
    Devvp::new(BufCache::new(64, [1, 2]).unwrap(), disk)
}

/// Mounts `disk` for reading, with `options` besides.
pub fn mount(disk: Arc<TestDisk>, options: &str) -> Result<Arc<dyn FileSystem>, Errno> {
    let mut options = MountOptions::parse(options);
    options.read_only = true;
    Ffs.mount(&MountArgs {
        device: Some(devvp(disk)),
        options,
    })
}

std::thread_local! {
    static LOGGED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = std::format!("{}: {}", record.level(), record.args());
        LOGGED.with_borrow_mut(|lines| lines.push(line));
    }

    fn flush(&self) {}
}

/// What this thread has logged since it last asked.
pub fn logged() -> Vec<String> {
    // Whoever comes second finds it set.
    let _ = log::set_logger(&Collector);
    log::set_max_level(log::LevelFilter::Info);
    LOGGED.take()
}

impl Image {
    /// A volume with files of every kind: the numbers of its inodes are in the order of this text.
    pub fn populated(options: Options) -> Image {
        let mut image = Image::new(options);
        let bsize = image.sb.bsize as usize;
        let n = u64::from(image.sb.nindir);
        image.put_file(4, raw::IFREG, b"a short file");
        let long: Vec<u8> = (0..20 * bsize).map(|n| n as u8).collect();
        image.put_file(5, raw::IFREG, &long);
        let triple = (12 + n + n * n).min(image.sb.maxfilesize >> image.sb.bshift);
        image.put_inode(6, raw::IFREG, (triple + 1) << image.sb.bshift);
        for block in [3, 12 + 5, 12 + n + 7, triple] {
            let place = image.take_block();
            image.put_pointer(6, block, place);
        }
        image.put_inode(7, raw::IFLNK, 10);
        let text = image.pointer_byte(7, 0);
        image.put_bytes(text, b"short/link");
        image.put_file(8, raw::IFLNK, &[b'x'; 700]);
        image.put_inode(9, raw::IFCHR, 0);
        image.put_inode(10, raw::IFIFO, 0);
        let names: Vec<String> = (0..200).map(|n| std::format!("name {n}")).collect();
        let mut many: Vec<(&[u8], u32, u8)> = vec![(b".", 11, 4), (b"..", 2, 4)];
        many.extend(names.iter().map(|name| (name.as_bytes(), 4, 8)));
        image.put_directory(11, &many);
        image.put_directory(12, &[(b".", 12, 4), (b"..", 2, 4), (b"below", 13, 4)]);
        image.put_directory(13, &[(b".", 13, 4), (b"..", 12, 4), (b"file", 5, 8)]);
        let root: &[(&[u8], u32, u8)] = &[
            (b".", 2, 4),
            (b"..", 2, 4),
            (b"short", 4, 8),
            (b"long", 5, 8),
            (b"sparse", 6, 8),
            (b"link", 7, 10),
            (b"longlink", 8, 10),
            (b"device", 9, 2),
            (b"fifo", 10, 1),
            (b"many", 11, 4),
            (b"deep", 12, 4),
        ];
        image.put_directory(2, root);
        image
    }
}
