//! Speed against the memory limit: files copied to and from an FFS, within 512 KiB, 1 MiB and 3 MiB, beside the same with all memory.
//!
//! Nothing but the limit differs, and the guests take turns: what else the machine does meets all of them. A share is that of a run with
//! all memory of the same turn; of the shares the median counts. Beside the time that the guest measures there are the
//! processor time of QEMU, boot and all, which a busy machine stretches less, and the number of requests to the disk, which it does not
//! change at all.
//!
//! Each on two disks. The host's memory answers for the first, which is faster than any disk: all of the time is the processor's. The
//! second is as slow as disks are ([`DISK_BYTES`], [`DISK_REQUESTS`]), by QEMU's throttling: what is measured there is how well a kernel
//! keeps it busy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rump_tests::guest::Boot;
use rump_tests::{image, scratch, setup};

use crate::report::{median, short};

/// The guest's memory, in MiB: enough to keep every file.
const MEMORY: &str = "256";

/// How long a guest may take for all of it.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a slow disk moves and takes in a second: the least that Amazon promises of a volume of its kind "gp3".
const DISK_BYTES: u32 = 125_000_000;
const DISK_REQUESTS: u32 = 3000;

/// What a guest is asked for: the limit, if any, and the share of the speed without that is the goal.
const LIMITS: [(Option<&str>, f64); 4] = [
    (None, 1.0),
    (Some("3M"), 0.99),
    (Some("1M"), 0.9),
    (Some("512K"), 0.5),
];

/// The phases as the guest prints them, and what a row calls them; then all of them together, in three ways.
const ROWS: [(&str, &str); 7] = [
    ("stream-to", "64 MiB to it, sync (MB/s)"),
    ("stream-from", "64 MiB from it (MB/s)"),
    ("tree-to", "tree to it, sync (MB/s)"),
    ("tree-from", "tree from it (MB/s)"),
    ("", "all (MB/s)"),
    ("", "all (MB/s of processor time)"),
    ("", "all (MB/1,000 requests)"),
];

/// How many of them are phases.
const PHASES: usize = 4;
/// The one that there is a goal for; the others say why it is met or missed.
const GOAL: usize = PHASES;

/// The number of each row, of one guest.
type Speeds = [f64; ROWS.len()];

/// Where the guests copy to and from.
#[derive(Clone, Copy)]
struct Volume {
    slow: bool,
    log: bool,
}

/// What was measured of a volume: by limit, the turns.
struct Measured {
    volume: Volume,
    turns: [Vec<Option<Speeds>>; LIMITS.len()],
}

impl Volume {
    fn name(self) -> String {
        format!(
            "{} disk, {}",
            if self.slow { "slow" } else { "fast" },
            if self.log { "log" } else { "no log" }
        )
    }
}

/// Measures on both disks, without a log and with one, `runs` turns, and prints what came of it.
///
/// # Errors
/// There is no volume to work on.
pub fn run(runs: u32) -> Result<()> {
    let empty = volume()?;
    let image = image::image("copies");
    let mut all =
        [(false, false), (false, true), (true, false), (true, true)].map(|(slow, log)| Measured {
            volume: Volume { slow, log },
            turns: [const { Vec::new() }; LIMITS.len()],
        });
    for turn in 0..runs as usize {
        for measured in &mut all {
            for n in 0..LIMITS.len() {
                // Not always in the same order.
                let which = (n + turn) % LIMITS.len();
                let (limit, _) = LIMITS[which];
                println!(
                    "copies: {}, {}, run {} of {runs}",
                    limit.unwrap_or("all memory"),
                    measured.volume.name(),
                    turn + 1
                );
                let speeds = boot(&image, &empty, limit, measured.volume);
                if let Err(error) = &speeds {
                    println!("  failed: {error:#}");
                }
                measured.turns[which].push(speeds.ok());
            }
        }
    }
    for measured in &all {
        measured.print();
    }
    println!(
        "\nMB/s, and the share of what the same turn had with all memory: median, least and most of the turns."
    );
    Ok(())
}

/// An empty volume.
fn volume() -> Result<PathBuf> {
    setup::need(&["makefs"]);
    let folder = scratch("benches/copies");
    let empty = folder.join("empty");
    fs::create_dir_all(&empty)?;
    let image = folder.join("empty.ffs");
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let done = Command::new("makefs")
        .env("PATH", path)
        .args(["-t", "ffs", "-B", "le", "-s", "256m", "-o"])
        .arg("version=2,bsize=16384,fsize=2048,density=16384")
        .args([&image, &empty])
        .output()?;
    ensure!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(image)
}

