//! The page that shows a directory: name, size and date; dark and light as the reader's system is.
//!
//! It is written in pieces, so that a directory of any size needs little memory: first
//! [`Page::head`], then a [`Row`] for each entry, then [`FOOT`].

use crate::escape::Escaped;
use crate::http::date::Civil;
use crate::http::target::Encoded;
use alloc::string::String;
use core::fmt::{self, Write as _};

/// The signs in front of names are drawn here: no font need have them.
const STYLE: &str = "\
:root{color-scheme:light dark;--fg:#1b1f24;--mute:#667080;--bg:#fbfcfd;--row:#eef2f6;--line:#dde3ea;--link:#0b5fc0}\
@media(prefers-color-scheme:dark){:root{--fg:#e4e8ee;--mute:#8b96a5;--bg:#14171b;--row:#1d2228;--line:#2a3038;--link:#7db7ff}}\
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}\
main{max-width:60rem;margin:0 auto;padding:2rem 1rem 4rem}h1{font-size:1.25rem;font-weight:600;overflow-wrap:anywhere}\
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}h1 a{padding:0 .1em}\
table{width:100%;border-collapse:collapse;font-variant-numeric:tabular-nums}\
th{text-align:left;font-weight:500;font-size:.85rem;color:var(--mute);border-bottom:1px solid var(--line)}\
th,td{padding:.38rem .6rem}tbody tr:hover{background:var(--row)}td:first-child{overflow-wrap:anywhere}\
.s,.t{white-space:nowrap;color:var(--mute);width:1%}.s{text-align:right}\
td:first-child::before{content:\"\";display:inline-block;width:1em;height:1em;margin-right:.6em;vertical-align:-.13em;\
background:var(--mute);-webkit-mask:var(--i) center/contain no-repeat;mask:var(--i) center/contain no-repeat}\
.d{--i:url(\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M1 3h5l2 2h7v8H1z'/%3E%3C/svg%3E\")}\
.f{--i:url(\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M3 1h6l4 4v10H3zM9 1v4h4'/%3E%3C/svg%3E\")}\
.l{--i:url(\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M6 2h8v8l-3-3-5 5-2-2 5-5z'/%3E%3C/svg%3E\")}\
.u{--i:url(\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M8 2l6 6h-4v6H6V8H2z'/%3E%3C/svg%3E\")}\
footer{margin-top:1.5rem;color:var(--mute);font-size:.85rem}@media(max-width:34rem){.t{display:none}}";

/// What ends the page.
pub const FOOT: &str = "</tbody></table>\n<footer>Served by a rump kernel</footer></main>\n";

/// What an entry is, for the sign in front of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A directory, or a link to one.
    Directory,
    /// A regular file, or a link to one.
    File,
    /// Something else, such as a link to nothing or a device.
    Other,
}

/// What starts the page.
pub struct Page<'a> {
    /// The directory's path, decoded, normal, with a slash at both ends.
    pub path: &'a [u8],
}

impl Page<'_> {
    /// Everything up to the first entry.
    pub fn head(&self) -> String {
        let mut text = String::new();
        // Writing into a String fails only if a formatter of ours does, and ours do not.
        let _ = write!(
            text,
            "<!doctype html>\n<html lang=en><meta charset=utf-8>\
             <meta name=viewport content=\"width=device-width,initial-scale=1\">\
             <title>{title}</title>\n<style>{STYLE}</style>\n<main><h1>{crumbs}</h1>\n\
             <table><thead><tr><th>Name<th class=s>Size<th class=t>Modified</thead><tbody>\n",
            title = Escaped(self.path),
            crumbs = Crumbs(self.path),
        );
        if self.path != b"/" {
            text.push_str("<tr><td class=u><a href=\"../\">..</a><td class=s><td class=t>\n");
        }
        text
    }
}

