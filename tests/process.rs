//! The file server as a Linux process: the components of the image on a tap device and on a block device of the host's, and curl at the
//! other end. Only root has such devices.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use rump::{Component, Config, Kernel};
use rump_tests::disk::{Format, write_random};
use rump_tests::guest::GUEST_ADDRESS;
use rump_tests::namespace::Namespace;
use rump_tests::{say, scratch, setup, volume};
use rumpuser::Errno;
use rumpuser_hosted::{FileDisk, Host, Tap};

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpnet::COMPONENT,
    &rumpnet_netinet::COMPONENT,
    &rumpnet_netinet::CONFIG_COMPONENT,
    &rumpnet_net::LOOPBACK_COMPONENT,
    &rumpnet_virtif::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];

/// A loop device on a file; dropping it detaches it.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn on(file: &Path) -> Option<Self> {
        setup::need(&["losetup"]);
        let made = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output();
        let made = made.expect("losetup runs");
        let name = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        if !made.status.success() {
            say(&format!(
                "no loop device ({}): a file takes its place",
                String::from_utf8_lossy(&made.stderr).trim()
            ));
            return None;
        }
        Some(Self(name.into()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

/// curl in the namespace; what it wrote to its standard output.
fn curl(namespace: &Namespace, args: &[&str]) -> String {
    let mut command = namespace.command(Path::new("curl"));
    command.args(["--silent", "--show-error", "--max-time", "60"]);
    let done = command.args(args).output().expect("curl runs");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "curl {args:?}: {said}");
    String::from_utf8(done.stdout).expect("UTF-8")
}

#[test]
fn a_process_on_a_tap_device_and_a_block_device_serves_what_curl_puts() {
    if !setup::is_root() {
        return;
    }
    setup::need(&["curl"]);
    let folder = scratch("process");
    let image = folder.join("image.ffs");
    volume::make(&image, Format::UFS2, 64 << 20);
    let device = LoopDevice::on(&image);
    let path = device.as_ref().map_or(&image, |device| &device.0);
    let namespace = Namespace::new();
    assert_eq!(
        Tap::open("a-name-of-16-byte", MAC).err(),
        Some(Errno::EINVAL)
    );
    // The device is that of the namespace in which it is opened.
    let tap = namespace
        .enter(|| Tap::open(Namespace::TAP, MAC))
        .expect("a tap device");
    let disk = FileDisk::open(path, false).expect("a disk");
    Host::builder()
        .memory(8 << 20)
        .command_line(format!(
            "ip={GUEST_ADDRESS}/24,{} mount=ld0:/",
            Namespace::HOST_ADDRESS
        ))
        .block_device(disk)
        .packet_device(tap)
        .install()
        .expect("the only host");
    let kernel = Kernel::boot(Config::from_host(), COMPONENTS).expect("a kernel");
    let (ended, end) = channel();
    let of_server = kernel.clone();
    std::thread::spawn(move || {
        // It returns when it cannot serve.
        let _ = ended.send(httpd::serve(&of_server));
    });
    let url = |name: &str| format!("http://{GUEST_ADDRESS}/{name}");
    let of_ours = folder.join("ours");
    write_random(&of_ours, 20 << 20);
    let ours = of_ours.to_str().expect("UTF-8");
    let status = ["--write-out", "%{http_code}"];
    let put = ["--retry", "20", "--retry-connrefused", "--retry-delay", "1"];
    let there = url("there");
    let said = curl(
        &namespace,
        &[&put[..], &status, &["--upload-file", ours, &there]].concat(),
    );
    assert_eq!(said.trim(), "201");
    let theirs = folder.join("theirs");
    let back = theirs.to_str().expect("UTF-8");
    curl(&namespace, &["--output", back, &there]);
    let same = fs::read(&of_ours).expect("ours") == fs::read(&theirs).expect("theirs");
    assert!(same, "other bytes came back");
    assert_eq!(
        curl(
            &namespace,
            &[&status[..], &["--request", "DELETE", &there]].concat()
        )
        .trim(),
        "204"
    );
    assert!(
        end.recv_timeout(Duration::ZERO).is_err(),
        "the server ended"
    );
    // What was answered is on the device: another reader of it finds a volume.
    let process = kernel.attach("unmount").expect("a process");
    rump::sys::sync().expect("stable");
    drop(process);
    File::open(path)
        .and_then(|device| device.sync_all())
        .expect("the device");
    volume::assert_consistent(&image);
}
