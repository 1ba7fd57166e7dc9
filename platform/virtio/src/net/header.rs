//! The header in front of every packet [virtio 1.2 §5.1.6], and what it may ask of whom.

use super::NetInfo;
use crate::fault::RequestError;

/// Bytes of the device's header in front of every packet [virtio 1.2 §5.1.6].
pub const HEADER_BYTES: usize = 12;
pub(super) const FLAG_NEEDS_CSUM: u8 = 1;
pub(super) const FLAG_DATA_VALID: u8 = 2;
pub(super) const GSO_NONE: u8 = 0;
pub(super) const GSO_TCPV4: u8 = 1;
pub(super) const GSO_TCPV6: u8 = 4;

/// Ethernet: header, and the tag of a virtual LAN, which may come on top of the MTU.
pub(super) const ETHER_HEADER: usize = 14;
pub(super) const ETHER_TAG: usize = 4;
pub(super) const ETHER_TYPE: usize = 12;
pub(super) const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];
pub(super) const ETHER_TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// The longest frame that is to be cut: the longest IP packet, and its header [virtio 1.2 §5.1.6.2].
const LONGEST_UNCUT: usize = 65535 + ETHER_HEADER;

/// A checksum that the device is to complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxChecksum {
    /// Where summing starts, in bytes from the frame's first.
    pub start: u16,
    /// Where the result goes, in bytes from `start`.
    pub offset: u16,
}

/// What the device is to do to a frame that it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxOffload {
    /// Complete this checksum.
    pub checksum: Option<TxChecksum>,
    /// Cut the frame's TCP segment into packets. Needs `checksum`, and the Ethernet header in one piece.
    pub cut: Option<TxCut>,
}

/// How a long TCP segment is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxCut {
    /// Bytes of payload in each packet but the last.
    pub payload_bytes: u16,
    /// Bytes of Ethernet, IP and TCP header in front of the payload.
    pub header_bytes: u16,
}

impl TxChecksum {
    /// Where the result ends, in bytes from the frame's first.
    fn end(self) -> usize {
        usize::from(self.start) + usize::from(self.offset) + 2
    }
}

impl NetInfo {
    /// The header of a frame of `bytes` bytes, as its first 8 and last 4 bytes, if the frame can be.
    pub(super) fn tx_header(
        &self,
        bytes: usize,
        gso_type: u8,
        offload: TxOffload,
    ) -> Result<(u64, u32), RequestError> {
        let whole = usize::from(self.mtu) + ETHER_HEADER + ETHER_TAG;
        let longest = offload.cut.map_or(whole, |_| LONGEST_UNCUT);
        if !(ETHER_HEADER..=longest).contains(&bytes) {
            return Err(RequestError::Invalid);
        }
        let Some(checksum) = offload.checksum else {
            // A cut needs a checksum, since each packet gets one of its own.
            let plain = offload.cut.is_none();
            return plain.then_some((0, 0)).ok_or(RequestError::Invalid);
        };
        let mut header_end = bytes;
        let (mut hdr_len, mut gso_size) = (0, 0);
        if let Some(cut) = offload.cut {
            (hdr_len, gso_size) = (cut.header_bytes, cut.payload_bytes);
            header_end = hdr_len.into();
        }
        let possible = checksum.end() <= header_end && header_end <= bytes;
        let cut_right = offload.cut.is_none() || (1..=self.mtu).contains(&gso_size);
        if !self.tx_checksum || !possible || !cut_right {
            return Err(RequestError::Invalid);
        }
        let first = u64::from(FLAG_NEEDS_CSUM)
            | u64::from(gso_type) << 8
            | u64::from(hdr_len) << 16
            | u64::from(gso_size) << 32
            | u64::from(checksum.start) << 48;
        // num_buffers, behind the offset, is 0 in what is sent.
        Ok((first, checksum.offset.into()))
    }
}

/// The header of a received packet, as far as it matters here.
pub(super) struct RxHeader {
    flags: u8,
    gso_type: u8,
    checksum: TxChecksum,
    pub(super) num_buffers: u16,
}

impl RxHeader {
    pub(super) fn parse(bytes: [u8; HEADER_BYTES]) -> RxHeader {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        RxHeader {
            flags: bytes[0],
            gso_type: bytes[1],
            checksum: TxChecksum {
                start: word(6),
                offset: word(8),
            },
            num_buffers: word(10),
        }
    }

    /// Whether the device answers for the checksum of a packet with `len` bytes in its first buffer;
    /// `None`: the header claims what was not agreed on, or what cannot be, so the packet is to be ignored.
    pub(super) fn checksum(&self, agreed: bool, len: usize) -> Option<bool> {
        if self.gso_type != GSO_NONE {
            return None;
        }
        if !agreed {
            return Some(false);
        }
        if self.flags & FLAG_NEEDS_CSUM != 0 {
            // Partial: it never was on a wire. Its place must at least exist.
            return (self.checksum.end() <= len).then_some(true);
        }
        Some(self.flags & FLAG_DATA_VALID != 0)
    }
}
