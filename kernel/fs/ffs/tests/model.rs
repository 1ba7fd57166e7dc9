//! Random operations against a model in memory, within a mebibyte: contents, names and counts agree, and
//! the volume is consistent all the time.

mod rig;

use std::collections::BTreeMap;
use std::env;

use rig::{Random, Rig, assert_consistent, attach, kinds, make};
use rumpfs_ffs::mkfs::Options;
use rumpuser::Errno;
use rumpvfs::syscalls::{self, OpenFlags};

const MEMORY: usize = 1 << 20;
const RW: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Directory,
    /// Which of the files.
    File(usize),
    Link(Vec<u8>),
}

struct Model {
    rig: Option<Rig>,
    random: Random,
    names: BTreeMap<String, Node>,
    files: Vec<Vec<u8>>,
    bsize: u64,
    what: String,
}

const DIRS: [&str; 4] = ["", "/a", "/b", "/a/c"];

impl Model {
    fn new(options: Options, seed: u64) -> Model {
        Model {
            rig: Some(Rig::new(make(options))),
            random: Random(seed),
            names: BTreeMap::new(),
            files: Vec::new(),
            bsize: u64::from(options.bsize.unwrap()),
            what: format!("seed {seed}, {options:?}"),
        }
    }

    fn rig(&self) -> &Rig {
        self.rig.as_ref().expect("it is mounted")
    }

    fn path(&mut self) -> String {
        let dir = DIRS[self.random.below(4) as usize];
        let length = if self.random.below(8) == 0 { 200 } else { 1 };
        let number = self.random.below(10);
        format!("{dir}/{}{number}", "n".repeat(length))
    }

    fn directory(&mut self) -> String {
        DIRS[1 + self.random.below(3) as usize].to_owned()
    }

    fn parent(path: &str) -> &str {
        &path[..path.rfind('/').expect("it is absolute")]
    }

    /// What making `path` must answer, were it free.
    fn parent_exists(&self, path: &str) -> Result<(), Errno> {
        match Model::parent(path) {
            "" => Ok(()),
            parent => match self.names.get(parent) {
                Some(Node::Directory) => Ok(()),
                Some(_) => Err(Errno::ENOTDIR),
                None => Err(Errno::ENOENT),
            },
        }
    }

    fn offset(&mut self) -> u64 {
        let block = match self.random.below(6) {
            0..3 => self.random.below(4),
            3 | 4 => self.random.below(15),
            _ => self.random.below(80 * 4096 / self.bsize + 20),
        };
        let near = self.random.below(self.bsize);
        let into = match self.random.below(3) {
            0 => 0,
            1 => near - near % 512,
            _ => near,
        };
        block * self.bsize + into
    }

    fn file_at(&self, path: &str) -> Option<usize> {
        match self.names.get(path) {
            Some(Node::File(number)) => Some(*number),
            _ => None,
        }
    }

    fn links(&self, number: usize) -> u32 {
        let same = |node: &&Node| **node == Node::File(number);
        self.names.values().filter(same).count() as u32
    }

    fn write(&mut self, path: &str) {
        let Some(number) = self.file_at(path) else {
            return;
        };
        let append = self.random.below(3) == 0;
        let offset = if append {
            self.files[number].len() as u64
        } else {
            self.offset()
        };
        let most = if self.random.below(4) == 0 {
            3 * self.bsize
        } else {
            2000
        };
        let len = 1 + self.random.below(most.min(100_000)) as usize;
        let data: Vec<u8> = (0..len).map(|_| self.random.next() as u8).collect();
        let file = self
            .rig()
            .vfs
            .open(&self.rig().proc, path.as_bytes(), RW, 0);
        let wrote = file.expect("it is there").write_at(offset, &data);
        assert_eq!(wrote, Ok(len), "{path} at {offset}; {}", self.what);
        let end = offset as usize + len;
        let contents = &mut self.files[number];
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents[offset as usize..end].copy_from_slice(&data);
    }

    fn truncate(&mut self, path: &str) {
        let Some(number) = self.file_at(path) else {
            return;
        };
        let size = match self.random.below(4) {
            0 => 0,
            1 => self.files[number].len() as u64 / 2,
            _ => self.offset(),
        };
        let done = self
            .rig()
            .vfs
            .truncate(&self.rig().proc, path.as_bytes(), size);
        assert_eq!(done, Ok(()), "{}", self.what);
        self.files[number].resize(size as usize, 0);
    }

    fn compare(&self, path: &str) {
        let Some(number) = self.file_at(path) else {
            return;
        };
        let want = &self.files[number];
        let rig = self.rig();
        let stat = rig
            .vfs
            .stat(&rig.proc, path.as_bytes())
            .expect("it is there");
        assert_eq!(stat.attr.size, want.len() as u64, "{path}; {}", self.what);
        assert_eq!(stat.attr.nlink, self.links(number), "{path}; {}", self.what);
        let file = rig.vfs.open(&rig.proc, path.as_bytes(), OpenFlags::READ, 0);
        let mut got = vec![0; want.len() + 1];
        let mut done = 0;
        let file = file.expect("it is there");
        while done < want.len() {
            let count = file.read_at(done as u64, &mut got[done..]).expect("read");
            assert!(count > 0, "{path} ends at {done}; {}", self.what);
            done += count;
        }
        let wrong = (0..want.len()).find(|at| got[*at] != want[*at]);
        assert_eq!(wrong, None, "{path} of {} bytes; {}", want.len(), self.what);
    }

