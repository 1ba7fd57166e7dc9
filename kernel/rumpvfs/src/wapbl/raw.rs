//! The bytes of a log: records, and what of them is sound.
//!
//! Every record begins with its type and its length, a multiple of the log's block. Whatever a record says is judged
//! before it is used; [`BadLog`] says what was wrong, and where.
//!
//! The commit header has a field for a checksum, which NetBSD writes as 0 and does not read. This code writes a CRC
//! there, never 0, and holds a header to it that has one: a torn header shows.
//!
//! Source: NetBSD sys/sys/wapbl_replay.h (`struct wapbl_wc_null`, `wapbl_wc_blocklist`,
//! `wapbl_wc_inodelist`, `wapbl_wc_header`).

use core::fmt;

/// Byte order of a log: that of the machine which wrote it, whatever the volume's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

/// Type of a commit header.
pub const WC_HEADER: u32 = 0x5741_424c;
/// Type of a list of inodes without a name.
pub const WC_INODES: u32 = 0x5741_424d;
/// Type of a list of blocks that are not metadata any more.
pub const WC_REVOCATIONS: u32 = 0x5741_424e;
/// Type of a list of blocks, with their contents.
pub const WC_BLOCKS: u32 = 0x5741_424f;

/// The version of the header's format.
pub const VERSION: u32 = 1;

/// Bytes of a commit header without its padding.
pub const HEADER_BYTES: usize = 80;
/// Bytes of what comes before the entries of a list.
pub const LIST_HEAD: usize = 16;
/// Bytes of an entry of a list of blocks.
pub const BLOCK_ENTRY: usize = 16;
/// Bytes of an entry of a list of inodes.
pub const INODE_ENTRY: usize = 8;

/// Where the fields of a commit header lie.
pub mod header {
    pub(crate) const CHECKSUM: usize = 8;
    pub(crate) const GENERATION: usize = 12;
    pub(crate) const TIME: usize = 24;
    pub(crate) const TIMENSEC: usize = 32;
    pub(crate) const VERSION: usize = 36;
    pub(crate) const LOG_DEV_BSHIFT: usize = 40;
    pub(crate) const FS_DEV_BSHIFT: usize = 44;
    pub(crate) const HEAD: usize = 48;
    pub(crate) const TAIL: usize = 56;
    pub(crate) const CIRC_OFF: usize = 64;
    pub(crate) const CIRC_SIZE: usize = 72;
}

/// What is wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLog {
    /// The byte of the log at which the record begins.
    pub at: u64,
    /// What of it.
    pub field: &'static str,
    /// What it says.
    pub value: u64,
}

impl fmt::Display for BadLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BadLog { at, field, value } = self;
        write!(f, "the log is damaged at byte {at}: {field} is {value:#x}")
    }
}

impl ByteOrder {
    /// The 32-bit number at byte `at`; 0 behind the end.
    pub fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let bytes = bytes
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        match self {
            ByteOrder::Little => u32::from_le_bytes(bytes.unwrap_or_default()),
            ByteOrder::Big => u32::from_be_bytes(bytes.unwrap_or_default()),
        }
    }

    /// The 64-bit number at byte `at`; 0 behind the end.
    pub fn u64(self, bytes: &[u8], at: usize) -> u64 {
        let bytes = bytes
            .get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok());
        match self {
            ByteOrder::Little => u64::from_le_bytes(bytes.unwrap_or_default()),
            ByteOrder::Big => u64::from_be_bytes(bytes.unwrap_or_default()),
        }
    }

    /// Puts a 32-bit number at byte `at`.
    pub fn put32(self, bytes: &mut [u8], at: usize, value: u32) {
        if let Some(place) = bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&match self {
                ByteOrder::Little => value.to_le_bytes(),
                ByteOrder::Big => value.to_be_bytes(),
            });
        }
    }

    /// Puts a 64-bit number at byte `at`.
    pub fn put64(self, bytes: &mut [u8], at: usize, value: u64) {
        if let Some(place) = bytes.get_mut(at..at + 8) {
            place.copy_from_slice(&match self {
                ByteOrder::Little => value.to_le_bytes(),
                ByteOrder::Big => value.to_be_bytes(),
            });
        }
    }
}

/// What a commit header says that changes from one to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Grows by one with each commit.
    pub generation: u32,
    /// Where the next record goes; 0 in an empty log.
    pub head: u64,
    /// The oldest record that counts; 0 in an empty log.
    pub tail: u64,
}

/// What the headers of a log always say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// The log's byte order.
    pub order: ByteOrder,
    /// log2 of the bytes of a log block.
    pub shift: u32,
    /// Bytes of the circular area.
    pub circ_size: u64,
}

impl Fixed {
    /// Bytes of a log block.
    pub fn block(&self) -> u64 {
        1 << self.shift
    }

    /// Where the circular area begins.
    pub fn circ_off(&self) -> u64 {
        2 << self.shift
    }

    /// Most entries of a list of blocks.
    pub fn blocks_per_list(&self) -> usize {
        (self.block() as usize - LIST_HEAD) / BLOCK_ENTRY
    }

    /// Most entries of a list of inodes.
    pub fn inodes_per_list(&self) -> usize {
        (self.block() as usize - LIST_HEAD) / INODE_ENTRY
    }

