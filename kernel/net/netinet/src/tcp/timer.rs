//! What is due when. A connection has one timer, set to the nearest of its deadlines; an idle connection
//! has none but keep-alive's, and that only if its user asked for it.

use super::cc::CongestionControl;
use super::reass::Payload;
use super::rtt::RTO_MAX;
use super::tcb::{Emit, Events, Flags, Outcome, State, Tcb};
use rumpuser::{Errno, Instant};

/// No deadline.
const NEVER: u64 = u64::MAX;
/// How long an acknowledgment may be delayed (RFC 9293 §3.8.6.3: under half a second).
pub(super) const DELAYED_ACK: u64 = 40_000_000;
/// How soon it is tried again to send what the interface had no room for.
const RETRY: u64 = 5_000_000;
/// How often a SYN is sent again: with the time-outs of RFC 6298, 191 s (RFC 9293 MUST-23: at least 180 s).
const SYN_RETRIES: u8 = 7;
/// How often data is, and how many window probes go unanswered: 9 min from the least time-out on.
const DATA_RETRIES: u8 = 14;
/// The same for a connection whose user is gone; window probes count here even if answered, or
/// whoever never opens his window would hold our memory for ever.
const DETACHED_RETRIES: u8 = 8;
const SECOND: u64 = 1_000_000_000;

/// Deadlines in nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// What is in flight is taken for lost.
    pub(super) retransmit: u64,
    /// The other side's window is closed, or too small to be worth it: try.
    pub(super) persist: u64,
    /// A delayed acknowledgment.
    pub(super) ack: u64,
    /// Keep-alive.
    pub(super) keep: u64,
    /// FIN-WAIT-2 without a user.
    pub(super) linger: u64,
    /// The interface had no room.
    pub(super) retry: u64,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            retransmit: NEVER,
            persist: NEVER,
            ack: NEVER,
            keep: NEVER,
            linger: NEVER,
            retry: NEVER,
        }
    }
}

impl Deadlines {
    pub(super) fn stop_retransmit(&mut self) {
        self.retransmit = NEVER;
    }

    pub(super) fn retransmit_runs(&self) -> bool {
        self.retransmit != NEVER
    }

    pub(super) fn stop_persist(&mut self) {
        self.persist = NEVER;
    }

    pub(super) fn persist_runs(&self) -> bool {
        self.persist != NEVER
    }

    pub(super) fn stop_ack(&mut self) {
        self.ack = NEVER;
    }
}

/// Whether a deadline has come; it is then taken.
fn take(deadline: &mut u64, now: u64) -> bool {
    let due = *deadline <= now;
    if due {
        *deadline = NEVER;
    }
    due
}

