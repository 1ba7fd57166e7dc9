//! The members of an archive that `tar --format=ustar` made, one header at a time: POSIX.1-2017, pax, "ustar Interchange Format".
//!
//! Both guests unpack with this, so that they do the same.

use alloc::format;
use alloc::string::String;

/// What a header takes, and what contents are rounded up to, in bytes.
pub const BLOCK: usize = 512;

/// A file or a directory.
pub struct Member {
    /// Relative to where the archive is unpacked.
    pub path: String,
    pub is_directory: bool,
    /// Permission bits.
    pub mode: u32,
    /// Bytes of contents, which follow the header.
    pub size: usize,
    /// Seconds since 1970.
    pub modified: i64,
}

impl Member {
    /// What `header` says; `None`: it is the end of the archive, or says nothing that could be unpacked.
    pub fn parse(header: &[u8; BLOCK]) -> Option<Member> {
        // name[100] mode[8] uid[8] gid[8] size[12] mtime[12] chksum[8] typeflag[1] linkname[100] magic[6] ... prefix[155] from 345.
        let number =
            |from: usize, len: usize| u64::from_str_radix(text(header, from, len)?, 8).ok();
        let (name, prefix) = (text(header, 0, 100)?, text(header, 345, 155)?);
        if name.is_empty() || text(header, 257, 5) != Some("ustar") {
            return None;
        }
        let path = match prefix {
            "" => String::from(name),
            prefix => format!("{prefix}/{name}"),
        };
        Some(Member {
            path: String::from(path.trim_start_matches("./").trim_end_matches('/')),
            is_directory: header[156] == b'5',
            mode: (number(100, 8)? & 0o7777) as u32,
            size: number(124, 12)? as usize,
            modified: number(136, 12)? as i64,
        })
    }
}

/// A field, up to its first zero.
fn text(header: &[u8; BLOCK], from: usize, len: usize) -> Option<&str> {
    let field = header.get(from..from + len)?;
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(len);
    core::str::from_utf8(&field[..end])
        .ok()
        .map(str::trim_ascii)
}
