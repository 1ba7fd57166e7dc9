//! Acknowledgments: what leaves the send buffer, the window, round-trip time, and loss by duplicates
//! (RFC 9293 §3.10.7.4 fifth step, RFC 5681 §3.2, RFC 6582, RFC 6298).

use super::cc::{Acked, CongestionControl};
use super::header::{Control, Header};
use super::reass::Payload;
use super::seq::Seq;
use super::tcb::{Events, FIN_WAIT_2, Flags, Outcome, State, Tcb};

/// Duplicates that tell of a loss (RFC 5681 §3.2).
pub(super) const DUP_ACKS: u8 = 3;

impl<P: Payload> Tcb<P> {
    /// Takes in the acknowledgment and the window of an acceptable segment. `bare`: it carries nothing else.
    pub(super) fn acknowledge(&mut self, now: u64, header: &Header, bare: bool, out: &mut Outcome) {
        let window = self.window_of(header);
        if header.ack.after(self.snd_una) {
            self.acknowledge_new(now, header.ack, out);
        } else if bare && header.ack == self.snd_una {
            self.duplicate(window, out);
        }
        if header.ack.before(self.snd_una) {
            return;
        }
        // SND.WL1 and SND.WL2 keep an old segment from shrinking the window.
        let newer = self.snd_wl1.before(header.seq)
            || (self.snd_wl1 == header.seq && self.snd_wl2.at_or_before(header.ack));
        if newer {
            if window != self.snd_wnd {
                out.events |= Events::OUTPUT;
            }
            self.set_window(header, window);
        }
    }

    /// The window that a segment grants, in bytes; a SYN's is not scaled (RFC 7323 §2.2).
    pub(super) fn window_of(&self, header: &Header) -> u32 {
        let shift = if header.control.contains(Control::SYN) {
            0
        } else {
            self.snd_shift
        };
        u32::from(header.window) << shift
    }

    /// Takes the send window from a segment.
    pub(super) fn set_window(&mut self, header: &Header, window: u32) {
        self.snd_wnd = window;
        self.snd_wnd_max = self.snd_wnd_max.max(window);
        self.snd_wl1 = header.seq;
        self.snd_wl2 = header.ack;
        if window >= self.mss {
            self.due.stop_persist();
            self.persist_shift = 0;
        }
    }

    /// `ack` acknowledges something new, and nothing that was not sent.
    pub(super) fn acknowledge_new(&mut self, now: u64, ack: Seq, out: &mut Outcome) {
        let bytes = ack - self.snd_una;
        let in_flight = self.snd_max - self.snd_una;
        if self.timed_at != 0 && ack.at_or_after(self.timed_seq) {
            self.rtt.sample(now.saturating_sub(self.timed_at));
            self.timed_at = 0;
        }
        let of_buffer = ack.beyond(self.buf_seq).min(self.queued);
        self.buf_seq += of_buffer;
        self.queued -= of_buffer;
        self.snd_una = ack;
        if self.snd_nxt.before(ack) {
            self.snd_nxt = ack;
        }
        self.retries = 0;
        self.persist_shift = 0;
        if self.offload_now < self.offload_bytes {
            self.offload_now = self.offload_now.saturating_mul(2).min(self.offload_bytes);
        }
        self.soft_error = None;
        if self.state.is_synchronized() {
            self.congestion(now, ack, bytes, in_flight);
        }
        if of_buffer > 0 {
            out.acked += of_buffer;
            out.events |= Events::WRITABLE;
        }
        if self.queued > 0 || self.flags.intersects(Flags::CLOSING | Flags::RESEND) {
            out.events |= Events::OUTPUT;
        }
        if self.flags.contains(Flags::CLOSING) && ack == self.fin_seq() + 1 {
            self.fin_acknowledged(now, out);
        }
    }

    /// Recovery, the congestion window and the retransmission timer after new data was acknowledged.
    fn congestion(&mut self, now: u64, ack: Seq, bytes: u32, in_flight: u32) {
        let mut restart = true;
        if !self.flags.contains(Flags::RECOVERY) {
            self.dup_acks = 0;
            let srtt = self.rtt.smoothed();
            self.cc.acked(Acked {
                bytes,
                in_flight,
                mss: self.mss,
                srtt,
                now,
            });
        } else if ack.at_or_after(self.recover) {
            self.flags -= Flags::RECOVERY | Flags::PARTIAL | Flags::RESEND;
            self.dup_acks = 0;
            self.cc.leave_recovery(self.snd_max - ack, self.mss);
        } else {
            // RFC 6582 §3.2 step 3: the next hole is lost too. Only the first partial acknowledgment restarts
            // the timer ("Impatient"), so that a recovery of many holes ends by it.
            restart = !self.flags.contains(Flags::PARTIAL);
            self.flags |= Flags::RESEND | Flags::PARTIAL;
            self.cc.partial(bytes, self.mss);
        }
        if ack == self.snd_max {
            self.due.stop_retransmit();
            // What was held back for more to come has waited long enough.
            self.flags -= Flags::MORE;
        } else if restart {
            self.arm_retransmit(now);
        }
    }

    /// A bare segment that acknowledges nothing new.
    fn duplicate(&mut self, window: u32, out: &mut Outcome) {
        // RFC 5681 §2: data outstanding, the window unchanged. While the window is closed it
        // answers a probe.
        if window != self.snd_wnd || self.snd_max == self.snd_una || !self.due.retransmit_runs() {
            return;
        }
        self.dup_acks = self.dup_acks.saturating_add(1);
        if self.flags.contains(Flags::RECOVERY) {
            self.cc.duplicate(self.mss);
        } else if self.dup_acks == DUP_ACKS && self.snd_una.after(self.recover) {
            self.recover = self.snd_max;
            self.flags |= Flags::RECOVERY | Flags::RESEND;
            self.timed_at = 0;
            self.cc
                .enter_recovery(self.snd_max - self.snd_una, self.mss);
        }
        out.events |= Events::OUTPUT;
    }

    fn fin_acknowledged(&mut self, now: u64, out: &mut Outcome) {
        out.events |= Events::DRAINED;
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                if self.flags.contains(Flags::DETACHED) {
                    self.due.linger = now + FIN_WAIT_2.as_nanos() as u64;
                }
            }
            State::Closing => self.enter_time_wait(out),
            State::LastAck => self.terminate(out, None),
            _ => {}
        }
    }
}
