//! The file system calls, for a process (NetBSD `kern/vfs_syscalls.c`): thin, over name look-up, vnodes and
//! open files.
//!
//! - here: opening, looking, moving about, mounting;
//! - `names.rs`: what makes, removes and moves names;
//! - `attributes.rs`: what changes a file's attributes;
//! - `at.rs`: the same for whoever names a file by a directory in use and a name there, or has the vnode itself.
//!
//! Calls that take a descriptor are also there for [`File`]s, which whoever is not a process uses.

mod at;
mod attributes;
mod names;

pub use at::{open_vnode, readlink_of, seek_data, seek_hole, setattr};
pub use attributes::{Times, ftruncate};

use crate::file::VnodeFile;
use crate::mount::Mount;
use crate::namei::{self, Access, Context, Last, Reached, allowed};
use crate::pagecache::Patience;
use crate::vfs::{MountRequest, Vfs};
use crate::vfsops::StatVfs;
use crate::vnode::{
    DirSink, NewFile, SF_IMMUTABLE, UF_IMMUTABLE, Vattr, Vnode, VnodeRef, VnodeType, Wait,
};
use alloc::sync::Arc;
use alloc::vec::Vec;
use rumpkern::file::{File, FileFlags};
use rumpkern::kauth::Cred;
use rumpkern::kmem;
use rumpkern::proc::{Opaque, Proc};
use rumpkern::uvm::dma::IoFrame;
use rumpuser::{Errno, WallTime};

bitflags::bitflags! {
    /// How to open (NetBSD `sys/fcntl.h`, but for the access mode, whose two bits mean read and write here as
    /// they do in the kernel: `FREAD`, `FWRITE`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OpenFlags: u32 {
        /// To read.
        const READ = 1;
        /// To write.
        const WRITE = 2;
        /// `O_NONBLOCK`.
        const NONBLOCK = 0x4;
        /// `O_APPEND`: every write goes to the end.
        const APPEND = 0x8;
        /// `O_SYNC`: a write is stable when it returns.
        const SYNC = 0x80;
        /// `O_NOFOLLOW`: a symbolic link as the last name is `ELOOP`.
        const NOFOLLOW = 0x100;
        /// `O_CREAT`: make it if there is none.
        const CREAT = 0x200;
        /// `O_TRUNC`: cut it to nothing.
        const TRUNC = 0x400;
        /// `O_EXCL`: with `CREAT`, it must not exist.
        const EXCL = 0x800;
        /// `O_DIRECTORY`: it must be a directory.
        const DIRECTORY = 0x20_0000;
    }
}

/// What stat(2) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The mount it is of.
    pub dev: u64,
    /// The rest.
    pub attr: Vattr,
}

/// Where lseek(2) counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// `SEEK_SET`: the start.
    Set,
    /// `SEEK_CUR`: where the offset is.
    Current,
    /// `SEEK_END`: the end of the file.
    End,
}

/// The attributes of `vnode`.
fn getattr(vnode: &Vnode) -> Result<Vattr, Errno> {
    let _locked = vnode.lock_shared();
    vnode.ops().getattr()
}

