//! What is fuzzed, as functions of bytes: whatever they are, nothing panics, nothing works without end, no memory is lost.
//!
//! - [`ffs_image`]: a small volume, changed at random: mounted, walked, written, unmounted, mounted again;
//! - [`ffs_check`]: the same, checked and repaired, and then as good as new;
//! - [`directory_block`]: a directory that holds these bytes, read and changed;
//! - [`wapbl_log`]: a volume whose log was in use, with another log: read, replayed, written, repaired;
//! - [`tcp_segment`]: segments to a kernel with sockets that listen and connections;
//! - [`ip_frame`]: frames to an interface: Ethernet, ARP, IPv4, ICMP, UDP; and answers to a DHCP client;
//! - [`http_request`]: what a client of the file server sends.
//!
//! Each has `run`, which takes an input, and `seeds`, inputs to start from. An input says by itself what is done (see
//! [`input::Input`]); nothing else decides, so that one that fails does so again. `run` panics where something is
//! wrong, and counts work rather than time.
//!
//! The fuzzers are in the folder above (its README says how to run them); `tests/corpus.rs` runs everything here on
//! the seeds and on inputs made of them at random.

pub mod directory_block;
pub mod ffs_check;
pub mod ffs_image;
pub mod http_request;
pub mod input;
pub mod ip_frame;
mod machine;
pub mod tcp_segment;
mod volume;
pub mod wapbl_log;
mod wire;

/// A target: its name, what runs an input, what to start from.
pub struct Target {
    /// The name of its module.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 7] = [
    Target {
        name: "ffs_image",
        run: ffs_image::run,
        seeds: ffs_image::seeds,
    },
    Target {
        name: "ffs_check",
        run: ffs_check::run,
        seeds: ffs_check::seeds,
    },
    Target {
        name: "directory_block",
        run: directory_block::run,
        seeds: directory_block::seeds,
    },
    Target {
        name: "wapbl_log",
        run: wapbl_log::run,
        seeds: wapbl_log::seeds,
    },
    Target {
        name: "tcp_segment",
        run: tcp_segment::run,
        seeds: tcp_segment::seeds,
    },
    Target {
        name: "ip_frame",
        run: ip_frame::run,
        seeds: ip_frame::seeds,
    },
    Target {
        name: "http_request",
        run: http_request::run,
        seeds: http_request::seeds,
    },
];
