//! The Internet protocols: ARP, IPv4, ICMP, UDP, TCP, and the DHCP client.
#![no_std]
#![forbid(unsafe_code)]
