//! Making the log of a volume, and removing it.
//!
//! A log lies behind the volume, if the device is long enough, and takes all that is there. Else it is an inode's: a file
//! in no directory, with the flag [`SF_LOG`], whose blocks lie together, its indirect ones before those of data. Nobody
//! reads the log by way of the inode: the superblock says where it is; the inode keeps its blocks from being free.
//!
//! Both are done before there is a log to hold what changes, so in an order that a check can repair: the superblock names
//! the log when all else is on the disk.
//!
//! Source: NetBSD sys/ufs/ffs/ffs_wapbl.c (`wapbl_log_position`, `wapbl_create_infs_log`, `wapbl_allocate_log_file`,
//! `wapbl_remove_log`); tunefs(8), `-l`.

use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::vnode::{VnodeType, Wait};

use crate::corrupt::Fault;
use crate::disk::PIECE;
use crate::inode::encode::put_pointer;
use crate::inode::{Contents, Inode};
use crate::journal::{BEHIND_FILESYSTEM, BYTES, IN_FILESYSTEM, Journal};
use crate::order::Order;
use crate::raw::{SF_LOG, UFS_NDADDR, UFS_NIADDR};
use crate::superblock::Superblock;
use crate::volume::Volume;

/// The shortest and the longest log that is made where nobody says how long, and its part of the volume.
const DEFAULT: (u64, u64) = (1 << 20, 64 << 20);
const PART: u64 = 1024;

/// What a log needs inside the volume.
struct Shape {
    data: u64,
    indirect: u64,
}

impl Shape {
    /// For `data` blocks; `None`: more than two levels of indirect blocks lead to.
    fn of(sb: &Superblock, data: u64) -> Option<Shape> {
        let n = u64::from(sb.nindir);
        let behind = data.saturating_sub(UFS_NDADDR as u64);
        let double = behind.saturating_sub(n);
        if double > n * n {
            return None;
        }
        let indirect = u64::from(behind > 0) + u64::from(double > 0) + double.div_ceil(n);
        Some(Shape { data, indirect })
    }
}

impl Volume {
    /// Makes a log as the superblock asks for, or of the usual size, and names it in the superblock.
    ///
    /// # Errors
    /// `ENOSPC`: there is no room for it in one piece.
    pub(crate) fn make_log(&self) -> Result<Journal, Fault> {
        let sector = u64::from(self.device.device().info().sector_size);
        let asked = self.journal.lock().and_then(|journal| journal.asked());
        let asked = asked.filter(|bytes| *bytes > 0);
        let usual = (self.sb.size_bytes() / PART).clamp(DEFAULT.0, DEFAULT.1);
        let wanted = asked.unwrap_or(usual);
        if !BYTES.contains(&wanted) {
            log::error!("ffs: {}: a log of {wanted} bytes", self.device.name());
            return Err(Fault::Refused(Errno::EINVAL));
        }
        let end = self.sb.size_bytes().next_multiple_of(sector);
        let behind = (self.device.sectors() * SECTOR_SIZE as u64).saturating_sub(end);
        let (location, at, bytes, ino) = if behind >= wanted {
            self.begin_change()?;
            (BEHIND_FILESYSTEM, end, behind.min(*BYTES.end()), 0)
        } else {
            let made = self.make_log_file(wanted, asked.is_some());
            let (at, bytes, ino) = self.or_unclean(made)?;
            (IN_FILESYSTEM, at, bytes, u64::from(ino))
        };
        let journal = Journal {
            order: Order::NATIVE,
            version: 1,
            location,
            flags: 0,
            address: at / sector,
            blocks: bytes / sector,
            block_size: sector,
            ino,
        };
        let named = self.name_journal(Some(journal));
        match ino {
            // The volume is whole, whatever the superblock says of what lies behind it.
            0 => named?,
            _ => self.or_unclean(named)?,
        }
        log::info!(
            "ffs: {}: a log of {} KiB was made",
            self.device.name(),
            bytes / 1024
        );
        Ok(journal)
    }

    /// Frees the log that the superblock names, which is not in use.
    pub(crate) fn remove_log(&self) -> Result<(), Fault> {
        self.begin_change()?;
        self.or_unclean(self.remove_named_log())
    }

    fn remove_named_log(&self) -> Result<(), Fault> {
        let ino = self.journal.lock().and_then(|journal| journal.inode());
        self.name_journal(None)?;
        let Some(ino) = ino else {
            return Ok(());
        };
        let mut inode = Inode::load(&self.sb, &self.device, ino)?;
        if inode.flags & SF_LOG == 0 {
            log::warn!("ffs: {}: inode {ino} is no log's", self.device.name());
            return Ok(());
        }
        self.erase(&mut inode)?;
        let mut space = self.allocator()?;
        space.free_inode(ino, false)?;
        space.finish()
    }

