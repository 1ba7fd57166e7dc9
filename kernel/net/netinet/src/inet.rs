//! The Internet protocols of one kernel.

use crate::arp::Arp;
use crate::icmp::{Icmp, IcmpError};
use crate::ip::{IpHeader, IpProto, IpStats, Reassembly};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicBool, AtomicU32};
use core::time::Duration;
use rumpkern::callout::Callout;
use rumpkern::hash::HashKey;
use rumpkern::locks::{LockClass, Mutex, OnceLock, RwLock};
use rumpkern::{Kernel, random, time};
use rumpnet::ifnet::{Ifnet, InIfaddr};
use rumpnet::mbuf::Mbuf;
use rumpnet::net::{Net, NetInput};
use rumpnet::route::Route;
use rumpnet_net::{ETHERTYPE_ARP, ETHERTYPE_IP};
use rumpuser::Errno;

static IPREASS: LockClass = LockClass {
    name: "ipreass",
    rank: 240,
};

/// How often unanswered ARP requests are repeated and old fragments looked for.
const TICK: Duration = Duration::from_secs(1);

/// A protocol on top of IP.
pub trait Transport: Send + Sync {
    /// Takes a packet: its checked IP header, and the data behind it, trimmed to what the header
    /// says. Runs in an input thread with no lock held.
    fn input(&self, inet: &Arc<Inet>, ifp: &Arc<Ifnet>, ip: &IpHeader, data: Mbuf);

    /// A router or the peer says that a packet of ours did not arrive: its header (`src` is ours), and
    /// the first 8 bytes behind it. Anybody can send such a thing: look before you believe it.
    fn ctlinput(&self, inet: &Arc<Inet>, error: IcmpError, sent: &IpHeader, data: &[u8; 8]);
}

/// The Internet protocols of one kernel; `kernel.get::<Inet>()` finds them.
pub struct Inet {
    net: Arc<Net>,
    kernel: Weak<Kernel>,
    /// Address resolution.
    pub arp: Arp,
    /// ICMP.
    pub icmp: Icmp,
    /// Counters of IP.
    pub ipstat: IpStats,
    pub(crate) reassembly: Mutex<Reassembly>,
    pub(crate) ip_id: AtomicU32,
    pub(crate) ip_id_key: HashKey,
    pub(crate) forwarding: AtomicBool,
    transports: RwLock<Vec<(IpProto, Arc<dyn Transport>)>>,
    timer: OnceLock<Callout>,
}

struct IpInput(Weak<Inet>);
struct ArpInput(Weak<Inet>);

impl NetInput for IpInput {
    fn input(&self, _: &Net, ifp: &Arc<Ifnet>, packet: Mbuf) {
        if let Some(inet) = self.0.upgrade() {
            inet.ip_input(ifp, packet);
        }
    }
}

impl NetInput for ArpInput {
    fn input(&self, _: &Net, ifp: &Arc<Ifnet>, packet: Mbuf) {
        if let Some(inet) = self.0.upgrade() {
            inet.arp_input(ifp, packet);
        }
    }
}

impl Inet {
    /// IP, ARP and ICMP over `net`, without transports.
    ///
    /// # Errors
    /// `EEXIST` if `net` has them already; `ENXIO` without randomness.
    pub fn new(kernel: &Arc<Kernel>, net: &Arc<Net>) -> Result<Arc<Inet>, Errno> {
        let inet = Arc::new(Inet {
            net: net.clone(),
            kernel: Arc::downgrade(kernel),
            arp: Arp::new()?,
            icmp: Icmp::new(),
            ipstat: IpStats::default(),
            reassembly: Mutex::with_class(Reassembly::new(), &IPREASS),
            ip_id: AtomicU32::new(random::u32()?),
            ip_id_key: HashKey::random()?,
            forwarding: AtomicBool::new(false),
            transports: RwLock::new(Vec::new()),
            timer: OnceLock::new(),
        });
        let weak = Arc::downgrade(&inet);
        let timer = Callout::new(kernel, move || {
            if let Some(inet) = weak.upgrade() {
                inet.tick();
            }
        });
        let set = inet.timer.set(timer);
        debug_assert!(set.is_ok(), "set once, here");
        net.register_input(ETHERTYPE_IP, Arc::new(IpInput(Arc::downgrade(&inet))))?;
        net.register_input(ETHERTYPE_ARP, Arc::new(ArpInput(Arc::downgrade(&inet))))?;
        Ok(inet)
    }

