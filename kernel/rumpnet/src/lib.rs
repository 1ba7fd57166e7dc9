//! Networking faction: mbufs, sockets, interfaces, routes, poll.
#![no_std]
#![forbid(unsafe_code)]
