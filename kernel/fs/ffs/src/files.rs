//! Changing a file: blocks for what is written, attributes, and the end of a file without a name.

use core::sync::atomic::Ordering;

use rumpkern::{kmem, lwp};
use rumpuser::Errno;
use rumpvfs::vnode::{self, S_ISGID, S_ISUID, SetAttr, Vnode, VnodeType, Wait};

use alloc::sync::Arc;

use crate::balloc::{Balloc, Move, Place, barrier};
use crate::corrupt::Fault;
use crate::inode::{Contents, Inode};
use crate::logging::cost;
use crate::raw::UFS_NDADDR;
use crate::truncate::Truncate;
use crate::vnops::Node;

/// A range of bytes that grows to hold what it is given.
#[derive(Default)]
struct Cover(Option<(u64, u64)>);

impl Cover {
    fn add(&mut self, from: u64, to: u64) {
        self.0 = Some(match self.0 {
            None => (from, to),
            Some((start, end)) => (start.min(from), end.max(to)),
        });
    }
}

impl Node {
    /// The block with fragments that has to grow when the file grows to `size` bytes: where it starts, and
    /// where it will end.
    pub(crate) fn growing_tail(&self, size: u64) -> Option<(u64, u64)> {
        let sb = &self.volume.sb;
        let inode = self.inode();
        if size <= inode.size || inode.size == 0 {
            return None;
        }
        let block = (inode.size - 1) >> sb.bshift;
        let Contents::Blocks { direct, .. } = &inode.contents else {
            return None;
        };
        let has_place = block < UFS_NDADDR as u64 && direct[block as usize] != 0;
        if !has_place || sb.block_bytes(size, block) <= sb.block_bytes(inode.size, block) {
            return None;
        }
        Some((block << sb.bshift, size.min((block + 1) << sb.bshift)))
    }

    /// Gives `offset..offset + len` places; the file is at least that long then.
    /// Within an operation.
    pub(crate) fn allocate(
        &self,
        vnode: &Arc<Vnode>,
        offset: u64,
        len: u64,
    ) -> Result<vnode::Balloc, Fault> {
        let volume = &*self.volume;
        let sb = &volume.sb;
        volume.begin_change()?;
        debug_assert!(volume.log().is_none_or(|log| log.has_operation()));
        let end = offset.checked_add(len);
        let Some(end) = end.filter(|end| *end <= sb.maxfilesize) else {
            return Err(Fault::Refused(Errno::EFBIG));
        };
        if len == 0 {
            return Ok(vnode::Balloc::default());
        }
        volume.note_fresh(vnode, self)?;
        let before = self.inode();
        let mut inode = before.clone();
        let size = inode.size.max(end);
        let blocks = offset >> sb.bshift..end.div_ceil(u64::from(sb.bsize));
        let mut new: alloc::vec::Vec<u64> =
            kmem::try_vec((blocks.end - blocks.start) as usize).map_err(Fault::Refused)?;
        let mut cover = Cover::default();
        let mut moved: Option<Move> = None;
        let balloc = Balloc {
            sb,
            device: &volume.device,
        };
        let mut space = volume.allocator()?;
        let mut block = blocks.start;
        while block < blocks.end {
            let start = block << sb.bshift;
            let placed = balloc.run(&mut space, &mut inode, block..blocks.end, size);
            let first = block;
            block += placed.as_ref().map_or(0, |(_, count)| *count);
            let next = block << sb.bshift;
            match placed.map(|(place, _)| place) {
                Ok(Place::Had) => {}
                Ok(Place::New) => {
                    new.extend(first..block);
                    cover.add(start, next);
                }
                Ok(Place::Longer(old)) => cover.add(start + (u64::from(old) << sb.fshift), next),
                Ok(Place::Moved(tail)) => {
                    // It is data, which the buffer cache is not for.
                    volume.invalidate(tail.from, tail.old);
                    volume.invalidate(tail.to, tail.old);
                    cover.add(start + (u64::from(tail.old) << sb.fshift), next);
                    moved = Some(tail);
                }
                Err(fault) => {
                    for block in new.into_iter().rev() {
                        balloc.undo(&mut space, &mut inode, block, size)?;
                    }
                    // Indirect blocks that were made on the way, and fragments of the tail.
                    inode.size = before.size.max(start);
                    let cut = Truncate::new(sb, &volume.device, self.vtype);
                    let cut = cut.cut(&mut space, &mut inode, before.size);
                    self.set_inode(&inode);
                    cut?;
                    if let Some(tail) = moved {
                        space.free_moved(tail.from, tail.old)?;
                    }
                    return Err(fault);
                }
            }
        }
        inode.size = size;
        self.touch(&mut inode);
        self.set_inode(&inode);
        if let Some(tail) = moved {
            inode.store(sb, &volume.device, Wait::Stable)?;
            barrier(&volume.device, sb.byte_of(tail.from))?;
            space.free_moved(tail.from, tail.old)?;
        } else if volume.device.holds() {
            // With the maps, in one transaction.
            inode.store(sb, &volume.device, Wait::Started)?;
        } else {
            self.is_changed.store(true, Ordering::Release);
        }
        drop(space);
        Ok(vnode::Balloc {
            new: cover.0.unwrap_or((0, 0)),
            moved: moved.is_some(),
        })
    }

