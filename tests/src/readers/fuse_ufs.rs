//! The crate fuse-ufs: a volume mounted by FUSE, in a process of its own.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::{NamedTempFile, TempDir};

use crate::{scratch, setup};

/// The release that the tests were written with.
const RELEASE: &str = "0.6.0";

/// How long a mount may take.
const SOON: Duration = Duration::from_secs(30);

/// Whether this machine has FUSE; says so where not.
pub(super) fn is_possible() -> bool {
    let is_there = Path::new("/dev/fuse").exists();
    if !is_there {
        crate::say("no /dev/fuse: fuse-ufs reads nothing");
    }
    is_there
}

/// A mounted volume; dropping it unmounts it.
pub struct Mount {
    child: Child,
    folder: TempDir,
    said: NamedTempFile,
}

impl Mount {
    /// Mounts an image with these options (`rw`, …).
    ///
    /// # Errors
    /// What fuse-ufs says.
    pub fn new(image: &Path, options: &[&str]) -> Result<Self> {
        // What it is linked with, and what cargo finds that by.
        setup::need(&["fuse3/fuse.h", "pkg-config"]);
        let program = setup::cargo_program("fuse-ufs", RELEASE);
        let folder = tempfile::tempdir_in(scratch("mounts"))?;
        let said = NamedTempFile::new_in(scratch("mounts"))?;
        let mut command = Command::new(program);
        command.arg("-f");
        for option in options {
            command.args(["-o", option]);
        }
        let child = command
            .args([image, folder.path()])
            .stdin(Stdio::null())
            .stdout(said.reopen()?)
            .stderr(said.reopen()?)
            .spawn()?;
        let mut mount = Self {
            child,
            folder,
            said,
        };
        mount.wait().with_context(|| mount.said())?;
        Ok(mount)
    }

    /// The folder that shows the volume.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Unmounts it and waits until everything is on the disk.
    ///
    /// # Errors
    /// What fuse-ufs says if it fails.
    pub fn unmount(mut self) -> Result<()> {
        let status = self.end()?;
        ensure!(status, "{}", self.said());
        Ok(())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.said.path()).unwrap_or_default()
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let folder = self.folder.path().display().to_string();
        mounts
            .lines()
            .any(|line| line.split(' ').nth(1) == Some(&*folder))
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + SOON;
        while !self.is_mounted() {
            if let Some(status) = self.child.try_wait()? {
                bail!("fuse-ufs: {status}");
            }
            ensure!(Instant::now() < deadline, "fuse-ufs does not mount it");
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Answers whether it ended well.
    fn end(&mut self) -> Result<bool> {
        if self.is_mounted() {
            // The process ends by itself when its mount has gone.
            let unmounted = Command::new("umount").arg(self.path()).status()?;
            ensure!(unmounted.success(), "umount: {unmounted}");
        } else {
            self.child.kill()?;
        }
        Ok(self.child.wait()?.success())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.end().is_err() {
            // Busy: it goes with its last user.
            let _ = Command::new("umount").arg("-l").arg(self.path()).status();
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
