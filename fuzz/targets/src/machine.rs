//! The kernel that the runs of a process share: booted once, with little memory, saying nothing.

use std::sync::{Arc, OnceLock};

use rumpkern::lwp::Attached;
use rumpkern::{Config, Kernel};
use rumpuser_hosted::Host;

/// What everything together may use.
const MEMORY: usize = 8 << 20;

/// The kernel. Without components: a run makes the factions that it needs, and they go with it.
pub fn kernel() -> &'static Arc<Kernel> {
    static KERNEL: OnceLock<Arc<Kernel>> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let host = Host::builder().memory(MEMORY).random_seed(0x5eed);
        host.install().expect("no other host was installed");
        let config = Config {
            loglevel: log::LevelFilter::Off,
            ..Config::default()
        };
        Kernel::boot(config, &[]).expect("a kernel boots")
    })
}

/// Makes this thread an lwp of it.
pub fn attach() -> Attached {
    kernel()
        .attach("fuzz")
        .expect("there is room for a process")
}
