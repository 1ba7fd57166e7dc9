//! What the model has, and comparing the volume with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::rig::{Random, Rig, make};
use rumpfs_ffs::mkfs::Options;
use rumpkern::file::File;
use rumpuser::Errno;
use rumpvfs::syscalls::{self, OpenFlags};
use rumpvfs::vnode::{DirEntry, VnodeType};

pub const DIRS: [&str; 4] = ["", "/a", "/b", "/a/c"];

/// What a name names.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Directory,
    /// Which of the files.
    File(u64),
    Link(Vec<u8>),
    /// A device or FIFO, and its number.
    Other(VnodeType, u64),
}

/// A regular file.
#[derive(Default)]
pub struct Contents {
    pub bytes: Vec<u8>,
    pub mode: u16,
    pub uid: u32,
}

/// An open file.
pub struct Open {
    pub file: Arc<File>,
    pub number: u64,
    pub append: bool,
}

pub struct Model {
    pub rig: Option<Rig>,
    pub random: Random,
    pub names: BTreeMap<String, Node>,
    /// Files with a name, or open.
    pub files: BTreeMap<u64, Contents>,
    pub next: u64,
    pub open: Vec<Open>,
    pub bsize: u64,
    /// The mount's options.
    pub mount: &'static str,
    /// The volume may be full at any time.
    pub tight: bool,
    /// The disk has direct transfers.
    pub direct: bool,
    /// Operations refused for it.
    pub refused: u64,
    pub at: u64,
    pub what: String,
}

impl Model {
    pub fn new(options: Options, mount: &'static str, seed: u64, tight: bool) -> Model {
        let direct = seed.is_multiple_of(2);
        Model {
            rig: Some(Model::mounted(make(options), mount, direct)),
            direct,
            random: Random(seed),
            names: BTreeMap::new(),
            files: BTreeMap::new(),
            next: 0,
            open: Vec::new(),
            bsize: u64::from(options.bsize.unwrap()),
            mount,
            tight,
            refused: 0,
            at: 0,
            what: format!("seed {seed}, -o {mount:?}, {options:?}"),
        }
    }

    pub fn mounted(bytes: Vec<u8>, mount: &str, direct: bool) -> Rig {
        let rig = Rig::with(bytes, mount).expect("it can be mounted");
        rig.disk.direct.store(direct, Ordering::Relaxed);
        rig
    }

    pub fn rig(&self) -> &Rig {
        self.rig.as_ref().expect("it is mounted")
    }

    /// Whether an operation that should have come out as `want` did. One that could have succeeded may be refused on a
    /// full volume; then it must have changed nothing.
    pub fn done<T>(&mut self, got: Result<T, Errno>, want: Result<(), Errno>, what: &str) -> bool {
        let got = got.map(drop);
        if self.tight && want.is_ok() && got == Err(Errno::ENOSPC) {
            self.refused += 1;
            return false;
        }
        assert_eq!(got, want, "{what}; step {} of {}", self.at, self.what);
        want.is_ok()
    }

    pub fn parent(path: &str) -> &str {
        &path[..path.rfind('/').expect("it is absolute")]
    }

    /// What making `path` must answer, were it free.
    pub fn parent_exists(&self, path: &str) -> Result<(), Errno> {
        match Model::parent(path) {
            "" => Ok(()),
            parent => match self.names.get(parent) {
                Some(Node::Directory) => Ok(()),
                Some(_) => Err(Errno::ENOTDIR),
                None => Err(Errno::ENOENT),
            },
        }
    }

    pub fn file_at(&self, path: &str) -> Option<u64> {
        match self.names.get(path) {
            Some(Node::File(number)) => Some(*number),
            _ => None,
        }
    }

    pub fn links(&self, number: u64) -> u32 {
        let same = |node: &&Node| **node == Node::File(number);
        self.names.values().filter(same).count() as u32
    }

    /// A name or an open file of `number` may have gone: perhaps nothing is left of it.
    pub fn gone(&mut self, number: u64) {
        let is_open = self.open.iter().any(|open| open.number == number);
        if !is_open && self.links(number) == 0 {
            self.files.remove(&number);
        }
    }

    pub fn close_all(&mut self) {
        while let Some(open) = self.open.pop() {
            drop(open.file);
            self.gone(open.number);
        }
    }

