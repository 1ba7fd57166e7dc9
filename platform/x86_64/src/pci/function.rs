//! One function: its header, its capabilities, its BARs.

use super::config::{self, Address};
use crate::paging::{self, MapError};
use core::fmt;
use core::ptr::NonNull;

/// Offsets of registers in the header (PCI 3.0 §6.1).
mod header {
    pub const ID: u16 = 0x00;
    pub const COMMAND: u16 = 0x04;
    pub const CLASS: u16 = 0x08;
    pub const TYPE: u16 = 0x0e;
    pub const BARS: u16 = 0x10;
    pub const SECONDARY_BUS: u16 = 0x19;
    pub const CAPABILITIES: u16 = 0x34;
    pub const BEHIND: u8 = 0x40;

    pub const COMMAND_IO: u16 = 1;
    pub const COMMAND_MEMORY: u16 = 2;
    pub const STATUS_CAPABILITIES: u32 = 1 << 20;
    pub const TYPE_BRIDGE: u8 = 1;
    pub const TYPE_MULTIFUNCTION: u8 = 0x80;
    pub const NOBODY: u16 = 0xffff;
}

/// A base address register, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Registers in memory.
    Memory {
        /// Physical address; 0 if the firmware has placed it nowhere.
        address: u64,
        /// Bytes: a power of two.
        bytes: u64,
    },
    /// I/O ports.
    Io {
        /// The first port.
        port: u32,
        /// How many.
        ports: u32,
    },
}

/// Why a BAR cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarError {
    /// The function has no memory BAR of that number.
    Absent,
    /// The firmware has given it no address.
    Unplaced,
    /// It cannot be mapped.
    Map(MapError),
}

impl fmt::Display for BarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BarError::Absent => f.write_str("no such memory BAR"),
            BarError::Unplaced => f.write_str("the firmware has given the BAR no address"),
            BarError::Map(error) => error.fmt(f),
        }
    }
}

/// A function of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    address: Address,
}

impl Function {
    pub(super) fn new(address: Address) -> Function {
        Function { address }
    }

    /// Where it is.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Reads the byte at `register`, below 4096. All ones where there is nothing.
    pub fn read8(&self, register: u16) -> u8 {
        (self.read32(register) >> (register % 4 * 8)) as u8
    }

    /// Reads the aligned 16-bit word at `register`.
    pub fn read16(&self, register: u16) -> u16 {
        (self.read32(register) >> (register % 4 / 2 * 16)) as u16
    }

    /// Reads the aligned 32-bit word at `register`.
    pub fn read32(&self, register: u16) -> u32 {
        config::read(self.address, register & 0xffc)
    }

    /// Writes the aligned 16-bit word at `register`. Its neighbour in the 32-bit word is written back as read.
    pub fn write16(&self, register: u16, value: u16) {
        let shift = register % 4 / 2 * 16;
        let mut word = self.read32(register) & !(0xffff << shift);
        if register & 0xffc == header::COMMAND {
            // The status bits, in the upper half, are cleared by writing ones.
            word = 0;
        }
        self.write32(register, word | u32::from(value) << shift);
    }

    /// Writes the aligned 32-bit word at `register`.
    pub fn write32(&self, register: u16, value: u32) {
        config::write(self.address, register & 0xffc, value);
    }

    pub(super) fn is_present(&self) -> bool {
        self.vendor() != header::NOBODY
    }

    pub(super) fn is_multifunction(&self) -> bool {
        self.read8(header::TYPE) & header::TYPE_MULTIFUNCTION != 0
    }

    /// The bus behind it, if it is a bridge that leads to one.
    pub(super) fn secondary_bus(&self) -> Option<u8> {
        let kind = self.read8(header::TYPE) & !header::TYPE_MULTIFUNCTION;
        (kind == header::TYPE_BRIDGE)
            .then(|| self.read8(header::SECONDARY_BUS))
            .filter(|&bus| bus != 0)
    }

    /// The vendor's number.
    pub fn vendor(&self) -> u16 {
        self.read16(header::ID)
    }

    /// The vendor's number for the device.
    pub fn device(&self) -> u16 {
        self.read16(header::ID + 2)
    }

    /// Base class, subclass and programming interface, in 24 bits.
    pub fn class(&self) -> u32 {
        self.read32(header::CLASS) >> 8
    }

    /// Position of the first capability of number `id`.
    pub fn capability(&self, id: u8) -> Option<u16> {
        if self.read32(header::COMMAND) & header::STATUS_CAPABILITIES == 0 {
            return None;
        }
        let mut at = self.read8(header::CAPABILITIES) & !3;
        // The list may be a loop: no more steps than capabilities fit behind the header.
        for _ in 0..(256 - usize::from(header::BEHIND)) / 4 {
            if at < header::BEHIND {
                return None;
            }
            let entry = self.read16(at.into());
            if entry as u8 == id {
                return Some(at.into());
            }
            at = (entry >> 8) as u8 & !3;
        }
        None
    }

