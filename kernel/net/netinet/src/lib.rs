//! The Internet protocols: ARP, IPv4, ICMP, UDP, TCP, and the DHCP client.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod tcp;