/// What one guest does on a volume of its own.
fn boot(image: &Path, empty: &Path, limit: Option<&str>, volume: Volume) -> Result<Speeds> {
    let disk = empty.with_file_name("disk");
    fs::copy(empty, &disk)?;
    let mut words = String::from(if volume.log {
        "mount=ld0:/:ffs:log"
    } else {
        ""
    });
    if let Some(limit) = limit {
        words.push_str(&format!(" memlimit={limit}"));
    }
    let before = processor_time_of_children()?;
    let mut boot = Boot::new(image)
        .memory(MEMORY)
        .disk(&disk)
        .keeping_writes()
        .without_network()
        .append(&words)
        .limit(PATIENCE);
    if volume.slow {
        for (what, most) in [("bps-total", DISK_BYTES), ("iops-total", DISK_REQUESTS)] {
            boot = boot.qemu_arg("-set");
            boot = boot.qemu_arg(&format!("drive.disk0.throttling.{what}={most}"));
        }
    }
    let mut guest = boot.start();
    let status = guest.exit_status(PATIENCE);
    let console = guest.console();
    ensure!(status == 0, "status {status}:\n{console}");
    let processor = processor_time_of_children()? - before;
    let mut speeds = [0.0; ROWS.len()];
    let (mut bytes, mut seconds, mut requests) = (0.0, 0.0, 0.0);
    for ((phase, _), speed) in ROWS[..PHASES].iter().zip(&mut speeds) {
        let line = console
            .lines()
            .find_map(|line| line.split_once(&format!("phase {phase} ")));
        let (_, numbers) = line.with_context(|| format!("no {phase:?} in:\n{console}"))?;
        let mut numbers = numbers.split_whitespace().map(str::parse::<f64>);
        let mut next = || anyhow::Ok(numbers.next().context("three numbers")??);
        let (moved, took) = (next()? / 1e6, next()? / 1e9);
        *speed = moved / took;
        bytes += moved;
        seconds += took;
        requests += next()?;
    }
    speeds[PHASES] = bytes / seconds;
    speeds[PHASES + 1] = bytes / processor;
    speeds[PHASES + 2] = bytes / requests * 1e3;
    Ok(speeds)
}

/// Seconds of processor time of the programs that have ended: QEMU's, and the little that `run-qemu.sh` does beside it.
fn processor_time_of_children() -> Result<f64> {
    // proc_pid_stat(5): behind the name, cutime and cstime are the 14th and 15th.
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").context("a name")?;
    let mut ticks = 0.0;
    for field in fields.split(' ').skip(13).take(2) {
        ticks += field.parse::<f64>()?;
    }
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}

impl Measured {
    fn print(&self) {
        println!(
            "\n{:<40} {:>24} {:>24} {:>24}  goal",
            self.volume.name(),
            "limited",
            "all memory",
            "share"
        );
        for (which, (limit, goal)) in LIMITS.iter().enumerate() {
            let Some(limit) = limit else { continue };
            for (row, (_, name)) in ROWS.iter().enumerate() {
                self.print_row(&format!("{limit} {name}"), (which, row), *goal);
            }
        }
    }

    fn print_row(&self, name: &str, (which, row): (usize, usize), goal: f64) {
        let both = self.turns[which].iter().zip(&self.turns[0]);
        let both: Vec<(f64, f64)> = both
            .filter_map(|(limited, all)| Some((limited.as_ref()?[row], all.as_ref()?[row])))
            .collect();
        let limited: Vec<f64> = both.iter().map(|both| both.0).collect();
        let all: Vec<f64> = both.iter().map(|both| both.1).collect();
        let shares: Vec<f64> = both.iter().map(|both| both.0 / both.1).collect();
        let Some(share) = median(&shares) else {
            println!("{name:<40} -");
            return;
        };
        let verdict = match row {
            GOAL if share >= goal => format!("{goal} met"),
            GOAL => format!("{goal} MISSED"),
            _ => String::new(),
        };
        println!(
            "{name:<40} {:>24} {:>24} {:>24}  {verdict}",
            spread(&limited),
            spread(&all),
            spread(&shares),
        );
    }
}

fn spread(runs: &[f64]) -> String {
    let least = runs.iter().copied().fold(f64::INFINITY, f64::min);
    let most = runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let median = median(runs).map(short).unwrap_or_default();
    format!("{median} ({} - {})", short(least), short(most))
}
