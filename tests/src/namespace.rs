//! A network namespace with a tap device: the guest's link, seen from the other end, away from the machine's own network.

use std::ffi::CString;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::setup;

/// A namespace; dropping it removes it. Only root can make one.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The tap device's name in the namespace.
    pub const TAP: &'static str = "tap0";
    /// The host's address on it, with a /24 around it.
    pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    /// Makes a namespace with the tap device up.
    ///
    /// # Panics
    /// If `ip` fails.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        setup::need(&["ip"]);
        let name = format!(
            "rump-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name };
        namespace.ip(&["tuntap", "add", "dev", Self::TAP, "mode", "tap"]);
        // Otherwise the host's own IPv6 chatter gets between the frames that a test sends and expects.
        run(namespace.command(Path::new("sysctl")).args([
            "-q",
            "-w",
            "net.ipv6.conf.tap0.disable_ipv6=1",
        ]));
        namespace.ip(&[
            "addr",
            "add",
            &format!("{}/24", Self::HOST_ADDRESS),
            "dev",
            Self::TAP,
        ]);
        namespace.ip(&["link", "set", Self::TAP, "up"]);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// `ip` with these arguments, in the namespace.
    pub fn ip(&self, args: &[&str]) {
        run(self.command(Path::new("ip")).args(args));
    }

    /// A command that will run in the namespace.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `body` on a thread in the namespace; sockets that it opens stay there, wherever they are used later.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let handle =
                    File::open(Path::new("/run/netns").join(&self.name)).expect("our namespace");
                // SAFETY: setns takes a descriptor that `handle` keeps open, and concerns this thread alone.
                let done = unsafe { libc::setns(handle.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(done, 0, "setns: {}", std::io::Error::last_os_error());
                body()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The index of the tap device, for use in the namespace.
    pub fn tap_index() -> i32 {
        let name = CString::new(Self::TAP).expect("no NUL in it");
        // SAFETY: the name is NUL-terminated and outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        assert_ne!(
            index,
            0,
            "no tap device here: {}",
            std::io::Error::last_os_error()
        );
        i32::try_from(index).expect("few devices")
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

fn run(command: &mut Command) {
    let done = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}
