//! Ethernet framing and the loopback interface.
//!
//! - [`ether`]: Ethernet II frames over any driver: what NetBSD's if_ethersubr.c is;
//! - [`loopback`]: the interface `lo0`.
//!
//! Sources: RFC 894 (IP over Ethernet), IEEE 802.3 §3.2 (frames, group addresses).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod ether;
pub mod loopback;

pub use ether::{
    ETHERTYPE_ARP, ETHERTYPE_IP, ETHERTYPE_IPV6, EtherAddr, ether_ifattach, ether_output,
};
pub use loopback::{LOOPBACK_COMPONENT, loopback_attach};
