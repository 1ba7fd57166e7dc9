//! A test image: drives the host's devices by the hypercalls alone, with no kernel above.
//!
//! The command line says what to do, in order: `disk` writes a pattern to the first disk and reads it back, `refuse` asks for
//! what a disk must refuse, `discard` discards the pattern, `read` measures reading, `random` prints random bytes, `segment` sends a TCP segment for
//! the card to cut, `echo` sends every frame for experiments back
//! to its sender until one says `quit`. The exit status is 0 if all went as it should.
#![no_std]
#![no_main]

mod card;
mod disk;

use core::ptr::NonNull;
use rumpuser::{Errno, PAGE_SIZE, host};
use rumpuser_baremetal::aprint;

rumpuser_baremetal::entry!(main);

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        aprint!("{}", record.args());
    }

    fn flush(&self) {}
}

fn main() -> Result<(), Errno> {
    // Only a second logger would be refused.
    let _ = log::set_logger(&Log);
    log::set_max_level(log::LevelFilter::Info);
    let line = core::str::from_utf8(host().params().command_line()).map_err(|_| Errno::EINVAL)?;
    for word in line.split_ascii_whitespace() {
        match word {
            "disk" => disk::check()?,
            "refuse" => disk::refuse()?,
            "discard" => disk::discard()?,
            "read" => disk::measure()?,
            "random" => random()?,
            "segment" => card::segment()?,
            "echo" => card::echo()?,
            _ => {}
        }
    }
    Ok(())
}

fn random() -> Result<(), Errno> {
    let mut bytes = [0; 200];
    host().random().fill(&mut bytes)?;
    let zeroes = bytes.iter().filter(|&&byte| byte == 0).count();
    aprint!(
        "random: {:02x?}, {zeroes} zeroes in {}",
        &bytes[..8],
        bytes.len()
    );
    Ok(())
}

/// `count` pages of the kernel's memory, from page `first` on.
fn pages(first: usize, count: usize) -> Result<NonNull<u8>, Errno> {
    let regions = host().memory().regions();
    let largest = regions
        .iter()
        .max_by_key(|region| region.pages)
        .ok_or(Errno::ENOMEM)?;
    if first + count > largest.pages {
        return Err(Errno::ENOMEM);
    }
    // SAFETY: inside the region, as just checked.
    Ok(unsafe { largest.base.add(first * PAGE_SIZE) })
}
