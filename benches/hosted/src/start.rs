//! What it costs to start.

use crate::tell;
use anyhow::{Context as _, Result, ensure};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;
use ukfs::{Image, Options};

/// Memory of this process that is in memory, with its program, once an image is mounted.
pub fn resident(image: &Path) -> Result<()> {
    let image = Image::open(image, Options::new().write(true))?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .context("VmRSS in /proc/self/status")?;
    tell(
        "boot and mount: resident",
        kilobytes.parse::<f64>()? / 1024.0,
    );
    image.close()?;
    Ok(())
}

/// Milliseconds from the start of `rump_fs ls` to its end: it boots, mounts, answers and unmounts.
pub fn first_answer(image: &Path) -> Result<f64> {
    static BUILT: OnceLock<bool> = OnceLock::new();
    let program = std::env::current_exe()?.with_file_name("rump_fs");
    let built = *BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = Command::new(cargo)
            .args(["build", "--release", "--package", "rump_fs"])
            .status();
        build.is_ok_and(|status| status.success())
    });
    ensure!(built, "rump_fs cannot be built");
    let start = Instant::now();
    let status = Command::new(program)
        .arg("ls")
        .arg(image)
        .stdout(Stdio::null())
        .status()?;
    let time = start.elapsed();
    ensure!(status.success(), "rump_fs ls: {status}");
    Ok(time.as_secs_f64() * 1e3)
}
