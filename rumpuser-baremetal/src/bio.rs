//! Block hypercalls, on virtio block devices.
//!
//! Lock: one for each device, a leaf, never held across a call into the kernel or its log. Interrupt handlers take none: they record and
//! wake the listener, which reaps.

use crate::heap;
use crate::virtio::{DMA, Failure, Found, Listener, Obituary, Transport, errno, segment};
use platform_virtio::blk::{BlkConfig, BlkOp, BlkResult, VirtioBlk};
use rumpuser::{
    BioDone, BioOp, BioRequest, BlockDevice, BlockInfo, Errno, MAX_DISCARD_SECTORS, ThreadId,
};
use spin::{Mutex, Once};

/// The most block devices.
const MAX_DISKS: usize = 16;

static DISKS: [Once<&'static Disk>; MAX_DISKS] = [const { Once::new() }; MAX_DISKS];

struct Disk {
    info: BlockInfo,
    driver: Mutex<VirtioBlk<Transport>>,
    listener: Listener,
    obituary: Obituary,
}

/// The block device of index `unit`.
pub(crate) fn device(unit: usize) -> Option<&'static dyn BlockDevice> {
    let disk: &'static Disk = DISKS.get(unit)?.get()?;
    Some(disk)
}

/// Brings up a device that was found.
pub(crate) fn attach(found: &Found) -> Result<(), Failure> {
    let full = Failure::Exhausted("place for a block device");
    let unit = DISKS
        .iter()
        .position(|disk| disk.get().is_none())
        .ok_or(full)?;
    // The vectors of `BlkConfig::DEFAULT`, in order.
    found.wire(&[configuration_interrupt, queue_interrupt], unit)?;
    let driver = VirtioBlk::attach(found.transport()?, DMA, BlkConfig::DEFAULT)?;
    let device = *driver.info();
    let info = BlockInfo {
        parent: found.name,
        sectors: device.sectors,
        sector_size: device.block_size,
        read_only: device.read_only,
        volatile_cache: device.volatile_cache,
        discard: u64::from(device.max_discard_sectors) >= MAX_DISCARD_SECTORS,
        max_segments: device.max_segments,
        max_bytes: device.max_bytes,
        queue_depth: device.queue_depth,
    };
    let disk = Disk {
        info,
        driver: Mutex::new(driver),
        listener: Listener::new(),
        obituary: Obituary::new(),
    };
    let disk = heap::place(disk).map_err(|_| Failure::Exhausted("memory"))?;
    DISKS[unit].call_once(|| disk);
    Ok(())
}

fn queue_interrupt(unit: usize) {
    if let Some(disk) = DISKS.get(unit).and_then(Once::get) {
        disk.listener.wake();
    }
}

fn configuration_interrupt(unit: usize) {
    if let Some(disk) = DISKS.get(unit).and_then(Once::get) {
        disk.listener.configuration_interrupt();
    }
}

impl BlockDevice for Disk {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    unsafe fn submit(&self, request: &BioRequest<'_>) -> Result<(), Errno> {
        let op = match request.op {
            BioOp::Read => BlkOp::Read,
            BioOp::Write => BlkOp::Write,
            BioOp::Flush => BlkOp::Flush,
            BioOp::Discard { sectors } => BlkOp::Discard {
                sectors: u32::try_from(sectors).map_err(|_| Errno::EINVAL)?,
            },
        };
        let segments = request.segments.iter().map(segment);
        let mut driver = self.driver.lock();
        // SAFETY: the caller's promise is the one that the driver asks for.
        let started = unsafe { driver.submit(op, request.sector, segments, request.token) };
        started.map_err(|error| errno(error, Errno::ENXIO))
    }

    fn reap(&self) -> Option<BioDone> {
        let (done, fault) = {
            let mut driver = self.driver.lock();
            if self.listener.configuration_changed() {
                driver.configuration_changed();
            }
            (driver.reap(), driver.device().fault())
        };
        self.obituary.check(self.info.parent, fault);
        let done = done?;
        let result = match done.result {
            BlkResult::Done => Ok(()),
            BlkResult::IoError | BlkResult::Broken => Err(Errno::EIO),
            BlkResult::Unsupported => Err(Errno::EOPNOTSUPP),
        };
        Some(BioDone {
            token: done.token,
            result,
        })
    }

    fn listen(&self, thread: ThreadId) {
        self.listener.set(thread);
    }
}
