//! A disk for tests: in memory, served by a thread of its own, slow or failing on demand, and it keeps
//! count of what it was asked.

use rumpkern::uvm::dma::{Bio, BioOp};
use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::specfs::{BlockIo, DeviceInfo};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is on the disk and what happens to it.
pub struct TestDisk {
    dev: u64,
    name: String,
    info: DeviceInfo,
    shared: Arc<Shared>,
    queue: Mutex<Sender<Bio>>,
}

pub struct Shared {
    pub bytes: Mutex<Vec<u8>>,
    /// Sectors that cannot be read or written.
    pub bad: Mutex<BTreeSet<u64>>,
    /// Lengths in bytes of the reads that came.
    pub reads: Mutex<Vec<usize>>,
    /// The same for writes.
    pub writes: Mutex<Vec<usize>>,
    pub delay_us: AtomicU64,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl TestDisk {
    pub fn new(sectors: u64) -> Arc<TestDisk> {
        TestDisk::with_sector_size(sectors, 512)
    }

    pub fn with_sector_size(sectors: u64, sector_size: u32) -> Arc<TestDisk> {
        let dev = NEXT.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new(Shared {
            bytes: Mutex::new(vec![0; sectors as usize * SECTOR_SIZE]),
            bad: Mutex::default(),
            reads: Mutex::default(),
            writes: Mutex::default(),
            delay_us: AtomicU64::new(0),
        });
        let (queue, requests) = channel::<Bio>();
        let theirs = shared.clone();
        std::thread::spawn(move || {
            for bio in requests {
                theirs.finish(bio);
            }
        });
        Arc::new(TestDisk {
            dev,
            name: format!("td{dev}"),
            info: DeviceInfo {
                sectors,
                sector_size,
                read_only: false,
                volatile_cache: false,
                discard: false,
                max_bytes: 256 * 1024,
            },
            shared,
            queue: Mutex::new(queue),
        })
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    pub fn take_reads(&self) -> Vec<usize> {
        std::mem::take(&mut self.shared.reads.lock().unwrap())
    }
}

impl Shared {
    fn finish(&self, mut bio: Bio) {
        let delay = self.delay_us.load(Ordering::Relaxed);
        if delay > 0 {
            std::thread::sleep(Duration::from_micros(delay));
        }
        let result = self.serve(&mut bio);
        (bio.done)(bio.frames, result);
    }

    fn serve(&self, bio: &mut Bio) -> Result<(), Errno> {
        let len: usize = bio.frames.iter().map(|io| io.len).sum();
        match bio.op {
            BioOp::Read => self.reads.lock().unwrap().push(len),
            BioOp::Write => self.writes.lock().unwrap().push(len),
            BioOp::Flush | BioOp::Discard { .. } => return Ok(()),
        }
        let sectors = bio.sector..bio.sector + (len / SECTOR_SIZE) as u64;
        if self.bad.lock().unwrap().range(sectors).next().is_some() {
            return Err(Errno::EIO);
        }
        let mut bytes = self.bytes.lock().unwrap();
        let mut at = bio.sector as usize * SECTOR_SIZE;
        for io in &mut bio.frames {
            let disk = &mut bytes[at..at + io.len];
            let part = io.offset..io.offset + io.len;
            if bio.op == BioOp::Read {
                let memory = io
                    .frame
                    .get_mut()
                    .expect("a frame to be read into is shared");
                memory[part].copy_from_slice(disk);
            } else {
                disk.copy_from_slice(&io.frame.as_bytes()[part]);
            }
            at += io.len;
        }
        Ok(())
    }
}

impl BlockIo for TestDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn info(&self) -> DeviceInfo {
        self.info
    }

    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        let len: usize = bio.frames.iter().map(|io| io.len).sum();
        let end = bio.sector + (len / SECTOR_SIZE) as u64;
        if end > self.info.sectors
            || !len.is_multiple_of(self.info.sector_size as usize)
            || len > self.info.max_bytes
        {
            return Err((Errno::EINVAL, bio));
        }
        self.queue
            .lock()
            .unwrap()
            .send(bio)
            .expect("the disk's thread is there");
        Ok(())
    }
}
