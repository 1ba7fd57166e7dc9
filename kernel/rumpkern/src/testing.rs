//! What the unit tests share: one host for the process.

use rumpuser_hosted::Host;
use std::sync::Once;

/// Installs the host of the tests, once.
pub(crate) fn install_host() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        Host::builder()
            .memory(64 << 20)
            .install()
            .expect("no other host is installed");
    });
}

/// Runs `number` threads, each what `make` makes for its number, and waits for them.
pub(crate) fn on_threads<F: FnOnce() + Send + 'static>(number: usize, make: impl Fn(usize) -> F) {
    let threads: Vec<_> = (0..number).map(|n| std::thread::spawn(make(n))).collect();
    for thread in threads {
        thread.join().expect("the thread ends well");
    }
}

/// A generator of test inputs, seeded (D. Lehmer's multiplicative congruential one).
pub(crate) struct Lcg(u64);

impl Lcg {
    pub(crate) fn new(seed: u64) -> Lcg {
        Lcg(seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(0xDA94_2042_E4DD_58B5);
        (self.0 >> 33) as usize % end.max(1)
    }
}

/// A kernel without components.
pub(crate) fn boot() -> std::sync::Arc<crate::Kernel> {
    install_host();
    let config = crate::Config {
        loglevel: log::LevelFilter::Warn,
        ..crate::Config::default()
    };
    crate::Kernel::boot(config, &[]).expect("the kernel boots")
}
