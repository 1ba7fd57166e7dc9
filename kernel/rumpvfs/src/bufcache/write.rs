//! Writing buffers: every write of one starts here.

use super::{BufCache, Key, Settled, one};
use crate::specfs::BlockIo;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use rumpkern::kmem;
use rumpkern::locks::{Condvar, Mutex};
use rumpkern::uvm::dma::{Bio, BioOp, IoFrame};
use rumpkern::uvm::{Frame, Transit};
use rumpuser::Errno;

/// A buffer under way to the disk. It settles when this goes.
struct Going<F: FnOnce(Result<(), Errno>)> {
    cache: Arc<BufCache>,
    device: Arc<dyn BlockIo>,
    key: Key,
    frame: Option<Frame>,
    result: Result<(), Errno>,
    told: Option<F>,
    /// Behind the buffer, which has settled when this goes.
    _transit: Transit,
}

impl<F: FnOnce(Result<(), Errno>)> Drop for Going<F> {
    fn drop(&mut self) {
        let (cache, result) = (&self.cache, self.result);
        if let Err(errno) = result {
            log::error!(
                "{}: sector {} could not be written: {errno}",
                self.device.name(),
                self.key.1
            );
        }
        if let Some(frame) = self.frame.take() {
            let settled = Settled::after(result, self.device.clone());
            cache.settle(self.key, frame, settled);
        }
        // Only now: who waits for all writes then looks which failed.
        cache.ended(1);
        if let Some(told) = self.told.take() {
            told(result);
        }
    }
}

/// Starts a request, which is told how it went, also if it could not be started.
pub(super) fn start(device: &dyn BlockIo, bio: Bio) {
    let mut bio = Some(bio);
    let started = kmem::insist(|| {
        let Some(own) = bio.take() else { return Ok(()) };
        device.start(own).map_err(|(errno, back)| {
            bio = Some(back);
            errno
        })
    });
    if let (Err(errno), Some(bio)) = (started, bio) {
        (bio.done)(bio.frames, Err(errno));
    }
}

impl BufCache {
    /// The writing of so many buffers has ended.
    pub(super) fn ended(&self, count: usize) {
        let mut state = self.state.lock();
        state.writing -= count;
        state.stuck = false;
        drop(state);
        self.settled.notify_all();
    }

    /// Starts writing a busy buffer, which settles when that is done; then `told` is called.
    pub(super) fn start_write(
        self: &Arc<Self>,
        device: Arc<dyn BlockIo>,
        key: Key,
        frame: Frame,
        bytes: usize,
        told: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.state.lock().writing += 1;
        let going = Going {
            cache: self.clone(),
            device: device.clone(),
            key,
            frame: Some(frame.clone()),
            result: Err(Errno::ENOMEM),
            told: Some(told),
            _transit: Transit::begin(1),
        };
        let prepared = kmem::insist(|| one(frame.clone(), bytes)).and_then(|frames| {
            let done = kmem::insist_box(move |frames: Vec<IoFrame>, result: Result<(), Errno>| {
                let mut going = going;
                drop(frames);
                going.result = result;
            })?;
            Ok((frames, done))
        });
        // If there was no memory for it, `going` is gone already, and has said so.
        let Ok((frames, done)) = prepared else {
            return;
        };
        let bio = Bio {
            op: BioOp::Write,
            sector: key.1,
            frames,
            done,
        };
        start(&*device, bio);
    }

    /// The same, out of its turn, and waits for it. What comes after it has to wait until it is stable.
    pub(super) fn write(
        self: &Arc<Self>,
        device: Arc<dyn BlockIo>,
        key: Key,
        frame: Frame,
        bytes: usize,
    ) -> Result<(), Errno> {
        let finished = match kmem::insist(|| kmem::try_arc((Mutex::new(None), Condvar::new()))) {
            Ok(finished) => finished,
            Err(errno) => {
                self.settle(key, frame, Settled::Dirty(device, 0));
                return Err(errno);
            }
        };
        let theirs = finished.clone();
        let volatile = device.clone();
        self.state.lock().writes(&volatile, 0);
        self.start_write(device, key, frame, bytes, move |result| {
            *theirs.0.lock() = Some(result);
            theirs.1.notify_all();
        });
        let mut guard = finished.0.lock();
        let result = loop {
            match *guard {
                Some(result) => break result,
                None => guard = finished.1.wait(guard),
            }
        };
        drop(guard);
        // Again: a flush that began meanwhile need not have found it in the device's cache.
        self.state.lock().writes(&volatile, 0);
        result
    }
}
