//! A mounted image, by the program itself.

use rump_tests::setup;
use std::ffi::OsStr;
use std::fs::{self, File};
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
    /// The daemon tells every request.
    tells: bool,
}

impl Mounted {
    /// A new volume of `megabytes`, mounted with `options` besides; `None` where nothing can be mounted.
    pub fn new(version: u8, megabytes: u64, options: &str) -> Option<Mounted> {
        let mut mounted = Mounted::made(version, megabytes)?;
        mounted.mount(options);
        Some(mounted)
    }

    /// The same, by a daemon that tells what Linux asks of it.
    pub fn that_tells(version: u8, megabytes: u64, options: &str) -> Option<Mounted> {
        let mut mounted = Mounted::made(version, megabytes)?;
        mounted.tells = true;
        mounted.mount(options);
        Some(mounted)
    }

    /// A new volume that is not mounted yet.
    pub fn made(version: u8, megabytes: u64) -> Option<Mounted> {
        if !setup::can_mount_by_fuse() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Mounted {
            folder,
            daemon: None,
            tells: false,
        };
        fs::create_dir(mounted.dir()).expect("a directory");
        let options_of_volume = ukfs::mkfs::Options::new().version(version);
        ukfs::mkfs::make(mounted.image(), &options_of_volume.size(megabytes << 20))
            .expect("a volume");
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
        self.mount_image(&self.image(), options);
    }

    /// Mounts `image` instead of its own.
    pub fn mount_image(&mut self, image: &Path, options: &str) {
        let before = device_of(&self.dir());
        let mut command = rump_ffs();
        if self.tells {
            command.arg("-vvv");
        }
        // Not a pipe, which would fill.
        let said = File::create(self.said_path()).expect("a file");
        let mut daemon = command
            .args(["-f", "-o", options])
            .arg(image)
            .arg(self.dir())
            .stdin(Stdio::null())
            .stderr(said)
            .spawn()
            .expect("rump_ffs runs");
        let start = Instant::now();
        while device_of(&self.dir()) == before {
            let ended = daemon.try_wait().expect("its status");
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "{ended:?}: {}",
                self.said()
            );
            sleep(Duration::from_millis(5));
        }
        self.daemon = Some(daemon);
    }

    fn said_path(&self) -> PathBuf {
        self.folder.path().join("said")
    }

    /// What the daemon said since it was started, but for what it was asked to tell.
    fn said(&self) -> String {
        let said = fs::read_to_string(self.said_path()).expect("text");
        if !self.tells {
            return said;
        }
        let is_told = |line: &&str| line.starts_with("fuse: ") || line.starts_with("kernel:   ");
        said.split_inclusive('\n')
            .filter(|line| !is_told(line))
            .collect()
    }

    /// What Linux asked of the daemon while `act` was done: the names of fuse(4)'s requests.
    pub fn asked_while(&self, act: impl FnOnce()) -> Vec<String> {
        let before = fs::metadata(self.said_path()).expect("a file").len();
        act();
        // A request is told before it is answered, so that those that `act` waited for are there.
        let said = fs::read(self.said_path()).expect("a file");
        let said = String::from_utf8_lossy(&said[before as usize..]);
        let told = said.lines().filter(|line| line.contains("FUSE("));
        // FUSE(unique) ino NUMBER NAME …, of which the first two may be one word.
        let name = told.filter_map(|line| line.split(" ino ").nth(1)?.split(' ').nth(1));
        name.map(str::to_owned).collect()
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
                return (status, self.said());
            }
            assert!(start.elapsed() < PATIENCE, "the daemon does not end");
            sleep(Duration::from_millis(5));
        }
    }

    /// Unmounts it, as people do, and waits for the daemon's end.
    pub fn unmount(&mut self) {
        let start = Instant::now();
        loop {
            let done = Command::new("umount").arg(self.dir()).output();
            let done = done.expect("umount runs");
            if done.status.success() {
                break;
            }
            // What this process had open there, children of other tests hold until they are programs of their own.
            let why = String::from_utf8_lossy(&done.stderr);
            assert!(why.contains("busy") && start.elapsed() < PATIENCE, "{why}");
            sleep(Duration::from_millis(5));
        }
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
            eprintln!("the daemon said: {}", self.said());
        }
    }
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
