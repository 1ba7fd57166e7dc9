//! A disk in memory, with faults on demand: for tests.

use super::check;
use super::completions::Completions;
use rumpuser::{BioDone, BioOp, BioRequest, BlockDevice, BlockInfo, Errno, SECTOR_SIZE, ThreadId};
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What happened to a [`RamDisk`] so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RamDiskStats {
    /// Read requests.
    pub reads: u64,
    /// Write requests.
    pub writes: u64,
    /// Flush requests.
    pub flushes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes in the largest read.
    pub largest_read: u64,
    /// Bytes in the largest write.
    pub largest_write: u64,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    bad_sectors: HashSet<u64>,
    held: Option<Vec<BioDone>>,
    stats: RamDiskStats,
}

/// A disk in memory. A request is carried out when it is submitted and finished when it is reaped,
/// or when [`release`](RamDisk::release) lets go of it.
pub struct RamDisk {
    info: BlockInfo,
    state: Mutex<State>,
    completions: Completions,
}

impl RamDisk {
    /// A disk that holds `bytes`, padded with zeroes to whole sectors of 512 bytes. It lives as long
    /// as the process, as devices do.
    pub fn new(mut bytes: Vec<u8>) -> &'static RamDisk {
        let length = bytes.len().next_multiple_of(SECTOR_SIZE);
        bytes.resize(length, 0);
        let info = BlockInfo {
            parent: "ram0",
            sectors: (length / SECTOR_SIZE) as u64,
            sector_size: SECTOR_SIZE as u32,
            read_only: false,
            volatile_cache: false,
            discard: true,
            max_segments: 64,
            max_bytes: 256 << 10,
            queue_depth: 32,
        };
        RamDisk::with_info(info, bytes)
    }

    /// A disk of `sectors` sectors of zeroes.
    pub fn zeroed(sectors: u64) -> &'static RamDisk {
        RamDisk::new(vec![0; sectors as usize * SECTOR_SIZE])
    }

    /// A disk described by `info` (its `sectors` are taken from `bytes`).
    pub fn with_info(mut info: BlockInfo, bytes: Vec<u8>) -> &'static RamDisk {
        info.sectors = (bytes.len() / SECTOR_SIZE) as u64;
        let state = State {
            bytes,
            ..State::default()
        };
        Box::leak(Box::new(RamDisk {
            info,
            state: Mutex::new(state),
            completions: Completions::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the disk holds now.
    pub fn contents(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// Changes what the disk holds, behind the kernel's back.
    pub fn modify(&self, change: impl FnOnce(&mut [u8])) {
        change(&mut self.state().bytes);
    }

    /// From now on a request that touches `sector` fails with `EIO`.
    pub fn fail_sector(&self, sector: u64) {
        self.state().bad_sectors.insert(sector);
    }

    /// Mends every sector that [`fail_sector`](RamDisk::fail_sector) broke.
    pub fn mend(&self) {
        self.state().bad_sectors.clear();
    }

    /// From now on requests do not finish, as on a very slow disk, until
    /// [`release`](RamDisk::release).
    pub fn hold(&self) {
        self.state().held.get_or_insert_with(Vec::new);
    }

    /// Finishes what was held, and everything after it at once again.
    pub fn release(&self) {
        let held = self.state().held.take();
        for done in held.into_iter().flatten() {
            self.completions.finish(done);
        }
    }

    /// What happened so far.
    pub fn stats(&self) -> RamDiskStats {
        self.state().stats
    }
}

impl State {
    /// # Safety
    /// As [`BlockDevice::submit`].
    unsafe fn transfer(
        &mut self,
        request: &BioRequest<'_>,
        offset: u64,
        length: usize,
    ) -> Result<(), Errno> {
        let sectors = (length / SECTOR_SIZE) as u64;
        let touched = request.sector..request.sector + sectors;
        let write = request.op == BioOp::Write;
        self.count(write, length as u64);
        if self.bad_sectors.iter().any(|bad| touched.contains(bad)) {
            return Err(Errno::EIO);
        }
        let mut at = offset as usize;
        for segment in request.segments {
            let disk = &mut self.bytes[at..at + segment.len];
            at += segment.len;
            let memory = segment.base.as_ptr();
            if write {
                // SAFETY: the caller vouches for the segment; the disk's own vector is elsewhere.
                unsafe { std::ptr::copy_nonoverlapping(memory, disk.as_mut_ptr(), disk.len()) };
            } else {
                // SAFETY: as above, and for a read nobody else looks at the memory.
                unsafe { std::ptr::copy_nonoverlapping(disk.as_ptr(), memory, disk.len()) };
            }
        }
        Ok(())
    }

    fn count(&mut self, write: bool, bytes: u64) {
        let stats = &mut self.stats;
        if write {
            stats.writes += 1;
            stats.bytes_written += bytes;
            stats.largest_write = stats.largest_write.max(bytes);
        } else {
            stats.reads += 1;
            stats.bytes_read += bytes;
            stats.largest_read = stats.largest_read.max(bytes);
        }
    }
}

impl BlockDevice for RamDisk {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    unsafe fn submit(&self, request: &BioRequest<'_>) -> Result<(), Errno> {
        let (offset, length) = check(&self.info, request)?;
        self.completions.enter(self.info.queue_depth)?;
        let mut state = self.state();
        let result = match request.op {
            BioOp::Read | BioOp::Write => {
                // SAFETY: the caller's promise is passed on.
                unsafe { state.transfer(request, offset, length) }
            }
            BioOp::Flush => {
                state.stats.flushes += 1;
                Ok(())
            }
            BioOp::Discard { sectors } => {
                let start = offset as usize;
                state.bytes[start..start + sectors as usize * SECTOR_SIZE].fill(0);
                Ok(())
            }
        };
        let done = BioDone {
            token: request.token,
            result,
        };
        match &mut state.held {
            Some(held) => held.push(done),
            None => {
                drop(state);
                self.completions.finish(done);
            }
        }
        Ok(())
    }

    fn reap(&self) -> Option<BioDone> {
        self.completions.reap()
    }

    fn listen(&self, thread: ThreadId) {
        self.completions.listen(thread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumpuser::IoVec;
    use std::ptr::NonNull;

    fn run(disk: &RamDisk, op: BioOp, sector: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let memory = IoVec {
            base: NonNull::from(&mut *bytes).cast(),
            len: bytes.len(),
        };
        let segments = [memory];
        let request = BioRequest {
            op,
            sector,
            segments: if bytes.is_empty() { &[] } else { &segments },
            token: 7,
        };
        // SAFETY: `bytes` outlives the call, and the disk is done with it when submit returns.
        unsafe { disk.submit(&request) }?;
        let done = disk.reap().expect("a completion");
        assert_eq!(done.token, 7);
        done.result
    }

    #[test]
    fn what_was_written_is_read_back() {
        let disk = RamDisk::zeroed(8);
        let mut data = [0xa5; 1024];
        run(disk, BioOp::Write, 3, &mut data).unwrap();
        let mut back = [0; 1024];
        run(disk, BioOp::Read, 3, &mut back).unwrap();
        assert_eq!(back, data);
        assert_eq!(disk.contents()[..3 * 512], [0; 3 * 512]);
    }

    #[test]
    fn beyond_the_end_is_einval_and_a_bad_sector_eio() {
        let disk = RamDisk::zeroed(8);
        let mut data = [0; 1024];
        assert_eq!(run(disk, BioOp::Read, 7, &mut data), Err(Errno::EINVAL));
        assert_eq!(
            run(disk, BioOp::Read, u64::MAX, &mut data),
            Err(Errno::EINVAL)
        );
        disk.fail_sector(2);
        assert_eq!(run(disk, BioOp::Read, 1, &mut data), Err(Errno::EIO));
        disk.mend();
        assert_eq!(run(disk, BioOp::Read, 1, &mut data), Ok(()));
    }

    #[test]
    fn a_full_queue_is_eagain_until_something_is_reaped() {
        let disk = RamDisk::zeroed(8);
        disk.hold();
        let flush = BioRequest {
            op: BioOp::Flush,
            sector: 0,
            segments: &[],
            token: 0,
        };
        for _ in 0..disk.info().queue_depth {
            // SAFETY: a flush has no memory.
            unsafe { disk.submit(&flush) }.unwrap();
        }
        // SAFETY: as above.
        assert_eq!(unsafe { disk.submit(&flush) }, Err(Errno::EAGAIN));
        assert!(disk.reap().is_none());
        disk.release();
        assert!(disk.reap().is_some());
        // SAFETY: as above.
        assert_eq!(unsafe { disk.submit(&flush) }, Ok(()));
    }
}
