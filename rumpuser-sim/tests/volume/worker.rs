//! A thread that works on files of its own, and a little on everybody's.

use powercut::history::{Change, History, RECORD, Step, data};
use rumpkern::proc::Proc;
use rumpuser::Errno;
use rumpuser_sim::{SimDisk, Stream};
use rumpvfs::Vfs;
use rumpvfs::syscalls::{self, OpenFlags};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const NEW: OpenFlags = OpenFlags::READ
    .union(OpenFlags::WRITE)
    .union(OpenFlags::CREAT)
    .union(OpenFlags::EXCL);
const OLD: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);

/// Numbers of files; a universe is a process.
static NEXT_FILE: AtomicU32 = AtomicU32::new(1);
static NEXT_WRITE: AtomicU32 = AtomicU32::new(1);

/// What a worker is allowed to meet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Calls may fail: with `EIO`, `ENOSPC` or `ENOMEM`.
    pub failures: bool,
    /// What was written may be lost: the disk did not take it.
    pub losses: bool,
}

/// A worker. Its files are below `/w` and its number.
pub struct Worker {
    vfs: Arc<Vfs>,
    proc: Arc<Proc>,
    disk: &'static SimDisk,
    stream: Stream,
    root: String,
    expected: Expected,
    most: u64,
    directories: Vec<String>,
    /// Files that have a name, and those that had.
    files: BTreeMap<String, History>,
    past: Vec<History>,
}

impl Worker {
    /// Makes its directory. Files are at most `most` bytes long.
    pub fn new(
        (vfs, proc): (&Arc<Vfs>, &Arc<Proc>),
        disk: &'static SimDisk,
        stream: Stream,
        number: usize,
        most: u64,
        expected: Expected,
    ) -> Worker {
        let made = Worker::try_new((vfs, proc), disk, stream, number, most, expected);
        made.expect("its directory is new")
    }

    /// The same, where that may fail.
    pub fn try_new(
        (vfs, proc): (&Arc<Vfs>, &Arc<Proc>),
        disk: &'static SimDisk,
        stream: Stream,
        number: usize,
        most: u64,
        expected: Expected,
    ) -> Result<Worker, Errno> {
        let root = format!("/w{number}");
        vfs.mkdir(proc, root.as_bytes(), 0o777)?;
        Ok(Worker {
            vfs: vfs.clone(),
            proc: proc.clone(),
            disk,
            stream,
            directories: vec![root.clone()],
            root,
            expected,
            most,
            files: BTreeMap::new(),
            past: Vec::new(),
        })
    }

    /// Does `steps` things.
    pub fn work(&mut self, steps: u64) {
        for _ in 0..steps {
            match self.stream.below(100) {
                0..22 => self.create(),
                22..42 => self.write(),
                42..50 => self.resize(),
                50..63 => self.sync_one(),
                63..74 => self.rename(),
                74..82 => self.unlink(),
                82..86 => self.make_directory(),
                86..88 => self.remove_directory(),
                88..90 => self.rename_directory(),
                90..91 => self.sync_all(),
                91..96 => self.everybodys(),
                _ => self.verify_one(),
            }
        }
    }

    /// Does `steps` things to files that are hardly ever stable: writes them, and cuts them off again.
    pub fn write_and_cut(&mut self, steps: u64) {
        for _ in 0..steps {
            match self.stream.below(10) {
                0..2 => self.create(),
                2..5 => self.write(),
                5..9 => self.resize(),
                _ => self.unlink(),
            }
        }
    }

    /// Has what it and others did committed, `steps` times.
    pub fn commit(&mut self, steps: u64) {
        for _ in 0..steps {
            match self.stream.below(3) {
                0 => self.create(),
                _ => self.sync_one(),
            }
        }
    }

    /// What became of its files.
    pub fn histories(self) -> Vec<History> {
        let mut all = self.past;
        all.extend(self.files.into_values());
        all
    }

