//! Where the image's parts lie: the linker script's symbols.

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
    static __image_end: u8;
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
    let whole = part!(__image_start, __image_end);
    (whole.start, whole.end)
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
