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
