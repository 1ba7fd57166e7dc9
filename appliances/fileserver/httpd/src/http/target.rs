//! From a request target to a path in the exported tree (RFC 9112 §3.2, RFC 3986 §2.1).

use alloc::vec::Vec;
use core::fmt::{self, Write as _};

/// The longest path that is looked up, in bytes: POSIX's `PATH_MAX` as NetBSD has it, with its NUL.
pub const PATH_MAX: usize = 1024;

/// The longest name between two slashes, in bytes.
pub const NAME_MAX: usize = 255;

/// Takes the path out of a request target, decoded and with a slash at its front. Queries are
/// dropped. `None` for what no path of this server may look like: a `..` or NUL or bad percent
/// escape, a path or name too long, a fragment (which is a client's own affair: RFC 9110 §4.2.5), a target that is neither a path
/// nor a URL.
pub fn decode(target: &str) -> Option<Vec<u8>> {
    let path = origin_form(target)?;
    if path.contains('#') {
        return None;
    }
    let path = path.split('?').next().unwrap_or("");
    let mut decoded = Vec::with_capacity(path.len().min(PATH_MAX));
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            other => other,
        };
        if byte == 0 || decoded.len() + 1 >= PATH_MAX {
            return None;
        }
        decoded.push(byte);
    }
    // Checked when decoded, so that %2e%2e and %2f hide nothing.
    let fine = decoded
        .split(|byte| *byte == b'/')
        .all(|name| name != b".." && name.len() <= NAME_MAX);
    fine.then(|| normal(&decoded))
}

/// One slash where there were several, and no "." between slashes: a path that starts with two
/// slashes would be read as a host's name when it stands in a link or a redirection.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut normal = Vec::with_capacity(path.len());
    for name in path.split(|byte| *byte == b'/') {
        if !name.is_empty() && name != b"." {
            normal.push(b'/');
            normal.extend_from_slice(name);
        }
    }
    if path.ends_with(b"/") || path.ends_with(b"/.") {
        normal.push(b'/');
    }
    normal
}

/// RFC 9112 §3.2: a server must take the absolute form too.
fn origin_form(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let scheme = target.get(..7)?;
    if !scheme.eq_ignore_ascii_case("http://") {
        return None;
    }
    let rest = &target[7..];
    match rest.find('/') {
        Some(slash) => Some(&rest[slash..]),
        None => Some("/"),
    }
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// Writes bytes of a path so that they stand in a URL: everything but RFC 3986's unreserved
/// characters and the slash is percent-encoded.
pub struct Encoded<'a>(pub &'a [u8]);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                    f.write_char(*byte as char)?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn escapes_are_decoded_and_queries_dropped() {
        assert_eq!(
            decode("/a%20b/c%C3%A4?x=%00").unwrap(),
            "/a b/cä".as_bytes()
        );
        assert_eq!(decode("http://host:8080/x").unwrap(), b"/x");
        assert_eq!(decode("HTTP://host").unwrap(), b"/");
        assert_eq!(decode("/..a/a../...").unwrap(), b"/..a/a../...");
    }

    #[test]
    fn slashes_and_dots_are_made_normal() {
        assert_eq!(decode("//host//a/./b/").unwrap(), b"/host/a/b/");
        assert_eq!(decode("///").unwrap(), b"/");
        assert_eq!(decode("/a/.").unwrap(), b"/a/");
        assert_eq!(decode("/%2f/a").unwrap(), b"/a");
    }

    #[test]
    fn no_path_leaves_the_tree() {
        for target in [
            "/..",
            "/../etc",
            "/a/../b",
            "/a/%2e%2e/b",
            "/%2E./x",
            "/a%2f..%2fb",
            "/a%2f%2e%2e",
            "/nul%00",
            "/%",
            "/%4",
            "/%zz",
            "",
            "a",
            "*",
            "ftp://h/x",
        ] {
            assert_eq!(decode(target), None, "{target}");
        }
    }

    #[test]
    fn long_names_and_paths_are_refused_at_their_limits() {
        let name = "n".repeat(NAME_MAX);
        assert!(decode(&format!("/{name}")).is_some());
        assert!(decode(&format!("/{name}n")).is_none());
        let path = format!("/{}", "ab/".repeat(341));
        assert_eq!(path.len(), PATH_MAX);
        assert!(decode(&path).is_none());
        assert!(decode(&path[..PATH_MAX - 1]).is_some());
    }

    #[test]
    fn encoding_is_the_way_back() {
        let path: Vec<u8> = b"/a b/\xc3\xa4%?#&<>'\"".to_vec();
        let encoded = format!("{}", Encoded(&path));
        assert_eq!(encoded, "/a%20b/%C3%A4%25%3F%23%26%3C%3E%27%22");
        assert_eq!(decode(&encoded).unwrap(), path);
    }
}
