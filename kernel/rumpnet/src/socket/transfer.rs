//! Sending and receiving.

use super::{SoState, Socket, SocketGuard};
use crate::mbuf::Mbuf;
use crate::protocol::SockType;
use alloc::sync::Arc;
use bitflags::bitflags;
use core::net::SocketAddr;
use core::time::Duration;
use rumpkern::time;
use rumpuser::{Errno, Instant};

bitflags! {
    /// Flags of one send or receive (`MSG_*`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MsgFlags: u32 {
        /// Leave what is received where it is.
        const MSG_PEEK = 0x0002;
        /// Wait for all of it.
        const MSG_WAITALL = 0x0040;
        /// This call does not wait.
        const MSG_DONTWAIT = 0x0080;
        /// More follows at once: do not push a short segment out yet.
        const MSG_MORE = 0x8000;
    }
}

/// How long a blocking sender waits before it asks again, when memory for the copy is out.
const MEMORY_RETRY: Duration = Duration::from_millis(10);

/// What a stream sends: bytes to copy, or a chain to take by reference.
enum Source<'a> {
    Bytes(&'a [u8]),
    Chain(&'a mut Mbuf),
}

impl Source<'_> {
    fn len(&self) -> usize {
        match self {
            Source::Bytes(bytes) => bytes.len(),
            Source::Chain(chain) => chain.len(),
        }
    }

    /// Moves its first `n` bytes into the send buffer.
    fn give(&mut self, so: &mut SocketGuard<'_>, n: usize) -> Result<(), Errno> {
        match self {
            Source::Bytes(bytes) => {
                so.snd.append_slice(&bytes[..n])?;
                *bytes = &bytes[n..];
                Ok(())
            }
            Source::Chain(chain) => {
                let part = chain.copy_range(0, n)?;
                so.snd.append(part)?;
                chain.trim_front(n);
                Ok(())
            }
        }
    }
}

fn deadline_of(timeout: Option<Duration>) -> Option<Instant> {
    timeout.map(|timeout| time::now() + timeout)
}

impl Socket {
    /// Sends bytes (send(2), sendto(2)). A stream copies as many as there is room for and answers
    /// how many; a message goes whole.
    ///
    /// # Errors
    /// `EPIPE`, `ENOTCONN`, `EDESTADDRREQ`, `EISCONN`, `EMSGSIZE`; `EAGAIN` if it would wait and
    /// must not, or waited for `SO_SNDTIMEO`; `ENOBUFS`; an error that came in from the network.
    pub fn send(
        self: &Arc<Self>,
        bytes: &[u8],
        to: Option<SocketAddr>,
        flags: MsgFlags,
    ) -> Result<usize, Errno> {
        match self.sock_type() {
            SockType::Stream => self.send_stream(Source::Bytes(bytes), to, flags),
            SockType::Dgram => {
                // Looked at before the copy: a message too long costs nothing.
                if bytes.len() > self.lock().snd.hiwat() {
                    return Err(Errno::EMSGSIZE);
                }
                self.send_message(Mbuf::from_slice(bytes)?, to)
            }
        }
    }

    /// As [`Socket::send`], by reference: a stream takes what there is room for off the front of `chain`.
    ///
    /// # Errors
    /// As [`Socket::send`]; what was not sent is still in `chain`, but for a message.
    pub fn send_mbuf(
        self: &Arc<Self>,
        chain: &mut Mbuf,
        to: Option<SocketAddr>,
        flags: MsgFlags,
    ) -> Result<usize, Errno> {
        match self.sock_type() {
            SockType::Stream => self.send_stream(Source::Chain(chain), to, flags),
            SockType::Dgram => self.send_message(core::mem::take(chain), to),
        }
    }

    /// How many bytes a stream would take now; at least 1.
    ///
    /// # Errors
    /// `EAGAIN` if it would have to wait for room; else as [`Socket::send`].
    pub fn send_space(&self) -> Result<usize, Errno> {
        let mut so = self.lock();
        if so.state.contains(SoState::SS_CANTSENDMORE) {
            return Err(Errno::EPIPE);
        }
        so.take_error()?;
        if !so.state.contains(SoState::SS_ISCONNECTED) {
            return Err(Errno::ENOTCONN);
        }
        match so.snd.space() {
            0 => Err(Errno::EAGAIN),
            space => Ok(space),
        }
    }

