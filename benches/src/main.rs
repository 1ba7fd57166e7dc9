//! Our file server beside a Linux guest that does the same: Debian's cloud kernel, nginx, ext4, on the same QEMU line; and work on files
//! within little memory beside the same with plenty.
//!
//! `cargo bench-guest` builds both, measures them in turn, and prints a table. Nothing here fails a build: numbers are for reading.

mod copies;
mod files;
mod guest;
mod measure;
mod rawread;
mod report;
#[path = "../images/files/src/ustar.rs"]
mod ustar;

extern crate alloc;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use files::How;
use guest::{Kind, Kit};
use report::{Better, Row};

/// Measures our file server beside a Linux guest with nginx.
#[derive(Parser)]
struct Arguments {
    /// How often to measure each guest; they take turns
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Seconds for each measurement of requests
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Only these; all if none is named
    #[arg(long, value_enum)]
    only: Vec<Group>,
    /// Only this guest
    #[arg(long, value_enum)]
    guest: Option<Which>,
    #[command(subcommand)]
    inside: Option<Inside>,
}

#[derive(Subcommand)]
enum Inside {
    /// What runs in the Linux guest: reads its disk, and prints how long that took
    #[command(hide = true)]
    Rawread {
        /// The disk
        device: PathBuf,
    },
    /// What runs in the Linux guest: works on files, and prints how long each phase took
    #[command(hide = true)]
    Files {
        /// The disk
        device: PathBuf,
        /// Where to mount it
        folder: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// The time from QEMU's start to the first answer
    Boot,
    /// The least memory that serves
    Memory,
    /// Requests in a second, and a large file
    Http,
    /// Reads straight from the disk
    Disk,
    /// Small files, a large file, a tree, an archive: made, looked at, renamed, copied, removed, unpacked; with a log and without
    Files,
    /// Our guest within little memory beside itself with plenty: files copied to and from a disk; needs no root
    Copies,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    Rump,
    Linux,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.inside {
        Some(Inside::Rawread { device }) => return rawread::run(device),
        Some(Inside::Files { device, folder }) => return files::run(device, folder),
        None => {}
    }
    let wants = |group: Group| arguments.only.is_empty() || arguments.only.contains(&group);
    let kinds: &[Kind] = match arguments.guest {
        Some(Which::Rump) => &[Kind::Rump],
        Some(Which::Linux) => &[Kind::Linux],
        None => &[Kind::Rump, Kind::Linux],
    };
    if wants(Group::Copies) {
        copies::run(arguments.runs)?;
    }
    if arguments.only == [Group::Copies] {
        return Ok(());
    }
    let kit = Kit::make()?;
    let mut rows = Vec::new();
    if wants(Group::Boot) {
        let mut row = Row::new("QEMU's start to first 200", "s", Better::Less, Some(15.0));
        in_turns(kinds, arguments.runs, "boot", |kind| {
            add(&mut row, kind, measure::first_200(&kit, kind)?);
            Ok(())
        })?;
        rows.push(row);
    }
    if wants(Group::Memory) {
        let mut row = Row::new("least memory that serves", "MiB", Better::Less, Some(10.0));
        in_turns(kinds, 1, "memory", |kind| {
            add(&mut row, kind, measure::least_memory(&kit, kind)?);
            Ok(())
        })?;
        rows.push(row);
    }
    if wants(Group::Http) {
        let mut http = [
            Row::new("1 KiB, 1 connection", "requests/s", Better::More, Some(1.0)),
            Row::new(
                "1 KiB, 32 connections",
                "requests/s",
                Better::More,
                Some(1.0),
            ),
            Row::new("64 MiB cold", "MB/s", Better::More, Some(0.5)),
            Row::new("64 MiB warm", "MB/s", Better::More, Some(0.5)),
        ];
        in_turns(kinds, arguments.runs, "http", |kind| {
            let served = measure::served(&kit, kind, arguments.seconds)?;
            let numbers = [
                served.requests_1,
                served.requests_32,
                served.cold,
                served.warm,
            ];
            http.iter_mut()
                .zip(numbers)
                .for_each(|(row, number)| add(row, kind, number));
            Ok(())
        })?;
        rows.extend(http);
    }
    if wants(Group::Disk) {
        let mut disk = [
            Row::new(
                "raw reads of 1 MiB in sequence",
                "MB/s",
                Better::More,
                Some(0.5),
            ),
            Row::new(
                "raw reads of 4 KiB at random",
                "reads/s",
                Better::More,
                Some(0.5),
            ),
        ];
        in_turns(kinds, arguments.runs, "disk", |kind| {
            let (sequential, random) = measure::raw_reads(&kit, kind)?;
            disk.iter_mut()
                .zip([sequential, random])
                .for_each(|(row, number)| add(row, kind, number));
            Ok(())
        })?;
        rows.extend(disk);
    }
    let mut files = None;
    if wants(Group::Files) {
        let measured = measure_files(&kit, kinds, arguments.runs)?;
        files = Some(measured);
    }
    println!(
        "\nQEMU with {}, q35, {} MiB unless it says otherwise, one processor.",
        kit.accel(),
        measure::PLENTY >> 10
    );
    let beside = ("ours", "Linux");
    if !rows.is_empty() {
        report::print(&rows, beside);
    }
    if let Some(files) = &files {
        println!("\nFiles, ours without a log:");
        report::print(&files.plain, beside);
        println!("\nThe same, ours with a log:");
        report::print(&files.logged, beside);
        println!("\nThe same, ours with a log and without:");
        report::print(&files.by_log, ("with a log", "without"));
        println!(
            "\nThe same, ours without a log within memlimit=1M and the other with all its memory:"
        );
        report::print(&files.little, beside);
    }
    Ok(())
}

/// The tables about work on files.
struct Files {
    plain: Vec<Row>,
    logged: Vec<Row>,
    by_log: Vec<Row>,
    little: Vec<Row>,
}

/// Measures work on files: the other guest, and ours without a log, with one, and within little memory.
fn measure_files(kit: &Kit, kinds: &[Kind], runs: u32) -> Result<Files> {
    let disks = files::Disks::make()?;
    let mut all = Files {
        plain: files::rows(),
        logged: files::rows(),
        by_log: files::rows_of_log(),
        little: files::rows(),
    };
    in_turns(kinds, runs, "files", |kind| {
        let measure = |how| files::measure(kit, &disks, kind, how);
        let plain = measure(How::default())?;
        if kind == Kind::Linux {
            for rows in [&mut all.plain, &mut all.logged, &mut all.little] {
                files::add(rows, &plain, false);
            }
            return Ok(());
        }
        files::add(&mut all.plain, &plain, true);
        files::add(&mut all.by_log, &plain, false);
        let logged = measure(How {
            log: true,
            ..How::default()
        })?;
        files::add(&mut all.logged, &logged, true);
        files::add(&mut all.by_log, &logged, true);
        let little = measure(How {
            memlimit: Some("1M"),
            ..How::default()
        })?;
        files::add(&mut all.little, &little, true);
        Ok(())
    })?;
    Ok(all)
}

fn add(row: &mut Row, kind: Kind, number: f64) {
    match kind {
        Kind::Rump => row.ours.push(number),
        Kind::Linux => row.theirs.push(number),
    }
}

/// Measures the guests in turn, so that what else the machine does meets both; a failure is said and leaves a gap.
fn in_turns(
    kinds: &[Kind],
    runs: u32,
    name: &str,
    mut measure: impl FnMut(Kind) -> Result<()>,
) -> Result<()> {
    for run in 1..=runs {
        for kind in kinds {
            println!("{name}: {kind:?}, run {run} of {runs}");
            if let Err(error) = measure(*kind) {
                println!("  failed: {error:#}");
            }
        }
    }
    Ok(())
}
