//! Discards are asked for in the background, and never of sectors that somebody has taken again.

mod testfs;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rumpkern::lwp;
use rumpkern::uvm::dma::{Bio, BioOp};
use rumpuser::{Errno, MAX_DISCARD_SECTORS};
use rumpvfs::discard::Discards;
use rumpvfs::specfs::{BlockIo, DeviceInfo};
use testfs::attach;

const MEMORY: usize = 4 << 20;

/// A device that keeps what it is asked to discard until it is told to, or answers at once.
#[derive(Default)]
struct Device {
    asked: Mutex<Vec<(u64, u64)>>,
    under_way: Mutex<Vec<Bio>>,
    at_once: AtomicBool,
    has_none: bool,
}

impl BlockIo for Device {
    fn name(&self) -> &str {
        "disk0"
    }

    fn dev(&self) -> u64 {
        1
    }

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            sectors: 1 << 30,
            sector_size: 4096,
            read_only: false,
            volatile_cache: true,
            discard: !self.has_none,
            max_bytes: 65_536,
        }
    }

    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        let BioOp::Discard { sectors } = bio.op else {
            return Err((Errno::EINVAL, bio));
        };
        self.asked.lock().unwrap().push((bio.sector, sectors));
        match self.at_once.load(Ordering::Acquire) {
            true => (bio.done)(bio.frames, Ok(())),
            false => self.under_way.lock().unwrap().push(bio),
        }
        Ok(())
    }
}

impl Device {
    fn asked(&self) -> Vec<(u64, u64)> {
        core::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// Ends the oldest that is under way.
    fn end(&self, result: Result<(), Errno>) {
        let bio = self.under_way.lock().unwrap().remove(0);
        (bio.done)(bio.frames, result);
    }
}

fn discards(device: &Arc<Device>) -> Arc<Discards> {
    let device: Arc<dyn BlockIo> = device.clone();
    Discards::new(&device).unwrap().expect("it discards")
}

#[test]
fn what_was_added_is_discarded_once_started_neighbours_together_and_whole_sectors_only() {
    let _lwp = attach(MEMORY);
    let device = Arc::new(Device::default());
    device.at_once.store(true, Ordering::Release);
    let discards = discards(&device);
    for (sector, count) in [(8, 8), (24, 8), (16, 8), (100, 3), (1001, 30)] {
        discards.add(sector, count);
    }
    assert_eq!(device.asked(), []);
    discards.start();
    assert_eq!(device.asked(), [(8, 24), (1008, 16)]);
    discards.add(0, 2 * MAX_DISCARD_SECTORS + 8);
    discards.finish();
    assert_eq!(device.asked(), [], "it was not started");
    discards.add(0, MAX_DISCARD_SECTORS + 8);
    discards.start();
    let expected = [(0, MAX_DISCARD_SECTORS), (MAX_DISCARD_SECTORS, 8)];
    assert_eq!(device.asked(), expected);
}

#[test]
fn what_is_taken_again_is_left_out_or_waited_for() {
    let _lwp = attach(MEMORY);
    let device = Arc::new(Device::default());
    let discards = discards(&device);
    discards.add(800, 8);
    discards.taken(800, 8);
    // Four are under way, the others wait.
    for n in 0..8 {
        discards.add(16 * n, 8);
    }
    discards.start();
    assert_eq!(device.asked(), [(0, 8), (16, 8), (32, 8), (48, 8)]);
    discards.taken(64, 8);
    discards.taken(84, 4);
    let done = Arc::new(AtomicBool::new(false));
    let (theirs, waiting) = (done.clone(), discards.clone());
    let thread = lwp::spawn("taker", move || {
        waiting.taken(20, 2);
        theirs.store(true, Ordering::Release);
    });
    device.end(Ok(()));
    assert_eq!(device.asked(), [(96, 8)]);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(!done.load(Ordering::Acquire), "the second is under way");
    device.end(Ok(()));
    thread.expect("a thread").join();
    for _ in 0..4 {
        device.end(Ok(()));
    }
    assert_eq!(device.asked(), [(112, 8)]);
    discards.finish();
}

#[test]
fn a_device_that_refuses_is_not_asked_again() {
    let _lwp = attach(MEMORY);
    let device = Arc::new(Device::default());
    let discards = discards(&device);
    for n in 0..8 {
        discards.add(16 * n, 8);
    }
    discards.start();
    assert_eq!(device.asked().len(), 4);
    device.end(Err(Errno::EOPNOTSUPP));
    discards.add(800, 8);
    discards.start();
    (0..3).for_each(|_| device.end(Ok(())));
    discards.finish();
    assert_eq!(device.asked(), []);
    let without: Arc<dyn BlockIo> = Arc::new(Device {
        has_none: true,
        ..Device::default()
    });
    assert!(Discards::new(&without).unwrap().is_none());
}
