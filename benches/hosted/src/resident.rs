//! A program that boots a kernel, mounts the image that it is given, and says how much of it is in memory: kilobytes, with the
//! program itself and the libraries it shares.

use anyhow::{Context as _, Result};
use ukfs::{Image, Options};

fn main() -> Result<()> {
    let image = std::env::args_os().nth(1).context("which image?")?;
    let image = Image::open(image, Options::new().write(true))?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .context("VmRSS in /proc/self/status")?;
    println!("{kilobytes}");
    image.close()?;
    Ok(())
}
