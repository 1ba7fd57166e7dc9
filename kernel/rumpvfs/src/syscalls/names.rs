//! Calls that make, remove and move names: mkdir(2), mknod(2), symlink(2), link(2), unlink(2), rmdir(2),
//! rename(2).
//!
//! Locks: a directory before what is in it, and of two files in directories that are locked the one with the lower number
//! first. A rename that involves two directories takes the mount's rename lock first, so that how deep each lies does not
//! change; then the one nearer to the root before the other, and of two at the same depth that with the lower number. So
//! those who wait for each other's directories wait downwards or towards higher numbers, and never in a circle.

use crate::namecache::Known;
use crate::namei::{Access, Context, Last, Reached, allowed};
use crate::vfs::Vfs;
use crate::vnode::{InodeNumber, NewFile, Rename, S_ISVTX, UF_APPEND, Vattr, VnodeRef, VnodeType};
use alloc::vec::Vec;
use rumpkern::kauth::Cred;
use rumpkern::kmem::Room;
use rumpkern::proc::Proc;
use rumpuser::Errno;

/// The deepest that a directory may be below the root of its mount for a rename to be judged.
const MAX_DEPTH: usize = 4096;

/// A name in a directory.
pub(super) struct Place {
    pub(super) dir: VnodeRef,
    pub(super) name: Vec<u8>,
    pub(super) slash: bool,
}

/// Whether names may be made and removed in `dir`, which is locked.
fn check_dir_writable(dir: &VnodeRef, cred: &Cred) -> Result<Vattr, Errno> {
    dir.mount().check_writable()?;
    let attr = dir.ops().getattr()?;
    super::check_mutable(&attr)?;
    allowed(&attr, cred, Access::WRITE | Access::EXEC)?;
    Ok(attr)
}

/// Whether `cred` may take the name of `file` away from a directory with attributes `dir`.
fn check_removable(dir: &Vattr, file: &VnodeRef, cred: &Cred) -> Result<(), Errno> {
    let attr = file.ops().getattr()?;
    super::check_mutable(&attr)?;
    if (dir.flags | attr.flags) & (UF_APPEND | crate::vnode::SF_APPEND) != 0 {
        return Err(Errno::EPERM);
    }
    let sticky = dir.mode & S_ISVTX != 0 && dir.uid != cred.uid && attr.uid != cred.uid;
    if sticky && !cred.is_root() {
        return Err(Errno::EPERM);
    }
    if file.mounted_here().is_some() || file.is_mount_root() {
        return Err(Errno::EBUSY);
    }
    Ok(())
}

impl Vfs {
    fn place(&self, context: &Context, path: &[u8]) -> Result<Place, Errno> {
        match self.namei(context, path, Last::Parent)? {
            Reached::Name { dir, name, slash } => Ok(Place { dir, name, slash }),
            Reached::File(_) => Err(Errno::EEXIST),
        }
    }

    /// What `name` in `dir` names; the directory is locked exclusively.
    fn named(&self, dir: &VnodeRef, name: &[u8]) -> Result<Option<VnodeRef>, Errno> {
        match self.number(dir, name)? {
            Some(ino) => dir.mount().vget(ino).map(Some),
            None => Ok(None),
        }
    }

