//! The superblock that a check relies on. If the primary passes no judgement, or contradicts the copies, a copy stands in for it.
//! (fsck_ffs, setup.c: `readsb`, `calcsb`, and option `-b`.)
//!
//! Every group has a copy. That of the first is found without knowing the geometry: it lies in the first whole block behind
//! the primary. Those of the others lie at multiples of the smallest block, which are looked through up to
//! [`SEARCHED`] bytes. A copy counts if it passes every judgement and lies where it says that one does.
//!
//! A primary that passes is doubted only if the first and the last copy say the same, and it says another thing.

use alloc::vec::Vec;
use core::mem::offset_of;

use rumpuser::Errno;
use zerocopy::LE;

use super::Finding;
use crate::corrupt::{Corrupt, Fault};
use crate::disk::{Metadata, PIECE, read_with};
use crate::raw::{self, RawSuperblock, SBLOCK_UFS1, SBLOCK_UFS2, SBLOCKSEARCH};
use crate::superblock::{self, Superblock, Tolerance};

/// How far copies are searched that do not lie where the first is expected.
const SEARCHED: u64 = 256 << 20;
/// The smallest and the largest block.
const BLOCKS: [u64; 5] = [4096, 8192, 16384, 32768, 65536];
/// What a check looks into in spite of.
const FORCE: Tolerance = Tolerance { force: true };

/// A copy in the place of the primary superblock, of which it is a view: nothing is written.
pub(super) struct StandIn<'a> {
    disk: &'a dyn Metadata,
    /// Where the primary lies.
    pub(super) at: u64,
    /// What it is to be.
    pub(super) bytes: Vec<u8>,
    /// What is wrong with the one that is there.
    pub(super) finding: Finding,
}

impl Metadata for StandIn<'_> {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        if offset == self.at && len <= self.bytes.len() {
            visit(&self.bytes[..len]);
            return Ok(());
        }
        self.disk.read(offset, len, visit)
    }
}

/// What stands in for the primary superblock of the volume on `disk`; nothing, if that is to be believed.
pub(super) fn stand_in(disk: &dyn Metadata) -> Result<Option<StandIn<'_>>, Fault> {
    let fault = match superblock::find(disk, FORCE) {
        Ok(primary) => return Ok(contradicted(disk, &primary)),
        Err(fault) => fault,
    };
    let finding = match fault {
        Fault::Corrupt(corrupt) => Finding::Corrupt(corrupt),
        Fault::Device { .. } => Finding::Corrupt(Corrupt::NoSuperblock),
        refused @ Fault::Refused(_) => return Err(refused),
    };
    let copy = first_places().find_map(|at| copy_at(disk, at));
    let copy = copy.or_else(|| search(disk));
    let (copy, bytes) = copy.ok_or(fault)?;
    Ok(Some(StandIn {
        disk,
        at: copy.location,
        bytes,
        finding,
    }))
}

/// Where the first group's copy may lie: `fs_sblkno` of every size of block.
fn first_places() -> impl Iterator<Item = u64> {
    let behind = |primary: u64| move |block: u64| (primary + SBLOCK_UFS1).next_multiple_of(block);
    [SBLOCK_UFS2, SBLOCK_UFS1]
        .into_iter()
        .flat_map(move |primary| BLOCKS.into_iter().map(behind(primary)))
}

fn search(disk: &dyn Metadata) -> Option<(Superblock, Vec<u8>)> {
    for at in (0..SEARCHED).step_by(PIECE) {
        match read_with(disk, at, PIECE, has_magic) {
            Ok(false) => {}
            Ok(true) => {
                if let Some(copy) = copy_at(disk, at) {
                    return Some(copy);
                }
            }
            // The end of the device.
            Err(Fault::Device {
                errno: Errno::EINVAL,
                ..
            }) => return None,
            Err(_) => {}
        }
    }
    None
}