    fn send_message(
        self: &Arc<Self>,
        message: Mbuf,
        to: Option<SocketAddr>,
    ) -> Result<usize, Errno> {
        {
            let mut so = self.lock();
            if so.state.contains(SoState::SS_CANTSENDMORE) {
                return Err(Errno::EPIPE);
            }
            so.take_error()?;
            let connected = so.state.contains(SoState::SS_ISCONNECTED);
            match (connected, to) {
                (true, Some(_)) => return Err(Errno::EISCONN),
                (false, None) => return Err(Errno::EDESTADDRREQ),
                _ => {}
            }
            if message.len() > so.snd.hiwat() {
                return Err(Errno::EMSGSIZE);
            }
        }
        let len = message.len();
        self.pcb()?.send(self, message, to)?;
        Ok(len)
    }

    fn send_stream(
        self: &Arc<Self>,
        mut source: Source<'_>,
        to: Option<SocketAddr>,
        flags: MsgFlags,
    ) -> Result<usize, Errno> {
        if to.is_some() {
            return Err(Errno::EISCONN);
        }
        let total = source.len();
        let mut so = self.lock();
        let deadline = deadline_of(so.snd.timeout);
        let dont_wait = so.is_nonblocking() || flags.contains(MsgFlags::MSG_DONTWAIT);
        while source.len() > 0 {
            let stop = match self.put(so, &mut source, flags, dont_wait) {
                Ok(()) => {
                    so = self.lock();
                    continue;
                }
                Err((again, stop)) => {
                    so = again;
                    stop
                }
            };
            let sent = total - source.len();
            let waits = matches!(stop, Errno::EAGAIN | Errno::ENOBUFS) && !dont_wait;
            if !waits {
                return if sent > 0 { Ok(sent) } else { Err(stop) };
            }
            let retry = (stop == Errno::ENOBUFS).then(|| time::now() + MEMORY_RETRY);
            let until = [deadline, retry].into_iter().flatten().min();
            so = so.wait(&self.writable, until).0;
            if deadline.is_some_and(|deadline| time::now() >= deadline) {
                return if sent > 0 {
                    Ok(sent)
                } else {
                    Err(Errno::EAGAIN)
                };
            }
        }
        Ok(total)
    }

