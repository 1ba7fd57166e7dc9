//! The retransmission time-out (RFC 6298).
//!
//! Times are nanoseconds, so that a sample costs shifts and no division. §2.4's floor of one second is a
//! SHOULD; like the other stacks in wide use this one takes less, but more than the 200 ms that
//! peers delay an acknowledgment.

/// The time-out before any sample (§2.1).
pub const RTO_INITIAL: u64 = 1_000_000_000;
/// The least time-out.
pub const RTO_MIN: u64 = 250_000_000;
/// The greatest (§2.5: at least 60 s).
pub const RTO_MAX: u64 = 64_000_000_000;
/// G, the clock's granularity, below which a variance means nothing (§2.3).
const GRANULARITY: u64 = 1_000_000;
/// The time-out after a handshake whose SYN was retransmitted (§5.7).
const RTO_AFTER_LOST_SYN: u64 = 3_000_000_000;

/// The estimator of one connection.
#[derive(Clone, Copy, Debug)]
pub struct RttEstimator {
    /// Smoothed round-trip time; 0 before the first sample.
    srtt: u64,
    /// Its mean deviation.
    rttvar: u64,
    /// The time-out without backing off.
    base: u64,
    /// How often it was doubled.
    backoff: u8,
}

impl Default for RttEstimator {
    fn default() -> RttEstimator {
        RttEstimator {
            srtt: 0,
            rttvar: 0,
            base: RTO_INITIAL,
            backoff: 0,
        }
    }
}

impl RttEstimator {
    /// Takes a measurement of a segment that was sent once (Karn's rule is the caller's), and forgets
    /// any backing off.
    pub fn sample(&mut self, nanos: u64) {
        let nanos = nanos.max(1);
        if self.srtt == 0 {
            self.srtt = nanos;
            self.rttvar = nanos / 2;
        } else {
            // §2.3 with alpha 1/8 and beta 1/4.
            let deviation = self.srtt.abs_diff(nanos);
            self.rttvar = self.rttvar - self.rttvar / 4 + deviation / 4;
            self.srtt = self.srtt - self.srtt / 8 + nanos / 8;
        }
        self.base = (self.srtt + (4 * self.rttvar).max(GRANULARITY)).clamp(RTO_MIN, RTO_MAX);
        self.backoff = 0;
    }

    /// The time-out now, in nanoseconds.
    pub fn rto(&self) -> u64 {
        (self.base << self.backoff.min(16)).min(RTO_MAX)
    }

    /// The time-out ran out: it doubles (§5.5).
    pub fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    /// How often it was doubled since the last sample: Karn's rule keeps the
    /// doubled value until a segment that was sent once is acknowledged.
    pub fn backoff(&self) -> u8 {
        self.backoff
    }

    /// The handshake is over and its SYN had to be sent again: start from three seconds (§5.7).
    pub fn after_lost_syn(&mut self) {
        if self.srtt == 0 {
            self.base = RTO_AFTER_LOST_SYN;
        }
        self.backoff = 0;
    }

    /// The smoothed round-trip time in nanoseconds, if there was a sample.
    pub fn smoothed(&self) -> Option<u64> {
        (self.srtt != 0).then_some(self.srtt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn before_any_sample_it_is_one_second_and_doubles_up_to_the_ceiling() {
        let mut rtt = RttEstimator::default();
        for seconds in [1, 2, 4, 8, 16, 32, 64, 64, 64] {
            assert_eq!(rtt.rto(), seconds * 1000 * MS);
            rtt.back_off();
        }
    }

    #[test]
    fn the_first_sample_sets_mean_and_half_of_it_as_deviation() {
        let mut rtt = RttEstimator::default();
        rtt.sample(200 * MS);
        assert_eq!(rtt.smoothed(), Some(200 * MS));
        assert_eq!(rtt.rto(), 600 * MS);
    }

    #[test]
    fn later_samples_weigh_an_eighth_and_a_quarter() {
        let mut rtt = RttEstimator::default();
        rtt.sample(200 * MS);
        rtt.sample(280 * MS);
        assert_eq!(rtt.smoothed(), Some(210 * MS));
        // rttvar = 3/4 * 100 + 1/4 * 80 = 95
        assert_eq!(rtt.rto(), (210 + 4 * 95) * MS);
    }

    #[test]
    fn a_steady_fast_path_comes_down_to_the_floor_and_no_lower() {
        let mut rtt = RttEstimator::default();
        for _ in 0..100 {
            rtt.sample(MS);
        }
        assert_eq!(rtt.rto(), RTO_MIN);
    }

    #[test]
    fn a_sample_ends_the_backing_off() {
        let mut rtt = RttEstimator::default();
        rtt.back_off();
        rtt.back_off();
        rtt.sample(400 * MS);
        assert_eq!(rtt.backoff(), 0);
        assert_eq!(rtt.rto(), 1200 * MS);
    }

    #[test]
    fn a_lost_syn_makes_it_three_seconds() {
        let mut rtt = RttEstimator::default();
        rtt.back_off();
        rtt.after_lost_syn();
        assert_eq!(rtt.rto(), 3000 * MS);
    }

    #[test]
    fn a_sample_of_any_size_is_survived() {
        let mut rtt = RttEstimator::default();
        for nanos in [0, u64::MAX / 8, 1, u64::MAX / 8] {
            rtt.sample(nanos);
            assert!((RTO_MIN..=RTO_MAX).contains(&rtt.rto()));
        }
    }
}