/// Whether the attributes let anything but the flags be changed.
fn check_mutable(attr: &Vattr) -> Result<(), Errno> {
    if attr.flags & (UF_IMMUTABLE | SF_IMMUTABLE) != 0 {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// The vnode behind `file`.
///
/// # Errors
/// `EINVAL`: it is something else, such as a socket.
pub fn file_vnode(file: &File) -> Result<&VnodeRef, Errno> {
    vnode_file(file).map(VnodeFile::vnode)
}

fn vnode_file(file: &File) -> Result<&VnodeFile, Errno> {
    file.ops().as_any().downcast_ref().ok_or(Errno::EINVAL)
}

fn kept(opaque: Option<Opaque>) -> Option<VnodeRef> {
    let vnode = opaque?.downcast::<VnodeRef>().ok()?;
    Some((*vnode).clone())
}

impl Vfs {
    /// Where the paths of `proc` start, and what it may.
    ///
    /// # Errors
    /// `ENOENT`: nothing is mounted.
    pub fn context(&self, proc: &Proc) -> Result<Context, Errno> {
        let root = match kept(proc.root()) {
            Some(root) => root,
            None => self.root()?,
        };
        Ok(Context {
            cwd: kept(proc.cwd()).unwrap_or_else(|| root.clone()),
            root,
            cred: proc.cred(),
        })
    }

    /// Opens the file at `path`; `mode` is for one that is made.
    ///
    /// # Errors
    /// As [`Vfs::namei`]; `EACCES`, `EISDIR` (a directory to be written), `EROFS`, `EEXIST`, `ENOTDIR`, `ELOOP`;
    /// `ENXIO` for devices, which cannot be opened by name, and `EOPNOTSUPP` for sockets and FIFOs.
    pub fn open(
        &self,
        proc: &Proc,
        path: &[u8],
        flags: OpenFlags,
        mode: u16,
    ) -> Result<Arc<File>, Errno> {
        if !flags.intersects(OpenFlags::READ | OpenFlags::WRITE) {
            return Err(Errno::EINVAL);
        }
        let context = self.context(proc)?;
        let last = match (flags.contains(OpenFlags::CREAT), flags) {
            (true, flags) if flags.contains(OpenFlags::EXCL) => Last::NoFollow,
            (true, _) => Last::Create,
            (false, flags) if flags.contains(OpenFlags::NOFOLLOW) => Last::NoFollow,
            (false, _) => Last::Follow,
        };
        let mut tries = 0;
        let vnode = loop {
            match self.open_vnode(proc, &context, path, (flags, last), mode) {
                // Made by somebody else in the meantime.
                Err(Errno::EEXIST) if !flags.contains(OpenFlags::EXCL) && tries < 8 => tries += 1,
                opened => break opened?,
            }
        };
        let pairs = [
            (OpenFlags::READ, FileFlags::READ),
            (OpenFlags::WRITE, FileFlags::WRITE),
            (OpenFlags::NONBLOCK, FileFlags::NONBLOCK),
            (OpenFlags::APPEND, FileFlags::APPEND),
            (OpenFlags::SYNC, FileFlags::SYNC),
        ];
        let mut kept = FileFlags::empty();
        for (asked, keep) in pairs {
            kept.set(keep, flags.contains(asked));
        }
        kmem::try_arc(File::new(kept, kmem::try_arc(VnodeFile::new(vnode))?))
    }

    /// The file that an open is about, made if that is asked.
    fn open_vnode(
        &self,
        proc: &Proc,
        context: &Context,
        path: &[u8],
        (flags, last): (OpenFlags, Last),
        mode: u16,
    ) -> Result<VnodeRef, Errno> {
        let reached = match self.namei(context, path, last) {
            Err(Errno::ENOENT) if last == Last::NoFollow && flags.contains(OpenFlags::CREAT) => {
                self.namei(context, path, Last::Parent)?
            }
            reached => reached?,
        };
        match reached {
            Reached::File(_) if flags.contains(OpenFlags::CREAT | OpenFlags::EXCL) => {
                Err(Errno::EEXIST)
            }
            Reached::File(vnode) => {
                open_existing(&context.cred, &vnode, flags)?;
                Ok(vnode)
            }
            Reached::Name { slash: true, .. } => Err(Errno::EISDIR),
            Reached::Name { dir, name, .. } => {
                let new = NewFile {
                    vtype: VnodeType::Reg,
                    mode: mode & 0o7777 & !(proc.umask() as u16),
                    uid: context.cred.uid,
                    rdev: 0,
                };
                self.create(&context.cred, &dir, &name, &new)
            }
        }
    }

    /// Opens as [`Vfs::open`] does, and gives `proc` a descriptor (open(2)).
    ///
    /// # Errors
    /// As there; `EMFILE`.
    pub fn sys_open(
        &self,
        proc: &Proc,
        path: &[u8],
        flags: OpenFlags,
        mode: u16,
    ) -> Result<usize, Errno> {
        proc.fds().alloc(self.open(proc, path, flags, mode)?)
    }

    /// stat(2).
    ///
    /// # Errors
    /// As [`Vfs::namei`].
    pub fn stat(&self, proc: &Proc, path: &[u8]) -> Result<Stat, Errno> {
        stat_of(&self.lookup(&self.context(proc)?, path)?)
    }

    /// lstat(2): a symbolic link is looked at itself.
    ///
    /// # Errors
    /// As [`Vfs::namei`].
    pub fn lstat(&self, proc: &Proc, path: &[u8]) -> Result<Stat, Errno> {
        let reached = self.namei(&self.context(proc)?, path, Last::NoFollow)?;
        stat_of(&reached.file()?)
    }

    /// access(2): whether `proc` may do all of `want` with the file at `path`; nothing wanted: whether it exists.
    ///
    /// # Errors
    /// As [`Vfs::namei`]; `EACCES`, `EROFS`.
    pub fn access(&self, proc: &Proc, path: &[u8], want: Access) -> Result<(), Errno> {
        let context = self.context(proc)?;
        let vnode = self.lookup(&context, path)?;
        if want.contains(Access::WRITE) {
            vnode.mount().check_writable()?;
        }
        allowed(&getattr(&vnode)?, &context.cred, want)
    }

    /// readlink(2): the target of the symbolic link at `path`.
    ///
    /// # Errors
    /// As [`Vfs::namei`]; `EINVAL`: it is something else.
    pub fn readlink(&self, proc: &Proc, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let reached = self.namei(&self.context(proc)?, path, Last::NoFollow)?;
        let link = reached.file()?;
        if link.vtype() != VnodeType::Lnk {
            return Err(Errno::EINVAL);
        }
        namei::read_link(&link)
    }

    /// chdir(2).
    ///
    /// # Errors
    /// As [`Vfs::namei`]; `ENOTDIR`, `EACCES`.
    pub fn chdir(&self, proc: &Proc, path: &[u8]) -> Result<(), Errno> {
        let context = self.context(proc)?;
        let dir = self.lookup(&context, path)?;
        check_dir(&dir, &context)?;
        drop(proc.set_cwd(Some(kmem::try_arc(dir)?)));
        Ok(())
    }

    /// fchdir(2).
    ///
    /// # Errors
    /// `EBADF`, `ENOTDIR`, `EACCES`.
    pub fn fchdir(&self, proc: &Proc, fd: usize) -> Result<(), Errno> {
        let file = proc.fds().get(fd)?;
        let dir = file_vnode(&file)?.clone();
        check_dir(&dir, &self.context(proc)?)?;
        drop(proc.set_cwd(Some(kmem::try_arc(dir)?)));
        Ok(())
    }

    /// chroot(2): `/` is the directory at `path` from now on, and `..` does not lead out of it.
    ///
    /// # Errors
    /// `EPERM` for all but the superuser; as [`Vfs::chdir`].
    pub fn chroot(&self, proc: &Proc, path: &[u8]) -> Result<(), Errno> {
        let context = self.context(proc)?;
        if !context.cred.is_root() {
            return Err(Errno::EPERM);
        }
        let dir = self.lookup(&context, path)?;
        check_dir(&dir, &context)?;
        drop(proc.set_root(Some(kmem::try_arc(dir.clone())?)));
        // A working directory outside would be a way around.
        drop(proc.set_cwd(Some(kmem::try_arc(dir)?)));
        Ok(())
    }

    /// statvfs(2): the file system that the file at `path` is on.
    ///
    /// # Errors
    /// As [`Vfs::namei`]; the file system's.
    pub fn statvfs(&self, proc: &Proc, path: &[u8]) -> Result<StatVfs, Errno> {
        self.lookup(&self.context(proc)?, path)?.mount().statvfs()
    }

    /// mount(2).
    ///
    /// # Errors
    /// As [`Vfs::mount`].
    pub fn sys_mount(&self, proc: &Proc, request: &MountRequest<'_>) -> Result<(), Errno> {
        self.mount(&proc.cred(), request).map(drop)
    }

    /// unmount(2): what is mounted at `path`.
    ///
    /// # Errors
    /// `EPERM` for all but the superuser; `EINVAL`: `path` is not where something is mounted; as [`Vfs::unmount`].
    pub fn sys_unmount(&self, proc: &Proc, path: &[u8]) -> Result<(), Errno> {
        self.unmount(&self.mounted_at(proc, path)?)
    }

    /// unmount(2) with `MNT_FORCE`.
    ///
    /// # Errors
    /// As [`Vfs::sys_unmount`], but as [`Vfs::unmount_forced`].
    pub fn sys_unmount_forced(&self, proc: &Proc, path: &[u8]) -> Result<(), Errno> {
        self.unmount_forced(&self.mounted_at(proc, path)?)
    }

    /// What is mounted at `path`, for a superuser.
    fn mounted_at(&self, proc: &Proc, path: &[u8]) -> Result<Arc<Mount>, Errno> {
        let context = self.context(proc)?;
        if !context.cred.is_root() {
            return Err(Errno::EPERM);
        }
        let root = self.lookup(&context, path)?;
        if !root.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        // `root` and `context` are uses, too, and end here.
        Ok(root.mount().clone())
    }
}

/// Checks what open(2) checks of a file that exists, and truncates it if asked.
fn open_existing(cred: &Cred, vnode: &VnodeRef, flags: OpenFlags) -> Result<(), Errno> {
    let attr = getattr(vnode)?;
    if flags.contains(OpenFlags::DIRECTORY) && !vnode.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    match vnode.vtype() {
        VnodeType::Reg => {}
        VnodeType::Dir if flags.intersects(OpenFlags::WRITE | OpenFlags::TRUNC) => {
            return Err(Errno::EISDIR);
        }
        VnodeType::Dir => {}
        VnodeType::Lnk => return Err(Errno::ELOOP),
        VnodeType::Blk | VnodeType::Chr => return Err(Errno::ENXIO),
        VnodeType::Sock | VnodeType::Fifo => return Err(Errno::EOPNOTSUPP),
    }
    let mut want = Access::empty();
    want.set(Access::READ, flags.contains(OpenFlags::READ));
    want.set(
        Access::WRITE,
        flags.intersects(OpenFlags::WRITE | OpenFlags::TRUNC),
    );
    allowed(&attr, cred, want)?;
    if want.contains(Access::WRITE) {
        vnode.mount().check_writable()?;
        check_mutable(&attr)?;
    }
    if flags.contains(OpenFlags::TRUNC) {
        attributes::truncate(vnode, 0)?;
    }
    Ok(())
}

fn check_dir(dir: &VnodeRef, context: &Context) -> Result<(), Errno> {
    if !dir.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    allowed(&getattr(dir)?, &context.cred, Access::EXEC)
}

/// What is known of a file in use.
///
/// # Errors
/// The file system's.
pub fn stat_of(vnode: &VnodeRef) -> Result<Stat, Errno> {
    let mut attr = getattr(vnode)?;
    // The page cache knows of growth before the inode does.
    if vnode.vtype() == VnodeType::Reg {
        attr.size = vnode.size();
    }
    Ok(Stat {
        dev: vnode.mount().id(),
        attr,
    })
}

/// fstat(2).
///
/// # Errors
/// `EINVAL`: not a vnode; the file system's.
pub fn fstat(file: &File) -> Result<Stat, Errno> {
    stat_of(file_vnode(file)?)
}

/// lseek(2): answers the new offset.
///
/// # Errors
/// `ESPIPE`: the file has none. `EINVAL`: it would be negative.
pub fn lseek(file: &File, by: i64, whence: Whence) -> Result<u64, Errno> {
    if !file.ops().seekable() {
        return Err(Errno::ESPIPE);
    }
    let mut offset = file.offset().lock();
    let base = match whence {
        Whence::Set => 0,
        Whence::Current => *offset,
        Whence::End => file_vnode(file)?.size(),
    };
    let wanted = base
        .checked_add_signed(by)
        .filter(|&offset| offset <= i64::MAX as u64);
    *offset = wanted.ok_or(Errno::EINVAL)?;
    Ok(*offset)
}

/// getdents(2), as calls of `sink`: gives the entries of the directory from the file's offset on, which moves along with
/// those that `sink` took.
///
/// # Errors
/// `EBADF`: not opened to read. `ENOTDIR`; `EINVAL` for an offset that is none; the file system's.
pub fn getdents(file: &File, sink: &mut dyn DirSink) -> Result<(), Errno> {
    if !file.flags().contains(FileFlags::READ) {
        return Err(Errno::EBADF);
    }
    let opened = vnode_file(file)?;
    let mut offset = file.offset().lock();
    let mut next = *offset;
    let result = opened.readdir(*offset, &mut |entry: &crate::vnode::DirEntry<'_>| {
        let taken = sink.entry(entry);
        if taken {
            next = entry.next_cookie;
        }
        taken
    });
    *offset = next;
    result
}

/// The pages that hold `len` bytes of the file from `offset` on, to be sent without a copy.
///
/// # Errors
/// `EBADF`: not opened to read. As [`Vnode::read_frames`].
pub fn read_frames(
    file: &File,
    offset: u64,
    len: u64,
    patience: Patience,
) -> Result<Vec<IoFrame>, Errno> {
    if !file.flags().contains(FileFlags::READ) {
        return Err(Errno::EBADF);
    }
    vnode_file(file)?.read_frames(offset, len, patience)
}

/// fsync(2): the file is stable when it returns.
///
/// # Errors
/// `EINVAL`: not a vnode. `EIO`: something could not be written since the last call.
pub fn fsync(file: &File) -> Result<(), Errno> {
    let vnode = file_vnode(file)?;
    vnode.mount().check_there()?;
    if vnode.mount().is_quiet() {
        return Ok(());
    }
    vnode.fsync()
}

/// fstatvfs(2).
///
/// # Errors
/// `EINVAL`: not a vnode. The file system's.
pub fn fstatvfs(file: &File) -> Result<StatVfs, Errno> {
    file_vnode(file)?.mount().statvfs()
}

/// The time that a change made now gets.
fn now() -> WallTime {
    rumpkern::time::wall()
}

impl Vfs {
    /// sync(2): starts writing everything.
    ///
    /// # Errors
    /// The first error.
    pub fn sys_sync(&self) -> Result<(), Errno> {
        self.sync(Wait::Started)
    }
}
