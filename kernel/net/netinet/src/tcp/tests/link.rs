//! A link in virtual time that loses, delays, reorders and doubles packets; one seed decides all.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// xorshift64*: good enough to decide fates, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// What the link does to packets; chances in percent, times in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss: u64,
    pub doubling: u64,
    pub delay: u64,
    pub jitter: u64,
}

impl Weather {
    pub const FAIR: Weather = Weather {
        loss: 0,
        doubling: 0,
        delay: 1_000_000,
        jitter: 0,
    };
    pub const FOUL: Weather = Weather {
        loss: 5,
        doubling: 3,
        delay: 5_000_000,
        jitter: 5_000_000,
    };
}

/// One direction.
pub struct Link {
    weather: Weather,
    random: Random,
    flying: BTreeMap<(u64, u64), Vec<u8>>,
    count: u64,
}

impl Link {
    pub fn new(weather: Weather, seed: u64) -> Link {
        Link {
            weather,
            random: Random::new(seed),
            flying: BTreeMap::new(),
            count: 0,
        }
    }

    pub fn send(&mut self, now: u64, packet: Vec<u8>) {
        if self.random.percent(self.weather.doubling) {
            self.launch(now, packet.clone());
        }
        if !self.random.percent(self.weather.loss) {
            self.launch(now, packet);
        }
    }

    fn launch(&mut self, now: u64, packet: Vec<u8>) {
        let jitter = match self.weather.jitter {
            0 => 0,
            jitter => self.random.below(jitter),
        };
        self.count += 1;
        self.flying
            .insert((now + self.weather.delay + jitter, self.count), packet);
    }

    /// When the next packet arrives.
    pub fn next_arrival(&self) -> Option<u64> {
        self.flying.keys().next().map(|&(at, _)| at)
    }

    /// The next packet that has arrived.
    pub fn receive(&mut self, now: u64) -> Option<Vec<u8>> {
        let entry = self.flying.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
