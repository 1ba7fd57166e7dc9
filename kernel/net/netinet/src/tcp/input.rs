//! Segment arrives (RFC 9293 §3.10.7), with the blind-attack protections of RFC 5961.
//!
//! Two cases make up nearly all segments and are tried first, in [`Tcb::input`]: the next data, and
//! an acknowledgment of data, with nothing else in them. All others go the way of the RFC, step by step.

use super::cc::CongestionControl;
use super::header::{Control, Header};
use super::reass::Payload;
use super::seq::Seq;
use super::tcb::{Events, Flags, Outcome, State, Tcb};
use rumpuser::{Errno, Instant};

/// How many challenge acknowledgments a connection sends in [`CHALLENGE_PERIOD`] (RFC 5961 §7). The count is
/// the connection's own: one for all would tell a stranger about other connections (CVE-2016-5696).
const CHALLENGES_MAX: u8 = 10;
const CHALLENGE_PERIOD: u64 = 1_000_000_000;

impl<P: Payload> Tcb<P> {
    /// Takes in a segment whose checksum is right. Data that is next in order goes to `deliver`, which
    /// answers whether it had room.
    pub fn input(
        &mut self,
        now: Instant,
        header: &Header,
        payload: P,
        deliver: &mut impl FnMut(P) -> bool,
    ) -> Outcome {
        let now = now.as_nanos();
        let mut out = Outcome::default();
        self.last_heard = now;
        self.probes = 0;
        if self.is_predicted(header) {
            let len = payload.len() as u32;
            if len == 0 && self.is_plain_ack(header) {
                self.acknowledge_new(now, header.ack, &mut out);
                self.snd_wl2 = header.ack;
                self.snd_wl1 = header.seq;
                return out;
            }
            if len != 0 && self.is_plain_data(header, len) {
                self.snd_wl1 = header.seq;
                self.accept_in_order(now, payload, deliver, &mut out);
                return out;
            }
        }
        match self.state {
            State::Closed | State::TimeWait => {}
            State::SynSent => self.in_syn_sent(now, header, payload, deliver, &mut out),
            _ => self.in_others(now, header, payload, deliver, &mut out),
        }
        if self.flags.contains(Flags::ACK_NOW) {
            out.events |= Events::OUTPUT;
        }
        out
    }

    /// Whether the segment is what an established connection mostly sees: in order, nothing but ACK (and
    /// PSH), the window as it was.
    #[inline]
    fn is_predicted(&self, header: &Header) -> bool {
        self.state == State::Established
            && header.control - Control::PSH == Control::ACK
            && header.seq == self.rcv_nxt
            && u32::from(header.window) << self.snd_shift == self.snd_wnd
            && self.snd_nxt == self.snd_max
    }

    #[inline]
    fn is_plain_ack(&self, header: &Header) -> bool {
        header.ack.after(self.snd_una)
            && header.ack.at_or_before(self.snd_max)
            && !self.flags.contains(Flags::RECOVERY)
    }

    #[inline]
    fn is_plain_data(&self, header: &Header, len: u32) -> bool {
        header.ack == self.snd_una
            && self.reass.is_empty()
            && len <= self.rcv_adv.beyond(self.rcv_nxt)
            && !self.flags.contains(Flags::DETACHED)
    }

    /// §3.10.7.3.
    fn in_syn_sent(
        &mut self,
        now: u64,
        header: &Header,
        payload: P,
        deliver: &mut impl FnMut(P) -> bool,
        out: &mut Outcome,
    ) {
        let control = header.control;
        let acks = control.contains(Control::ACK);
        if acks && (header.ack.at_or_before(self.iss) || header.ack.after(self.snd_max)) {
            if !control.contains(Control::RST) {
                out.reply = Some(reset_at(header.ack));
            }
            return;
        }
        if control.contains(Control::RST) {
            if acks {
                self.terminate(out, Some(Errno::ECONNREFUSED));
            }
            return;
        }
        if !control.contains(Control::SYN) {
            return;
        }
        let announced = self.rcv_adv.beyond(self.rcv_nxt);
        self.irs = header.seq;
        self.rcv_nxt = header.seq + 1;
        self.rcv_adv = self.rcv_nxt + announced;
        self.negotiate(&header.options);
        self.set_window(header, self.window_of(header));
        self.flags |= Flags::ACK_NOW;
        if !acks {
            // Simultaneous open (§3.5, figure 8): our SYN again, now with an acknowledgment.
            self.state = State::SynReceived;
            self.snd_nxt = self.iss;
            return;
        }
        self.acknowledge_new(now, header.ack, out);
        self.established(now, out);
        let fin = control.contains(Control::FIN);
        self.take_text(now, header.seq + 1, payload, fin, deliver, out);
    }

