//! Small files, and calls that do nothing.

use crate::tell;
use anyhow::{Result, ensure};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;
use ukfs::{Image, Options};

const SMALL: usize = 1024;

/// Creates, looks at, reads and removes files of 1 KiB, all in one directory.
pub fn files(image: &Path, count: usize) -> Result<()> {
    let image = Image::open(image, Options::new().write(true))?;
    let entered = image.enter()?;
    image.create_dir("/files")?;
    let paths: Vec<PathBuf> = (0..count)
        .map(|number| PathBuf::from(format!("/files/file{number:06}")))
        .collect();
    let timed = |name: &str, work: &mut dyn FnMut(&Path) -> Result<()>| -> Result<()> {
        let start = Instant::now();
        for path in &paths {
            work(path)?;
        }
        tell(name, count as f64 / start.elapsed().as_secs_f64());
        Ok(())
    };
    let contents = [0x5a; SMALL];
    timed("create, write 1 KiB, close", &mut |path| {
        let file = image.create_file(path)?;
        ensure!(file.write_at(&contents, 0)? == SMALL, "a short write");
        Ok(())
    })?;
    timed("stat", &mut |path| {
        ensure!(
            image.metadata(path)?.len() == SMALL as u64,
            "not what was written"
        );
        Ok(())
    })?;
    let mut buffer = [0; SMALL];
    timed("open, read 1 KiB, close", &mut |path| {
        let file = image.open_file(path)?;
        ensure!(file.read_at(&mut buffer, 0)? == SMALL, "a short read");
        ensure!(buffer[SMALL - 1] == 0x5a, "not what was written");
        Ok(())
    })?;
    timed("unlink", &mut |path| Ok(image.remove_file(path)?))?;
    drop(entered);
    image.close()?;
    Ok(())
}

/// A call that looks its process up and does nothing else.
pub fn calls(image: &Path) -> Result<()> {
    const CALLS: u32 = 10_000_000;
    let image = Image::open(image, Options::new())?;
    let entered = image.enter()?;
    let start = Instant::now();
    for _ in 0..CALLS {
        black_box(rump::sys::getpid()?);
    }
    let nanoseconds = start.elapsed().as_secs_f64() * 1e9;
    tell("null system call", nanoseconds / f64::from(CALLS));
    drop(entered);
    image.close()?;
    Ok(())
}
