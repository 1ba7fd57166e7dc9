//! The driver `ufs` of Linux, read-only, in a guest of Debian's kernel and busybox: it packs the volume's files into a `tar` on a
//! second disk, which is unpacked here.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rumpfs_ffs::superblock::Format;

use crate::guest::Slot;
use crate::tree::Tree;
use crate::{scratch, setup};

/// In the order in which they can be loaded; of what a kernel has built in there is no file.
const MODULES: [&str; 7] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "ufs",
];

/// Its last words, if all went well.
const DONE: &str = "tar ended with status 0";

/// Seconds that a guest may take.
const LONGEST: &str = "300";

/// Room for the archive beside the image's own length: heads of files, and holes, which it has in full.
const ARCHIVE_ROOM: u64 = 4 << 30;

/// Whether Debian's packages can be had; says so where not.
pub(super) fn is_possible() -> bool {
    let is_possible = kernel_package().is_some();
    if !is_possible {
        crate::say("no package linux-image-amd64: Linux reads nothing");
    }
    is_possible
}

/// The name of the package that Debian's newest kernel for this machine is in.
fn kernel_package() -> Option<String> {
    let output = Command::new("apt-cache")
        .args(["depends", "linux-image-amd64"])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    names
        .find(|name| name.starts_with("linux-image"))
        .map(str::to_owned)
}

/// A guest's kernel and its first file system.
struct Parts {
    kernel: PathBuf,
    initrd: PathBuf,
}

pub fn tree(image: &Path, format: Format) -> Result<Tree> {
    let parts = parts()?;
    let folder = tempfile::tempdir_in(scratch("linux"))?;
    let archive = folder.path().join("archive.tar");
    let room = fs::metadata(image)?.len() + ARCHIVE_ROOM;
    File::create(&archive)?.set_len(room)?;
    let console = run(&parts, image, &archive, format)?;
    ensure!(console.contains(DONE), "{console}");
    let files = folder.path().join("files");
    fs::create_dir(&files)?;
    let unpacked = Command::new("tar")
        .arg("-xf")
        .arg(&archive)
        .arg("-C")
        .arg(&files)
        .output()?;
    let errors = String::from_utf8_lossy(&unpacked.stderr);
    ensure!(unpacked.status.success(), "tar: {errors}");
    Tree::of_folder(&files)
}

/// As `run-qemu.sh` chooses it: there may be a /dev/kvm where no guest can run.
fn accelerator() -> &'static str {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_guests = processor
        .split_whitespace()
        .any(|flag| matches!(flag, "vmx" | "svm"));
    let may = File::options().write(true).open("/dev/kvm").is_ok();
    if has_guests && may { "kvm" } else { "tcg" }
}

/// Boots the guest with both disks; answers its console.
fn run(parts: &Parts, image: &Path, archive: &Path, format: Format) -> Result<String> {
    setup::need(&[]);
    // Linux's names for these formats (Documentation/admin-guide/ufs.rst).
    let ufstype = match format {
        Format::Ufs2 => "ufs2",
        _ => "44bsd",
    };
    // A machine that is busy may be too late for Linux's test of the timer, which it takes for broken then: no_timer_check
    // (Documentation/admin-guide/kernel-parameters.txt).
    let words = format!("console=ttyS0 quiet panic=-1 no_timer_check ufstype={ufstype}");
    let _slot = Slot::take();
    let mut qemu = Command::new("timeout");
    qemu.args(["--kill-after=5", LONGEST, "qemu-system-x86_64"])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-accel", accelerator(), "-cpu", "max", "-m", "256"])
        // As in run-qemu.sh.
        .args(["-smp", "1,maxcpus=2"])
        .args(["-no-reboot", "-serial", "stdio", "-kernel"])
        .arg(&parts.kernel)
        .arg("-initrd")
        .arg(&parts.initrd)
        .arg("-append")
        .arg(words);
    for (id, file, read_only) in [("volume", image, "on"), ("archive", archive, "off")] {
        // QEMU takes a comma for the end of a value, unless it is written twice.
        let file = file.display().to_string().replace(',', ",,");
        let drive = format!("if=none,id={id},file={file},format=raw,read-only={read_only}");
        qemu.args(["-drive", &drive, "-device"]);
        qemu.arg(format!("virtio-blk-pci,drive={id}"));
    }
    let output = qemu.stdin(Stdio::null()).output()?;
    let mut console = String::from_utf8_lossy(&output.stdout).into_owned();
    console.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(console)
}

