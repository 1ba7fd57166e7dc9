//! Block I/O: requests in flight, and the thread that completes them.

use super::{DMA_CLASS, Token};
use crate::counter::Counter;
use crate::kernel::Kernel;
use crate::kmem::{self, Room};
use crate::locks::{Condvar, Mutex};
use crate::lwp::{self, MemoryUse};
use crate::uvm::{Alloc, Frame};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use rumpuser::{
    BioOp, BioRequest, BlockDevice, BlockInfo, Errno, IoVec, MAX_DISCARD_SECTORS, PAGE_SIZE,
    SECTOR_SIZE, host,
};

/// More segments than this are not used in one request, whatever the device takes.
const MAX_SEGMENTS: usize = 256;
/// More requests than this are not in flight at once: a page of them.
const MAX_DEPTH: usize = PAGE_SIZE / size_of::<Slot>();
/// Completions that are run before others get a turn.
const BATCH: usize = 32;

/// A part of a frame under way.
#[derive(Debug)]
pub struct IoFrame {
    /// The frame. To be read into, it must be the only handle.
    pub frame: Frame,
    /// Where the part starts, in bytes.
    pub offset: usize,
    /// How long it is: a multiple of 512.
    pub len: usize,
}

impl IoFrame {
    /// All of a frame.
    pub fn whole(frame: Frame) -> IoFrame {
        IoFrame {
            frame,
            offset: 0,
            len: PAGE_SIZE,
        }
    }
}

/// What is called when a request is over: it gets the frames back. Runs in the queue's completion thread,
/// which may use the reserve of memory and must not wait for other I/O of the same queue.
pub type DoneFn = Box<dyn FnOnce(Vec<IoFrame>, Result<(), Errno>) + Send>;

/// A request.
pub struct Bio {
    /// What to do.
    pub op: BioOp,
    /// The first sector, in units of 512 bytes.
    pub sector: u64,
    /// The memory, in order.
    pub frames: Vec<IoFrame>,
    /// Called once, when it is over.
    pub done: DoneFn,
}

impl Bio {
    fn bytes(&self) -> usize {
        self.frames.iter().map(|part| part.len).sum()
    }
}

struct Slot {
    generation: u32,
    bio: Option<Bio>,
}

struct State {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Requests for which the device had no room, oldest first.
    waiting: VecDeque<Bio>,
    /// Room to write a request's segments down.
    segments: Vec<IoVec>,
    /// The completion thread has ended: nobody would take a completion.
    closed: bool,
}

/// Counters of a block queue.
#[derive(Default)]
pub struct BlockStats {
    /// Requests that read.
    pub reads: Counter,
    /// Requests that wrote.
    pub writes: Counter,
    /// Flushes.
    pub flushes: Counter,
    /// Bytes read.
    pub read_bytes: Counter,
    /// Bytes written.
    pub written_bytes: Counter,
    /// Requests that failed.
    pub errors: Counter,
}

/// The requests to one block device.
pub struct BlockQueue {
    device: &'static dyn BlockDevice,
    state: Mutex<State>,
    stopping: AtomicBool,
    thread: crate::locks::OnceLock<rumpuser::ThreadId>,
    stats: BlockStats,
    max_segments: usize,
}

impl BlockQueue {
    /// Takes a device into use, and starts the thread that runs its completions. The thread ends at the
    /// kernel's shutdown, once nothing is in flight.
    ///
    /// # Errors
    /// `ENOMEM`; the host's if it has no thread left.
    pub fn attach(
        kernel: &Arc<Kernel>,
        device: &'static dyn BlockDevice,
    ) -> Result<Arc<BlockQueue>, Errno> {
        let info = device.info();
        let depth = info.queue_depth.clamp(1, MAX_DEPTH);
        let max_segments = info.max_segments.clamp(1, MAX_SEGMENTS);
        let mut slots = kmem::try_vec(depth)?;
        slots.resize_with(depth, || Slot {
            generation: 0,
            bio: None,
        });
        let mut free = kmem::try_vec(depth)?;
        free.extend((0..depth as u32).rev());
        let queue = Arc::new(BlockQueue {
            device,
            state: Mutex::with_class(
                State {
                    slots,
                    free,
                    waiting: VecDeque::with_capacity(depth),
                    segments: kmem::try_vec(max_segments)?,
                    closed: false,
                },
                &DMA_CLASS,
            ),
            stopping: AtomicBool::new(false),
            thread: crate::locks::OnceLock::new(),
            stats: BlockStats::default(),
            max_segments,
        });
        let runner = queue.clone();
        let thread = kernel.spawn("biodone", move || runner.run())?;
        let stopper = queue.clone();
        kernel.at_shutdown("biodone", move || {
            stopper.stopping.store(true, Ordering::Release);
            host().threads().unpark(thread.thread());
            thread.join();
        });
        Ok(queue)
    }

