//! MSI-X: a table in the device's memory that says which message each of its interrupts is (PCI 3.0 §6.8.2).

use super::function::{BarError, Function};
use crate::interrupt::Message;
use core::fmt;
use core::ptr::NonNull;
use volatile::VolatilePtr;

const CAPABILITY: u8 = 0x11;
const CONTROL: u16 = 2;
const TABLE: u16 = 4;
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK_ALL: u16 = 1 << 14;
const CONTROL_SIZE: u16 = 0x7ff;
const ENTRY_BYTES: usize = 16;
const ENTRY_MASKED: u32 = 1;

/// Why a function's MSI-X cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsixError {
    /// It has none.
    Absent,
    /// Its table does not lie in its BAR.
    Table,
    /// The table's BAR cannot be used.
    Bar(BarError),
    /// The table has no entry of that number.
    NoEntry(u16),
}

impl fmt::Display for MsixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MsixError::Absent => f.write_str("the function has no MSI-X"),
            MsixError::Table => f.write_str("the MSI-X table is outside of its BAR"),
            MsixError::Bar(error) => write!(f, "MSI-X table: {error}"),
            MsixError::NoEntry(number) => write!(f, "MSI-X has no entry {number}"),
        }
    }
}

/// The table of a function, turned on. Entries are masked until [`set`](MsixTable::set).
#[derive(Debug)]
pub struct MsixTable {
    base: NonNull<u8>,
    entries: u16,
}

// SAFETY: addresses of registers; writing them needs `&mut self`.
unsafe impl Send for MsixTable {}
// SAFETY: as above.
unsafe impl Sync for MsixTable {}

impl Function {
    /// Turns MSI-X on, with every entry masked, and the function's interrupt line off thereby.
    ///
    /// # Errors
    /// If the function has no MSI-X, or lies about where its table is.
    pub fn enable_msix(&self) -> Result<MsixTable, MsixError> {
        const COMMAND: u16 = 4;
        const COMMAND_MEMORY: u16 = 2;
        let capability = self.capability(CAPABILITY).ok_or(MsixError::Absent)?;
        let control = self.read16(capability + CONTROL);
        let entries = (control & CONTROL_SIZE) + 1;
        let table = self.read32(capability + TABLE);
        let (bar, offset) = ((table & 7) as u8, (table & !7) as usize);
        let (start, bytes) = self.map_bar(bar).map_err(MsixError::Bar)?;
        let end = offset + usize::from(entries) * ENTRY_BYTES;
        if end > bytes {
            return Err(MsixError::Table);
        }
        // SAFETY: inside the BAR, as checked.
        let base = unsafe { start.byte_add(offset) };
        let mut table = MsixTable { base, entries };
        // The table is memory of the function: it must decode addresses to be written.
        self.write16(COMMAND, self.read16(COMMAND) | COMMAND_MEMORY);
        self.write16(
            capability + CONTROL,
            control | CONTROL_ENABLE | CONTROL_MASK_ALL,
        );
        for number in 0..entries {
            table.word(number, 3).write(ENTRY_MASKED);
        }
        self.write16(
            capability + CONTROL,
            (control | CONTROL_ENABLE) & !CONTROL_MASK_ALL,
        );
        Ok(table)
    }
}

impl MsixTable {
    /// How many entries there are.
    pub fn entries(&self) -> u16 {
        self.entries
    }

    /// Makes interrupt `number` of the function raise `message`.
    ///
    /// # Errors
    /// If there is no such entry.
    pub fn set(&mut self, number: u16, message: Message) -> Result<(), MsixError> {
        if number >= self.entries {
            return Err(MsixError::NoEntry(number));
        }
        self.word(number, 3).write(ENTRY_MASKED);
        self.word(number, 0).write(message.address as u32);
        self.word(number, 1).write((message.address >> 32) as u32);
        self.word(number, 2).write(message.data);
        self.word(number, 3).write(0);
        Ok(())
    }

    /// Keeps interrupt `number` of the function from being raised; it is remembered until it is [`set`](MsixTable::set) again.
    pub fn mask(&mut self, number: u16) {
        if number < self.entries {
            self.word(number, 3).write(ENTRY_MASKED);
        }
    }

    fn word(&mut self, number: u16, word: usize) -> VolatilePtr<'_, u32> {
        // SAFETY: inside the table, whose entries the callers count, and mapped for ever.
        let word = unsafe {
            self.base
                .byte_add(usize::from(number) * ENTRY_BYTES + word * 4)
        };
        // SAFETY: aligned, since the table is aligned to 8, and made of bits that are all valid.
        unsafe { VolatilePtr::new(word.cast()) }
    }
}
