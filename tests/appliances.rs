//! The unit tests of the appliances' libraries. `cargo test` leaves the appliances out, since their images must not share a cargo invocation
//! with what links `std`; so they get one of their own.

use std::process::{Command, Stdio};

use rump_tests::root;

#[test]
fn the_appliances_own_tests_pass() {
    let appliances =
        std::fs::read_dir(root().join("appliances")).expect("the folder of appliances");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).args(["test", "--quiet", "--lib"]);
    let mut with_library = 0;
    for appliance in appliances.map(|entry| entry.expect("an entry")) {
        if appliance.path().join("src/lib.rs").exists() {
            cargo.arg("--package").arg(appliance.file_name());
            with_library += 1;
        }
    }
    assert!(with_library > 0, "no appliance has a library");
    let done = cargo.stdin(Stdio::null()).output().expect("cargo runs");
    println!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(done.status.success());
}
