//! The machine and the host of bare metal, tested from inside by an image made for that; and how they report what ends them.

use std::time::{Duration, Instant};

use rump_tests::guest::{Boot, Guest, SOON};
use rump_tests::image::{Profile, image, image_with};

/// The exit statuses of `platform_x86_64::exit`.
const PANICKED: i32 = 101;
const EXCEPTION: i32 = 102;

fn boot(words: &str) -> Guest {
    Boot::new(image("selftest")).append(words).start()
}

#[test]
fn every_check_passes_on_both_machines_and_in_both_profiles() {
    for (profile, machine) in [
        (Profile::Release, "q35"),
        (Profile::Release, "pc"),
        (Profile::Dev, "q35"),
    ] {
        let mut guest = Boot::new(image_with("selftest", profile))
            .machine(machine)
            .start();
        guest.wait_for("all checks passed", SOON);
        assert_eq!(guest.exit_status(SOON), 0, "{profile:?}, {machine}");
    }
}

#[test]
fn every_check_passes_in_8_mib() {
    let mut guest = Boot::new(image("selftest")).memory("8").start();
    guest.wait_for("all checks passed", SOON);
    assert_eq!(guest.exit_status(SOON), 0);
}

#[test]
fn an_exception_is_reported_with_its_cause_its_registers_and_named_callers() {
    for (name, cause) in [
        ("null", "null pointer"),
        ("unmapped", "not mapped"),
        ("text", "whose page is protected"),
        ("rodata", "whose page is protected"),
        ("execute-data", "whose page is not executable"),
        ("execute-ram", "whose page is not executable"),
        ("invalid", "invalid opcode"),
        ("divide", "divide error"),
        ("general", "general protection"),
        ("breakpoint", "breakpoint"),
        ("stack", "stack of thread \"main\" is full"),
        ("thread-stack", "stack of thread \"victim\" is full"),
    ] {
        let mut guest = boot(&format!("crash={name}"));
        assert_eq!(
            guest.exit_status(SOON),
            EXCEPTION,
            "{name}: {}",
            guest.console()
        );
        let report = guest.wait_for("fatal: exception", SOON);
        assert!(report.contains(cause), "{name}: {report}");
        for part in ["rip ", "rsp ", "cr2 ", "backtrace:"] {
            guest.wait_for(part, SOON);
        }
        // Who called: the image's own functions, by their names.
        guest.wait_for("selftest::", SOON);
        assert!(!guest.console().contains("survived"), "{name}");
    }
}

#[test]
fn a_panic_is_reported_with_its_place_and_named_callers() {
    for (name, words, caller) in [
        ("panic", "on purpose", "selftest::crash"),
        ("thread-panic", "in a thread", "threads::begin"),
    ] {
        let mut guest = boot(&format!("crash={name}"));
        assert_eq!(guest.exit_status(SOON), PANICKED, "{name}");
        guest.wait_for(words, SOON);
        guest.wait_for("panicked at tests/images/selftest/src/crash.rs", SOON);
        guest.wait_for(caller, SOON);
    }
}

#[test]
fn what_is_typed_arrives() {
    let mut guest = boot("echo");
    guest.wait_for("type", SOON);
    for word in ["hello", "a", "end"] {
        guest.type_text(&format!("{word}\n"));
        guest.wait_for(&format!("got {word}"), SOON);
    }
    assert_eq!(guest.exit_status(SOON), 0);
}

#[test]
fn an_idle_machine_leaves_the_host_alone() {
    let mut guest = boot("idle=8");
    guest.wait_for("idle", SOON);
    std::thread::sleep(Duration::from_secs(1));
    let (start, before) = (Instant::now(), guest.processor_time());
    std::thread::sleep(Duration::from_secs(5));
    let share = (guest.processor_time() - before).as_secs_f64() / start.elapsed().as_secs_f64();
    assert!(share < 0.02, "{:.1} % of a core", share * 100.0);
    guest.wait_for("done", SOON);
    assert_eq!(guest.exit_status(SOON), 0);
}
