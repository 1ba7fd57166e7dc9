//! From the mount to the end.

use crate::adapter::{Adapter, Served};
use crate::daemon::{self, Role};
use crate::options::{MountArgs, MountOptions};
use fuser::Session;
use rustix::mount::UnmountFlags;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use ukfs::{Image, Options, Shown, Source};

/// Threads that serve.
const THREADS: usize = 4;
/// How long whoever has files open may go on with them after a signal.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why it could not be mounted, or not be ended well.
#[derive(Debug)]
pub enum Failure {
    /// Something with the image.
    Image(ukfs::Error),
    /// Something with the host's file or directory of that name.
    Host(PathBuf, io::Error),
}

impl From<ukfs::Error> for Failure {
    fn from(error: ukfs::Error) -> Failure {
        Failure::Image(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Image(error) => error.fmt(f),
            Failure::Host(path, error) => write!(f, "{}: {error}", Shown(path)),
        }
    }
}

/// How the serving came to its end.
enum Ended {
    /// Unmounted, or the connection broke.
    Served(io::Result<()>),
    /// A signal came.
    Told,
}

/// Mounts and serves until the end. In the parent of a daemon it is over when the daemon works, or does not. Answers the status to
/// end with.
///
/// `options` say what `-o` does not; the image is opened to be written unless `read_only`.
///
/// # Errors
/// What stands in the way, with the file it is about. Once a daemon works, its errors go to the system's log as well.
pub fn run(args: &MountArgs, options: Options, read_only: bool) -> Result<u8, Failure> {
    let own = |error| Failure::Host("this program".into(), error);
    let dir = |error| Failure::Host(args.dir.clone(), error);
    let mut chosen = MountOptions::merge(&args.options);
    if read_only {
        chosen.read_only = Some(true);
    }
    if chosen.remount == Some(true) {
        chosen.remount(&args.dir).map_err(dir)?;
        return Ok(0);
    }
    let child = match daemon::split(args.foreground).map_err(own)? {
        Role::Foreground => false,
        Role::Child => true,
        Role::Parent(code) => return Ok(code),
    };
    // Before the image is: a signal that comes from now on is not lost.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(own)?;
    let place = args.dir.canonicalize().map_err(dir)?;
    if !place.is_dir() {
        return Err(dir(io::ErrorKind::NotADirectory.into()));
    }
    let image = open(args, options, &chosen)?;
    let config = config(&image, &chosen);
    let served = Served::new(image);
    let session = Session::new(Adapter(served.clone()), &place, &config).map_err(dir)?;
    if child {
        daemon::ready().map_err(own)?;
    }
    let done = serve(session, signals, &place);
    let ended = served.end().map_err(Failure::from);
    let done = done.map_err(dir).and(ended);
    if let (true, Err(failure)) = (child, &done) {
        daemon::complain(&failure.to_string());
    }
    done.map(|()| 0)
}

fn open(args: &MountArgs, options: Options, chosen: &MountOptions) -> Result<Image, ukfs::Error> {
    let mut options = options.write(chosen.read_only != Some(true));
    if let Some(log) = chosen.log {
        options = options.log(log);
    }
    if let Some(discard) = chosen.discard {
        options = options.discard(discard);
    }
    if let Some(force) = chosen.force {
        options = options.force(force);
    }
    Image::open(Source::parse(&args.image), options)
}

fn config(image: &Image, chosen: &MountOptions) -> fuser::Config {
    let mut config = chosen.for_fuse(&image.source().to_string(), image.fstype());
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config
}

/// Serves until the mount is gone; a signal takes it away.
fn serve(session: Session<Adapter>, signals: Signals, place: &Path) -> io::Result<()> {
    let (sender, ends) = mpsc::channel();
    let told = sender.clone();
    thread::Builder::new().name("serve".into()).spawn(move || {
        // Whoever waits for the end has ended first, at worst.
        let _ = sender.send(Ended::Served(session.run()));
    })?;
    let handle = signals.handle();
    let mut signals = signals;
    let listener = thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                // As above.
                let _ = told.send(Ended::Told);
            }
        })?;
    let result = wait(&ends, place);
    handle.close();
    drop(listener);
    result
}

fn wait(ends: &mpsc::Receiver<Ended>, place: &Path) -> io::Result<()> {
    match ends.recv() {
        Ok(Ended::Served(result)) => return result,
        Ok(Ended::Told) => unmount(place)?,
        Err(mpsc::RecvError) => return Ok(()),
    }
    loop {
        match ends.recv_timeout(PATIENCE) {
            Ok(Ended::Served(result)) => return result,
            // More of the same.
            Ok(Ended::Told) => {}
            // Files are open still: they are cut off when this process ends.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Takes the mount away, also if it is in use; what is open stays usable for the moment.
fn unmount(place: &Path) -> io::Result<()> {
    match rustix::mount::unmount(place, UnmountFlags::empty()) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => Ok(rustix::mount::unmount(place, UnmountFlags::DETACH)?),
        // Somebody was quicker.
        Err(rustix::io::Errno::INVAL) => Ok(()),
        // Who is not root has this done, by the program that mounted.
        Err(rustix::io::Errno::PERM) => {
            let status = Command::new("fusermount3")
                .args(["-u", "-z", "--"])
                .arg(place)
                .status()?;
            match status.success() {
                true => Ok(()),
                false => Err(io::Error::other(format!("fusermount3: {status}"))),
            }
        }
        Err(error) => Err(error.into()),
    }
}
