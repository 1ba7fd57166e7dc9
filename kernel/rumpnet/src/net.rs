//! The networking state of one kernel: interfaces, routes, protocols.

use crate::ifnet::{Ifnet, count};
use crate::mbuf::Mbuf;
use crate::protocol::{Domain, Protocol, SockType};
use crate::route::RouteTable;
use crate::sockbuf::SbBudget;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use rumpkern::kmem::Room;
use rumpkern::locks::RwLock;
use rumpkern::{Class, Component};
use rumpuser::Errno;

/// The faction: provides the kernel's [`Net`].
pub const COMPONENT: Component = Component {
    name: "rumpnet",
    class: Class::NetFaction,
    init: |kernel| kernel.provide(Arc::new(Net::new())),
};

/// Interfaces a kernel may have.
const MAX_INTERFACES: usize = 64;

/// Takes packets of one network protocol, link-layer header removed.
pub trait NetInput: Send + Sync {
    /// Deals with a packet that came in by `ifp`. Runs in the interface's input thread.
    fn input(&self, net: &Net, ifp: &Arc<Ifnet>, packet: Mbuf);
}

/// The networking state of one kernel; `kernel.get::<Net>()` finds it.
pub struct Net {
    interfaces: RwLock<Vec<Arc<Ifnet>>>,
    /// The routes.
    pub routes: RouteTable,
    inputs: RwLock<Vec<(u16, Arc<dyn NetInput>)>>,
    protocols: RwLock<Vec<Arc<dyn Protocol>>>,
    budget: Arc<SbBudget>,
}

impl Default for Net {
    fn default() -> Net {
        Net::new()
    }
}

impl Net {
    /// No interfaces, no routes, no protocols; socket buffers sized by the memory there is.
    pub fn new() -> Net {
        Net {
            interfaces: RwLock::new(Vec::new()),
            routes: RouteTable::new(),
            inputs: RwLock::new(Vec::new()),
            protocols: RwLock::new(Vec::new()),
            budget: Arc::new(SbBudget::of_memory()),
        }
    }

    /// What socket buffers may hold in all.
    pub fn budget(&self) -> &Arc<SbBudget> {
        &self.budget
    }

    /// Attaches an interface.
    ///
    /// # Errors
    /// `EEXIST` if the name is taken; `ENOBUFS` if there are too many.
    pub fn if_attach(&self, ifp: Arc<Ifnet>) -> Result<(), Errno> {
        let mut interfaces = self.interfaces.write();
        if interfaces.iter().any(|i| i.name() == ifp.name()) {
            return Err(Errno::EEXIST);
        }
        if interfaces.len() == MAX_INTERFACES || interfaces.room(1).is_err() {
            return Err(Errno::ENOBUFS);
        }
        ifp.set_index(interfaces.len() as u32 + 1);
        interfaces.push(ifp);
        Ok(())
    }

    /// All interfaces, in the order of attaching.
    pub fn interfaces(&self) -> Vec<Arc<Ifnet>> {
        self.interfaces.read().clone()
    }

    /// The interface of that name.
    pub fn interface(&self, name: &str) -> Option<Arc<Ifnet>> {
        let interfaces = self.interfaces.read();
        interfaces.iter().find(|i| i.name() == name).cloned()
    }

    /// The interface that has `addr`.
    pub fn interface_with(&self, addr: Ipv4Addr) -> Option<Arc<Ifnet>> {
        let interfaces = self.interfaces.read();
        let has = |i: &&Arc<Ifnet>| i.find_address(|a| (a.addr == addr).then_some(())).is_some();
        interfaces.iter().find(has).cloned()
    }

    /// Calls `f` with each interface until it answers something.
    pub fn find_interface<T>(&self, f: impl FnMut(&Arc<Ifnet>) -> Option<T>) -> Option<T> {
        self.interfaces.read().iter().find_map(f)
    }

    /// From now on packets of `ethertype` go to `input`.
    ///
    /// # Errors
    /// `EEXIST` if somebody takes them already.
    pub fn register_input(&self, ethertype: u16, input: Arc<dyn NetInput>) -> Result<(), Errno> {
        let mut inputs = self.inputs.write();
        if inputs.iter().any(|(taken, _)| *taken == ethertype) {
            return Err(Errno::EEXIST);
        }
        inputs.push((ethertype, input));
        Ok(())
    }

    /// Passes a packet, link-layer header removed, to whoever speaks `ethertype`.
    pub fn dispatch(&self, ethertype: u16, ifp: &Arc<Ifnet>, packet: Mbuf) {
        let input = {
            let inputs = self.inputs.read();
            let found = inputs.iter().find(|(ours, _)| *ours == ethertype);
            found.map(|(_, input)| input.clone())
        };
        match input {
            Some(input) => input.input(self, ifp, packet),
            None => count(&ifp.counters.noproto),
        }
    }

    /// Makes a protocol available to [`socreate`](crate::socket::socreate).
    ///
    /// # Errors
    /// `EEXIST` if there is one of its family and number.
    pub fn register_protocol(&self, protocol: Arc<dyn Protocol>) -> Result<(), Errno> {
        let mut protocols = self.protocols.write();
        let key = (protocol.domain(), protocol.number());
        if protocols.iter().any(|p| (p.domain(), p.number()) == key) {
            return Err(Errno::EEXIST);
        }
        protocols.push(protocol);
        Ok(())
    }

    /// The protocol for a socket: `number` 0 means the first of that type.
    ///
    /// # Errors
    /// `EAFNOSUPPORT`, `EPROTONOSUPPORT`, `EPROTOTYPE`, as socket(2).
    pub fn protocol(
        &self,
        domain: Domain,
        sock_type: SockType,
        number: u8,
    ) -> Result<Arc<dyn Protocol>, Errno> {
        let protocols = self.protocols.read();
        let mut error = Errno::EAFNOSUPPORT;
        for protocol in protocols.iter().filter(|p| p.domain() == domain) {
            if number != 0 && protocol.number() != number {
                if error == Errno::EAFNOSUPPORT {
                    error = Errno::EPROTONOSUPPORT;
                }
                continue;
            }
            if protocol.sock_type() == sock_type {
                return Ok(protocol.clone());
            }
            error = Errno::EPROTOTYPE;
        }
        Err(error)
    }
}
