//! Calls that change the attributes of files: chmod(2), chown(2), utimens(2), truncate(2), chflags(2).

use super::{check_mutable, file_vnode, getattr, now};
use crate::namei::{Access, Context, Last, allowed};
use crate::vfs::Vfs;
use crate::vnode::{S_ISGID, S_ISUID, S_ISVTX, SetAttr, Vattr, VnodeRef, VnodeType};
use rumpkern::file::{File, FileFlags};
use rumpkern::kauth::Cred;
use rumpkern::proc::Proc;
use rumpuser::{Errno, WallTime};

/// Cuts or extends a regular file. The file's own permission was checked.
pub(super) fn truncate(vnode: &VnodeRef, size: u64) -> Result<(), Errno> {
    match vnode.vtype() {
        VnodeType::Reg => {}
        VnodeType::Dir => return Err(Errno::EISDIR),
        _ => return Err(Errno::EINVAL),
    }
    if size > i64::MAX as u64 {
        return Err(Errno::EFBIG);
    }
    let _locked = vnode.lock_exclusive();
    vnode.mount().check_writable()?;
    let change = SetAttr {
        size: Some(size),
        mtime: Some(now()),
        ..SetAttr::default()
    };
    if size > vnode.size() {
        vnode.extend_pages(size)?;
    }
    let changed = vnode.ops().setattr(vnode, &change);
    let changed = changed.and_then(|()| vnode.truncate_pages(size));
    changed.inspect_err(|_| vnode.adopt_size())
}

/// Times to set: `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Last access.
    pub atime: Option<WallTime>,
    /// Last change of the contents.
    pub mtime: Option<WallTime>,
}