    /// Appends what there is room for and tells the protocol. The error is why nothing was
    /// appended: `EAGAIN` for want of room.
    fn put<'a>(
        self: &'a Arc<Self>,
        mut so: SocketGuard<'a>,
        source: &mut Source<'_>,
        flags: MsgFlags,
        dont_wait: bool,
    ) -> Result<(), (SocketGuard<'a>, Errno)> {
        if let Err(error) = so.may_send() {
            return Err((so, error));
        }
        let space = so.snd.space();
        let len = source.len();
        // A blocking sender waits for a worthwhile piece of room.
        let enough = space >= so.snd.lowat() || space >= len || (dont_wait && space > 0);
        if !enough || space == 0 {
            return Err((so, Errno::EAGAIN));
        }
        let n = space.min(len);
        if let Err(error) = source.give(&mut so, n) {
            return Err((so, error));
        }
        drop(so);
        let more = flags.contains(MsgFlags::MSG_MORE) || source.len() > 0;
        let output = self.pcb().and_then(|pcb| pcb.output(self, more));
        // The data is in the buffer: memory that was short is the protocol's timer's to retry.
        match output {
            Ok(()) | Err(Errno::ENOBUFS) => Ok(()),
            Err(error) => Err((self.lock(), error)),
        }
    }

    /// Receives bytes (recv(2), recvfrom(2)): how many, and who sent the message. 0 from a stream
    /// means that its peer has closed. What does not fit of a message is thrown away.
    ///
    /// # Errors
    /// `ENOTCONN`; `EAGAIN` if it would wait and must not, or waited for `SO_RCVTIMEO`; an error
    /// that came in from the network.
    pub fn receive(
        self: &Arc<Self>,
        to: &mut [u8],
        flags: MsgFlags,
    ) -> Result<(usize, Option<SocketAddr>), Errno> {
        match self.sock_type() {
            SockType::Stream => self.receive_stream(to, flags).map(|n| (n, None)),
            SockType::Dgram => self.receive_message(to, flags),
        }
    }

    /// As [`Socket::receive`], by reference: up to `max` bytes of a stream, or one whole message. An
    /// empty chain from a stream means that its peer has closed.
    ///
    /// # Errors
    /// As [`Socket::receive`]; `ENOBUFS`.
    pub fn receive_mbuf(
        self: &Arc<Self>,
        max: usize,
        flags: MsgFlags,
    ) -> Result<(Mbuf, Option<SocketAddr>), Errno> {
        let mut so = self.wait_for_data(flags)?;
        if self.sock_type() == SockType::Dgram {
            let (from, message) = so.rcv.take_record().unwrap_or_default();
            return Ok((message, from));
        }
        let n = max.min(so.rcv.len());
        let data = so.rcv.take(n)?;
        drop(so);
        if n > 0 {
            self.pcb()?.rcvd(self);
        }
        Ok((data, None))
    }

    fn receive_stream(self: &Arc<Self>, to: &mut [u8], flags: MsgFlags) -> Result<usize, Errno> {
        let peek = flags.contains(MsgFlags::MSG_PEEK);
        let all = flags.contains(MsgFlags::MSG_WAITALL) && !peek;
        let mut done = 0;
        while done < to.len() {
            let mut so = match self.wait_for_data(flags) {
                Ok(so) => so,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            let n = so.rcv.len().min(to.len() - done);
            if n == 0 {
                break;
            }
            so.rcv.stream().copy_out(0, &mut to[done..done + n])?;
            done += n;
            if !peek {
                so.rcv.drop_front(n);
                drop(so);
                self.pcb()?.rcvd(self);
            }
            if !all {
                break;
            }
        }
        Ok(done)
    }

    fn receive_message(
        self: &Arc<Self>,
        to: &mut [u8],
        flags: MsgFlags,
    ) -> Result<(usize, Option<SocketAddr>), Errno> {
        let mut so = self.wait_for_data(flags)?;
        if flags.contains(MsgFlags::MSG_PEEK) {
            let Some((from, message)) = so.rcv.peek_record() else {
                return Ok((0, None));
            };
            let n = message.len().min(to.len());
            message.copy_out(0, &mut to[..n])?;
            return Ok((n, from));
        }
        let (from, message) = so.rcv.take_record().unwrap_or_default();
        drop(so);
        let n = message.len().min(to.len());
        message.copy_out(0, &mut to[..n])?;
        Ok((n, from))
    }

    /// Waits until there is something to receive, or never will be.
    fn wait_for_data(&self, flags: MsgFlags) -> Result<SocketGuard<'_>, Errno> {
        let mut so = self.lock();
        let deadline = deadline_of(so.rcv.timeout);
        let dont_wait = so.is_nonblocking() || flags.contains(MsgFlags::MSG_DONTWAIT);
        loop {
            let ended = so.state.contains(SoState::SS_CANTRCVMORE);
            let over = ended || so.error.is_some();
            // Data first, whatever its amount, then the error that came after it.
            if so.rcv.has_data() || (over && !so.rcv.is_empty()) {
                return Ok(so);
            }
            so.take_error()?;
            if ended {
                return Ok(so);
            }
            let connecting = SoState::SS_ISCONNECTED | SoState::SS_ISCONNECTING;
            if self.sock_type() == SockType::Stream && !so.state.intersects(connecting) {
                return Err(Errno::ENOTCONN);
            }
            if dont_wait || deadline.is_some_and(|deadline| time::now() >= deadline) {
                return Err(Errno::EAGAIN);
            }
            so = so.wait(&self.readable, deadline).0;
        }
    }
}

impl SocketGuard<'_> {
    fn may_send(&mut self) -> Result<(), Errno> {
        if self.state.contains(SoState::SS_CANTSENDMORE) {
            // The reason, if it is known; every later send gets EPIPE.
            self.take_error()?;
            return Err(Errno::EPIPE);
        }
        self.take_error()?;
        if self.state.contains(SoState::SS_ISCONNECTED) {
            return Ok(());
        }
        match self.state.contains(SoState::SS_ISCONNECTING) {
            true => Err(Errno::EAGAIN),
            false => Err(Errno::ENOTCONN),
        }
    }
}
