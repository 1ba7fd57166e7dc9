//! QEMU's machine protocol, to change a machine while it runs.
//!
//! Source: QEMU docs/interop/qmp-spec.rst, qapi/block-core.json.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::guest::{Boot, SOON};

/// Where a machine's monitor is to be.
pub struct Socket {
    path: PathBuf,
    _folder: TempDir,
}

impl Socket {
    /// One that nobody listens at yet.
    ///
    /// # Panics
    /// If there is no folder for temporary files.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        // Not under target, whose path may be longer than an address of a socket (unix(7)).
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        Self {
            path: folder.path().join("qmp"),
            _folder: folder,
        }
    }

    /// Lets the machine that `boot` starts listen here.
    #[must_use]
    pub fn listen<'a>(&self, boot: Boot<'a>) -> Boot<'a> {
        boot.qemu_arg("-qmp")
            .qemu_arg(&format!("unix:{},server=on,wait=off", self.path.display()))
    }

    /// Talks to the machine, as soon as it listens.
    ///
    /// # Panics
    /// If it does not.
    pub fn connect(&self) -> Monitor {
        let deadline = Instant::now() + SOON;
        let stream = loop {
            match UnixStream::connect(&self.path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "no monitor: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        stream.set_read_timeout(Some(SOON)).expect("a socket");
        let mut monitor = Monitor(BufReader::new(stream));
        monitor.execute("qmp_capabilities", json!({}));
        monitor
    }
}

/// A machine's monitor.
pub struct Monitor(BufReader<UnixStream>);

impl Monitor {
    /// Gives a command, and answers what it returns.
    ///
    /// # Panics
    /// If it fails.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let line = json!({"execute": command, "arguments": arguments});
        writeln!(self.0.get_mut(), "{line}").expect("QEMU runs");
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line).expect("QEMU answers");
            assert!(read > 0, "QEMU is gone");
            let mut answer: Value = serde_json::from_str(&line).expect("JSON");
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            // There are greetings and events, too.
            if let Some(value) = answer.get_mut("return") {
                return value.take();
            }
        }
    }

    /// From now on the drive moves so many bytes in a second; 0: as many as it can.
    pub fn throttle(&mut self, drive: &str, bytes: u64) {
        let limits = json!({
            "device": drive, "bps": bytes, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0,
        });
        self.execute("block_set_io_throttle", limits);
    }

    /// Bytes that were written so far, to all disks.
    pub fn written(&mut self) -> u64 {
        let disks = self.execute("query-blockstats", json!({}));
        let disks = disks.as_array().expect("a list").iter();
        disks
            .filter_map(|disk| disk["stats"]["wr_bytes"].as_u64())
            .sum()
    }
}
