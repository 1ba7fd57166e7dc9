//! A disk that answers when it is told to: a file system of one file, the image, whose next request of a kind is held for as long
//! as a test wants.

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, Session, WriteFlags,
};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

/// As in `mounted`: longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);
const FOREVER: Duration = Duration::from_secs(3600);
const IMAGE: INodeNo = INodeNo(2);

/// What can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A transfer from the disk.
    Read,
    /// A flush of the disk's cache.
    Flush,
}

#[derive(Default)]
struct State {
    /// The next of this kind waits.
    wanted: Option<Kind>,
    held: Option<Box<dyn FnOnce() + Send>>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// Does `answer` now, or keeps it.
    fn pass(&self, kind: Kind, answer: impl FnOnce() + Send + 'static) {
        let mut state = self.state.lock().expect("nobody panics with it");
        if state.wanted == Some(kind) {
            state.wanted = None;
            state.held = Some(Box::new(answer));
            self.changed.notify_all();
        } else {
            drop(state);
            answer();
        }
    }
}

/// The disk.
pub struct SlowDisk {
    dir: PathBuf,
    gate: Arc<Gate>,
}

impl SlowDisk {
    /// One with the bytes of `image`, that appears as a file in `dir`, a new directory.
    pub fn new(image: &Path, dir: PathBuf) -> SlowDisk {
        fs::create_dir(&dir).expect("a directory");
        let file = File::options().read(true).write(true).open(image);
        let gate = Arc::new(Gate::default());
        let bytes = Bytes {
            file: Arc::new(file.expect("the image")),
            gate: gate.clone(),
        };
        let session = Session::new(bytes, &dir, &Config::default()).expect("a mount");
        // It ends when it is unmounted.
        thread::spawn(move || session.run());
        SlowDisk { dir, gate }
    }

    /// The image on it.
    pub fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// The next request of this kind is held; those that come after it are not.
    pub fn hold(&self, kind: Kind) {
        self.gate
            .state
            .lock()
            .expect("nobody panics with it")
            .wanted = Some(kind);
    }

    /// Waits until it has come.
    pub fn wait(&self) {
        let state = self.gate.state.lock().expect("nobody panics with it");
        let waited = self
            .gate
            .changed
            .wait_timeout_while(state, PATIENCE, |state| state.held.is_none());
        assert!(
            !waited.expect("nobody panics with it").1.timed_out(),
            "nothing came"
        );
    }

    /// Lets it go on. Whether there was one.
    pub fn release(&self) -> bool {
        let mut state = self.gate.state.lock().expect("nobody panics with it");
        state.wanted = None;
        let held = state.held.take();
        drop(state);
        held.map(|answer| answer()).is_some()
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        self.release();
        // The daemon may have it open still if a test has failed.
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}

/// Its file system.
struct Bytes {
    file: Arc<File>,
    gate: Arc<Gate>,
}

impl Bytes {
    fn attributes(&self, node: INodeNo) -> Result<FileAttr, Errno> {
        let (kind, perm, size) = match node {
            INodeNo::ROOT => (FileType::Directory, 0o755, 0),
            IMAGE => (FileType::RegularFile, 0o644, self.file.metadata()?.len()),
            _ => return Err(Errno::ENOENT),
        };
        Ok(FileAttr {
            ino: node,
            size,
            blocks: size / 512,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Bytes {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(IMAGE) {
            Ok(attr) if name == "image" => reply.entry(&FOREVER, &attr, Generation(0)),
            Ok(_) => reply.error(Errno::ENOENT),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(node) {
            Ok(attr) => reply.attr(&FOREVER, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    /// Linux keeps nothing of it, so that all that the kernel there asks for comes here.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = self.file.clone();
        self.gate.pass(Kind::Read, move || {
            let mut bytes = vec![0; size as usize];
            match file.read_at(&mut bytes, offset) {
                Ok(count) => reply.data(&bytes[..count]),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.file.write_all_at(data, offset) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // The bytes need not survive this machine.
        self.gate.pass(Kind::Flush, move || reply.ok());
    }
}
