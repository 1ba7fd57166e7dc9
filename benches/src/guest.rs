//! The two guests, behind the same QEMU line: only what is booted, and how its disk is laid out, differ.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rump_tests::disk::{Disk, Format};
use rump_tests::guest::GUEST_ADDRESS;
use rump_tests::namespace::Namespace;
use rump_tests::{image, random, root, scratch, setup};

/// What is on both disks, by name and length.
pub const FILES: [(&str, usize); 2] = [(SMALL, 1024), (LARGE, 64 << 20)];
/// The file of 1 KiB.
pub const SMALL: &str = "1k.bin";
/// The file of 64 MiB.
pub const LARGE: &str = "64m.bin";

/// Which guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Our appliance.
    Rump,
    /// Debian's kernel with nginx.
    Linux,
}

/// What a guest is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Serve the files on its disk.
    Serve,
    /// Read its disk, say how long that took, and end.
    ReadRaw,
    /// Make, read and remove files on `disk`, say how long that took, and end. Of its memory our guest uses no more
    /// than `memlimit`.
    Files {
        /// The disk.
        disk: PathBuf,
        /// As the kernel's command line has it.
        memlimit: Option<&'static str>,
        /// Our guest keeps a log.
        log: bool,
    },
}

/// All that both guests need, made once.
pub struct Kit {
    namespace: Namespace,
    folder: PathBuf,
    fileserver: PathBuf,
    rawread: PathBuf,
    files: PathBuf,
    ffs: Disk,
    accel: &'static str,
}

impl Kit {
    /// Builds both guests and their disks, and the network between them and us.
    pub fn make() -> Result<Self> {
        ensure!(
            setup::is_root(),
            "measuring needs a tap device, and that needs root"
        );
        setup::need(&["makefs", "mke2fs", "cpio", "nginx", "wrk", "ip", "xz"]);
        let folder = scratch("benches");
        println!("building our guest …");
        let fileserver = image::image("fileserver");
        let rawread = image::image("rawread");
        let files = image::image("files");
        let ffs = Disk::of(
            Format {
                version: 2,
                big_endian: false,
                block: 32_768,
                fragment: 4096,
            },
            fill,
        );
        println!("building the Linux guest …");
        build_linux(&folder)?;
        let namespace = Namespace::new();
        // The first packet to the guest must not wait for an answer to an ARP request that was sent before it ran.
        let guest = GUEST_ADDRESS.to_string();
        namespace.ip(&[
            "neigh",
            "replace",
            &guest,
            "lladdr",
            "52:54:00:12:34:56",
            "dev",
            Namespace::TAP,
            "nud",
            "permanent",
        ]);
        let accel = if kvm_works() { "kvm" } else { "tcg" };
        Ok(Self {
            namespace,
            folder,
            fileserver,
            rawread,
            files,
            ffs,
            accel,
        })
    }

    /// The namespace on the other end of the guest's link.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// QEMU's accelerator.
    pub fn accel(&self) -> &str {
        self.accel
    }

    /// Starts a guest with `memory` KiB, to do `job`.
    pub fn start(&self, kind: Kind, memory: u32, job: Job) -> Result<Guest> {
        let console = self.folder.join(format!("{kind:?}.console"));
        fs::write(&console, "")?;
        let mut qemu = self.namespace.command(Path::new("qemu-system-x86_64"));
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        qemu.args([
            "-machine",
            "q35",
            // As run-qemu.sh has it for ours.
            "-smp",
            "1,maxcpus=2",
            "-accel",
            self.accel,
            "-cpu",
            "max",
            "-m",
            &format!("{memory}K"),
        ]);
        if self.accel == "tcg" {
            // As `run-qemu.sh` has it, and why: one that may not have a second one loses a device's notification now and then.
            qemu.args(["-smp", "1,maxcpus=2"]);
        }
        qemu.arg("-serial")
            .arg(format!("file:{}", console.display()));
        qemu.args([
            "-object",
            "rng-random,id=rng0,filename=/dev/urandom",
            "-device",
            "virtio-rng-pci,rng=rng0",
        ]);
        qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        qemu.args(["-netdev", "tap,id=net0,ifname=tap0,script=no,downscript=no"]);
        qemu.args([
            "-device",
            "virtio-net-pci,netdev=net0,mac=52:54:00:12:34:56,romfile=",
        ]);
        let disk = match kind {
            Kind::Rump => {
                let image = match job {
                    Job::Serve => &self.fileserver,
                    Job::ReadRaw => &self.rawread,
                    Job::Files { .. } => &self.files,
                };
                let append = match job {
                    Job::Files { memlimit, log, .. } => {
                        let limit = memlimit.map(|limit| format!("memlimit={limit} "));
                        let log = if log { "mount=ld0:/:ffs:log" } else { "" };
                        limit.unwrap_or_default() + log
                    }
                    _ => format!("ip={GUEST_ADDRESS}/24"),
                };
                qemu.arg("-kernel").arg(image).args(["-append", &append]);
                self.ffs.image.clone()
            }
            Kind::Linux => {
                let words = match job {
                    Job::Serve => "",
                    Job::ReadRaw => "rawread",
                    Job::Files { .. } => "workfiles",
                };
                let append = format!("console=ttyS0 quiet panic=-1 mitigations=off {words}");
                qemu.arg("-kernel")
                    .arg(self.folder.join("vmlinuz"))
                    .arg("-initrd")
                    .arg(self.folder.join("initrd.gz"));
                qemu.args(["-append", &append]);
                self.folder.join("disk.ext4")
            }
        };
        let disk = match job {
            Job::Files { disk, .. } => disk,
            Job::Serve | Job::ReadRaw => disk,
        };
        qemu.arg("-drive").arg(format!(
            "if=none,id=disk0,file={},format=raw,cache=none,aio=threads",
            disk.display()
        ));
        qemu.args(["-device", "virtio-blk-pci,drive=disk0"]);
        let errors = File::create(self.folder.join("qemu.errors"))?;
        let started = Instant::now();
        let child = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .context("starting QEMU")?;
        Ok(Guest {
            child,
            console,
            started,
        })
    }
}

/// A running guest; dropping it ends it.
pub struct Guest {
    child: Child,
    console: PathBuf,
    /// When QEMU was started.
    pub started: Instant,
}

impl Guest {
    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// What it has printed.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        while self.is_running()? {
            if Instant::now() > deadline {
                bail!("the guest did not end; its console:\n{}", self.console());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fill(folder: &Path) {
    for (name, size) in FILES {
        fs::write(
            folder.join(name),
            random::Random::new(size as u64).bytes(size),
        )
        .expect("a file under target");
    }
}

fn build_linux(folder: &Path) -> Result<()> {
    let data = folder.join("data");
    fs::create_dir_all(&data)?;
    fill(&data);
    let done = Command::new(root().join("benches/linux-guest.sh"))
        .arg(folder)
        .arg(&data)
        .arg(std::env::current_exe()?)
        .status()?;
    ensure!(done.success(), "linux-guest.sh failed");
    Ok(())
}

/// The rule of `run-qemu.sh`.
fn kvm_works() -> bool {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = processor
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm");
    has && File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}