    /// §3.10.7.4.
    fn in_others(
        &mut self,
        now: u64,
        header: &Header,
        mut payload: P,
        deliver: &mut impl FnMut(P) -> bool,
        out: &mut Outcome,
    ) {
        let control = header.control;
        let mut seq = header.seq;
        let window = self.rcv_adv.beyond(self.rcv_nxt);
        if control.contains(Control::RST) {
            self.reset_arrived(now, seq, window, out);
            return;
        }
        if control.contains(Control::SYN) {
            // In a simultaneous open the other side's SYN comes once more, with an acknowledgment.
            if self.state != State::SynReceived || seq != self.irs {
                self.challenge(now);
                return;
            }
            if !control.contains(Control::ACK) {
                self.snd_nxt = self.iss;
                out.events |= Events::OUTPUT;
                return;
            }
            seq += 1;
        }
        let mut fin = control.contains(Control::FIN);
        let len = payload.len() as u32 + u32::from(fin);
        if !self.is_acceptable(seq, len, window) {
            // A retransmission whose acknowledgment was lost must be answered; a segment that
            // carries nothing might be an answer itself, and answers to answers never end.
            if len > 0 {
                self.flags |= Flags::ACK_NOW;
            } else {
                self.challenge(now);
            }
            // One that lies just behind the window is a retransmission, or comes from a sender whose timer
            // has run out; what it acknowledges may be new, and both sides may be in this state at once.
            let just_behind = seq.within(self.rcv_nxt.back(self.rcv_bytes), self.rcv_bytes);
            if just_behind
                && control.contains(Control::ACK)
                && self.acceptable_ack(now, header, out)
            {
                self.acknowledge(now, header, false, out);
            }
            return;
        }
        if !control.contains(Control::ACK) {
            return;
        }
        if !self.acceptable_ack(now, header, out) {
            return;
        }
        let old = self.rcv_nxt.beyond(seq).min(payload.len() as u32);
        if old > 0 {
            payload.trim_front(old as usize);
            seq += old;
            self.flags |= Flags::ACK_NOW;
        }
        let room = self.rcv_adv.beyond(seq) as usize;
        if payload.len() > room {
            payload.truncate(room);
            fin = false;
            self.flags |= Flags::ACK_NOW;
        }
        self.acknowledge(now, header, len == 0, out);
        if self.state == State::Closed {
            return;
        }
        self.take_text(now, seq, payload, fin, deliver, out);
    }

    /// First step: whether a segment lies in the window (§3.10.7.4, table 6). One that carries nothing may
    /// also lie at the window's end, as it does when what fills the window overtook it or was lost.
    fn is_acceptable(&self, seq: Seq, len: u32, window: u32) -> bool {
        let edge = self.rcv_nxt + window;
        if len == 0 {
            return seq.at_or_after(self.rcv_nxt) && seq.at_or_before(edge);
        }
        if window == 0 {
            // Its data is cut off, its acknowledgment counts (§3.10.7.4: "special allowance").
            return seq == self.rcv_nxt;
        }
        seq.before(edge) && (seq + len).after(self.rcv_nxt)
    }

    /// Second step, with RFC 5961 §3.2: only the exact number resets; others in the window are challenged.
    fn reset_arrived(&mut self, now: u64, seq: Seq, window: u32, out: &mut Outcome) {
        if seq != self.rcv_nxt {
            if seq.within(self.rcv_nxt, window) {
                self.challenge(now);
            }
            return;
        }
        let error = match self.state {
            State::SynReceived => Some(Errno::ECONNREFUSED),
            State::Closing | State::LastAck => None,
            _ => Some(Errno::ECONNRESET),
        };
        self.terminate(out, error);
    }

    /// Fifth step: whether the acknowledgment is one for what we sent; SYN-RECEIVED becomes ESTABLISHED.
    fn acceptable_ack(&mut self, now: u64, header: &Header, out: &mut Outcome) -> bool {
        let ack = header.ack;
        if self.state == State::SynReceived {
            if !ack.after(self.snd_una) || ack.after(self.snd_max) {
                out.reply = Some(reset_at(ack));
                return false;
            }
            self.set_window(header, self.window_of(header));
            self.acknowledge_new(now, ack, out);
            self.established(now, out);
            return true;
        }
        // RFC 5961 §5.2: neither beyond what was sent nor older than the largest window.
        let oldest = self.snd_una.back(self.snd_wnd_max);
        if ack.after(self.snd_max) || ack.before(oldest) {
            self.challenge(now);
            return false;
        }
        true
    }

    /// The handshake is over.
    fn established(&mut self, now: u64, out: &mut Outcome) {
        let lost_syn = self.flags.contains(Flags::LOST_SYN);
        if lost_syn {
            self.rtt.after_lost_syn();
        }
        self.cc.established(self.mss, lost_syn);
        self.recover = self.iss;
        self.retries = 0;
        if self.snd_una == self.snd_max {
            self.due.stop_retransmit();
        }
        self.state = if self.flags.contains(Flags::CLOSING) {
            State::FinWait1
        } else {
            State::Established
        };
        self.last_sent = now;
        self.start_keepalive();
        self.start_tuning(now);
        out.events |= Events::CONNECTED | Events::WRITABLE | Events::OUTPUT;
    }

    /// Owes an acknowledgment to a segment that an attacker might have sent, but not too many.
    fn challenge(&mut self, now: u64) {
        if now.saturating_sub(self.challenge_start) >= CHALLENGE_PERIOD {
            self.challenge_start = now;
            self.challenges = 0;
        }
        if self.challenges < CHALLENGES_MAX {
            self.challenges += 1;
            self.flags |= Flags::ACK_NOW;
        }
    }

    /// The RST that aborts this connection.
    pub(super) fn reset_segment(&self) -> Header {
        Header {
            seq: self.snd_max,
            ack: self.rcv_nxt,
            control: Control::RST | Control::ACK,
            ..Header::default()
        }
    }
}

/// The RST that answers an unacceptable acknowledgment: it takes its number from it.
pub(super) fn reset_at(ack: Seq) -> Header {
    Header {
        seq: ack,
        control: Control::RST,
        ..Header::default()
    }
}
