//! The virtio drivers on QEMU's devices: the image `devices` drives them by the hypercalls alone.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rump_tests::frame::{FrameSocket, GUEST_MAC, ethernet};
use rump_tests::guest::{Boot, SOON};
use rump_tests::image::{Profile, image, image_with};
use rump_tests::namespace::Namespace;
use rump_tests::random::Random;
use rump_tests::{scratch, setup};

const DISK_BYTES: u64 = 16 << 20;
/// Where the image writes its pattern, and how much.
const PATTERN_START: u64 = 1 << 20;
const PATTERN_BYTES: usize = 4 << 20;

/// The EtherType for experiments, which the image sends back.
const EXPERIMENT: u16 = 0x88b5;
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// An empty disk of the test's own.
fn disk(name: &str) -> PathBuf {
    let path = scratch("devices").join(name);
    let file = File::create(&path).expect("a file under target");
    file.set_len(DISK_BYTES).expect("room");
    path
}

/// Switches a property of every virtio device.
fn all_devices<'a>(boot: Boot<'a>, properties: &[&str]) -> Boot<'a> {
    properties.iter().fold(boot, |boot, property| {
        boot.qemu_arg("-global")
            .qemu_arg(&format!("virtio-device.{property}"))
    })
}

#[test]
fn what_the_guest_writes_is_on_the_disk() {
    for machine in ["q35", "pc"] {
        let disk = disk(&format!("pattern-{machine}"));
        let mut guest = Boot::new(image("devices"))
            .machine(machine)
            .disk(&disk)
            .keeping_writes()
            .without_network()
            .append("disk refuse")
            .start();
        assert_eq!(guest.exit_status(SOON), 0, "{}", guest.console());
        guest.wait_for("virtio0 at pci0 dev", SOON);
        let mut file = File::open(&disk).expect("the disk");
        file.seek(SeekFrom::Start(PATTERN_START)).expect("a seek");
        let mut bytes = vec![0; PATTERN_BYTES];
        file.read_exact(&mut bytes).expect("the pattern");
        for (word, index) in bytes.chunks_exact(8).zip(1u64..) {
            let expected = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            assert_eq!(word, expected.to_le_bytes(), "word {index} on {machine}");
        }
    }
}

#[test]
fn a_disk_works_without_indirect_descriptors_and_event_indices() {
    for properties in [
        &["indirect_desc=off"][..],
        &["event_idx=off"],
        &["indirect_desc=off", "event_idx=off"],
    ] {
        let boot = Boot::new(image_with("devices", Profile::Dev))
            .disk(disk("plain"))
            .append("disk refuse");
        let mut guest = all_devices(boot, properties).start();
        guest.wait_for("written and read back", SOON);
        assert_eq!(guest.exit_status(SOON), 0, "{properties:?}");
    }
}

#[test]
fn a_disk_works_with_a_short_queue() {
    for size in ["queue-size=4", "queue-size=16"] {
        let mut guest = Boot::new(image("devices"))
            .disk(disk("short"))
            .append("disk refuse")
            .qemu_arg("-global")
            .qemu_arg(&format!("virtio-blk-device.{size}"))
            .start();
        guest.wait_for("written and read back", SOON);
        assert_eq!(guest.exit_status(SOON), 0, "{size}");
    }
}

/// A disk by QEMU's own words, on a device with these properties.
fn drive<'a>(boot: Boot<'a>, drive: &str, device: &str) -> Boot<'a> {
    boot.qemu_arg("-drive")
        .qemu_arg(&format!("if=none,id=own,{drive}"))
        .qemu_arg("-device")
        .qemu_arg(&format!("virtio-blk-pci,drive=own{device}"))
}

#[test]
fn a_read_only_disk_refuses_to_be_written() {
    let path = disk("read-only");
    let boot = Boot::new(image("devices")).append("refuse");
    let file = format!("format=raw,read-only=on,file={}", path.display());
    let mut guest = drive(boot, &file, "").start();
    guest.wait_for("a write answers Err(EROFS", SOON);
    assert_eq!(guest.exit_status(SOON), 0);
}

#[test]
fn discarded_sectors_leave_the_disks_file() {
    let path = disk("discard");
    let boot = Boot::new(image("devices"))
        .keeping_writes()
        .append("disk discard");
    let file = format!("format=raw,discard=unmap,file={}", path.display());
    let mut guest = drive(boot, &file, "").start();
    guest.wait_for("8192 sectors discarded", SOON);
    assert_eq!(guest.exit_status(SOON), 0);
    let mut file = File::open(&path).expect("the disk");
    file.seek(SeekFrom::Start(PATTERN_START)).expect("a seek");
    let mut bytes = vec![1; PATTERN_BYTES];
    file.read_exact(&mut bytes).expect("where the pattern was");
    // What is read there now is undefined; a file with a hole reads zeroes, one that cannot have any keeps it all.
    let zeroes = bytes.iter().filter(|&&byte| byte == 0).count();
    let kept = zeroes < PATTERN_BYTES / 64;
    assert!(zeroes == PATTERN_BYTES || kept, "{zeroes} bytes are zero");
}

