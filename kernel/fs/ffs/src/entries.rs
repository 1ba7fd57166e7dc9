//! Changing directories: entering, removing and rewriting names.
//!
//! Every change is one of one 512-byte unit, which is written or not written as a whole. A name goes
//! into the first unit with room, found from a hint on: into a free entry, the slack behind a live
//! one, or what moving the live ones together leaves; else the directory grows by a unit. Empty units at
//! the end are cut off.
//!
//! Source: NetBSD sys/ufs/ufs/ufs_lookup.c (`ufs_direnter`, `ufs_dirremove`, `ufs_dirrewrite`,
//! `ufs_dirempty`).

use alloc::sync::Arc;

use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::vnode::{VnodeType, Wait};

use crate::allocator::Allocator;
use crate::balloc::{Balloc, Place, barrier};
use crate::corrupt::{Corrupt, Fault};
use crate::dir::{self, ENTRY_HEAD, Entry, Shape, entry_size};
use crate::dirhash::{DirHash, Hashed, NoMemory};
use crate::disk::read_with;
use crate::inode::Inode;
use crate::order::Order;
use crate::raw::DIRBLKSIZ;
use crate::truncate::{PIECE_BLOCKS, Truncate};
use crate::volume::Volume;

const UNIT: u64 = DIRBLKSIZ as u64;

/// A directory being changed: its vnode's lock is held exclusively. The inode is a copy, which the
/// caller puts back.
pub struct Directory<'a> {
    /// The volume.
    pub volume: &'a Volume,
    /// The directory.
    pub inode: &'a mut Inode,
    /// Where its names are, if that is known.
    pub hashed: Option<&'a Arc<Hashed>>,
}

