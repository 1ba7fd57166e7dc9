//! What the integration tests share: images built, disks made, guests booted in QEMU, and ways to talk to them from outside.
//!
//! - [`setup`]: what has to be on the machine, installed by `run-qemu.sh`.
//! - [`image`]: appliances, built by cargo.
//! - [`guest`]: one QEMU, booted by `run-qemu.sh`, with its console; at most [`guest::AT_ONCE`] at a time on a machine.
//!   [`qmp`]: its monitor, to change the machine while it runs; [`blklog`]: what it records of a disk.
//! - [`tree`]: what a file system should show; [`disk`]: FFS images that show it, made by Debian's makefs, by NetBSD, by FreeBSD;
//!   [`volume`]: empty ones to be written, and their check.
//! - [`hosted`]: disks mounted in this process, without QEMU; [`readers`]: disks read by programs that nobody here wrote.
//! - [`http`]: a client that can also misbehave.
//! - [`namespace`]: a network namespace with a tap device, for tests that need whole frames; [`frame`]: such frames.
//! - [`elf`]: hand-made images of a few instructions, for tests of `run-qemu.sh` itself.
//! - [`terminal`]: a terminal, with a program that runs on it.
//! - [`random`]: numbers from a seed; [`spoil`]: FFS images spoiled by a seed.
//!
//! Everything made here lies in `target/tests`.

pub mod blklog;
pub mod disk;
pub mod elf;
pub mod frame;
pub mod guest;
pub mod hosted;
pub mod http;
pub mod image;
pub mod namespace;
pub mod qmp;
pub mod random;
pub mod readers;
pub mod setup;
pub mod spoil;
pub mod terminal;
pub mod tree;
pub mod volume;

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The project's root folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests lie in a folder of the project")
}

/// A folder under `target/tests`, made if it is not there.
pub fn scratch(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |set| root().join(set));
    let folder = target.join("tests").join(name);
    std::fs::create_dir_all(&folder).expect("a folder under target");
    folder
}

/// Says something that a passing test's captured output must not swallow, such as what it could not try and why.
pub fn say(message: &str) {
    // `io::stderr()` itself is not captured, `eprintln!` is.
    let _ = writeln!(std::io::stderr(), "note: {message}");
}
