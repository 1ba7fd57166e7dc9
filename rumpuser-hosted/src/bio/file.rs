//! A disk in a file, or a block device of the host.

use super::check;
use super::completions::Completions;
use super::image::ImageFile;
use crate::errno::{from_io, from_rustix};
use rumpuser::{
    BioDone, BioOp, BioRequest, BlockDevice, BlockInfo, Errno, IoVec, SECTOR_SIZE, ThreadId,
};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{preadv, pwritev};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Threads that serve one disk: enough to overlap a few requests, few enough to start in no time.
const WORKERS: usize = 4;

/// A request on its way: what [`BioRequest`] borrowed, owned.
struct Job {
    op: BioOp,
    offset: u64,
    segments: Vec<IoVec>,
    token: u64,
}

struct Shared {
    image: ImageFile,
    info: BlockInfo,
    jobs: Mutex<VecDeque<Job>>,
    work: Condvar,
    completions: Completions,
}

/// A disk in a file, or a block device of the host.
///
/// It is locked as long as the process lives, shared for reading and exclusively for writing
/// (flock(2)), so that two writers of one image are refused. It lives as long as the process.
pub struct FileDisk {
    shared: Arc<Shared>,
}

impl FileDisk {
    /// Opens `path` and starts serving it.
    ///
    /// # Errors
    /// `EBUSY` if another process has it open for writing, or for reading when this one wants to
    /// write; `EFTYPE` for what is neither a file nor a block device, `EINVAL` for one shorter than
    /// a sector; otherwise what the system says.
    pub fn open(path: &Path, read_only: bool) -> Result<&'static FileDisk, Errno> {
        let image = ImageFile::open(path, read_only)?;
        let length = image.bytes();
        if length < SECTOR_SIZE as u64 {
            return Err(Errno::EINVAL);
        }
        let info = BlockInfo {
            parent: "file0",
            sectors: length / SECTOR_SIZE as u64,
            sector_size: SECTOR_SIZE as u32,
            read_only,
            volatile_cache: !image.is_in_memory(),
            discard: image.is_file(),
            max_segments: 256,
            max_bytes: 1 << 20,
            queue_depth: 64,
        };
        FileDisk::start(image, info)
    }

    fn start(image: ImageFile, info: BlockInfo) -> Result<&'static FileDisk, Errno> {
        let shared = Arc::new(Shared {
            image,
            info,
            jobs: Mutex::new(VecDeque::new()),
            work: Condvar::new(),
            completions: Completions::default(),
        });
        for _ in 0..WORKERS {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("bio".into())
                .spawn(move || shared.serve())
                .map_err(|_| Errno::EAGAIN)?;
        }
        Ok(Box::leak(Box::new(FileDisk { shared })))
    }
}

