//! Ethernet framing and link-layer input shared by every interface.
#![no_std]
#![forbid(unsafe_code)]
