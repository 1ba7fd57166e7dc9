//! NewReno: slow start, congestion avoidance, fast recovery (RFC 5681, RFC 6582), with the initial
//! window of RFC 6928 and byte counting of RFC 3465.

use super::{Acked, CongestionControl};

/// No window grows beyond this: more than any scaled receive window.
const WINDOW_MAX: u32 = 1 << 30;

/// The state of one connection.
#[derive(Clone, Debug)]
pub struct NewReno {
    /// cwnd.
    window: u32,
    /// ssthresh: below it slow start, above it congestion avoidance.
    threshold: u32,
    /// Bytes acknowledged in congestion avoidance since the window last grew.
    counted: u32,
    /// The window is still on its way back from a time-out, where an acknowledgment may open it by
    /// one segment only (RFC 3465 §2.3).
    after_timeout: bool,
}

impl Default for NewReno {
    fn default() -> NewReno {
        NewReno {
            window: 0,
            threshold: WINDOW_MAX,
            counted: 0,
            after_timeout: false,
        }
    }
}

impl NewReno {
    /// ssthresh in bytes.
    pub fn threshold(&self) -> u32 {
        self.threshold
    }

    /// IW (RFC 6928 §2).
    fn initial(mss: u32) -> u32 {
        (10 * mss).min((2 * mss).max(14_600))
    }

    /// RFC 5681 §3.1, equation 4.
    fn halve(&mut self, in_flight: u32, mss: u32) {
        self.threshold = (in_flight / 2).max(2 * mss);
    }

    fn set_window(&mut self, window: u32) {
        self.window = window.min(WINDOW_MAX);
    }
}

impl CongestionControl for NewReno {
    fn established(&mut self, mss: u32, lost_syn: bool) {
        // RFC 5681 §3.1: after a lost SYN the initial window is one segment.
        self.set_window(if lost_syn { mss } else { Self::initial(mss) });
    }

    #[inline]
    fn window(&self) -> u32 {
        self.window
    }

    fn acked(&mut self, ack: Acked) {
        // A sender that its application or its peer holds back learns nothing about the path
        // (RFC 7661 §1); in slow start one needs twice what was in flight.
        let slow_start = self.window < self.threshold;
        let used = if slow_start {
            ack.in_flight.saturating_mul(2)
        } else {
            ack.in_flight
        };
        if used.saturating_add(ack.mss) < self.window {
            return;
        }
        if slow_start {
            let limit = if self.after_timeout {
                ack.mss
            } else {
                2 * ack.mss
            };
            self.set_window(self.window.saturating_add(ack.bytes.min(limit)));
            if self.window >= self.threshold {
                self.after_timeout = false;
            }
            return;
        }
        self.after_timeout = false;
        self.counted = self.counted.saturating_add(ack.bytes);
        if self.counted >= self.window {
            self.counted -= self.window;
            self.set_window(self.window.saturating_add(ack.mss));
        }
    }

    fn enter_recovery(&mut self, in_flight: u32, mss: u32) {
        self.halve(in_flight, mss);
        // The three duplicates tell of three segments that left the network.
        self.set_window(self.threshold.saturating_add(3 * mss));
        self.counted = 0;
    }

    fn duplicate(&mut self, mss: u32) {
        self.set_window(self.window.saturating_add(mss));
    }

    fn partial(&mut self, bytes: u32, mss: u32) {
        // RFC 6582 §3.2 step 3: deflate by what was acknowledged, add one segment back.
        let mut window = self.window.saturating_sub(bytes);
        if bytes >= mss {
            window = window.saturating_add(mss);
        }
        self.set_window(window.max(mss));
    }

    fn leave_recovery(&mut self, in_flight: u32, mss: u32) {
        // RFC 6582 §3.2 step 3, full acknowledgment, option (1): no burst.
        self.set_window(self.threshold.min(in_flight.max(mss).saturating_add(mss)));
        self.counted = 0;
    }

    fn timed_out(&mut self, in_flight: u32, mss: u32, again: bool) {
        if !again {
            self.halve(in_flight, mss);
        }
        self.set_window(mss);
        self.counted = 0;
        self.after_timeout = true;
    }