    /// Whether a call that failed was allowed to.
    fn judge<T>(&self, what: &str, result: Result<T, Errno>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Errno::EIO | Errno::ENOSPC | Errno::ENOMEM | Errno::ENOBUFS)
                if self.expected.failures =>
            {
                None
            }
            Err(errno) => panic!("{what}: {errno}"),
        }
    }

    fn any_file(&mut self) -> Option<String> {
        let count = self.files.len() as u64;
        let at = self.stream.below(count.max(1)) as usize;
        self.files.keys().nth(at).cloned()
    }

    fn new_path(&mut self) -> String {
        let directory = self.stream.below(self.directories.len() as u64) as usize;
        let name = self.stream.below(12);
        // Some are longer than the unit of a directory lets many of.
        let long = "x".repeat(if self.stream.chance(1, 4) { 90 } else { 0 });
        format!("{}/n{name}{long}", self.directories[directory])
    }

    fn note(&mut self, path: &str, begun: usize, failed: bool, change: Change) {
        let ended = self.disk.moment();
        let file = self.files.get_mut(path).expect("it is known");
        file.steps.push(Step {
            begun,
            ended,
            failed,
            change,
        });
    }

    fn create(&mut self) {
        let path = self.new_path();
        let begun = self.disk.moment();
        let made = self.vfs.open(&self.proc, path.as_bytes(), NEW, 0o644);
        if self.files.contains_key(&path) {
            // What has failed before may have a name or none.
            let is_right = match made {
                Ok(_) => !self.is_known(&path),
                Err(errno) => errno == Errno::EEXIST || self.expected.failures,
            };
            assert!(is_right, "{path}: another one was made");
            return;
        }
        let made = made.and_then(|file| syscalls::fstat(&file));
        let Some(stat) = self.judge(&path, made) else {
            self.forget(&path);
            return;
        };
        let id = NEXT_FILE.fetch_add(1, Ordering::Relaxed);
        let (ino, steps) = (stat.attr.fileid, Vec::new());
        self.files.insert(path.clone(), History { id, ino, steps });
        self.note(&path, begun, false, Change::Named(path.clone()));
        self.write_to(&path);
    }

    /// After a failure nobody knows whether there is such a name: makes sure that there is none.
    fn forget(&mut self, path: &str) {
        match self.vfs.unlink(&self.proc, path.as_bytes()) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(_) => self.expect_nothing_of(path),
        }
    }

    /// Even that failed: from now on the name is not used.
    fn expect_nothing_of(&mut self, path: &str) {
        let id = NEXT_FILE.fetch_add(1, Ordering::Relaxed);
        let steps = vec![Step {
            begun: 0,
            ended: 0,
            failed: true,
            change: Change::Named(path.to_owned()),
        }];
        self.files
            .insert(path.to_owned(), History { id, ino: 0, steps });
    }

    /// Whether nothing about it has failed, so that what it holds is known.
    fn is_known(&self, path: &str) -> bool {
        self.files[path].steps.iter().all(|step| !step.failed)
    }

    fn write(&mut self) {
        if let Some(path) = self.any_file() {
            self.write_to(&path);
        }
    }

    fn write_to(&mut self, path: &str) {
        if !self.is_known(path) {
            return;
        }
        let size = self.files[path].content().len() as u64;
        let len = match self.stream.below(3) {
            0 => self.stream.below(64) + 1,
            1 => self.stream.below(700) + 1,
            _ => self.stream.below(3000) + 1,
        };
        let offset = match self.stream.below(3) {
            0 => size / 16,
            1 => self.stream.below(size / 16 + 1),
            _ => self.stream.below(size / 16 + 400),
        };
        let (offset, len) = (offset as usize * 16, len as usize * 16);
        if (offset + len) as u64 > self.most {
            return;
        }
        let id = self.files[path].id;
        let number = NEXT_WRITE.fetch_add(1, Ordering::Relaxed);
        let begun = self.disk.moment();
        let opened = self.vfs.open(&self.proc, path.as_bytes(), OLD, 0);
        let Some(file) = self.judge(path, opened) else {
            return;
        };
        let written = file.write_at(offset as u64, &data(id, number, offset, len));
        let failed = self.judge(path, written) != Some(len);
        assert!(self.expected.failures || !failed, "{path}: a short write");
        self.note(
            path,
            begun,
            failed,
            Change::Written {
                offset,
                len,
                number,
            },
        );
    }

    fn resize(&mut self) {
        let Some(path) = self.any_file().filter(|path| self.is_known(path)) else {
            return;
        };
        let size = self.files[&path].content().len() as u64;
        let to = match self.stream.below(3) {
            0 => 0,
            1 => self.stream.below(size / 16 + 1) * 16,
            _ => self.stream.below(self.most / 16) * 16,
        };
        let begun = self.disk.moment();
        let resized = self.vfs.truncate(&self.proc, path.as_bytes(), to);
        let failed = self.judge(&path, resized).is_none();
        self.note(&path, begun, failed, Change::Resized(to as usize));
    }

    fn sync_one(&mut self) {
        let Some(path) = self.any_file().filter(|path| self.is_known(path)) else {
            return;
        };
        let begun = self.disk.moment();
        let opened = self.vfs.open(&self.proc, path.as_bytes(), OLD, 0);
        let synced = opened.and_then(|file| syscalls::fsync(&file));
        if self.judge(&path, synced).is_some() {
            self.note(&path, begun, false, Change::Synced);
        }
    }

    fn sync_all(&mut self) {
        let begun = self.disk.moment();
        let synced = self.vfs.sync(rumpvfs::vnode::Wait::Stable);
        if self.judge("sync", synced).is_none() {
            return;
        }
        let paths: Vec<String> = self.files.keys().cloned().collect();
        for path in paths {
            if self.is_known(&path) {
                self.note(&path, begun, false, Change::Synced);
            }
        }
    }

    fn rename(&mut self) {
        let Some(from) = self.any_file().filter(|path| self.is_known(path)) else {
            return;
        };
        let to = self.new_path();
        let known = !self.files.contains_key(&to) || self.is_known(&to);
        if from == to || !known {
            return;
        }
        let begun = self.disk.moment();
        let renamed = self.vfs.rename(&self.proc, from.as_bytes(), to.as_bytes());
        if self.judge(&from, renamed).is_none() {
            let failed = Change::Named(to.clone());
            self.note(&from, begun, true, failed);
            if self.files.contains_key(&to) {
                self.note(&to, begun, true, Change::Gone);
            } else {
                self.expect_nothing_of(&to);
            }
            return;
        }
        if self.files.contains_key(&to) {
            self.note(&to, begun, false, Change::Gone);
            let replaced = self.files.remove(&to).expect("it is there");
            self.past.push(replaced);
        }
        self.note(&from, begun, false, Change::Named(to.clone()));
        let history = self.files.remove(&from).expect("it is there");
        self.files.insert(to, history);
    }

    fn unlink(&mut self) {
        let Some(path) = self.any_file().filter(|path| self.is_known(path)) else {
            return;
        };
        let begun = self.disk.moment();
        let gone = self.vfs.unlink(&self.proc, path.as_bytes());
        let failed = self.judge(&path, gone).is_none();
        self.note(&path, begun, failed, Change::Gone);
        if !failed {
            let history = self.files.remove(&path).expect("it is there");
            self.past.push(history);
        }
    }

    fn make_directory(&mut self) {
        if self.directories.len() > 5 {
            return;
        }
        let parent = self.stream.below(self.directories.len() as u64) as usize;
        let number = NEXT_FILE.fetch_add(1, Ordering::Relaxed);
        let path = format!("{}/d{number}", self.directories[parent]);
        let made = self.vfs.mkdir(&self.proc, path.as_bytes(), 0o755);
        if self.judge(&path, made).is_some() {
            self.directories.push(path);
        }
    }

    fn remove_directory(&mut self) {
        let at = self.stream.below(self.directories.len() as u64) as usize;
        let path = self.directories[at].clone();
        if path == self.root {
            return;
        }
        let below = format!("{path}/");
        let inside = |other: &String| other.starts_with(&below);
        let full = self.directories.iter().any(inside)
            || (self.files.keys()).any(|file| inside(file) && self.is_known(file));
        let removed = self.vfs.rmdir(&self.proc, path.as_bytes());
        if full {
            let errno = removed.expect_err("it has something in it");
            assert!(
                self.expected.failures || errno == Errno::ENOTEMPTY,
                "{path}: {errno}"
            );
        } else if self.expected.failures || removed.is_ok() {
            // After a failure it may be there or not: it is not used again.
            self.directories.remove(at);
            if removed.is_ok() {
                // What may have been in it, as a call for it had failed, was not.
                self.files.retain(|file, _| !inside(file));
            }
        } else {
            panic!("{path}: {removed:?}");
        }
    }

    fn rename_directory(&mut self) {
        let at = self.stream.below(self.directories.len() as u64) as usize;
        let from = self.directories[at].clone();
        // What has failed before would have two names then; and such a rename that fails would be hard to follow.
        if from == self.root || self.expected.failures {
            return;
        }
        let number = NEXT_FILE.fetch_add(1, Ordering::Relaxed);
        let to = format!("{}/d{number}", self.root);
        let begun = self.disk.moment();
        let renamed = self.vfs.rename(&self.proc, from.as_bytes(), to.as_bytes());
        if self.judge(&from, renamed).is_none() {
            return;
        }
        let below = format!("{from}/");
        let paths: Vec<String> = self
            .files
            .keys()
            .filter(|path| path.starts_with(&below))
            .cloned()
            .collect();
        for path in paths {
            let new = format!("{to}/{}", &path[below.len()..]);
            self.note(&path, begun, false, Change::Named(new.clone()));
            let history = self.files.remove(&path).expect("it is there");
            self.files.insert(new, history);
        }
        for directory in &mut self.directories {
            if *directory == from {
                *directory = to.clone();
            } else if directory.starts_with(&below) {
                *directory = format!("{to}/{}", &directory[below.len()..]);
            }
        }
    }

    /// Something in the directory that all workers share: whatever happens is right.
    fn everybodys(&mut self) {
        let mut name = || format!("/everybody/n{}", self.stream.below(6));
        let (one, two) = (name(), name());
        let (from, to) = (one.as_bytes(), two.as_bytes());
        let _ = match self.stream.below(6) {
            0 | 1 => self
                .vfs
                .open(&self.proc, from, NEW, 0o644)
                .and_then(|file| {
                    let id = NEXT_FILE.fetch_add(1, Ordering::Relaxed);
                    file.write_at(0, &data(id, 0, 0, 4000)).map(drop)
                }),
            2 => self.vfs.rename(&self.proc, from, to),
            3 => self.vfs.link(&self.proc, from, to),
            4 => self.vfs.symlink(&self.proc, b"somewhere", from),
            _ => self.vfs.unlink(&self.proc, from),
        };
    }

    fn verify_one(&mut self) {
        if let Some(path) = self.any_file() {
            self.verify(&path);
        }
    }

    fn verify(&self, path: &str) {
        if !self.is_known(path) {
            return;
        }
        let content = self.files[path].content();
        let read = self.read(path);
        if let Some(read) = self.judge(path, read).filter(|_| !self.expected.losses) {
            assert_eq!(read.len(), content.len(), "{path}");
            let wrong = (0..read.len()).find(|at| read[*at] != content[*at]);
            if let Some(at) = wrong {
                let at = at - at % RECORD;
                panic!(
                    "{path}: at {at} of {}: {:02x?} instead of {:02x?}: {:#?}",
                    read.len(),
                    &read[at..at + RECORD],
                    &content[at..at + RECORD],
                    self.files[path]
                );
            }
        }
    }

    /// Reads all its files and compares.
    pub fn verify_all(&mut self, expected: Expected) {
        self.expected = expected;
        for path in self.files.keys() {
            self.verify(path);
        }
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let file = self
            .vfs
            .open(&self.proc, path.as_bytes(), OpenFlags::READ, 0)?;
        let mut bytes = Vec::new();
        let mut piece = vec![0; 30_000];
        loop {
            let count = file.read_at(bytes.len() as u64, &mut piece)?;
            if count == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&piece[..count]);
        }
    }
}

