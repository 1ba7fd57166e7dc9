//! An image as a disk of the kernel's.
//!
//! A read that the host's page cache can answer is answered at once, in the thread that asks (preadv2(2), `RWF_NOWAIT`), as is a small
//! transfer of an image that the host keeps in memory, which waits for nothing and needs no flush either;
//! what would have to wait goes to a few threads that are started when there is first something to do. What is read or
//! written past the kernel's cache moves between the host's and the program's own memory, in the program's thread.

use rump::sync::{Condvar, Mutex};
use rumpdev::disk::Backend;
use rumpkern::Kernel;
use rumpkern::lwp::{KthreadHandle, MemoryUse, set_memory_use};
use rumpkern::uvm::dma::{Bio, BioOp};
use rumpuser::{BlockInfo, Errno, SECTOR_SIZE};
use rumpuser_hosted::{ImageFile, from_io};
use rumpvfs::specfs::Direct;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{ReadWriteFlags, preadv2, pwritev};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Threads that wait for the host's disk.
const WORKERS: usize = 4;
/// Segments of a request; the system takes 1024 (`UIO_MAXIOV`).
const SEGMENTS: usize = 256;
/// A transfer of memory takes another thread if it is larger: that one may copy while the caller goes on.
const SMALL: usize = 64 << 10;

/// The disk.
pub(crate) struct ImageDisk {
    shared: Arc<Shared>,
    kernel: Weak<Kernel>,
}

struct Shared {
    image: ImageFile,
    info: BlockInfo,
    /// The host can say that it would have to wait.
    can_tell: AtomicBool,
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Bio>,
    threads: Vec<KthreadHandle>,
    idle: usize,
    ended: bool,
}

impl ImageDisk {
    /// A disk on `image`, which has a sector at least.
    pub(crate) fn new(
        kernel: &Arc<Kernel>,
        image: ImageFile,
        read_only: bool,
    ) -> Result<Arc<ImageDisk>, Errno> {
        let sectors = image.bytes() / SECTOR_SIZE as u64;
        if sectors == 0 {
            return Err(Errno::EINVAL);
        }
        let is_file = image.is_file();
        let info = BlockInfo {
            parent: "file0",
            sectors,
            sector_size: SECTOR_SIZE as u32,
            read_only,
            volatile_cache: !image.is_in_memory(),
            discard: is_file,
            max_segments: SEGMENTS,
            max_bytes: 1 << 20,
            queue_depth: 64,
        };
        Ok(Arc::new(ImageDisk {
            shared: Arc::new(Shared {
                image,
                info,
                can_tell: AtomicBool::new(true),
                queue: Mutex::new(Queue::default()),
                work: Condvar::new(),
            }),
            kernel: Arc::downgrade(kernel),
        }))
    }

    /// Makes sure that a thread will serve the queue. Answers whether one will.
    fn staff(&self, queue: &mut Queue) -> bool {
        if queue.idle >= queue.jobs.len() || queue.threads.len() == WORKERS {
            return true;
        }
        let shared = self.shared.clone();
        let started = self
            .kernel
            .upgrade()
            .ok_or(Errno::ESRCH)
            .and_then(|kernel| kernel.spawn("bio", move || shared.serve()));
        queue.threads.extend(started);
        !queue.threads.is_empty()
    }
}

/// Ends a disk when it is dropped, whoever else still holds it: what was asked of it is done, then the image is free for others.
pub(crate) struct Ending(pub(crate) Arc<ImageDisk>);

impl Drop for Ending {
    fn drop(&mut self) {
        let shared = &self.0.shared;
        let mut queue = shared.queue.lock();
        queue.ended = true;
        let threads = std::mem::take(&mut queue.threads);
        drop(queue);
        shared.work.notify_all();
        for thread in threads {
            thread.join();
        }
        shared.image.unlock();
    }
}

impl Backend for ImageDisk {
    fn info(&self) -> &BlockInfo {
        &self.shared.info
    }

    fn start(&self, mut bio: Bio) -> Result<(), (Errno, Bio)> {
        if self.shared.is_copy(&bio) {
            if self.shared.queue.lock().ended {
                return Err((Errno::ENXIO, bio));
            }
            let result = self.shared.carry_out(&mut bio);
            finish(bio, result);
            return Ok(());
        }
        if bio.op == BioOp::Read && self.shared.can_tell.load(Ordering::Relaxed) {
            match self.shared.read(&mut bio, ReadWriteFlags::NOWAIT) {
                Ok(()) => {
                    finish(bio, Ok(()));
                    return Ok(());
                }
                Err(Errno::EOPNOTSUPP) => self.shared.can_tell.store(false, Ordering::Relaxed),
                // Whatever it is: who may wait finds out.
                Err(_) => {}
            }
        }
        let mut queue = self.shared.queue.lock();
        if queue.ended {
            return Err((Errno::ENXIO, bio));
        }
        queue.jobs.push_back(bio);
        if !self.staff(&mut queue)
            && let Some(bio) = queue.jobs.pop_back()
        {
            return Err((Errno::EAGAIN, bio));
        }
        drop(queue);
        self.shared.work.notify_one();
        Ok(())
    }

