//! Finds every inconsistency of a volume, as fsck_ffs(8) does; changes nothing. [`mod@repair`] repairs them.
//!
//! In phases, each of which relies on those before it:
//!
//! 1. [`blocks`]: every inode: type, size, pointers, and that no fragment has two owners.
//! 2. [`names`]: every directory: entries, `.` and `..`, that names lead to files; then that every
//!    directory is reached from the root; then that link counts equal the names found.
//! 3. [`groups`]: every group's maps and counters, the summary area and the totals, against what the
//!    inodes claim; and the backups of the superblock.
//!
//! The work is bounded by the size of the volume: an inode is looked at once, a fragment is followed
//! by its first owner alone, a directory is no larger than the volume. Memory: a bit for each
//! fragment, eight bytes for each inode, and the findings, of which at most [`MOST_FINDINGS`] are kept.
//!
//! If the primary superblock passes no judgement a copy of it in a group stands in: see `backup.rs`.
//!
//! A volume whose log was in use is checked as it is when the log is replayed; files without a name that the log
//! lists are left to whoever replays it.
//!
//! Quotas are not compared. A volume whose groups have 4.2BSD's tables of fixed size is refused.
//!
//! Source: NetBSD fsck_ffs(8), pass1.c to pass5.c, dir.c and inode.c, for what is consistent.

mod backup;
pub mod blocks;
pub mod finding;
pub mod groups;
pub mod names;
mod rebuild;
pub mod repair;

use alloc::vec;
use alloc::vec::Vec;

use crate::corrupt::{Corrupt, Fault};
use crate::disk::Metadata;
use crate::journal::Replayed;
use crate::maps;
use crate::superblock::{self, Superblock, Tolerance};

pub use finding::{Finding, Topic};

/// Findings kept; those beyond are only counted.
pub const MOST_FINDINGS: usize = 10_000;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong, in the order of the phases.
    pub findings: Vec<Finding>,
    /// Findings beyond [`MOST_FINDINGS`].
    pub dropped: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Directories among them.
    pub directories: u64,
    /// Fragments that files hold.
    pub fragments: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_consistent(&self) -> bool {
        self.findings.is_empty()
    }

    pub(crate) fn add(&mut self, finding: Finding) {
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(finding);
        } else {
            self.dropped += 1;
        }
    }
}

/// What an inode was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nobody's.
    Free,
    /// A file of any type but directory; its type as directory entries have it.
    File(u8),
    /// A directory.
    Directory,
    /// In use, but not to be believed.
    Broken,
}

/// What is known of an inode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub state: State,
    /// Links that the inode says it has.
    pub nlink: u16,
    /// Names found for it.
    pub names: u32,
    /// It holds the journal or quotas, and has no name.
    pub needs_no_name: bool,
}

/// A check under way.
pub(crate) struct Check<'a> {
    pub sb: Superblock,
    pub disk: &'a dyn Metadata,
    pub report: Report,
    /// Which fragments have an owner.
    pub used: Vec<u8>,
    /// By number.
    pub inodes: Vec<Known>,
}

/// Checks the volume on `disk`.
///
/// # Errors
/// [`Corrupt`] if neither a superblock nor a copy passes; the device's error if it cannot be read.
pub fn check(disk: &dyn Metadata) -> Result<Report, Fault> {
    match backup::stand_in(disk)? {
        None => check_from(disk),
        Some(view) => {
            let mut report = check_from(&view)?;
            report.findings.insert(0, view.finding);
            Ok(report)
        }
    }
}

/// The superblock that a check of the volume on `disk` relies on.
///
/// # Errors
/// As [`check()`].
pub fn superblock(disk: &dyn Metadata) -> Result<Superblock, Fault> {
    match backup::stand_in(disk)? {
        None => superblock::find(disk, Tolerance { force: true }),
        Some(view) => superblock::find(&view, Tolerance { force: true }),
    }
}

fn check_from(disk: &dyn Metadata) -> Result<Report, Fault> {
    let sb = superblock::find(disk, Tolerance { force: true })?;
    match Replayed::of(disk, &sb) {
        Ok(None) => Ok(examine(disk)?.report),
        Ok(Some(view)) => {
            let mut report = examine(&view)?.report;
            // Whoever mounts it frees them.
            let waits = |ino: u32| view.replay.orphans().iter().any(|it| it.ino == ino);
            let known =
                |finding: &Finding| matches!(finding, Finding::Nameless { ino } if waits(*ino));
            report.findings.retain(|finding| !known(finding));
            Ok(report)
        }
        Err(Fault::Corrupt(corrupt)) => {
            let mut report = examine(disk)?.report;
            report.findings.insert(0, Finding::Corrupt(corrupt));
            Ok(report)
        }
        Err(fault) => Err(fault),
    }
}

/// Checks the volume on `disk`; what is known of it then.
fn examine(disk: &dyn Metadata) -> Result<Check<'_>, Fault> {
    let sb = superblock::find(disk, Tolerance { force: true })?;
    if sb.old_tables {
        return Err(Corrupt::Superblock {
            at: sb.location,
            field: "old_postblformat",
            value: -1,
        }
        .into());
    }
    let free = Known {
        state: State::Free,
        nlink: 0,
        names: 0,
        needs_no_name: false,
    };
    let mut check = Check {
        used: vec![0; sb.size.div_ceil(8) as usize],
        inodes: vec![free; sb.inodes() as usize],
        sb,
        disk,
        report: Report::default(),
    };
    check.check_blocks()?;
    check.check_names()?;
    check.check_groups()?;
    Ok(check)
}

impl Check<'_> {
    /// Marks `count` fragments from `first` on as owned; the first of them that had an owner already.
    pub(crate) fn claim(&mut self, first: u64, count: u64) -> Option<u64> {
        let mut taken = None;
        for fragment in first..first + count {
            let (byte, bit) = ((fragment / 8) as usize, (fragment % 8) as u32);
            if maps::is_set(&self.used[byte..=byte], bit) {
                taken = taken.or(Some(fragment));
            }
            maps::set(&mut self.used[byte..=byte], bit);
        }
        taken
    }

    /// Whether fragment `n` of the volume has an owner.
    pub(crate) fn is_used(&self, n: u64) -> bool {
        let byte = (n / 8) as usize;
        maps::is_set(&self.used[byte..=byte], (n % 8) as u32)
    }
}

#[cfg(test)]
mod tests;
