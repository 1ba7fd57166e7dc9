//! Renaming, in an order that leaves the file with a name at every moment.
//!
//! The file's link count is one higher while it has both names; then the new name, in place of the one
//! that it replaces if there is one; then `..`, if a directory moves to another; then the old name goes.
//! Every step is on the disk before the next; nobody waits for it, but where two steps change the same buffer.
//!
//! Source: NetBSD sys/ufs/ufs/ufs_rename.c; POSIX.1-2017 rename().

use rumpuser::Errno;
use rumpvfs::vnode::VnodeType;

use crate::corrupt::Fault;
use crate::inode::Inode;
use crate::names::LINK_MAX;
use crate::vnops::Node;

/// A rename: what it is about, all locked.
pub(crate) struct Moving<'a> {
    pub(crate) from_dir: &'a Node,
    pub(crate) from_name: &'a [u8],
    pub(crate) file: &'a Node,
    pub(crate) to_dir: &'a Node,
    pub(crate) to_name: &'a [u8],
    /// What the new name names so far.
    pub(crate) replaced: Option<&'a Node>,
}

impl Moving<'_> {
    /// Whether a directory gets another parent.
    fn is_new_parent(&self) -> bool {
        self.file.vtype == VnodeType::Dir && self.from_dir.ino != self.to_dir.ino
    }

    pub(crate) fn run(&self) -> Result<(), Fault> {
        self.judge()?;
        let counted = self.file.count_links(1, &[])?;
        let mut named = match self.name_anew(counted) {
            Ok(named) => named,
            Err(fault) => {
                self.file.count_links(-1, &[])?;
                return Err(fault);
            }
        };
        if let Some(replaced) = self.replaced {
            self.let_fall(replaced, named)?;
        }
        if self.is_new_parent() {
            named = self.change_parent(named)?;
        }
        let mut dir = self.from_dir.directory()?;
        let at = self
            .from_dir
            .position(&mut dir, self.from_name, self.file.ino)?;
        let left = self.from_dir.leave(&mut dir, at, &[named])?;
        self.file.count_links(-1, &[left]).map(drop)
    }

    /// Everything that can be refused, before anything changes.
    fn judge(&self) -> Result<(), Fault> {
        let mut from = self.from_dir.directory()?;
        let mut to = self.to_dir.directory()?;
        self.from_dir
            .position(&mut from, self.from_name, self.file.ino)?;
        if self.file.inode().nlink >= LINK_MAX {
            return Err(Fault::Refused(Errno::EMLINK));
        }
        match self.replaced {
            Some(replaced) => {
                if replaced.vtype == VnodeType::Dir {
                    replaced.check_empty()?;
                }
                self.to_dir
                    .position(&mut to, self.to_name, replaced.ino)
                    .map(drop)
            }
            None if self.is_new_parent() && to.nlink >= LINK_MAX => {
                Err(Fault::Refused(Errno::EMLINK))
            }
            None => Ok(()),
        }
    }

    /// The new name, after the buffer at the sector `before`; answers the sector of its own.
    fn name_anew(&self, before: u64) -> Result<u64, Fault> {
        let file = (self.file.ino, self.file.vtype);
        let mut dir = self.to_dir.directory()?;
        let Some(replaced) = self.replaced else {
            let mut parent = before;
            if self.is_new_parent() {
                // Its `..` will lead here.
                parent = self.to_dir.count_links(1, &[])?;
                dir = self.to_dir.directory()?;
            }
            let before = [before, parent];
            let entered = self.to_dir.enter(&mut dir, self.to_name, file, &before);
            if entered.is_err() && self.is_new_parent() {
                self.to_dir.count_links(-1, &[])?;
            }
            return entered;
        };
        let at = self.to_dir.position(&mut dir, self.to_name, replaced.ino)?;
        let mut directory = self.to_dir.as_directory(&mut dir);
        directory.rewrite(at, file, &[before])?;
        let sector = directory.sector(at)?;
        self.to_dir.directory_changed(&mut dir);
        Ok(sector)
    }

    /// What was replaced has a name less, once the buffer at the sector `before` is on the disk. A directory takes its `..` with
    /// it; if another comes in its place from elsewhere, that one's is as good.
    fn let_fall(&self, replaced: &Node, before: u64) -> Result<(), Fault> {
        if replaced.vtype != VnodeType::Dir {
            return replaced.count_links(-1, &[before]).map(drop);
        }
        if !self.is_new_parent() {
            self.to_dir.count_links(-1, &[before])?;
        }
        replaced.count_links(-2, &[before]).map(drop)
    }

    /// `..` of a directory that moves leads to its new parent, after the buffer at the sector `before`; the old one has a link
    /// less. Answers the sector of the buffer with `..`.
    fn change_parent(&self, before: u64) -> Result<u64, Fault> {
        let mut inode: Inode = self.file.inode();
        let at = self.file.position(&mut inode, b"..", self.from_dir.ino)?;
        let parent = (self.to_dir.ino, VnodeType::Dir);
        let mut directory = self.file.as_directory(&mut inode);
        directory.rewrite(at, parent, &[before])?;
        let sector = directory.sector(at)?;
        self.file.directory_changed(&mut inode);
        self.from_dir.count_links(-1, &[sector])?;
        Ok(sector)
    }
}