    /// The superblock names this journal from now on, or none, on the disk.
    fn name_journal(&self, journal: Option<Journal>) -> Result<(), Fault> {
        let fault = |errno| Fault::Device {
            at: self.sb.location,
            errno,
        };
        self.device.flush(Wait::Stable).map_err(fault)?;
        *self.journal.lock() = journal;
        if let Some(space) = self.space.lock().as_mut() {
            space.journal = Some(journal.map_or([0; 40], |journal| journal.encode()));
            space.keep_log(None);
        }
        self.store_superblock()?;
        self.device.flush(Wait::Stable).map_err(fault)
    }

    /// Makes the file of a log of about `wanted` bytes; `exactly`, or as long as there is room for. Answers at which byte its
    /// data lie, how long they are, and its inode.
    fn make_log_file(&self, wanted: u64, exactly: bool) -> Result<(u64, u64, u32), Fault> {
        let sb = &self.sb;
        let full = Fault::Refused(Errno::ENOSPC);
        let most = wanted.div_ceil(u64::from(sb.bsize));
        let least = match exactly {
            true => most,
            false => (most / 4).max(DEFAULT.0.div_ceil(u64::from(sb.bsize))),
        };
        let shape = |data| Shape::of(sb, data).ok_or(full);
        let whole = shape(most)?;
        let wish = (whole.data + whole.indirect) as u32;
        let (start, found) = self.allocator()?.find_run(wish)?.ok_or(full)?;
        let mut data = most.min(u64::from(found));
        while shape(data)?.indirect + data > u64::from(found) {
            data -= 1;
        }
        if data < least || self.counts().free_inodes == 0 {
            log::error!(
                "ffs: {}: no room for a log: {found} blocks lie together",
                self.device.name()
            );
            return Err(full);
        }
        let shape = shape(data)?;
        let blocks = shape.data + shape.indirect;
        let group = sb.group_of(start);
        // Where there is no room, the disk stays as it is, and clean.
        self.begin_change()?;
        let mut space = self.allocator()?;
        let ino = space.take_inode(group, false, false)?.ok_or(full)?;
        space.take_run(start, blocks as u32)?;
        space.finish()?;
        let first = start + (shape.indirect << sb.fragshift);
        let contents = self.point(start, first, data)?;
        let now = rumpkern::time::wall();
        let bytes = data << sb.bshift;
        let inode = Inode {
            ino,
            vtype: VnodeType::Reg,
            permissions: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            size: bytes,
            blocks: (blocks << sb.bshift) / SECTOR_SIZE as u64,
            atime: now,
            mtime: now,
            ctime: now,
            birthtime: sb.format.is_ufs2().then_some(now),
            generation: self.next_generation(ino)?,
            flags: SF_LOG,
            contents,
        };
        inode.store(sb, &self.device, Wait::Stable)?;
        Ok((sb.byte_of(first), bytes, ino))
    }

    /// Points to `count` blocks from `data` on; the indirect blocks come from `at` on: the first, the second, and those that
    /// the second leads to.
    fn point(&self, at: u64, data: u64, count: u64) -> Result<Contents, Fault> {
        let sb = &self.sb;
        let (n, step) = (u64::from(sb.nindir), u64::from(sb.frag));
        let place = |block: u64| (data + block * step) as i64;
        let mut direct = [0; UFS_NDADDR];
        let mut indirect = [0; UFS_NIADDR];
        for (block, pointer) in (0..count).zip(&mut direct) {
            *pointer = place(block);
        }
        let mut done = UFS_NDADDR as u64;
        if count > done {
            indirect[0] = at as i64;
            self.put_table(at, (done..count.min(done + n)).map(place))?;
            done += n;
        }
        if count > done {
            indirect[1] = (at + step) as i64;
            let tables = (count - done).div_ceil(n);
            let table = |index: u64| at + (2 + index) * step;
            self.put_table(at + step, (0..tables).map(|index| table(index) as i64))?;
            for index in 0..tables {
                let from = done + index * n;
                self.put_table(table(index), (from..count.min(from + n)).map(place))?;
            }
        }
        Ok(Contents::Blocks { direct, indirect })
    }

    /// Fills the indirect block at `address`.
    fn put_table(&self, address: u64, pointers: impl Iterator<Item = i64>) -> Result<(), Fault> {
        let sb = &self.sb;
        let width = sb.format.pointer_size();
        let mut pointers = pointers;
        for piece in 0..sb.bsize as usize / PIECE {
            let at = sb.byte_of(address) + (piece * PIECE) as u64;
            let buf = self.device.getblk(at / SECTOR_SIZE as u64, PIECE);
            let mut buf = buf.map_err(|errno| Fault::Device { at, errno })?;
            for (place, pointer) in buf.chunks_exact_mut(width).zip(&mut pointers) {
                put_pointer(sb.order, place, pointer);
            }
            buf.bdwrite();
        }
        Ok(())
    }
}
