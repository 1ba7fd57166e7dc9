//! The processor's random numbers (SDM volume 1, "Random Number Generator Instructions").

use crate::cpu;
use core::arch::x86_64::{_rdrand64_step, _rdseed64_step};

/// How often a generator that has nothing ready is asked again. RDRAND delivers within ten (SDM); RDSEED may take longer.
const TRIES: usize = 100;

/// Whether the processor has a generator.
pub fn available() -> bool {
    let features = cpu::features();
    features.rdseed || features.rdrand
}

/// A random word, fit for keys: from the source itself, else from the generator that it seeds. `None` if the processor has
/// neither or they do not deliver.
pub fn word() -> Option<u64> {
    let features = cpu::features();
    let seed = features.rdseed.then(|| retry(seed_step)).flatten();
    seed.or_else(|| features.rdrand.then(|| retry(rand_step)).flatten())
}

fn retry(step: fn() -> Option<u64>) -> Option<u64> {
    (0..TRIES).find_map(|_| {
        core::hint::spin_loop();
        step()
    })
}

fn seed_step() -> Option<u64> {
    #[target_feature(enable = "rdseed")]
    fn step() -> Option<u64> {
        let mut word = 0;
        (_rdseed64_step(&mut word) == 1).then_some(word)
    }
    // SAFETY: called only where CPUID has the bit.
    unsafe { step() }
}

fn rand_step() -> Option<u64> {
    #[target_feature(enable = "rdrand")]
    fn step() -> Option<u64> {
        let mut word = 0;
        (_rdrand64_step(&mut word) == 1).then_some(word)
    }
    // SAFETY: called only where CPUID has the bit.
    unsafe { step() }
}
