//! SYN cookies: a handshake whose state travels in the initial sequence number (RFC 4987 §3.6).
//!
//! The number's low byte says what the peer's SYN offered (3 bits: MSS by table, 4 bits: window
//! shift, 1 bit: the epoch's parity), its high 24 bits are a keyed hash of the tuple, the peer's initial
//! sequence number, the epoch and that byte. An epoch lasts 64 s; a cookie holds in its own and the next.

use super::header::WINDOW_SHIFT_MAX;
use super::seq::Seq;
use super::tuple::Tuple;
use rumpkern::hash::HashKey;
use rumpuser::Instant;

const EPOCH_NANOS: u64 = 64_000_000_000;
/// Segment sizes a cookie can say; the largest one not above the peer's is taken.
const MSS_TABLE: [u16; 8] = [216, 536, 1024, 1220, 1360, 1400, 1440, 1460];
/// Stands for "no window scaling" in the four bits of the shift.
const NO_SHIFT: u8 = 15;

/// What a cookie remembers of the peer's SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Its MSS, rounded down to one that a cookie can say.
    pub mss: u16,
    /// Its window shift, if it offered scaling.
    pub window_shift: Option<u8>,
}

/// The initial sequence number that answers a SYN.
pub fn bake(key: HashKey, tuple: &Tuple, irs: Seq, offer: Remembered, now: Instant) -> Seq {
    let index = MSS_TABLE
        .iter()
        .rposition(|&mss| mss <= offer.mss)
        .unwrap_or(0) as u8;
    let shift = offer
        .window_shift
        .map_or(NO_SHIFT, |shift| shift.min(WINDOW_SHIFT_MAX));
    let epoch = now.as_nanos() / EPOCH_NANOS;
    let low = index << 5 | shift << 1 | (epoch & 1) as u8;
    Seq(mac(key, tuple, irs, epoch, low) << 8 | u32::from(low))
}

/// What the cookie `iss` remembers, if it is one of ours for this tuple and peer sequence number and
/// not too old.
pub fn taste(key: HashKey, tuple: &Tuple, irs: Seq, iss: Seq, now: Instant) -> Option<Remembered> {
    let low = iss.0 as u8;
    let current = now.as_nanos() / EPOCH_NANOS;
    let epoch = if (current & 1) as u8 == low & 1 {
        current
    } else {
        current.checked_sub(1)?
    };
    if mac(key, tuple, irs, epoch, low) != iss.0 >> 8 {
        return None;
    }
    let shift = low >> 1 & 15;
    Some(Remembered {
        mss: MSS_TABLE[usize::from(low >> 5)],
        window_shift: (shift != NO_SHIFT).then_some(shift),
    })
}

/// 24 bits that only the holder of the key can make.
fn mac(key: HashKey, tuple: &Tuple, irs: Seq, epoch: u64, low: u8) -> u32 {
    let extra = epoch << 40 | u64::from(low) << 32 | u64::from(irs.0);
    (tuple.secret_hash(key, extra) >> 40) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{IpAddr, Ipv4Addr};

    const EPOCH: u64 = EPOCH_NANOS;

    fn tuple() -> Tuple {
        Tuple {
            local: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            local_port: 80,
            remote_port: 4000,
            remote: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
        }
    }

    #[test]
    fn a_cookie_remembers_segment_size_and_shift() {
        let key = HashKey::from_bytes([1; 16]);
        let now = Instant::from_nanos(3 * EPOCH + 5);
        for (mss, kept) in [
            (1460, 1460),
            (9000, 1460),
            (1300, 1220),
            (536, 536),
            (10, 216),
        ] {
            for window_shift in (0..=14).map(Some).chain([None]) {
                let iss = bake(key, &tuple(), Seq(9), Remembered { mss, window_shift }, now);
                let tasted = taste(key, &tuple(), Seq(9), iss, now);
                assert_eq!(
                    tasted,
                    Some(Remembered {
                        mss: kept,
                        window_shift
                    })
                );
            }
        }
    }

    #[test]
    fn a_cookie_holds_through_the_next_epoch_and_no_longer() {
        let key = HashKey::from_bytes([1; 16]);
        let offer = Remembered {
            mss: 1460,
            window_shift: Some(7),
        };
        let iss = bake(key, &tuple(), Seq(9), offer, Instant::from_nanos(EPOCH));
        for (age, good) in [
            (0, true),
            (EPOCH, true),
            (2 * EPOCH - 1, true),
            (2 * EPOCH, false),
        ] {
            let now = Instant::from_nanos(EPOCH + age);
            assert_eq!(
                taste(key, &tuple(), Seq(9), iss, now).is_some(),
                good,
                "age {age}"
            );
        }
    }

    #[test]
    fn a_cookie_is_good_for_its_own_connection_only() {
        let key = HashKey::from_bytes([1; 16]);
        let now = Instant::from_nanos(EPOCH);
        let offer = Remembered {
            mss: 1460,
            window_shift: None,
        };
        let iss = bake(key, &tuple(), Seq(9), offer, now);
        let other = Tuple {
            remote_port: 4001,
            ..tuple()
        };
        assert_eq!(taste(key, &other, Seq(9), iss, now), None);
        assert_eq!(taste(key, &tuple(), Seq(10), iss, now), None);
        assert_eq!(
            taste(HashKey::from_bytes([2; 16]), &tuple(), Seq(9), iss, now),
            None
        );
        assert_eq!(taste(key, &tuple(), Seq(9), iss + 2, now), None);
    }
}