    /// The number of the file that `name` in `dir` names; the directory is locked exclusively, so that the name cache does not
    /// contradict it.
    fn number(&self, dir: &VnodeRef, name: &[u8]) -> Result<Option<InodeNumber>, Errno> {
        match self.names.lookup(dir.id(), name) {
            Some(Known::File(ino)) => return Ok(Some(ino)),
            Some(Known::Nothing) => return Ok(None),
            None => {}
        }
        match dir.ops().lookup(name) {
            Ok(ino) => Ok(Some(ino)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Makes a name by `make`, and brings what it names into use: that may fail, for want of memory, after the name was made.
    pub(super) fn make(
        &self,
        cred: &Cred,
        dir: &VnodeRef,
        name: &[u8],
        make: impl FnOnce() -> Result<InodeNumber, Errno>,
    ) -> Result<Result<VnodeRef, Errno>, Errno> {
        let _locked = dir.lock_exclusive();
        check_dir_writable(dir, cred)?;
        if self.number(dir, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        self.names.purge(dir.id(), name);
        let ino = make()?;
        self.names.enter(dir.id(), name, Known::File(ino));
        Ok(dir.mount().vget(ino))
    }

    /// Makes a file that is no directory and no symbolic link.
    pub(super) fn create(
        &self,
        cred: &Cred,
        dir: &VnodeRef,
        name: &[u8],
        new: &NewFile,
    ) -> Result<VnodeRef, Errno> {
        self.make(cred, dir, name, || dir.ops().create(dir, name, new))?
    }

    fn new_file(proc: &Proc, context: &Context, vtype: VnodeType, mode: u16) -> NewFile {
        NewFile {
            vtype,
            mode: mode & 0o7777 & !(proc.umask() as u16),
            uid: context.cred.uid,
            rdev: 0,
        }
    }

    /// mkdir(2).
    ///
    /// # Errors
    /// As [`Vfs::namei`]; `EEXIST`, `EACCES`, `EROFS`, `ENOSPC`, `EMLINK`.
    pub fn mkdir(&self, proc: &Proc, path: &[u8], mode: u16) -> Result<(), Errno> {
        let context = self.context(proc)?;
        let Place { dir, name, .. } = self.place(&context, path).map_err(existing)?;
        let new = Vfs::new_file(proc, &context, VnodeType::Dir, mode);
        let made = self.make(&context.cred, &dir, &name, || {
            dir.ops().mkdir(&dir, &name, &new)
        });
        // It is made, also if there is no memory for its vnode.
        made.map(drop)
    }

    /// mknod(2), mkfifo(2): makes a device node, a FIFO, a socket or a regular file.
    ///
    /// # Errors
    /// As [`Vfs::mkdir`]; `EPERM`: devices are the superuser's to make. `EINVAL`: another type.
    pub fn mknod(
        &self,
        proc: &Proc,
        path: &[u8],
        vtype: VnodeType,
        mode: u16,
        rdev: u64,
    ) -> Result<(), Errno> {
        let context = self.context(proc)?;
        match vtype {
            VnodeType::Blk | VnodeType::Chr if !context.cred.is_root() => return Err(Errno::EPERM),
            VnodeType::Dir | VnodeType::Lnk => return Err(Errno::EINVAL),
            _ => {}
        }
        let Place { dir, name, slash } = self.place(&context, path).map_err(existing)?;
        if slash {
            return Err(Errno::ENOENT);
        }
        let new = NewFile {
            rdev,
            ..Vfs::new_file(proc, &context, vtype, mode)
        };
        let make = || dir.ops().create(&dir, &name, &new);
        self.make(&context.cred, &dir, &name, make).map(drop)
    }

    /// symlink(2): `path` leads to `target` from now on.
    ///
    /// # Errors
    /// As [`Vfs::mkdir`]; `ENOENT` for an empty target, `ENAMETOOLONG` for one that is too long.
    pub fn symlink(&self, proc: &Proc, target: &[u8], path: &[u8]) -> Result<(), Errno> {
        if target.is_empty() || target.contains(&0) {
            return Err(if target.is_empty() {
                Errno::ENOENT
            } else {
                Errno::EINVAL
            });
        }
        if target.len() >= crate::namei::PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let context = self.context(proc)?;
        let Place { dir, name, slash } = self.place(&context, path).map_err(existing)?;
        if slash {
            return Err(Errno::ENOENT);
        }
        let new = Vfs::new_file(proc, &context, VnodeType::Lnk, 0o777);
        let make = || dir.ops().symlink(&dir, &name, &new, target);
        self.make(&context.cred, &dir, &name, make).map(drop)
    }

    /// link(2): the file at `from`, which is no directory, gets the name `to` as well.
    ///
    /// # Errors
    /// As [`Vfs::mkdir`]; `EPERM` for directories, `EXDEV`.
    pub fn link(&self, proc: &Proc, from: &[u8], to: &[u8]) -> Result<(), Errno> {
        let context = self.context(proc)?;
        let file = self.namei(&context, from, Last::NoFollow)?.file()?;
        if file.is_dir() {
            return Err(Errno::EPERM);
        }
        let Place { dir, name, slash } = self.place(&context, to).map_err(existing)?;
        if slash {
            return Err(Errno::ENOENT);
        }
        self.add_name(&context.cred, &file, &dir, &name)
    }

    /// Gives `file`, which is no directory, the name `name` in `dir` as well.
    pub(super) fn add_name(
        &self,
        cred: &Cred,
        file: &VnodeRef,
        dir: &VnodeRef,
        name: &[u8],
    ) -> Result<(), Errno> {
        if file.mount().id() != dir.mount().id() {
            return Err(Errno::EXDEV);
        }
        let made = self.make(cred, dir, name, || {
            let _locked = file.lock_exclusive();
            super::check_mutable(&file.ops().getattr()?)?;
            dir.ops().link(dir, name, file)?;
            Ok(file.ino())
        });
        made.map(drop)
    }

    /// unlink(2).
    ///
    /// # Errors
    /// As [`Vfs::namei`]; `EPERM` for directories, `EACCES`, `EROFS`, `EBUSY`.
    pub fn unlink(&self, proc: &Proc, path: &[u8]) -> Result<(), Errno> {
        let context = self.context(proc)?;
        self.remove_name(&context.cred, &self.place(&context, path)?)
    }

    /// Removes a name of what is no directory.
    pub(super) fn remove_name(&self, cred: &Cred, place: &Place) -> Result<(), Errno> {
        let Place { dir, name, slash } = place;
        let file;
        let _locked = dir.lock_exclusive();
        let attr = check_dir_writable(dir, cred)?;
        file = self.named(dir, name)?.ok_or(Errno::ENOENT)?;
        if file.is_dir() {
            return Err(Errno::EPERM);
        }
        if *slash {
            return Err(Errno::ENOTDIR);
        }
        let _file_locked = file.lock_exclusive();
        check_removable(&attr, &file, cred)?;
        self.names.purge(dir.id(), name);
        dir.ops().remove(dir, name, &file)
    }

    /// rmdir(2).
    ///
    /// # Errors
    /// As [`Vfs::namei`]; `ENOTDIR`, `ENOTEMPTY`, `EINVAL` for `.`, `EACCES`, `EROFS`, `EBUSY`.
    pub fn rmdir(&self, proc: &Proc, path: &[u8]) -> Result<(), Errno> {
        let context = self.context(proc)?;
        self.remove_directory(&context.cred, &self.place(&context, path)?)
    }

    /// Removes an empty directory.
    pub(super) fn remove_directory(&self, cred: &Cred, place: &Place) -> Result<(), Errno> {
        let Place { dir, name, .. } = place;
        let file;
        let _locked = dir.lock_exclusive();
        let attr = check_dir_writable(dir, cred)?;
        file = self.named(dir, name)?.ok_or(Errno::ENOENT)?;
        if !file.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let _file_locked = file.lock_exclusive();
        check_removable(&attr, &file, cred)?;
        self.names.purge(dir.id(), name);
        self.names.purge(file.id(), b"..");
        dir.ops().rmdir(dir, name, &file)
    }

    /// rename(2).
    ///
    /// # Errors
    /// As [`Vfs::namei`]; `EXDEV`, `EINVAL` (a directory into itself), `ENOTDIR`, `EISDIR`, `ENOTEMPTY`, `EACCES`, `EROFS`,
    /// `EBUSY`, `ENOSPC`, `EMLINK`.
    pub fn rename(&self, proc: &Proc, from: &[u8], to: &[u8]) -> Result<(), Errno> {
        let context = self.context(proc)?;
        let from = self.place(&context, from)?;
        let to = self.place(&context, to)?;
        self.move_name(&context.cred, &from, &to, true)
    }

    /// Renames; what has the new name is replaced if `replace` says so, and else `EEXIST`.
    pub(super) fn move_name(
        &self,
        cred: &Cred,
        from: &Place,
        to: &Place,
        replace: bool,
    ) -> Result<(), Errno> {
        let mount = from.dir.mount().clone();
        if mount.id() != to.dir.mount().id() {
            return Err(Errno::EXDEV);
        }
        if from.dir.same(&to.dir) {
            let _locked = from.dir.lock_exclusive();
            return self.rename_locked(cred, from, to, (None, replace));
        }
        let _no_other = mount.rename_lock().lock();
        // The directories that lead to each; taken with no lock held.
        let above_to = self.ancestors(&to.dir)?;
        let above_from = self.ancestors(&from.dir)?;
        let key = |dir: &VnodeRef, above: &[InodeNumber]| (above.len(), dir.ino());
        let from_first = key(&from.dir, &above_from) < key(&to.dir, &above_to);
        let (first, second) = match from_first {
            true => (&from.dir, &to.dir),
            false => (&to.dir, &from.dir),
        };
        let _first = first.lock_exclusive();
        let _second = second.lock_exclusive();
        // What is replaced would be a directory with the file in it.
        let replaced = to.dir.ops().lookup(&to.name);
        if replaced.is_ok_and(|ino| above_from.contains(&ino)) {
            return Err(Errno::ENOTEMPTY);
        }
        self.rename_locked(cred, from, to, (Some(&above_to), replace))
    }

    /// The numbers of the directories above `dir`, and its own, up to the root of its mount.
    fn ancestors(&self, dir: &VnodeRef) -> Result<Vec<InodeNumber>, Errno> {
        let mut found = Vec::new();
        let mut dir = dir.clone();
        for _ in 0..MAX_DEPTH {
            found.room(1)?;
            found.push(dir.ino());
            if dir.is_mount_root() {
                return Ok(found);
            }
            dir = self.step(&dir, b"..", &Cred::root())?;
        }
        Err(Errno::ELOOP)
    }

    /// Renames; the directories are locked exclusively. `above_to`: the directories above the new
    /// name, if that is in another directory.
    fn rename_locked(
        &self,
        cred: &Cred,
        from: &Place,
        to: &Place,
        (above_to, replace): (Option<&[InodeNumber]>, bool),
    ) -> Result<(), Errno> {
        let from_attr = check_dir_writable(&from.dir, cred)?;
        let to_attr = check_dir_writable(&to.dir, cred)?;
        let file = self.named(&from.dir, &from.name)?.ok_or(Errno::ENOENT)?;
        let replaced = self.named(&to.dir, &to.name)?;
        if replaced.is_some() && !replace {
            return Err(Errno::EEXIST);
        }
        if (from.slash || to.slash) && !file.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if above_to.is_some_and(|above| above.contains(&file.ino())) {
            return Err(Errno::EINVAL);
        }
        if replaced
            .as_ref()
            .is_some_and(|replaced| file.same(replaced))
        {
            // Two names of one file: POSIX has both stay.
            return Ok(());
        }
        match replaced.as_ref().map(|replaced| replaced.is_dir()) {
            Some(true) if !file.is_dir() => return Err(Errno::EISDIR),
            Some(false) if file.is_dir() => return Err(Errno::ENOTDIR),
            _ => {}
        }
        let is_before = |replaced: &&VnodeRef| replaced.ino() < file.ino();
        let before = replaced.as_ref().filter(is_before);
        let _before_locked = before.map(|replaced| replaced.lock_exclusive());
        let _file_locked = file.lock_exclusive();
        let behind = replaced.as_ref().filter(|_| before.is_none());
        let _behind_locked = behind.map(|replaced| replaced.lock_exclusive());
        check_removable(&from_attr, &file, cred)?;
        if let Some(replaced) = &replaced {
            check_removable(&to_attr, replaced, cred)?;
        }
        self.names.purge(from.dir.id(), &from.name);
        self.names.purge(to.dir.id(), &to.name);
        self.names.purge(file.id(), b"..");
        if let Some(replaced) = &replaced {
            self.names.purge(replaced.id(), b"..");
        }
        from.dir.ops().rename(&Rename {
            from_dir: from.dir.arc(),
            from_name: &from.name,
            from: file.arc(),
            to_dir: to.dir.arc(),
            to_name: &to.name,
            to: replaced.as_ref().map(VnodeRef::arc),
        })
    }
}

/// Where something is to be made, the root, `.` and `..` exist already.
fn existing(errno: Errno) -> Errno {
    match errno {
        Errno::EBUSY | Errno::EINVAL => Errno::EEXIST,
        errno => errno,
    }
}
