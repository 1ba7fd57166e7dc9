//! Reads its first disk past every cache, as `rump-benches rawread` does in the Linux guest: sequential reads of 1 MiB, then reads of 4 KiB
//! at random places, one at a time.
//!
//! Prints `sequential BYTES NANOSECONDS` and `random BYTES NANOSECONDS`.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use rump::{Component, Config, Errno, Kernel};
use rumpdev::Disks;
use rumpkern::aprint;
use rumpkern::kmem::Kmem;
use rumpkern::time::now;
use rumpkern::uvm::dma::{BioOp, IoFrame};
use rumpkern::uvm::{Alloc, Frame};
use rumpvfs::specfs::{self, BlockIo};

rumpuser_baremetal::entry!(main);

#[global_allocator]
static KMEM: Kmem = Kmem;

const COMPONENTS: &[&Component] = &[&rumpvfs::COMPONENT, &rumpdev::COMPONENT, &rumpdev::DISKS];

const TOTAL: u64 = 64 << 20;
const SEQUENTIAL_PIECE: u64 = 1 << 20;
const RANDOM_COUNT: u64 = 8192;
const PAGE: u64 = 4096;
const SECTOR: u64 = 512;

fn main() -> Result<(), Errno> {
    let kernel = Kernel::boot(Config::from_host(), COMPONENTS)?;
    let disks = kernel.get::<Disks>().ok_or(Errno::ENXIO)?;
    let disk = disks.list().into_iter().next().ok_or(Errno::ENXIO)?;

    let mut frames = frames(SEQUENTIAL_PIECE / PAGE)?;
    let start = now();
    for offset in (0..TOTAL).step_by(SEQUENTIAL_PIECE as usize) {
        frames = read(&*disk, offset, frames)?;
    }
    aprint!(
        "sequential {TOTAL} {}",
        now().saturating_since(start).as_nanos()
    );

    frames.truncate(1);
    let mut state = 1;
    let start = now();
    for _ in 0..RANDOM_COUNT {
        frames = read(&*disk, random(&mut state) % (TOTAL / PAGE) * PAGE, frames)?;
    }
    let bytes = RANDOM_COUNT * PAGE;
    aprint!(
        "random {bytes} {}",
        now().saturating_since(start).as_nanos()
    );
    kernel.halt(0)
}

fn frames(count: u64) -> Result<Vec<IoFrame>, Errno> {
    (0..count)
        .map(|_| Frame::alloc(Alloc::Wait).map(IoFrame::whole))
        .collect()
}

fn read(disk: &dyn BlockIo, offset: u64, frames: Vec<IoFrame>) -> Result<Vec<IoFrame>, Errno> {
    let (frames, result) = specfs::transfer(disk, BioOp::Read, offset / SECTOR, frames);
    result.map(|()| frames)
}

/// xorshift64 (Marsaglia, "Xorshift RNGs").
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
