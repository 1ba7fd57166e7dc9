//! The kernel's command line and what the boot log says.

use std::time::Duration;

use rump_tests::guest::{Boot, SOON};

use crate::{assert_sane, fileserver, small_disk};

#[test]
fn it_boots_on_both_machines() {
    let disk = small_disk();
    for machine in ["q35", "pc"] {
        let guest = Boot::new(fileserver())
            .machine(machine)
            .disk(&disk.image)
            .start()
            .serving();
        assert_eq!(guest.get("/1k.bin").body.len(), 1024, "{machine}");
        assert_sane(&guest);
    }
}

#[test]
fn the_boot_log_names_devices_as_autoconf_does() {
    let disk = small_disk();
    let sectors = std::fs::metadata(&disk.image).expect("the image").len() / 512;
    let mut guest = Boot::new(fileserver()).disk(&disk.image).start().serving();
    for words in [
        "block device",
        "network device",
        &format!("512 bytes/sector x {sectors} sectors"),
    ] {
        let line = guest.wait_for(words, Duration::from_secs(1));
        assert!(line.starts_with('[') && line.contains(" at "), "{line}");
    }
    for device in ["ld0 at virtio", "at pci0 dev "] {
        guest.wait_for(device, Duration::from_secs(1));
    }
}

#[test]
fn what_the_command_line_says_wrongly_is_said_and_boot_goes_on() {
    let disk = small_disk();
    let mut guest = Boot::new(fileserver())
        .disk(&disk.image)
        .append("colour=blue loglevel=purple")
        .start()
        .serving();
    let unknown = guest.wait_for("colour", SOON);
    for known in ["memlimit", "mount", "ip", "hostname", "loglevel"] {
        assert!(
            guest.console().contains(known),
            "{known} is not listed: {unknown}"
        );
    }
    guest.wait_for("purple", SOON);
    assert_eq!(guest.get("/1k.bin").status, 200);
}

#[test]
fn a_disk_can_be_mounted_by_name_and_type() {
    let disk = small_disk();
    for append in ["mount=ld0:/:ffs", "mount=ld0:/", "mount=ld0:/:ffs:ro"] {
        let guest = Boot::new(fileserver())
            .disk(&disk.image)
            .append(append)
            .start()
            .serving();
        assert_eq!(guest.get("/1k.bin").status, 200, "{append}");
    }
}

#[test]
fn a_memory_limit_is_kept_to() {
    let disk = small_disk();
    let guest = Boot::new(fileserver())
        .disk(&disk.image)
        .append("memlimit=2m")
        .start()
        .serving();
    assert_eq!(guest.get("/100k.bin").body.len(), 100 << 10);
    assert_sane(&guest);
}

#[test]
fn the_console_answers_and_halts() {
    let disk = small_disk();
    let mut guest = Boot::new(fileserver()).disk(&disk.image).start().serving();
    for (typed, answer) in [
        ("help", "halt"),
        ("vmstat", "free "),
        ("nonsense", "try help"),
    ] {
        guest.type_text(&format!("{typed}\n"));
        guest.wait_for(answer, SOON);
    }
    guest.type_text("halt\n");
    assert_eq!(guest.exit_status(SOON), 0);
    assert_sane(&guest);
}

#[test]
fn the_image_is_small() {
    let size = std::fs::metadata(fileserver()).expect("the image").len();
    assert!(size < 1_500_000, "{size} bytes");
}
