//! The byte order of a volume, where it is a value: pointers and directory entries, whose number
//! and place only the data tell. Whole structures have it in their type ([`crate::raw`]).

/// Byte order of a volume: that of the machine which made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

impl Order {
    /// That of this machine.
    pub const NATIVE: Order = match cfg!(target_endian = "big") {
        true => Order::Big,
        false => Order::Little,
    };

    /// The 16-bit number in `bytes`.
    pub fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Order::Little => u16::from_le_bytes(bytes),
            Order::Big => u16::from_be_bytes(bytes),
        }
    }

    /// The 32-bit number in `bytes`.
    pub fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        }
    }

    /// The 64-bit number in `bytes`.
    pub fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Order::Little => u64::from_le_bytes(bytes),
            Order::Big => u64::from_be_bytes(bytes),
        }
    }

    /// The bytes of a 16-bit number.
    pub fn bytes16(self, value: u16) -> [u8; 2] {
        match self {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }

    /// The bytes of a 32-bit number.
    pub fn bytes32(self, value: u32) -> [u8; 4] {
        match self {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }

    /// The bytes of a 64-bit number.
    pub fn bytes64(self, value: u64) -> [u8; 8] {
        match self {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }
}
