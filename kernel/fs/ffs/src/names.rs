//! Making and removing files: what happens to directories and link counts, and in which order.
//!
//! On the disk first: a new inode, before the name that leads to it; a directory's first unit, before
//! its inode; a higher link count, before one more name; the absence of a name, before a lower link count.
//! So after a crash a check finds files without a name, or counts that are too high; never a name
//! without a file. Nobody waits for that: each change says after which buffers its own may be written, and
//! the buffer cache keeps to it (`rumpvfs::bufcache`, "Order"). What the log holds needs no other order.
//!
//! Source: NetBSD sys/ufs/ufs/ufs_vnops.c (`ufs_makeinode`, `ufs_mkdir`, `ufs_remove`, `ufs_rmdir`,
//! `ufs_link`, `ufs_symlink`).

use core::sync::atomic::Ordering;

use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::vnode::{InodeNumber, NewFile, S_ISGID, VnodeType, Wait};

use crate::balloc::Balloc;
use crate::bmap;
use crate::corrupt::Fault;
use crate::entries::{Directory, first_unit};
use crate::inode::{Contents, Inode};
use crate::raw::{DIRBLKSIZ, UFS_NDADDR, UFS_NIADDR, UFS_ROOTINO};
use crate::vnops::Node;

/// The most names a file may have (NetBSD sys/syslimits.h, LINK_MAX).
pub(crate) const LINK_MAX: u16 = 32767;

/// Pieces that the longest text of a link lies in (PATH_MAX is 1024), the smallest being a sector.
const TEXT_PIECES: usize = 2;

impl Node {
    /// The directory's inode, to be changed.
    pub(crate) fn directory(&self) -> Result<Inode, Fault> {
        self.volume.begin_change()?;
        let inode = self.inode();
        if inode.vtype != VnodeType::Dir {
            return Err(Fault::Refused(Errno::ENOTDIR));
        }
        if inode.nlink == 0 {
            // It was removed, but is somebody's working directory.
            return Err(Fault::Refused(Errno::ENOENT));
        }
        Ok(inode)
    }

    /// This directory, to be changed, with `inode`, which the caller puts back.
    pub(crate) fn as_directory<'a>(&'a self, inode: &'a mut Inode) -> Directory<'a> {
        Directory {
            volume: &self.volume,
            inode,
            hashed: self.hashed.get(),
        }
    }

    /// A directory's entries changed: puts its inode back, with new times, which the disk gets some time.
    pub(crate) fn directory_changed(&self, inode: &mut Inode) {
        let now = rumpkern::time::wall();
        (inode.mtime, inode.ctime) = (now, now);
        self.set_inode(inode);
        self.is_changed.store(true, Ordering::Release);
    }

    /// Enters a name into this directory, whose inode `dir` is, after the buffers at the sectors `before`. Answers the sector
    /// of the buffer it is in.
    pub(crate) fn enter(
        &self,
        dir: &mut Inode,
        name: &[u8],
        file: (u32, VnodeType),
        before: &[u64],
    ) -> Result<u64, Fault> {
        let hint = self.room.load(Ordering::Relaxed);
        let entered = self.as_directory(dir).enter(name, file, hint, before);
        // Even then fragments may lie elsewhere now.
        self.set_inode(dir);
        let at = entered?;
        // Only what was passed over for a short name is full for all.
        if name.len() <= 16 || at < hint {
            self.room.store(at, Ordering::Relaxed);
        }
        self.directory_changed(dir);
        self.as_directory(dir).sector(at)
    }

    /// Removes the name at `offset`, after the buffers at the sectors `before`, and puts the inode back. Answers the sector of
    /// the buffer that has to be on the disk before the file's link count falls.
    pub(crate) fn leave(&self, dir: &mut Inode, offset: u64, before: &[u64]) -> Result<u64, Fault> {
        let removed = self.as_directory(dir).remove(offset, before);
        self.set_inode(dir);
        let sector = removed?;
        let unit = offset - offset % DIRBLKSIZ as u64;
        self.room.fetch_min(unit, Ordering::Relaxed);
        self.directory_changed(dir);
        Ok(sector)
    }

