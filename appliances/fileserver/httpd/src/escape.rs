//! Text in HTML and XML.

use core::fmt::{self, Write as _};

/// Bytes as text or in an attribute; what is no UTF-8, and what XML cannot hold (XML 1.0 §2.2, Char), shows as U+FFFD.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '&' => f.write_str("&amp;")?,
                    '<' => f.write_str("&lt;")?,
                    '>' => f.write_str("&gt;")?,
                    '"' => f.write_str("&quot;")?,
                    '\'' => f.write_str("&#39;")?,
                    // XML 1.0 §2.2, Char.
                    '\u{fffe}' | '\u{ffff}' => f.write_char('\u{fffd}')?,
                    control if control.is_control() => f.write_char('\u{fffd}')?,
                    other => f.write_char(other)?,
                }
            }
            if !chunk.invalid().is_empty() {
                f.write_char('\u{fffd}')?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn text_is_never_markup() {
        assert_eq!(
            Escaped(b"<a b='c'>&\"\xff\x01\xef\xbf\xbf").to_string(),
            "&lt;a b=&#39;c&#39;&gt;&amp;&quot;\u{fffd}\u{fffd}\u{fffd}"
        );
    }
}
