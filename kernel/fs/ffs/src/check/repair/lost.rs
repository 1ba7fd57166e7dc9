//! Directories that a repair makes, or makes room in: the root, and `lost+found`. (fsck_ffs, dir.c: `linkup`, `allocdir`.)

use super::Pass;
use crate::cg::Head;
use crate::check::State;
use crate::corrupt::Fault;
use crate::dir;
use crate::disk::read_with;
use crate::entries::{self, first_unit};
use crate::inode::{Contents, Inode};
use crate::lookup;
use crate::raw::{DIRBLKSIZ, UFS_NDADDR, UFS_ROOTINO};
use rumpvfs::vnode::VnodeType;

/// Where files without a name go.
const LOST: &[u8] = b"lost+found";

impl Pass<'_> {
    /// Gives a file a name in `lost+found`. If that has to be made, or has to grow, the next pass will.
    pub(super) fn name_lost(&mut self, inode: &Inode) -> Result<(), Fault> {
        if self.is_lost_made {
            return Ok(());
        }
        let sb = self.sb;
        let root = self.inode(UFS_ROOTINO)?;
        let found = lookup::lookup(sb, self.disk, &root, LOST, 0)?;
        let Some(found) = found else {
            return self.make_lost(&root);
        };
        let lost = self.inode(found.ino)?;
        let name = alloc::format!("#{:08}", inode.ino);
        if !self.insert(&lost, (inode.ino, inode.vtype), name.as_bytes())? {
            self.grow(&lost)?;
        }
        Ok(())
    }

    /// Gives a directory more room: the next unit of the fragments that it has, or else a block that nobody has, for all of it
    /// while it is smaller than one, and then behind it.
    fn grow(&mut self, dir: &Inode) -> Result<(), Fault> {
        let sb = self.sb;
        let (unit, bsize) = (DIRBLKSIZ as u64, u64::from(sb.bsize));
        self.is_lost_made = true;
        let Contents::Blocks { direct, .. } = &dir.contents else {
            return Ok(());
        };
        if dir.size < bsize && dir.size < dir.blocks * 512 {
            let at = sb.byte_of(direct[0] as u64) + dir.size;
            self.empty_units(at, 1)?;
            return self.change_inode(dir.ino, |dir| dir.size += unit);
        }
        let block = (dir.size / bsize) as usize;
        let (Some(new), true) = (self.free_block(), block < UFS_NDADDR) else {
            return Ok(());
        };
        let inside = dir.size % bsize;
        for at in (0..inside).step_by(DIRBLKSIZ) {
            let (from, _) = dir::place(sb, self.disk, dir, dir.size - inside + at, unit)?;
            let bytes = read_with(self.disk, from, DIRBLKSIZ, <[u8]>::to_vec)?;
            self.edit(sb.byte_of(new) + at, DIRBLKSIZ, |there| {
                there.copy_from_slice(&bytes);
            })?;
        }
        self.empty_units(sb.byte_of(new) + inside, (bsize - inside) / unit)?;
        self.change_inode(dir.ino, |dir| {
            if let Contents::Blocks { direct, .. } = &mut dir.contents {
                direct[block] = new as i64;
            }
            dir.size += bsize - inside;
            // What the next pass counts.
            dir.blocks = dir.size / 512;
        })
    }

    /// Makes `count` units from byte `at` on such as have no names.
    fn empty_units(&mut self, at: u64, count: u64) -> Result<(), Fault> {
        let order = self.sb.order;
        for unit in 0..count {
            self.edit(at + unit * DIRBLKSIZ as u64, DIRBLKSIZ, |bytes| {
                bytes.fill(0);
                bytes[4..6].copy_from_slice(&order.bytes16(DIRBLKSIZ as u16));
            })?;
        }
        Ok(())
    }

    /// Enters a name where there is room; whether there was.
    fn insert(&mut self, dir: &Inode, file: (u32, VnodeType), name: &[u8]) -> Result<bool, Fault> {
        if dir.vtype != VnodeType::Dir {
            return Ok(false);
        }
        let (order, shape) = (self.sb.order, dir::Shape::of(self.sb));
        let mut entered = false;
        for unit in (0..dir.size).step_by(DIRBLKSIZ) {
            self.edit_unit(dir.ino, unit, |bytes| {
                let room = entries::room(&shape, bytes, unit).unwrap_or(0);
                if room >= dir::entry_size(name.len()) {
                    entries::insert(bytes, order, file, name);
                    entered = true;
                }
            })?;
            if entered {
                break;
            }
        }
        Ok(entered)
    }

    /// Makes `lost+found`, with a block of its own, from an inode and a block that nobody has.
    fn make_lost(&mut self, root: &Inode) -> Result<(), Fault> {
        let (Some(ino), Some(block)) = (self.free_inode()?, self.free_block()) else {
            return Ok(());
        };
        if !self.insert(root, (ino, VnodeType::Dir), LOST)? {
            return self.grow(root);
        }
        self.make_directory(ino, 0o700, block)?;
        self.change_inode(UFS_ROOTINO, |root| root.nlink += 1)
    }

    /// Makes the root an empty directory: what was in it is found in `lost+found` then.
    pub(super) fn make_root(&mut self) -> Result<(), Fault> {
        match self.free_block() {
            Some(block) if !self.is_lost_made => self.make_directory(UFS_ROOTINO, 0o755, block),
            _ => Ok(()),
        }
    }

    /// Makes inode `ino` a directory below the root, without names, in a block that nobody has. Only one in a pass: the next
    /// one sees which blocks are left.
    fn make_directory(&mut self, ino: u32, permissions: u16, block: u64) -> Result<(), Fault> {
        let sb = self.sb;
        self.is_lost_made = true;
        let now = sb.format.time(rumpkern::time::wall());
        let mut direct = [0; UFS_NDADDR];
        direct[0] = block as i64;
        let made = Inode {
            ino,
            vtype: VnodeType::Dir,
            permissions,
            nlink: 2,
            uid: 0,
            gid: 0,
            size: u64::from(sb.bsize),
            blocks: u64::from(sb.bsize) / 512,
            atime: now,
            mtime: now,
            ctime: now,
            birthtime: sb.format.is_ufs2().then_some(now),
            generation: block as u32 | 1,
            flags: 0,
            contents: Contents::Blocks {
                direct,
                indirect: [0; 3],
            },
        };
        self.edit_inode(ino, |bytes| {
            Inode::clear(sb.format.is_ufs2(), bytes);
            made.encode(sb, bytes);
        })?;
        let order = sb.order;
        self.empty_units(sb.byte_of(block), u64::from(sb.bsize) / DIRBLKSIZ as u64)?;
        self.edit(sb.byte_of(block), DIRBLKSIZ, |bytes| {
            bytes.copy_from_slice(&first_unit(order, ino, UFS_ROOTINO));
        })
    }

    /// An inode that is free, and was written before.
    fn free_inode(&self) -> Result<Option<u32>, Fault> {
        let is_free = |ino: &u32| self.check.inodes[*ino as usize].state == State::Free;
        for ino in (UFS_ROOTINO + 1..self.sb.inodes()).filter(is_free) {
            let cg = ino / self.sb.ipg;
            match Head::load(self.sb, self.disk, cg) {
                Ok(head) if ino % self.sb.ipg < head.initialised_inodes => return Ok(Some(ino)),
                Ok(_) | Err(Fault::Corrupt(_)) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(None)
    }

    fn free_block(&self) -> Option<u64> {
        let sb = self.sb;
        (0..sb.size).step_by(sb.frag as usize).find(|block| {
            sb.is_data(*block, sb.frag)
                && (*block..*block + u64::from(sb.frag)).all(|n| !self.check.is_used(n))
        })
    }
}
