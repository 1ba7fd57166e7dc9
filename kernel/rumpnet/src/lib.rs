//! Networking faction: mbufs, sockets, interfaces, routes.
//!
//! - [`mbuf`]: packets and stream data as chains of ranges of shared storage;
//! - [`ifnet`]: interfaces; [`route`]: routes; [`netisr`]: packets that loop back;
//! - [`protocol`]: what a protocol is to a socket; [`socket`], [`sockbuf`]: sockets;
//! - [`file`](mod@file), [`syscalls`]: sockets behind descriptors;
//! - [`net`]: all of it for one kernel, [`Net`].
//!
//! A packet's way up: a driver's thread → [`ifnet::Ifnet::input`] → (rumpnet_net) Ethernet →
//! [`Net::dispatch`] → (rumpnet_netinet) IP → UDP or TCP → [`socket::SocketGuard::sorwakeup`]. Down: a
//! user's thread → [`socket::Socket::send`] → [`protocol::Pcb`] → IP → Ethernet →
//! [`ifnet::Ifnet::transmit`]. The way down never enters the way up: loopback packets go through a queue.
//!
//! Lock order, outermost first: a protocol's control block (200) → a socket (220) → a protocol's
//! tables (240) → interface addresses, routes (unranked, held for a look-up only) → a driver's queue (280), the loopback queue (290).
//!
//! Memory: every allocation that a packet or a user can provoke is tried, and `ENOBUFS` or a counted
//! drop if it fails. Socket buffers draw on one budget ([`sockbuf::SbBudget`]).
//!
//! Sources: Wright and Stevens, "TCP/IP Illustrated, Volume 2" (1995); NetBSD mbuf(9), ifnet(9),
//! `sys/socketvar.h`, `sys/protosw.h`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod file;
pub mod ifnet;
pub mod mbuf;
pub mod net;
pub mod netisr;
pub mod protocol;
pub mod route;
pub mod sockbuf;
pub mod socket;
pub mod syscalls;

pub use mbuf::Mbuf;
pub use net::{COMPONENT, Net, NetInput};
