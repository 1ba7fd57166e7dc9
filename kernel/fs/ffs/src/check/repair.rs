//! Repairs what a check finds, as fsck_ffs(8) `-y` does.
//!
//! In passes, until a check finds nothing, or a pass finds nothing that it can repair: first inodes and
//! names, each finding by itself; then, when these are right, maps and counters, which are computed
//! from them.
//!
//! Before anything else a log that was in use is replayed.
//!
//! What is lost: an inode that contradicts itself, or claims blocks of another or of nobody's, is
//! cleared, with its file; so is a file without a name that was removed (no links) or is empty. Other files without
//! a name, and directories that are not reached, get one in `lost+found`, which is made if there is none.
//!
//! Source: NetBSD fsck_ffs(8), pass1.c to pass5.c, dir.c (`linkup`), inode.c (`clri`).

mod lost;

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use rumpuser::{Errno, SECTOR_SIZE};
use zerocopy::LE;

use super::{Check, Finding, Report, State, backup, examine};
use crate::bmap::Path;
use crate::corrupt::{Corrupt, Fault};
use crate::dir;
use crate::disk::{Metadata, PIECE, read_in_block, read_with};
use crate::entries::first_unit;
use crate::inode::encode::put_pointer;
use crate::inode::{Contents, Inode, MAX_DIRECTORY, pointer};
use crate::journal;
use crate::raw::{DIRBLKSIZ, IFDIR, RawInode1, RawInode2, RawSuperblock, UFS_NDADDR, UFS_ROOTINO};
use crate::superblock::{self, Flags, Superblock, Tolerance};
use rumpvfs::vnode::VnodeType;

/// Passes at most: what one pass repairs may show what the next has to.
const MOST_PASSES: usize = 64;
/// A volume that can be written: not mounted, or nobody would know of the changes.
pub trait Repairable: Metadata {
    /// Writes `bytes` (whole sectors) at byte `offset`.
    ///
    /// # Errors
    /// The device's.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno>;
}

/// What a repair did.
#[derive(Clone, Debug, Default)]
pub struct Repaired {
    /// What was found in all passes together, in the order in which it was repaired.
    pub repaired: Vec<Finding>,
    /// What is still wrong.
    pub left: Report,
}

/// Repairs the volume on `disk`, and marks it clean if nothing is wrong in the end.
///
/// # Errors
/// [`Corrupt`] if no superblock passes; the device's error if it cannot be read or written.
pub fn repair(disk: &mut dyn Repairable) -> Result<Repaired, Fault> {
    let mut outcome = Repaired::default();
    let mut before = Writes::new();
    if let Some(finding) = restore_superblock(disk)? {
        outcome.repaired.push(finding);
    }
    replay(disk)?;
    for _ in 0..MOST_PASSES {
        let (todo, state) = plan(disk)?;
        outcome.left = state;
        // What is written once more did not help.
        if outcome.left.is_consistent() || todo == before {
            break;
        }
        outcome.repaired.extend_from_slice(&outcome.left.findings);
        for (at, bytes) in &todo {
            let at = *at;
            disk.write(at, bytes)
                .map_err(|errno| Fault::Device { at, errno })?;
        }
        before = todo;
    }
    if outcome.left.is_consistent() {
        let (at, bytes) = super::rebuild::clean(disk)?;
        disk.write(at, &bytes)
            .map_err(|errno| Fault::Device { at, errno })?;
    }
    Ok(outcome)
}

/// Puts a copy of the superblock over one that is not to be believed; what was wrong with that.
fn restore_superblock(disk: &mut dyn Repairable) -> Result<Option<Finding>, Fault> {
    let Some(view) = backup::stand_in(disk)? else {
        return Ok(None);
    };
    let (at, bytes, finding) = (view.at, view.bytes, view.finding);
    disk.write(at, &bytes)
        .map_err(|errno| Fault::Device { at, errno })?;
    Ok(Some(finding))
}

