//! Large files, read and written from end to end.

use crate::tell;
use anyhow::{Result, ensure};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};
use ukfs::{Image, Options};

const STEP: usize = 1 << 20;
/// What is read at once where the copy alone is measured: as much as stays in a processor's own cache.
const PIECE: usize = 64 << 10;
/// How often the same is read for [`steady`].
const PASSES: usize = 65;
const LARGE: usize = 64 << 20;
/// More than the cache holds.
const LARGER: usize = 256 << 20;

fn rate(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / 1e6
}

fn write(bytes: usize, mut write_at: impl FnMut(&[u8], u64) -> Result<()>) -> Result<()> {
    let buffer = vec![0xa5; STEP];
    for offset in (0..bytes).step_by(STEP) {
        write_at(&buffer, offset as u64)?;
    }
    Ok(())
}

fn read(
    bytes: usize,
    step: usize,
    mut read_at: impl FnMut(&mut [u8], u64) -> Result<usize>,
) -> Result<Duration> {
    let mut buffer = vec![1; step];
    let start = Instant::now();
    let mut offset = 0;
    while offset < bytes {
        let count = read_at(&mut buffer, offset as u64)?;
        ensure!(
            count > 0 && buffer[count - 1] == 0xa5,
            "not what was written"
        );
        offset += count;
    }
    Ok(start.elapsed())
}

/// The rates of the first of many passes over 64 MiB, and of the one in the middle: the processor's outer caches come to hold what is
/// read again and again, within about ten passes.
fn steady(mut read_at: impl FnMut(&mut [u8], u64) -> Result<usize>) -> Result<(f64, f64)> {
    let mut times = Vec::new();
    for _ in 0..PASSES {
        times.push(read(LARGE, PIECE, &mut read_at)?);
    }
    let first = times[0];
    times.sort_unstable();
    Ok((rate(LARGE, first), rate(LARGE, times[PASSES / 2])))
}

/// The same of a file of the host's beside the image, which begins as a hole, as the image does; and of memory alone.
fn plain(image: &Path) -> Result<()> {
    let path = image.with_file_name("plain");
    let mut options = OpenOptions::new();
    let plain = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    plain.set_len(LARGE as u64)?;
    for name in ["plain: write into a hole, sync", "plain: write again, sync"] {
        let start = Instant::now();
        write(LARGE, |bytes, at| Ok(plain.write_all_at(bytes, at)?))?;
        plain.sync_data()?;
        tell(name, rate(LARGE, start.elapsed()));
    }
    let (first, again) = steady(|buffer, at| Ok(plain.read_at(buffer, at)?))?;
    tell("plain: read once", first);
    tell("plain: read again and again", again);
    drop(plain);
    std::fs::remove_file(path)?;
    let memory = vec![0xa5; LARGE];
    let (first, again) = steady(|buffer, at| {
        buffer.copy_from_slice(&memory[at as usize..][..PIECE]);
        Ok(PIECE)
    })?;
    tell("memory: copy once", first);
    tell("memory: copy again and again", again);
    Ok(())
}

/// 64 MiB: written to a new file and made stable; then read where they are cached.
pub fn large(image: &Path) -> Result<()> {
    plain(image)?;
    let image = Image::open(image, Options::new().write(true))?;
    let entered = image.enter()?;
    let file = image.create_file("/large")?;
    let start = Instant::now();
    write(LARGE, |bytes, at| Ok(file.write_all_at(bytes, at)?))?;
    file.sync_all()?;
    tell("write 64 MiB and sync", rate(LARGE, start.elapsed()));
    let start = Instant::now();
    write(LARGE, |bytes, at| Ok(file.write_all_at(bytes, at)?))?;
    file.sync_all()?;
    tell("write 64 MiB again, sync", rate(LARGE, start.elapsed()));
    // What the writes went past is in the cache after this.
    read(LARGE, STEP, |buffer, at| Ok(file.read_at(buffer, at)?))?;
    let (first, again) = steady(|buffer, at| Ok(file.read_at(buffer, at)?))?;
    tell("read 64 MiB cached, once", first);
    tell("read 64 MiB cached, again and again", again);
    drop((file, entered));
    image.close()?;
    Ok(())
}

/// 256 MiB of a file on the image, beside as much of the backing file itself, all of which the host has in its memory.
pub fn beside_plain(path: &Path, version: u8) -> Result<()> {
    let plain = OpenOptions::new().read(true).write(true).open(path)?;
    let whole = plain.metadata()?.len() as usize;
    let middle = (whole - LARGER) as u64 / 2;
    // What is measured after this needs no new memory of the host's.
    write(whole, |bytes, at| Ok(plain.write_all_at(bytes, at)?))?;
    let start = Instant::now();
    write(LARGER, |bytes, at| {
        Ok(plain.write_all_at(bytes, middle + at)?)
    })?;
    plain.sync_data()?;
    let plain_write = rate(LARGER, start.elapsed());
    let plain_read = read(LARGER, STEP, |buffer, at| {
        Ok(plain.read_at(buffer, middle + at)?)
    })?;
    let plain_read = rate(LARGER, plain_read);
    drop(plain);

    ukfs::mkfs::make(path, &ukfs::mkfs::Options::new().version(version))?;
    let image = Image::open(path, Options::new().write(true))?;
    let file = image.create_file("/large")?;
    let start = Instant::now();
    write(LARGER, |bytes, at| Ok(file.write_all_at(bytes, at)?))?;
    file.sync_all()?;
    let own_write = rate(LARGER, start.elapsed());
    drop(file);
    image.close()?;

    let image = Image::open(path, Options::new())?;
    let file = image.open_file("/large")?;
    let once = || read(LARGER, STEP, |buffer, at| Ok(file.read_at(buffer, at)?));
    let (first, again) = (rate(LARGER, once()?), rate(LARGER, once()?));
    drop(file);
    image.close()?;
    tell("sequential write and sync", 100.0 * own_write / plain_write);
    tell("sequential read, first", 100.0 * first / plain_read);
    tell("sequential read, again", 100.0 * again / plain_read);
    tell("plain read", plain_read);
    tell("plain write and sync", plain_write);
    Ok(())
}
