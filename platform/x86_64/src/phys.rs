//! Physical memory, read as bytes: what firmware and loaders left there.

/// Bytes of physical memory by address. Firmware's addresses are not trusted: what is not there is `None`.
pub trait PhysicalMemory {
    /// The `len` bytes at physical address `address`, if all of them can be read.
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]>;
}

/// The `u16` at `offset`, little-endian.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..)?.first_chunk()?;
    Some(u16::from_le_bytes(*field))
}

/// The `u32` at `offset`, little-endian.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field))
}

/// The `u64` at `offset`, little-endian.
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let field = bytes.get(offset..)?.first_chunk()?;
    Some(u64::from_le_bytes(*field))
}

/// The boot tables' window: the first [`MAPPED_AT_ENTRY`](crate::MAPPED_AT_ENTRY) at their own addresses, but the first
/// page, which holds nothing that a loader hands over.
pub(crate) struct BootWindow;

impl PhysicalMemory for BootWindow {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let end = address.checked_add(len as u64)?;
        if address == 0 || end > crate::MAPPED_AT_ENTRY {
            return None;
        }
        // SAFETY: mapped (checked above), and nobody writes to what the loader left: Rust's own memory is the image's,
        // whose variables no loader points at; if one does, it reads bytes that are not changed while it looks, since the
        // one thread there is does the looking.
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, len) })
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use super::PhysicalMemory;
    extern crate std;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    /// Pieces of memory at chosen addresses.
    #[derive(Default)]
    pub(crate) struct Pieces(pub(crate) BTreeMap<u64, Vec<u8>>);

    impl PhysicalMemory for Pieces {
        fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
            let (start, piece) = self.0.range(..=address).next_back()?;
            let offset = (address - start) as usize;
            piece.get(offset..offset.checked_add(len)?)
        }
    }
}
