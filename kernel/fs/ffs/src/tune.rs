//! Asking for a log on a volume that is not mounted, and for its removal: the next mount for writing does it.
//!
//! Only the journal's fields of the superblock change, in one write of a sector. The copies of the superblock stay as they are, as
//! with tunefs(8) without `-A`.
//!
//! Source: NetBSD tunefs(8) `-l`; sbin/tunefs/tunefs.c (`change_log_info`).

use core::mem::offset_of;

use rumpuser::{Errno, SECTOR_SIZE};
use zerocopy::LE;

use crate::check::repair::Repairable;
use crate::corrupt::Fault;
use crate::disk::{PIECE, read_with};
use crate::journal::{CREATE, Journal, REMOVE};
use crate::raw::RawSuperblock;
use crate::superblock::{self, Superblock, Tolerance};

/// The journal's fields of a superblock, as they lie there.
pub type Fields = [u8; 40];

/// Asks for a log of `bytes` bytes (0: of the usual length), to be made at the next mount with `log`. Answers what the fields
/// were, and what they are.
///
/// # Errors
/// `EEXIST`: there is a log. `EOPNOTSUPP`: the superblock is of a kind that knows of none. [`Fault`] if no superblock passes, or the
/// device fails.
pub fn ask_for_log(disk: &mut dyn Repairable, bytes: u64) -> Result<(Fields, Fields), Fault> {
    let sb = tunable(disk)?;
    if sb.journal.is_some_and(|journal| journal.is_made()) {
        return Err(Fault::Refused(Errno::EEXIST));
    }
    exchange(disk, &sb, &Journal::asking(bytes).encode())
}

/// Asks for the removal of the log, at the next mount for writing; or takes back that one was asked for. Answers what the
/// fields were, and what they are.
///
/// # Errors
/// `ENOENT`: there is no log, and none was asked for. Else as [`ask_for_log`].
pub fn ask_for_removal(disk: &mut dyn Repairable) -> Result<(Fields, Fields), Fault> {
    let sb = tunable(disk)?;
    let new = match sb.journal {
        None => return Err(Fault::Refused(Errno::ENOENT)),
        // Whoever mounts it has to find the log that is to go.
        Some(journal) if journal.is_made() => Journal {
            flags: (journal.flags | REMOVE) & !CREATE,
            ..journal
        }
        .encode(),
        Some(_) => [0; 40],
    };
    exchange(disk, &sb, &new)
}

/// Puts `before` in the place of `after`, if that is still there: what was asked for could not be done.
///
/// # Errors
/// As [`ask_for_log`].
pub fn take_back(
    disk: &mut dyn Repairable,
    (before, after): &(Fields, Fields),
) -> Result<(), Fault> {
    let sb = tunable(disk)?;
    if fields(disk, &sb)?.0 == *after {
        exchange(disk, &sb, before)?;
    }
    Ok(())
}

fn tunable(disk: &dyn Repairable) -> Result<Superblock, Fault> {
    let sb = superblock::find(disk, Tolerance::default())?;
    match sb.updated {
        true => Ok(sb),
        false => Err(Fault::Refused(Errno::EOPNOTSUPP)),
    }
}

/// The fields, and the sectors that they lie in.
fn fields(disk: &dyn Repairable, sb: &Superblock) -> Result<(Fields, [u8; PIECE]), Fault> {
    let mut piece = [0; PIECE];
    read_with(disk, sb.location, PIECE, |bytes| {
        piece.copy_from_slice(bytes)
    })?;
    let fields = piece[FIELDS..].first_chunk().copied();
    Ok((fields.ok_or(Fault::Refused(Errno::EIO))?, piece))
}

/// Where the fields are in the superblock; in one sector.
const FIELDS: usize = offset_of!(RawSuperblock<LE>, journal);
const _: () = assert!(FIELDS / SECTOR_SIZE == (FIELDS + 39) / SECTOR_SIZE);

fn exchange(
    disk: &mut dyn Repairable,
    sb: &Superblock,
    new: &Fields,
) -> Result<(Fields, Fields), Fault> {
    let (before, mut piece) = fields(disk, sb)?;
    piece[FIELDS..FIELDS + new.len()].copy_from_slice(new);
    let start = FIELDS - FIELDS % SECTOR_SIZE;
    let at = sb.location + start as u64;
    let written = disk.write(at, &piece[start..start + SECTOR_SIZE]);
    written.map_err(|errno| Fault::Device { at, errno })?;
    Ok((before, *new))
}