fn has_magic(bytes: &[u8]) -> bool {
    let magics = [raw::FS_UFS1_MAGIC, raw::FS_UFS2_MAGIC, raw::FS_UFS2EA_MAGIC];
    let magic = bytes.get(raw::MAGIC_OFFSET..raw::MAGIC_OFFSET + 4);
    magic.is_some_and(|magic| {
        magics
            .iter()
            .any(|known| *magic == known.to_le_bytes() || *magic == known.to_be_bytes())
    })
}

/// The copy at byte `at`, if there is one that belongs there.
fn copy_at(disk: &dyn Metadata, at: u64) -> Option<(Superblock, Vec<u8>)> {
    let bytes = read_with(disk, at, PIECE, <[u8]>::to_vec).ok()?;
    let judged = SBLOCKSEARCH.into_iter().find_map(|primary| {
        superblock::judge(&bytes, primary, FORCE)
            .ok()
            .flatten()
            // One of before 2003 does not say where it belongs.
            .filter(|sb| sb.updated || primary == SBLOCK_UFS1)
    })?;
    let group = at / judged.byte_of(u64::from(judged.fpg));
    let belongs = u32::try_from(group)
        .ok()
        .filter(|group| *group < judged.ncg)
        .is_some_and(|group| judged.byte_of(judged.cgsblock(group)) == at);
    belongs.then_some((judged, bytes))
}

/// A primary that passes, but that the first and the last copy contradict.
fn contradicted<'a>(disk: &'a dyn Metadata, primary: &Superblock) -> Option<StandIn<'a>> {
    let own = primary.byte_of(primary.cgsblock(0));
    let places = core::iter::once(own).chain(first_places());
    let (first, mut bytes) = places
        .filter(|at| *at != primary.location)
        .find_map(|at| copy_at(disk, at))?;
    if first.updated != primary.updated || same_geometry(primary, &first) {
        return None;
    }
    let last = first.byte_of(first.cgsblock(first.ncg - 1));
    let (last, _) = copy_at(disk, last)?;
    if !same_geometry(&first, &last) || first.ncg < 2 {
        return None;
    }
    // What is not geometry is newer in the primary.
    let theirs = read_with(disk, primary.location, PIECE, <[u8]>::to_vec).ok()?;
    let journal = offset_of!(RawSuperblock<LE>, journal)..offset_of!(RawSuperblock<LE>, sparecon64);
    bytes[journal.clone()].copy_from_slice(&theirs[journal]);
    let (field, says, right) = difference(primary, &first);
    Some(StandIn {
        disk,
        at: primary.location,
        bytes,
        finding: Finding::Number {
            topic: super::Topic::Superblock,
            field,
            says,
            right,
        },
    })
}

type Geometry = [(&'static str, u64); 12];

fn geometry(sb: &Superblock) -> Geometry {
    [
        ("size", sb.size),
        ("bsize", sb.bsize.into()),
        ("fsize", sb.fsize.into()),
        ("ncg", sb.ncg.into()),
        ("fpg", sb.fpg.into()),
        ("ipg", sb.ipg.into()),
        ("sblkno", sb.sblkno.into()),
        ("cblkno", sb.cblkno.into()),
        ("iblkno", sb.iblkno.into()),
        ("dblkno", sb.dblkno.into()),
        ("cgsize", sb.cgsize.into()),
        ("csaddr", sb.csaddr),
    ]
}

fn same_geometry(one: &Superblock, other: &Superblock) -> bool {
    one.format.is_ufs2() == other.format.is_ufs2() && geometry(one) == geometry(other)
}

/// The first field in which two superblocks differ.
fn difference(says: &Superblock, right: &Superblock) -> (&'static str, i64, i64) {
    let pairs = geometry(says).into_iter().zip(geometry(right));
    let mut differ = pairs.filter(|(says, right)| says != right);
    match differ.next() {
        Some(((field, says), (_, right))) => (field, says as i64, right as i64),
        None => (
            "magic",
            says.format.magic().into(),
            right.format.magic().into(),
        ),
    }
}