impl<P: Payload> Tcb<P> {
    /// When [`on_timer`](Tcb::on_timer) must be called next, if at all. To call it sooner does no harm.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        let due = &self.due;
        let nearest = due.retransmit.min(due.persist).min(due.ack);
        let nearest = nearest.min(due.keep).min(due.linger).min(due.retry);
        (nearest != NEVER).then_some(Instant::from_nanos(nearest))
    }

    /// Time has passed: does what is due.
    pub fn on_timer(&mut self, now: Instant) -> Outcome {
        let now = now.as_nanos();
        let mut out = Outcome::default();
        if take(&mut self.due.linger, now) {
            self.terminate(&mut out, None);
            return out;
        }
        if take(&mut self.due.keep, now) {
            self.keepalive_due(now, &mut out);
        }
        if take(&mut self.due.retransmit, now) {
            self.retransmit_due(&mut out);
        }
        if take(&mut self.due.persist, now) {
            self.persist_due(&mut out);
        }
        if take(&mut self.due.ack, now) && self.flags.contains(Flags::ACK_DELAYED) {
            self.flags |= Flags::ACK_NOW;
            out.events |= Events::OUTPUT;
        }
        if take(&mut self.due.retry, now) {
            out.events |= Events::OUTPUT;
        }
        out
    }

    /// The interface did not take the last segment that [`poll_transmit`](Tcb::poll_transmit) gave: it is
    /// as if not sent, and tried again soon.
    pub fn transmit_failed(&mut self, emit: &Emit, now: Instant) {
        if emit.segment_bytes != 0 {
            // A large segment takes more memory and more of the interface than a small one.
            self.offload_now = emit.len / 2;
        }
        let len = emit.header.sequence_len(emit.len);
        if len == 0 {
            self.flags |= Flags::ACK_NOW;
        } else if emit.header.seq + len == self.snd_nxt {
            self.snd_nxt = emit.header.seq.later(self.snd_una);
        } else if !self.due.persist_runs() {
            self.flags |= Flags::RESEND;
        }
        if self.timed_at != 0 && emit.header.seq.before(self.timed_seq) {
            self.timed_at = 0;
        }
        self.due.retry = now.as_nanos() + RETRY;
    }

    /// Starts the retransmission timer.
    pub(super) fn arm_retransmit(&mut self, now: u64) {
        self.due.retransmit = now + self.rtt.rto();
    }

    /// Starts the persist timer (RFC 9293 §3.8.6.1): from the retransmission time-out, doubling.
    pub(super) fn arm_persist(&mut self, now: u64) {
        let delay = self.rtt.rto() << self.persist_shift.min(10);
        self.due.persist = now + delay.min(RTO_MAX);
    }

    pub(super) fn start_keepalive(&mut self) {
        self.due.keep = match self.keepalive {
            Some(keepalive) if self.state.is_synchronized() => {
                self.last_heard + u64::from(keepalive.idle_seconds) * SECOND
            }
            _ => NEVER,
        };
    }

    fn give_up(&mut self, out: &mut Outcome) {
        let error = self.soft_error.take().unwrap_or(Errno::ETIMEDOUT);
        if self.state.is_synchronized() {
            out.reply = Some(self.reset_segment());
        }
        self.terminate(out, Some(error));
    }

    fn retries_allowed(&self) -> u8 {
        match self.state {
            State::SynSent | State::SynReceived => SYN_RETRIES,
            _ if self.flags.contains(Flags::DETACHED) => DETACHED_RETRIES,
            _ => DATA_RETRIES,
        }
    }

    /// RFC 6298 §5.4 to §5.6 and RFC 5681 §3.1: back off, start over from what is not acknowledged.
    fn retransmit_due(&mut self, out: &mut Outcome) {
        if self.retries >= self.retries_allowed() {
            self.give_up(out);
            return;
        }
        let again = self.retries > 0;
        self.retries += 1;
        self.rtt.back_off();
        self.timed_at = 0;
        if self.state.is_synchronized() {
            self.cc
                .timed_out(self.snd_max - self.snd_una, self.mss, again);
        } else {
            self.flags |= Flags::LOST_SYN;
        }
        // RFC 6582 §4: duplicates of what is sent again must not start a recovery.
        self.recover = self.snd_max;
        self.flags -= Flags::RECOVERY | Flags::PARTIAL | Flags::RESEND;
        self.dup_acks = 0;
        self.snd_nxt = self.snd_una;
        out.events |= Events::OUTPUT;
    }

    fn persist_due(&mut self, out: &mut Outcome) {
        let detached = self.flags.contains(Flags::DETACHED);
        let tries = if detached {
            self.persist_shift
        } else {
            self.probes
        };
        if tries >= self.retries_allowed() {
            self.give_up(out);
            return;
        }
        self.probes = self.probes.saturating_add(1);
        self.persist_shift = self.persist_shift.saturating_add(1);
        self.flags |= Flags::PROBE;
        out.events |= Events::OUTPUT;
    }

    fn keepalive_due(&mut self, now: u64, out: &mut Outcome) {
        let Some(keepalive) = self.keepalive.filter(|_| self.state.is_synchronized()) else {
            return;
        };
        let idle = u64::from(keepalive.idle_seconds) * SECOND;
        let quiet_until = self.last_heard.saturating_add(idle);
        if now < quiet_until {
            self.due.keep = quiet_until;
            return;
        }
        let interval = u64::from(keepalive.interval_seconds) * SECOND;
        self.due.keep = now + interval;
        // What is in flight is watched by its own timer.
        if self.due.retransmit_runs() || self.due.persist_runs() {
            return;
        }
        if self.probes >= keepalive.probes {
            self.give_up(out);
            return;
        }
        self.probes += 1;
        self.flags |= Flags::KEEPALIVE_PROBE;
        out.events |= Events::OUTPUT;
    }
}
