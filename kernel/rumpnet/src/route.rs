//! Routes: which interface and which next hop an IPv4 address is reached by.
//!
//! A table of prefixes kept longest first, so that the first match is the best (RFC 1812
//! §5.2.4.3); an appliance has a handful. Source of names: NetBSD `net/route.h`.

use crate::ifnet::{Ifnet, prefix_mask};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU64, Ordering};
use rumpkern::kmem::Room;
use rumpkern::locks::RwLock;
use rumpuser::Errno;

/// Routes a kernel may have.
const MAX_ROUTES: usize = 256;

/// A route.
#[derive(Clone)]
pub struct Route {
    /// The network.
    pub network: Ipv4Addr,
    /// Length of its prefix in bits; 0 is the default route.
    pub prefix_len: u8,
    /// The router to hand packets to; none if the network is on the link.
    pub gateway: Option<Ipv4Addr>,
    /// The interface.
    pub ifp: Arc<Ifnet>,
    /// The address to send from, if nothing else decides.
    pub source: Ipv4Addr,
}

impl Route {
    /// Whether `to` lies in its network.
    pub fn matches(&self, to: Ipv4Addr) -> bool {
        let mask = prefix_mask(self.prefix_len);
        u32::from(to) & mask == u32::from(self.network) & mask
    }

    /// Where a packet to `to` goes next.
    pub fn next_hop(&self, to: Ipv4Addr) -> Ipv4Addr {
        self.gateway.unwrap_or(to)
    }
}

/// The table.
pub struct RouteTable {
    routes: RwLock<Vec<Route>>,
    generation: AtomicU64,
}

impl Default for RouteTable {
    fn default() -> RouteTable {
        RouteTable::new()
    }
}

impl RouteTable {
    /// An empty table.
    pub const fn new() -> RouteTable {
        RouteTable {
            routes: RwLock::new(Vec::new()),
            generation: AtomicU64::new(0),
        }
    }

    /// Changes with every change of the table: a route remembered with this number is still the
    /// best while it is the same.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The best route to `to`.
    pub fn lookup(&self, to: Ipv4Addr) -> Option<Route> {
        let routes = self.routes.read();
        routes.iter().find(|route| route.matches(to)).cloned()
    }

    /// Adds a route, or replaces the one to the same network.
    ///
    /// # Errors
    /// `EINVAL` for a prefix over 32 bits; `ENOBUFS` if the table is full.
    pub fn add(&self, route: Route) -> Result<(), Errno> {
        if route.prefix_len > 32 {
            return Err(Errno::EINVAL);
        }
        let mask = prefix_mask(route.prefix_len);
        let route = Route {
            network: Ipv4Addr::from(u32::from(route.network) & mask),
            ..route
        };
        let mut routes = self.routes.write();
        routes.retain(|r| (r.network, r.prefix_len) != (route.network, route.prefix_len));
        if routes.len() >= MAX_ROUTES || routes.room(1).is_err() {
            return Err(Errno::ENOBUFS);
        }
        let at = routes.partition_point(|r| r.prefix_len >= route.prefix_len);
        routes.insert(at, route);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Removes every route that `matches` accepts. Answers how many.
    pub fn remove(&self, mut matches: impl FnMut(&Route) -> bool) -> usize {
        let mut routes = self.routes.write();
        let before = routes.len();
        routes.retain(|route| !matches(route));
        self.generation.fetch_add(1, Ordering::Release);
        before - routes.len()
    }

    /// All routes, best first.
    pub fn all(&self) -> Vec<Route> {
        self.routes.read().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ifnet::{IfCaps, IfDriver, Link};
    use crate::mbuf::Mbuf;

    struct Nowhere;

    impl IfDriver for Nowhere {
        fn transmit(&self, _: &Ifnet, _: Mbuf) -> Result<(), Errno> {
            Err(Errno::ENETDOWN)
        }
    }

    fn route(network: [u8; 4], prefix_len: u8, gateway: Option<[u8; 4]>) -> Route {
        let driver = Arc::new(Nowhere);
        let caps = IfCaps::empty();
        let ifp = Ifnet::new(
            "no0".into(),
            Link::Loopback,
            1500,
            caps,
            driver,
            |_, _, _| (),
        );
        Route {
            network: network.into(),
            prefix_len,
            gateway: gateway.map(Ipv4Addr::from),
            ifp: Arc::new(ifp),
            source: Ipv4Addr::UNSPECIFIED,
        }
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order_of_adding() {
        let table = RouteTable::new();
        table
            .add(route([0, 0, 0, 0], 0, Some([10, 0, 0, 1])))
            .unwrap();
        table
            .add(route([10, 1, 2, 3], 32, Some([10, 0, 0, 9])))
            .unwrap();
        table.add(route([10, 1, 99, 99], 16, None)).unwrap();
        let hop = |to: [u8; 4]| table.lookup(to.into()).map(|r| r.next_hop(to.into()));
        assert_eq!(hop([10, 1, 2, 3]), Some([10, 0, 0, 9].into()));
        assert_eq!(hop([10, 1, 2, 4]), Some([10, 1, 2, 4].into()));
        assert_eq!(hop([9, 9, 9, 9]), Some([10, 0, 0, 1].into()));
        assert_eq!(table.remove(|r| r.prefix_len == 0), 1);
        assert_eq!(hop([9, 9, 9, 9]), None);
    }

    #[test]
    fn a_second_route_to_a_network_replaces_the_first_and_bits_past_the_prefix_are_ignored() {
        let table = RouteTable::new();
        table
            .add(route([10, 1, 0, 0], 16, Some([1, 1, 1, 1])))
            .unwrap();
        let before = table.generation();
        table
            .add(route([10, 1, 7, 7], 16, Some([2, 2, 2, 2])))
            .unwrap();
        assert_ne!(table.generation(), before);
        assert_eq!(table.all().len(), 1);
        assert_eq!(
            table.lookup([10, 1, 8, 8].into()).unwrap().gateway,
            Some([2, 2, 2, 2].into())
        );
        assert_eq!(
            table.add(route([0; 4], 33, None)).unwrap_err(),
            Errno::EINVAL
        );
    }
}