impl Shared {
    fn serve(&self) {
        loop {
            let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            let job = loop {
                match jobs.pop_front() {
                    Some(job) => break job,
                    None => {
                        jobs = self.work.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            drop(jobs);
            let token = job.token;
            let result = self.carry_out(job);
            self.completions.finish(BioDone { token, result });
        }
    }

    fn carry_out(&self, job: Job) -> Result<(), Errno> {
        match job.op {
            BioOp::Read => self.read(job),
            BioOp::Write => self.write(job),
            BioOp::Flush => self
                .image
                .file()
                .sync_data()
                .map_err(|error| from_io(&error)),
            BioOp::Discard { sectors } => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let length = sectors * SECTOR_SIZE as u64;
                match fallocate(self.image.file(), flags, job.offset, length) {
                    // A discard is a hint: a file system that cannot punch holes keeps the data.
                    Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
                    Err(error) => Err(from_rustix(error)),
                }
            }
        }
    }

    fn read(&self, job: Job) -> Result<(), Errno> {
        let mut slices: Vec<IoSliceMut<'_>> = job
            .segments
            .iter()
            .map(|segment| {
                // SAFETY: whoever submitted the request promised that the memory stays until it is
                // reaped and that nobody else looks at it; it is reaped after this function.
                let bytes =
                    unsafe { std::slice::from_raw_parts_mut(segment.base.as_ptr(), segment.len) };
                IoSliceMut::new(bytes)
            })
            .collect();
        let mut left: &mut [IoSliceMut<'_>] = &mut slices;
        let mut offset = job.offset;
        while !left.is_empty() {
            match preadv(self.image.file(), left, offset) {
                // The file became shorter than it was when it was opened.
                Ok(0) => return Err(Errno::EIO),
                Ok(count) => {
                    offset += count as u64;
                    IoSliceMut::advance_slices(&mut left, count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(from_rustix(error)),
            }
        }
        Ok(())
    }

    fn write(&self, job: Job) -> Result<(), Errno> {
        let mut slices: Vec<IoSlice<'_>> = job
            .segments
            .iter()
            .map(|segment| {
                // SAFETY: whoever submitted the request promised that the memory stays, unchanged,
                // until it is reaped; it is reaped after this function.
                let bytes =
                    unsafe { std::slice::from_raw_parts(segment.base.as_ptr(), segment.len) };
                IoSlice::new(bytes)
            })
            .collect();
        let mut left: &mut [IoSlice<'_>] = &mut slices;
        let mut offset = job.offset;
        while !left.is_empty() {
            match pwritev(self.image.file(), left, offset) {
                Ok(0) => return Err(Errno::EIO),
                Ok(count) => {
                    offset += count as u64;
                    IoSlice::advance_slices(&mut left, count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(from_rustix(error)),
            }
        }
        Ok(())
    }
}

impl BlockDevice for FileDisk {
    fn info(&self) -> &BlockInfo {
        &self.shared.info
    }

    unsafe fn submit(&self, request: &BioRequest<'_>) -> Result<(), Errno> {
        let (offset, _) = check(&self.shared.info, request)?;
        self.shared
            .completions
            .enter(self.shared.info.queue_depth)?;
        let job = Job {
            op: request.op,
            offset,
            segments: request.segments.to_vec(),
            token: request.token,
        };
        let mut jobs = self
            .shared
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        jobs.push_back(job);
        drop(jobs);
        self.shared.work.notify_one();
        Ok(())
    }

    fn reap(&self) -> Option<BioDone> {
        self.shared.completions.reap()
    }

    fn listen(&self, thread: ThreadId) {
        self.shared.completions.listen(thread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::NonNull;

    fn run(disk: &FileDisk, op: BioOp, sector: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let segments = [IoVec {
            base: NonNull::from(&mut *bytes).cast(),
            len: bytes.len(),
        }];
        let request = BioRequest {
            op,
            sector,
            segments: if bytes.is_empty() { &[] } else { &segments },
            token: 1,
        };
        // SAFETY: `bytes` is not touched until the completion below.
        unsafe { disk.submit(&request) }?;
        loop {
            match disk.reap() {
                Some(done) => return done.result,
                None => std::thread::yield_now(),
            }
        }
    }

    #[test]
    fn a_file_is_a_disk() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 10).unwrap();
        let disk = FileDisk::open(file.path(), false).unwrap();
        assert_eq!(disk.info().sectors, 128);
        let mut data: Vec<u8> = (0..4096u32).map(|i| i as u8).collect();
        run(disk, BioOp::Write, 8, &mut data).unwrap();
        run(disk, BioOp::Flush, 0, &mut []).unwrap();
        let mut back = vec![0; 4096];
        run(disk, BioOp::Read, 8, &mut back).unwrap();
        assert_eq!(back, data);
        assert_eq!(std::fs::read(file.path()).unwrap()[4096..8192], data);
        assert_eq!(run(disk, BioOp::Read, 128, &mut back), Err(Errno::EINVAL));
    }

    #[test]
    fn two_writers_of_one_image_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let _first = FileDisk::open(file.path(), false).unwrap();
        let second = FileDisk::open(file.path(), false);
        assert_eq!(second.err(), Some(Errno::EBUSY));
    }

    #[test]
    fn a_file_cut_short_is_eio() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8192).unwrap();
        let disk = FileDisk::open(file.path(), true).unwrap();
        file.as_file().set_len(4096).unwrap();
        let mut back = vec![0; 8192];
        assert_eq!(run(disk, BioOp::Read, 0, &mut back), Err(Errno::EIO));
        assert_eq!(run(disk, BioOp::Write, 0, &mut back), Err(Errno::EROFS));
    }

    #[test]
    fn a_directory_is_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        assert!(FileDisk::open(dir.path(), true).is_err());
    }
}
