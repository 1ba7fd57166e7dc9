//! A mounted image, by the program itself.

use rump_tests::setup;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take that is over in a moment on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program.
pub fn rump_ffs() -> Command {
    Command::new(env!("CARGO_BIN_EXE_rump_ffs"))
}

/// An image in a folder of its own, mounted there.
pub struct Mounted {
    folder: TempDir,
    daemon: Option<Child>,
}

impl Mounted {
    /// A new volume of `megabytes`, mounted with `options` besides; `None` where nothing can be mounted.
    pub fn new(version: u8, megabytes: u64, options: &str) -> Option<Mounted> {
        if !setup::can_mount_by_fuse() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mut mounted = Mounted {
            folder,
            daemon: None,
        };
        fs::create_dir(mounted.dir()).expect("a directory");
        let options_of_volume = ukfs::mkfs::Options::new().version(version);
        ukfs::mkfs::make(mounted.image(), &options_of_volume.size(megabytes << 20))
            .expect("a volume");
        mounted.mount(options);
        Some(mounted)
    }

    /// The image's file.
    pub fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Where it is mounted.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("dir")
    }

    /// A path on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Mounts it (again).
    pub fn mount(&mut self, options: &str) {
        let before = device_of(&self.dir());
        let mut daemon = rump_ffs()
            .args(["-f", "-o", options])
            .arg(self.image())
            .arg(self.dir())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("rump_ffs runs");
        let start = Instant::now();
        while device_of(&self.dir()) == before {
            let ended = daemon.try_wait().expect("its status");
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "{ended:?}: {}",
                said(&mut daemon)
            );
            sleep(Duration::from_millis(5));
        }
        self.daemon = Some(daemon);
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: &str) {
        let daemon = self.daemon.as_ref().expect("it is mounted");
        let pid = daemon.id().to_string();
        run(Command::new("kill").args(["-s", signal, &pid]));
    }

    /// Waits for the daemon's end.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let mut daemon = self.daemon.take().expect("it is mounted");
        let start = Instant::now();
        loop {
            if let Some(status) = daemon.try_wait().expect("its status") {
                return (status, said(&mut daemon));
            }
            assert!(start.elapsed() < PATIENCE, "the daemon does not end");
            sleep(Duration::from_millis(5));
        }
    }

    /// Unmounts it, as people do, and waits for the daemon's end.
    pub fn unmount(&mut self) {
        run(Command::new("umount").arg(self.dir()));
        let (status, said) = self.wait();
        assert!(status.success() && said.is_empty(), "{status}: {said}");
    }

    /// Unmounts it; the volume is clean and consistent, as a check finds.
    pub fn end(mut self) {
        self.unmount();
        let report = ukfs::check::check(self.image(), None).expect("it can be checked");
        assert!(report.is_consistent(), "{:?}", report.findings);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // A test has failed: nothing of it may stay.
            let _ = Command::new("umount").arg("-l").arg(self.dir()).status();
            let _ = daemon.kill();
            let _ = daemon.wait();
            eprintln!("the daemon said: {}", said(&mut daemon));
        }
    }
}

fn said(daemon: &mut Child) -> String {
    let mut said = String::new();
    if let Some(err) = &mut daemon.stderr {
        err.read_to_string(&mut said).expect("text");
    }
    said
}

fn device_of(dir: &Path) -> u64 {
    fs::metadata(dir).map_or(0, |metadata| metadata.dev())
}

/// Runs a program, which has to succeed; what it says on its standard output.
pub fn run(command: &mut Command) -> String {
    let done = command.output().expect("the program is there");
    assert!(
        done.status.success(),
        "{command:?}: {}\n{}{}",
        done.status,
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Runs a line of shell in `dir`, which has to succeed.
pub fn shell(dir: &Path, line: &str) -> String {
    run(Command::new("sh")
        .args([OsStr::new("-ec"), OsStr::new(line)])
        .current_dir(dir))
}
