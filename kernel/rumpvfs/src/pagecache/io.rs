//! Reading and writing the bytes of files, and lending their pages to the network.

use super::share::Share;
use super::{PAGE, ReadAhead, State};
use crate::vnode::{Vnode, VnodeType};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use rumpkern::kmem;
use rumpkern::uvm::dma::IoFrame;
use rumpkern::uvm::{self, Alloc, Frame};
use rumpuser::{Errno, PAGE_SIZE};

/// The most pages lent at once.
pub const MAX_LOAN: usize = 64;
/// Pages that a sequential reader announces at once: however much he asks for in one go, he copies while more is on its way.
const READ_PIECE: u64 = 32;
/// The most pages that a reader holds while he copies: one lookup, one leaf of the tree.
const COPY_RUN: usize = 16;
/// The most bytes that are written under one allocation of blocks.
const WRITE_CHUNK: u64 = 64 * 1024;

/// What to do if the first byte wanted is not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Wait until it was read.
    Wait,
    /// Start reading, and answer `EAGAIN`.
    Try,
}

/// A page that is being changed: busy, and its frame is with the writer.
struct Owned {
    index: u64,
    frame: Frame,
    /// It was claimed for this write: there is nothing to go back to.
    fresh: bool,
    was_dirty: bool,
}

impl Vnode {
    /// Reads up to `buf.len()` bytes from `offset` on; fewer only at the end of the file.
    /// `reader` is the open file's read-ahead.
    ///
    /// # Errors
    /// `EISDIR`; `EIO` and the like if not even the first byte could be read.
    pub fn read(
        self: &Arc<Self>,
        offset: u64,
        buf: &mut [u8],
        reader: &mut ReadAhead,
    ) -> Result<usize, Errno> {
        self.check_readable()?;
        let _locked = self.lock_shared();
        let end = self.size().min(offset.saturating_add(buf.len() as u64));
        if offset >= end {
            return Ok(0);
        }
        let mut done = 0;
        let (first, past) = (offset / PAGE, end.div_ceil(PAGE));
        let goes_on = reader.continues_at(first);
        let piece = match goes_on {
            true => READ_PIECE,
            false => past - first,
        };
        let past_cache = self.reads_past_cache(end - offset);
        let (mut announced, mut run) = (first, 1);
        let mut index = first;
        while index < past {
            let at = offset + done as u64;
            if past_cache && at.is_multiple_of(PAGE) {
                let read = self.read_past_cache(at, &mut buf[done..(end - offset) as usize]);
                if read > 0 {
                    done += read;
                    index += read as u64 / PAGE;
                    (announced, run) = (index, 1);
                    continue;
                }
            }
            if index >= announced {
                announced = past.min(index + piece);
                run = self.announce(index, announced, reader);
            }
            // The second half of the page that he has read the first half of is no new use.
            let is_new = index > first || offset.is_multiple_of(PAGE) || !goes_on;
            let frame = match self.page(index, run, is_new) {
                Ok(frame) => frame,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            };
            // Those behind it that are here are taken under one lock, and let go together: a processor that counts holders
            // between two pages waits for the one copy before it begins the next.
            let mut held = [const { None }; COPY_RUN];
            held[0] = Some(frame);
            self.resident_run(index + 1, announced.min(past), &mut held[1..]);
            for frame in held.iter().flatten() {
                let from = ((offset + done as u64) % PAGE) as usize;
                let len = (PAGE_SIZE - from).min((end - offset) as usize - done);
                buf[done..done + len].copy_from_slice(&frame.as_bytes()[from..from + len]);
                done += len;
                index += 1;
                run = run.saturating_sub(1).max(1);
            }
        }
        Ok(done)
    }

