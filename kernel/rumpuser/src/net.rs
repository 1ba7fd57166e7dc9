//! Packets: Ethernet frames to and from a device.

use crate::{Errno, IoVec, ThreadId};
use core::ops::{BitOr, BitOrAssign};

/// What a packet device does for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PacketFeatures(u32);

impl PacketFeatures {
    /// None.
    pub const NONE: PacketFeatures = PacketFeatures(0);
    /// It completes a TCP or UDP checksum on the way out ([`TxOffload::checksum`]).
    pub const TX_CHECKSUM: PacketFeatures = PacketFeatures(1);
    /// It may say of a received packet that its checksum is right ([`RxChecksum`]).
    pub const RX_CHECKSUM: PacketFeatures = PacketFeatures(2);
    /// It cuts a large TCP/IPv4 segment into packets ([`TxOffload::segment_bytes`]).
    pub const TSO4: PacketFeatures = PacketFeatures(4);
    /// As [`PacketFeatures::TSO4`], for IPv6.
    pub const TSO6: PacketFeatures = PacketFeatures(8);
    /// A received packet may span several buffers, so they need not hold a whole one.
    pub const RX_SCATTER: PacketFeatures = PacketFeatures(16);

    /// Whether all of `other` is in here.
    pub const fn contains(self, other: PacketFeatures) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for PacketFeatures {
    type Output = PacketFeatures;

    fn bitor(self, other: PacketFeatures) -> PacketFeatures {
        PacketFeatures(self.0 | other.0)
    }
}

impl BitOrAssign for PacketFeatures {
    fn bitor_assign(&mut self, other: PacketFeatures) {
        self.0 |= other.0;
    }
}

/// What a packet device is.
#[derive(Clone, Debug)]
pub struct PacketInfo {
    /// Where it sits, for the boot log, such as `"virtio1"`.
    pub parent: &'static str,
    /// Ethernet address.
    pub mac: [u8; 6],
    /// The largest payload of a frame in bytes, Ethernet header not counted; usually 1500.
    pub mtu: u16,
    /// What it does for the kernel.
    pub features: PacketFeatures,
    /// The most segments in one packet to send; at least 2.
    pub max_tx_segments: usize,
    /// How many buffers to receive into it keeps.
    pub rx_depth: usize,
    /// How many packets to send it keeps.
    pub tx_depth: usize,
    /// The least length of a receive buffer in bytes.
    pub rx_buffer_bytes: usize,
    /// Bytes at the start of every receive buffer that are the device's own; the frame starts
    /// behind them, in the first buffer of a packet. See [`RxPart::offset`].
    pub rx_headroom: usize,
}

/// A buffer to receive into.
#[derive(Clone, Copy, Debug)]
pub struct RxBuffer {
    /// The memory; at least [`PacketInfo::rx_buffer_bytes`].
    pub memory: IoVec,
    /// Comes back in [`RxPart`].
    pub token: u64,
}

/// What the device knows of a received packet's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxChecksum {
    /// Nothing: compute it.
    Unknown,
    /// It was found right, or the packet never left this machine and has none yet.
    Good,
}

/// A buffer that was received into, and how it belongs to its packet.
#[derive(Clone, Copy, Debug)]
pub struct RxPart {
    /// The buffer's token.
    pub token: u64,
    /// Where the bytes start in the buffer.
    pub offset: usize,
    /// How many there are; inside the buffer, at most its length less the offset.
    pub len: usize,
    /// More parts of the same packet follow: the next calls give them.
    pub more: bool,
    /// Of the packet; the same in each part.
    pub checksum: RxChecksum,
}

/// What the device is asked to do to a packet that it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxOffload {
    /// Complete a checksum: where summing starts (bytes from the frame's first) and where,
    /// counted from there, the 16-bit result goes. The field holds the pseudo-header's sum.
    pub checksum: Option<(u16, u16)>,
    /// Cut the TCP payload into segments of this many bytes (0: do not). Needs `checksum` and
    /// the device's TSO4 or TSO6.
    pub segment_bytes: u16,
    /// Bytes of Ethernet, IP and TCP header in front of the payload, when `segment_bytes` is set.
    pub header_bytes: u16,
}

/// A packet to send.
#[derive(Clone, Copy, Debug)]
pub struct TxPacket<'a> {
    /// The frame from its Ethernet header on, in pieces, without the checksum that trails it on the
    /// wire. At most [`PacketInfo::max_tx_segments`]. The host copies this list if it needs it later.
    pub segments: &'a [IoVec],
    /// What to do to it.
    pub offload: TxOffload,
    /// Comes back from [`PacketDevice::reap_transmitted`].
    pub token: u64,
}

/// A device that sends and receives Ethernet frames.
pub trait PacketDevice: Sync {
    /// What it is. The same answer at every call.
    fn info(&self) -> &PacketInfo;

    /// Whether the link is up.
    fn link_up(&self) -> bool;

    /// Gives the device a buffer to receive into.
    ///
    /// # Errors
    /// `EAGAIN`: it has as many as it keeps. `EINVAL`: too short. `ENXIO`: the device is broken.
    ///
    /// # Safety
    /// Until [`receive`](PacketDevice::receive) gives the token back, the memory must stay where it
    /// is and nobody else may look at it.
    unsafe fn provide(&self, buffer: &RxBuffer) -> Result<(), Errno>;

    /// Takes the next received part, if there is any. The parts of one packet come one after
    /// another and all at once: after a part with `more` the next call gives another. A device
    /// that breaks gives its buffers back as parts of length 0.
    fn receive(&self) -> Option<RxPart>;

    /// Sends a packet. The device may still wait for more before it looks: [`kick`](PacketDevice::kick).
    ///
    /// # Errors
    /// `EAGAIN`: as many as the device takes are in flight. `EINVAL`: too many segments, too long,
    /// or an offload it does not have. `ENXIO`: the device is broken.
    ///
    /// # Safety
    /// Until the token is reaped, the memory of every segment must stay where it is, and nobody may
    /// change it.
    unsafe fn transmit(&self, packet: &TxPacket<'_>) -> Result<(), Errno>;

    /// Makes the device look at what [`transmit`](PacketDevice::transmit) and
    /// [`provide`](PacketDevice::provide) gave it since the last call.
    fn kick(&self);

    /// Takes the token of one packet that has been sent (or given up), if there is any.
    fn reap_transmitted(&self) -> Option<u64>;

    /// Unparks `thread` whenever something may be received, or reaped after a
    /// [`transmit`](PacketDevice::transmit) that answered `EAGAIN`. A later call replaces an
    /// earlier one. What arrived before the call counts.
    fn listen(&self, thread: ThreadId);
}