/// One entry.
pub struct Row<'a> {
    /// The name, without a slash.
    pub name: &'a [u8],
    /// What it is.
    pub kind: Kind,
    /// Bytes, if it is a file.
    pub size: Option<u64>,
    /// When it was last modified, in seconds since 1970, if that is known.
    pub modified: Option<i64>,
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (class, slash) = match self.kind {
            Kind::Directory => ('d', "/"),
            Kind::File => ('f', ""),
            Kind::Other => ('l', ""),
        };
        // A name with a colon would be taken for a scheme (RFC 3986 §4.2), hence the "./".
        write!(
            f,
            "<tr><td class={class}><a href=\"./{}{slash}\">{}{slash}</a><td class=s>",
            Encoded(self.name),
            Escaped(self.name)
        )?;
        if let Some(size) = self.size {
            write!(f, "{}", Size(size))?;
        }
        f.write_str("<td class=t>")?;
        if let Some(seconds) = self.modified {
            let at = Civil::from_unix(seconds);
            write!(
                f,
                "{:04}-{:02}-{:02} {:02}:{:02}",
                at.year, at.month, at.day, at.hour, at.minute
            )?;
        }
        f.write_char('\n')
    }
}

/// The path as links, one for each directory on the way.
struct Crumbs<'a>(&'a [u8]);

impl fmt::Display for Crumbs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<a href=\"/\">/</a>")?;
        let mut end = 1;
        for name in self.0.split(|byte| *byte == b'/') {
            if name.is_empty() {
                continue;
            }
            end += name.len() + 1;
            let here = self.0.get(..end).unwrap_or(self.0);
            write!(f, "<a href=\"{}\">{}</a>/", Encoded(here), Escaped(name))?;
        }
        Ok(())
    }
}

/// A size as a person reads it: `0 B`, `1023 B`, `1.5 KiB`, `64 MiB`.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        // In tenths of the unit, rounded; the next unit takes over where rounding reaches 1024.
        let mut unit = 0;
        let mut tenths = tenths_of(self.0, unit);
        while tenths >= 10_240 && unit + 1 < UNITS.len() {
            unit += 1;
            tenths = tenths_of(self.0, unit);
        }
        match tenths {
            0..100 if !tenths.is_multiple_of(10) => {
                write!(f, "{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
            }
            _ => write!(f, "{} {}", (tenths + 5) / 10, UNITS[unit]),
        }
    }
}

fn tenths_of(bytes: u64, unit: usize) -> u64 {
    let shift = 10 * (unit as u32 + 1);
    ((u128::from(bytes) * 10 + (1u128 << (shift - 1))) >> shift) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    #[test]
    fn sizes_are_as_a_person_reads_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10 * 1024 + 700, "11 KiB"),
            (64 << 20, "64 MiB"),
            ((1 << 20) - 1, "1 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn a_name_is_never_markup() {
        let row = Row {
            name: b"<b>&\"a:b\xff",
            kind: Kind::File,
            size: Some(1),
            modified: Some(0),
        };
        assert_eq!(
            format!("{row}"),
            "<tr><td class=f><a href=\"./%3Cb%3E%26%22a%3Ab%FF\">&lt;b&gt;&amp;&quot;a:b\u{fffd}</a>\
             <td class=s>1 B<td class=t>1970-01-01 00:00\n"
        );
    }

    #[test]
    fn each_directory_on_the_way_is_a_link() {
        assert_eq!(Crumbs(b"/").to_string(), "<a href=\"/\">/</a>");
        assert_eq!(
            Crumbs(b"/a/b c/").to_string(),
            "<a href=\"/\">/</a><a href=\"/a/\">a</a>/<a href=\"/a/b%20c/\">b c</a>/"
        );
    }

    #[test]
    fn only_the_root_has_no_way_up() {
        assert!(!Page { path: b"/" }.head().contains("../"));
        assert!(Page { path: b"/a/" }.head().contains("href=\"../\""));
    }
}