    /// The pages that hold the `len` bytes from `offset` on, for the network: nothing is copied. At least the first is
    /// there, unless the file ends before it; then as many as are in memory, up to [`MAX_LOAN`]. What was
    /// lent does not change, whatever is written to the file later.
    ///
    /// # Errors
    /// `EAGAIN`, if `patience` is [`Patience::Try`]. As [`Vnode::read`].
    pub fn read_frames(
        self: &Arc<Self>,
        offset: u64,
        len: u64,
        reader: &mut ReadAhead,
        patience: Patience,
    ) -> Result<Vec<IoFrame>, Errno> {
        self.check_readable()?;
        let _locked = self.lock_shared();
        let end = self.size().min(offset.saturating_add(len));
        if offset >= end {
            return Ok(Vec::new());
        }
        let first = offset / PAGE;
        let past = end.div_ceil(PAGE).min(first + MAX_LOAN as u64);
        let run = self.announce(first, past, reader);
        let frame = match patience {
            Patience::Wait => self.page(first, run, true)?,
            Patience::Try => match self.resident(first) {
                Some(frame) => frame,
                None => {
                    self.start_run(first, run, true)?;
                    self.resident(first).ok_or(Errno::EAGAIN)?
                }
            },
        };
        let mut lent = kmem::try_vec((past - first) as usize)?;
        let mut frames = [const { None }; MAX_LOAN];
        frames[0] = Some(frame);
        self.resident_run(first + 1, past, &mut frames[1..]);
        let mut at = offset;
        for frame in frames.into_iter().map_while(|frame| frame) {
            let from = at % PAGE;
            let len = (PAGE - from).min(end - at);
            lent.push(IoFrame {
                frame,
                offset: from as usize,
                len: len as usize,
            });
            at += len;
        }
        // The pages after the first were announced too: what is not used now is not lost, only asked for again.
        reader.rewind(at.div_ceil(PAGE));
        Ok(lent)
    }

    fn check_readable(&self) -> Result<(), Errno> {
        self.mount().check_there()?;
        match self.vtype() {
            VnodeType::Reg | VnodeType::Lnk => Ok(()),
            VnodeType::Dir => Err(Errno::EISDIR),
            VnodeType::Blk | VnodeType::Chr => Err(Errno::ENXIO),
            VnodeType::Sock | VnodeType::Fifo => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Tells the reader's read-ahead of an access to pages `first..past`; starts what it says. Answers
    /// how many pages to read if the first is absent.
    fn announce(self: &Arc<Self>, first: u64, past: u64, reader: &mut ReadAhead) -> u64 {
        let stats = self.mount().page_stats();
        let plan = reader.access(first, past - first, self.end_page(), stats.max_window());
        if let Some((from, count)) = plan.ahead {
            self.read_ahead(from, count);
        }
        plan.cluster
    }

    /// Writes `data` at `offset`; makes the file longer if need be. The caller holds the vnode's lock
    /// exclusively.
    ///
    /// # Errors
    /// `EROFS`, `EFBIG`, `ENOSPC`, `EIO`, `ENOMEM`: if not even the first byte could be written. `EIO` as well if what was
    /// written before cannot be brought to the device.
    pub fn write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.mount().check_writable()?;
        self.check_readable()?;
        if self.failed_pages() > 0 {
            // Nothing is added to what the device does not take.
            self.flush_pages(crate::vnode::Wait::Stable)?;
        }
        let most = i64::MAX as u64;
        let end = offset.checked_add(data.len() as u64).ok_or(Errno::EFBIG)?;
        if end > most {
            return Err(Errno::EFBIG);
        }
        let old = self.size();
        if !data.is_empty() {
            self.make_way(offset, end)
                .inspect_err(|_| self.cut_back(old))?;
        }
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            match self.write_some(at, &data[done..], end) {
                Ok(len) => done += len,
                Err(errno) => {
                    let written = if done == 0 { 0 } else { at };
                    self.cut_back(old.max(written));
                    if done == 0 {
                        return Err(errno);
                    }
                    break;
                }
            }
        }
        self.throttle()?;
        Ok(done)
    }