    /// What the device is.
    pub fn info(&self) -> &BlockInfo {
        self.device.info()
    }

    /// Counters.
    pub fn stats(&self) -> &BlockStats {
        &self.stats
    }

    /// The most bytes that one request may have, however the frames lie.
    pub fn max_bytes(&self) -> usize {
        self.info().max_bytes.min(self.max_segments * PAGE_SIZE)
    }

    /// Starts a request. If the device has no room it waits here, in order; so callers bound how many
    /// they start.
    ///
    /// # Errors
    /// Gives the request back, and does not call its `done`. `EINVAL`: out of range, misaligned, too large, or to be
    /// read into a frame that others hold. `EROFS`, `EOPNOTSUPP`, `EIO`, `ENXIO`: the device's, or after shutdown. `ENOMEM`: no room to
    /// note it down.
    pub fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        if let Err(errno) = self.check(&bio) {
            return Err((errno, bio));
        }
        let mut state = self.state.lock();
        if state.closed {
            return Err((Errno::ENXIO, bio));
        }
        if state.waiting.is_empty() {
            match self.submit(&mut state, bio) {
                Ok(()) => return Ok(()),
                Err((Errno::EAGAIN, bio)) => return state.wait(bio),
                Err(refused) => return Err(refused),
            }
        }
        state.wait(bio)
    }

    fn check(&self, bio: &Bio) -> Result<(), Errno> {
        let info = self.info();
        let sectors = match bio.op {
            BioOp::Flush => return bio.frames.is_empty().then_some(()).ok_or(Errno::EINVAL),
            BioOp::Discard { .. } if !info.discard => return Err(Errno::EOPNOTSUPP),
            BioOp::Discard { .. } if info.read_only => return Err(Errno::EROFS),
            BioOp::Discard { sectors } if sectors > MAX_DISCARD_SECTORS => {
                return Err(Errno::EINVAL);
            }
            BioOp::Discard { sectors } => sectors,
            BioOp::Write if info.read_only => return Err(Errno::EROFS),
            BioOp::Read | BioOp::Write => {
                if bio.frames.len() > self.max_segments || bio.frames.is_empty() {
                    return Err(Errno::EINVAL);
                }
                for part in &bio.frames {
                    let end = part.offset.checked_add(part.len).ok_or(Errno::EINVAL)?;
                    if end > PAGE_SIZE || part.len == 0 || part.len % SECTOR_SIZE != 0 {
                        return Err(Errno::EINVAL);
                    }
                    if bio.op == BioOp::Read && !part.frame.is_unique() {
                        return Err(Errno::EINVAL);
                    }
                }
                let bytes = bio.bytes();
                if bytes > info.max_bytes || !bytes.is_multiple_of(info.sector_size as usize) {
                    return Err(Errno::EINVAL);
                }
                (bytes / SECTOR_SIZE) as u64
            }
        };
        let unit = (info.sector_size as u64 / SECTOR_SIZE as u64).max(1);
        let end = bio.sector.checked_add(sectors).ok_or(Errno::EINVAL)?;
        let is_aligned = bio.sector.is_multiple_of(unit) && sectors.is_multiple_of(unit);
        match end <= info.sectors && is_aligned {
            true => Ok(()),
            false => Err(Errno::EINVAL),
        }
    }

    /// Hands a request to the device; `EAGAIN` if it has no room.
    fn submit(&self, state: &mut State, bio: Bio) -> Result<(), (Errno, Bio)> {
        let Some(slot) = state.free.last().copied() else {
            return Err((Errno::EAGAIN, bio));
        };
        state.write_segments(&bio);
        let entry = &mut state.slots[slot as usize];
        let token = Token::new(slot as usize, entry.generation);
        let (op, sector) = (bio.op, bio.sector);
        // In the table before the device has it, for then it owns the memory whatever happens.
        entry.bio = Some(bio);
        let request = BioRequest {
            op,
            sector,
            segments: &state.segments,
            token: token.0,
        };
        // SAFETY: the table owns the frames until the token is reaped (`complete` is the only taker), so the
        // memory stays; for a read their handles are the only ones (`check`, and the bio was moved here since), for
        // a write nobody has or can get an exclusive reference while the table holds a handle.
        let submitted = unsafe { self.device.submit(&request) };
        match submitted {
            Ok(()) => {
                state.free.pop();
                Ok(())
            }
            Err(errno) => match state.slots[slot as usize].bio.take() {
                Some(bio) => Err((errno, bio)),
                None => Ok(()),
            },
        }
    }

    /// Takes a finished request out of the table.
    fn complete(&self, token: Token) -> Option<Bio> {
        let mut state = self.state.lock();
        let entry = state.slots.get_mut(token.slot())?;
        if entry.generation != token.generation() {
            return None;
        }
        let bio = entry.bio.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        state.free.push(token.slot() as u32);
        Some(bio)
    }

    /// Hands waiting requests to the device while it has room. Returns one that it refused.
    fn start_waiting(&self) -> Option<(Errno, Bio)> {
        let mut state = self.state.lock();
        while let Some(bio) = state.waiting.pop_front() {
            match self.submit(&mut state, bio) {
                Ok(()) => {}
                Err((Errno::EAGAIN, bio)) => {
                    state.waiting.push_front(bio);
                    return None;
                }
                Err(refused) => return Some(refused),
            }
        }
        None
    }

    /// The completion thread.
    fn run(&self) {
        let _reserve = lwp::set_memory_use(MemoryUse::Reserve);
        let threads = host().threads();
        self.device.listen(threads.current());
        // The first to set it is this thread, the only one.
        let _ = self.thread.set(threads.current());
        let mut finished = 0;
        loop {
            while let Some((errno, bio)) = self.start_waiting() {
                self.finish(bio, Err(errno));
            }
            if let Some(done) = self.device.reap() {
                match self.complete(Token(done.token)) {
                    Some(bio) => self.finish(bio, done.result),
                    None => log::error!(
                        "{}: completion of a request that was not made: {:#x}",
                        self.info().parent,
                        done.token
                    ),
                }
                finished += 1;
                if finished % BATCH == 0 {
                    threads.yield_now();
                }
                continue;
            }
            if self.stopping.load(Ordering::Acquire) && self.close() {
                return;
            }
            threads.park(None);
        }
    }

    /// Takes no more requests, if none is under way.
    fn close(&self) -> bool {
        let mut state = self.state.lock();
        state.closed = state.waiting.is_empty() && state.free.len() == state.slots.len();
        state.closed
    }

    fn finish(&self, bio: Bio, result: Result<(), Errno>) {
        let bytes = bio.bytes() as u64;
        match bio.op {
            BioOp::Read => {
                self.stats.reads.add(1);
                self.stats.read_bytes.add(bytes);
            }
            BioOp::Write => {
                self.stats.writes.add(1);
                self.stats.written_bytes.add(bytes);
            }
            BioOp::Flush => self.stats.flushes.add(1),
            BioOp::Discard { .. } => {}
        }
        if result.is_err() {
            self.stats.errors.add(1);
        }
        (bio.done)(bio.frames, result);
    }

    /// Runs a request and waits for it (biowait). Not from a completion.
    ///
    /// # Errors
    /// As [`BlockQueue::start`], and what the request ended with; the frames are gone then.
    pub fn run_and_wait(
        &self,
        op: BioOp,
        sector: u64,
        frames: Vec<IoFrame>,
    ) -> Result<Vec<IoFrame>, Errno> {
        type Outcome = (Mutex<Option<Result<Vec<IoFrame>, Errno>>>, Condvar);
        if self.thread.get() == Some(&host().threads().current()) {
            return Err(Errno::EDEADLK);
        }
        let outcome: Arc<Outcome> = kmem::try_arc((Mutex::new(None), Condvar::new()))?;
        let teller = outcome.clone();
        let done: DoneFn = kmem::try_box(move |frames, result: Result<(), Errno>| {
            *teller.0.lock() = Some(result.map(|()| frames));
            teller.1.notify_one();
        })?;
        let bio = Bio {
            op,
            sector,
            frames,
            done,
        };
        self.start(bio).map_err(|(errno, _)| errno)?;
        let mut result = outcome.0.lock();
        loop {
            if let Some(result) = result.take() {
                return result;
            }
            result = outcome.1.wait(result);
        }
    }

    /// Reads into `frames` from `sector` on, and gives them back.
    ///
    /// # Errors
    /// As [`BlockQueue::run_and_wait`].
    pub fn read_blocking(&self, sector: u64, frames: Vec<IoFrame>) -> Result<Vec<IoFrame>, Errno> {
        self.run_and_wait(BioOp::Read, sector, frames)
    }

    /// Writes `frames` from `sector` on, and gives them back.
    ///
    /// # Errors
    /// As [`BlockQueue::run_and_wait`].
    pub fn write_blocking(&self, sector: u64, frames: Vec<IoFrame>) -> Result<Vec<IoFrame>, Errno> {
        self.run_and_wait(BioOp::Write, sector, frames)
    }

    /// Makes all writes that are complete stable. Costs nothing on a device without a volatile cache.
    ///
    /// # Errors
    /// As [`BlockQueue::run_and_wait`].
    pub fn flush_blocking(&self) -> Result<(), Errno> {
        if !self.info().volatile_cache {
            return Ok(());
        }
        self.run_and_wait(BioOp::Flush, 0, Vec::new()).map(drop)
    }

    /// Reads `bytes` bytes from `sector` on into new frames.
    ///
    /// # Errors
    /// As [`BlockQueue::run_and_wait`]; `ENOMEM`.
    pub fn read_frames(&self, sector: u64, bytes: usize, how: Alloc) -> Result<Vec<Frame>, Errno> {
        let mut frames = kmem::try_vec(bytes.div_ceil(PAGE_SIZE))?;
        let mut left = bytes;
        while left > 0 {
            let len = left.min(PAGE_SIZE);
            frames.push(IoFrame {
                frame: Frame::alloc(how)?,
                offset: 0,
                len,
            });
            left -= len;
        }
        let read = self.read_blocking(sector, frames)?;
        let mut frames = kmem::try_vec(read.len())?;
        frames.extend(read.into_iter().map(|part| part.frame));
        Ok(frames)
    }
}