impl Directory<'_> {
    /// Enters `name` for inode `ino` of type `vtype`. Units before `hint` are full. The disk gets it after the buffers at
    /// the sectors `before`. Answers the offset of the unit that the name went into.
    pub fn enter(
        &mut self,
        name: &[u8],
        (ino, vtype): (u32, VnodeType),
        hint: u64,
        before: &[u64],
    ) -> Result<u64, Fault> {
        let need = entry_size(name.len());
        let entered = match self.find_room(need, hint)? {
            Some(offset) => self
                .insert(offset, name, (ino, vtype), before)
                .map(|()| offset),
            None => {
                let (end, order) = (self.inode.size, self.volume.sb.order);
                self.grow(Wait::Started, before, &mut |unit| {
                    put_entry(unit, order, (0, DIRBLKSIZ), (ino, vtype), name);
                })
                .map(|()| end)
            }
        };
        entered.inspect_err(|_| self.forget())
    }

    /// Puts an entry into the unit at `offset`, which has room for it.
    fn insert(
        &self,
        offset: u64,
        name: &[u8],
        file: (u32, VnodeType),
        before: &[u64],
    ) -> Result<(), Fault> {
        let (order, shape) = (self.volume.sb.order, Shape::of(&self.volume.sb));
        self.edit(offset, before, |unit| {
            let Some(at) = slack(unit, order, entry_size(name.len())) else {
                self.follow(|hash| {
                    hash.unlearn(&shape, unit, offset);
                    Ok(())
                });
                compact(unit, order, file, name);
                return self.follow(|hash| match hash.learn(&shape, unit, offset) {
                    Ok(true) => Ok(()),
                    _ => Err(NoMemory),
                });
            };
            let at = insert_at(unit, order, at, file, name);
            self.follow(|hash| {
                hash.insert(name, offset + at as u64)?;
                hash.set_room(offset, spare(unit, order))
            });
        })
    }

    /// Removes the entry at `offset`. The disk gets that after the buffers at the sectors `before`; answers the sector of the
    /// buffer that has to be on the disk before the file may have a name less.
    pub fn remove(&mut self, offset: u64, before: &[u64]) -> Result<u64, Fault> {
        let order = self.volume.sb.order;
        let unit = offset - offset % UNIT;
        let sector = self.sector(offset)?;
        let edited = self.edit(unit, before, |bytes| {
            let at = (offset - unit) as usize;
            let name_len = head(bytes, order, at).2;
            self.follow(|hash| {
                hash.remove(&bytes[at + ENTRY_HEAD..][..name_len], offset);
                Ok(())
            });
            remove(bytes, order, at);
            self.follow(|hash| hash.set_room(unit, spare(bytes, order)));
        });
        let cut = edited.and_then(|()| match unit + UNIT == self.inode.size {
            true => self.cut_empty_end(),
            false => Ok(()),
        });
        cut.inspect_err(|_| self.forget())?;
        Ok(sector)
    }

    /// The sector of the buffer that holds the entry at `offset`.
    pub fn sector(&self, offset: u64) -> Result<u64, Fault> {
        let (at, piece) = self.place(offset - offset % UNIT)?;
        Ok((at - at % piece as u64) / SECTOR_SIZE as u64)
    }

    /// Lets the hash, if there is one, follow a change.
    fn follow(&self, change: impl FnOnce(&mut DirHash) -> Result<(), NoMemory>) {
        if let Some(hashed) = self.hashed {
            hashed.follow(change);
        }
    }

    /// The hash may contradict the directory, in which a change failed.
    fn forget(&self) {
        if let Some(hashed) = self.hashed {
            hashed.forget();
        }
    }

    /// Lets the entry at `offset` name inode `ino` of type `vtype`, on the disk after the buffers at the sectors `before`.
    pub fn rewrite(
        &mut self,
        offset: u64,
        (ino, vtype): (u32, VnodeType),
        before: &[u64],
    ) -> Result<(), Fault> {
        let order = self.volume.sb.order;
        let unit = offset - offset % UNIT;
        self.edit(unit, before, |bytes| {
            let at = (offset - unit) as usize;
            bytes[at..at + 4].copy_from_slice(&order.bytes32(ino));
            bytes[at + 6] = vtype.dirent_type();
        })
    }

    /// Whether there is nothing in it but `.` and `..`.
    pub fn is_empty(&self) -> Result<bool, Fault> {
        let (sb, disk) = (&self.volume.sb, &self.volume.device);
        let range = (0, self.inode.size);
        let mut only_dots = |entry: &Entry<'_>| matches!(entry.name, b"." | b"..");
        dir::walk(sb, disk, self.inode, range, &mut only_dots)
    }

    /// The first unit from `hint` on with `need` bytes to spare.
    fn find_room(&self, need: usize, hint: u64) -> Result<Option<u64>, Fault> {
        if let Some(known) = self.hashed.and_then(|hashed| hashed.find_room(need)) {
            return Ok(known);
        }
        let shape = Shape::of(&self.volume.sb);
        let mut offset = hint - hint % UNIT;
        while offset < self.inode.size {
            let (at, piece) = self.place(offset)?;
            let into = (at % piece as u64) as usize;
            let start = at - into as u64;
            // All units that the piece holds.
            let count = (piece - into).min((self.inode.size - offset) as usize) / DIRBLKSIZ;
            let found = read_with(&self.volume.device, start, piece, |bytes| {
                for n in 0..count {
                    let from = into + n * DIRBLKSIZ;
                    let here = offset + (n * DIRBLKSIZ) as u64;
                    if room(&shape, &bytes[from..from + DIRBLKSIZ], here)? >= need {
                        return Ok(Some(here));
                    }
                }
                Ok(None)
            })?;
            match found.map_err(|(offset, fault)| Corrupt::Entry {
                ino: self.inode.ino,
                offset,
                fault,
            })? {
                Some(here) => return Ok(Some(here)),
                None => offset += (count * DIRBLKSIZ) as u64,
            }
        }
        Ok(None)
    }

    /// The byte of the volume at which the unit at `offset` lies, and the bytes of the buffers there.
    fn place(&self, offset: u64) -> Result<(u64, usize), Fault> {
        let sb = &self.volume.sb;
        let (at, _) = dir::place(sb, &self.volume.device, self.inode, offset, UNIT)?;
        Ok((at, sb.tail_piece()))
    }

    /// Changes the unit at `offset`, if it is sound; the disk gets it after the buffers at the sectors `before`.
    fn edit(
        &self,
        offset: u64,
        before: &[u64],
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), Fault> {
        let (at, piece) = self.place(offset)?;
        let into = (at % piece as u64) as usize;
        let start = at - into as u64;
        let fault = |errno| Fault::Device { at, errno };
        let device = &self.volume.device;
        let mut buf = device
            .bmodify_after(start / SECTOR_SIZE as u64, piece, before)
            .map_err(fault)?;
        let shape = Shape::of(&self.volume.sb);
        let sound = shape.walk_unit(&buf[into..into + DIRBLKSIZ], offset, &mut |_, _| true);
        if let Err((offset, fault)) = sound {
            return Err(Corrupt::Entry {
                ino: self.inode.ino,
                offset,
                fault,
            }
            .into());
        }
        change(&mut buf[into..into + DIRBLKSIZ]);
        buf.bdwrite();
        Ok(())
    }

    /// Adds a unit, which `fill` fills in. It comes to the disk after the buffers at the sectors `before`, and the inode that has
    /// it after the unit; `Stable`: when this returns, the unit is there.
    pub fn grow(
        &mut self,
        wait: Wait,
        before: &[u64],
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), Fault> {
        let (sb, device) = (&self.volume.sb, &self.volume.device);
        let size = self.inode.size + UNIT;
        if size > 0x7fff_ffff {
            return Err(Fault::Refused(Errno::EFBIG));
        }
        let balloc = Balloc { sb, device };
        let mut space = self.volume.allocator()?;
        let was = self.inode.size;
        let block = was >> sb.bshift;
        let place = balloc.block(&mut space, self.inode, block, size)?;
        self.inode.size = size;
        let moved = match place {
            Place::Moved(moved) => Some(moved),
            Place::Had | Place::New | Place::Longer(_) => None,
        };
        // While it can still fail.
        let revoked = moved.map_or(Ok(()), |moved| space.revoke(moved.from, moved.old));
        let filled = revoked.and_then(|()| self.fill_last(wait, before, fill));
        let stored = filled.and_then(|unit| match moved {
            // Its old place is about to be somebody else's.
            Some(_) => self.inode.store(sb, device, Wait::Stable),
            None => self.inode.store_after(sb, device, &[unit]),
        });
        if let Err(fault) = stored {
            // As it was, as far as that can be.
            let _ = Truncate::new(sb, device, VnodeType::Dir).cut(&mut space, self.inode, was);
            return Err(fault);
        }
        if let Some(moved) = moved {
            barrier(device, sb.byte_of(moved.from))?;
            self.volume.invalidate(moved.from, moved.old);
            space.free_moved(moved.from, moved.old)?;
        }
        Ok(())
    }

    fn fill_last(
        &self,
        wait: Wait,
        before: &[u64],
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<u64, Fault> {
        let (at, piece) = self.place(self.inode.size - UNIT)?;
        let into = (at % piece as u64) as usize;
        let sector = (at - into as u64) / SECTOR_SIZE as u64;
        let device = &self.volume.device;
        let buf = match into {
            0 => device.getblk_after(sector, piece, before),
            _ => device.bmodify_after(sector, piece, before),
        };
        let fault = |errno| Fault::Device { at, errno };
        let mut buf = buf.map_err(fault)?;
        let unit = &mut buf[into..into + DIRBLKSIZ];
        fill(unit);
        let (shape, offset) = (Shape::of(&self.volume.sb), self.inode.size - UNIT);
        self.follow(|hash| match hash.learn(&shape, unit, offset) {
            Ok(true) => Ok(()),
            _ => Err(NoMemory),
        });
        match wait {
            Wait::Stable => buf.bwrite().map_err(fault)?,
            Wait::Started => buf.bdwrite(),
        }
        Ok(sector)
    }

    /// Cuts off the units at the end that hold no name.
    fn cut_empty_end(&mut self) -> Result<(), Fault> {
        let shape = Shape::of(&self.volume.sb);
        let mut size = self.inode.size;
        // No more than an operation of a log can cut off; the rest goes with the next name.
        let least = size.saturating_sub(PIECE_BLOCKS << self.volume.sb.bshift);
        while size > UNIT.max(least) {
            let (at, piece) = self.place(size - UNIT)?;
            let into = (at % piece as u64) as usize;
            let start = at - into as u64;
            let empty = read_with(&self.volume.device, start, piece, |bytes| {
                let unit = &bytes[into..into + DIRBLKSIZ];
                room(&shape, unit, size - UNIT).is_ok_and(|room| room == DIRBLKSIZ)
            })?;
            if !empty {
                break;
            }
            size -= UNIT;
        }
        if size < self.inode.size {
            let (sb, device) = (&self.volume.sb, &self.volume.device);
            let mut space: Allocator<'_> = self.volume.allocator()?;
            self.follow(|hash| hash.cut(size));
            Truncate::new(sb, device, VnodeType::Dir).cut(&mut space, self.inode, size)?;
        }
        Ok(())
    }
}

