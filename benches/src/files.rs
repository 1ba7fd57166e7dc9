//! Work on files: ten thousand small ones, a large one, a tree, an archive of this project's sources. What the Linux guest runs on its disk, and what measures both guests.
//!
//! Each phase that writes ends with a sync, so that both guests have put on the disk what they were given. *Cold* is after an unmount
//! and a mount. Both disks are volumes of 512 MiB with 4 KiB to a small file and nothing but the archive on them: ext4 with its journal, and UFS2.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rump_tests::{root, scratch, setup};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, sync, utimensat};
use rustix::mount::{self, MountFlags, UnmountFlags};

use crate::guest::{Job, Kind, Kit};
use crate::measure::PLENTY;
use crate::report::{Better, Row};
use crate::ustar::{self, Member};

/// The phases as both guests print them, and what a row calls them.
pub const PHASES: [(&str, &str); 10] = [
    ("create", "create 10,000 of 1 KiB, sync"),
    ("stat-warm", "stat 10,000, warm"),
    ("stat-cold", "stat 10,000, cold"),
    ("rename", "rename 10,000, sync"),
    ("delete", "delete 10,000, sync"),
    ("write", "write 64 MiB, sync"),
    ("read-warm", "read 64 MiB, warm"),
    ("read-cold", "read 64 MiB, cold"),
    ("copy", "copy 2,000 in 100, 20 MiB, sync"),
    ("untar", "untar sources four times, sync"),
];

const SMALL_FILES: u32 = 10_000;
const SMALL: usize = 1024;
const LARGE: usize = 64 << 20;
const PIECE: usize = 64 << 10;
const DIRECTORIES: u32 = 100;
const FILES_EACH: u32 = 20;
const UNPACKED: u32 = 4;

/// How long a guest may take for all of it.
const LIMIT: Duration = Duration::from_secs(300);

/// Phases that are one load together, as a row behind theirs has it.
const NAMES: [&str; 3] = ["create", "rename", "delete"];
const ALL_NAMES: &str = "create, rename, delete 10,000";

/// The rows of the table.
pub fn rows() -> Vec<Row> {
    let row = |name| Row::new(name, "s", Better::Less, Some(1.0));
    PHASES
        .map(|(_, name)| name)
        .into_iter()
        .chain([ALL_NAMES])
        .map(row)
        .collect()
}

/// The rows of our guest with a log beside itself without: of those that change many names, the log is to be five times as fast.
pub fn rows_of_log() -> Vec<Row> {
    let changes_names = |phase| NAMES.contains(&phase) || ["copy", "untar"].contains(&phase);
    let row =
        |(phase, name)| Row::new(name, "s", Better::Less, changes_names(phase).then_some(5.0));
    let together = Row::new(ALL_NAMES, "s", Better::Less, Some(5.0));
    PHASES.into_iter().map(row).chain([together]).collect()
}

/// Puts a run's seconds of each phase into the rows, as ours or as the other's.
pub fn add(rows: &mut [Row], seconds: &[f64], is_ours: bool) {
    for (row, number) in rows.iter_mut().zip(seconds) {
        match is_ours {
            true => row.ours.push(*number),
            false => row.theirs.push(*number),
        }
    }
}

/// The disks, which every run gets a copy of.
pub struct Disks {
    folder: PathBuf,
}

