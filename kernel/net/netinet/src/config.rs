//! The component: brings up the protocols, and configures interfaces as `ip=` says.

use crate::counters;
use crate::dhcp;
use crate::inet::Inet;
use crate::tcp::Tcp;
use crate::udp::Udp;
use alloc::sync::Arc;
use core::net::Ipv4Addr;
use rumpkern::{Class, Component, IpConfig, Kernel};
use rumpnet::ifnet::{Ifnet, InIfaddr};
use rumpnet::net::Net;
use rumpuser::Errno;

/// The Internet protocols.
pub const COMPONENT: Component = Component {
    name: "netinet",
    class: Class::Net,
    init,
};

/// The configuration of interfaces, which comes when they are there.
pub const CONFIG_COMPONENT: Component = Component {
    name: "netinet_config",
    class: Class::NetIfCfg,
    init: configure,
};

fn init(kernel: &Arc<Kernel>) -> Result<(), Errno> {
    let net = kernel.get::<Net>().ok_or(Errno::ENXIO)?;
    let inet = Inet::new(kernel, &net)?;
    let udp = Udp::attach(&inet, &net)?;
    let tcp = Tcp::attach(kernel, &inet, &net)?;
    counters::register_protocols(kernel, &inet, &udp, &tcp)?;
    kernel.provide(tcp)?;
    kernel.provide(inet)
}

fn configure(kernel: &Arc<Kernel>) -> Result<(), Errno> {
    let inet = kernel.get::<Inet>().ok_or(Errno::ENXIO)?;
    let interfaces = inet.net().interfaces();
    if let Some(lo) = interfaces.iter().find(|ifp| ifp.is_loopback()) {
        let address = InIfaddr {
            addr: Ipv4Addr::LOCALHOST,
            prefix_len: 8,
        };
        inet.add_address(lo, address)?;
    }
    for ifp in &interfaces {
        counters::register_interface(kernel, ifp)?;
    }
    let mut wires = interfaces.iter().filter(|ifp| !ifp.is_loopback());
    match kernel.config().ip {
        IpConfig::Dhcp => wires.try_for_each(|ifp| dhcp::start(kernel, &inet, ifp)),
        IpConfig::Static {
            addr,
            prefix,
            gateway,
        } => match wires.next() {
            Some(ifp) => set_static(&inet, ifp, addr, prefix, gateway),
            None => {
                log::warn!("ip={addr}/{prefix}: there is no interface");
                Ok(())
            }
        },
    }
}

fn set_static(
    inet: &Arc<Inet>,
    ifp: &Arc<Ifnet>,
    addr: Ipv4Addr,
    prefix_len: u8,
    gateway: Option<Ipv4Addr>,
) -> Result<(), Errno> {
    let name = ifp.name();
    let address = InIfaddr { addr, prefix_len };
    if let Err(errno) = inet.add_address(ifp, address) {
        log::error!("{name}: ip={addr}/{prefix_len}: {errno}");
        return Ok(());
    }
    let Some(gateway) = gateway else {
        log::info!("{name}: {addr}/{prefix_len}");
        return Ok(());
    };
    match inet.set_default_route(gateway) {
        Ok(()) => log::info!("{name}: {addr}/{prefix_len} gateway {gateway}"),
        Err(errno) => log::error!("{name}: gateway {gateway} of ip=: {errno}"),
    }
    Ok(())
}
