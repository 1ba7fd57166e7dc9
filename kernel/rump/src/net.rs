//! Sockets.

use crate::Errno;
use crate::fs;
use alloc::sync::Arc;
use core::net::SocketAddr;
use rumpkern::curkernel;
use rumpkern::file::{File, FileFlags};
use rumpnet::file::SocketFile;
use rumpnet::mbuf::Mbuf;
use rumpnet::net::Net;
use rumpnet::protocol::{Domain, ProtoOption, SockType};
use rumpnet::socket::{MsgFlags, SOMAXCONN, SockOption, Socket, socreate};

/// A socket as an open file.
struct Handle {
    socket: Arc<Socket>,
    file: Arc<File>,
}

impl Handle {
    fn new(sock_type: SockType, address: &SocketAddr) -> Result<Handle, Errno> {
        let kernel = curkernel().ok_or(Errno::ESRCH)?;
        let net = kernel.get::<Net>().ok_or(Errno::EAFNOSUPPORT)?;
        let domain = match address {
            SocketAddr::V4(_) => Domain::AF_INET,
            SocketAddr::V6(_) => Domain::AF_INET6,
        };
        Handle::of(socreate(&net, domain, sock_type, 0)?)
    }

    fn of(socket: Arc<Socket>) -> Result<Handle, Errno> {
        let file = SocketFile::open(socket.clone(), FileFlags::empty())?;
        Ok(Handle { socket, file })
    }

    fn set_nonblocking(&self, nonblocking: bool) {
        self.file.set_flags(FileFlags::NONBLOCK, nonblocking);
        self.socket.set_nonblocking(nonblocking);
    }
}

/// A socket that accepts connections; closed when dropped.
pub struct TcpListener(Handle);

impl TcpListener {
    /// Listens at `address`; port 0 lets the kernel choose one. The address may be taken over from
    /// connections that linger (`SO_REUSEADDR`).
    ///
    /// # Errors
    /// As bind(2) and listen(2); `EAFNOSUPPORT` for a kernel without the protocol.
    pub fn bind(address: SocketAddr) -> Result<TcpListener, Errno> {
        let handle = Handle::new(SockType::Stream, &address)?;
        handle.socket.set_option(SockOption::ReuseAddr(true))?;
        handle.socket.bind(address)?;
        handle.socket.listen(SOMAXCONN)?;
        Ok(TcpListener(handle))
    }

    /// Takes the next connection.
    ///
    /// # Errors
    /// As accept(2).
    pub fn accept(&self) -> Result<(TcpStream, SocketAddr), Errno> {
        let (socket, peer) = self.0.socket.accept()?;
        Ok((TcpStream(Handle::of(socket)?), peer))
    }

    /// Whether [`accept`](TcpListener::accept) answers `EAGAIN` rather than wait.
    ///
    /// # Errors
    /// None now.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), Errno> {
        self.0.set_nonblocking(nonblocking);
        Ok(())
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn local_addr(&self) -> Result<SocketAddr, Errno> {
        self.0.socket.sockname()
    }

    /// As a file, to be waited for with [`poll`](crate::poll).
    pub fn file(&self) -> &Arc<File> {
        &self.0.file
    }
}

/// A connection; closed when dropped.
pub struct TcpStream(Handle);

impl TcpStream {
    /// Connects to `address`.
    ///
    /// # Errors
    /// As connect(2).
    pub fn connect(address: SocketAddr) -> Result<TcpStream, Errno> {
        let handle = Handle::new(SockType::Stream, &address)?;
        handle.socket.connect(address)?;
        Ok(TcpStream(handle))
    }

