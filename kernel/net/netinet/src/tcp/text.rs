//! Data and FIN, and the window that lets them come (RFC 9293 §3.10.7.4 seventh and eighth step, §3.8.6).

use super::header::Control;
use super::reass::Payload;
use super::seq::Seq;
use super::tcb::{Events, Flags, Outcome, State, Tcb};
use super::timer::{DELAYED_ACK, Deadlines};

/// The round trip that the receive buffer is tuned by while none is known, and the least.
const TUNE_ROUND_TRIP: u64 = 10_000_000;

impl<P: Payload> Tcb<P> {
    /// The next data, with nothing missing before it. Answers whether the user's buffer took it; if not,
    /// it is as if it had never come.
    #[inline]
    pub(super) fn accept_in_order(
        &mut self,
        now: u64,
        payload: P,
        deliver: &mut impl FnMut(P) -> bool,
        out: &mut Outcome,
    ) -> bool {
        let len = payload.len() as u32;
        if !deliver(payload) {
            return false;
        }
        self.rcv_nxt += len;
        self.rcv_unread += len;
        self.tune(now, len);
        out.events |= Events::READABLE;
        // RFC 5681 §4.2: at least every second segment is acknowledged.
        if self.flags.contains(Flags::ACK_DELAYED) {
            self.flags |= Flags::ACK_NOW;
            out.events |= Events::OUTPUT;
        } else {
            self.flags |= Flags::ACK_DELAYED;
            self.due.ack = now + DELAYED_ACK;
        }
        true
    }

    /// Data and FIN of a segment that is cut to the window; `seq` is the number of its first byte.
    pub(super) fn take_text(
        &mut self,
        now: u64,
        seq: Seq,
        payload: P,
        fin: bool,
        deliver: &mut impl FnMut(P) -> bool,
        out: &mut Outcome,
    ) {
        if !self.state.may_receive() {
            return;
        }
        let end = seq + payload.len() as u32;
        if !payload.is_empty() {
            if self.flags.contains(Flags::DETACHED) {
                // RFC 9293 §3.6.1: data that nobody will read is answered with a reset.
                out.reply = Some(self.reset_segment());
                self.terminate(out, None);
                return;
            }
            if seq == self.rcv_nxt && self.reass.is_empty() {
                self.accept_in_order(now, payload, deliver, out);
            } else {
                self.reassemble(now, seq, payload, deliver, out);
            }
        }
        if fin && end == self.rcv_nxt {
            self.fin_arrived(out);
        } else if fin {
            self.reass.insert_fin(end);
            self.flags |= Flags::ACK_NOW;
        } else if self.reass.fin_at(self.rcv_nxt) {
            self.fin_arrived(out);
        }
    }

    /// Data out of order, or that fills a hole: acknowledged at once (RFC 5681 §4.2).
    fn reassemble(
        &mut self,
        now: u64,
        seq: Seq,
        payload: P,
        deliver: &mut impl FnMut(P) -> bool,
        out: &mut Outcome,
    ) {
        if seq == self.rcv_nxt {
            self.accept_in_order(now, payload, deliver, out);
        } else {
            // A packet buffer is seldom filled; twice the window lets a whole one come out of order.
            let limit = self.rcv_bytes as usize * 2;
            self.reass.insert(seq, payload, limit);
        }
        while let Some(piece) = self.reass.take(self.rcv_nxt) {
            if !self.accept_in_order(now, piece, deliver, out) {
                break;
            }
        }
        self.flags |= Flags::ACK_NOW;
    }

    fn fin_arrived(&mut self, out: &mut Outcome) {
        self.reass.clear();
        self.rcv_nxt += 1;
        self.flags |= Flags::ACK_NOW;
        out.events |= Events::EOF | Events::READABLE;
        match self.state {
            State::Established => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => self.enter_time_wait(out),
            _ => {}
        }
    }

    /// Nothing more will be sent but acknowledgments of what is sent again: `timewait.rs` does that.
    pub(super) fn enter_time_wait(&mut self, out: &mut Outcome) {
        self.state = State::TimeWait;
        self.due = Deadlines::default();
        out.events |= Events::TIME_WAIT | Events::OUTPUT;
    }

    /// The window there is room for: never less than was announced, and more only by a worthwhile step
    /// (RFC 9293 §3.8.6.2.2, the receiver's silly window avoidance).
    pub(super) fn receive_window(&self) -> u32 {
        let current = self.rcv_adv.beyond(self.rcv_nxt);
        let room = self
            .rcv_bytes
            .saturating_sub(self.rcv_unread)
            .min(self.rcv_room);
        let step = (self.rcv_bytes / 2).min(u32::from(self.our_mss));
        if room < current.saturating_add(step) {
            current
        } else {
            room
        }
    }

    /// The window field of a segment sent now; remembers what it announces.
    pub(super) fn announce_window(&mut self, control: Control) -> u16 {
        let shift = if control.contains(Control::SYN) {
            0
        } else {
            self.rcv_shift
        };
        let field = (self.receive_window() >> shift).min(u32::from(u16::MAX)) as u16;
        self.rcv_adv = self
            .rcv_adv
            .later(self.rcv_nxt + (u32::from(field) << shift));
        field
    }

    pub(super) fn start_tuning(&mut self, now: u64) {
        self.tune_start = now;
        self.tune_bytes = 0;
    }

    /// Doubles the receive buffer when most of it came within two round trips and the user keeps up: then
    /// the window, not the path, is what holds the sender back.
    #[inline]
    fn tune(&mut self, now: u64, len: u32) {
        self.tune_bytes += len;
        if self.tune_bytes < self.rcv_bytes / 4 * 3 {
            return;
        }
        let round_trip = self
            .rtt
            .smoothed()
            .unwrap_or(TUNE_ROUND_TRIP)
            .max(TUNE_ROUND_TRIP);
        let fast = now.saturating_sub(self.tune_start) <= 2 * round_trip;
        if fast && self.rcv_unread <= self.rcv_bytes / 2 {
            self.rcv_bytes = self.rcv_bytes.saturating_mul(2).min(self.rcv_max);
        }
        self.start_tuning(now);
    }
}
