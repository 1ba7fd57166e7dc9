//! Tools that the tests need, installed where that is allowed.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::root;

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

/// Whether this process may make network namespaces and raw sockets; says so where not.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        crate::say("not root: the tests that need a tap device try nothing");
    }
    root
}