    /// Writes as much of `data` at `offset` as this writer may hold pages for; `end` is where the write ends that it belongs
    /// to. Answers how many bytes.
    fn write_some(self: &Arc<Self>, offset: u64, data: &[u8], end: u64) -> Result<usize, Errno> {
        if end > self.size() {
            // Only some fragments long if the part before ended there: where they move, all their pages have to be held.
            self.grow_tail(end)?;
        }
        let written = self.write_past_cache(offset, data)?;
        if written > 0 {
            return Ok(written);
        }
        let len = (WRITE_CHUNK - offset % WRITE_CHUNK).min(data.len() as u64);
        let share = Share::up_to((offset + len).div_ceil(PAGE) - offset / PAGE);
        let len = len.min((offset / PAGE + share.pages()) * PAGE - offset) as usize;
        let _operation = self.ops().begin_write()?;
        self.write_chunk(offset, &data[..len])?;
        Ok(len)
    }

    /// What comes before bytes `offset..end` are written: the last block so far gets the room that it then needs,
    /// and what lies between the end of the file and `offset` becomes zeroes.
    fn make_way(self: &Arc<Self>, offset: u64, end: u64) -> Result<(), Errno> {
        if end > self.size() {
            self.grow_tail(end)?;
        }
        if offset > self.size() {
            self.extend_to(offset)?;
        }
        Ok(())
    }

    /// The file was to grow, but could not: it is `size` bytes long, as far as that is longer than wanted.
    fn cut_back(self: &Arc<Self>, size: u64) {
        let inode = self.ops().getattr().map_or(0, |attr| attr.size);
        if size >= self.size().max(inode) {
            return;
        }
        let change = crate::vnode::SetAttr {
            size: Some(size),
            ..Default::default()
        };
        let cut = self.ops().setattr(self, &change);
        // The file system may not have come to be as long as the page cache.
        if let Err(errno) = cut.and_then(|()| self.truncate_pages(size)) {
            log::error!("{self:?}: cannot be cut back to {size} bytes: {errno}");
            self.adopt_size();
        }
    }

    /// A change of the file's length failed, perhaps half done: it is as long as the file system says.
    pub(crate) fn adopt_size(&self) {
        if let Ok(attr) = self.ops().getattr() {
            self.set_size(attr.size);
        }
    }

    /// Gives the last block of the file the room that it needs when the file is `size` bytes long. Within that
    /// block the file grows at once, by zeroes.
    fn grow_tail(self: &Arc<Self>, size: u64) -> Result<(), Errno> {
        let Some((start, end)) = self.ops().tail(size) else {
            return Ok(());
        };
        let old = self.size();
        let (first, past) = (start / PAGE, old.div_ceil(PAGE));
        let count = past.saturating_sub(first);
        let _share = Share::of(count);
        let _operation = self.ops().begin_write()?;
        let mut owned: Vec<Owned> = kmem::try_vec(count as usize)?;
        for index in first..past {
            match self.own(index, false) {
                Ok(page) => owned.push(page),
                Err(errno) => {
                    self.disown(owned);
                    return Err(errno);
                }
            }
        }
        let balloc = match self.ops().balloc(self, old, end - old) {
            Ok(balloc) => balloc,
            Err(errno) => {
                self.disown(owned);
                return Err(errno);
            }
        };
        self.set_size(end);
        let mut state = self.page_state();
        for page in owned {
            // What was read of the last page ends with the file; the disk has something else there.
            let is_longer = page.index + 1 == past && !old.is_multiple_of(PAGE);
            let dirty = page.was_dirty || balloc.moved || is_longer;
            self.publish(&mut state, page.index, page.frame, dirty);
        }
        drop(state);
        self.pages.settled.notify_all();
        // Not only what is new: a fragment may be longer than the page with which the file ended.
        self.zero_new((old, end), first..past)
    }

    /// Whoever dirties more than a third of memory writes it out first.
    fn throttle(self: &Arc<Self>) -> Result<(), Errno> {
        let dirty = self.mount().page_stats().dirty.load(Ordering::Relaxed);
        if dirty > uvm::limit_pages() / 3 {
            return self.flush_pages(crate::vnode::Wait::Stable);
        }
        Ok(())
    }