/// Replays the log, if it was in use, and takes that off the superblock. What cannot be replayed is repaired like the rest.
fn replay(disk: &mut dyn Repairable) -> Result<(), Fault> {
    let sb = superblock::find(disk, Tolerance { force: true })?;
    if !sb.flags.contains(Flags::DOWAPBL) {
        return Ok(());
    }
    let fault = |at| move |errno| Fault::Device { at, errno };
    match journal::read(&sb, &journal::Sectors(disk), u64::MAX) {
        Ok(replay) => {
            let mut piece = [0; PIECE];
            for entry in replay.entries() {
                let mut sector = entry.sector;
                while sector < entry.end() {
                    let count = (entry.end() - sector).min((PIECE / SECTOR_SIZE) as u64);
                    let bytes = &mut piece[..count as usize * SECTOR_SIZE];
                    let at = sector * SECTOR_SIZE as u64;
                    let source = journal::Sectors(disk);
                    replay.overlay(&source, sector, bytes).map_err(fault(at))?;
                    disk.write(at, bytes).map_err(fault(at))?;
                    sector += count;
                }
            }
        }
        Err(Fault::Corrupt(_)) => {}
        Err(fault) => return Err(fault),
    }
    let sb = superblock::find(disk, Tolerance { force: true })?;
    let mut bytes = read_with(disk, sb.location, PIECE, <[u8]>::to_vec)?;
    let at = core::mem::offset_of!(RawSuperblock<LE>, flags);
    let flags: [u8; 4] = core::array::from_fn(|n| bytes[at + n]);
    let flags = sb.order.u32(flags) & !Flags::DOWAPBL.bits();
    bytes[at..at + 4].copy_from_slice(&sb.order.bytes32(flags));
    disk.write(sb.location, &bytes).map_err(fault(sb.location))
}

/// What has to be written where, to repair what this pass can; and what was found.
fn plan(disk: &dyn Repairable) -> Result<(Writes, Report), Fault> {
    let check = examine(disk)?;
    let mut pass = Pass {
        disk,
        sb: &check.sb,
        check: &check,
        writes: Vec::new(),
        cleared: BTreeSet::new(),
        is_lost_made: false,
    };
    let is_late = |finding: &&Finding| {
        matches!(
            finding,
            Finding::Number { .. } | Finding::Map { .. } | Finding::Corrupt(Corrupt::Group { .. })
        )
    };
    let early = check.report.findings.iter();
    for finding in early.filter(|finding| !is_late(finding)) {
        match pass.repair(finding) {
            // What else is wrong comes first; the next pass sees what is left.
            Ok(()) | Err(Fault::Corrupt(_)) => {}
            Err(fault) => return Err(fault),
        }
    }
    if check
        .report
        .findings
        .iter()
        .all(|finding| is_late(&finding))
    {
        check.rebuild(&mut |at, bytes| pass.put(at, bytes))?;
    }
    let writes = pass.writes;
    Ok((writes, check.report))
}

/// Bytes, and where on the volume they go.
type Writes = Vec<(u64, Vec<u8>)>;

struct Pass<'a> {
    disk: &'a dyn Repairable,
    sb: &'a Superblock,
    check: &'a Check<'a>,
    /// Pieces that were changed; a later change of one starts from them.
    writes: Writes,
    cleared: BTreeSet<u32>,
    /// `lost+found` was made, or a directory got room: the next pass sees how much.
    is_lost_made: bool,
}

