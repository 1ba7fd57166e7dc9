//! A request's head, parsed by `httparse` and judged by RFC 9112.

use super::target;
use alloc::vec::Vec;

/// The longest head in bytes; a longer one is 431.
pub const HEAD_MAX: usize = 8192;

/// The most fields in a head; more are 431.
const FIELDS_MAX: usize = 64;

/// What a client may ask for here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The bytes.
    Get,
    /// What GET would say, without the bytes.
    Head,
    /// A method that this server does not have.
    Other,
}

/// Why a head cannot be served; the number is the status to answer with. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400.
    BadRequest,
    /// 431: the head is too long, or has too many fields.
    HeadTooLarge,
    /// 505.
    Version,
}

/// A request, as far as this server cares.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, decoded; `None` if the target names nothing that may be looked up: 400.
    pub path: Option<Vec<u8>>,
    /// The connection stays open after the answer.
    pub keep_alive: bool,
    /// The client speaks HTTP/1.1, so an answer may be chunked.
    pub chunked_allowed: bool,
    /// `Range`.
    pub range: Option<Vec<u8>>,
    /// `If-Range`.
    pub if_range: Option<Vec<u8>>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<Vec<u8>>,
    /// `If-None-Match`; several fields are one list.
    pub if_none_match: Option<Vec<u8>>,
}

/// What the bytes received so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Not yet a head.
    Partial,
    /// A head of `length` bytes.
    Complete {
        /// The request.
        request: Request,
        /// How many of the bytes it took.
        length: usize,
    },
}