    /// Judges the commit header in `bytes`, a log block, which lies in slot `slot`.
    pub fn decode_header(&self, bytes: &[u8], slot: u64) -> Result<Header, BadLog> {
        let order = self.order;
        let at = slot << self.shift;
        let bad = |field, value| Err(BadLog { at, field, value });
        for (field, at, right) in [
            ("type", 0, WC_HEADER),
            ("len", 4, 1 << self.shift),
            ("version", header::VERSION, VERSION),
            ("log_dev_bshift", header::LOG_DEV_BSHIFT, self.shift),
            ("fs_dev_bshift", header::FS_DEV_BSHIFT, self.shift),
        ] {
            let value = order.u32(bytes, at);
            if value != right {
                return bad(field, u64::from(value));
            }
        }
        for (field, at, right) in [
            ("circ_off", header::CIRC_OFF, self.circ_off()),
            ("circ_size", header::CIRC_SIZE, self.circ_size),
        ] {
            let value = order.u64(bytes, at);
            if value != right {
                return bad(field, value);
            }
        }
        let checksum = order.u32(bytes, header::CHECKSUM);
        if checksum != 0 && checksum != self.checksum(bytes) {
            return bad("checksum", u64::from(checksum));
        }
        let found = Header {
            generation: order.u32(bytes, header::GENERATION),
            head: order.u64(bytes, header::HEAD),
            tail: order.u64(bytes, header::TAIL),
        };
        for (field, value) in [("head", found.head), ("tail", found.tail)] {
            let inside = value >= self.circ_off()
                && value < self.circ_off() + self.circ_size
                && value.is_multiple_of(self.block());
            if !inside && (found.head, found.tail) != (0, 0) {
                return bad(field, value);
            }
        }
        // NetBSD's walk would end before it began.
        if found.head == found.tail && found.head != 0 {
            return bad("head", found.head);
        }
        Ok(found)
    }

    /// Fills the log block `bytes` with a commit header of the time `seconds`, `nanos`.
    pub fn encode_header(&self, bytes: &mut [u8], header: &Header, (seconds, nanos): (i64, u32)) {
        let order = self.order;
        bytes.fill(0);
        for (at, value) in [
            (0, WC_HEADER),
            (4, 1 << self.shift),
            (header::GENERATION, header.generation),
            (header::TIMENSEC, nanos),
            (header::VERSION, VERSION),
            (header::LOG_DEV_BSHIFT, self.shift),
            (header::FS_DEV_BSHIFT, self.shift),
        ] {
            order.put32(bytes, at, value);
        }
        for (at, value) in [
            (header::TIME, seconds as u64),
            (header::HEAD, header.head),
            (header::TAIL, header.tail),
            (header::CIRC_OFF, self.circ_off()),
            (header::CIRC_SIZE, self.circ_size),
        ] {
            order.put64(bytes, at, value);
        }
        order.put32(bytes, header::CHECKSUM, self.checksum(bytes));
    }

    /// CRC-32 (IEEE 802.3) of a header without its checksum; 0 stands for none, so that it is never the answer.
    fn checksum(&self, bytes: &[u8]) -> u32 {
        let bytes = bytes.iter().take(HEADER_BYTES).enumerate();
        let crc = bytes.fold(!0u32, |crc, (at, byte)| {
            let is_checksum = (header::CHECKSUM..header::CHECKSUM + 4).contains(&at);
            let byte = if is_checksum { 0 } else { *byte };
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1))
            })
        });
        match !crc {
            0 => 1,
            crc => crc,
        }
    }

    /// Puts the head of a list into the log block `bytes`: its type, the bytes of its record, how many entries it has, and
    /// whether it begins anew.
    pub fn encode_list(
        &self,
        bytes: &mut [u8],
        (kind, len, count, clear): (u32, u64, usize, bool),
    ) {
        self.order.put32(bytes, 0, kind);
        self.order.put32(bytes, 4, len as u32);
        self.order.put32(bytes, 8, count as u32);
        self.order.put32(bytes, 12, u32::from(clear));
    }

    /// Puts entry `n` into a list of blocks.
    pub fn encode_block(&self, bytes: &mut [u8], n: usize, sector: u64, len: u32) {
        let at = LIST_HEAD + n * BLOCK_ENTRY;
        self.order.put64(bytes, at, sector);
        self.order.put32(bytes, at + 12, len);
    }

    /// Puts entry `n` into a list of inodes.
    pub fn encode_inode(&self, bytes: &mut [u8], n: usize, ino: u32, mode: u32) {
        let at = LIST_HEAD + n * INODE_ENTRY;
        self.order.put32(bytes, at, ino);
        self.order.put32(bytes, at + 4, mode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(order: ByteOrder) -> Fixed {
        Fixed {
            order,
            shift: 9,
            circ_size: 1 << 20,
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written_in_both_orders() {
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let fixed = fixed(order);
            let header = Header {
                generation: 0x0102_0304,
                head: 4096,
                tail: 1024,
            };
            let mut bytes = [0xff; 512];
            fixed.encode_header(&mut bytes, &header, (1, 2));
            assert_eq!(fixed.decode_header(&bytes, 0), Ok(header));
            assert_eq!(bytes[0] == 0x4c, order == ByteOrder::Little);
        }
    }

    #[test]
    fn every_bit_of_a_header_counts() {
        let fixed = fixed(ByteOrder::Little);
        let mut bytes = [0; 512];
        fixed.encode_header(
            &mut bytes,
            &Header {
                generation: 9,
                head: 4096,
                tail: 1024,
            },
            (1, 2),
        );
        for bit in 0..HEADER_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(fixed.decode_header(&bytes, 0).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
