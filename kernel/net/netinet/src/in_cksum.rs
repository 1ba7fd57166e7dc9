//! The Internet checksum (RFC 1071).

use core::net::Ipv4Addr;
use rumpnet::mbuf::Mbuf;

/// A one's complement sum under way, over bytes in network order.
///
/// The sum is kept in 64 bits with end-around carry, which is congruent to the 16-bit sum modulo
/// 2^16 - 1 (RFC 1071 §2(C)), and folded at the end. Long runs are summed in the machine's byte order, 32
/// bits at a time and without a carry to pass on, so that the compiler uses vectors; the folded result is
/// swapped once (RFC 1071 §2(B)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Checksum {
    sum: u64,
    /// Whether an odd number of bytes was added: the next byte is the low half of a word.
    odd: bool,
}

impl Checksum {
    /// The sum of nothing.
    pub const fn new() -> Checksum {
        Checksum { sum: 0, odd: false }
    }

    fn add_word(&mut self, word: u64) {
        let (sum, carry) = self.sum.overflowing_add(word);
        self.sum = sum + u64::from(carry);
    }

    /// Adds bytes, behind those added before.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        if self.odd {
            let Some((first, rest)) = bytes.split_first() else {
                return;
            };
            self.add_word(u64::from(*first));
            self.odd = false;
            bytes = rest;
        }
        let (words, tail) = bytes.as_chunks::<4>();
        // 2^32 such words fit, more than any packet has.
        let sum: u64 = words
            .iter()
            .map(|w| u64::from(u32::from_ne_bytes(*w)))
            .sum();
        self.add_word(u64::from(u16::from_be(fold(sum))));
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        self.add_word(u64::from(u32::from_be_bytes(last)));
        self.odd = tail.len() % 2 != 0;
    }

    /// Adds a 16-bit number. Only between whole words.
    pub fn add_u16(&mut self, value: u16) {
        debug_assert!(!self.odd);
        self.add_word(u64::from(value));
    }

    /// Adds `len` bytes of a chain from `offset` on; what is not there does not count.
    pub fn add_mbuf(&mut self, m: &Mbuf, offset: usize, len: usize) {
        let (mut skip, mut left) = (offset, len);
        for piece in m.pieces() {
            if left == 0 {
                return;
            }
            let Some(bytes) = piece.bytes().get(skip..) else {
                skip -= piece.len();
                continue;
            };
            let n = bytes.len().min(left);
            self.add(&bytes[..n]);
            (skip, left) = (0, left - n);
        }
    }

    /// Adds the pseudo-header of TCP and UDP (RFC 9293 §3.1).
    pub fn add_pseudo_header(&mut self, src: Ipv4Addr, dst: Ipv4Addr, proto: u8, len: usize) {
        self.add(&src.octets());
        self.add(&dst.octets());
        self.add_u16(u16::from(proto));
        self.add_word(len as u64);
    }

    /// The sum, folded to 16 bits: what a field holds whose checksum is completed later.
    pub fn folded(self) -> u16 {
        fold(self.sum)
    }

    /// Its complement: what goes into the field, and 0 over data that holds a right one.
    pub fn finish(self) -> u16 {
        !self.folded()
    }
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum of `bytes`.
pub fn in_cksum(bytes: &[u8]) -> u16 {
    let mut sum = Checksum::new();
    sum.add(bytes);
    sum.finish()
}

/// The checksum of `len` bytes of `m` from `offset` on, with the pseudo-header in front (in4_cksum).
pub fn in4_cksum(
    m: &Mbuf,
    offset: usize,
    len: usize,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    proto: u8,
) -> u16 {
    let mut sum = Checksum::new();
    sum.add_pseudo_header(src, dst, proto, len);
    sum.add_mbuf(m, offset, len);
    sum.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The definition, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn rfc_1071s_example_sums_to_ddf2() {
        let mut sum = Checksum::new();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
    }

    #[test]
    fn any_length_at_any_split_agrees_with_the_definition() {
        let bytes: Vec<u8> = (0..300u32)
            .map(|i| (i * 167 + 13) as u8 | (i as u8 & 0xf0))
            .collect();
        for len in 0..bytes.len() {
            let whole = &bytes[..len];
            assert_eq!(in_cksum(whole), slow(whole), "length {len}");
            for split in [1, 2, 7, 8, 9, len / 2] {
                let (a, b) = whole.split_at(split.min(len));
                let mut sum = Checksum::new();
                sum.add(a);
                sum.add(b);
                assert_eq!(sum.finish(), slow(whole), "length {len} split {split}");
            }
        }
    }

    #[test]
    fn all_ones_do_not_lose_the_carry() {
        assert_eq!(in_cksum(&[0xff; 65536]), slow(&[0xff; 65536]));
    }
}
