//! What to send (RFC 9293 §3.7.4 Nagle, §3.8.6 windows, RFC 3042 limited transmit).

use super::ack::DUP_ACKS;
use super::cc::CongestionControl;
use super::header::{Control, Header, Options};
use super::reass::Payload;
use super::seq::Seq;
use super::tcb::{Emit, Flags, State, Tcb};
use rumpuser::Instant;

impl<P: Payload> Tcb<P> {
    /// The next segment to send, if there is one. What it says counts as sent.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Emit> {
        let now = now.as_nanos();
        match self.state {
            State::Closed => None,
            State::SynSent | State::SynReceived => self.send_syn(now),
            State::TimeWait => self.send_acknowledgment(),
            _ => {
                if self
                    .flags
                    .intersects(Flags::RESEND | Flags::PROBE | Flags::KEEPALIVE_PROBE)
                {
                    return self.send_special(now);
                }
                self.send_data(now)
            }
        }
    }

    fn send_syn(&mut self, now: u64) -> Option<Emit> {
        if self.snd_nxt != self.iss {
            return self.send_acknowledgment();
        }
        let mut control = Control::SYN;
        let mut window_shift = Some(self.our_shift);
        if self.state == State::SynReceived {
            control |= Control::ACK;
            // RFC 7323 §2.2: only if the other side's SYN had it.
            window_shift = window_shift.filter(|_| self.rcv_shift != 0 || self.snd_shift != 0);
        }
        let mut emit = self.build(self.iss, control, 0);
        emit.header.options = Options {
            mss: Some(self.our_mss),
            window_shift,
        };
        self.sent(now, self.iss, 1);
        Some(emit)
    }

    /// An acknowledgment and nothing else, if one is owed at once.
    fn send_acknowledgment(&mut self) -> Option<Emit> {
        if !self.flags.contains(Flags::ACK_NOW) {
            return None;
        }
        // Not `snd_nxt`: after a time-out that lies where the other side no longer looks.
        Some(self.build(self.snd_max, Control::ACK, 0))
    }

    /// What is sent out of turn.
    fn send_special(&mut self, now: u64) -> Option<Emit> {
        if self.flags.contains(Flags::RESEND) {
            self.flags -= Flags::RESEND;
            return self.resend_first(now);
        }
        if self.flags.contains(Flags::PROBE) {
            self.flags -= Flags::PROBE;
            return self.probe(now);
        }
        self.flags -= Flags::KEEPALIVE_PROBE;
        // RFC 9293 §3.8.4: a number that the other side has acknowledged provokes an answer.
        Some(self.build(self.snd_una.back(1), Control::ACK, 0))
    }

    /// One segment from the first number that is not acknowledged (RFC 5681 §3.2 step 3).
    fn resend_first(&mut self, now: u64) -> Option<Emit> {
        let in_flight = self.snd_max - self.snd_una;
        let len = self.queued.min(self.mss).min(in_flight);
        let with_fin = self.fin_sent() && len == self.queued && in_flight > len;
        if len == 0 && !with_fin {
            return self.send_data(now);
        }
        let control = if with_fin {
            Control::ACK | Control::FIN
        } else {
            Control::ACK
        };
        self.timed_at = 0;
        self.last_sent = now;
        Some(self.build(self.snd_una, control, len))
    }

    /// What the persist timer is for (RFC 9293 §3.8.6.1): as much as the window takes, or one byte
    /// beyond it.
    fn probe(&mut self, now: u64) -> Option<Emit> {
        let offset = self.snd_nxt - self.buf_seq;
        let unsent = self.queued.saturating_sub(offset);
        if unsent == 0 {
            return self.send_data(now);
        }
        let usable = self.snd_wnd.saturating_sub(self.snd_nxt - self.snd_una);
        let seq = self.snd_nxt;
        if usable > 0 {
            let len = unsent.min(usable).min(self.mss);
            self.sent(now, seq, len);
            return Some(self.build(seq, Control::ACK, len));
        }
        // The byte does not count as sent, so that it is the first to go when the window opens.
        self.snd_max = self.snd_max.later(seq + 1);
        self.arm_persist(now);
        Some(self.build(seq, Control::ACK, 1))
    }

    fn send_data(&mut self, now: u64) -> Option<Emit> {
        let offset = self.snd_nxt - self.buf_seq;
        let unsent = self.queued.saturating_sub(offset);
        let idle = self.snd_max == self.snd_una;
        if idle && unsent > 0 && now.saturating_sub(self.last_sent) > self.rtt.rto() {
            self.cc.idle(self.mss);
            self.last_sent = now;
        }
        let usable = self
            .send_window()
            .saturating_sub(self.snd_nxt - self.snd_una);
        let len = self.whole_segments(unsent.min(usable), unsent);
        let fin = self.flags.contains(Flags::CLOSING)
            && offset.saturating_add(len) == self.queued
            && self.snd_nxt.at_or_before(self.fin_seq());
        if !(fin || len > 0 && self.is_worthwhile(len, unsent, idle)) {
            if unsent > 0 && !self.due.retransmit_runs() && !self.due.persist_runs() {
                self.arm_persist(now);
            }
            return self.send_acknowledgment();
        }
        let control = if fin {
            Control::ACK | Control::FIN
        } else {
            Control::ACK
        };
        let seq = self.snd_nxt;
        self.sent(now, seq, len + u32::from(fin));
        Some(self.build(seq, control, len))
    }

    /// What may be in flight now.
    fn send_window(&self) -> u32 {
        let mut window = self.cc.window();
        if (1..DUP_ACKS).contains(&self.dup_acks) && !self.flags.contains(Flags::RECOVERY) {
            // RFC 3042: each of the first two duplicates lets one new segment go.
            window = window.saturating_add(u32::from(self.dup_acks) * self.mss);
        }
        window.min(self.snd_wnd)
    }

    /// How much of `len` goes into one segment: what the interface cuts itself is whole segments, unless
    /// it is all there is.
    fn whole_segments(&self, len: u32, unsent: u32) -> u32 {
        if len <= self.mss {
            return len;
        }
        let most = self.offload_now.max(self.mss);
        let len = len.min(most);
        let at_once = self.flags.intersects(Flags::NO_DELAY | Flags::CLOSING);
        let tail_may_go = len == unsent && at_once;
        if tail_may_go {
            len
        } else {
            len - len % self.mss
        }
    }

    /// Nagle and the sender's silly window avoidance (RFC 9293 §3.8.6.2.1).
    fn is_worthwhile(&self, len: u32, unsent: u32, idle: bool) -> bool {
        if len >= self.mss || self.snd_nxt.before(self.snd_max) {
            return true;
        }
        if self.flags.contains(Flags::CLOSING) && len == unsent {
            return true;
        }
        if self.flags.contains(Flags::MORE) {
            return false;
        }
        (len == unsent && (idle || self.flags.contains(Flags::NO_DELAY)))
            || len >= self.snd_wnd_max / 2
    }

    /// `len` numbers from `seq` on are sent: moves on, and starts what watches over them.
    fn sent(&mut self, now: u64, seq: Seq, len: u32) {
        let end = seq + len;
        self.snd_nxt = end;
        if end.after(self.snd_max) {
            // Karn: only what is sent for the first time is timed (RFC 6298 §3).
            if self.timed_at == 0 && seq == self.snd_max {
                self.timed_at = now.max(1);
                self.timed_seq = end;
            }
            self.snd_max = end;
        }
        self.last_sent = now;
        if !self.due.retransmit_runs() {
            self.arm_retransmit(now);
            self.due.stop_persist();
        }
    }

    /// A segment with `len` bytes from `seq` on. Whatever is sent acknowledges.
    fn build(&mut self, seq: Seq, mut control: Control, len: u32) -> Emit {
        let offset = if len == 0 { 0 } else { seq - self.buf_seq };
        if len > 0 && offset + len == self.queued {
            control |= Control::PSH;
        }
        let window = self.announce_window(control);
        self.flags -= Flags::ACK_NOW | Flags::ACK_DELAYED;
        self.due.stop_ack();
        let acks = control.contains(Control::ACK);
        Emit {
            header: Header {
                seq,
                ack: if acks { self.rcv_nxt } else { Seq(0) },
                control,
                window,
                ..Header::default()
            },
            offset,
            len,
            segment_bytes: if len > self.mss { self.mss as u16 } else { 0 },
        }
    }
}
