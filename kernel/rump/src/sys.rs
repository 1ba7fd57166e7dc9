//! System calls on descriptors, in the calling thread's process (`rump_sys_*`).
//!
//! Sockets: [`socket`], [`bind`], [`listen`], [`accept`], [`connect`], [`send`], [`sendto`], [`recv`], [`recvfrom`],
//! [`shutdown`], [`setsockopt`], [`getsockopt`], [`getsockname`], [`getpeername`]. Files: the functions below.

use crate::Errno;
use crate::fs::{FileType, caller};
use alloc::vec::Vec;
use rumpkern::curproc;
use rumpkern::file::File;
use rumpvfs::namei::Last;
use rumpvfs::syscalls;

pub use rumpkern::file::FileFlags;
pub use rumpkern::kauth::Cred;
pub use rumpnet::protocol::{Domain, ProtoOption, ProtoOptionName, SockType};
pub use rumpnet::socket::{MsgFlags, SockOption, SockOptionName};
pub use rumpnet::syscalls::{
    Shutdown, accept, bind, connect, getpeername, getsockname, getsockopt, listen, recv, recvfrom,
    send, sendto, setsockopt, shutdown, socket,
};
pub use rumpvfs::namei::Access;
pub use rumpvfs::syscalls::{OpenFlags, Stat, Times, Whence};
pub use rumpvfs::vfsops::StatVfs;
pub use rumpvfs::vnode::{SF_APPEND, SF_IMMUTABLE, UF_APPEND, UF_IMMUTABLE, Vattr};

fn file(fd: usize) -> Result<alloc::sync::Arc<File>, Errno> {
    curproc()?.fds().get(fd)
}

/// getpid(2).
pub fn getpid() -> Result<u32, Errno> {
    rumpkern::lwp::curpid()
}

/// open(2): a descriptor.
pub fn open(path: &[u8], flags: OpenFlags, mode: u16) -> Result<usize, Errno> {
    let (proc, vfs) = caller()?;
    vfs.sys_open(&proc, path, flags, mode)
}

/// close(2).
pub fn close(fd: usize) -> Result<(), Errno> {
    curproc()?.fds().close(fd)
}

/// read(2).
pub fn read(fd: usize, buffer: &mut [u8]) -> Result<usize, Errno> {
    file(fd)?.read(buffer)
}

/// write(2).
pub fn write(fd: usize, bytes: &[u8]) -> Result<usize, Errno> {
    file(fd)?.write(bytes)
}

/// pread(2).
pub fn pread(fd: usize, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    file(fd)?.read_at(offset, buffer)
}

/// pwrite(2).
pub fn pwrite(fd: usize, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
    file(fd)?.write_at(offset, bytes)
}

/// lseek(2): the new offset.
pub fn lseek(fd: usize, by: i64, whence: Whence) -> Result<u64, Errno> {
    syscalls::lseek(&*file(fd)?, by, whence)
}

/// fstat(2).
pub fn fstat(fd: usize) -> Result<Stat, Errno> {
    syscalls::fstat(&*file(fd)?)
}

/// stat(2).
pub fn stat(path: &[u8]) -> Result<Stat, Errno> {
    let (proc, vfs) = caller()?;
    vfs.stat(&proc, path)
}

/// lstat(2).
pub fn lstat(path: &[u8]) -> Result<Stat, Errno> {
    let (proc, vfs) = caller()?;
    vfs.lstat(&proc, path)
}

/// readlink(2).
pub fn readlink(path: &[u8]) -> Result<Vec<u8>, Errno> {
    let (proc, vfs) = caller()?;
    vfs.readlink(&proc, path)
}

/// access(2).
pub fn access(path: &[u8], want: Access) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.access(&proc, path, want)
}

/// link(2).
pub fn link(path: &[u8], new: &[u8]) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.link(&proc, path, new)
}

/// mknod(2); mkfifo(2) with [`FileType::Fifo`].
pub fn mknod(path: &[u8], file_type: FileType, mode: u16, device: u64) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.mknod(&proc, path, file_type, mode, device)
}

/// chmod(2).
pub fn chmod(path: &[u8], mode: u16) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.chmod(&proc, path, mode)
}

/// chown(2); what is `None` stays.
pub fn chown(path: &[u8], uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.chown(&proc, path, Last::Follow, uid, gid)
}

/// lchown(2): of a symbolic link itself.
pub fn lchown(path: &[u8], uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.chown(&proc, path, Last::NoFollow, uid, gid)
}

/// chflags(2).
pub fn chflags(path: &[u8], flags: u32) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.chflags(&proc, path, flags)
}

/// utimensat(2) of a path; `None`: both times are now.
pub fn utimens(path: &[u8], times: Option<Times>) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.utimens(&proc, path, Last::Follow, times)
}

/// truncate(2).
pub fn truncate(path: &[u8], size: u64) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.truncate(&proc, path, size)
}

/// fsync(2).
pub fn fsync(fd: usize) -> Result<(), Errno> {
    syscalls::fsync(&*file(fd)?)
}

/// ftruncate(2).
pub fn ftruncate(fd: usize, size: u64) -> Result<(), Errno> {
    syscalls::ftruncate(&*file(fd)?, size)
}

/// sync(2).
pub fn sync() -> Result<(), Errno> {
    let (_, vfs) = caller()?;
    vfs.sys_sync()
}

/// chdir(2).
pub fn chdir(path: &[u8]) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.chdir(&proc, path)
}

/// fchdir(2).
pub fn fchdir(fd: usize) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.fchdir(&proc, fd)
}

/// umask(2): the former mask.
pub fn umask(mask: u32) -> Result<u32, Errno> {
    Ok(curproc()?.set_umask(mask))
}

/// From now on the calling process acts for `cred`: setuid(2), setgid(2) and setgroups(2) in one. Nobody is asked: a
/// kernel's programs are all its own.
pub fn setcred(cred: Cred) -> Result<(), Errno> {
    curproc()?.set_cred(cred);
    Ok(())
}

/// statvfs(2).
pub fn statvfs(path: &[u8]) -> Result<StatVfs, Errno> {
    let (proc, vfs) = caller()?;
    vfs.statvfs(&proc, path)
}

/// unmount(2) with `MNT_FORCE`: what could not be written is lost, and files that are open answer `EIO`.
///
/// # Errors
/// As [`unmount`], but for `EIO`, and `EBUSY` only if something is mounted on it.
pub fn unmount_forced(path: &[u8]) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.sys_unmount_forced(&proc, path)
}

/// unmount(2).
pub fn unmount(path: &[u8]) -> Result<(), Errno> {
    let (proc, vfs) = caller()?;
    vfs.sys_unmount(&proc, path)
}