    fn has_direct(&self) -> bool {
        true
    }

    fn direct(&self, sector: u64, memory: Direct<'_>) -> Result<(), Errno> {
        if self.shared.queue.lock().ended {
            return Err(Errno::ENXIO);
        }
        let offset = offset_of(sector)?;
        match memory {
            Direct::Read(bytes) => {
                let mut slices = [IoSliceMut::new(bytes)];
                let flags = ReadWriteFlags::empty();
                self.shared.read_slices(&mut slices, offset, flags)
            }
            Direct::Write(bytes) => {
                let mut slices = [IoSlice::new(bytes)];
                self.shared.write_slices(&mut slices, offset)
            }
        }
    }
}

/// A completion may use the memory that is kept back for it.
fn finish(bio: Bio, result: Result<(), Errno>) {
    let _reserve = set_memory_use(MemoryUse::Reserve);
    (bio.done)(bio.frames, result);
}

impl Shared {
    fn serve(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(mut bio) = queue.jobs.pop_front() {
                drop(queue);
                let result = self.carry_out(&mut bio);
                finish(bio, result);
                queue = self.queue.lock();
            } else if queue.ended {
                return;
            } else {
                queue.idle += 1;
                queue = self.work.wait(queue);
                queue.idle -= 1;
            }
        }
    }

    fn carry_out(&self, bio: &mut Bio) -> Result<(), Errno> {
        match bio.op {
            BioOp::Read => self.read(bio, ReadWriteFlags::empty()),
            BioOp::Write => self.write(bio),
            BioOp::Flush => {
                let synced = self.image.file().sync_data();
                synced.map_err(|error| from_io(&error))
            }
            BioOp::Discard { sectors } => self.punch(offset_of(bio.sector)?, sectors),
        }
    }

    fn punch(&self, offset: u64, sectors: u64) -> Result<(), Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(
            self.image.file(),
            flags,
            offset,
            sectors * SECTOR_SIZE as u64,
        ) {
            // A discard is a hint: a file system that cannot punch holes keeps the data.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(from_io(&error.into())),
        }
    }

    fn read(&self, bio: &mut Bio, flags: ReadWriteFlags) -> Result<(), Errno> {
        let offset = offset_of(bio.sector)?;
        let mut slices = Vec::with_capacity(bio.frames.len());
        for io in &mut bio.frames {
            let page = io.frame.get_mut().ok_or(Errno::EINVAL)?;
            let part = page.get_mut(io.offset..io.offset + io.len);
            slices.push(IoSliceMut::new(part.ok_or(Errno::EINVAL)?));
        }
        self.read_slices(&mut slices, offset, flags)
    }

    fn read_slices(
        &self,
        mut left: &mut [IoSliceMut<'_>],
        mut offset: u64,
        flags: ReadWriteFlags,
    ) -> Result<(), Errno> {
        while !left.is_empty() {
            match preadv2(self.image.file(), left, offset, flags) {
                // The file became shorter than it was when it was opened.
                Ok(0) => return Err(Errno::EIO),
                Ok(count) => {
                    offset += count as u64;
                    IoSliceMut::advance_slices(&mut left, count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(from_io(&error.into())),
            }
        }
        Ok(())
    }

    /// Whether it is a copy that the calling thread does best itself.
    fn is_copy(&self, bio: &Bio) -> bool {
        let bytes = || bio.frames.iter().map(|io| io.len).sum::<usize>();
        matches!(bio.op, BioOp::Read | BioOp::Write)
            && self.image.is_in_memory()
            && bytes() <= SMALL
    }

    fn write(&self, bio: &Bio) -> Result<(), Errno> {
        let offset = offset_of(bio.sector)?;
        let mut slices = Vec::with_capacity(bio.frames.len());
        for io in &bio.frames {
            let part = io.frame.as_bytes().get(io.offset..io.offset + io.len);
            slices.push(IoSlice::new(part.ok_or(Errno::EINVAL)?));
        }
        self.write_slices(&mut slices, offset)
    }

    fn write_slices(&self, mut left: &mut [IoSlice<'_>], mut offset: u64) -> Result<(), Errno> {
        while !left.is_empty() {
            match pwritev(self.image.file(), left, offset) {
                Ok(0) => return Err(Errno::EIO),
                Ok(count) => {
                    offset += count as u64;
                    IoSlice::advance_slices(&mut left, count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(from_io(&error.into())),
            }
        }
        Ok(())
    }
}

fn offset_of(sector: u64) -> Result<u64, Errno> {
    sector.checked_mul(SECTOR_SIZE as u64).ok_or(Errno::EINVAL)
}