    /// The interfaces and routes below.
    pub fn net(&self) -> &Arc<Net> {
        &self.net
    }

    /// The kernel it belongs to, while that lives.
    pub fn kernel(&self) -> Option<Arc<Kernel>> {
        self.kernel.upgrade()
    }

    /// From now on packets of `proto` go to `transport`.
    ///
    /// # Errors
    /// `EEXIST` if somebody takes them already.
    pub fn register(&self, proto: IpProto, transport: Arc<dyn Transport>) -> Result<(), Errno> {
        let mut transports = self.transports.write();
        if transports.iter().any(|(taken, _)| *taken == proto) {
            return Err(Errno::EEXIST);
        }
        transports.push((proto, transport));
        Ok(())
    }

    /// Who takes packets of `proto`.
    pub fn transport(&self, proto: IpProto) -> Option<Arc<dyn Transport>> {
        let transports = self.transports.read();
        let found = transports.iter().find(|(ours, _)| *ours == proto);
        found.map(|(_, transport)| transport.clone())
    }

    /// Gives an interface an address, and adds the routes that go with it: to its network, and to the
    /// address itself by the loopback interface. Tells the wire (RFC 5227 §2.3).
    ///
    /// # Errors
    /// `EINVAL` for an address that no host can have; `EEXIST`; `ENOBUFS`.
    pub fn add_address(&self, ifp: &Arc<Ifnet>, address: InIfaddr) -> Result<(), Errno> {
        let addr = address.addr;
        let no_host = addr.is_unspecified() || addr.is_broadcast() || addr.is_multicast();
        if no_host || address.prefix_len > 32 || address.broadcast() == Some(addr) {
            return Err(Errno::EINVAL);
        }
        ifp.add_address(address)?;
        let network = Route {
            network: address.network(),
            prefix_len: address.prefix_len,
            gateway: None,
            ifp: ifp.clone(),
            source: addr,
        };
        let loopback = self
            .net
            .find_interface(|i| i.is_loopback().then(|| i.clone()));
        let host = Route {
            network: addr,
            prefix_len: 32,
            ifp: loopback.unwrap_or_else(|| ifp.clone()),
            ..network.clone()
        };
        let routes = &self.net.routes;
        if let Err(error) = routes.add(network).and_then(|()| routes.add(host)) {
            self.remove_address(ifp, addr);
            return Err(error);
        }
        if !ifp.is_loopback() && ifp.is_up() {
            // Only a courtesy: that it may be lost is in its nature.
            let _lost = self.arp_announce(ifp, addr);
        }
        Ok(())
    }

    /// Takes an address away, with every route that goes out by it.
    pub fn remove_address(&self, ifp: &Arc<Ifnet>, addr: Ipv4Addr) {
        if ifp.remove_address(addr).is_some() {
            self.net.routes.remove(|route| route.source == addr);
        }
    }

    /// Sends what no better route takes to `gateway`.
    ///
    /// # Errors
    /// `ENETUNREACH` if the gateway is on none of the networks; `ENOBUFS`.
    pub fn set_default_route(&self, gateway: Ipv4Addr) -> Result<(), Errno> {
        let link = self.net.routes.lookup(gateway);
        let link = link.filter(|route| route.gateway.is_none() && !route.ifp.is_loopback());
        let link = link.ok_or(Errno::ENETUNREACH)?;
        self.net.routes.add(Route {
            network: Ipv4Addr::UNSPECIFIED,
            prefix_len: 0,
            gateway: Some(gateway),
            ..link
        })
    }

    /// Whether `addr` is one of this machine's.
    pub fn is_local(&self, addr: Ipv4Addr) -> bool {
        addr.is_loopback() || self.net.interface_with(addr).is_some()
    }

    /// Has [`Inet::tick`] run within a second, if it is not going to.
    pub(crate) fn arm_timer(&self) {
        if let Some(timer) = self.timer.get()
            && !timer.pending()
        {
            timer.schedule(TICK);
        }
    }

    fn tick(self: &Arc<Self>) {
        let now = time::now();
        let arp_waits = self.arp_tick(now);
        if self.expire_fragments(now) || arp_waits {
            self.arm_timer();
        }
    }
}
