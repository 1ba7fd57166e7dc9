//! The virtual interface: an Ethernet interface over the packet hypercalls (virt(4)).
//!
//! Each packet device of the host becomes `virt0`, `virt1`, … with one thread. The thread takes what was
//! received up the stack, in batches, and lets go of what was sent.
//!
//! Receive buffers: the ring's size goes with the memory. A buffer leaves the ring only against a new
//! one; without memory for that, the packet is dropped, counted, and its buffer goes back. So the ring
//! never runs dry, and shortage of memory cannot stop the packets that would end it. A short packet
//! is copied into a small buffer, so that a few bytes do not hold 2 KiB.
//!
//! Sending: packets that the device has no room for wait in a bounded queue. The device is told once
//! for a batch: at the end of a run of `M_MORE`, and at the end of the thread's batch for what was sent in it.
//!
//! Lock order: an interface's queue (280) → the DMA tables.
//!
//! Sources: NetBSD virt(4) and `sys/rump/net/lib/libvirtif` for its place in a rump kernel.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod rx;
mod tx;

use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use rumpkern::uvm::dma::PacketQueue;
use rumpkern::uvm::{self, MCLBYTES};
use rumpkern::{Class, Component, Kernel, aprint};
use rumpnet::ifnet::{IfCaps, IfDriver, Ifnet};
use rumpnet::mbuf::Mbuf;
use rumpnet::net::Net;
use rumpnet_net::{EtherAddr, ether_ifattach};
use rumpuser::{Errno, PacketDevice, PacketFeatures, PacketInfo, host};
use tx::TxQueue;

/// The component: an interface for each packet device of the host.
pub const COMPONENT: Component = Component {
    name: "virtif",
    class: Class::NetIf,
    init: attach_all,
};

/// The least MTU that IPv4 works over (RFC 791 §3.2).
const LEAST_MTU: u16 = 68;
/// Bytes of an Ethernet header.
const ETHER_HDR_LEN: usize = 14;

struct Virtif {
    queue: PacketQueue,
    tx: TxQueue,
}

impl IfDriver for Virtif {
    fn transmit(&self, _: &Ifnet, frame: Mbuf) -> Result<(), Errno> {
        self.tx.transmit(&self.queue, frame)
    }

    fn link_up(&self) -> bool {
        self.queue.link_up()
    }
}

fn attach_all(kernel: &Arc<Kernel>) -> Result<(), Errno> {
    let net = kernel.get::<Net>().ok_or(Errno::ENXIO)?;
    let mut unit = 0;
    while let Some(device) = host().packet_device(unit) {
        if let Err(errno) = attach(kernel, &net, unit, device) {
            // The machine can do without this interface; its other parts go on.
            log::error!("virt{unit} at {}: {errno}", device.info().parent);
        }
        unit += 1;
    }
    Ok(())
}

/// Makes `virt<unit>` of a packet device, and brings it up.
///
/// # Errors
/// `ENXIO` for a device that makes no sense; `ENOMEM`; the thread's.
pub fn attach(
    kernel: &Arc<Kernel>,
    net: &Arc<Net>,
    unit: usize,
    device: &'static dyn PacketDevice,
) -> Result<Arc<Ifnet>, Errno> {
    let info = device.info();
    let address = EtherAddr(info.mac);
    if address.is_group() || info.mac == [0; 6] {
        return Err(Errno::ENXIO);
    }
    let mtu = usable_mtu(info).ok_or(Errno::ENXIO)?;
    let queue = PacketQueue::attach(device, rx_depth(), tx_depth())?;
    let max_pieces = queue.max_pieces();
    let driver = Arc::new(Virtif {
        tx: TxQueue::new(tx_depth()),
        queue,
    });
    let caps = caps_of(info.features);
    let ifp = ether_ifattach(
        format!("virt{unit}"),
        address,
        mtu.into(),
        caps,
        driver.clone(),
    );
    let ifp = Arc::new(ifp.with_max_pieces(max_pieces));
    net.if_attach(ifp.clone())?;
    aprint!(
        "virt{unit} at {}: address {address}, mtu {mtu}",
        info.parent
    );
    ifp.up();
    start_thread(kernel, net, &ifp, driver)?;
    Ok(ifp)
}

fn start_thread(
    kernel: &Arc<Kernel>,
    net: &Arc<Net>,
    ifp: &Arc<Ifnet>,
    driver: Arc<Virtif>,
) -> Result<(), Errno> {
    let stop = Arc::new(AtomicBool::new(false));
    let (waker, stopper) = (driver.clone(), stop.clone());
    let (net, for_thread) = (net.clone(), ifp.clone());
    kernel.spawn(ifp.name(), move || {
        rx::run(&net, &for_thread, &driver, &stop);
    })?;
    kernel.at_shutdown("virtif", move || {
        stopper.store(true, Ordering::Release);
        waker.tx.wake_thread();
    });
    Ok(())
}

/// The MTU, if it is one that works: cut to what one receive buffer holds where the device needs it whole.
fn usable_mtu(info: &PacketInfo) -> Option<u16> {
    let room = MCLBYTES.checked_sub(info.rx_headroom + ETHER_HDR_LEN)?;
    let scatter = info.features.contains(PacketFeatures::RX_SCATTER);
    let mtu = match scatter {
        true => info.mtu,
        false => info.mtu.min(u16::try_from(room).unwrap_or(u16::MAX)),
    };
    (mtu >= LEAST_MTU).then_some(mtu)
}

fn caps_of(features: PacketFeatures) -> IfCaps {
    let mut caps = IfCaps::empty();
    caps.set(
        IfCaps::IFCAP_CSUM_TX,
        features.contains(PacketFeatures::TX_CHECKSUM),
    );
    caps.set(
        IfCaps::IFCAP_CSUM_RX,
        features.contains(PacketFeatures::RX_CHECKSUM),
    );
    let tso = PacketFeatures::TX_CHECKSUM | PacketFeatures::TSO4;
    caps.set(IfCaps::IFCAP_TSOV4, features.contains(tso));
    caps
}

/// Receive buffers: a thirty-second of the memory, between 16 and 256.
fn rx_depth() -> usize {
    (uvm::limit_pages() / 16).clamp(16, 256)
}

/// Packets under way: they hold on to what they are made of, so few where there is little.
fn tx_depth() -> usize {
    (uvm::limit_pages() / 16).clamp(32, 256)
}
