//! Random streams that a seed repeats (S. Vigna, "SplitMix64").

/// Added at each step: the golden ratio's fraction in 64 bits.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream(u64);

impl Stream {
    /// The stream that belongs to `what` in the universe of `seed`: others do not disturb it.
    pub fn new(seed: u64, what: &str) -> Stream {
        let mut state = mix(seed.wrapping_add(STEP));
        for byte in what.bytes() {
            state = mix(state ^ u64::from(byte)).wrapping_add(STEP);
        }
        Stream(state)
    }

    /// The next number, of 64 bits.
    #[allow(
        clippy::should_implement_trait,
        reason = "a stream of numbers has no end"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The high half of a product: no division, and as even as 64 bits are (D. Lemire, 2019).
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below((high - low).saturating_add(1))
    }

    /// True `times` out of `of` times.
    pub fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes()[..part.len()]);
        }
    }
}

/// Spreads each bit over all.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_stream_and_names_part_streams() {
        let numbers = |seed, what| {
            let mut stream = Stream::new(seed, what);
            [stream.next(), stream.next()]
        };
        assert_eq!(numbers(1, "disk"), numbers(1, "disk"));
        assert_ne!(numbers(1, "disk"), numbers(2, "disk"));
        assert_ne!(numbers(1, "disk"), numbers(1, "wire"));
    }

    #[test]
    fn numbers_keep_to_their_range() {
        let mut stream = Stream::new(0, "");
        let mut seen = [false; 7];
        for _ in 0..1000 {
            seen[stream.below(7) as usize] = true;
            assert!((3..=5).contains(&stream.between(3, 5)));
        }
        assert_eq!(seen, [true; 7]);
        assert_eq!(stream.below(0), 0);
        assert!(stream.chance(1, 1) && !stream.chance(0, 9));
    }
}
