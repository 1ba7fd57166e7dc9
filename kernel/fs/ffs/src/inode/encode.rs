//! Writing inodes back: into the buffer that they share with their neighbours.

use rumpuser::{Errno, SECTOR_SIZE, WallTime};
use zerocopy::byteorder::{ByteOrder, I16, I32, I64, U16, U32, U64};
use zerocopy::{BE, FromBytes, LE};

use super::{Contents, Inode};
use crate::corrupt::{Corrupt, Fault};
use crate::disk::{PIECE, read_in_block};
use crate::order::Order;
use crate::raw::{RawInode1, RawInode2};
use crate::superblock::{Format, Superblock};
use rumpvfs::bufcache::Devvp;
use rumpvfs::vnode::Wait;

/// The seconds that UFS1 has for a time: 32 bits, so that the last is in 2038.
fn seconds_of_ufs1(time: WallTime) -> i32 {
    time.seconds.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

/// What the attribute area of an inode holds, as far as freeing it goes.
pub(crate) type Attributes = [(i64, u32); 2];

impl Inode {
    /// Puts the inode into its buffer: `Stable` waits until the disk has it, `Started` leaves it to a
    /// later flush.
    pub fn store(&self, sb: &Superblock, device: &Devvp, wait: Wait) -> Result<(), Fault> {
        edit(sb, device, self.ino, (wait, &[]), |bytes| {
            self.encode(sb, bytes);
        })
    }

    /// Puts the inode into its buffer, to be written later, and not before the buffers at the sectors `before` are.
    pub fn store_after(
        &self,
        sb: &Superblock,
        device: &Devvp,
        before: &[u64],
    ) -> Result<(), Fault> {
        edit(sb, device, self.ino, (Wait::Started, before), |bytes| {
            self.encode(sb, bytes);
        })
    }

    /// The sector of the buffer that inode `ino` is in.
    pub fn sector(sb: &Superblock, ino: u32) -> Result<u64, Corrupt> {
        let place = sb.inode_place(ino)?;
        let into = place.byte - place.byte % PIECE;
        Ok((sb.byte_of(place.block) + into as u64) / SECTOR_SIZE as u64)
    }

    /// Makes the inode on the disk a free one, which keeps its generation.
    pub fn erase(sb: &Superblock, device: &Devvp, ino: u32, wait: Wait) -> Result<(), Fault> {
        edit(sb, device, ino, (wait, &[]), |bytes| {
            Inode::clear(sb.format.is_ufs2(), bytes);
        })
    }

    /// Makes the inode in `bytes` a free one.
    pub(crate) fn clear(is_ufs2: bool, bytes: &mut [u8]) {
        let generation = if is_ufs2 { 80..84 } else { 108..112 };
        for (at, byte) in bytes.iter_mut().enumerate() {
            if !generation.contains(&at) {
                *byte = 0;
            }
        }
    }

    /// Mode and generation of inode `ino`, which is to be a free one.
    pub(crate) fn vacant(sb: &Superblock, device: &Devvp, ino: u32) -> Result<(u16, u32), Fault> {
        let place = sb.inode_place(ino)?;
        let at = if sb.format.is_ufs2() { 80 } else { 108 };
        read_in_block(device, sb.byte_of(place.block), place.byte, |bytes| {
            let mode = bytes.get(..2).and_then(|bytes| bytes.try_into().ok());
            let word = bytes
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok());
            (
                mode.map_or(u16::MAX, |bytes| sb.order.u16(bytes)),
                word.map_or(0, |bytes| sb.order.u32(bytes)),
            )
        })
    }

    /// Writes the fields over those in `bytes`; what this code does not know stays.
    pub fn encode(&self, sb: &Superblock, bytes: &mut [u8]) {
        match (sb.format, sb.order) {
            (Format::Ufs1, Order::Little) => self.encode1::<LE>(sb, bytes),
            (Format::Ufs1, Order::Big) => self.encode1::<BE>(sb, bytes),
            (_, Order::Little) => self.encode2::<LE>(sb, bytes),
            (_, Order::Big) => self.encode2::<BE>(sb, bytes),
        }
    }

    fn encode1<O: ByteOrder>(&self, sb: &Superblock, bytes: &mut [u8]) {
        let Ok((raw, _)) = RawInode1::<O>::mut_from_prefix(bytes) else {
            return;
        };
        raw.mode = U16::new(self.mode());
        raw.nlink = I16::new(self.nlink as i16);
        raw.size = U64::new(self.size);
        raw.atime = I32::new(seconds_of_ufs1(self.atime));
        raw.atimensec = I32::new(self.atime.nanos as i32);
        raw.mtime = I32::new(seconds_of_ufs1(self.mtime));
        raw.mtimensec = I32::new(self.mtime.nanos as i32);
        raw.ctime = I32::new(seconds_of_ufs1(self.ctime));
        raw.ctimensec = I32::new(self.ctime.nanos as i32);
        raw.flags = U32::new(self.flags);
        raw.blocks = U32::new(self.blocks as u32);
        raw.r#gen = I32::new(self.generation as i32);
        raw.uid = U32::new(self.uid);
        raw.gid = U32::new(self.gid);
        self.encode_contents(sb, &mut raw.pointers);
    }

    fn encode2<O: ByteOrder>(&self, sb: &Superblock, bytes: &mut [u8]) {
        let Ok((raw, _)) = RawInode2::<O>::mut_from_prefix(bytes) else {
            return;
        };
        raw.mode = U16::new(self.mode());
        raw.nlink = I16::new(self.nlink as i16);
        raw.uid = U32::new(self.uid);
        raw.gid = U32::new(self.gid);
        raw.size = U64::new(self.size);
        raw.blocks = U64::new(self.blocks);
        raw.atime = I64::new(self.atime.seconds);
        raw.atimensec = I32::new(self.atime.nanos as i32);
        raw.mtime = I64::new(self.mtime.seconds);
        raw.mtimensec = I32::new(self.mtime.nanos as i32);
        raw.ctime = I64::new(self.ctime.seconds);
        raw.ctimensec = I32::new(self.ctime.nanos as i32);
        if let Some(birth) = self.birthtime {
            raw.birthtime = I64::new(birth.seconds);
            raw.birthnsec = I32::new(birth.nanos as i32);
        }
        raw.flags = U32::new(self.flags);
        raw.r#gen = I32::new(self.generation as i32);
        self.encode_contents(sb, &mut raw.pointers);
    }

    fn encode_contents(&self, sb: &Superblock, area: &mut [u8]) {
        let width = sb.format.pointer_size();
        area.fill(0);
        let mut places = area.chunks_exact_mut(width);
        let mut put = |value: i64| {
            if let Some(place) = places.next() {
                put_pointer(sb.order, place, value);
            }
        };
        match &self.contents {
            Contents::Blocks { direct, indirect } => {
                direct.iter().chain(indirect).for_each(|value| put(*value));
            }
            Contents::Device(number) => put(*number as i64),
            Contents::Nothing => {}
            Contents::Text { bytes, len } => {
                let len = usize::from(*len).min(area.len());
                area[..len].copy_from_slice(&bytes[..len]);
            }
        }
    }

    /// The blocks of the attribute area of inode `ino`, with the bytes of each; 0 where there is none.
    pub(crate) fn attributes(
        sb: &Superblock,
        device: &Devvp,
        ino: u32,
    ) -> Result<Attributes, Fault> {
        let mut found = [(0, 0); 2];
        if !sb.format.is_ufs2() {
            return Ok(found);
        }
        let place = sb.inode_place(ino)?;
        let into = place.byte - place.byte % PIECE;
        let at = sb.byte_of(place.block) + into as u64;
        let buf = device
            .bread(at / SECTOR_SIZE as u64, PIECE)
            .map_err(|errno| Fault::Device { at, errno })?;
        let bytes = buf.get(place.byte - into..).unwrap_or_default();
        let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        let long = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
        let size = word(92).map_or(0, |bytes| sb.order.u32(bytes));
        let size = if size > 2 * sb.bsize { 0 } else { size };
        for (n, found) in found.iter_mut().enumerate() {
            let left = size.saturating_sub(n as u32 * sb.bsize).min(sb.bsize);
            let address = long(96 + 8 * n).map_or(0, |bytes| sb.order.u64(bytes) as i64);
            if left > 0 && address > 0 {
                *found = (address, left);
            }
        }
        Ok(found)
    }
}