    fn write_chunk(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let end = offset + data.len() as u64;
        let (first, past) = (offset / PAGE, end.div_ceil(PAGE));
        let mut owned: Vec<Owned> = kmem::try_vec((past - first) as usize)?;
        for index in first..past {
            let whole = offset <= index * PAGE && (index + 1) * PAGE <= end;
            match self.own(index, whole || index * PAGE >= self.size()) {
                Ok(page) => owned.push(page),
                Err(errno) => {
                    self.disown(owned);
                    return Err(errno);
                }
            }
        }
        let new = match self.ops().balloc(self, offset, data.len() as u64) {
            Ok(balloc) => balloc.new,
            Err(errno) => {
                self.disown(owned);
                return Err(errno);
            }
        };
        for page in &mut owned {
            let start = page.index * PAGE;
            let (from, to) = (offset.max(start), end.min(start + PAGE));
            if let Some(bytes) = page.frame.get_mut() {
                let source = &data[(from - offset) as usize..(to - offset) as usize];
                bytes[(from - start) as usize..(to - start) as usize].copy_from_slice(source);
            }
        }
        if end > self.size() {
            self.set_size(end);
        }
        let mut state = self.page_state();
        for page in owned {
            self.publish(&mut state, page.index, page.frame, true);
        }
        drop(state);
        self.pages.settled.notify_all();
        self.zero_new(new, first..past)
    }

    /// Blocks that are new hold what they held for somebody else. What of them lies within the file and outside
    /// the pages just written becomes zeroed dirty pages.
    pub(super) fn zero_new(
        self: &Arc<Self>,
        new: (u64, u64),
        written: core::ops::Range<u64>,
    ) -> Result<(), Errno> {
        let past = new.1.min(self.size()).div_ceil(PAGE);
        for index in new.0 / PAGE..past {
            if written.contains(&index) || new.0 >= new.1 {
                continue;
            }
            let page = self.own(index, true)?;
            // What is here already was read as a hole, or is newer.
            let mut state = self.page_state();
            self.publish(&mut state, index, page.frame, true);
            drop(state);
            self.pages.settled.notify_all();
        }
        Ok(())
    }

    /// Makes page `index` busy and takes its frame, to be changed. If it is absent, its contents are
    /// zeroes where the old ones do not matter (`whole`), and else read.
    fn own(self: &Arc<Self>, index: u64, whole: bool) -> Result<Owned, Errno> {
        loop {
            if whole {
                let frame = Frame::alloc_zeroed(Alloc::Wait)?;
                if self.claim(index, 1)? == 1 {
                    return Ok(Owned {
                        index,
                        frame,
                        fresh: true,
                        was_dirty: false,
                    });
                }
            } else {
                self.page(index, 1, true)?;
            }
            let state = self.settled(index, self.page_state());
            let mut state = state;
            let Some(page) = state.tree.get_mut(index) else {
                continue;
            };
            let Some(frame) = page.frame.take() else {
                continue;
            };
            page.busy = true;
            let was_dirty = page.dirty;
            drop(state);
            let mut page = Owned {
                index,
                frame,
                fresh: false,
                was_dirty,
            };
            if page.frame.is_unique() {
                return Ok(page);
            }
            // Lent to somebody: he keeps what he has, the file gets a copy.
            match Frame::alloc(Alloc::Wait) {
                Ok(mut copy) => {
                    if let Some(bytes) = copy.get_mut() {
                        bytes.copy_from_slice(page.frame.as_bytes());
                    }
                    page.frame = copy;
                    return Ok(page);
                }
                Err(errno) => {
                    self.disown(Some(page));
                    return Err(errno);
                }
            }
        }
    }

