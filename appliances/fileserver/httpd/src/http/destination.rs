//! Where a COPY or MOVE is to go (RFC 4918 §10.3).

use super::target;
use alloc::vec::Vec;

/// Why a destination cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadDestination {
    /// It is no URL that names something here: 400.
    Malformed,
    /// It is on another server: 502.
    Elsewhere,
}

/// The path that `value` names on the server that the client calls `host`, decoded as the path of a request is.
///
/// Both forms of RFC 4918 are taken, an absolute URL and an absolute path. `https` counts as well: what ends the
/// encryption in front of this server need not rewrite the field.
///
/// # Errors
/// Why it cannot be.
pub fn parse(value: &[u8], host: Option<&[u8]>) -> Result<Vec<u8>, BadDestination> {
    let text = core::str::from_utf8(value.trim_ascii()).map_err(|_| BadDestination::Malformed)?;
    let path = match authority_and_path(text) {
        Some((authority, path)) => {
            if !host.is_some_and(|host| is_same_host(authority, host)) {
                return Err(BadDestination::Elsewhere);
            }
            if path.starts_with('/') { path } else { "/" }
        }
        None if text.starts_with("//") => return Err(BadDestination::Elsewhere),
        None => text,
    };
    match path {
        path if path.starts_with('/') => target::decode(path).ok_or(BadDestination::Malformed),
        _ => Err(BadDestination::Malformed),
    }
}

/// Takes an absolute URL apart; `None` if it has no scheme that this server is spoken to in.
fn authority_and_path(text: &str) -> Option<(&str, &str)> {
    let rest = ["http://", "https://"].into_iter().find_map(|scheme| {
        let start = text.get(..scheme.len())?;
        start
            .eq_ignore_ascii_case(scheme)
            .then(|| &text[scheme.len()..])
    })?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// RFC 9110 §4.2.3: case does not count, nor does the port that the scheme has anyway.
fn is_same_host(authority: &str, host: &[u8]) -> bool {
    // User information is not part of what Host says.
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    without_default_port(authority.as_bytes())
        .eq_ignore_ascii_case(without_default_port(host.trim_ascii()))
}

fn without_default_port(host: &[u8]) -> &[u8] {
    [&b":80"[..], b":443", b":"]
        .into_iter()
        .find_map(|port| host.strip_suffix(port))
        .unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(value: &str) -> Result<Vec<u8>, BadDestination> {
        parse(value.as_bytes(), Some(b"Disk.example:8080"))
    }

    #[test]
    fn a_url_of_this_server_and_a_path_name_the_same() {
        for value in [
            "/a%20b/c",
            " http://disk.example:8080/a%20b/c ",
            "HTTPS://DISK.EXAMPLE:8080//a%20b/./c?x",
            "http://me:secret@disk.example:8080/a%20b/c",
        ] {
            assert_eq!(to(value).unwrap(), b"/a b/c", "{value}");
        }
        assert_eq!(to("http://disk.example:8080").unwrap(), b"/");
        assert_eq!(parse(b"http://x:80/a", Some(b"X")).unwrap(), b"/a");
    }

    #[test]
    fn another_server_is_elsewhere() {
        for value in [
            "http://other:8080/a",
            "http://disk.example/a",
            "http://disk.example:8080.evil/a",
            "http://disk.example:8080@evil/a",
            "//evil/a",
        ] {
            assert_eq!(to(value), Err(BadDestination::Elsewhere), "{value}");
        }
        assert_eq!(parse(b"http://x/a", None), Err(BadDestination::Elsewhere));
    }

    #[test]
    fn what_names_nothing_here_is_malformed() {
        for value in [
            "a",
            "",
            "ftp://disk.example:8080/a",
            "/../a",
            "/%00",
            "/%zz",
            "/a#b",
            "\u{fc}",
        ] {
            assert!(
                matches!(to(value), Err(BadDestination::Malformed)),
                "{value}: {:?}",
                to(value)
            );
        }
        assert_eq!(parse(b"/\xff", None), Err(BadDestination::Malformed));
    }
}
