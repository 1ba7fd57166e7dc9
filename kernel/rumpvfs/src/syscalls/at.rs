//! Files named by a directory in use and a name in it, or by their vnode: for what has no process and no paths, as a server of
//! files for somebody else's kernel (NetBSD's puffs(3) and p2k, or an NFS server).
//!
//! Whoever calls says on whose behalf; [`Cred::root`] where permissions were judged before.

use super::names::Place;
use super::{OpenFlags, attributes, check_mutable, getattr, open_existing};
use crate::file::VnodeFile;
use crate::namei::{self, NAME_MAX};
use crate::vfs::Vfs;
use crate::vnode::{NewFile, SetAttr, VnodeRef, VnodeType};
use alloc::vec::Vec;
use rumpkern::kauth::Cred;
use rumpkern::kmem;
use rumpuser::{Errno, SECTOR_SIZE};

/// Whether a file can have that name.
fn check_name(name: &[u8]) -> Result<(), Errno> {
    match name {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EINVAL),
        name if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
        name if name.iter().any(|byte| matches!(byte, 0 | b'/')) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

fn place(dir: &VnodeRef, name: &[u8]) -> Result<Place, Errno> {
    check_name(name)?;
    if !dir.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let mut owned = kmem::try_vec(name.len())?;
    owned.extend_from_slice(name);
    Ok(Place {
        dir: dir.clone(),
        name: owned,
        slash: false,
    })
}

impl Vfs {
    /// The file that `name`, which may be `..`, names in `dir`; what is mounted on it is not looked at.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`, `EACCES`, `EINVAL` for what can be no name; the file system's.
    pub fn lookup_at(&self, cred: &Cred, dir: &VnodeRef, name: &[u8]) -> Result<VnodeRef, Errno> {
        if name != b".." {
            check_name(name)?;
        }
        if !dir.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        self.step(dir, name, cred)
    }

    /// Makes a file of any type but symbolic link.
    ///
    /// # Errors
    /// As [`Vfs::lookup_at`]; `EEXIST`, `EROFS`, `ENOSPC`, `EMLINK`.
    pub fn make_at(
        &self,
        cred: &Cred,
        dir: &VnodeRef,
        name: &[u8],
        new: &NewFile,
    ) -> Result<VnodeRef, Errno> {
        let Place { dir, name, .. } = place(dir, name)?;
        match new.vtype {
            VnodeType::Lnk => Err(Errno::EINVAL),
            VnodeType::Dir => self.make(cred, &dir, &name, || dir.ops().mkdir(&dir, &name, new))?,
            _ => self.create(cred, &dir, &name, new),
        }
    }

    /// Makes a symbolic link to `target`, with the owner and mode of `new`.
    ///
    /// # Errors
    /// As [`Vfs::make_at`]; `ENAMETOOLONG` for a target that is too long.
    pub fn symlink_at(
        &self,
        cred: &Cred,
        dir: &VnodeRef,
        name: &[u8],
        (new, target): (&NewFile, &[u8]),
    ) -> Result<VnodeRef, Errno> {
        let Place { dir, name, .. } = place(dir, name)?;
        if target.is_empty() || target.contains(&0) {
            return Err(Errno::EINVAL);
        }
        if target.len() >= crate::namei::PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.make(cred, &dir, &name, || {
            dir.ops().symlink(&dir, &name, new, target)
        })?
    }

    /// Gives `file` one more name.
    ///
    /// # Errors
    /// As [`Vfs::make_at`]; `EPERM` for directories, `EXDEV`.
    pub fn link_at(
        &self,
        cred: &Cred,
        file: &VnodeRef,
        dir: &VnodeRef,
        name: &[u8],
    ) -> Result<(), Errno> {
        let Place { dir, name, .. } = place(dir, name)?;
        if file.is_dir() {
            return Err(Errno::EPERM);
        }
        self.add_name(cred, file, &dir, &name)
    }

    /// Removes a name of what is no directory.
    ///
    /// # Errors
    /// As [`Vfs::lookup_at`]; `EPERM` for directories, `EROFS`, `EBUSY`.
    pub fn unlink_at(&self, cred: &Cred, dir: &VnodeRef, name: &[u8]) -> Result<(), Errno> {
        self.remove_name(cred, &place(dir, name)?)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As [`Vfs::lookup_at`]; `ENOTEMPTY`, `EROFS`, `EBUSY`.
    pub fn rmdir_at(&self, cred: &Cred, dir: &VnodeRef, name: &[u8]) -> Result<(), Errno> {
        self.remove_directory(cred, &place(dir, name)?)
    }

    /// Renames. What has the new name is replaced if `replace` says so.
    ///
    /// # Errors
    /// As [`Vfs::rename`]; `EEXIST` for what is not to be replaced.
    pub fn rename_at(
        &self,
        cred: &Cred,
        (from_dir, from): (&VnodeRef, &[u8]),
        (to_dir, to): (&VnodeRef, &[u8]),
        replace: bool,
    ) -> Result<(), Errno> {
        let (from, to) = (place(from_dir, from)?, place(to_dir, to)?);
        self.move_name(cred, &from, &to, replace)
    }
}

/// Opens a file in use, as open(2) does one that exists.
///
/// # Errors
/// As [`Vfs::open`].
pub fn open_vnode(cred: &Cred, vnode: &VnodeRef, flags: OpenFlags) -> Result<VnodeFile, Errno> {
    open_existing(cred, vnode, flags)?;
    Ok(VnodeFile::new(vnode.clone()))
}

/// The target of a symbolic link in use.
///
/// # Errors
/// `EINVAL`: it is something else. The file system's.
pub fn readlink_of(link: &VnodeRef) -> Result<Vec<u8>, Errno> {
    match link.vtype() {
        VnodeType::Lnk => namei::read_link(link),
        _ => Err(Errno::EINVAL),
    }
}

/// Changes attributes; whether that is permitted was judged before.
///
/// # Errors
/// `EROFS`; `EPERM` for an immutable file; `EISDIR`, `EINVAL`, `EFBIG`, `ENOSPC` for a size. If there is a size, it is set before
/// what may fail in the rest.
pub fn setattr(vnode: &VnodeRef, change: &SetAttr) -> Result<(), Errno> {
    vnode.mount().check_writable()?;
    check_mutable(&getattr(vnode)?)?;
    if let Some(size) = change.size {
        attributes::truncate(vnode, size)?;
    }
    let rest = SetAttr {
        size: None,
        ..*change
    };
    if rest == SetAttr::default() {
        return Ok(());
    }
    let _locked = vnode.lock_exclusive();
    vnode.ops().setattr(vnode, &rest)
}

/// Where the first byte from `offset` on is that lies on the device or in a hole, as `data` says; the end of the file is in a hole.
fn seek(vnode: &VnodeRef, offset: u64, data: bool) -> Result<u64, Errno> {
    if vnode.vtype() != VnodeType::Reg {
        return Err(Errno::EINVAL);
    }
    let _locked = vnode.lock_shared();
    let size = vnode.size();
    if offset >= size {
        return Err(Errno::ENXIO);
    }
    let mut at = offset - offset % SECTOR_SIZE as u64;
    while at < size {
        let run = vnode.ops().bmap(at, size - at)?;
        if run.sector.is_some() == data {
            return Ok(at.max(offset));
        }
        // Whole sectors, and at least one.
        let bytes = run.bytes - run.bytes % SECTOR_SIZE as u64;
        at += bytes.max(SECTOR_SIZE as u64);
    }
    if data { Err(Errno::ENXIO) } else { Ok(size) }
}

/// lseek(2) with `SEEK_DATA`: where data starts, at `offset` or behind it.
///
/// # Errors
/// `ENXIO`: the file ends before. `EINVAL`: no regular file. The file system's.
pub fn seek_data(vnode: &VnodeRef, offset: u64) -> Result<u64, Errno> {
    seek(vnode, offset, true)
}

/// lseek(2) with `SEEK_HOLE`: where a hole starts, at `offset` or behind it; at the end of a file is one.
///
/// # Errors
/// As [`seek_data`].
pub fn seek_hole(vnode: &VnodeRef, offset: u64) -> Result<u64, Errno> {
    seek(vnode, offset, false)
}
