//! A fake device, for tests on the host: registers behind a fake PCI function, the device's side of
//! the queues, memory whose bus addresses are not its addresses.
//!
//! It is strict where it is honest (it asserts that the driver keeps the rules) and lies where a test
//! tells it to. Everything random comes from a seed that the test prints.

pub mod memory;
pub mod pci;
pub mod ring;

/// SplitMix64: a generator that is the same everywhere (Steele, Lea, Flood, OOPSLA 2014).
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}
