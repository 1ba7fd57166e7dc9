//! What the Linux guest runs on its disk: sequential reads of 1 MiB, then reads of 4 KiB at random places, past the page cache.
//!
//! Prints `sequential BYTES NANOSECONDS` and `random BYTES NANOSECONDS`, as our own guest does where it is asked to.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use rump_tests::random::Random;

const SEQUENTIAL_TOTAL: u64 = 64 << 20;
const SEQUENTIAL_PIECE: usize = 1 << 20;
const RANDOM_COUNT: u64 = 8192;
const RANDOM_PIECE: usize = 4096;

/// Reads `device`, which holds at least 64 MiB.
pub fn run(device: &Path) -> Result<()> {
    let disk = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(device)?;
    sequential(&disk)?;
    random(&disk)
}

fn sequential(disk: &File) -> Result<()> {
    let mut buffer = Aligned::new(SEQUENTIAL_PIECE);
    let start = Instant::now();
    for offset in (0..SEQUENTIAL_TOTAL).step_by(SEQUENTIAL_PIECE) {
        disk.read_exact_at(buffer.get(), offset)?;
    }
    println!(
        "sequential {SEQUENTIAL_TOTAL} {}",
        start.elapsed().as_nanos()
    );
    Ok(())
}

fn random(disk: &File) -> Result<()> {
    let mut buffer = Aligned::new(RANDOM_PIECE);
    let mut random = Random::new(1);
    let start = Instant::now();
    for _ in 0..RANDOM_COUNT {
        let page = random.below(usize::try_from(SEQUENTIAL_TOTAL)? / RANDOM_PIECE);
        disk.read_exact_at(buffer.get(), (page * RANDOM_PIECE) as u64)?;
    }
    println!(
        "random {} {}",
        RANDOM_COUNT * RANDOM_PIECE as u64,
        start.elapsed().as_nanos()
    );
    Ok(())
}

/// A buffer that begins where O_DIRECT wants it to, and what keeps it there.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    size: usize,
}

impl Aligned {
    const ALIGNMENT: usize = 4096;

    fn new(size: usize) -> Self {
        let bytes = vec![0; size + Self::ALIGNMENT];
        let start = bytes.as_ptr().align_offset(Self::ALIGNMENT);
        Self { bytes, start, size }
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.size]
    }
}
