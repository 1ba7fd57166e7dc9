//! Tools that the tests need, installed where that is allowed.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::{root, scratch};

static PRESENT: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// Makes sure that QEMU and `tools` are there.
///
/// # Panics
/// With the command to run, where `run-qemu.sh` may not install them.
pub fn need(tools: &[&'static str]) {
    // A panic below must not hide its reason from the tests that come after it.
    let mut present = PRESENT.lock().unwrap_or_else(PoisonError::into_inner);
    if tools.iter().all(|tool| present.contains(tool)) {
        return;
    }
    let done = Command::new(root().join("run-qemu.sh"))
        .arg("--install-only")
        .args(tools)
        .output()
        .expect("run-qemu.sh runs");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    present.extend(tools);
}

/// The folder where the module `module` of Python's registry is, for `PYTHONPATH`: `name==version`.
///
/// # Panics
/// If it cannot be installed.
pub fn python_module(module: &str) -> PathBuf {
    let kept = scratch("python");
    let folder = kept.join(module);
    let _lock = lock(&kept);
    if folder.exists() {
        return folder;
    }
    need(&["python3", "pip3"]);
    let new = tempfile::tempdir_in(&kept).expect("a folder under target");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--target"])
        .arg(new.path())
        .arg(module);
    succeed(&mut pip);
    std::fs::rename(new.keep(), &folder).expect("a folder under target");
    folder
}

/// The program that the crate `name` of that version is.
///
/// # Panics
/// If it cannot be built.
pub fn cargo_program(name: &str, version: &str) -> PathBuf {
    let kept = scratch("programs");
    let folder = kept.join(format!("{name}-{version}"));
    let program = folder.join("bin").join(name);
    let _lock = lock(&kept);
    if !program.exists() {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // Not in the project's folder, whose settings of cargo are not for others' programs.
        cargo.args(["install", "--quiet", "--locked", "--root"]);
        cargo.arg(&folder).arg(format!("{name}@{version}"));
        cargo.current_dir("/");
        succeed(&mut cargo);
    }
    program
}

/// One process or thread at a time installs something there.
fn lock(folder: &std::path::Path) -> File {
    let lock = File::create(folder.join("lock")).expect("a lock file");
    lock.lock().expect("a lock under target");
    lock
}

fn succeed(command: &mut Command) {
    let done = command.stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {errors}");
}

/// Whether file systems can be mounted by FUSE here: as root, with /dev/fuse; says so where not.
pub fn can_mount_by_fuse() -> bool {
    let device = File::open("/dev/fuse").is_ok();
    if !device {
        crate::say("no /dev/fuse: the tests that mount by FUSE try nothing");
    }
    device && is_root()
}

/// Whether this process may make network namespaces, raw sockets and mounts; says so where not.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        crate::say("not root: the tests that need a tap device or a mount try nothing");
    }
    root
}
