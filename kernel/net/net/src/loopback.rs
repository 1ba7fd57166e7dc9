//! The loopback interface.

use crate::ether::{ETHERTYPE_IP, ETHERTYPE_IPV6};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use rumpkern::locks::OnceLock;
use rumpkern::{Class, Component, Kernel};
use rumpnet::ifnet::{IfCaps, IfDriver, Ifnet, Link};
use rumpnet::mbuf::{Mbuf, MbufFlags};
use rumpnet::net::Net;
use rumpnet::netisr::Netisr;
use rumpuser::Errno;

/// The loopback interface.
pub const LOOPBACK_COMPONENT: Component = Component {
    name: "loop",
    class: Class::NetIf,
    init: |kernel| {
        let net = kernel.get::<Net>().ok_or(Errno::ENXIO)?;
        loopback_attach(kernel, &net).map(|_| ())
    },
};

/// The largest packet (NetBSD `LOMTU_MAX`).
const LOMTU: u32 = 33_192;

struct Loopback {
    netisr: Netisr,
    ifp: OnceLock<Weak<Ifnet>>,
}

impl IfDriver for Loopback {
    fn transmit(&self, _: &Ifnet, mut packet: Mbuf) -> Result<(), Errno> {
        let ifp = self.ifp.get().and_then(Weak::upgrade);
        let ifp = ifp.ok_or(Errno::ENETDOWN)?;
        let ethertype = match packet.header::<1>(0)?[0] >> 4 {
            4 => ETHERTYPE_IP,
            6 => ETHERTYPE_IPV6,
            _ => return Err(Errno::EAFNOSUPPORT),
        };
        // A checksum that was left to the interface has nothing to guard here.
        packet.pkthdr = Default::default();
        packet.pkthdr.flags = MbufFlags::M_LOOP | MbufFlags::M_CSUM_OK;
        self.netisr.enqueue(ethertype, &ifp, packet)
    }
}

/// Makes `lo0`, up and without an address, and attaches it.
///
/// # Errors
/// `EEXIST` if there is one; the soft interrupt's.
pub fn loopback_attach(kernel: &Arc<Kernel>, net: &Arc<Net>) -> Result<Arc<Ifnet>, Errno> {
    let driver = Arc::new(Loopback {
        netisr: Netisr::new(kernel, net)?,
        ifp: OnceLock::new(),
    });
    let ifp = Arc::new(Ifnet::new(
        String::from("lo0"),
        Link::Loopback,
        LOMTU,
        IfCaps::IFCAP_CSUM_TX | IfCaps::IFCAP_CSUM_RX,
        driver.clone(),
        // Its packets come up from the queue, with their type known.
        |_, _, _| (),
    ));
    let set = driver.ifp.set(Arc::downgrade(&ifp));
    debug_assert!(set.is_ok(), "a new driver has no interface");
    ifp.up();
    net.if_attach(ifp.clone())?;
    Ok(ifp)
}
