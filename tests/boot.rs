//! The smallest appliance: it boots on every machine, in little memory, in both profiles, and ends as it should.

use std::time::Duration;

use rump_tests::guest::{Boot, SOON};
use rump_tests::image::{Profile, image, image_with};

#[test]
fn hello_says_hello_and_powers_off() {
    for machine in ["q35", "pc"] {
        let mut guest = Boot::new(image("hello")).machine(machine).start();
        guest.wait_for("Hello", SOON);
        assert_eq!(guest.exit_status(SOON), 0, "{machine}");
    }
}

#[test]
fn hello_boots_with_the_checks_of_a_debug_build() {
    let mut guest = Boot::new(image_with("hello", Profile::Dev)).start();
    guest.wait_for("Hello", SOON);
    assert_eq!(guest.exit_status(SOON), 0);
}

#[test]
fn hello_boots_in_8_mib_and_in_5_gib() {
    for memory in ["8", "5G"] {
        let mut guest = Boot::new(image("hello")).memory(memory).start();
        guest.wait_for("Hello", SOON);
        assert_eq!(guest.exit_status(SOON), 0, "{memory}");
    }
}

#[test]
fn hello_boots_without_any_device() {
    let mut guest = Boot::new(image("hello"))
        .without_network()
        .limit(Duration::from_secs(30))
        .start();
    guest.wait_for("Hello", SOON);
    assert_eq!(guest.exit_status(SOON), 0);
}