    /// BAR number `number`, 0 to 5; `None` for the upper half of a BAR of 64 bits too. Its size is found by writing to it while the
    /// function does not decode addresses.
    pub fn bar(&self, number: u8) -> Option<Bar> {
        let bars = match self.read8(header::TYPE) & !header::TYPE_MULTIFUNCTION {
            0 => 6,
            header::TYPE_BRIDGE => 2,
            _ => 0,
        };
        if number >= bars || self.is_upper_half(number) {
            return None;
        }
        let register = header::BARS + 4 * u16::from(number);
        let command = self.read16(header::COMMAND);
        self.write16(
            header::COMMAND,
            command & !(header::COMMAND_IO | header::COMMAND_MEMORY),
        );
        let mut words = [self.probe(register), (0, 0)];
        if number + 1 < bars {
            words[1] = self.probe(register + 4);
        }
        self.write16(header::COMMAND, command);
        decode(words)
    }

    /// Whether BAR `number` belongs to the one before it. They can only be told apart from the first one on.
    fn is_upper_half(&self, number: u8) -> bool {
        let mut upper = false;
        for before in 0..number {
            let word = self.read32(header::BARS + 4 * u16::from(before));
            upper = !upper && is_64_bits(word);
        }
        upper
    }

    /// What a BAR's word is, and what it becomes when all ones are written.
    fn probe(&self, register: u16) -> (u32, u32) {
        let placed = self.read32(register);
        self.write32(register, u32::MAX);
        let sized = self.read32(register);
        self.write32(register, placed);
        (placed, sized)
    }

    /// Maps memory BAR `number` for ever, uncached. Returns its first byte and its length.
    ///
    /// # Errors
    /// If it is none, or has no address, or lies where it must not.
    pub fn map_bar(&self, number: u8) -> Result<(NonNull<u8>, usize), BarError> {
        let Some(Bar::Memory { address, bytes }) = self.bar(number) else {
            return Err(BarError::Absent);
        };
        if address == 0 {
            return Err(BarError::Unplaced);
        }
        let start = paging::map_device(address, bytes).map_err(BarError::Map)?;
        Ok((start, bytes as usize))
    }
}

/// Of a BAR: it is one of I/O ports.
const BAR_IO: u32 = 1;

/// Whether a BAR's word says that the next one is its upper half.
fn is_64_bits(word: u32) -> bool {
    const TYPE: u32 = 6;
    const TYPE_64_BITS: u32 = 4;
    word & BAR_IO == 0 && word & TYPE == TYPE_64_BITS
}

/// Decodes a BAR (PCI 3.0 §6.2.5.1) from two words, each as placed and as it answers to all ones. The second is looked at only if the
/// first says that they belong together.
fn decode(words: [(u32, u32); 2]) -> Option<Bar> {
    let [(placed, sized), (placed_high, sized_high)] = words;
    if sized == 0 || sized == u32::MAX && placed == u32::MAX {
        return None;
    }
    if placed & BAR_IO != 0 {
        let mask = sized & !3 | 0xffff_0000;
        return Some(Bar::Io {
            port: placed & !3,
            ports: (!mask).wrapping_add(1),
        });
    }
    let (address, mask) = match is_64_bits(placed) {
        true => (
            u64::from(placed & !15) | u64::from(placed_high) << 32,
            u64::from(sized & !15) | u64::from(sized_high) << 32,
        ),
        false => (
            u64::from(placed & !15),
            u64::from(sized & !15) | 0xffff_ffff << 32,
        ),
    };
    let bytes = (!mask).wrapping_add(1);
    bytes
        .is_power_of_two()
        .then_some(Bar::Memory { address, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_of_all_kinds_are_decoded() {
        let next = (0x1234_5678, 0xffff_ffff);
        assert_eq!(
            decode([(0xfebd_1000, 0xffff_f000), next]),
            Some(Bar::Memory {
                address: 0xfebd_1000,
                bytes: 4096
            })
        );
        assert_eq!(
            decode([(0x0000_c041, 0xffff_ffe1), next]),
            Some(Bar::Io {
                port: 0xc040,
                ports: 32
            })
        );
        assert_eq!(
            decode([(0xc041, 0x0000_ffe1), next]),
            Some(Bar::Io {
                port: 0xc040,
                ports: 32
            })
        );
        let high = [(0x0000_400c, 0xffff_c00c), (0x0000_00fd, 0xffff_ffff)];
        assert_eq!(
            decode(high),
            Some(Bar::Memory {
                address: 0xfd_0000_4000,
                bytes: 0x4000
            })
        );
        let large = [(0xc, 0xc), (0x80, 0xffff_fff0)];
        assert_eq!(
            decode(large),
            Some(Bar::Memory {
                address: 0x80_0000_0000,
                bytes: 16 << 32
            })
        );
    }

    #[test]
    fn bars_that_are_absent_or_nonsense_are_none() {
        assert_eq!(decode([(0, 0), (0, 0)]), None);
        assert_eq!(decode([(u32::MAX, u32::MAX), (0, 0)]), None);
        assert_eq!(
            decode([(0xfebd_0000, 0xf0f0_0000), (0, 0)]),
            None,
            "a size that is no power of two"
        );
    }
}