impl Disks {
    /// Makes both.
    pub fn make() -> Result<Self> {
        setup::need(&["makefs", "mke2fs", "tar"]);
        let folder = scratch("benches/files");
        let contents = folder.join("contents");
        fs::create_dir_all(&contents)?;
        // What git(1) would not have is not of the sources.
        let done = Command::new("tar")
            .args(["--format=ustar", "--sort=name", "--exclude=./.git"])
            .args(["--exclude=target", "--exclude=core.*", "-cf"])
            .arg(contents.join("source.tar"))
            .arg("-C")
            .arg(root())
            .arg(".")
            .output()?;
        ensure!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let path = format!(
            "{}:/usr/sbin:/sbin",
            std::env::var("PATH").unwrap_or_default()
        );
        let geometry = "version=2,bsize=32768,fsize=4096,density=16384";
        let done = Command::new("makefs")
            .env("PATH", &path)
            .args(["-t", "ffs", "-B", "le", "-s", "512m", "-o", geometry])
            .arg(folder.join("new.ffs"))
            .arg(&contents)
            .output()?;
        ensure!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let image = folder.join("new.ext4");
        let _ = fs::remove_file(&image);
        // What mke2fs would leave for the guest to do later.
        let all_now = "lazy_itable_init=0,lazy_journal_init=0";
        let done = Command::new("mke2fs")
            .env("PATH", &path)
            .args(["-q", "-t", "ext4", "-E", all_now, "-d"])
            .arg(&contents)
            .args([image.as_os_str(), "512M".as_ref()])
            .output()?;
        ensure!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(Self { folder })
    }

    /// A new disk for a guest.
    fn fresh(&self, kind: Kind) -> Result<PathBuf> {
        let from = match kind {
            Kind::Rump => "new.ffs",
            Kind::Linux => "new.ext4",
        };
        let disk = self.folder.join("disk");
        fs::copy(self.folder.join(from), &disk)?;
        Ok(disk)
    }
}

/// How our guest is to work on its files.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// The most memory that it may use, of what there is.
    pub memlimit: Option<&'static str>,
    /// It keeps a log; without one, it writes metadata in an order that a check can repair.
    pub log: bool,
}

/// Seconds of each phase, in the order of [`PHASES`]; then of the names together.
pub fn measure(
    kit: &Kit,
    disks: &Disks,
    kind: Kind,
    How { memlimit, log }: How,
) -> Result<Vec<f64>> {
    let disk = disks.fresh(kind)?;
    let job = Job::Files {
        disk,
        memlimit,
        log,
    };
    let mut guest = kit.start(kind, PLENTY, job)?;
    guest.wait(LIMIT)?;
    let console = guest.console();
    let of = |phase: &str| -> Result<f64> {
        let found = console
            .lines()
            .find_map(|line| line.split_once(&format!("phase {phase} ")));
        let (_, nanoseconds) =
            found.with_context(|| format!("no {phase:?} on the console:\n{console}"))?;
        Ok(nanoseconds.trim().parse::<f64>()? / 1e9)
    };
    let mut seconds = Vec::new();
    let mut of_names = 0.0;
    for (phase, _) in PHASES {
        let took = of(phase)?;
        of_names += if NAMES.contains(&phase) { took } else { 0.0 };
        seconds.push(took);
    }
    seconds.push(of_names);
    Ok(seconds)
}

/// The work on `device`, mounted on `folder`, as the Linux guest does it.
pub fn run(device: &Path, folder: &Path) -> Result<()> {
    let work = Work {
        device: device.to_owned(),
        folder: folder.to_owned(),
    };
    work.mount()?;
    work.small()?;
    work.large()?;
    work.tree()?;
    work.untar()
}

struct Work {
    device: PathBuf,
    folder: PathBuf,
}

fn phase(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    work()?;
    println!("phase {name} {}", start.elapsed().as_nanos());
    Ok(())
}

impl Work {
    fn mount(&self) -> Result<()> {
        let flags = MountFlags::empty();
        Ok(mount::mount(
            &self.device,
            &self.folder,
            "ext4",
            flags,
            None,
        )?)
    }

