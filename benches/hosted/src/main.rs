//! What FFS costs in a Linux process, on an image in tmpfs, against goals that are numbers.
//!
//! `cargo bench-hosted` prints a table. The goals are twice the best rate, and half the cost, that NetBSD's own hosted rump kernel
//! was measured at for the same work on such a machine; and for `ukfs` 80 % of plain file I/O on the same backing file. What a
//! plain file and plain memory give is measured beside it: no file system in a file is faster than the file. Nothing here
//! fails a build: numbers are for reading.
//!
//! Every run is a process of its own (`inside`), since memory is the process's; its numbers come back as lines `NAME NUMBER`.

mod replay;
mod small;
mod start;
mod streams;
mod table;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::Command;
use table::{Better, Table};

/// Measures what file systems cost in a Linux process.
#[derive(Parser)]
struct Arguments {
    /// How often to measure each
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Only these; all if none is named
    #[arg(long, value_enum)]
    only: Vec<Group>,
    /// Where the images are made
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
    /// FFSv1 or FFSv2
    #[arg(long, default_value_t = 2)]
    ffs: u8,
    /// Files of the measurements of small files
    #[arg(long, default_value_t = 10_000)]
    files: usize,
    #[command(subcommand)]
    inside: Option<Inside>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Creating, looking at, reading and removing small files
    Files,
    /// A large file through the kernel's own calls
    Large,
    /// A call that does nothing
    Call,
    /// Memory and time of boot and mount
    Start,
    /// A large file beside plain I/O on the backing file
    Ukfs,
    /// Mounts of volumes whose log is full
    Replay,
}

#[derive(Subcommand)]
enum Inside {
    /// One run of a group, on an image that is there
    #[command(hide = true)]
    Inside { group: Group, image: PathBuf },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Inside::Inside { group, image }) = &arguments.inside {
        return match group {
            Group::Files => small::files(image, arguments.files),
            Group::Large => streams::large(image),
            Group::Call => small::calls(image),
            Group::Start | Group::Replay => Ok(()),
            Group::Ukfs => streams::beside_plain(image, arguments.ffs),
        };
    }
    // Where this program is; measuring the start may build it anew, as another file.
    let own = std::env::current_exe()?;
    let mut table = goals();
    for group in Group::value_variants() {
        if !arguments.only.is_empty() && !arguments.only.contains(group) {
            continue;
        }
        for run in 1..=arguments.runs {
            eprintln!("{group:?}: run {run} of {}", arguments.runs);
            if let Err(error) = one_run(&own, &arguments, *group, &mut table) {
                eprintln!("  failed: {error:#}");
            }
        }
    }
    println!(
        "\nFFSv{} in {}, no memory limit but ukfs's own (128 MiB).",
        arguments.ffs,
        arguments.folder.display()
    );
    table.print();
    Ok(())
}

/// The rows: what NetBSD's hosted rump kernel was measured at, and what is wanted here.
fn goals() -> Table {
    let mut table = Table::default();
    let mut more = |name, unit, goal| table.row(name, unit, Better::More, goal);
    more("create, write 1 KiB, close", "files/s", 50_000.0);
    more("stat", "calls/s", 520_000.0);
    more("open, read 1 KiB, close", "files/s", 130_000.0);
    more("unlink", "files/s", 80_000.0);
    more("write 64 MiB and sync", "MB/s", 2_800.0);
    table.row("plain: write into a hole, sync", "MB/s", Better::More, None);
    table.row("write 64 MiB again, sync", "MB/s", Better::More, 2_800.0);
    table.row("plain: write again, sync", "MB/s", Better::More, None);
    let mut reads = |name, goal| table.row(name, "MB/s", Better::More, goal);
    reads("read 64 MiB cached, once", None);
    reads("read 64 MiB cached, again and again", Some(15_000.0));
    reads("plain: read once", None);
    reads("plain: read again and again", None);
    reads("memory: copy once", None);
    reads("memory: copy again and again", None);
    table.row("null system call", "ns", Better::Less, 12.0);
    table.row("boot and mount: resident", "MiB", Better::Less, 2.65);
    table.row("rump_fs ls: start to end", "ms", Better::Less, 10.0);
    table.row("plain write and sync", "MB/s", Better::More, None);
    table.row("plain read", "MB/s", Better::More, None);
    let mut share = |name| table.row(name, "% of plain", Better::More, 80.0);
    share("sequential write and sync");
    share("sequential read, first");
    share("sequential read, again");
    replay::rows(|name, goal| table.row(name, "ms", Better::Less, goal));
    table
}

fn one_run(own: &Path, arguments: &Arguments, group: Group, table: &mut Table) -> Result<()> {
    let folder = tempfile::tempdir_in(&arguments.folder)?;
    if group == Group::Replay {
        return replay::run(folder.path(), arguments.ffs, table);
    }
    let image = folder.path().join("image");
    let options = ukfs::mkfs::Options::new().version(arguments.ffs);
    ukfs::mkfs::make(&image, &options.size(512 << 20))?;
    let name = group.to_possible_value().context("it has a name")?;
    let output = Command::new(own)
        .args(["--files", &arguments.files.to_string()])
        .args(["--ffs", &arguments.ffs.to_string()])
        .args(["inside", name.get_name()])
        .arg(&image)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in String::from_utf8(output.stdout)?.lines() {
        let (name, number) = line.rsplit_once(' ').context("a name and a number")?;
        table.add(name, number.parse()?)?;
    }
    if group == Group::Start {
        table.add("boot and mount: resident", start::resident(own, &image)?)?;
        table.add(
            "rump_fs ls: start to end",
            start::first_answer(own, &image)?,
        )?;
    }
    check(&image)
}

/// What was written is a sound volume; a number of what is not would be worth nothing.
fn check(image: &Path) -> Result<()> {
    let report = ukfs::check::check(image, None)?;
    ensure!(report.is_consistent(), "{:?}", report.findings);
    Ok(())
}

/// Hands a number to the process that asked.
fn tell(name: &str, number: f64) {
    println!("{name} {number}");
}