    /// A new inode in memory, for a file in the directory `dir`; its number is taken.
    fn new_inode(&self, dir: &Inode, new: &NewFile, vtype: VnodeType) -> Result<Inode, Fault> {
        let volume = &*self.volume;
        let sb = &volume.sb;
        let mut space = volume.allocator()?;
        let is_root = dir.ino == UFS_ROOTINO;
        let taken = space.take_inode(dir.ino / sb.ipg, is_root, vtype == VnodeType::Dir)?;
        let ino = taken.ok_or(Fault::Refused(Errno::ENOSPC))?;
        drop(space);
        let generation = volume.next_generation(ino).inspect_err(|_| {
            // If that fails too it was logged, and the inode stays taken until a check.
            let _ = volume.changed(volume.free_inode(ino, vtype == VnodeType::Dir));
        })?;
        let now = rumpkern::time::wall();
        Ok(Inode {
            ino,
            vtype,
            permissions: new.mode & 0o7777,
            nlink: 1,
            uid: new.uid,
            // As in every BSD.
            gid: dir.gid,
            size: 0,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            birthtime: sb.format.is_ufs2().then_some(now),
            generation,
            flags: 0,
            contents: match vtype {
                VnodeType::Blk | VnodeType::Chr => Contents::Device(new.rdev),
                VnodeType::Fifo | VnodeType::Sock => Contents::Nothing,
                VnodeType::Reg | VnodeType::Dir | VnodeType::Lnk => Contents::Blocks {
                    direct: [0; UFS_NDADDR],
                    indirect: [0; UFS_NIADDR],
                },
            },
        })
    }

    /// Undoes what made `inode`, to which no name leads.
    fn discard(&self, inode: &mut Inode) {
        let volume = &*self.volume;
        let is_directory = inode.vtype == VnodeType::Dir;
        let freed = volume
            .erase_at_once(inode)
            .and_then(|()| volume.free_inode(inode.ino, is_directory));
        // It was logged; the inode stays taken until a check.
        let _ = volume.changed(freed);
    }

    /// Gives a new file its name, after the buffer at the sector `before` if that is one. The inode is stored after those at the
    /// sectors `text`.
    fn name_new(
        &self,
        dir: &mut Inode,
        name: &[u8],
        mut inode: Inode,
        (before, text): (Option<u64>, &[u64]),
    ) -> Result<u64, Fault> {
        let volume = &*self.volume;
        let stored = inode.store_after(&volume.sb, &volume.device, text);
        let file = (inode.ino, inode.vtype);
        let named = stored.and_then(|()| {
            let own = Inode::sector(&volume.sb, inode.ino)?;
            self.enter(dir, name, file, &[own, before.unwrap_or(own)])
        });
        match named {
            Ok(_) => Ok(InodeNumber::from(inode.ino)),
            Err(fault) => {
                self.discard(&mut inode);
                Err(fault)
            }
        }
    }

    /// Makes a file that is no directory and no symbolic link.
    pub(crate) fn make_file(&self, name: &[u8], new: &NewFile) -> Result<InodeNumber, Fault> {
        let mut dir = self.directory()?;
        let inode = self.new_inode(&dir, new, new.vtype)?;
        self.name_new(&mut dir, name, inode, (None, &[]))
    }

    /// Makes a directory.
    pub(crate) fn make_directory(&self, name: &[u8], new: &NewFile) -> Result<InodeNumber, Fault> {
        let volume = &*self.volume;
        let mut dir = self.directory()?;
        if dir.nlink >= LINK_MAX {
            return Err(Fault::Refused(Errno::EMLINK));
        }
        let mut inode = self.new_inode(&dir, new, VnodeType::Dir)?;
        inode.permissions |= dir.permissions & S_ISGID;
        inode.nlink = 2;
        let unit = first_unit(volume.sb.order, inode.ino, dir.ino);
        let mut directory = Directory {
            volume,
            inode: &mut inode,
            hashed: None,
        };
        let filled = directory.grow(Wait::Stable, &[], &mut |bytes| bytes.copy_from_slice(&unit));
        if let Err(fault) = filled {
            self.discard(&mut inode);
            return Err(fault);
        }
        dir.nlink += 1;
        let counted = dir.store(&volume.sb, &volume.device, Wait::Started);
        self.set_inode(&dir);
        let counted = counted.and_then(|()| Ok(Inode::sector(&volume.sb, dir.ino)?));
        let named = match counted {
            Ok(own) => self.name_new(&mut dir, name, inode, (Some(own), &[])),
            Err(fault) => {
                self.discard(&mut inode);
                Err(fault)
            }
        };
        if named.is_err() {
            dir.nlink -= 1;
            self.set_inode(&dir);
            dir.store(&volume.sb, &volume.device, Wait::Started)?;
        }
        named
    }

    /// Makes a symbolic link to `target`: short, in the inode; long, in a block.
    pub(crate) fn make_link(
        &self,
        name: &[u8],
        new: &NewFile,
        target: &[u8],
    ) -> Result<InodeNumber, Fault> {
        let volume = &*self.volume;
        let mut dir = self.directory()?;
        let mut inode = self.new_inode(&dir, new, VnodeType::Lnk)?;
        let mut text = [0; TEXT_PIECES];
        let mut pieces = 0;
        if target.len() < volume.sb.maxsymlinklen as usize {
            let mut bytes = [0; 120];
            bytes[..target.len()].copy_from_slice(target);
            inode.contents = Contents::Text {
                bytes,
                len: target.len() as u8,
            };
            inode.size = target.len() as u64;
        } else {
            match self.write_text(&mut inode, target, &mut text) {
                Ok(count) => pieces = count,
                Err(fault) => {
                    self.discard(&mut inode);
                    return Err(fault);
                }
            }
        }
        self.name_new(&mut dir, name, inode, (None, &text[..pieces]))
    }

