//! Socket options (getsockopt(2)).

use super::{SoOptions, Socket};
use crate::protocol::{ProtoOption, ProtoOptionName, SockType};
use alloc::sync::Arc;
use core::time::Duration;
use rumpuser::Errno;

/// An option and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SockOption {
    /// `SO_REUSEADDR`.
    ReuseAddr(bool),
    /// `SO_REUSEPORT`.
    ReusePort(bool),
    /// `SO_KEEPALIVE`.
    KeepAlive(bool),
    /// `SO_BROADCAST`.
    Broadcast(bool),
    /// `SO_LINGER`: how long closing waits; `None` is off.
    Linger(Option<Duration>),
    /// `SO_RCVBUF`, in bytes.
    RcvBuf(usize),
    /// `SO_SNDBUF`, in bytes.
    SndBuf(usize),
    /// `SO_RCVLOWAT`, in bytes.
    RcvLowat(usize),
    /// `SO_SNDLOWAT`, in bytes.
    SndLowat(usize),
    /// `SO_RCVTIMEO`; `None` waits for ever.
    RcvTimeo(Option<Duration>),
    /// `SO_SNDTIMEO`; `None` waits for ever.
    SndTimeo(Option<Duration>),
    /// `SO_ERROR`, only to get: the pending error, which it clears.
    Error(Option<Errno>),
    /// `SO_TYPE`, only to get.
    Type(SockType),
    /// `SO_ACCEPTCONN`, only to get.
    AcceptConn(bool),
    /// One of the protocol's.
    Protocol(ProtoOption),
}

/// Names an option whose value is asked for.
#[allow(missing_docs, reason = "each is the option of that name in SockOption")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SockOptionName {
    ReuseAddr,
    ReusePort,
    KeepAlive,
    Broadcast,
    Linger,
    RcvBuf,
    SndBuf,
    RcvLowat,
    SndLowat,
    RcvTimeo,
    SndTimeo,
    Error,
    Type,
    AcceptConn,
    Protocol(ProtoOptionName),
}

impl Socket {
    /// Sets an option (setsockopt(2)).
    ///
    /// # Errors
    /// `ENOPROTOOPT` for one that can only be got, or that the protocol does not have; `EINVAL`.
    pub fn set_option(self: &Arc<Self>, option: SockOption) -> Result<(), Errno> {
        let mut so = self.lock();
        match option {
            SockOption::ReuseAddr(on) => so.options.set(SoOptions::SO_REUSEADDR, on),
            SockOption::ReusePort(on) => so.options.set(SoOptions::SO_REUSEPORT, on),
            SockOption::KeepAlive(on) => so.options.set(SoOptions::SO_KEEPALIVE, on),
            SockOption::Broadcast(on) => so.options.set(SoOptions::SO_BROADCAST, on),
            SockOption::Linger(time) => {
                so.options.set(SoOptions::SO_LINGER, time.is_some());
                so.linger = time.unwrap_or_default();
            }
            SockOption::RcvBuf(0) | SockOption::SndBuf(0) => return Err(Errno::EINVAL),
            SockOption::RcvBuf(bytes) => so.rcv.set_hiwat(bytes),
            SockOption::SndBuf(bytes) => so.snd.set_hiwat(bytes),
            SockOption::RcvLowat(bytes) => so.rcv.set_lowat(bytes),
            SockOption::SndLowat(bytes) => so.snd.set_lowat(bytes),
            SockOption::RcvTimeo(timeout) => so.rcv.timeout = timeout,
            SockOption::SndTimeo(timeout) => so.snd.timeout = timeout,
            SockOption::Error(_) | SockOption::Type(_) | SockOption::AcceptConn(_) => {
                return Err(Errno::ENOPROTOOPT);
            }
            SockOption::Protocol(option) => {
                drop(so);
                return self.pcb()?.setopt(self, option);
            }
        }
        drop(so);
        // Keep-alive is a timer of the protocol's; it learns of the change this way.
        match option {
            SockOption::KeepAlive(_) => self.pcb()?.options_changed(self),
            _ => Ok(()),
        }
    }

    /// Gets an option (getsockopt(2)).
    ///
    /// # Errors
    /// `ENOPROTOOPT` if the protocol does not have it.
    pub fn option(self: &Arc<Self>, name: SockOptionName) -> Result<SockOption, Errno> {
        let mut so = self.lock();
        let on = |option| so.options.contains(option);
        Ok(match name {
            SockOptionName::ReuseAddr => SockOption::ReuseAddr(on(SoOptions::SO_REUSEADDR)),
            SockOptionName::ReusePort => SockOption::ReusePort(on(SoOptions::SO_REUSEPORT)),
            SockOptionName::KeepAlive => SockOption::KeepAlive(on(SoOptions::SO_KEEPALIVE)),
            SockOptionName::Broadcast => SockOption::Broadcast(on(SoOptions::SO_BROADCAST)),
            SockOptionName::AcceptConn => SockOption::AcceptConn(on(SoOptions::SO_ACCEPTCONN)),
            SockOptionName::Linger => {
                SockOption::Linger(on(SoOptions::SO_LINGER).then_some(so.linger))
            }
            SockOptionName::RcvBuf => SockOption::RcvBuf(so.rcv.hiwat()),
            SockOptionName::SndBuf => SockOption::SndBuf(so.snd.hiwat()),
            SockOptionName::RcvLowat => SockOption::RcvLowat(so.rcv.lowat()),
            SockOptionName::SndLowat => SockOption::SndLowat(so.snd.lowat()),
            SockOptionName::RcvTimeo => SockOption::RcvTimeo(so.rcv.timeout),
            SockOptionName::SndTimeo => SockOption::SndTimeo(so.snd.timeout),
            SockOptionName::Error => SockOption::Error(so.error.take()),
            SockOptionName::Type => SockOption::Type(self.sock_type()),
            SockOptionName::Protocol(name) => {
                drop(so);
                return self.pcb()?.getopt(self, name).map(SockOption::Protocol);
            }
        })
    }
}
