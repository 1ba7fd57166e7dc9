//! Local addresses and ports that sockets are bound to, and who listens there.

use alloc::vec::Vec;
use core::net::IpAddr;
use rumpkern::kmem::Room;
use rumpuser::Errno;

/// First of the ports that are given out by themselves (RFC 6335 §6).
pub const EPHEMERAL_FIRST: u16 = 49152;

/// Names a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingId(u64);

struct Binding<L> {
    port: u16,
    addr: IpAddr,
    id: BindingId,
    /// SO_REUSEPORT.
    shared: bool,
    listener: Option<L>,
}

/// All bindings, sorted by port.
pub struct Ports<L> {
    bindings: Vec<Binding<L>>,
    next_id: u64,
}

impl<L> Default for Ports<L> {
    fn default() -> Ports<L> {
        Ports {
            bindings: Vec::new(),
            next_id: 0,
        }
    }
}

impl<L: Clone> Ports<L> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty()
    }

    /// Binds to a port that is not 0; an unspecified address stands for all.
    ///
    /// # Errors
    /// `EADDRINUSE`; `ENOBUFS`.
    pub fn bind(&mut self, addr: IpAddr, port: u16, shared: bool) -> Result<BindingId, Errno> {
        if self.conflicts(addr, port, shared) {
            return Err(Errno::EADDRINUSE);
        }
        self.bindings.room(1).map_err(|_| Errno::ENOBUFS)?;
        let id = BindingId(self.next_id);
        self.next_id += 1;
        let at = self
            .bindings
            .partition_point(|binding| binding.port <= port);
        self.bindings.insert(
            at,
            Binding {
                port,
                addr,
                id,
                shared,
                listener: None,
            },
        );
        Ok(id)
    }

    /// Whether any socket is bound to this port.
    pub fn is_bound(&self, port: u16) -> bool {
        !self.of_port(port).is_empty()
    }

    /// Gives a binding up; answers whether somebody listened there.
    pub fn unbind(&mut self, id: BindingId) -> bool {
        let Some(at) = self.bindings.iter().position(|binding| binding.id == id) else {
            return false;
        };
        let binding = self.bindings.remove(at);
        if self.bindings.is_empty() {
            self.bindings = Vec::new();
        }
        binding.listener.is_some()
    }

    /// Starts to listen at a binding.
    pub fn listen(&mut self, id: BindingId, listener: L) {
        if let Some(binding) = self.bindings.iter_mut().find(|binding| binding.id == id) {
            binding.listener = Some(listener);
        }
    }

    /// Who listens at an address: rather the one bound to just that than one bound to all.
    pub fn listener(&self, addr: IpAddr, port: u16) -> Option<L> {
        let mut found = None;
        for binding in self.of_port(port) {
            let Some(listener) = &binding.listener else {
                continue;
            };
            if binding.addr == addr {
                return Some(listener.clone());
            }
            if binding.addr.is_unspecified() {
                found = Some(listener);
            }
        }
        found.cloned()
    }

    fn of_port(&self, port: u16) -> &[Binding<L>] {
        let start = self.bindings.partition_point(|binding| binding.port < port);
        let end = self
            .bindings
            .partition_point(|binding| binding.port <= port);
        &self.bindings[start..end]
    }

    /// Two bindings get in each other's way if they are to the same address, or either is to all, unless
    /// both wish to share.
    fn conflicts(&self, addr: IpAddr, port: u16, shared: bool) -> bool {
        self.of_port(port).iter().any(|other| {
            let overlap =
                other.addr == addr || other.addr.is_unspecified() || addr.is_unspecified();
            overlap && !(shared && other.shared)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn an_address_is_bound_once() {
        let mut ports: Ports<u32> = Ports::default();
        let id = ports.bind(ONE, 80, false).unwrap();
        assert_eq!(ports.bind(ONE, 80, true), Err(Errno::EADDRINUSE));
        assert_eq!(ports.bind(ANY, 80, false), Err(Errno::EADDRINUSE));
        assert!(ports.bind(TWO, 80, false).is_ok());
        assert!(ports.bind(ONE, 81, false).is_ok());
        ports.unbind(id);
        assert!(ports.bind(ONE, 80, false).is_ok());
    }

    #[test]
    fn those_who_both_wish_to_share_do() {
        let mut ports: Ports<u32> = Ports::default();
        ports.bind(ANY, 80, true).unwrap();
        assert!(ports.bind(ANY, 80, true).is_ok());
    }

    #[test]
    fn the_listener_at_just_the_address_comes_before_the_one_at_all() {
        let mut ports = Ports::default();
        let all = ports.bind(ANY, 80, true).unwrap();
        let one = ports.bind(ONE, 80, true).unwrap();
        assert_eq!(ports.listener(ONE, 80), None, "bound is not listening");
        ports.listen(all, 'a');
        ports.listen(one, 'o');
        assert_eq!(ports.listener(ONE, 80), Some('o'));
        assert_eq!(ports.listener(TWO, 80), Some('a'));
        assert_eq!(ports.listener(TWO, 81), None);
    }
}
