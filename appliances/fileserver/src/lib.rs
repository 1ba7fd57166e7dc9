//! The file server: what is on the disk, over HTTP/1.1.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod http;
pub mod listing;
