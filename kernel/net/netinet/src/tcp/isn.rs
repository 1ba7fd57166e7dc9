//! Initial sequence numbers (RFC 6528): ISN = M + F(tuple, secret).

use super::seq::Seq;
use super::tuple::Tuple;
use rumpkern::hash::HashKey;
use rumpuser::Instant;

/// M ticks every 4 microseconds (RFC 9293 §3.4.1).
const TICK_NANOS: u64 = 4000;

/// The number that a new connection starts at: of one tuple they rise with time, so a new incarnation
/// does not meet the old one's segments; of another tuple they tell nothing.
pub fn initial_sequence(secret: HashKey, tuple: &Tuple, now: Instant) -> Seq {
    let clock = (now.as_nanos() / TICK_NANOS) as u32;
    Seq((tuple.secret_hash(secret, 0) as u32).wrapping_add(clock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{IpAddr, Ipv4Addr};

    fn tuple(remote_port: u16) -> Tuple {
        Tuple {
            local: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            local_port: 80,
            remote_port,
            remote: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
        }
    }

    #[test]
    fn one_tuple_s_numbers_rise_by_a_quarter_million_a_second() {
        let key = HashKey::from_bytes([7; 16]);
        let first = initial_sequence(key, &tuple(1), Instant::from_nanos(0));
        let second = initial_sequence(key, &tuple(1), Instant::from_nanos(1_000_000_000));
        assert_eq!(second - first, 250_000);
    }

    #[test]
    fn another_tuple_or_another_secret_starts_elsewhere() {
        let now = Instant::from_nanos(5);
        let key = HashKey::from_bytes([7; 16]);
        let here = initial_sequence(key, &tuple(1), now);
        assert_ne!(here, initial_sequence(key, &tuple(2), now));
        assert_ne!(
            here,
            initial_sequence(HashKey::from_bytes([8; 16]), &tuple(1), now)
        );
    }
}
