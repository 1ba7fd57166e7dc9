//! What it costs to start.

use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

/// The programs that are measured, built as this one (`own`) is, beside it.
fn program(own: &Path, name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<bool> = OnceLock::new();
    let built = *BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = Command::new(cargo)
            .args(["build", "--release", "--bins"])
            .args(["--package", "rump_fs", "--package", "rump-benches-hosted"])
            .status();
        build.is_ok_and(|status| status.success())
    });
    ensure!(built, "{name} cannot be built");
    Ok(own.with_file_name(name))
}

/// MiB in memory of a program that has booted and mounted, and does nothing else.
pub fn resident(own: &Path, image: &Path) -> Result<f64> {
    let output = Command::new(program(own, "rump-benches-resident")?)
        .arg(image)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "{}", output.status);
    let kilobytes = String::from_utf8(output.stdout)?;
    let kilobytes: f64 = kilobytes.trim().parse().context("a number")?;
    Ok(kilobytes / 1024.0)
}

/// Milliseconds from the start of `rump_fs ls` to its end: it boots, mounts, answers and unmounts.
pub fn first_answer(own: &Path, image: &Path) -> Result<f64> {
    let program = program(own, "rump_fs")?;
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
