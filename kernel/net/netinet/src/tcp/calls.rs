//! What a connection's user may do to it (RFC 9293 §3.10.1 to §3.10.6), and what ICMP may (§3.9.2.2).

use super::reass::Payload;
use super::seq::Seq;
use super::tcb::{Events, FIN_WAIT_2, Flags, IPV4_TCP_HEADERS, Keepalive, Outcome, State, Tcb};
use rumpuser::{Errno, Instant};

/// The least path MTU that an ICMP message may name; smaller ones are lies more often than links.
const PATH_MTU_MIN: u16 = 552;
impl<P: Payload> Tcb<P> {
    /// SEND: the user put `bytes` more into the send buffer. With `more`, others follow at once, and what
    /// does not fill a segment waits for them. Answers whether there may be something to send.
    pub fn send(&mut self, bytes: u32, more: bool) -> bool {
        self.queued = self.queued.saturating_add(bytes);
        self.flags.set(Flags::MORE, more);
        self.state.is_synchronized()
    }

    /// RECEIVE: the user has read `bytes`. Answers whether the other side should hear of the room.
    pub fn consumed(&mut self, bytes: u32) -> bool {
        self.rcv_unread = self.rcv_unread.saturating_sub(bytes);
        if !self.state.is_synchronized() || !self.state.may_receive() {
            return false;
        }
        let current = self.rcv_adv.beyond(self.rcv_nxt);
        let gain = self.receive_window().saturating_sub(current);
        let worthwhile =
            gain >= 2 * u32::from(self.our_mss) || (gain > 0 && gain >= self.rcv_bytes / 2);
        if worthwhile {
            self.flags |= Flags::ACK_NOW;
        }
        worthwhile
    }

    /// CLOSE, of the sending half: a FIN follows what is queued (RFC 9293 §3.10.4).
    ///
    /// # Errors
    /// `ENOTCONN` if there is no connection to close.
    pub fn close_send(&mut self) -> Result<Outcome, Errno> {
        let mut out = Outcome::default();
        match self.state {
            State::Closed => return Err(Errno::ENOTCONN),
            State::SynSent => {
                self.terminate(&mut out, None);
                return Ok(out);
            }
            // The FIN waits for the handshake; see `established`.
            State::SynReceived => {}
            State::Established => self.state = State::FinWait1,
            State::CloseWait => self.state = State::LastAck,
            _ => return Ok(out),
        }
        self.flags |= Flags::CLOSING;
        self.flags -= Flags::MORE;
        out.events |= Events::OUTPUT;
        Ok(out)
    }

    /// CLOSE, of both halves: nobody will read. Unread data makes it an abort, so that the other side
    /// learns of the loss (RFC 9293 §3.10.4, RFC 2525 §2.17).
    pub fn close(&mut self, now: Instant) -> Outcome {
        if self.rcv_unread > 0 && self.state.is_synchronized() {
            return self.abort();
        }
        self.flags |= Flags::DETACHED;
        self.retries = 0;
        let out = self.close_send().unwrap_or_default();
        if self.state == State::FinWait2 {
            self.due.linger = now.as_nanos() + FIN_WAIT_2.as_nanos() as u64;
        }
        out
    }

    /// ABORT (RFC 9293 §3.10.5): the connection is gone; [`Outcome::reply`] is the RST to send, if the
    /// state calls for one.
    pub fn abort(&mut self) -> Outcome {
        let mut out = Outcome::default();
        if matches!(
            self.state,
            State::SynReceived
                | State::Established
                | State::FinWait1
                | State::FinWait2
                | State::CloseWait
        ) {
            out.reply = Some(self.reset_segment());
        }
        self.terminate(&mut out, None);
        out
    }

    /// TCP_NODELAY. Answers whether there may be something to send.
    pub fn set_no_delay(&mut self, on: bool) -> bool {
        self.flags.set(Flags::NO_DELAY, on);
        on && self.state.is_synchronized()
    }

    /// SO_KEEPALIVE and what goes with it.
    pub fn set_keepalive(&mut self, keepalive: Option<Keepalive>, now: Instant) {
        self.keepalive = keepalive;
        self.last_heard = now.as_nanos();
        self.start_keepalive();
    }

    /// The size of the receive buffer, as its owner has it: smaller if he could not let it grow, or larger
    /// if he wishes. What was announced stays announced.
    pub fn set_receive_bytes(&mut self, bytes: u32) {
        let shift = match self.state {
            State::SynSent => self.our_shift,
            _ => self.rcv_shift,
        };
        self.rcv_bytes = bytes.min(u32::from(u16::MAX) << shift);
        self.rcv_max = self.rcv_max.max(self.rcv_bytes);
    }

    /// What memory there is for more data: the window is no larger, but for what was announced before.
    #[inline]
    pub fn set_receive_room(&mut self, bytes: u32) {
        self.rcv_room = bytes;
    }

    /// Memory is short: drops what came out of order. It was not acknowledged and comes again.
    pub fn drain(&mut self) {
        self.reass.clear();
    }

    /// The path takes only packets of `mtu` bytes (RFC 1191): smaller segments from here on, and what is
    /// in flight is sent again. The caller has found the quoted number within what is in flight:
    /// [`is_in_flight`](Tcb::is_in_flight). Answers whether there may be something to send.
    pub fn path_mtu(&mut self, mtu: u16) -> bool {
        let mss = u32::from(mtu.max(PATH_MTU_MIN) - IPV4_TCP_HEADERS);
        if mss >= self.mss || !self.state.is_synchronized() {
            return false;
        }
        self.mss = mss;
        self.snd_nxt = self.snd_una;
        self.timed_at = 0;
        true
    }

    /// Memory is short: a connection without a user whose other side does not answer is given up now, and so is one that only waits
    /// for the other side's FIN, which has all that was for it. Answers whether it is; its timer runs out at once.
    pub fn hasten(&mut self, now: Instant) -> bool {
        let waits = self.retries > 1 || self.state == State::FinWait2;
        let hopeless = self.flags.contains(Flags::DETACHED) && waits;
        if hopeless {
            self.due.linger = now.as_nanos();
        }
        hopeless
    }

    /// Whether an ICMP message that quotes `seq` can be about something we sent (RFC 5927 §4.1).
    pub fn is_in_flight(&self, seq: Seq) -> bool {
        self.snd_una.at_or_before(seq) && seq.before(self.snd_max)
    }

    /// An ICMP error about this connection. Only a handshake ends by it, and only if it is `hard`;
    /// otherwise it is remembered (RFC 9293 §3.9.2.2, RFC 5461 §4.1).
    pub fn icmp_error(&mut self, error: Errno, hard: bool) -> Outcome {
        let mut out = Outcome::default();
        if hard && self.state == State::SynSent {
            self.terminate(&mut out, Some(error));
        } else {
            self.soft_error = Some(error);
        }
        out
    }
}