    fn idle(&mut self, mss: u32) {
        // RFC 5681 §4.1: restart from RW = min(IW, cwnd).
        self.set_window(self.window.min(Self::initial(mss)));
        self.counted = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    fn ack(bytes: u32, in_flight: u32) -> Acked {
        Acked {
            bytes,
            in_flight,
            mss: MSS,
            srtt: None,
            now: 0,
        }
    }

    fn started() -> NewReno {
        let mut cc = NewReno::default();
        cc.established(MSS, false);
        cc
    }

    #[test]
    fn the_initial_window_is_ten_segments_or_fourteen_and_a_half_kilobytes() {
        for (mss, window) in [(536, 5360), (1000, 10_000), (1460, 14_600), (9000, 18_000)] {
            let mut cc = NewReno::default();
            cc.established(mss, false);
            assert_eq!(cc.window(), window);
        }
    }

    #[test]
    fn a_lost_syn_makes_the_initial_window_one_segment() {
        let mut cc = NewReno::default();
        cc.established(MSS, true);
        assert_eq!(cc.window(), MSS);
    }

    #[test]
    fn slow_start_doubles_in_a_round_trip() {
        let mut cc = started();
        for _ in 0..5 {
            cc.acked(ack(2 * MSS, 10 * MSS));
        }
        assert_eq!(cc.window(), 20 * MSS);
    }

    #[test]
    fn one_acknowledgment_opens_slow_start_by_two_segments_at_most() {
        let mut cc = started();
        cc.acked(ack(10 * MSS, 10 * MSS));
        assert_eq!(cc.window(), 12 * MSS);
    }

    #[test]
    fn congestion_avoidance_adds_one_segment_in_a_round_trip() {
        let mut cc = started();
        cc.enter_recovery(20 * MSS, MSS);
        cc.leave_recovery(20 * MSS, MSS);
        assert_eq!(cc.window(), 10 * MSS);
        for _ in 0..10 {
            cc.acked(ack(MSS, 10 * MSS));
        }
        assert_eq!(cc.window(), 11 * MSS);
    }

    #[test]
    fn recovery_halves_what_is_in_flight_and_inflates_by_duplicates() {
        let mut cc = started();
        cc.enter_recovery(10 * MSS, MSS);
        assert_eq!((cc.threshold(), cc.window()), (5 * MSS, 8 * MSS));
        cc.duplicate(MSS);
        assert_eq!(cc.window(), 9 * MSS);
        cc.partial(3 * MSS, MSS);
        assert_eq!(cc.window(), 7 * MSS);
        cc.leave_recovery(2 * MSS, MSS);
        assert_eq!(cc.window(), 3 * MSS, "no burst after recovery");
    }

    #[test]
    fn a_timeout_starts_over_from_one_segment_and_holds_the_threshold_when_it_repeats() {
        let mut cc = started();
        cc.timed_out(10 * MSS, MSS, false);
        assert_eq!((cc.threshold(), cc.window()), (5 * MSS, MSS));
        cc.timed_out(MSS, MSS, true);
        assert_eq!((cc.threshold(), cc.window()), (5 * MSS, MSS));
        cc.acked(ack(5 * MSS, MSS));
        assert_eq!(
            cc.window(),
            2 * MSS,
            "one segment an acknowledgment after a time-out"
        );
    }

    #[test]
    fn the_threshold_never_falls_below_two_segments() {
        let mut cc = started();
        cc.timed_out(1, MSS, false);
        assert_eq!(cc.threshold(), 2 * MSS);
    }

    #[test]
    fn a_sender_that_does_not_use_its_window_does_not_grow_it() {
        let mut cc = started();
        cc.acked(ack(MSS, MSS));
        assert_eq!(cc.window(), 10 * MSS);
    }

    #[test]
    fn after_idling_it_restarts_from_the_initial_window() {
        let mut cc = started();
        for _ in 0..20 {
            cc.acked(ack(2 * MSS, cc.window()));
        }
        cc.idle(MSS);
        assert_eq!(cc.window(), 10 * MSS);
    }
}
