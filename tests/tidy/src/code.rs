//! A Rust file without what is not code: comments, the insides of string literals, and test modules.

/// The text with comments and the insides of literals blanked, byte for byte, so that offsets stay right.
pub fn without_words(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => end_of_line(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => end_of_block(bytes, at),
            b'r' | b'b' | b'c' if !is_word(at.checked_sub(1).map(|before| bytes[before])) => {
                raw_string(bytes, at).unwrap_or(at)
            }
            b'"' => end_of_string(bytes, at),
            b'\'' => end_of_char(bytes, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            at += 1;
            continue;
        }
        out[at..end]
            .iter_mut()
            .filter(|byte| **byte != b'\n')
            .for_each(|byte| *byte = b' ');
        at = end;
    }
    // Whole literals and comments were blanked, so what is left is whole characters.
    String::from_utf8(out).expect("still UTF-8")
}

/// [`without_words`], and with modules and functions under `#[cfg(test)]` blanked too.
pub fn without_tests(text: &str) -> String {
    let mut code = without_words(text);
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        let end = end_of_item(code.as_bytes(), start + "#[cfg(test)]".len());
        let blank: String = code[start..end]
            .chars()
            .map(|character| if character == '\n' { '\n' } else { ' ' })
            .collect();
        // Code outside of literals may only be ASCII or identifiers; the lengths in bytes must stay the same all the same.
        let blank = format!("{blank}{}", " ".repeat(end - start - blank.len()));
        code.replace_range(start..end, &blank);
        from = end;
    }
    code
}

/// Where `word` occurs as a word of its own.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(offset, _)| offset)
        .filter(move |offset| {
            let before = offset.checked_sub(1).map(|before| code.as_bytes()[before]);
            let after = code.as_bytes().get(offset + word.len()).copied();
            let starts = !word
                .as_bytes()
                .first()
                .is_some_and(|byte| is_word(Some(*byte)))
                || !is_word(before);
            let ends = !word
                .as_bytes()
                .last()
                .is_some_and(|byte| is_word(Some(*byte)))
                || !is_word(after);
            starts && ends
        })
}

fn is_word(byte: Option<u8>) -> bool {
    byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn end_of_line(bytes: &[u8], at: usize) -> usize {
    bytes[at..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |length| at + length)
}

fn end_of_block(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = at;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn end_of_string(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of `r"…"`, `r#"…"#`, `br"…"` and the like, if one starts here; other prefixed strings are left to [`end_of_string`].
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut open = at;
    if matches!(bytes.get(open), Some(b'b' | b'c')) {
        open += 1;
    }
    if bytes.get(open) != Some(&b'r') {
        return None;
    }
    open += 1;
    let hashes = bytes[open..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    if bytes.get(open + hashes) != Some(&b'"') {
        return None;
    }
    let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let body = open + hashes + 1;
    let length = bytes[body..]
        .windows(close.len())
        .position(|window| window == close);
    Some(length.map_or(bytes.len(), |length| body + length + close.len()))
}

/// The end of a character literal, if it is one and not a lifetime.
fn end_of_char(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes[at + 3..].iter().position(|byte| *byte == b'\'')?;
        return Some(at + 3 + close + 1);
    }
    // One character of up to four bytes, then the quote.
    (at + 2..at + 6)
        .find(|close| bytes.get(*close) == Some(&b'\''))
        .filter(|close| {
            std::str::from_utf8(&bytes[at + 1..*close])
                .is_ok_and(|inside| inside.chars().count() == 1)
        })
}

/// The end of the item that starts after an attribute: of its block, or of its semicolon.
fn end_of_item(code: &[u8], start: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in code.iter().enumerate().skip(start) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth <= 1 => return offset + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return offset + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_texts_are_blanked_and_code_is_not() {
        let text =
            "let a = \"unsafe \\\" //\"; // unsafe\n/* unsafe /* */ */ unsafe { b'\"' as u8 }";
        let code = without_words(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(
            words(&code, "unsafe").collect::<Vec<_>>(),
            [text.rfind("unsafe").expect("there")]
        );
    }

    #[test]
    fn raw_strings_and_lifetimes_are_told_apart() {
        let code = without_words("fn f<'a>(x: &'a str) { r#\" \"unsafe\" \"#; '\\''; 'é'; code }");
        assert_eq!(words(&code, "unsafe").count(), 0);
        assert_eq!(words(&code, "code").count(), 1);
        assert_eq!(words(&code, "str").count(), 1);
    }

    #[test]
    fn test_modules_are_blanked_to_their_end() {
        let code = without_tests(
            "use a;\n#[cfg(test)]\nmod tests { fn f() { std::x(); } }\nfn after() {}\n#[cfg(test)]\nextern crate std;\nstd2",
        );
        assert_eq!(words(&code, "std").count(), 0);
        assert_eq!(words(&code, "after").count(), 1);
        assert_eq!(words(&code, "std2").count(), 1);
    }

    #[test]
    fn a_word_inside_another_is_none() {
        assert_eq!(
            words("unsafe_code not_unsafe unsafe", "unsafe").collect::<Vec<_>>(),
            [23]
        );
        assert_eq!(words("mystd::x std::y", "std::").collect::<Vec<_>>(), [9]);
    }
}
