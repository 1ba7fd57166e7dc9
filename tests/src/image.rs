//! Appliances, built by a cargo of their own.
//!
//! An image and a program that links `std` must not come from one cargo invocation, or cargo would unify the features of what both
//! depend on; so a test names no appliance as a dependency, it builds it when it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::root;

/// How an image is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// As it is used.
    Release,
    /// With the checks that only debug builds make.
    Dev,
}

static BUILT: Mutex<BTreeMap<(String, Profile), PathBuf>> = Mutex::new(BTreeMap::new());

/// The image of an appliance as it is used; built at most once in a process.
pub fn image(appliance: &str) -> PathBuf {
    image_with(appliance, Profile::Release)
}

/// The image of an appliance in a given profile.
///
/// # Panics
/// If it does not build.
pub fn image_with(appliance: &str, profile: Profile) -> PathBuf {
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    built
        .entry((appliance.to_owned(), profile))
        .or_insert_with(|| build(appliance, profile))
        .clone()
}

fn build(appliance: &str, profile: Profile) -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).args([
        "build",
        "--quiet",
        "--package",
        appliance,
        "--message-format",
        "json-render-diagnostics",
    ]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    let done = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(done.status.success(), "cargo could not build {appliance}");
    String::from_utf8_lossy(&done.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .unwrap_or_else(|| panic!("cargo built no executable of {appliance}"))
}
