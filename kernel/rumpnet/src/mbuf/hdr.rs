//! What the stack knows of a chain as a packet (`struct pkthdr`).

use bitflags::bitflags;

bitflags! {
    /// How a packet came or goes.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MbufFlags: u8 {
        /// It came as a link-layer broadcast.
        const M_BCAST = 1;
        /// It came as a link-layer multicast.
        const M_MCAST = 2;
        /// It looped back inside this machine.
        const M_LOOP = 4;
        /// The interface vouches for its TCP or UDP checksum.
        const M_CSUM_OK = 8;
        /// More packets follow at once: the driver may wait with the kick until one comes without it.
        const M_MORE = 16;
    }
}

/// A transport checksum that is still to be completed.
///
/// The field holds the pseudo-header's sum, folded but not complemented; whoever completes it
/// sums from the transport header to the packet's end, the field included, and stores the complement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxChecksum {
    /// Where the field is, in bytes from the transport header's first.
    pub field: u8,
    /// Whether a result of 0 is sent as 0xffff (UDP, RFC 768).
    pub zero_is_ones: bool,
}

/// The packet header.
#[derive(Clone, Copy, Debug, Default)]
pub struct PktHdr {
    /// How it came or goes.
    pub flags: MbufFlags,
    /// Set by a transport: its checksum is to be completed below.
    pub checksum: Option<TxChecksum>,
    /// Set by TCP: cut the payload into segments of so many bytes (0: do not).
    pub segment_bytes: u16,
    /// Set by TCP with `segment_bytes`: length of its header in bytes.
    pub transport_header: u16,
    /// Set by IP when it leaves `checksum` to the interface: length of the IP header in bytes.
    pub network_header: u16,
}