    fn create(&mut self, path: &str) {
        let want = match (self.parent_exists(path), self.names.contains_key(path)) {
            (Ok(()), true) => Err(Errno::EEXIST),
            (parent, _) => parent,
        };
        let flags = RW | OpenFlags::CREAT | OpenFlags::EXCL;
        let rig = self.rig();
        let made = rig.vfs.open(&rig.proc, path.as_bytes(), flags, 0o644);
        assert_eq!(made.map(|_| ()), want, "create {path}; {}", self.what);
        if want.is_ok() {
            self.files.push(Vec::new());
            let number = self.files.len() - 1;
            self.names.insert(path.to_owned(), Node::File(number));
        }
    }

    fn unlink(&mut self, path: &str) {
        let want = match (self.parent_exists(path), self.names.get(path)) {
            (Ok(()), None) => Err(Errno::ENOENT),
            (Ok(()), Some(Node::Directory)) => Err(Errno::EPERM),
            (parent, _) => parent,
        };
        let done = self.rig().vfs.unlink(&self.rig().proc, path.as_bytes());
        assert_eq!(done, want, "unlink {path}; {}", self.what);
        if want.is_ok() {
            self.names.remove(path);
        }
    }

    fn link(&mut self, from: &str, to: &str) {
        let (Some(number), Ok(()), None) = (
            self.file_at(from),
            self.parent_exists(to),
            self.names.get(to),
        ) else {
            return;
        };
        let rig = self.rig();
        let done = rig.vfs.link(&rig.proc, from.as_bytes(), to.as_bytes());
        assert_eq!(done, Ok(()), "{}", self.what);
        self.names.insert(to.to_owned(), Node::File(number));
    }

    fn symlink(&mut self, path: &str) {
        if self.parent_exists(path).is_err() || self.names.contains_key(path) {
            return;
        }
        let most = if self.random.below(2) == 0 { 130 } else { 1000 };
        let len = 1 + self.random.below(most) as usize;
        let text: Vec<u8> = (0..len).map(|n| b'a' + (n % 26) as u8).collect();
        let rig = self.rig();
        let done = rig.vfs.symlink(&rig.proc, &text, path.as_bytes());
        assert_eq!(done, Ok(()), "{}", self.what);
        self.names.insert(path.to_owned(), Node::Link(text));
    }

    fn mkdir(&mut self, path: &str) {
        let want = match (self.parent_exists(path), self.names.contains_key(path)) {
            (Ok(()), true) => Err(Errno::EEXIST),
            (parent, _) => parent,
        };
        let done = self
            .rig()
            .vfs
            .mkdir(&self.rig().proc, path.as_bytes(), 0o755);
        assert_eq!(done, want, "mkdir {path}; {}", self.what);
        if want.is_ok() {
            self.names.insert(path.to_owned(), Node::Directory);
        }
    }

    fn is_empty(&self, path: &str) -> bool {
        let below = format!("{path}/");
        !self.names.keys().any(|name| name.starts_with(&below))
    }

