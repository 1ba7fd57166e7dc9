//! Programs that read FFS and that nobody here wrote: each shows a whole image as a [`Tree`], to be compared with what was written.
//!
//! - [`Reader::Dissect`]: `dissect.ffs` from Python's registry; little-endian volumes.
//! - [`Reader::FuseUfs`]: the crate fuse-ufs over FUSE, which takes root; UFS2 with its superblock at byte 65536 and
//!   fragments of 2048 bytes or more, both byte orders; of a directory, what fits into one answer of FUSE's.
//! - [`Reader::Linux`]: the driver `ufs` of Debian's kernel, in a guest of its own; both versions and byte orders, fragments up to 4096
//!   bytes.
//!
//! [`compare`] is what a test wants. Names that are not UTF-8 and files longer than a disk's room are not for these.

mod dissect;
pub mod fuse_ufs;
mod linux;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::{self, Format, Superblock, Tolerance};

use crate::setup;
use crate::spoil::Image;
use crate::tree::Tree;

/// The last place of a superblock, and the room of one (NetBSD sys/ufs/ffs/fs.h, SBLOCKSEARCH, SBLOCKSIZE).
const SUPERBLOCKS_END: u64 = (256 << 10) + 8192;

/// A program that reads FFS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// `dissect.ffs`, in Python.
    Dissect,
    /// fuse-ufs, in Rust.
    FuseUfs,
    /// Linux's driver.
    Linux,
}

impl Reader {
    /// All of them, the quick ones first.
    pub const ALL: [Self; 3] = [Self::Dissect, Self::FuseUfs, Self::Linux];

    /// Whether it can be had on this machine; says so where not.
    pub fn is_here(self) -> bool {
        match self {
            Self::Dissect => true,
            Self::FuseUfs => setup::is_root() && fuse_ufs::is_possible(),
            Self::Linux => linux::is_possible(),
        }
    }

    /// Whether it reads volumes like this one.
    fn reads(self, volume: &Superblock) -> bool {
        let is_ufs2 = volume.format == Format::Ufs2;
        let is_at_65536 = volume.location == 65_536;
        match self {
            Self::Dissect => volume.order == Order::Little,
            // It wants a superblock, of 1376 bytes, to take one fragment.
            Self::FuseUfs => is_ufs2 && is_at_65536 && volume.fsize >= 2048,
            Self::Linux => volume.fsize <= 4096 && (is_at_65536 || !is_ufs2),
        }
    }

    /// All that it finds on the image.
    ///
    /// # Errors
    /// What the program says.
    pub fn tree(self, image: &Path) -> Result<Tree> {
        match self {
            Self::Dissect => dissect::tree(image),
            Self::FuseUfs => Tree::of_folder(fuse_ufs::Mount::new(image, &[])?.path()),
            Self::Linux => linux::tree(image, volume_of(image)?.format),
        }
    }
}

/// The volume's own words, read by the file system's code.
fn volume_of(image: &Path) -> Result<Superblock> {
    let mut start = Vec::new();
    let file = File::open(image).with_context(|| image.display().to_string())?;
    file.take(SUPERBLOCKS_END).read_to_end(&mut start)?;
    superblock::find(&Image(&start), Tolerance::default())
        .map_err(|fault| anyhow!("{}: {fault:?}", image.display()))
}

/// Has every reader that is here and that can read the image read all of it, and compares with what should be there. Answers which did.
///
/// # Errors
/// Every difference, with the reader that found it; or that no reader reads such a volume.
pub fn compare(image: &Path, expected: &Tree) -> Result<Vec<Reader>> {
    compare_by(image, |found| expected.compare(found))
}

/// The same, also of modes, links, owners and times.
///
/// # Errors
/// As [`compare`].
pub fn compare_all(image: &Path, expected: &Tree) -> Result<Vec<Reader>> {
    compare_by(image, |found| {
        expected.compare(found)?;
        expected.compare_attributes(found)
    })
}

fn compare_by(image: &Path, compare: impl Fn(&Tree) -> Result<()>) -> Result<Vec<Reader>> {
    let volume = volume_of(image)?;
    let able = Reader::ALL
        .into_iter()
        .filter(|reader| reader.reads(&volume));
    let able: Vec<Reader> = able.collect();
    if able.is_empty() {
        bail!("no reader for {:?} {:?}", volume.format, volume.order);
    }
    let here: Vec<Reader> = able.into_iter().filter(|reader| reader.is_here()).collect();
    for reader in &here {
        let found = reader.tree(image).with_context(|| format!("{reader:?}"))?;
        compare(&found).with_context(|| format!("{reader:?} reads something else"))?;
    }
    Ok(here)
}
