//! `df`, `mkfs` and `check`: file systems as a whole.

use crate::cli::MkfsArgs;
use crate::session::{Failure, Session, progress};
use serde::Serialize;
use std::ffi::OsStr;
use ukfs::{Source, check as fsck, mkfs as newfs};

/// fsck(8): errors were corrected.
const REPAIRED: u8 = 1;
/// fsck(8): errors were left uncorrected.
const DAMAGED: u8 = 4;
/// fsck(8): operational error.
const NOT_CHECKED: u8 = 8;

/// How full a file system is.
#[derive(Serialize)]
struct Usage {
    image: String,
    fstype: &'static str,
    bytes: u64,
    used: u64,
    available: u64,
    free: u64,
    block_size: u64,
    fragment_size: u64,
    inodes: u64,
    inodes_free: u64,
}

/// Shows how full the file system is.
pub fn df(session: &mut Session, image: &OsStr) -> Result<(), Failure> {
    let image = session.open(image)?;
    let stat = image.statvfs()?;
    let bytes = |units: u64| units.saturating_mul(stat.frsize);
    let usage = Usage {
        image: image.source().to_string(),
        fstype: image.fstype(),
        bytes: bytes(stat.blocks),
        used: bytes(stat.blocks.saturating_sub(stat.bfree)),
        available: bytes(stat.bavail),
        free: bytes(stat.bfree),
        block_size: stat.bsize,
        fragment_size: stat.frsize,
        inodes: stat.files,
        inodes_free: stat.ffree,
    };
    if session.json {
        session.json(&usage)?;
        return session.line("");
    }
    session.line("type     1K-blocks       used  available  use     inodes       free  image")?;
    let share = (usage.used.saturating_mul(100)).div_ceil((usage.used + usage.available).max(1));
    session.line(&format!(
        "{:<7} {:>10} {:>10} {:>10} {share:>3}% {:>10} {:>10}  {}",
        usage.fstype,
        usage.bytes >> 10,
        usage.used >> 10,
        usage.available >> 10,
        usage.inodes,
        usage.inodes_free,
        usage.image,
    ))
}

/// Makes an empty file system.
pub fn mkfs(session: &mut Session, args: &MkfsArgs) -> Result<(), Failure> {
    let source = Source::parse(&args.image);
    session.may_change(&source)?;
    session.is_ffs(&source, "cannot be made")?;
    let mut options = newfs::Options::new()
        .version(args.version)
        .label(&args.label);
    if let Some(bytes) = args.bsize {
        options = options.block_size(bytes);
    }
    if let Some(bytes) = args.fsize {
        options = options.fragment_size(bytes);
    }
    if let Some(bytes) = args.size {
        options = options.size(bytes);
    }
    if let Some(bytes) = session.memory_limit() {
        options = options.memory_limit(bytes);
    }
    let bar = progress("making", 0);
    let made = newfs::make(source.clone(), &options)?;
    bar.finish_and_clear();
    if session.json {
        let made = serde_json::json!({
            "image": source.to_string(), "fstype": args.kind, "version": args.version, "bytes": made.bytes,
        });
        session.json(&made)?;
        return session.line("");
    }
    Ok(())
}

/// What a check found.
#[derive(Serialize)]
struct Checked<'a> {
    image: String,
    consistent: bool,
    files: u64,
    directories: u64,
    bytes: u64,
    repaired: &'a [String],
    findings: &'a [String],
    more: u64,
}

/// Finds what is inconsistent, and with `repair` makes it consistent.
pub fn check(session: &mut Session, image: &OsStr, repair: bool) -> Result<(), Failure> {
    let source = Source::parse(image);
    let may_be = session.is_ffs(&source, "cannot be checked");
    let may_be = may_be.and_then(|()| match repair {
        true => session.may_change(&source),
        false => Ok(()),
    });
    may_be.inspect_err(|_| session.raise(NOT_CHECKED))?;
    let bar = progress("checking", 0);
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let budget = session.memory_limit();
    let checked = match repair {
        true => fsck::repair(source.clone(), budget).map(|done| (done.repaired, done.left)),
        false => fsck::check(source.clone(), budget).map(|left| (Vec::new(), left)),
    };
    bar.finish_and_clear();
    let (repaired, report) = checked.inspect_err(|_| session.raise(NOT_CHECKED))?;
    if !report.is_consistent() {
        session.raise(DAMAGED);
    } else if !repaired.is_empty() {
        session.raise(REPAIRED);
    }
    if session.json {
        let checked = Checked {
            image: source.to_string(),
            consistent: report.is_consistent(),
            files: report.files,
            directories: report.directories,
            bytes: report.bytes,
            repaired: &repaired,
            findings: &report.findings,
            more: report.more,
        };
        session.json(&checked)?;
        return session.line("");
    }
    for finding in &repaired {
        session.line(&format!("{source}: repaired: {finding}"))?;
    }
    for finding in &report.findings {
        session.line(&format!("{source}: {finding}"))?;
    }
    if report.more > 0 {
        session.line(&format!("{source}: and {} more", report.more))?;
    }
    let verdict = match report.findings.len() {
        0 => "clean".to_owned(),
        1 => "1 inconsistency".to_owned(),
        count => format!("{} inconsistencies", count as u64 + report.more),
    };
    session.line(&format!(
        "{source}: {verdict}; {} files, {} of them directories, {} bytes",
        report.files, report.directories, report.bytes
    ))
}
