//! Names for addresses: the table that the image's linker leaves in it.
//!
//! ```text
//! "KSY1"  u32 bytes of the whole table  u32 number of words
//! words:      u8 length, text               by decreasing use; number 0 first
//! functions:  varint distance from the one before (from the start of code for the first)
//!             varint number of words in the name, that many varints: numbers of words
//! ```
//!
//! By increasing address, to the end of the table. A varint has seven bits a byte, lowest first, and the top bit where more follow. A
//! name is its words put together, `"core"`, `"::"`, `"fmt"`, so that each is stored once. Read from end to end: who looks
//! up a name here is in no hurry.

use core::fmt;

/// How a table begins.
pub const MAGIC: [u8; 4] = *b"KSY1";
/// Bytes before the words.
pub const HEADER_BYTES: usize = 12;

/// A table of names.
#[derive(Clone, Copy)]
pub struct Symbols<'a> {
    words: &'a [u8],
    functions: &'a [u8],
    base: u64,
}

/// A name found, and how far behind the function's start the address is.
pub struct Symbol<'a> {
    words: &'a [u8],
    name: &'a [u8],
    /// Bytes from the function's first.
    pub offset: u64,
}

/// Takes bytes from the front of a table.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let &[byte] = self.take(1)? else { return None };
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn word(&mut self) -> Option<&'a [u8]> {
        let &[len] = self.take(1)? else { return None };
        self.take(len.into())
    }
}

impl<'a> Symbols<'a> {
    /// The table in `bytes`, for code that starts at `base`; `None` if there is none.
    pub fn parse(bytes: &'a [u8], base: u64) -> Option<Symbols<'a>> {
        let mut reader = Reader(bytes.get(..table_bytes(bytes)?)?);
        let header = reader.take(HEADER_BYTES)?;
        let count = u32::from_le_bytes(*header.last_chunk()?);
        let words = reader.0;
        for _ in 0..count {
            reader.word()?;
        }
        let words = words.get(..words.len() - reader.0.len())?;
        Some(Symbols {
            words,
            functions: reader.0,
            base,
        })
    }

    /// The function whose code includes `address`: the last one that starts at or before it.
    pub fn find(&self, address: u64) -> Option<Symbol<'a>> {
        let mut reader = Reader(self.functions);
        let mut start = self.base;
        let mut found = None;
        while !reader.0.is_empty() {
            start = start.checked_add(reader.varint()?)?;
            let offset = match address.checked_sub(start) {
                Some(offset) => offset,
                None => break,
            };
            let words = reader.varint()?;
            let name = reader.0;
            for _ in 0..words {
                reader.varint()?;
            }
            let name = &name[..name.len() - reader.0.len()];
            found = Some(Symbol {
                words: self.words,
                name,
                offset,
            });
        }
        found
    }
}

/// The bytes of the table that begins `bytes`, if one does.
pub fn table_bytes(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER_BYTES)?;
    let len: [u8; 4] = header[4..8].try_into().ok()?;
    header
        .starts_with(&MAGIC)
        .then_some(u32::from_le_bytes(len) as usize)
}

impl fmt::Display for Symbol<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = Reader(self.name);
        while let Some(number) = name.varint() {
            let mut words = Reader(self.words);
            let mut word = words.word();
            for _ in 0..number {
                word = words.word();
            }
            f.write_str(
                word.and_then(|word| core::str::from_utf8(word).ok())
                    .unwrap_or("?"),
            )?;
        }
        write!(f, "+{:#x}", self.offset)
    }
}