    /// Waits until page `index` is not busy.
    fn settled<'a>(
        &'a self,
        index: u64,
        mut state: rumpkern::locks::MutexGuard<'a, State>,
    ) -> rumpkern::locks::MutexGuard<'a, State> {
        while state.tree.get(index).is_some_and(|page| page.busy) {
            state = self.pages.settled.wait(state);
        }
        state
    }

    /// Gives pages back unchanged.
    fn disown(&self, pages: impl IntoIterator<Item = Owned>) {
        let mut state = self.page_state();
        for page in pages {
            if page.fresh {
                state.tree.remove(page.index);
            } else {
                self.publish(&mut state, page.index, page.frame, page.was_dirty);
            }
        }
        drop(state);
        self.pages.settled.notify_all();
    }

    /// The file becomes longer without being written to. What its last block holds beyond the old end is
    /// anything: it becomes zeroes.
    fn extend_to(self: &Arc<Self>, size: u64) -> Result<(), Errno> {
        let old = self.size();
        let (first, past) = (old / PAGE, size.div_ceil(PAGE));
        let partial = match old % PAGE {
            0 => None,
            // Read, with zeroes beyond the old end, before that moves.
            _ => Some(self.own(first, false)?),
        };
        self.set_size(size);
        if let Some(page) = partial {
            let dirty = match self.has_block(first) {
                Ok(on_disk) => page.was_dirty || on_disk,
                Err(errno) => {
                    self.set_size(old);
                    self.disown(Some(page));
                    return Err(errno);
                }
            };
            self.give_back(page, dirty);
        }
        for index in old.div_ceil(PAGE)..past {
            let zeroed = self.has_block(index).and_then(|on_disk| {
                if on_disk {
                    let page = self.own(index, true)?;
                    self.give_back(page, true);
                }
                Ok(on_disk)
            });
            match zeroed {
                Ok(true) => {}
                // The rest is a hole.
                Ok(false) => break,
                Err(errno) => {
                    self.set_size(old);
                    return Err(errno);
                }
            }
        }
        Ok(())
    }

    /// Whether any part of page `index` has a place on the device.
    fn has_block(&self, index: u64) -> Result<bool, Errno> {
        let (mut at, end) = (index * PAGE, (index + 1) * PAGE);
        while at < end {
            let run = self.extent(at, 1, end)?;
            if run.sector.is_some() {
                return Ok(true);
            }
            at += run.bytes;
        }
        Ok(false)
    }

    /// Settles a page that was owned, changed or not.
    fn give_back(&self, page: Owned, dirty: bool) {
        let mut state = self.page_state();
        self.publish(&mut state, page.index, page.frame, dirty);
        drop(state);
        self.pages.settled.notify_all();
    }

    /// The file is to become `size` bytes long, which is longer than it is: what comes anew reads as zeroes. The caller holds the
    /// vnode's lock exclusively and tells the file system afterwards.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO` and the like; nothing has changed.
    pub(crate) fn extend_pages(self: &Arc<Self>, size: u64) -> Result<(), Errno> {
        let old = self.size();
        self.make_way(size, size)
            .inspect_err(|_| self.cut_back(old))
    }

    /// The file becomes `size` bytes long, if it is longer: pages beyond are dropped, and the rest of the last one is zeroes. The file system
    /// calls this before it frees what lies beyond; one that keeps a journal, within the operation that does: a commit
    /// between would have the file with blocks that nobody has written. The vnode's lock is held exclusively.
    ///
    /// # Errors
    /// `EIO` and the like if the last page cannot be read; nothing has changed.
    pub fn truncate_pages(self: &Arc<Self>, size: u64) -> Result<(), Errno> {
        if !size.is_multiple_of(PAGE) && size < self.size() {
            let mut page = self.own(size / PAGE, false)?;
            // In a hole there is nothing to be written.
            let dirty = match self.has_block(page.index) {
                Ok(on_disk) => page.was_dirty || on_disk,
                Err(errno) => {
                    self.disown(Some(page));
                    return Err(errno);
                }
            };
            if let Some(bytes) = page.frame.get_mut() {
                bytes[(size % PAGE) as usize..].fill(0);
            }
            // Before it can be written: what lies behind may be another file's by then.
            self.set_size(size);
            self.give_back(page, dirty);
        }
        self.set_size(size.min(self.size()));
        self.drop_pages(size.div_ceil(PAGE));
        Ok(())
    }

    /// Drops every page, dirty or not, after what is under way: the file has no name any more, and its last user
    /// is gone.
    pub fn forget_pages(&self) {
        self.set_size(0);
        self.drop_pages(0);
    }
}
