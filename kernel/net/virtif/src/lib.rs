//! The virtual interface: an Ethernet interface over the packet hypercalls.
#![no_std]
#![forbid(unsafe_code)]
