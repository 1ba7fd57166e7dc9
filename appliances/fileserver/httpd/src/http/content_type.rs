//! Content types by the ending of a name (the media types of IANA's registry).

/// Endings in lower case, and their types.
const TYPES: &[(&str, &str)] = &[
    ("7z", "application/x-7z-compressed"),
    ("aac", "audio/aac"),
    ("apng", "image/apng"),
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("bz2", "application/x-bzip2"),
    ("c", "text/plain; charset=utf-8"),
    ("conf", "text/plain; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("epub", "application/epub+zip"),
    ("flac", "audio/flac"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("h", "text/plain; charset=utf-8"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("ics", "text/calendar; charset=utf-8"),
    ("iso", "application/x-iso9660-image"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("log", "text/plain; charset=utf-8"),
    ("m4a", "audio/mp4"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/ogg"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("py", "text/plain; charset=utf-8"),
    ("rs", "text/plain; charset=utf-8"),
    ("rtf", "application/rtf"),
    ("sh", "text/plain; charset=utf-8"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("tgz", "application/gzip"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("toml", "text/plain; charset=utf-8"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xhtml", "application/xhtml+xml"),
    ("xml", "text/xml; charset=utf-8"),
    ("xz", "application/x-xz"),
    ("yaml", "text/yaml; charset=utf-8"),
    ("yml", "text/yaml; charset=utf-8"),
    ("zip", "application/zip"),
    ("zst", "application/zstd"),
];

/// The longest ending in the table.
const LONGEST: usize = 5;

/// Names without an ending that are text by long custom.
const TEXTS: &[&[u8]] = &[
    b"README",
    b"LICENSE",
    b"COPYING",
    b"Makefile",
    b"NEWS",
    b"AUTHORS",
    b"INSTALL",
    b"CHANGES",
];

/// The content type of a file of this name.
pub fn of(name: &[u8]) -> &'static str {
    let unknown = "application/octet-stream";
    let Some(dot) = name.iter().rposition(|byte| *byte == b'.') else {
        return match TEXTS.contains(&name) {
            true => "text/plain; charset=utf-8",
            false => unknown,
        };
    };
    let ending = &name[dot + 1..];
    if ending.is_empty() || ending.len() > LONGEST {
        return unknown;
    }
    let mut lower = [0; LONGEST];
    let lower = &mut lower[..ending.len()];
    lower.copy_from_slice(ending);
    lower.make_ascii_lowercase();
    match TYPES.binary_search_by(|(known, _)| known.as_bytes().cmp(lower)) {
        Ok(index) => TYPES[index].1,
        Err(_) => unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_found_in_any_case() {
        assert_eq!(of(b"index.html"), "text/html; charset=utf-8");
        assert_eq!(of(b"PHOTO.JPG"), "image/jpeg");
        assert_eq!(of(b"a.tar.gz"), "application/gzip");
        assert_eq!(of(b"README"), "text/plain; charset=utf-8");
        for odd in [&b"x"[..], b"x.", b".", b"", b"x.toolongending", b"x.\xff"] {
            assert_eq!(of(odd), "application/octet-stream");
        }
    }

    #[test]
    fn the_table_is_sorted_and_as_short_as_said() {
        assert!(TYPES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(TYPES.iter().all(|(ending, _)| ending.len() <= LONGEST));
    }
}
