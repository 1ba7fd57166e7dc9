//! Going to the background: a child does the work, and its parent waits to tell how the start went.
//!
//! A process with threads cannot fork, so the program runs itself again before it has any. The child says on its standard output when
//! the mount is there; before, errors are on the standard error that it shares, and its exit status becomes the parent's.

use rustix::stdio::{dup2_stderr, dup2_stdout};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Set for the child.
const MARK: &str = "RUMP_P2K_CHILD";
/// What it says.
const READY: &[u8] = b"ready\n";

/// Whether this is the process that is to do the work.
pub(crate) enum Role {
    /// It is; it tells nobody.
    Foreground,
    /// It is; its parent waits.
    Child,
    /// Its child does it, or could not: the status to end with.
    Parent(u8),
}

/// Starts the child, if there is to be one.
pub(crate) fn split(foreground: bool) -> io::Result<Role> {
    if foreground {
        return Ok(Role::Foreground);
    }
    if std::env::var_os(MARK).is_some() {
        return Ok(Role::Child);
    }
    let mut arguments = std::env::args_os();
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let mut child = command
        .args(arguments)
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = Vec::new();
    if let Some(out) = child.stdout.take() {
        out.take(READY.len() as u64).read_to_end(&mut said)?;
    }
    if said == READY {
        return Ok(Role::Parent(0));
    }
    let code = child
        .wait()?
        .code()
        .and_then(|code| u8::try_from(code).ok());
    // A child that ended without a status, or well but without a mount, has failed all the same.
    let code = code.filter(|code| *code != 0).unwrap_or(1);
    Ok(Role::Parent(code))
}

/// The child works: it leaves the terminal and the directory where it was started.
pub(crate) fn ready() -> io::Result<()> {
    // It fails for a leader of a group, which is in no need of it.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    io::stdout().write_all(READY)?;
    io::stdout().flush()?;
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// Tells the system's log, where nobody sees the standard error any more.
pub(crate) fn complain(text: &str) {
    /// Facility daemon (3), severity error (3), RFC 3164 §4.1.1.
    const PRIORITY: u8 = 3 << 3 | 3;
    let line = format!("<{PRIORITY}>rump_fs[{}]: {text}", std::process::id());
    // Where there is no log there is nobody to tell.
    let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(line.as_bytes(), "/dev/log"));
}
