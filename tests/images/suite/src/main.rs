//! The suite of cases on bare metal: runs each, and prints a line of what came of it.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::sync::Arc;
use rump::{Config, Errno, Kernel};
use rump_suite::{COMPONENTS, line, mounts, play, prepare};
use rumpkern::aprint;
use rumpkern::kmem::Kmem;

rumpuser_baremetal::entry!(main);

#[global_allocator]
static KMEM: Kmem = Kmem;

fn main() -> u8 {
    let mut config = Config::from_host();
    config.mounts = mounts();
    let kernel = match Kernel::boot(config, COMPONENTS) {
        Ok(kernel) => kernel,
        Err(errno) => {
            log::error!("suite: the kernel does not boot: {errno}");
            return 1;
        }
    };
    let status = match play_all(&kernel) {
        Ok(failures) => {
            aprint!("suite: the end, {failures} failures");
            u8::from(failures > 0)
        }
        Err(errno) => {
            log::error!("suite: {errno}");
            1
        }
    };
    kernel.halt(status)
}

fn play_all(kernel: &Arc<Kernel>) -> Result<usize, Errno> {
    let _process = kernel.attach("suite")?;
    prepare(kernel)?;
    let mut failures = 0;
    play(kernel, &mut |of, case, outcome| {
        failures += usize::from(outcome.is_err());
        aprint!("{}", line(of, case, &outcome));
    });
    Ok(failures)
}
