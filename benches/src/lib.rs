//! Side-by-side measurements against peers.
#![no_std]
