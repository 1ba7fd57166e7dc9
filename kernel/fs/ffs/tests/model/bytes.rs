//! What changes and reads the contents of files, by name or by an open file.

use std::sync::Arc;

use crate::world::{Model, Node, Open};
use rumpkern::file::File;
use rumpuser::Errno;
use rumpvfs::syscalls::{self, OpenFlags};

const RW: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);
/// Open files at a time.
const MOST_OPEN: usize = 6;

impl Model {
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

    fn data(&mut self) -> Vec<u8> {
        let most = match self.random.below(5) {
            // From 64 KiB on it may go past the cache.
            0 if self.direct => 200_000,
            0..3 if self.tight => 24 * self.bsize,
            0 => 3 * self.bsize,
            1 => 512,
            _ => 2000,
        };
        let most = most.min(if self.direct { 200_000 } else { 100_000 });
        let len = 1 + self.random.below(most) as usize;
        let mut data = Vec::with_capacity(len + 8);
        while data.len() < len {
            data.extend_from_slice(&self.random.next().to_le_bytes());
        }
        data.truncate(len);
        data
    }

    /// Writes to an open file; on a full volume perhaps less than asked.
    fn write_to(&mut self, file: &Arc<File>, number: u64, append: bool) {
        let data = self.data();
        let end = self.files[&number].bytes.len() as u64;
        let (offset, wrote) = if append {
            (end, file.write(&data))
        } else {
            let offset = match self.random.below(3) {
                0 => end,
                _ => self.offset(),
            };
            (offset, file.write_at(offset, &data))
        };
        let what = format!("write {} at {offset} of {end}", data.len());
        let short = self.tight && wrote.is_ok_and(|wrote| 0 < wrote && wrote < data.len());
        if !self.done(wrote, Ok(()), &what) {
            return;
        }
        let wrote = wrote.expect("it was right");
        assert!(
            short || wrote == data.len(),
            "{what}: {wrote}; {}",
            self.what
        );
        let end = offset as usize + wrote;
        let contents = &mut self.files.get_mut(&number).expect("it is there").bytes;
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents[offset as usize..end].copy_from_slice(&data[..wrote]);
    }

    pub fn write(&mut self, path: &str) {
        let Some(number) = self.file_at(path) else {
            return;
        };
        let append = self.random.below(3) == 0;
        let flags = if append { RW | OpenFlags::APPEND } else { RW };
        let rig = self.rig();
        let file = rig.vfs.open(&rig.proc, path.as_bytes(), flags, 0);
        self.write_to(&file.expect("it is there"), number, append);
    }

    /// One of the open files.
    fn some_open(&mut self) -> Option<(Arc<File>, u64, bool)> {
        let index = self.random.below(self.open.len().max(1) as u64);
        let open = self.open.get(index as usize)?;
        Some((open.file.clone(), open.number, open.append))
    }

    pub fn write_open(&mut self) {
        if let Some((file, number, append)) = self.some_open() {
            self.write_to(&file, number, append);
        }
    }

    pub fn read_open(&mut self) {
        let Some((file, number, _)) = self.some_open() else {
            return;
        };
        let size = self.files[&number].bytes.len();
        let offset = (self.offset() as usize).min(size);
        let len = self.data().len().min(size - offset);
        self.compare_range(&file, number, offset, len);
    }

    fn new_size(&mut self, number: u64) -> u64 {
        match self.random.below(4) {
            0 => 0,
            1 => self.files[&number].bytes.len() as u64 / 2,
            _ => self.offset(),
        }
    }

    fn truncated(&mut self, number: u64, size: u64) {
        let contents = self.files.get_mut(&number).expect("it is there");
        contents.bytes.resize(size as usize, 0);
    }

    pub fn truncate(&mut self, path: &str) {
        let Some(number) = self.file_at(path) else {
            return;
        };
        let size = self.new_size(number);
        let rig = self.rig();
        let done = rig.vfs.truncate(&rig.proc, path.as_bytes(), size);
        if self.done(done, Ok(()), &format!("truncate {path} to {size}")) {
            self.truncated(number, size);
        }
    }

    pub fn truncate_open(&mut self) {
        let Some((file, number, _)) = self.some_open() else {
            return;
        };
        let size = self.new_size(number);
        let done = syscalls::ftruncate(&file, size);
        if self.done(done, Ok(()), &format!("ftruncate to {size}")) {
            self.truncated(number, size);
        }
    }

    /// Opening with `O_TRUNC`.
    pub fn truncate_at_open(&mut self, path: &str) {
        let Some(number) = self.file_at(path) else {
            return;
        };
        let rig = self.rig();
        let flags = RW | OpenFlags::TRUNC;
        let file = rig.vfs.open(&rig.proc, path.as_bytes(), flags, 0);
        if self.done(file, Ok(()), "O_TRUNC") {
            self.truncated(number, 0);
        }
    }

    pub fn open(&mut self, path: &str) {
        let append = self.random.below(3) == 0;
        let flags = if append { RW | OpenFlags::APPEND } else { RW };
        if self.open.len() >= MOST_OPEN {
            self.close();
        }
        let rig = self.rig();
        let opened = rig.vfs.open(&rig.proc, path.as_bytes(), flags, 0);
        let want = match (self.parent_exists(path), self.names.get(path)) {
            (Err(errno), _) => Err(errno),
            (_, Some(Node::File(_))) => Ok(()),
            (_, Some(Node::Directory)) => Err(Errno::EISDIR),
            (_, Some(Node::Other(vtype, _))) => match vtype {
                rumpvfs::vnode::VnodeType::Fifo => Err(Errno::EOPNOTSUPP),
                _ => Err(Errno::ENXIO),
            },
            // Where links lead is nowhere.
            (_, Some(Node::Link(_))) => {
                assert!(opened.is_err(), "{path}; {}", self.what);
                return;
            }
            (_, None) => Err(Errno::ENOENT),
        };
        let file = opened.as_ref().ok().cloned();
        self.done(opened, want, &format!("open {path}"));
        if let (Some(file), Some(number)) = (file, self.file_at(path)) {
            self.open.push(Open {
                file,
                number,
                append,
            });
        }
    }

    pub fn close(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let index = self.random.below(self.open.len() as u64) as usize;
        let open = self.open.swap_remove(index);
        drop(open.file);
        self.gone(open.number);
    }

    pub fn fsync(&mut self, path: &str) {
        let rig = self.rig();
        if let Ok(file) = rig.vfs.open(&rig.proc, path.as_bytes(), RW, 0) {
            syscalls::fsync(&file).expect("stable");
        }
    }

    pub fn fsync_open(&mut self) {
        if let Some((file, ..)) = self.some_open() {
            syscalls::fsync(&file).expect("stable");
        }
    }
}