impl Pass<'_> {
    fn put(&mut self, at: u64, bytes: Vec<u8>) {
        match self.writes.iter_mut().find(|(known, _)| *known == at) {
            Some((_, old)) => *old = bytes,
            None => self.writes.push((at, bytes)),
        }
    }

    /// Changes `len` bytes from byte `at` on, within one sector or whole sectors.
    fn edit(&mut self, at: u64, len: usize, change: impl FnOnce(&mut [u8])) -> Result<(), Fault> {
        let piece = PIECE as u64;
        let (start, into) = (at - at % piece, (at % piece) as usize);
        let old = self.writes.iter().position(|(known, _)| *known == start);
        let mut bytes = match old {
            Some(n) => self.writes.swap_remove(n).1,
            None => read_with(self.disk, start, PIECE, <[u8]>::to_vec)?,
        };
        if let Some(part) = bytes.get_mut(into..into + len) {
            change(part);
        }
        self.writes.push((start, bytes));
        Ok(())
    }

    fn edit_inode(&mut self, ino: u32, change: impl FnOnce(&mut [u8])) -> Result<(), Fault> {
        let place = self.sb.inode_place(ino)?;
        let at = self.sb.byte_of(place.block) + place.byte as u64;
        self.edit(at, self.sb.format.inode_size(), change)
    }

    /// An inode, whatever is wrong with its group.
    fn inode(&self, ino: u32) -> Result<Inode, Fault> {
        let place = self.sb.inode_place(ino)?;
        let at = self.sb.byte_of(place.block);
        let decoded = read_in_block(self.disk, at, place.byte, |bytes| {
            Inode::decode(self.sb, ino, bytes)
        })?;
        Ok(decoded?)
    }

    fn clear(&mut self, ino: u32) -> Result<(), Fault> {
        if !self.cleared.insert(ino) {
            return Ok(());
        }
        // Without its root there is no volume.
        if ino == UFS_ROOTINO {
            return self.make_root();
        }
        let ufs2 = self.sb.format.is_ufs2();
        self.edit_inode(ino, |bytes| Inode::clear(ufs2, bytes))
    }

    fn repair(&mut self, finding: &Finding) -> Result<(), Fault> {
        match *finding {
            Finding::Corrupt(corrupt) => self.repair_corrupt(corrupt),
            Finding::PartlyAllocated { ino } | Finding::Duplicate { second: ino, .. } => {
                self.clear(ino)
            }
            Finding::Root => self.clear(UFS_ROOTINO),
            Finding::BeyondEnd { ino, block, .. } => self.cut_pointer(ino, block),
            Finding::Blocks { ino, has, .. } => self.change_inode(ino, |inode| inode.blocks = has),
            Finding::Links { ino, has, .. } => {
                self.change_inode(ino, |inode| inode.nlink = has.min(32767) as u16)
            }
            Finding::Dot { ino } => self.repair_dots(ino, None),
            Finding::DotDot { ino, parent, .. } if parent != 0 => {
                self.repair_dots(ino, Some(parent))
            }
            // It gets a name first.
            Finding::DotDot { .. } => Ok(()),
            Finding::NameOfNothing { ino, offset, .. }
            | Finding::SecondName { ino, offset, .. } => {
                self.edit_entry(ino, offset, |entry| entry[..4].fill(0))
            }
            Finding::NameType {
                ino,
                offset,
                target,
            } => {
                let dtype = match self.check.inodes[target as usize].state {
                    State::File(dtype) => dtype,
                    _ => (IFDIR >> 12) as u8,
                };
                self.edit_entry(ino, offset, |entry| entry[6] = dtype)
            }
            Finding::Unreached { ino } if self.check.inodes[ino as usize].names > 0 => {
                self.repair_unreached(ino)
            }
            // Without a name, it is found once more, as that.
            Finding::Unreached { .. } => Ok(()),
            Finding::Nameless { ino } => self.repair_nameless(ino),
            Finding::Number { .. } | Finding::Map { .. } => Ok(()),
        }
    }

    fn change_inode(&mut self, ino: u32, change: impl FnOnce(&mut Inode)) -> Result<(), Fault> {
        if self.cleared.contains(&ino) {
            return Ok(());
        }
        let sb = self.sb;
        self.edit_inode(ino, |bytes| {
            // What was changed in this pass already counts.
            if let Ok(mut inode) = Inode::decode(sb, ino, bytes) {
                change(&mut inode);
                inode.encode(sb, bytes);
            }
        })
    }

    fn repair_corrupt(&mut self, corrupt: Corrupt) -> Result<(), Fault> {
        match corrupt {
            Corrupt::Inode {
                ino,
                field: "size",
                value,
            } if value % DIRBLKSIZ as u64 != 0 && value < MAX_DIRECTORY => self.round_size(ino),
            Corrupt::Inode { ino, .. }
            | Corrupt::Pointer { ino, .. }
            | Corrupt::IndirectPointer { ino, .. }
            | Corrupt::DirectoryHole { ino, .. }
            | Corrupt::SymlinkText { ino } => self.clear(ino),
            Corrupt::Entry { ino, offset, .. } => {
                let order = self.sb.order;
                let unit = offset - offset % DIRBLKSIZ as u64;
                self.edit_unit(ino, unit, |bytes| {
                    bytes.fill(0);
                    bytes[4..6].copy_from_slice(&order.bytes16(DIRBLKSIZ as u16));
                })
            }
            _ => Ok(()),
        }
    }

    /// Makes a directory that ends within a unit end behind it; anything else of a wrong size goes.
    fn round_size(&mut self, ino: u32) -> Result<(), Fault> {
        let sb = self.sb;
        let at = match sb.format.is_ufs2() {
            true => core::mem::offset_of!(RawInode2<LE>, size),
            false => core::mem::offset_of!(RawInode1<LE>, size),
        };
        let mut is_right = false;
        self.edit_inode(ino, |bytes| {
            let size: [u8; 8] = core::array::from_fn(|n| bytes[at + n]);
            let rounded = sb.order.u64(size).next_multiple_of(DIRBLKSIZ as u64);
            let old: [u8; 8] = size;
            bytes[at..at + 8].copy_from_slice(&sb.order.bytes64(rounded));
            let decoded = Inode::decode(sb, ino, bytes);
            is_right = decoded.is_ok_and(|inode| inode.vtype == VnodeType::Dir);
            if !is_right {
                bytes[at..at + 8].copy_from_slice(&old);
            }
        })?;
        match is_right {
            true => Ok(()),
            false => self.clear(ino),
        }
    }

    fn edit_unit(
        &mut self,
        ino: u32,
        unit: u64,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), Fault> {
        if self.cleared.contains(&ino) {
            return Ok(());
        }
        let inode = self.inode(ino)?;
        let (at, _) = dir::place(self.sb, self.disk, &inode, unit, DIRBLKSIZ as u64)?;
        self.edit(at, DIRBLKSIZ, change)
    }

    fn edit_entry(
        &mut self,
        ino: u32,
        offset: u64,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), Fault> {
        let unit = offset - offset % DIRBLKSIZ as u64;
        self.edit_unit(ino, unit, |bytes| {
            change(&mut bytes[(offset - unit) as usize..]);
        })
    }

    /// Rewrites `.` and `..`. If the first unit has other names in their place, those go.
    fn repair_dots(&mut self, ino: u32, parent: Option<u32>) -> Result<(), Fault> {
        let order = self.sb.order;
        // One without a unit has no name that could be lost.
        if self.inode(ino)?.size == 0 {
            return self.clear(ino);
        }
        let parent = parent.unwrap_or(UFS_ROOTINO);
        self.edit_unit(ino, 0, |unit| {
            let has_dots = unit[4..6] == order.bytes16(12)
                && unit[7..10] == [1, b'.', 0]
                && unit[19..23] == [2, b'.', b'.', 0];
            if has_dots {
                unit[..4].copy_from_slice(&order.bytes32(ino));
                unit[12..16].copy_from_slice(&order.bytes32(parent));
            } else {
                unit.copy_from_slice(&first_unit(order, ino, parent));
            }
        })
    }

    /// Zeroes the pointer that leads beyond the end of the file to block `block`.
    fn cut_pointer(&mut self, ino: u32, block: u64) -> Result<(), Fault> {
        let sb = self.sb;
        let inode = self.inode(ino)?;
        let end = inode.size.div_ceil(u64::from(sb.bsize));
        let Some(path) = Path::to(sb.nindir, block) else {
            return Ok(());
        };
        if path.depth == 0 {
            return self.change_inode(ino, |inode| zero_root(inode, path.direct));
        }
        let n = u64::from(sb.nindir);
        let mut first: u64 = UFS_NDADDR as u64
            + (1..path.depth as u32)
                .map(|level| n.pow(level))
                .sum::<u64>();
        if first >= end {
            return self.change_inode(ino, |inode| zero_root(inode, UFS_NDADDR + path.depth - 1));
        }
        let Contents::Blocks { indirect, .. } = &inode.contents else {
            return Ok(());
        };
        let width = sb.format.pointer_size();
        let mut at = indirect[path.depth - 1];
        for (step, index) in path.indices[..path.depth].iter().enumerate() {
            let span = n.pow((path.depth - step - 1) as u32);
            first += u64::from(*index) * span;
            let place = u64::try_from(at).unwrap_or(0);
            if !sb.is_data(place, sb.frag) {
                return Ok(());
            }
            let byte = sb.byte_of(place) + (*index as usize * width) as u64;
            let order = sb.order;
            if first >= end {
                return self.edit(byte, width, |bytes| put_pointer(order, bytes, 0));
            }
            self.edit(byte, width, |bytes| at = pointer(order, bytes))?;
        }
        Ok(())
    }

    /// A directory in a circle, or below one that is not reached: only a circle is broken here, by taking one of
    /// its directories' name away; the rest follows.
    fn repair_unreached(&mut self, ino: u32) -> Result<(), Fault> {
        let reason_elsewhere = self.check.report.findings.iter().any(|finding| {
            matches!(finding, Finding::Unreached { ino }
                if self.check.inodes[*ino as usize].names == 0)
        });
        if reason_elsewhere || !self.cleared.is_empty() {
            return Ok(());
        }
        self.clear(ino)
    }

    fn repair_nameless(&mut self, ino: u32) -> Result<(), Fault> {
        let inode = self.inode(ino)?;
        let has_contents = match inode.contents {
            Contents::Blocks { .. } => inode.size > 0 && inode.blocks > 0,
            _ => false,
        };
        let is_empty_directory = inode.vtype == VnodeType::Dir && !self.holds_names(&inode)?;
        if inode.nlink == 0 || !has_contents || is_empty_directory {
            return self.clear(ino);
        }
        self.name_lost(&inode)
    }

    fn holds_names(&self, inode: &Inode) -> Result<bool, Fault> {
        let range = (0, inode.size);
        let only_dots = dir::walk(self.sb, self.disk, inode, range, &mut |entry| {
            matches!(entry.name, b"." | b"..")
        });
        match only_dots {
            Ok(only_dots) => Ok(!only_dots),
            Err(Fault::Corrupt(_)) => Ok(true),
            Err(fault) => Err(fault),
        }
    }
}

/// Zeroes pointer `index` (0 to 14) of an inode.
fn zero_root(inode: &mut Inode, index: usize) {
    if let Contents::Blocks { direct, indirect } = &mut inode.contents
        && let Some(pointer) = direct.iter_mut().chain(indirect).nth(index)
    {
        *pointer = 0;
    }
}