    /// Reads what has come; 0 when the peer has ended.
    ///
    /// # Errors
    /// As recv(2).
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.0.file.read(buffer)
    }

    /// Writes as much as there is room for.
    ///
    /// # Errors
    /// As send(2).
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        self.0.file.write(bytes)
    }

    /// As [`write`](TcpStream::write); `more` says that more follows at once, so that a segment that is
    /// not full may wait for it (`MSG_MORE`).
    ///
    /// # Errors
    /// As send(2).
    pub fn send(&self, bytes: &[u8], more: bool) -> Result<usize, Errno> {
        let mut flags = MsgFlags::empty();
        flags.set(MsgFlags::MSG_MORE, more);
        self.0.socket.send(bytes, None, flags)
    }

    /// Sends up to `len` bytes of `file` from `offset` on, as much as there is room for, without a
    /// copy: the connection refers to the file's pages until its peer has them. Answers how many; 0 at
    /// the file's end. Reading the file may block, also where the stream does not.
    ///
    /// # Errors
    /// As send(2) and read(2).
    pub fn send_file(&self, file: &fs::File, offset: u64, len: usize) -> Result<usize, Errno> {
        let room = match self.0.file.flags().contains(FileFlags::NONBLOCK) {
            // Without room the pages would be looked up for nothing.
            true => self.0.socket.send_space()?,
            false => len,
        };
        let mut chain = Mbuf::new();
        for part in file.frames(offset, len.min(room))? {
            chain.append(Mbuf::from_frame(part.frame, part.offset, part.len)?)?;
        }
        if chain.is_empty() {
            return Ok(0);
        }
        let flags = MsgFlags::empty();
        self.0.socket.send_mbuf(&mut chain, None, flags)
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// As shutdown(2).
    pub fn shutdown_write(&self) -> Result<(), Errno> {
        self.0.socket.shutdown(false, true)
    }

    /// Whether calls answer `EAGAIN` rather than wait.
    ///
    /// # Errors
    /// None now.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), Errno> {
        self.0.set_nonblocking(nonblocking);
        Ok(())
    }

    /// Whether small segments are sent at once (`TCP_NODELAY`).
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn set_nodelay(&self, nodelay: bool) -> Result<(), Errno> {
        let option = SockOption::Protocol(ProtoOption::TcpNodelay(nodelay));
        self.0.socket.set_option(option)
    }

    /// The other end.
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn peer_addr(&self) -> Result<SocketAddr, Errno> {
        self.0.socket.peername()
    }

    /// This end.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn local_addr(&self) -> Result<SocketAddr, Errno> {
        self.0.socket.sockname()
    }

    /// As a file, to be waited for with [`poll`](crate::poll).
    pub fn file(&self) -> &Arc<File> {
        &self.0.file
    }
}

/// A socket of messages; closed when dropped.
pub struct UdpSocket(Handle);

impl UdpSocket {
    /// Binds to `address`; port 0 lets the kernel choose one.
    ///
    /// # Errors
    /// As bind(2).
    pub fn bind(address: SocketAddr) -> Result<UdpSocket, Errno> {
        let handle = Handle::new(SockType::Dgram, &address)?;
        handle.socket.bind(address)?;
        Ok(UdpSocket(handle))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// As sendto(2).
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> Result<usize, Errno> {
        self.0.socket.send(bytes, Some(to), MsgFlags::empty())
    }

    /// Receives a message: how long it is, and whose. What does not fit is thrown away.
    ///
    /// # Errors
    /// As recvfrom(2).
    pub fn recv_from(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Errno> {
        let (length, from) = self.0.socket.receive(buffer, MsgFlags::empty())?;
        Ok((length, from.ok_or(Errno::EIO)?))
    }

    /// Whether calls answer `EAGAIN` rather than wait.
    ///
    /// # Errors
    /// None now.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), Errno> {
        self.0.set_nonblocking(nonblocking);
        Ok(())
    }

    /// This end.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn local_addr(&self) -> Result<SocketAddr, Errno> {
        self.0.socket.sockname()
    }

    /// As a file, to be waited for with [`poll`](crate::poll).
    pub fn file(&self) -> &Arc<File> {
        &self.0.file
    }
}
