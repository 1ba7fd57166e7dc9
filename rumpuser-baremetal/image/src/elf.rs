//! Just enough of ELF (System V ABI, 64-bit, little-endian): segments, symbols, and writing a file anew.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

const PROGRAM_HEADER_BYTES: usize = 56;
const SECTION_HEADER_BYTES: usize = 64;
const SYMBOL_BYTES: usize = 24;
const HEADER_BYTES: usize = 64;
const PT_LOAD: u64 = 1;
const PF_X: u64 = 1;
const SHT_SYMTAB: u64 = 2;
const STT_FUNC: u8 = 2;
const STT_NOTYPE: u8 = 0;
const PAGE_BYTES: usize = 4096;

/// What is wrong with a file.
#[derive(Debug)]
pub(crate) struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A file, with its headers found.
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
    program_headers: Range<usize>,
    section_headers: Range<usize>,
}

fn number(bytes: &[u8], at: usize, len: usize) -> Result<u64, Malformed> {
    let field = at.checked_add(len).and_then(|end| bytes.get(at..end));
    let field = field.ok_or(Malformed("the file is cut off"))?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

impl<'a> Elf<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Elf<'a>, Malformed> {
        // 64 bits, little-endian.
        if !bytes.starts_with(b"\x7fELF\x02\x01") {
            return Err(Malformed("not a 64-bit little-endian ELF file"));
        }
        let table = |offset: usize, count: usize, size: usize| -> Result<Range<usize>, Malformed> {
            let start = number(bytes, offset, 8)? as usize;
            let end = start.checked_add(number(bytes, count, 2)? as usize * size);
            end.filter(|&end| end <= bytes.len())
                .map(|end| start..end)
                .ok_or(Malformed("headers beyond the end"))
        };
        Ok(Elf {
            bytes,
            program_headers: table(32, 56, PROGRAM_HEADER_BYTES)?,
            section_headers: table(40, 60, SECTION_HEADER_BYTES)?,
        })
    }

    fn number(&self, at: usize, len: usize) -> Result<u64, Malformed> {
        number(self.bytes, at, len)
    }

    /// Offsets of the headers of loaded segments.
    fn loads(&self) -> Vec<usize> {
        let headers = self.program_headers.clone().step_by(PROGRAM_HEADER_BYTES);
        headers
            .filter(|&at| self.number(at, 4).is_ok_and(|kind| kind == PT_LOAD))
            .collect()
    }

    /// Addresses of the code.
    pub(crate) fn text(&self) -> Result<Range<u64>, Malformed> {
        for at in self.loads() {
            if self.number(at + 4, 4)? & PF_X != 0 {
                let start = self.number(at + 16, 8)?;
                return Ok(start..start + self.number(at + 40, 8)?);
            }
        }
        Err(Malformed("no code"))
    }

    /// The functions in `text`, mangled, by address. Symbols without a type count too: the labels of assembly.
    pub(crate) fn functions(&self, text: &Range<u64>) -> Result<BTreeMap<u64, String>, Malformed> {
        let mut functions = BTreeMap::new();
        let mut headers = self.section_headers.clone().step_by(SECTION_HEADER_BYTES);
        let Some(symbols) =
            headers.find(|&at| self.number(at + 4, 4).is_ok_and(|kind| kind == SHT_SYMTAB))
        else {
            return Ok(functions);
        };
        let link = self.number(symbols + 40, 4)? as usize;
        let strings = self.section_headers.start + link * SECTION_HEADER_BYTES;
        let names = self.number(strings + 24, 8)? as usize;
        let start = self.number(symbols + 24, 8)? as usize;
        let end = start + self.number(symbols + 32, 8)? as usize;
        for at in (start..end).step_by(SYMBOL_BYTES) {
            let kind = self.number(at + 4, 1)? as u8 & 15;
            let address = self.number(at + 8, 8)?;
            if !matches!(kind, STT_FUNC | STT_NOTYPE) || !text.contains(&address) {
                continue;
            }
            let name = self
                .bytes
                .get(names + self.number(at, 4)? as usize..)
                .unwrap_or_default();
            let len = name.iter().position(|&byte| byte == 0).unwrap_or(0);
            let name = String::from_utf8_lossy(&name[..len]).into_owned();
            // Of several names for an address a function's is best; linker symbols and local labels are of no use.
            if kind == STT_FUNC {
                functions.insert(address, name);
            } else if !name.is_empty() && !name.starts_with("__") && !name.starts_with(".L") {
                functions.entry(address).or_insert(name);
            }
        }
        Ok(functions)
    }

    /// The header of the last loaded segment, which is to hold the table.
    fn table_header(&self) -> Result<usize, Malformed> {
        self.loads().last().copied().ok_or(Malformed("no segments"))
    }

    /// The same file, with `table` as its last segment.
    pub(crate) fn with_table(&self, table: &[u8]) -> Result<Vec<u8>, Malformed> {
        let header = self.table_header()?;
        let mut bytes = self.bytes.to_vec();
        append_segment(&mut bytes, header, table);
        Ok(bytes)
    }

    /// A file with the segments alone, no sections, and `table` as the last segment.
    pub(crate) fn stripped(&self, table: &[u8]) -> Result<Vec<u8>, Malformed> {
        let last = self.table_header()?;
        let mut bytes = self.bytes[..HEADER_BYTES].to_vec();
        put(&mut bytes, 32, HEADER_BYTES as u64);
        put(&mut bytes, 40, 0);
        // Number of section headers, and which one has their names.
        bytes[60..64].fill(0);
        let headers = self.bytes[self.program_headers.clone()].to_vec();
        bytes.extend(headers);
        for at in self.program_headers.clone().step_by(PROGRAM_HEADER_BYTES) {
            let copy = at - self.program_headers.start + HEADER_BYTES;
            if self.number(at, 4)? != PT_LOAD {
                continue;
            }
            if at == last {
                append_segment(&mut bytes, copy, table);
                continue;
            }
            let start = self.number(at + 8, 8)? as usize;
            let end = start + self.number(at + 32, 8)? as usize;
            let data = self
                .bytes
                .get(start..end)
                .ok_or(Malformed("a segment beyond the end"))?;
            let memory = self.number(at + 40, 8)?;
            append_segment(&mut bytes, copy, data);
            put(&mut bytes, copy + 40, memory);
        }
        self.place_others(&mut bytes)?;
        Ok(bytes)
    }

    /// Corrects where segments that are not loaded, such as notes, lie in the stripped file: inside of loaded ones.
    fn place_others(&self, bytes: &mut [u8]) -> Result<(), Malformed> {
        for at in self.program_headers.clone().step_by(PROGRAM_HEADER_BYTES) {
            if self.number(at, 4)? == PT_LOAD {
                continue;
            }
            let address = self.number(at + 16, 8)?;
            for load in self.loads() {
                let start = self.number(load + 16, 8)?;
                let size = self.number(load + 32, 8)?;
                if (start..start + size).contains(&address) {
                    let copy = |header: usize| header - self.program_headers.start + HEADER_BYTES;
                    let offset = number(bytes, copy(load) + 8, 8)? + (address - start);
                    put(bytes, copy(at) + 8, offset);
                }
            }
        }
        Ok(())
    }
}

/// Appends `data` to a file as the segment whose header is at `header`, at an offset that agrees with its page.
fn append_segment(bytes: &mut Vec<u8>, header: usize, data: &[u8]) {
    if !data.is_empty() {
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
    }
    let offset = bytes.len().next_multiple_of(PAGE_BYTES) as u64;
    put(bytes, header + 8, offset);
    put(bytes, header + 32, data.len() as u64);
    put(bytes, header + 40, data.len() as u64);
    bytes.extend(data);
}
