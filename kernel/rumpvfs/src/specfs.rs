//! Block devices, as file systems see them.

use alloc::vec::Vec;
use rumpkern::kmem;
use rumpkern::locks::{Condvar, Mutex};
use rumpkern::uvm::dma::{Bio, BioOp, IoFrame};
use rumpuser::Errno;

/// What a block device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Capacity in units of 512 bytes.
    pub sectors: u64,
    /// Bytes that the device reads or writes at once: requests are aligned to it.
    pub sector_size: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Only a flush makes writes stable. No write goes past the cache by itself (FUA): virtio-blk knows none (Virtual I/O Device
    /// 1.3, 5.2.6), and on a file of a Linux host `RWF_DSYNC` is a write and a flush.
    pub volatile_cache: bool,
    /// It takes [`BioOp::Discard`].
    pub discard: bool,
    /// The most bytes that are worth putting in one request.
    pub max_bytes: usize,
}

/// The memory of a direct transfer: the caller's own, wherever that is.
#[derive(Debug)]
pub enum Direct<'a> {
    /// Device to memory.
    Read(&'a mut [u8]),
    /// Memory to device.
    Write(&'a [u8]),
}

impl Direct<'_> {
    /// How long it is.
    pub fn bytes(&self) -> usize {
        match self {
            Direct::Read(memory) => memory.len(),
            Direct::Write(memory) => memory.len(),
        }
    }

    /// Which way it goes.
    pub fn op(&self) -> BioOp {
        match self {
            Direct::Read(_) => BioOp::Read,
            Direct::Write(_) => BioOp::Write,
        }
    }
}

/// A block device that a file system can be mounted from: a disk, or a partition of one.
pub trait BlockIo: Send + Sync {
    /// Its name, such as `"ld0a"`.
    fn name(&self) -> &str;

    /// Its number (`dev_t`): no two devices of a kernel have the same.
    fn dev(&self) -> u64;

    /// The number of the disk that it is a partition of.
    fn part_of(&self) -> Option<u64> {
        None
    }

    /// What it is. The same answer at every call.
    fn info(&self) -> DeviceInfo;

    /// Starts `bio`, of any number of frames. `Ok` means that its `done` is called exactly once; the call
    /// comes from a thread of the device's or, for a device in memory, from within. So no lock
    /// that `done` takes may be held here.
    ///
    /// # Errors
    /// `EINVAL`: not whole sectors of the device, beyond its end, or too much to discard. `EROFS`. `done` is not called then.
    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)>;

    /// Whether it has [`direct`](BlockIo::direct) transfers.
    fn has_direct(&self) -> bool {
        false
    }

    /// Moves whole sectors from or to memory that need not be pages of the kernel's, in the calling thread, and returns
    /// when that is done. Any length will do.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: it has none. As [`start`](BlockIo::start), and what the transfer ended with; it may be half done.
    fn direct(&self, _sector: u64, _memory: Direct<'_>) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
}

/// The frames back, and how it went.
type Outcome = (Vec<IoFrame>, Result<(), Errno>);

/// Where a thread waits for a request of its own.
struct Finished {
    outcome: Mutex<Option<Outcome>>,
    come: Condvar,
}

/// Does one request and waits for it. The frames come back whatever happened.
pub fn transfer(
    device: &dyn BlockIo,
    op: BioOp,
    sector: u64,
    frames: Vec<IoFrame>,
) -> (Vec<IoFrame>, Result<(), Errno>) {
    let prepared = kmem::try_arc(Finished {
        outcome: Mutex::new(None),
        come: Condvar::new(),
    })
    .and_then(|finished| {
        let theirs = finished.clone();
        let done = kmem::try_box(move |frames, result| {
            *theirs.outcome.lock() = Some((frames, result));
            theirs.come.notify_all();
        })?;
        Ok((finished, done))
    });
    let (finished, done) = match prepared {
        Ok(prepared) => prepared,
        Err(errno) => return (frames, Err(errno)),
    };
    let bio = Bio {
        op,
        sector,
        frames,
        done,
    };
    if let Err((errno, bio)) = device.start(bio) {
        return (bio.frames, Err(errno));
    }
    let mut outcome = finished.outcome.lock();
    loop {
        if let Some(outcome) = outcome.take() {
            return outcome;
        }
        outcome = finished.come.wait(outcome);
    }
}

/// Makes every write that has completed stable. A disk that was not written to since it was last flushed is not asked.
///
/// # Errors
/// The device's.
pub fn flush(device: &dyn BlockIo) -> Result<(), Errno> {
    if !device.info().volatile_cache {
        return Ok(());
    }
    // What waits for it is half way of something.
    kmem::insist(|| transfer(device, BioOp::Flush, 0, Vec::new()).1)
}
