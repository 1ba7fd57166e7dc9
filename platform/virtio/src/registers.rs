//! Windows of device registers.

use core::mem::{align_of, size_of};
use core::ptr::NonNull;
use volatile::VolatilePtr;

/// A window of device registers, such as what a PCI BAR maps.
///
/// An access that is not wholly inside the window, or not aligned, behaves as on a bus where nobody
/// answers: it reads all ones, and a write is lost. The transports check their windows beforehand.
pub trait Registers {
    /// Length of the window in bytes.
    fn len(&self) -> usize;
    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads one byte.
    fn read8(&self, offset: usize) -> u8;
    /// Reads a little-endian 16-bit word.
    fn read16(&self, offset: usize) -> u16;
    /// Reads a little-endian 32-bit word.
    fn read32(&self, offset: usize) -> u32;
    /// Writes one byte.
    fn write8(&self, offset: usize, value: u8);
    /// Writes a little-endian 16-bit word.
    fn write16(&self, offset: usize, value: u16);
    /// Writes a little-endian 32-bit word.
    fn write32(&self, offset: usize, value: u32);
}

/// Memory-mapped registers.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is valid for ever and from every processor (the contract of `new`), and each
// access is one load or store that the device orders.
unsafe impl Send for Mmio {}
// SAFETY: as above.
unsafe impl Sync for Mmio {}

impl Mmio {
    /// The `len` bytes of registers at `base`.
    ///
    /// # Safety
    /// They are mapped for ever, uncached, readable and writable; no Rust object lies there; and
    /// accesses of 1, 2 and 4 bytes have no effect on memory safety but through what the device is
    /// told to do. `base` is aligned to 4.
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Mmio {
        Mmio { base, len }
    }

    fn at<T: Copy>(&self, offset: usize) -> Option<VolatilePtr<'_, T>> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.len || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: inside the window, as just checked.
        let register = unsafe { self.base.add(offset) };
        // SAFETY: mapped, aligned (`base` is to 4, `offset` to `T`) and free for plain loads and
        // stores: the contract of `new`.
        Some(unsafe { VolatilePtr::new(register.cast()) })
    }
}

impl Registers for Mmio {
    fn len(&self) -> usize {
        self.len
    }

    fn read8(&self, offset: usize) -> u8 {
        self.at(offset).map_or(u8::MAX, |register| register.read())
    }

    fn read16(&self, offset: usize) -> u16 {
        let register = self.at(offset);
        register.map_or(u16::MAX, |register| u16::from_le(register.read()))
    }

    fn read32(&self, offset: usize) -> u32 {
        let register = self.at(offset);
        register.map_or(u32::MAX, |register| u32::from_le(register.read()))
    }

    fn write8(&self, offset: usize, value: u8) {
        if let Some(register) = self.at(offset) {
            register.write(value);
        }
    }

    fn write16(&self, offset: usize, value: u16) {
        if let Some(register) = self.at(offset) {
            register.write(value.to_le());
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        if let Some(register) = self.at(offset) {
            register.write(value.to_le());
        }
    }
}
