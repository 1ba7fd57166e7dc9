//! Cases for sockets, over the loopback interface.

mod datagrams;
mod streams;
mod waiting;

use crate::Case;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use rump::net::{TcpListener, TcpStream};
use rump::sys::{self, Domain, FileFlags, SockOption, SockType};
use rump::{Errno, thread};

/// All of them.
pub(crate) const TABLES: [&[Case]; 3] = [datagrams::CASES, streams::CASES, waiting::CASES];

/// Time enough for anything that takes a moment.
const LONG: Duration = Duration::from_secs(20);
/// A moment.
const MOMENT: Duration = Duration::from_millis(20);

/// A port of this machine.
fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A descriptor of a stream socket, and of a datagram socket.
fn stream() -> Result<usize, Errno> {
    sys::socket(Domain::AF_INET, SockType::Stream, 0, FileFlags::empty())
}

fn datagram() -> Result<usize, Errno> {
    sys::socket(Domain::AF_INET, SockType::Dgram, 0, FileFlags::empty())
}

/// A datagram socket that is bound, and where.
fn bound() -> Result<(usize, SocketAddr), Errno> {
    let fd = datagram()?;
    sys::bind(fd, local(0))?;
    Ok((fd, sys::getsockname(fd)?))
}

/// A stream socket that listens, and where.
fn listening(backlog: usize) -> Result<(usize, SocketAddr), Errno> {
    let fd = stream()?;
    sys::bind(fd, local(0))?;
    sys::listen(fd, backlog)?;
    Ok((fd, sys::getsockname(fd)?))
}

/// Both ends of a connection: who asked, and who was asked.
fn pair() -> Result<(usize, usize), Errno> {
    let (listener, address) = listening(1)?;
    let client = stream()?;
    sys::connect(client, address)?;
    let (server, _) = sys::accept(listener, FileFlags::empty())?;
    sys::close(listener)?;
    for fd in [client, server] {
        sys::setsockopt(fd, SockOption::RcvTimeo(Some(LONG)))?;
        sys::setsockopt(fd, SockOption::SndTimeo(Some(LONG)))?;
    }
    Ok((client, server))
}

/// The same, as the types of `rump::net`.
fn streams() -> Result<(TcpStream, TcpStream), Errno> {
    let listener = TcpListener::bind(local(0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    Ok((client, server))
}

/// Reads until the other end has ended.
fn read_all(fd: usize) -> Result<Vec<u8>, Errno> {
    let mut all = Vec::new();
    let mut bytes = [0; 4000];
    loop {
        match sys::read(fd, &mut bytes)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&bytes[..count]),
        }
    }
}

/// Writes everything.
fn write_all(fd: usize, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let count = sys::write(fd, bytes)?;
        bytes = &bytes[count..];
    }
    Ok(())
}

/// Waits until `is_so`, for [`LONG`] at most.
fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = rump::time::now() + LONG;
    while !is_so() {
        if rump::time::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}
