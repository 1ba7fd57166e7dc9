//! The smallest appliance: boots a kernel, says hello, switches the machine off.
//!
//! A program that wants more names more components ([`Kernel::boot`]'s second argument: file systems, a network, disks) and uses
//! `rump::fs` and `rump::net`; `appliances/fileserver` does.
#![no_std]
#![no_main]

use rump::{Config, Errno, Kernel};
use rumpkern::aprint;
use rumpkern::kmem::Kmem;

rumpuser_baremetal::entry!(main);

#[global_allocator]
static KMEM: Kmem = Kmem;

fn main() -> Result<(), Errno> {
    let kernel = Kernel::boot(Config::from_host(), &[])?;
    let name = &kernel.config().hostname;
    aprint!("Hello, world, from {name}.");
    kernel.halt(0)
}
