//! The smallest appliance: boots, says hello, powers off.
#![no_std]
#![no_main]

rumpuser_baremetal::entry!(main);

fn main() {
    rumpuser::host().console().write(b"Hello, world.\n");
}
