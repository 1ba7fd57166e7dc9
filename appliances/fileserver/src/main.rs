//! The file server as an image: virtio disks and cards, FFS, TCP/IP.
#![no_std]
#![no_main]

use rump::Component;
use rumpkern::kmem::Kmem;

rumpuser_baremetal::entry!(main);

#[global_allocator]
static KMEM: Kmem = Kmem;

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpnet::COMPONENT,
    &rumpnet_netinet::COMPONENT,
    &rumpnet_netinet::CONFIG_COMPONENT,
    &rumpnet_net::LOOPBACK_COMPONENT,
    &rumpnet_virtif::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpdev::DISKS,
];

fn main() -> u8 {
    httpd::run(COMPONENTS)
}