/// The first unit of a new directory.
pub fn first_unit(order: Order, own: u32, parent: u32) -> [u8; DIRBLKSIZ] {
    let mut unit = [0; DIRBLKSIZ];
    let dot = entry_size(1);
    put_entry(&mut unit, order, (0, dot), (own, VnodeType::Dir), b".");
    let rest = DIRBLKSIZ - dot;
    put_entry(
        &mut unit,
        order,
        (dot, rest),
        (parent, VnodeType::Dir),
        b"..",
    );
    unit
}

/// Bytes of `unit` that its names do not need.
pub(crate) fn room(
    shape: &Shape,
    unit: &[u8],
    offset: u64,
) -> Result<usize, (u64, crate::corrupt::EntryFault)> {
    let mut used = 0;
    shape.walk_unit(unit, offset, &mut |_, entry| {
        used += entry.map_or(0, |entry| entry_size(entry.name.len()));
        true
    })?;
    Ok(unit.len() - used)
}

/// Number, length and name length of the entry at `at` of a sound unit.
fn head(unit: &[u8], order: Order, at: usize) -> (u32, usize, usize) {
    let ino = order.u32([unit[at], unit[at + 1], unit[at + 2], unit[at + 3]]);
    let reclen = order.u16([unit[at + 4], unit[at + 5]]);
    (ino, usize::from(reclen), usize::from(unit[at + 7]))
}

