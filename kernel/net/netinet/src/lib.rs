//! The Internet protocols: ARP, IPv4, ICMP, UDP, TCP, and the DHCP client.
//!
//! - [`inet`]: all of it for one kernel, [`Inet`]: addresses, who takes which protocol, the timer;
//! - [`arp`], [`ip`], [`icmp`], [`udp`], [`tcp`]: the protocols; [`in_cksum`]: their checksum;
//! - [`dhcp`]: the client that configures an interface;
//! - [`COMPONENT`], and [`CONFIG_COMPONENT`], which does what `ip=` of the command line says.
//!
//! Every field that comes from the wire is checked where it is read: a parse function turns bytes
//! into a type or says what is wrong, and what is wrong is counted and dropped. Every table that
//! packets fill is bounded in entries and time and keyed at random.
//!
//! Lock order, outermost first: a control block (200) → its socket (220) → port tables, reassembly
//! (240) → the ARP cache (250) → an interface's queue (280). No lock is held while a packet is handed up; control
//! blocks' locks may be held while one is sent.
//!
//! Sources: RFC 768, 791, 792, 815, 826, 894, 1071, 1112, 1122, 1191, 1812, 2131, 2132, 5227, 6056,
//! 9293; Wright and Stevens, "TCP/IP Illustrated, Volume 2" (1995).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod arp;
mod config;
mod counters;
pub mod dhcp;
pub mod icmp;
pub mod in_cksum;
pub mod inet;
pub mod ip;
pub mod tcp;
pub mod udp;

pub use config::{COMPONENT, CONFIG_COMPONENT};
pub use inet::{Inet, Transport};