    fn rmdir(&mut self, path: &str) {
        let want = match (self.parent_exists(path), self.names.get(path)) {
            (Err(errno), _) => Err(errno),
            (_, None) => Err(Errno::ENOENT),
            (_, Some(Node::Directory)) if self.is_empty(path) => Ok(()),
            (_, Some(Node::Directory)) => Err(Errno::ENOTEMPTY),
            (_, Some(_)) => Err(Errno::ENOTDIR),
        };
        let done = self.rig().vfs.rmdir(&self.rig().proc, path.as_bytes());
        assert_eq!(done, want, "rmdir {path}; {}", self.what);
        if want.is_ok() {
            self.names.remove(path);
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let rig = self.rig();
        let done = rig.vfs.rename(&rig.proc, from.as_bytes(), to.as_bytes());
        let possible = self.parent_exists(from).is_ok() && self.parent_exists(to).is_ok();
        let (Some(node), true) = (self.names.get(from).cloned(), possible) else {
            assert!(done.is_err(), "rename {from} {to}; {}", self.what);
            return;
        };
        let inside = to.starts_with(&format!("{from}/"));
        let over = from.starts_with(&format!("{to}/"));
        let target = self.names.get(to);
        let fits = match (&node, target) {
            (_, None) => true,
            (Node::Directory, Some(Node::Directory)) => from == to || self.is_empty(to),
            (Node::Directory, Some(_)) | (_, Some(Node::Directory)) => false,
            _ => true,
        };
        if inside || over || !fits {
            assert!(done.is_err(), "rename {from} {to}; {}", self.what);
            return;
        }
        assert_eq!(done, Ok(()), "rename {from} {to}; {}", self.what);
        let same = from == to || target == Some(&node) && matches!(node, Node::File(_));
        if same {
            return;
        }
        let below = format!("{from}/");
        let moving: Vec<String> = self
            .names
            .keys()
            .filter(|name| *name == from || name.starts_with(&below))
            .cloned()
            .collect();
        for name in moving {
            let node = self.names.remove(&name).expect("it was listed");
            self.names
                .insert(format!("{to}{}", &name[from.len()..]), node);
        }
    }

    /// Every name and every byte.
    fn compare_all(&self) {
        for (path, node) in &self.names {
            match node {
                Node::File(_) => self.compare(path),
                Node::Directory => {
                    let stat = self.rig().vfs.stat(&self.rig().proc, path.as_bytes());
                    let below = format!("{path}/");
                    let subs = self.names.iter().filter(|(name, node)| {
                        **node == Node::Directory
                            && name.strip_prefix(&below).is_some_and(|n| !n.contains('/'))
                    });
                    let nlink = 2 + subs.count() as u32;
                    assert_eq!(stat.expect("it is there").attr.nlink, nlink, "{path}");
                }
                Node::Link(text) => {
                    let rig = self.rig();
                    let read = rig.vfs.readlink(&rig.proc, path.as_bytes());
                    assert_eq!(read.as_ref(), Ok(text), "{path}; {}", self.what);
                }
            }
        }
        for dir in DIRS {
            self.compare_listing(dir);
        }
    }

    fn compare_listing(&self, dir: &str) {
        if !dir.is_empty() && self.names.get(dir) != Some(&Node::Directory) {
            return;
        }
        let path = if dir.is_empty() { "/" } else { dir };
        let rig = self.rig();
        let file = rig.vfs.open(&rig.proc, path.as_bytes(), OpenFlags::READ, 0);
        let file = file.expect("it is there");
        let mut found = Vec::new();
        syscalls::getdents(&file, &mut |entry: &rumpvfs::vnode::DirEntry<'_>| {
            found.push(String::from_utf8(entry.name.to_vec()).expect("text"));
            true
        })
        .expect("read");
        found.retain(|name| name != "." && name != "..");
        found.sort();
        let names = self.names.keys().filter(|name| Model::parent(name) == dir);
        let want: Vec<String> = names.map(|name| name[dir.len() + 1..].to_owned()).collect();
        assert_eq!(found, want, "{dir}; {}", self.what);
    }

    fn step(&mut self) {
        let (path, other) = (self.path(), self.path());
        match self.random.below(40) {
            0..6 => self.create(&path),
            6..18 => self.write(&path),
            18..22 => self.truncate(&path),
            22..26 => self.compare(&path),
            26..29 => self.unlink(&path),
            29 | 30 => self.link(&path, &other),
            31 => self.symlink(&path),
            32 | 33 => {
                let dir = self.directory();
                self.mkdir(&dir);
            }
            34 => {
                let dir = self.directory();
                self.rmdir(&dir);
            }
            35 => {
                let (dir, to) = (self.directory(), self.directory());
                self.rename(&dir, &to);
            }
            36..39 => self.rename(&path, &other),
            _ => {
                let rig = self.rig();
                if let Ok(file) = rig.vfs.open(&rig.proc, path.as_bytes(), RW, 0) {
                    syscalls::fsync(&file).expect("stable");
                }
            }
        }
        self.keep_small();
    }

    /// Files that take much are cut, so that the volume does not fill up.
    fn keep_small(&mut self) {
        let total: usize = (0..self.files.len())
            .filter(|number| self.links(*number) > 0)
            .map(|number| self.files[number].len())
            .sum();
        if total < 6 << 20 {
            return;
        }
        let names: Vec<String> = self.names.keys().cloned().collect();
        for path in names {
            if self.file_at(&path).is_some() {
                self.unlink(&path);
            }
        }
    }

    fn run(&mut self, steps: u64) {
        for step in 0..steps {
            self.step();
            if step % 400 == 399 {
                let what = format!("after {step} steps of {}", self.what);
                assert_consistent(&self.rig().check_mounted(), &what);
            }
            if step % 1500 == 1499 {
                let bytes = self.rig.take().expect("mounted").finish(&self.what);
                self.rig = Some(Rig::new(bytes));
                self.compare_all();
            }
        }
        self.compare_all();
        self.rig.take().expect("mounted").finish(&self.what);
    }
}

/// `FFS_MODEL_STEPS` and `FFS_MODEL_SEED` say how long, and from which seed on.
fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

#[test]
fn a_thousand_random_operations_on_each_kind_of_volume_leave_what_the_model_has() {
    let _lwp = attach(MEMORY);
    let seed = number("FFS_MODEL_SEED", 1);
    let steps = number("FFS_MODEL_STEPS", 1600);
    for (n, options) in kinds().into_iter().enumerate() {
        let seed = seed + n as u64;
        println!("seed {seed}");
        Model::new(options, seed).run(steps);
    }
}