    /// The file is written: its times are now, and set-ID bits go unless the superuser writes.
    fn touch(&self, inode: &mut Inode) {
        let now = rumpkern::time::wall();
        (inode.mtime, inode.ctime) = (now, now);
        let is_root = lwp::curproc().map_or(true, |proc| proc.cred().is_root());
        if !is_root {
            inode.permissions &= !(S_ISUID | S_ISGID);
        }
    }

    /// Gives the inode to the buffer cache, if it changed since it last was.
    pub(crate) fn store_changed(&self) -> Result<(), Fault> {
        if !self.is_changed.swap(false, Ordering::AcqRel) || !self.volume.is_writable() {
            return Ok(());
        }
        let volume = &*self.volume;
        let stored = volume.operate(cost::INODE, || {
            self.inode()
                .store(&volume.sb, &volume.device, Wait::Started)
        });
        stored.inspect_err(|_| {
            // It has still changed: the next who asks tries again.
            self.is_changed.store(true, Ordering::Release);
        })
    }

    /// Changes attributes.
    pub(crate) fn change(&self, vnode: &Arc<Vnode>, new: &SetAttr) -> Result<(), Fault> {
        let volume = &*self.volume;
        let (sb, device) = (&volume.sb, &volume.device);
        volume.begin_change()?;
        let mut inode = self.inode();
        let size = new.size.unwrap_or(inode.size);
        if size > sb.maxfilesize {
            return Err(Fault::Refused(Errno::EFBIG));
        }
        if new.size.is_some() && self.vtype != VnodeType::Reg && size != inode.size {
            return Err(Fault::Refused(Errno::EINVAL));
        }
        let now = rumpkern::time::wall();
        inode.ctime = now;
        inode.permissions = new.mode.map_or(inode.permissions, |mode| mode & 0o7777);
        inode.uid = new.uid.unwrap_or(inode.uid);
        inode.gid = new.gid.unwrap_or(inode.gid);
        inode.atime = new.atime.map_or(inode.atime, |time| sb.format.time(time));
        inode.mtime = new.mtime.map_or(inode.mtime, |time| sb.format.time(time));
        inode.flags = new.flags.unwrap_or(inode.flags);
        if inode.birthtime.is_some() {
            inode.birthtime = new.birthtime.or(inode.birthtime);
        }
        self.is_changed.store(false, Ordering::Release);
        if size < inode.size {
            let cut = self.cut(vnode, &mut inode, size);
            self.set_inode(&inode);
            return cut;
        }
        volume.operate(cost::INODE, || {
            if size > inode.size {
                volume.note_fresh(vnode, self)?;
            }
            inode.size = size;
            self.set_inode(&inode);
            inode.store(sb, device, Wait::Started)
        })
    }

    /// Cuts the file off at `size`. The caller puts the inode back. Pages are dropped within the operation: a commit between would find
    /// nothing to be written of a file that has new blocks, and show what those held for somebody else.
    fn cut(&self, vnode: &Arc<Vnode>, inode: &mut Inode, size: u64) -> Result<(), Fault> {
        let volume = &*self.volume;
        let drop_pages = |size| vnode.truncate_pages(size).map_err(Fault::Refused);
        if volume.log().is_some() {
            volume.cut_in_pieces(inode, size, &drop_pages)?;
        }
        volume.operate(cost::CUT, || {
            drop_pages(size)?;
            let mut space = volume.allocator()?;
            Truncate::new(&volume.sb, &volume.device, self.vtype).cut(&mut space, inode, size)
        })
    }

    /// The last user is gone: a file without a name ends here. Answers whether it is to be forgotten.
    pub(crate) fn let_go(&self, vnode: &Arc<Vnode>) -> bool {
        if self.gone.load(Ordering::Acquire) {
            return true;
        }
        let volume = &*self.volume;
        if self.names() > 0 || !volume.is_writable() {
            // A directory is used again soon. If it fails, it was logged.
            if self.vtype != VnodeType::Dir {
                let _ = volume.told(self.store_changed());
            }
            return false;
        }
        let mut inode = self.inode();
        self.is_changed.store(false, Ordering::Release);
        // What is being written of it must not reach blocks of another file.
        vnode.forget_pages();
        let erased = volume.erase(&mut inode);
        self.set_inode(&inode);
        // If not all went well, the inode stays taken until a check; else it is free once the vnode is forgotten.
        let is_erased = volume.changed(erased).is_ok();
        self.gone.store(is_erased, Ordering::Release);
        if !is_erased {
            volume.nameless.fetch_sub(1, Ordering::AcqRel);
        }
        true
    }
}