impl Request {
    /// Parses the head at the start of `bytes`.
    ///
    /// # Errors
    /// The refusal to answer with; what follows on the connection cannot be trusted then.
    pub fn parse(bytes: &[u8]) -> Result<Parsed, Refusal> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Request::new(&mut fields);
        match head.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => {
                let request = Request::judge(&head)?;
                Ok(Parsed::Complete { request, length })
            }
            Ok(httparse::Status::Complete(_)) => Err(Refusal::HeadTooLarge),
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => Ok(Parsed::Partial),
            Ok(httparse::Status::Partial) => Err(Refusal::HeadTooLarge),
            Err(httparse::Error::TooManyHeaders) => Err(Refusal::HeadTooLarge),
            Err(httparse::Error::Version) => Err(Refusal::Version),
            Err(_) => Err(Refusal::BadRequest),
        }
    }

    fn judge(head: &httparse::Request<'_, '_>) -> Result<Request, Refusal> {
        let method = match head.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            _ => Method::Other,
        };
        let newer = head.version == Some(1);
        let mut request = Request {
            method,
            path: target::decode(head.path.unwrap_or("")),
            keep_alive: newer,
            chunked_allowed: newer,
            range: None,
            if_range: None,
            if_modified_since: None,
            if_none_match: None,
        };
        let mut hosts = 0;
        let mut body = false;
        for field in head.headers.iter() {
            request.take(field, &mut hosts, &mut body);
        }
        // RFC 9112 §3.2: exactly one Host from a client of 1.1, at most one from any.
        if hosts > 1 || (newer && hosts == 0) {
            return Err(Refusal::BadRequest);
        }
        // No method served here has a use for a body. It is not read, so what follows it cannot be
        // found: the connection ends after the answer.
        if body {
            request.keep_alive = false;
        }
        Ok(request)
    }

    fn take(&mut self, field: &httparse::Header<'_>, hosts: &mut usize, body: &mut bool) {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let value = || Some(field.value.to_vec());
        if is("host") {
            *hosts += 1;
        } else if is("connection") {
            self.connection(field.value);
        } else if is("content-length") {
            *body |= field.value.trim_ascii() != b"0";
        } else if is("transfer-encoding") {
            *body = true;
        } else if is("range") {
            self.range = value();
        } else if is("if-range") {
            self.if_range = value();
        } else if is("if-modified-since") {
            self.if_modified_since = value();
        } else if is("if-none-match") {
            let list = self.if_none_match.get_or_insert_with(Vec::new);
            if !list.is_empty() {
                list.push(b',');
            }
            list.extend_from_slice(field.value);
        }
    }

    /// RFC 9112 §9.3: a list of options; `close` beats `keep-alive`.
    fn connection(&mut self, value: &[u8]) {
        let has = |option: &[u8]| {
            value
                .split(|byte| *byte == b',')
                .any(|word| word.trim_ascii().eq_ignore_ascii_case(option))
        };
        if has(b"close") {
            self.keep_alive = false;
        } else if has(b"keep-alive") {
            self.keep_alive = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;

    fn complete(text: &str) -> (Request, usize) {
        match Request::parse(text.as_bytes()) {
            Ok(Parsed::Complete { request, length }) => (request, length),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pipelined_head_ends_where_the_next_begins() {
        let one = "GET /a HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n";
        let (request, length) = complete(&format!("{one}GET /b HTTP/1.1\r\n"));
        assert_eq!(length, one.len());
        assert_eq!(request.path.as_deref(), Some(&b"/a"[..]));
        assert_eq!(request.range.as_deref(), Some(&b"bytes=0-1"[..]));
        assert!(request.keep_alive);
    }

    #[test]
    fn every_prefix_of_a_head_is_partial() {
        let head = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(Request::parse(&head.as_bytes()[..end]), Ok(Parsed::Partial));
        }
    }

    #[test]
    fn the_connection_stays_or_ends_as_the_version_and_the_client_say() {
        let keeps = |text: &str| complete(text).0.keep_alive;
        assert!(keeps("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
        assert!(!keeps(
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n"
        ));
        assert!(!keeps(
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        ));
        assert!(keeps(
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        ));
        assert!(!keeps(
            "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
    }

    #[test]
    fn one_host_and_no_other_number_of_them() {
        let parse = |text: &str| Request::parse(text.as_bytes());
        assert_eq!(parse("GET / HTTP/1.1\r\n\r\n"), Err(Refusal::BadRequest));
        assert_eq!(
            parse("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
            Err(Refusal::BadRequest)
        );
    }

    #[test]
    fn a_head_without_end_is_431_and_never_more_than_its_limit() {
        let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n", "a".repeat(HEAD_MAX));
        assert_eq!(Request::parse(long.as_bytes()), Err(Refusal::HeadTooLarge));
        let mut many = String::from("GET / HTTP/1.1\r\nHost: x\r\n");
        for number in 0..100 {
            many.push_str(&format!("X-{number}: y\r\n"));
        }
        many.push_str("\r\n");
        assert_eq!(Request::parse(many.as_bytes()), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn what_is_not_http_is_refused() {
        let parse = |text: &[u8]| Request::parse(text);
        assert_eq!(parse(b"\x16\x03\x01\x02\x00"), Err(Refusal::BadRequest));
        assert_eq!(parse(b"GET / HTTP/2.0\r\n\r\n"), Err(Refusal::Version));
        assert_eq!(
            parse(b"GET /\x01 HTTP/1.1\r\n\r\n"),
            Err(Refusal::BadRequest)
        );
        assert_eq!(complete("BREW / HTTP/1.0\r\n\r\n").0.method, Method::Other);
        assert_eq!(complete("GET /.. HTTP/1.0\r\n\r\n").0.path, None);
    }

    #[test]
    fn seeded_garbage_never_panics() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let base =
            b"GET /a%20b HTTP/1.1\r\nHost: x\r\nRange: bytes=0-9\r\nConnection: close\r\n\r\n";
        for _ in 0..20_000 {
            let mut bytes = base.to_vec();
            for _ in 0..4 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 24) as u8;
            }
            // Any verdict will do; what counts is that there is one.
            let _ = Request::parse(&bytes);
        }
    }
}