    /// Writes the text of a long link, and says in `sectors` where, in how many pieces.
    fn write_text(
        &self,
        inode: &mut Inode,
        target: &[u8],
        sectors: &mut [u64; TEXT_PIECES],
    ) -> Result<usize, Fault> {
        let (sb, device) = (&self.volume.sb, &self.volume.device);
        let size = target.len() as u64;
        let mut space = self.volume.allocator()?;
        Balloc { sb, device }.block(&mut space, inode, 0, size)?;
        drop(space);
        inode.size = size;
        let address = bmap::map(sb, device, inode, 0, 1)?.address.unwrap_or(0);
        let piece = sb.tail_piece();
        for (n, text) in target.chunks(piece).enumerate() {
            let at = sb.byte_of(address) + (n * piece) as u64;
            let fault = |errno| Fault::Device { at, errno };
            let mut buf = device
                .getblk(at / SECTOR_SIZE as u64, piece)
                .map_err(fault)?;
            buf[..text.len()].copy_from_slice(text);
            buf.bdwrite();
            if let Some(sector) = sectors.get_mut(n) {
                *sector = at / SECTOR_SIZE as u64;
            }
        }
        Ok(target.len().div_ceil(piece).min(TEXT_PIECES))
    }

    /// Changes the link count of this file, on the disk after the buffers at the sectors `before`. Answers the sector of the
    /// inode's buffer.
    pub(crate) fn count_links(&self, by: i16, before: &[u64]) -> Result<u64, Fault> {
        let mut inode = self.inode();
        let was = inode.nlink;
        inode.nlink = was.saturating_add_signed(by);
        inode.ctime = rumpkern::time::wall();
        self.set_inode(&inode);
        if was > 0 && inode.nlink == 0 {
            self.volume.nameless.fetch_add(1, Ordering::AcqRel);
            self.volume.register(self.ino, inode.mode())?;
        }
        if was == 0 && inode.nlink > 0 {
            self.volume.unregister(self.ino);
        }
        inode.store_after(&self.volume.sb, &self.volume.device, before)?;
        Ok(Inode::sector(&self.volume.sb, self.ino)?)
    }

    /// Gives `target` one more name.
    pub(crate) fn add_name(&self, name: &[u8], target: &Node) -> Result<(), Fault> {
        let mut dir = self.directory()?;
        match target.inode().nlink {
            0 => return Err(Fault::Refused(Errno::ENOENT)),
            LINK_MAX.. => return Err(Fault::Refused(Errno::EMLINK)),
            _ => {}
        }
        let counted = target.count_links(1, &[])?;
        let file = (target.ino, target.vtype);
        let entered = self.enter(&mut dir, name, file, &[counted]);
        if entered.is_err() {
            target.count_links(-1, &[])?;
        }
        entered.map(drop)
    }

    /// Where `name` is, which leads to `target`.
    pub(crate) fn position(&self, dir: &mut Inode, name: &[u8], target: u32) -> Result<u64, Fault> {
        match self.find(dir, name)? {
            Some(found) if found.ino == target => Ok(found.offset),
            _ => Err(Fault::Refused(Errno::ENOENT)),
        }
    }

    /// Removes a name of `target`, which is no directory.
    pub(crate) fn remove_file(&self, name: &[u8], target: &Node) -> Result<(), Fault> {
        let mut dir = self.directory()?;
        let at = self.position(&mut dir, name, target.ino)?;
        let left = self.leave(&mut dir, at, &[])?;
        target.count_links(-1, &[left]).map(drop)
    }

    /// Removes the directory `target`.
    pub(crate) fn remove_directory(&self, name: &[u8], target: &Node) -> Result<(), Fault> {
        let mut dir = self.directory()?;
        target.check_empty()?;
        let at = self.position(&mut dir, name, target.ino)?;
        let left = self.leave(&mut dir, at, &[])?;
        dir.nlink = dir.nlink.saturating_sub(1);
        self.directory_changed(&mut dir);
        dir.store_after(&self.volume.sb, &self.volume.device, &[left])?;
        target.count_links(-2, &[left]).map(drop)
    }

    /// `ENOTEMPTY` unless the directory holds no name.
    pub(crate) fn check_empty(&self) -> Result<(), Fault> {
        let mut inode = self.inode();
        let has_directories = inode.nlink > 2;
        if has_directories || !self.as_directory(&mut inode).is_empty()? {
            return Err(Fault::Refused(Errno::ENOTEMPTY));
        }
        Ok(())
    }
}
