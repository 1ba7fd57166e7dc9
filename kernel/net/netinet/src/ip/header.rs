//! The IPv4 header (RFC 791 §3.1).

use crate::in_cksum::in_cksum;
use core::net::Ipv4Addr;
use rumpnet::mbuf::Mbuf;

/// Bytes of a header without options.
pub const IP_HDR_LEN: usize = 20;
/// The most bytes of a header.
pub const IP_HDR_MAX: usize = 60;
/// The longest packet.
pub const IP_MAXPACKET: usize = 65_535;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// A protocol above IP (`IPPROTO_*`, an open set: RFC 1700).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpProto(pub u8);

impl IpProto {
    /// ICMP.
    pub const ICMP: IpProto = IpProto(1);
    /// TCP.
    pub const TCP: IpProto = IpProto(6);
    /// UDP.
    pub const UDP: IpProto = IpProto(17);
}

/// A header, checked, without its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// Type of service, with ECN in its low two bits (RFC 2474, RFC 3168).
    pub tos: u8,
    /// Bytes of the header as it came, options included.
    pub header_len: usize,
    /// Bytes of the packet, header included.
    pub total_len: usize,
    /// Identification: which packet a fragment belongs to.
    pub id: u16,
    /// Routers must not fragment it.
    pub dont_fragment: bool,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Where this fragment's data lies in the packet's, in bytes.
    pub fragment_offset: usize,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the data.
    pub proto: IpProto,
    /// From.
    pub src: Ipv4Addr,
    /// To.
    pub dst: Ipv4Addr,
}

/// Every way a header can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadIp {
    /// Shorter than a header, or than it says.
    Short,
    /// Not version 4.
    Version,
    /// A header length under 20 bytes, or over the packet's.
    HeaderLength,
    /// The checksum does not match.
    Checksum,
    /// A total length under the header's, or over the bytes that came.
    TotalLength,
    /// A fragment that is not a multiple of 8 bytes though more follow, or reaches past 65,535.
    Fragment,
    /// An option that runs out of the header.
    Options,
    /// Both fragment and "don't fragment".
    Flags,
}