fn set_length(unit: &mut [u8], order: Order, at: usize, length: usize) {
    unit[at + 4..at + 6].copy_from_slice(&order.bytes16(length as u16));
}

/// Bytes that the entry needs; a free one none, and so a whiteout, which hides nothing here.
fn used((ino, _, name_len): (u32, usize, usize)) -> usize {
    if ino <= crate::raw::UFS_WINO {
        0
    } else {
        entry_size(name_len)
    }
}

fn put_entry(
    unit: &mut [u8],
    order: Order,
    (at, length): (usize, usize),
    (ino, vtype): (u32, VnodeType),
    name: &[u8],
) {
    let end = at + entry_size(name.len());
    unit[at..end].fill(0);
    unit[at..at + 4].copy_from_slice(&order.bytes32(ino));
    set_length(unit, order, at, length);
    unit[at + 6] = vtype.dirent_type();
    unit[at + 7] = name.len() as u8;
    unit[at + ENTRY_HEAD..at + ENTRY_HEAD + name.len()].copy_from_slice(name);
}

/// Puts an entry into a sound unit that has room for it.
pub(crate) fn insert(unit: &mut [u8], order: Order, file: (u32, VnodeType), name: &[u8]) {
    match slack(unit, order, entry_size(name.len())) {
        Some(at) => drop(insert_at(unit, order, at, file, name)),
        None => compact(unit, order, file, name),
    }
}

/// The first entry of a sound unit with `need` bytes to spare behind it, or in it if it is free.
fn slack(unit: &[u8], order: Order, need: usize) -> Option<usize> {
    let mut at = 0;
    while at < unit.len() {
        let entry = head(unit, order, at);
        if entry.1 - used(entry) >= need {
            return Some(at);
        }
        at += entry.1;
    }
    None
}

/// Bytes of a sound unit that its names do not need.
fn spare(unit: &[u8], order: Order) -> usize {
    let (mut at, mut spare) = (0, 0);
    while at < unit.len() {
        let entry = head(unit, order, at);
        spare += entry.1 - used(entry);
        at += entry.1;
    }
    spare
}

/// Puts an entry where the one at `at` leaves room; answers where it begins.
fn insert_at(
    unit: &mut [u8],
    order: Order,
    at: usize,
    file: (u32, VnodeType),
    name: &[u8],
) -> usize {
    let entry = head(unit, order, at);
    let (taken, length) = (used(entry), entry.1);
    if taken > 0 {
        set_length(unit, order, at, taken);
    }
    put_entry(unit, order, (at + taken, length - taken), file, name);
    at + taken
}

/// Moves the live entries of a sound unit together, and puts an entry behind them.
fn compact(unit: &mut [u8], order: Order, file: (u32, VnodeType), name: &[u8]) {
    let need = entry_size(name.len());
    let (mut from, mut to, mut last) = (0, 0, 0);
    while from < unit.len() {
        let entry = head(unit, order, from);
        let taken = used(entry);
        if taken > 0 {
            unit.copy_within(from..from + taken, to);
            set_length(unit, order, to, taken);
            last = to;
            to += taken;
        }
        from += entry.1;
    }
    let rest = unit.len() - to;
    if rest >= need {
        put_entry(unit, order, (to, rest), file, name);
    } else {
        set_length(unit, order, last, unit.len() - last);
    }
}

/// Removes the entry at `at` of a sound unit.
fn remove(unit: &mut [u8], order: Order, at: usize) {
    let (mut here, mut before) = (0, None);
    while here < at {
        before = Some(here);
        here += head(unit, order, here).1;
    }
    let length = head(unit, order, at).1;
    match before {
        Some(before) => set_length(unit, order, before, at - before + length),
        None => unit[at..at + 4].fill(0),
    }
}