/// Fetches Debian's kernel and busybox, without installing them, and makes an initramfs of what is needed; once.
fn parts() -> Result<Parts> {
    let kept = scratch("linux");
    let parts = Parts {
        kernel: kept.join("vmlinuz"),
        initrd: kept.join("initrd"),
    };
    let lock = File::create(kept.join("lock"))?;
    lock.lock()?;
    if parts.initrd.exists() {
        return Ok(parts);
    }
    let folder = tempfile::tempdir_in(&kept)?;
    let files = fetched(folder.path())?;
    let kernel = found(&files, |name| name.starts_with("vmlinuz-")).context("no vmlinuz")?;
    fs::copy(kernel, &parts.kernel)?;
    let initrd = folder.path().join("initrd");
    write_initrd(&files, &initrd)?;
    fs::rename(initrd, &parts.initrd)?;
    Ok(parts)
}

/// The packages' files, below `folder`.
fn fetched(folder: &Path) -> Result<PathBuf> {
    let kernel = kernel_package().context("no package linux-image-amd64")?;
    let download = || {
        Command::new("apt-get")
            .args(["-q", "download", &kernel, "busybox-static"])
            .current_dir(folder)
            .output()
    };
    let mut done = download()?;
    if !done.status.success() {
        // What this machine knows of the packages may be older than what there is.
        Command::new("apt-get").args(["-q", "update"]).output()?;
        done = download()?;
    }
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "apt-get download: {errors}");
    let files = folder.join("files");
    for entry in fs::read_dir(folder)? {
        let package = entry?.path();
        if package.extension().is_some_and(|ending| ending == "deb") {
            let unpacked = Command::new("dpkg")
                .arg("-x")
                .arg(&package)
                .arg(&files)
                .status()?;
            ensure!(unpacked.success(), "dpkg -x {}", package.display());
        }
    }
    Ok(files)
}

/// The first file below `folder` whose name is wanted.
fn found(folder: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let kind = entry.file_type().ok()?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() && wanted(&entry.file_name().to_string_lossy()) {
                return Some(entry.path());
            }
        }
    }
    None
}

/// What the guest does.
fn init() -> String {
    let modules = MODULES.join(" ");
    format!(
        "#!/bin/busybox sh\n\
         B=/bin/busybox\n\
         $B mount -t devtmpfs d /dev; $B mount -t proc p /proc\n\
         for m in {modules}; do [ ! -f /modules/$m.ko ] || $B insmod /modules/$m.ko; done\n\
         t=$($B sed 's/.*ufstype=//; s/ .*//' /proc/cmdline)\n\
         if $B mount -t ufs -o ro,ufstype=$t /dev/vda /mnt; then\n\
         \x20 cd /mnt && $B tar cf /dev/vdb .; $B echo \"tar ended with status $?\"\n\
         fi\n\
         $B sync; $B poweroff -f\n"
    )
}

/// Writes an initramfs (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
fn write_initrd(files: &Path, to: &Path) -> Result<()> {
    let mut archive = Vec::new();
    for folder in ["bin", "dev", "proc", "mnt", "modules"] {
        add(&mut archive, folder, 0o040_755, b"");
    }
    let busybox = found(files, |name| name == "busybox").context("no busybox")?;
    add(&mut archive, "bin/busybox", 0o100_755, &fs::read(busybox)?);
    add(&mut archive, "init", 0o100_755, init().as_bytes());
    for module in MODULES {
        let name = format!("{module}.ko");
        if let Some(file) = found(files, |other| other == name) {
            let path = format!("modules/{name}");
            add(&mut archive, &path, 0o100_644, &fs::read(file)?);
        }
    }
    add(&mut archive, "TRAILER!!!", 0, b"");
    File::create(to)?.write_all(&archive)?;
    Ok(())
}

/// Adds a file in the form "newc": a head of hexadecimal numbers, the name, the bytes, each filled up to a multiple of four.
fn add(archive: &mut Vec<u8>, name: &str, mode: u32, bytes: &[u8]) {
    let ino = archive.len();
    let size = bytes.len();
    let name_size = name.len() + 1;
    // Magic, inode, mode, uid, gid, nlink, mtime, size, device, special device, name, checksum.
    let head = format!(
        "070701{ino:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
        0, 1
    );
    for part in [&[head.as_bytes(), name.as_bytes(), b"\0"].concat(), bytes] {
        archive.extend_from_slice(part);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
}