impl IpHeader {
    /// Reads and checks the header in front of a packet.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(m: &Mbuf) -> Result<IpHeader, BadIp> {
        let fixed: [u8; IP_HDR_LEN] = m.header(0).map_err(|_| BadIp::Short)?;
        if fixed[0] >> 4 != 4 {
            return Err(BadIp::Version);
        }
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let mut whole = [0; IP_HDR_MAX];
        let bytes = &mut whole[..header_len];
        if header_len < IP_HDR_LEN || m.copy_out(0, bytes).is_err() {
            return Err(BadIp::HeaderLength);
        }
        if in_cksum(bytes) != 0 {
            return Err(BadIp::Checksum);
        }
        let header = Self::decode(bytes);
        if header.total_len < header_len || header.total_len > m.len() {
            return Err(BadIp::TotalLength);
        }
        header.check_fragment()?;
        check_options(&bytes[IP_HDR_LEN..])?;
        Ok(header)
    }

    /// Reads the header that an ICMP error quotes. Its packet is cut short, and routers may have
    /// changed its checksum (RFC 1812 §4.3.2.3), so only its shape is checked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_quoted(bytes: &[u8]) -> Result<IpHeader, BadIp> {
        let fixed = bytes.get(..IP_HDR_LEN).ok_or(BadIp::Short)?;
        if fixed[0] >> 4 != 4 {
            return Err(BadIp::Version);
        }
        let header = Self::decode(fixed);
        if header.header_len < IP_HDR_LEN || header.header_len > bytes.len() {
            return Err(BadIp::HeaderLength);
        }
        if header.total_len < header.header_len {
            return Err(BadIp::TotalLength);
        }
        Ok(header)
    }

    /// `bytes` holds at least [`IP_HDR_LEN`].
    fn decode(bytes: &[u8]) -> IpHeader {
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let address =
            |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        let fragment = half(6);
        IpHeader {
            tos: bytes[1],
            header_len: usize::from(bytes[0] & 0x0f) * 4,
            total_len: usize::from(half(2)),
            id: half(4),
            dont_fragment: fragment & DONT_FRAGMENT != 0,
            more_fragments: fragment & MORE_FRAGMENTS != 0,
            fragment_offset: usize::from(fragment & OFFSET_MASK) * 8,
            ttl: bytes[8],
            proto: IpProto(bytes[9]),
            src: address(12),
            dst: address(16),
        }
    }

    fn check_fragment(&self) -> Result<(), BadIp> {
        if !self.is_fragment() {
            return Ok(());
        }
        let len = self.payload_len();
        if len == 0 || (self.more_fragments && !len.is_multiple_of(8)) {
            return Err(BadIp::Fragment);
        }
        if self.fragment_offset + len + IP_HDR_LEN > IP_MAXPACKET {
            return Err(BadIp::Fragment);
        }
        if self.dont_fragment {
            return Err(BadIp::Flags);
        }
        Ok(())
    }

    /// Whether it is a part of a packet.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    /// Bytes behind the header.
    pub fn payload_len(&self) -> usize {
        self.total_len - self.header_len
    }

    /// The header's bytes, without options, checksum filled in.
    pub fn encode(&self) -> [u8; IP_HDR_LEN] {
        let mut bytes = [0; IP_HDR_LEN];
        let mut fragment = (self.fragment_offset / 8) as u16 & OFFSET_MASK;
        if self.dont_fragment {
            fragment |= DONT_FRAGMENT;
        }
        if self.more_fragments {
            fragment |= MORE_FRAGMENTS;
        }
        bytes[0] = 0x45;
        bytes[1] = self.tos;
        bytes[2..4].copy_from_slice(&(self.total_len as u16).to_be_bytes());
        bytes[4..6].copy_from_slice(&self.id.to_be_bytes());
        bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
        bytes[8] = self.ttl;
        bytes[9] = self.proto.0;
        bytes[12..16].copy_from_slice(&self.src.octets());
        bytes[16..].copy_from_slice(&self.dst.octets());
        let sum = in_cksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// Walks the options: each must end inside the header. None is acted on: a host need not
/// (RFC 1122 §3.2.1.8), and source routes are not followed (RFC 7126 §4).
fn check_options(options: &[u8]) -> Result<(), BadIp> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    let mut rest = options;
    while let Some((&kind, after)) = rest.split_first() {
        match kind {
            END => return Ok(()),
            NOP => rest = after,
            _ => {
                let len = after.first().map_or(0, |len| usize::from(*len));
                rest = rest.get(len..).filter(|_| len >= 2).ok_or(BadIp::Options)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn header() -> IpHeader {
        IpHeader {
            tos: 0,
            header_len: IP_HDR_LEN,
            total_len: IP_HDR_LEN + 8,
            id: 7,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            proto: IpProto::UDP,
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
        }
    }

    fn packet(change: impl FnOnce(&mut [u8; IP_HDR_LEN])) -> Mbuf {
        rumpuser_hosted::Host::install_for_tests();
        let mut bytes = header().encode();
        change(&mut bytes);
        bytes[10..12].fill(0);
        let sum = in_cksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut whole = Vec::from(bytes);
        whole.extend([0; 8]);
        Mbuf::from_slice(&whole).unwrap()
    }

    #[test]
    fn what_is_encoded_is_parsed_back() {
        assert_eq!(IpHeader::parse(&packet(|_| ())), Ok(header()));
    }

    #[test]
    fn every_way_a_header_can_be_wrong_is_found() {
        rumpuser_hosted::Host::install_for_tests();
        let wrong =
            |change: fn(&mut [u8; IP_HDR_LEN])| IpHeader::parse(&packet(change)).unwrap_err();
        assert_eq!(
            IpHeader::parse(&Mbuf::from_slice(&[0x45; 19]).unwrap()),
            Err(BadIp::Short)
        );
        assert_eq!(wrong(|b| b[0] = 0x65), BadIp::Version);
        assert_eq!(wrong(|b| b[0] = 0x44), BadIp::HeaderLength);
        assert_eq!(wrong(|b| b[0] = 0x4f), BadIp::HeaderLength);
        assert_eq!(wrong(|b| b[3] = 19), BadIp::TotalLength);
        assert_eq!(wrong(|b| b[3] = 29), BadIp::TotalLength);
        assert_eq!(wrong(|b| (b[6], b[3]) = (0x20, 27)), BadIp::Fragment);
        assert_eq!(
            wrong(|b| b[6..8].copy_from_slice(&[0x1f, 0xff])),
            BadIp::Fragment
        );
        assert_eq!(wrong(|b| b[6] = 0x60), BadIp::Flags);
        let mut bytes = header().encode();
        bytes[10] ^= 1;
        let mut whole = Vec::from(bytes);
        whole.extend([0; 8]);
        assert_eq!(
            IpHeader::parse(&Mbuf::from_slice(&whole).unwrap()),
            Err(BadIp::Checksum)
        );
    }

    #[test]
    fn options_must_end_inside_the_header_and_are_otherwise_ignored() {
        assert_eq!(check_options(&[1, 1, 7, 3, 4, 0, 9, 9]), Ok(()));
        assert_eq!(check_options(&[7, 4, 0]), Err(BadIp::Options));
        assert_eq!(check_options(&[7]), Err(BadIp::Options));
        assert_eq!(check_options(&[7, 0, 0, 0]), Err(BadIp::Options));
        assert_eq!(check_options(&[7, 1, 0, 0]), Err(BadIp::Options));
    }
}
