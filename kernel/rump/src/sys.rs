//! System calls on descriptors, in the calling thread's process (`rump_sys_*`).
//!
//! Sockets: [`socket`], [`bind`], [`listen`], [`accept`], [`connect`], [`send`], [`sendto`], [`recv`], [`recvfrom`],
//! [`shutdown`], [`setsockopt`], [`getsockopt`], [`getsockname`], [`getpeername`]. Files: the functions below.

use crate::Errno;
use crate::fs::caller;
use alloc::vec::Vec;
use rumpkern::curproc;
use rumpkern::file::File;
use rumpvfs::syscalls;

pub use rumpnet::syscalls::{
    Shutdown, accept, bind, connect, getpeername, getsockname, getsockopt, listen, recv, recvfrom,
    send, sendto, setsockopt, shutdown, socket,
};
pub use rumpvfs::syscalls::{OpenFlags, Stat, Whence};
pub use rumpvfs::vfsops::StatVfs;

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