/// Whether `cred` owns the file, or may do as if.
fn check_owner(attr: &Vattr, cred: &Cred) -> Result<(), Errno> {
    if cred.is_root() || cred.uid == attr.uid {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// Changes attributes that `judge` finds may be changed.
fn change(
    vnode: &VnodeRef,
    judge: impl FnOnce(&Vattr) -> Result<SetAttr, Errno>,
) -> Result<(), Errno> {
    let _locked = vnode.lock_exclusive();
    vnode.mount().check_writable()?;
    let attr = vnode.ops().getattr()?;
    vnode.ops().setattr(vnode, &judge(&attr)?)
}

fn chmod(vnode: &VnodeRef, cred: &Cred, mode: u16) -> Result<(), Errno> {
    change(vnode, |attr| {
        check_owner(attr, cred)?;
        check_mutable(attr)?;
        let mut mode = mode & 0o7777;
        if !cred.is_root() {
            if attr.vtype != VnodeType::Dir && mode & S_ISVTX != 0 {
                // As in NetBSD: sticky files are the superuser's to make.
                return Err(Errno::EFTYPE);
            }
            if !cred.is_member(attr.gid) {
                mode &= !S_ISGID;
            }
        }
        Ok(SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        })
    })
}

fn chown(vnode: &VnodeRef, cred: &Cred, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    change(vnode, |attr| {
        check_mutable(attr)?;
        let uid_stays = uid.is_none_or(|uid| uid == attr.uid);
        let gid_allowed = gid.is_none_or(|gid| gid == attr.gid || cred.is_member(gid));
        let by_owner = cred.uid == attr.uid && uid_stays && gid_allowed;
        if !(cred.is_root() || by_owner) {
            return Err(Errno::EPERM);
        }
        let clears = !cred.is_root() && attr.mode & (S_ISUID | S_ISGID) != 0;
        Ok(SetAttr {
            uid,
            gid,
            mode: clears.then_some(attr.mode & !(S_ISUID | S_ISGID)),
            ..SetAttr::default()
        })
    })
}

fn chflags(vnode: &VnodeRef, cred: &Cred, flags: u32) -> Result<(), Errno> {
    /// What only the superuser may set and clear (`SF_SETTABLE`).
    const SYSTEM: u32 = 0xffff_0000;
    change(vnode, |attr| {
        check_owner(attr, cred)?;
        if !cred.is_root() && (flags ^ attr.flags) & SYSTEM != 0 {
            return Err(Errno::EPERM);
        }
        Ok(SetAttr {
            flags: Some(flags),
            ..SetAttr::default()
        })
    })
}

/// `to_now`: whoever may write the file may do so.
fn utimens(vnode: &VnodeRef, cred: &Cred, times: Times, to_now: bool) -> Result<(), Errno> {
    change(vnode, |attr| {
        check_mutable(attr)?;
        if !(to_now && allowed(attr, cred, Access::WRITE).is_ok()) {
            check_owner(attr, cred)?;
        }
        Ok(SetAttr {
            atime: times.atime,
            mtime: times.mtime,
            ..SetAttr::default()
        })
    })
}

impl Vfs {
    fn changed(&self, proc: &Proc, path: &[u8], last: Last) -> Result<(Context, VnodeRef), Errno> {
        let context = self.context(proc)?;
        let vnode = self.namei(&context, path, last)?.file()?;
        Ok((context, vnode))
    }

    /// chmod(2).
    ///
    /// # Errors
    /// As [`Vfs::namei`]; `EPERM`, `EROFS`, `EFTYPE`.
    pub fn chmod(&self, proc: &Proc, path: &[u8], mode: u16) -> Result<(), Errno> {
        let (context, vnode) = self.changed(proc, path, Last::Follow)?;
        chmod(&vnode, &context.cred, mode)
    }

    /// chown(2), or lchown(2) with [`Last::NoFollow`].
    ///
    /// # Errors
    /// As [`Vfs::namei`]; `EPERM`, `EROFS`.
    pub fn chown(
        &self,
        proc: &Proc,
        path: &[u8],
        last: Last,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), Errno> {
        let (context, vnode) = self.changed(proc, path, last)?;
        chown(&vnode, &context.cred, uid, gid)
    }

    /// chflags(2).
    ///
    /// # Errors
    /// As [`Vfs::namei`]; `EPERM`, `EROFS`, `EOPNOTSUPP` where the file system has no flags.
    pub fn chflags(&self, proc: &Proc, path: &[u8], flags: u32) -> Result<(), Errno> {
        let (context, vnode) = self.changed(proc, path, Last::Follow)?;
        chflags(&vnode, &context.cred, flags)
    }

    /// utimensat(2); `times` of `None`: both are now.
    ///
    /// # Errors
    /// As [`Vfs::namei`]; `EPERM`, `EROFS`.
    pub fn utimens(
        &self,
        proc: &Proc,
        path: &[u8],
        last: Last,
        times: Option<Times>,
    ) -> Result<(), Errno> {
        let (context, vnode) = self.changed(proc, path, last)?;
        let both = Times {
            atime: Some(now()),
            mtime: Some(now()),
        };
        utimens(
            &vnode,
            &context.cred,
            times.unwrap_or(both),
            times.is_none(),
        )
    }

    /// truncate(2).
    ///
    /// # Errors
    /// As [`Vfs::namei`]; `EACCES`, `EISDIR`, `EINVAL`, `EROFS`, `EFBIG`, `ENOSPC`.
    pub fn truncate(&self, proc: &Proc, path: &[u8], size: u64) -> Result<(), Errno> {
        let (context, vnode) = self.changed(proc, path, Last::Follow)?;
        let attr = getattr(&vnode)?;
        allowed(&attr, &context.cred, Access::WRITE)?;
        check_mutable(&attr)?;
        truncate(&vnode, size)
    }
}

/// ftruncate(2).
///
/// # Errors
/// `EINVAL`: not opened to write, or not a regular file. `EROFS`, `EFBIG`, `ENOSPC`.
pub fn ftruncate(file: &File, size: u64) -> Result<(), Errno> {
    if !file.flags().contains(FileFlags::WRITE) {
        return Err(Errno::EINVAL);
    }
    truncate(file_vnode(file)?, size)
}