#[test]
fn a_read_error_of_the_disk_reaches_the_caller() {
    let path = disk("bad");
    let rules = scratch("devices").join("bad.rules");
    std::fs::write(
        &rules,
        "[inject-error]\nevent = \"read_aio\"\nerrno = \"5\"\nsector = \"3000\"\n",
    )
    .expect("a file under target");
    // A snapshot would keep what was written away from the bad sector.
    let boot = Boot::new(image("devices")).keeping_writes().append("disk");
    let file = format!(
        "format=raw,rerror=report,file=blkdebug:{}:{}",
        rules.display(),
        path.display()
    );
    let mut guest = drive(boot, &file, "").start();
    guest.wait_for("main: Input/output error", SOON);
    assert_ne!(guest.exit_status(SOON), 0);
}

#[test]
fn a_legacy_device_is_named_and_left_alone() {
    let path = disk("legacy");
    let boot = Boot::new(image("devices")).append("disk");
    let file = format!("format=raw,file={}", path.display());
    let legacy = ",disable-modern=on,disable-legacy=off";
    let mut guest = drive(boot, &file, legacy).start();
    guest.wait_for("main: Device not configured", SOON);
    assert!(guest.line_with("common configuration").is_some());
    assert_ne!(guest.exit_status(SOON), 0);
}

#[test]
fn a_machine_without_rdrand_has_the_entropy_device() {
    let boot = Boot::new(image("devices")).append("random");
    let mut guest = boot.qemu_arg("-cpu").qemu_arg("qemu64").start();
    guest.wait_for("no random numbers", SOON);
    guest.wait_for("random: [", SOON);
    assert_eq!(guest.exit_status(SOON), 0);
}

/// Sends frames of all lengths in bursts and expects each back, then ends the guest.
fn echoes(properties: &[&str], burst: usize) {
    let namespace = Namespace::new();
    let boot = Boot::new(image("devices"))
        .append("echo")
        .on_tap(&namespace);
    let mut guest = all_devices(boot, properties).start();
    guest.wait_for("card: ready", SOON);
    let socket = FrameSocket::open(&namespace).expect("a packet socket");
    let mut random = Random::new(burst as u64);
    let mut sent = 0;
    while sent < 600 {
        let frames: Vec<Vec<u8>> = (0..burst)
            .map(|_| {
                let len = 46 + random.below(1500 - 46 + 1);
                ethernet(GUEST_MAC, OUR_MAC, EXPERIMENT, &random.bytes(len))
            })
            .collect();
        for frame in &frames {
            socket.send(frame).expect("a frame sent");
        }
        for frame in &frames {
            let back = next_back(&socket).expect("every frame comes back");
            assert_eq!(back[..6], OUR_MAC);
            assert_eq!(back[6..12], GUEST_MAC);
            assert_eq!(back[12..], frame[12..], "{properties:?}");
        }
        sent += burst;
    }
    let quit = ethernet(
        GUEST_MAC,
        OUR_MAC,
        EXPERIMENT,
        &[b"quit".as_slice(), &[0; 42]].concat(),
    );
    socket.send(&quit).expect("a frame sent");
    assert_eq!(guest.exit_status(SOON), 0, "{}", guest.console());
}

/// The next frame that the guest sent.
fn next_back(socket: &FrameSocket) -> Option<Vec<u8>> {
    loop {
        let frame = socket.receive(Duration::from_secs(10)).expect("a socket")?;
        if frame[6..12] == GUEST_MAC {
            return Some(frame);
        }
    }
}

#[test]
fn frames_come_back_whole_and_in_order() {
    echoes(&[], 1);
    echoes(&[], 40);
}

#[test]
fn frames_come_back_without_what_may_be_negotiated() {
    echoes(&["event_idx=off", "indirect_desc=off"], 20);
}

#[test]
fn a_long_tcp_segment_is_cut_by_the_card() {
    let namespace = Namespace::new();
    let socket = FrameSocket::open(&namespace).expect("a packet socket");
    let boot = Boot::new(image("devices")).append("segment");
    let mut guest = boot.on_tap(&namespace).start();
    guest.wait_for("card: sent a segment of 20000 bytes", SOON);
    assert_eq!(guest.exit_status(SOON), 0);
    // The tap device hands the segment on whole, or in packets, as the receiver likes: all bytes come either way.
    let mut payload = Vec::new();
    while payload.len() < 20_000 {
        let frame = next_back(&socket).expect("a frame with TCP in it");
        if frame[12..14] == [8, 0] && frame[23] == 6 {
            payload.extend_from_slice(&frame[54..]);
        }
    }
    assert!(
        payload
            .iter()
            .zip(0u32..)
            .all(|(&byte, index)| byte == index as u8)
    );
}

#[test]
fn a_microvm_has_its_devices_where_the_command_line_says() {
    setup::need(&[]);
    let disk = format!(
        "if=none,format=raw,id=own,file={}",
        disk("microvm").display()
    );
    let done = Command::new("timeout")
        .args(["60", "qemu-system-x86_64", "-machine", "microvm,acpi=off"])
        .args([
            "-cpu",
            "max",
            "-m",
            "16",
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args([
            "-serial",
            "stdio",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=4",
        ])
        .args(["-global", "virtio-mmio.force-legacy=false", "-drive", &disk])
        .args([
            "-device",
            "virtio-blk-device,drive=own",
            "-append",
            "disk refuse",
            "-kernel",
        ])
        .arg(image("devices"))
        .stdin(Stdio::null())
        .output()
        .expect("timeout runs");
    let console = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(1), "{console}");
    assert!(
        console.contains("virtio0 at mainbus0 addr 0xfeb"),
        "{console}"
    );
    assert!(console.contains("written and read back"), "{console}");
}
