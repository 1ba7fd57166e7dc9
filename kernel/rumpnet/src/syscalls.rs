//! The socket system calls, on the descriptors of the calling lwp's process.
//!
//! Each is named as in NetBSD, takes Rust's types for addresses and options, and fails with what
//! its manual page in section 2 says. Descriptors that are no sockets answer `ENOTSOCK`, closed ones `EBADF`.
#![allow(
    clippy::missing_errors_doc,
    reason = "the errors are those of the manual page of the call's name"
)]

use crate::file::SocketFile;
use crate::net::Net;
use crate::protocol::{Domain, SockType};
use crate::socket::{self, MsgFlags, SockOption, SockOptionName, Socket};
use alloc::sync::Arc;
use core::net::SocketAddr;
use rumpkern::file::{File, FileFlags};
use rumpkern::{curkernel, curproc};
use rumpuser::Errno;

/// How shutdown(2) closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// `SHUT_RD`.
    Read,
    /// `SHUT_WR`.
    Write,
    /// `SHUT_RDWR`.
    Both,
}

fn file_of(fd: usize) -> Result<Arc<File>, Errno> {
    curproc()?.fds().get(fd)
}

fn socket_of(fd: usize) -> Result<Arc<Socket>, Errno> {
    let file = file_of(fd)?;
    let so = SocketFile::socket_of(&file)?;
    // The file's flag is the one that fcntl(2) changes.
    so.set_nonblocking(file.flags().contains(FileFlags::NONBLOCK));
    Ok(so)
}

/// socket(2): a descriptor. `flags` may be `NONBLOCK`.
pub fn socket(
    domain: Domain,
    sock_type: SockType,
    protocol: u8,
    flags: FileFlags,
) -> Result<usize, Errno> {
    let kernel = curkernel().ok_or(Errno::ESRCH)?;
    let net = kernel.get::<Net>().ok_or(Errno::EAFNOSUPPORT)?;
    let so = socket::socreate(&net, domain, sock_type, protocol)?;
    let file = SocketFile::open(so, flags)?;
    curproc()?.fds().alloc(file)
}

/// bind(2).
pub fn bind(fd: usize, addr: SocketAddr) -> Result<(), Errno> {
    socket_of(fd)?.bind(addr)
}

/// listen(2).
pub fn listen(fd: usize, backlog: usize) -> Result<(), Errno> {
    socket_of(fd)?.listen(backlog)
}

/// accept4(2): a descriptor for the connection, and the peer. `flags` may be `NONBLOCK`.
pub fn accept(fd: usize, flags: FileFlags) -> Result<(usize, SocketAddr), Errno> {
    let (so, peer) = socket_of(fd)?.accept()?;
    let file = SocketFile::open(so.clone(), flags)?;
    let fd = curproc()?.fds().alloc(file.clone());
    // Nobody has answered the peer: it hears that it comes to nothing.
    let fd = fd.inspect_err(|_| so.reset_on_close(true))?;
    Ok((fd, peer))
}

/// connect(2).
pub fn connect(fd: usize, addr: SocketAddr) -> Result<(), Errno> {
    socket_of(fd)?.connect(addr)
}

/// send(2).
pub fn send(fd: usize, bytes: &[u8], flags: MsgFlags) -> Result<usize, Errno> {
    socket_of(fd)?.send(bytes, None, flags)
}

/// sendto(2).
pub fn sendto(fd: usize, bytes: &[u8], flags: MsgFlags, to: SocketAddr) -> Result<usize, Errno> {
    socket_of(fd)?.send(bytes, Some(to), flags)
}

/// recv(2).
pub fn recv(fd: usize, buffer: &mut [u8], flags: MsgFlags) -> Result<usize, Errno> {
    socket_of(fd)?.receive(buffer, flags).map(|(n, _)| n)
}

/// recvfrom(2): how many bytes, and who sent them.
pub fn recvfrom(
    fd: usize,
    buffer: &mut [u8],
    flags: MsgFlags,
) -> Result<(usize, Option<SocketAddr>), Errno> {
    socket_of(fd)?.receive(buffer, flags)
}

/// shutdown(2).
pub fn shutdown(fd: usize, how: Shutdown) -> Result<(), Errno> {
    let (read, write) = match how {
        Shutdown::Read => (true, false),
        Shutdown::Write => (false, true),
        Shutdown::Both => (true, true),
    };
    socket_of(fd)?.shutdown(read, write)
}

/// setsockopt(2).
pub fn setsockopt(fd: usize, option: SockOption) -> Result<(), Errno> {
    socket_of(fd)?.set_option(option)
}

/// getsockopt(2).
pub fn getsockopt(fd: usize, name: SockOptionName) -> Result<SockOption, Errno> {
    socket_of(fd)?.option(name)
}

/// getsockname(2).
pub fn getsockname(fd: usize) -> Result<SocketAddr, Errno> {
    socket_of(fd)?.sockname()
}

/// getpeername(2).
pub fn getpeername(fd: usize) -> Result<SocketAddr, Errno> {
    socket_of(fd)?.peername()
}