/// Does `steps` random things of all sorts below `/everybody`, whatever comes of them.
pub fn do_anything(vfs: &Vfs, proc: &Proc, mut stream: Stream, steps: u64) {
    for _ in 0..steps {
        let mut path = || {
            let directory = ["", "/a", "/a/b", "/n0", "/n1"][stream.below(5) as usize];
            format!("/everybody{directory}/n{}", stream.below(8))
        };
        let (one, two) = (path(), path());
        let (from, to) = (one.as_bytes(), two.as_bytes());
        let mut bytes = vec![3; 1 + stream.below(30_000) as usize];
        let open = |flags| vfs.open(proc, from, flags, 0o666);
        let _ = match stream.below(12) {
            0..3 => open(OLD | OpenFlags::CREAT)
                .and_then(|file| file.write_at(bytes.len() as u64 / 2, &bytes).map(drop)),
            3 | 4 => open(OpenFlags::READ).and_then(|file| file.read_at(0, &mut bytes).map(drop)),
            5 => vfs.mkdir(proc, from, 0o777),
            6 => vfs.rename(proc, from, to),
            7 => vfs.link(proc, from, to),
            8 => vfs.rmdir(proc, from),
            9 => vfs.truncate(proc, from, bytes.len() as u64),
            10 => open(OLD).and_then(|file| syscalls::fsync(&file)),
            _ => vfs.unlink(proc, from),
        };
    }
}
