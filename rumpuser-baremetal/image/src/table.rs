//! The table of symbols, as `platform/x86_64/src/symbols.rs` reads it: the format is described there.

use rustc_demangle::demangle;
use std::collections::{BTreeMap, HashMap};

/// Longer names are cut: nobody reads them, and a word's length is a byte.
const MAX_NAME_BYTES: usize = 240;

/// The table of `functions`, mangled names by address, of code that starts at `base`.
pub(crate) fn encode(base: u64, functions: &BTreeMap<u64, String>) -> Vec<u8> {
    let names: Vec<(u64, Vec<String>)> = functions
        .iter()
        .map(|(&address, name)| (address, words(name)))
        .collect();
    let order = by_use(&names);
    let number: HashMap<&str, u64> = order.iter().map(|word| word.as_str()).zip(0..).collect();
    let mut table = b"KSY1\0\0\0\0".to_vec();
    table.extend((order.len() as u32).to_le_bytes());
    for word in &order {
        table.push(word.len() as u8);
        table.extend(word.as_bytes());
    }
    let mut before = base;
    for (address, words) in &names {
        varint(&mut table, address - before);
        varint(&mut table, words.len() as u64);
        for word in words {
            varint(&mut table, number[word.as_str()]);
        }
        before = *address;
    }
    let len = (table.len() as u32).to_le_bytes();
    table[4..8].copy_from_slice(&len);
    table
}

/// The words, those used most first: their numbers are the shortest.
fn by_use(names: &[(u64, Vec<String>)]) -> Vec<String> {
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for word in names.iter().flat_map(|(_, words)| words) {
        *uses.entry(word).or_default() += 1;
    }
    let mut order: Vec<(&str, usize)> = uses.into_iter().collect();
    order.sort_by_key(|&(_, uses)| std::cmp::Reverse(uses));
    order.into_iter().map(|(word, _)| word.to_owned()).collect()
}

fn varint(table: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        table.push(value as u8 | 0x80);
        value >>= 7;
    }
    table.push(value as u8);
}

/// A name, demangled, without its hash, in words: identifiers, and what is between them.
fn words(mangled: &str) -> Vec<String> {
    let name = format!("{:#}", demangle(mangled));
    let mut words: Vec<String> = Vec::new();
    let mut before = None;
    for character in name
        .chars()
        .filter(char::is_ascii_graphic)
        .take(MAX_NAME_BYTES)
    {
        let kind = character.is_ascii_alphanumeric() || character == '_';
        match words.last_mut() {
            Some(word) if before == Some(kind) => word.push(character),
            _ => words.push(character.to_string()),
        }
        before = Some(kind);
    }
    words
}

/// The reader, which only runs in images otherwise.
#[cfg(test)]
#[path = "../../../platform/x86_64/src/symbols.rs"]
mod symbols;

#[cfg(test)]
mod tests {
    use super::*;

    fn named(table: &[u8], address: u64) -> Option<String> {
        let symbols = symbols::Symbols::parse(table, 0x1000)?;
        symbols.find(address).map(|symbol| symbol.to_string())
    }

    #[test]
    fn every_address_has_the_name_of_the_function_it_is_in() {
        let functions = BTreeMap::from([
            (0x1000, "pvh_entry".to_owned()),
            (
                0x1234,
                "_ZN8platform5clock3now17h0123456789abcdefE".to_owned(),
            ),
            (
                0x9_1234,
                "_ZN8platform5clock4wall17h0123456789abcdefE".to_owned(),
            ),
        ]);
        let table = encode(0x1000, &functions);
        assert_eq!(named(&table, 0x1000).unwrap(), "pvh_entry+0x0");
        assert_eq!(named(&table, 0x1233).unwrap(), "pvh_entry+0x233");
        assert_eq!(named(&table, 0x1234).unwrap(), "platform::clock::now+0x0");
        assert_eq!(
            named(&table, 0x9_1235).unwrap(),
            "platform::clock::wall+0x1"
        );
        assert_eq!(named(&table, 0xfff), None);
    }

    #[test]
    fn names_are_stored_once_by_word() {
        let functions: BTreeMap<u64, String> = (0..1000)
            .map(|n| {
                (
                    0x1000 + n * 64,
                    format!("_ZN8platform5clock3now17h{n:016x}E"),
                )
            })
            .collect();
        assert!(encode(0x1000, &functions).len() < 1000 * 8);
    }

    #[test]
    fn a_table_that_is_cut_off_or_broken_yields_no_name_and_no_panic() {
        let functions: BTreeMap<u64, String> = (0..50)
            .map(|n| {
                (
                    0x1000 + n * 300,
                    format!("_ZN8platform5clock3n{:02}17h{n:016x}E", n),
                )
            })
            .collect();
        let table = encode(0x1000, &functions);
        for end in 0..table.len() {
            assert_eq!(named(&table[..end], 0x2000), None);
        }
        for at in 0..table.len() {
            let mut broken = table.clone();
            broken[at] ^= 0xff;
            let _ = named(&broken, 0x2000);
        }
    }

    #[test]
    fn an_image_without_functions_has_an_empty_table() {
        let table = encode(0x1000, &BTreeMap::new());
        assert_eq!(table.len(), symbols::HEADER_BYTES);
        assert!(table.starts_with(&symbols::MAGIC));
        assert_eq!(symbols::table_bytes(&table), Some(table.len()));
        assert_eq!(named(&table, 0x1000), None);
    }
}
