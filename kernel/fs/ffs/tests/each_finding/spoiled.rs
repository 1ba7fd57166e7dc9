//! A volume with files, and putting something wrong on it.

use std::mem::offset_of;

use crate::rig::{Image, Rig, make};
use rumpfs_ffs::check::Finding;
use rumpfs_ffs::mkfs::Options;
use rumpfs_ffs::order::Order;
use rumpfs_ffs::raw::{RawInode1, RawInode2, RawSuperblock};
use rumpfs_ffs::superblock::{self, Superblock, Tolerance};
use rumpvfs::syscalls::OpenFlags;
use zerocopy::LE;

pub type Raw = RawSuperblock<LE>;

/// What is done to a volume, and what a check must find then.
pub type Spoil = (&'static str, fn(&mut Spoiled), fn(&Finding) -> bool);

const NEW: OpenFlags = OpenFlags::READ
    .union(OpenFlags::WRITE)
    .union(OpenFlags::CREAT);

/// A volume with files, and where they are on it.
pub struct Spoiled {
    pub image: Image,
    pub sb: Superblock,
    /// Inodes of `/keep`, `/d`, `/d/sub`, `/d/sub/file`, `/big`, `/link`, `/empty` and `/other`, by name.
    pub inodes: Vec<(&'static str, u32)>,
}

/// The names that a volume has.
const NAMES: [&str; 8] = [
    "/keep",
    "/d",
    "/d/sub",
    "/d/sub/file",
    "/big",
    "/link",
    "/empty",
    "/other",
];

pub fn written(rig: &Rig, path: &str, bytes: &[u8]) {
    let file = rig.vfs.open(&rig.proc, path.as_bytes(), NEW, 0o644);
    let wrote = file.expect("it is made").write(bytes);
    assert_eq!(wrote, Ok(bytes.len()), "{path}");
}

impl Spoiled {
    pub fn new(options: Options) -> Spoiled {
        let rig = Rig::new(make(options));
        for dir in ["/d", "/d/sub"] {
            rig.vfs.mkdir(&rig.proc, dir.as_bytes(), 0o755).unwrap();
        }
        let bsize = options.bsize.unwrap() as usize;
        written(&rig, "/keep", &[9; 3000]);
        written(&rig, "/d/sub/file", &[8; 100]);
        written(&rig, "/big", &vec![7; 15 * bsize]);
        written(&rig, "/empty", b"");
        written(&rig, "/other", &[6; 700]);
        let text = vec![b'x'; 700];
        rig.vfs.symlink(&rig.proc, &text, b"/link").unwrap();
        let ino = |path: &'static str| {
            let attr = rig.vfs.lstat(&rig.proc, path.as_bytes()).unwrap().attr;
            (path, attr.fileid as u32)
        };
        let inodes = NAMES.map(ino).to_vec();
        let image = Image(rig.finish("made"));
        let sb = superblock::find(&image, Tolerance::default()).expect("it was mounted");
        Spoiled { image, sb, inodes }
    }

    pub fn ino(&self, path: &str) -> u32 {
        let known = self.inodes.iter().find(|(name, _)| *name == path);
        known.expect("it is one of the names").1
    }

    pub fn put(&mut self, at: u64, width: usize, value: u64) {
        let at = at as usize;
        let bytes = match self.sb.order {
            Order::Little => &value.to_le_bytes()[..width],
            Order::Big => &value.to_be_bytes()[8 - width..],
        };
        self.image.0[at..at + width].copy_from_slice(bytes);
    }

    pub fn get(&self, at: u64, width: usize) -> u64 {
        let bytes = &self.image.0[at as usize..at as usize + width];
        let fold = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        match self.sb.order {
            Order::Little => bytes.iter().rev().fold(0, fold),
            Order::Big => bytes.iter().fold(0, fold),
        }
    }

    pub fn inode(&self, ino: u32) -> u64 {
        let place = self.sb.inode_place(ino).unwrap();
        self.sb.byte_of(place.block) + place.byte as u64
    }

    /// Where an inode has its size, its count of blocks and pointer `index`.
    pub fn fields(&self, ino: u32, index: usize) -> (u64, u64, u64) {
        let at = self.inode(ino);
        let of = |one: usize, two: usize| match self.sb.format.is_ufs2() {
            true => at + two as u64,
            false => at + one as u64,
        };
        let pointer = of(
            offset_of!(RawInode1<LE>, pointers),
            offset_of!(RawInode2<LE>, pointers),
        );
        (
            of(
                offset_of!(RawInode1<LE>, size),
                offset_of!(RawInode2<LE>, size),
            ),
            of(
                offset_of!(RawInode1<LE>, blocks),
                offset_of!(RawInode2<LE>, blocks),
            ),
            pointer + (index * self.width()) as u64,
        )
    }

    pub fn width(&self) -> usize {
        self.sb.format.pointer_size()
    }

    pub fn put_pointer(&mut self, path: &str, index: usize, address: u64) {
        let (_, _, at) = self.fields(self.ino(path), index);
        let width = self.width();
        self.put(at, width, address);
    }

    pub fn pointer(&self, path: &str, index: usize) -> u64 {
        let ino = if path == "/" { 2 } else { self.ino(path) };
        let (_, _, at) = self.fields(ino, index);
        self.get(at, self.width())
    }

    /// The first byte that pointer `index` of a file leads to.
    pub fn data(&self, path: &str, index: usize) -> u64 {
        self.sb.byte_of(self.pointer(path, index))
    }

    /// Where the entry of `path` lies.
    pub fn entry(&self, path: &str) -> u64 {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let parent = if parent.is_empty() { "/" } else { parent };
        let start = self.data(parent, 0);
        let is_it = |at: &u64| {
            let bytes = &self.image.0[*at as usize + 7..];
            usize::from(bytes[0]) == name.len()
                && bytes[1..].starts_with(name.as_bytes())
                && bytes[1 + name.len()] == 0
        };
        (start..start + 512)
            .step_by(4)
            .find(is_it)
            .expect("it is there")
    }

    pub fn superblock(&mut self, offset: usize, width: usize, value: u64) {
        let at = self.sb.location + offset as u64;
        self.put(at, width, value);
    }

    pub fn group(&self, cg: u32) -> u64 {
        self.sb.byte_of(self.sb.cgtod(cg))
    }

    pub fn backup(&self, cg: u32) -> u64 {
        self.sb.byte_of(self.sb.cgsblock(cg))
    }
}