impl Drop for BlockQueue {
    /// What the device still has is never freed. That happens only if the completion thread was never
    /// started, or unwound: it keeps the queue until nothing is in flight.
    fn drop(&mut self) {
        for slot in &mut self.state.get_mut().slots {
            core::mem::forget(slot.bio.take());
        }
    }
}

impl State {
    /// Puts a request at the end of those that wait for the device.
    fn wait(&mut self, bio: Bio) -> Result<(), (Errno, Bio)> {
        // Completions take the table's lock, and may be what would bring memory: no waiting under it.
        let _no_wait = lwp::refuse_to_wait();
        if self.waiting.room(1).is_err() {
            return Err((Errno::ENOMEM, bio));
        }
        self.waiting.push_back(bio);
        Ok(())
    }

    /// Writes the request's memory down; parts that lie one behind the other become one segment.
    fn write_segments(&mut self, bio: &Bio) {
        self.segments.clear();
        for part in &bio.frames {
            // SAFETY: `check` found the offset inside the page.
            let base = unsafe { part.frame.address().add(part.offset) };
            if let Some(last) = self.segments.last_mut()
                && last.base.addr().get() + last.len == base.addr().get()
            {
                last.len += part.len;
                continue;
            }
            // Within the room reserved at `attach`: a bio has no more parts than that.
            self.segments.push(IoVec {
                base,
                len: part.len,
            });
        }
    }
}
