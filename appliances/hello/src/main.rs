//! The smallest appliance: boots, says hello, powers off.
#![no_std]
#![no_main]

rumpuser_baremetal::entry!(main);

fn main() {
    rumpuser_baremetal::platform_x86_64::uart::write(b"Hello, world.\n");
}
