//! A terminal, with a program that runs on it: a test types, and looks at the screen.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::unix::ffi::OsStringExt as _;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long anything may take that is over in a moment on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(60);
const ROWS: NonZero<u16> = NonZero::new(100).unwrap();
const COLUMNS: NonZero<u16> = NonZero::new(200).unwrap();

/// The terminal. Nothing that the program shows is taken from it but while a test waits, so that the program does not get further than
/// the test wants.
pub struct Terminal {
    side: File,
    child: Child,
    screen: vt100::Parser,
    shown: Vec<u8>,
}

impl Terminal {
    /// Runs the program on a new terminal, by setsid(1), util-linux, which makes it the one that Ctrl-C comes from.
    ///
    /// # Panics
    /// If there is no terminal, or no such program.
    pub fn run(command: &Command) -> Terminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let side = openpt(flags).expect("a terminal");
        grantpt(&side).expect("a terminal");
        unlockpt(&side).expect("a terminal");
        let size = Winsize {
            ws_row: ROWS.get(),
            ws_col: COLUMNS.get(),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&side, size).expect("its size");
        let name = ptsname(&side, Vec::new()).expect("its name");
        let name = std::ffi::OsString::from_vec(name.into_bytes());
        // A test that is the leader of a session without a terminal would get this one.
        let other = rustix::fs::open(
            name,
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        let other = File::from(other.expect("the other side"));
        let clone = || other.try_clone().expect("a descriptor");
        let mut setsid = Command::new("setsid");
        setsid.arg("--ctty").arg(command.get_program());
        setsid.args(command.get_args()).env("TERM", "xterm");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => setsid.env(name, value),
                None => setsid.env_remove(name),
            };
        }
        let child = setsid.stdin(clone()).stdout(clone()).stderr(other).spawn();
        Terminal {
            side: side.into(),
            child: child.expect("the program runs"),
            screen: vt100::Parser::new(ROWS, COLUMNS, 0),
            shown: Vec::new(),
        }
    }

    /// Presses keys.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn press(&mut self, keys: &str) {
        self.side.write_all(keys.as_bytes()).expect("it listens");
    }

    /// Takes some of what the program shows. Whether there may be more.
    fn look(&mut self) -> bool {
        let timeout = Timespec {
            tv_sec: PATIENCE.as_secs() as i64,
            tv_nsec: 0,
        };
        let ready = poll(
            &mut [PollFd::new(&self.side, PollFlags::IN)],
            Some(&timeout),
        );
        assert!(
            ready.expect("a poll") > 0,
            "nothing comes:\n{}",
            self.screen()
        );
        let mut bytes = [0; 4096];
        // Once nobody has the other side open, it is an error.
        let count = self.side.read(&mut bytes).unwrap_or(0);
        self.screen.process(&bytes[..count]);
        self.shown.extend_from_slice(&bytes[..count]);
        count > 0
    }

    /// Waits until the screen is as `is_so` wants it.
    ///
    /// # Panics
    /// If it does not become so.
    pub fn wait(&mut self, what: &str, is_so: impl Fn(&Terminal) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            let more = self.look();
            let in_time = start.elapsed() < PATIENCE;
            assert!(
                more && in_time,
                "{what}: never on the screen:\n{}",
                self.screen()
            );
        }
    }

    /// Waits until what stands before the cursor in its line ends with `text`.
    ///
    /// # Panics
    /// If it does not come to that.
    pub fn wait_for(&mut self, text: &str) {
        self.wait(text, |terminal| terminal.line().ends_with(text));
    }

    /// What is on the screen, without blank lines at the end.
    pub fn screen(&self) -> String {
        self.screen.screen().contents()
    }

    /// The cursor's line up to the cursor.
    pub fn line(&self) -> String {
        let (row, column) = self.screen.screen().cursor_position();
        let screen = self.screen.screen();
        screen.contents_between(row, 0, row, column)
    }

    /// The number of the cursor's line, from 0.
    pub fn row(&self) -> usize {
        self.screen.screen().cursor_position().0.into()
    }

    /// All that the program ever sent.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn end(&mut self) -> ExitStatus {
        let start = Instant::now();
        while self.look() {
            assert!(start.elapsed() < PATIENCE, "no end:\n{}", self.screen());
        }
        // It has nothing open there any more.
        self.child.wait().expect("its status")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // A test has failed: nothing of it may stay.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
