//! IPv4 (RFC 791, RFC 1122 §3); and a router's half, for a kernel that is told to be one (RFC 1812).

mod forward;
mod header;
mod input;
mod output;
mod reass;

pub use header::{BadIp, IP_HDR_LEN, IP_HDR_MAX, IP_MAXPACKET, IpHeader, IpProto};
pub use output::{IP_DEFAULT_TTL, IpOut};
pub use reass::{Dropped, Expired, Outcome, Reassembly};

use core::sync::atomic::AtomicU64;

/// Counters (`ipstat`).
#[derive(Debug, Default)]
pub struct IpStats {
    /// Packets received.
    pub total: AtomicU64,
    /// Dropped for a bad header.
    pub bad: AtomicU64,
    /// Handed on.
    pub forward: AtomicU64,
    /// Dropped because they are for another host and could not be handed on, or from an impossible one.
    pub cant_forward: AtomicU64,
    /// Fragments received.
    pub fragments: AtomicU64,
    /// Fragments dropped.
    pub frag_dropped: AtomicU64,
    /// Packets whose fragments did not come in time.
    pub frag_timeout: AtomicU64,
    /// Packets put together from fragments.
    pub reassembled: AtomicU64,
    /// Packets for a protocol nobody speaks.
    pub noproto: AtomicU64,
    /// Packets handed to a protocol.
    pub delivered: AtomicU64,
    /// Packets sent.
    pub localout: AtomicU64,
    /// Packets not sent for want of a route.
    pub noroute: AtomicU64,
    /// Packets sent in fragments.
    pub fragmented: AtomicU64,
}