/// Puts a pointer into `place`, which is as wide as the volume's pointers are.
pub fn put_pointer(order: Order, place: &mut [u8], value: i64) {
    match place.len() {
        8 => place.copy_from_slice(&order.bytes64(value as u64)),
        4 => place.copy_from_slice(&order.bytes32(value as u32)),
        _ => {}
    }
}

/// Changes the bytes of inode `ino`.
fn edit(
    sb: &Superblock,
    device: &Devvp,
    ino: u32,
    (wait, before): (Wait, &[u64]),
    change: impl FnOnce(&mut [u8]),
) -> Result<(), Fault> {
    let place = sb.inode_place(ino)?;
    let into = place.byte - place.byte % PIECE;
    let at = sb.byte_of(place.block) + into as u64;
    let fault = |errno: Errno| Fault::Device { at, errno };
    let mut buf = device
        .bmodify_after(at / SECTOR_SIZE as u64, PIECE, before)
        .map_err(fault)?;
    let size = sb.format.inode_size();
    let start = place.byte - into;
    if let Some(bytes) = buf.get_mut(start..start + size) {
        change(bytes);
    }
    match wait {
        Wait::Stable => buf.bwrite().map_err(fault),
        Wait::Started => {
            buf.bdwrite();
            Ok(())
        }
    }
}
