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
