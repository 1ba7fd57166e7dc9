//! The DHCP client (RFC 2131): configures an interface, and keeps it configured.
//!
//! - `message.rs`: messages, from and to bytes;
//! - `client.rs`: the state machine;
//! - here: the thread of an interface that runs it over a UDP socket of ours.

mod client;
mod message;

pub use client::{Action, Client, Lease};
pub use message::{Kind, Reply, Request};

use crate::inet::Inet;
use crate::udp::bind_interface;
use alloc::sync::Arc;
use alloc::vec;
use core::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use rumpkern::{Kernel, random, time};
use rumpnet::ifnet::{Ifnet, InIfaddr, Link};
use rumpnet::protocol::{Domain, SockType};
use rumpnet::socket::{MsgFlags, SockOption, Socket, socreate};
use rumpuser::Errno;

/// The client's port and the servers'.
const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;

/// Starts the client of an Ethernet interface, in a thread of its own.
///
/// # Errors
/// `EINVAL` if the interface is not Ethernet; the socket's; the thread's.
pub fn start(kernel: &Arc<Kernel>, inet: &Arc<Inet>, ifp: &Arc<Ifnet>) -> Result<(), Errno> {
    let Link::Ethernet(mac) = ifp.link() else {
        return Err(Errno::EINVAL);
    };
    let so = socreate(inet.net(), Domain::AF_INET, SockType::Dgram, 0)?;
    let hostname = &kernel.config().hostname;
    let client = Client::new(mac, hostname, random::u64()?, time::now());
    let daemon = Daemon {
        kernel: Arc::downgrade(kernel),
        inet: inet.clone(),
        ifp: ifp.clone(),
        so,
        client,
        configured: None,
    };
    daemon.prepare()?;
    let stop = daemon.so.clone();
    kernel.spawn("dhcpcd", move || daemon.run())?;
    // Wakes the thread, whose next receive then fails.
    kernel.at_shutdown("dhcpcd", move || stop.lock().set_error(Errno::ESHUTDOWN));
    Ok(())
}

struct Daemon {
    kernel: alloc::sync::Weak<Kernel>,
    inet: Arc<Inet>,
    ifp: Arc<Ifnet>,
    so: Arc<Socket>,
    client: Client,
    configured: Option<Lease>,
}

impl Daemon {
    fn prepare(&self) -> Result<(), Errno> {
        bind_interface(&self.so, &self.ifp)?;
        self.so.set_option(SockOption::ReuseAddr(true))?;
        self.so.set_option(SockOption::Broadcast(true))?;
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
        self.so.bind(SocketAddr::V4(any))
    }

    fn is_down(&self) -> bool {
        self.kernel.upgrade().is_none_or(|kernel| kernel.is_down())
    }

    fn run(mut self) {
        let mut buffer = vec![0; message::MAX_LEN];
        while !self.is_down() {
            let now = time::now();
            if let Some(action) = self.client.poll(now) {
                self.act(action);
                continue;
            }
            let wait = self.client.next().saturating_since(now);
            self.so.lock().rcv.timeout = Some(wait);
            match self.so.receive(&mut buffer, MsgFlags::empty()) {
                Ok((len, from)) => {
                    if from.is_some_and(|from| from.port() == SERVER_PORT)
                        && let Some(action) = self.client.receive(&buffer[..len], time::now())
                    {
                        self.act(action);
                    }
                }
                Err(Errno::EAGAIN) => {}
                Err(Errno::ESHUTDOWN) => break,
                Err(errno) => log::debug!("{}: dhcp: {errno}", self.ifp.name()),
            }
        }
        self.so.close();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Broadcast(bytes) => self.send(&bytes, Ipv4Addr::BROADCAST),
            Action::Unicast(bytes, to) => self.send(&bytes, to),
            Action::Configure(lease) => self.configure(lease),
            Action::Deconfigure(lease) => {
                log::warn!(
                    "{}: dhcp: lease of {} has ended",
                    self.ifp.name(),
                    lease.addr
                );
                self.deconfigure();
            }
        }
    }

    /// A message that is lost, here or on the wire, is sent again when its time has come.
    fn send(&self, bytes: &[u8], to: Ipv4Addr) {
        let to = SocketAddr::V4(SocketAddrV4::new(to, SERVER_PORT));
        if let Err(errno) = self.so.send(bytes, Some(to), MsgFlags::empty()) {
            log::debug!("{}: dhcp: cannot send: {errno}", self.ifp.name());
        }
    }

    fn configure(&mut self, lease: Lease) {
        let known = self.configured.is_some_and(|old| {
            (old.addr, old.prefix_len, old.router) == (lease.addr, lease.prefix_len, lease.router)
        });
        if known {
            log::debug!("{}: dhcp: {} renewed", self.ifp.name(), lease.addr);
            self.configured = Some(lease);
            return;
        }
        self.deconfigure();
        let name = self.ifp.name();
        let address = InIfaddr {
            addr: lease.addr,
            prefix_len: lease.prefix_len,
        };
        if let Err(errno) = self.inet.add_address(&self.ifp, address) {
            log::error!("{name}: dhcp: cannot use {}: {errno}", lease.addr);
            return;
        }
        self.configured = Some(lease);
        let routed = lease
            .router
            .map(|router| self.inet.set_default_route(router));
        if let (Some(router), Some(Err(errno))) = (lease.router, routed) {
            log::warn!("{name}: dhcp: cannot route by {router}: {errno}");
        }
        announce(name, &lease);
    }

    fn deconfigure(&mut self) {
        if let Some(old) = self.configured.take() {
            self.inet.remove_address(&self.ifp, old.addr);
        }
    }
}

fn announce(name: &str, lease: &Lease) {
    let Lease {
        addr,
        prefix_len,
        server,
        ..
    } = lease;
    let gateway = lease.router.unwrap_or(Ipv4Addr::UNSPECIFIED);
    match lease.seconds {
        u32::MAX => {
            log::info!("{name}: {addr}/{prefix_len} gateway {gateway}, dhcp {server}, for ever")
        }
        seconds => {
            log::info!("{name}: {addr}/{prefix_len} gateway {gateway}, dhcp {server}, {seconds} s");
        }
    }
}