    /// The `len` bytes at `offset` of an open file, which are not beyond its end, are as the model has them.
    pub fn compare_range(&self, file: &File, number: u64, offset: usize, len: usize) {
        let want = &self.files[&number].bytes[offset..offset + len];
        let mut got = vec![0; len];
        let mut done = 0;
        while done < len {
            let count = file.read_at((offset + done) as u64, &mut got[done..]);
            let count = count.unwrap_or_else(|errno| panic!("{errno}; {}", self.what));
            assert!(count > 0, "it ends at {}; {}", offset + done, self.what);
            done += count;
        }
        let wrong = (0..len).find(|at| got[*at] != want[*at]);
        let wrong = wrong.map(|at| at + offset);
        let size = self.files[&number].bytes.len();
        assert_eq!(
            wrong, None,
            "{offset}+{len} of {size}; step {} of {}",
            self.at, self.what
        );
    }

    /// Every byte and attribute of the file at `path`.
    pub fn compare(&self, path: &str) {
        let Some(number) = self.file_at(path) else {
            return;
        };
        let want = &self.files[&number];
        let rig = self.rig();
        let stat = rig.vfs.stat(&rig.proc, path.as_bytes());
        let attr = stat.expect("it is there").attr;
        let got = (attr.size, attr.nlink, attr.mode, attr.uid);
        let size = want.bytes.len() as u64;
        let want_attr = (size, self.links(number), want.mode, want.uid);
        assert_eq!(got, want_attr, "{path}; step {} of {}", self.at, self.what);
        let file = rig.vfs.open(&rig.proc, path.as_bytes(), OpenFlags::READ, 0);
        let file = file.expect("it is there");
        self.compare_range(&file, number, 0, want.bytes.len());
        let end = file.read_at(want.bytes.len() as u64, &mut [0; 10]);
        assert_eq!(end, Ok(0), "{path}; {}", self.what);
    }

    /// Every name, every byte, and every open file.
    pub fn compare_all(&self) {
        let rig = self.rig();
        for (path, node) in &self.names {
            let stat = rig.vfs.lstat(&rig.proc, path.as_bytes());
            let attr = stat.expect("it is there").attr;
            match node {
                Node::File(_) => self.compare(path),
                Node::Directory => {
                    let below = format!("{path}/");
                    let subs = self.names.iter().filter(|(name, node)| {
                        **node == Node::Directory
                            && name.strip_prefix(&below).is_some_and(|n| !n.contains('/'))
                    });
                    assert_eq!(attr.nlink, 2 + subs.count() as u32, "{path}");
                }
                Node::Link(text) => {
                    let read = rig.vfs.readlink(&rig.proc, path.as_bytes());
                    assert_eq!(read.as_ref(), Ok(text), "{path}; {}", self.what);
                }
                Node::Other(vtype, rdev) => {
                    assert_eq!((attr.vtype, attr.rdev), (*vtype, *rdev), "{path}");
                }
            }
        }
        for open in &self.open {
            let len = self.files[&open.number].bytes.len();
            let attr = syscalls::fstat(&open.file).expect("it is open").attr;
            let want = (len as u64, self.links(open.number));
            assert_eq!((attr.size, attr.nlink), want, "open; {}", self.what);
            self.compare_range(&open.file, open.number, 0, len);
        }
        for dir in DIRS {
            self.compare_listing(dir);
        }
    }

    pub fn compare_listing(&self, dir: &str) {
        if !dir.is_empty() && self.names.get(dir) != Some(&Node::Directory) {
            return;
        }
        let path = if dir.is_empty() { "/" } else { dir };
        let rig = self.rig();
        let file = rig.vfs.open(&rig.proc, path.as_bytes(), OpenFlags::READ, 0);
        let file = file.expect("it is there");
        let mut found = Vec::new();
        syscalls::getdents(&file, &mut |entry: &DirEntry<'_>| {
            found.push(String::from_utf8(entry.name.to_vec()).expect("text"));
            true
        })
        .expect("read");
        found.retain(|name| name != "." && name != "..");
        found.sort();
        let names = self.names.keys().filter(|name| Model::parent(name) == dir);
        let want: Vec<String> = names.map(|name| name[dir.len() + 1..].to_owned()).collect();
        assert_eq!(found, want, "{dir}; step {} of {}", self.at, self.what);
    }

    pub fn list(&mut self) {
        let dir = DIRS[self.random.below(4) as usize];
        self.compare_listing(dir);
    }

    /// Files that take much are cut, so that the volume does not fill up more than it should.
    pub fn keep_small(&mut self) {
        let total: usize = self.files.values().map(|file| file.bytes.len()).sum();
        let most = if self.tight { 9 << 20 } else { 6 << 20 };
        let crowded = self.tight && self.random.below(500) == 0;
        if total < most && !crowded {
            return;
        }
        if !self.tight {
            self.close_all();
        }
        let names: Vec<String> = self.names.keys().cloned().collect();
        for path in names {
            if self.file_at(&path).is_some() && (!self.tight || self.random.below(3) == 0) {
                self.unlink(&path);
            }
        }
    }
}
