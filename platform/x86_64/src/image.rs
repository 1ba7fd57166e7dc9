//! Where the image's parts lie: the linker script's symbols.

use crate::symbols::{HEADER_BYTES, table_bytes};

/// A part of the image, by the addresses of its first byte and of the byte after its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First byte; page-aligned.
    pub start: u64,
    /// One past the last byte; page-aligned.
    pub end: u64,
}

unsafe extern "C" {
    static __image_start: u8;
    static __symbols: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
}

macro_rules! part {
    ($start:ident, $end:ident) => {
        Part {
            start: (&raw const $start).addr() as u64,
            end: (&raw const $end).addr() as u64,
        }
    };
}

/// The whole image, as loaded.
pub fn bounds() -> (u64, u64) {
    (part!(__image_start, __symbols).start, symbol_table().end)
}

/// The table of symbols, which the image's linker makes and puts behind everything else, since it changes the size of it.
pub fn symbol_table() -> Part {
    let start = (&raw const __symbols).addr() as u64;
    let end = start + symbols().len() as u64;
    Part {
        start,
        end: end.next_multiple_of(4096),
    }
}

/// The table of symbols.
pub fn symbols() -> &'static [u8] {
    let start = &raw const __symbols;
    // SAFETY: the linker script puts a header there, if only that of an empty table.
    let header = unsafe { core::slice::from_raw_parts(start, HEADER_BYTES) };
    let bytes = table_bytes(header).unwrap_or(HEADER_BYTES);
    // SAFETY: the header, which the linker wrote, says that so much follows it in the same segment.
    unsafe { core::slice::from_raw_parts(start, bytes) }
}

/// Code.
pub fn text() -> Part {
    part!(__text_start, __text_end)
}

/// Constants.
pub fn rodata() -> Part {
    part!(__text_end, __rodata_end)
}

/// Variables.
pub fn data() -> Part {
    part!(__data_start, __data_end)
}
