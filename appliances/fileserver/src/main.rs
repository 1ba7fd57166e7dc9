//! The file server as an image: virtio disks and cards, FFS, TCP/IP.
#![no_std]
#![no_main]

use rump::Component;
use rumpkern::kmem::Kmem;

rumpuser_baremetal::entry!(main);

#[global_allocator]
static KMEM: Kmem = Kmem::new();

const COMPONENTS: &[&Component] = &[
    &rumpvfs::COMPONENT,
    &rumpdev::COMPONENT,
    &rumpnet::COMPONENT,
    &rumpfs_ffs::COMPONENT,
    &rumpnet_net::COMPONENT,
    &rumpnet_netinet::COMPONENT,
    &rumpnet_virtif::COMPONENT,
];

fn main() -> u8 {
    httpd::run(COMPONENTS)
}