    /// Forgets all that is cached.
    fn remount(&self) -> Result<()> {
        mount::unmount(&self.folder, UnmountFlags::empty())?;
        self.mount()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    fn small(&self) -> Result<()> {
        fs::create_dir(self.at("small"))?;
        let bytes = [b'x'; SMALL];
        let name = |n: u32| self.at(&format!("small/file{n}"));
        phase("create", || {
            for n in 0..SMALL_FILES {
                File::create(name(n))?.write_all(&bytes)?;
            }
            sync();
            Ok(())
        })?;
        let stat_all = || {
            for n in 0..SMALL_FILES {
                ensure!(fs::metadata(name(n))?.len() == SMALL as u64);
            }
            Ok(())
        };
        phase("stat-warm", stat_all)?;
        self.remount()?;
        phase("stat-cold", stat_all)?;
        let renamed = |n: u32| self.at(&format!("small/renamed{n}"));
        phase("rename", || {
            for n in 0..SMALL_FILES {
                fs::rename(name(n), renamed(n))?;
            }
            sync();
            Ok(())
        })?;
        phase("delete", || {
            for n in 0..SMALL_FILES {
                fs::remove_file(renamed(n))?;
            }
            sync();
            Ok(())
        })
    }

    fn large(&self) -> Result<()> {
        let mut piece = vec![b'y'; PIECE];
        phase("write", || {
            let mut file = File::create(self.at("large"))?;
            for _ in 0..LARGE / PIECE {
                file.write_all(&piece)?;
            }
            drop(file);
            sync();
            Ok(())
        })?;
        let mut read_all = || {
            let mut file = File::open(self.at("large"))?;
            let mut total = 0;
            loop {
                match file.read(&mut piece)? {
                    0 => break,
                    count => total += count,
                }
            }
            ensure!(total == LARGE);
            Ok(())
        };
        phase("read-warm", &mut read_all)?;
        self.remount()?;
        phase("read-cold", &mut read_all)
    }

    fn tree(&self) -> Result<()> {
        let bytes = vec![b'z'; 20 << 10];
        fs::create_dir(self.at("tree"))?;
        for directory in 0..DIRECTORIES {
            let directory = self.at(&format!("tree/directory{directory}"));
            fs::create_dir(&directory)?;
            for n in 0..FILES_EACH {
                let size = 1 + (n * 7919 % (20 << 10)) as usize;
                File::create(directory.join(format!("file{n}")))?.write_all(&bytes[..size])?;
            }
        }
        sync();
        self.remount()?;
        phase("copy", || {
            fs::create_dir(self.at("copy"))?;
            for directory in names(&self.at("tree"))? {
                fs::create_dir(self.at("copy").join(&directory))?;
                for name in names(&self.at("tree").join(&directory))? {
                    let path = Path::new(&directory).join(name);
                    copy(&self.at("tree").join(&path), &self.at("copy").join(&path))?;
                }
            }
            sync();
            Ok(())
        })
    }
}

impl Work {
    fn untar(&self) -> Result<()> {
        // Warm, as what was just fetched is.
        io::copy(&mut File::open(self.at("source.tar"))?, &mut io::sink())?;
        phase("untar", || {
            for n in 0..UNPACKED {
                unpack(&self.at("source.tar"), &self.at(&format!("unpacked{n}")))?;
            }
            sync();
            Ok(())
        })
    }
}

fn unpack(archive: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    let mut archive = File::open(archive)?;
    let mut piece = vec![0; PIECE];
    let mut header = [0; ustar::BLOCK];
    loop {
        archive.read_exact(&mut header)?;
        let Some(member) = Member::parse(&header) else {
            return Ok(());
        };
        let path = to.join(&member.path);
        if member.is_directory {
            match fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => made?,
            }
        } else {
            let mut file = File::create(&path)?;
            let mut left = member.size;
            while left > 0 {
                let count = left.min(PIECE);
                archive.read_exact(&mut piece[..count.next_multiple_of(ustar::BLOCK)])?;
                file.write_all(&piece[..count])?;
                left -= count;
            }
        }
        fs::set_permissions(&path, Permissions::from_mode(member.mode))?;
        let time = Timespec {
            tv_sec: member.modified,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(CWD, &path, &times, AtFlags::empty())?;
    }
}

fn names(directory: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(directory)?;
    Ok(entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let (mut source, mut target) = (File::open(from)?, File::create(to)?);
    let mut piece = vec![0; PIECE];
    loop {
        match source.read(&mut piece)? {
            0 => return Ok(()),
            count => target.write_all(&piece[..count])?,
        }
    }
}
