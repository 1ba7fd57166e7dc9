//! A request's head, parsed by `httparse` and judged by RFC 9112.

use super::body::BodyLength;
use super::target;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// The longest head in bytes; a longer one is 431.
pub const HEAD_MAX: usize = 8192;

/// The most fields in a head; more are 431.
const FIELDS_MAX: usize = 64;

/// What a client may ask for here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "RFC 9110 §9.3 and RFC 4918 §9 describe each")]
pub enum Method {
    Get,
    Head,
    Options,
    Put,
    Delete,
    Mkcol,
    Copy,
    Move,
    Propfind,
    Proppatch,
    /// A method that this server does not have.
    Other,
}

/// The methods there are, as `Allow` says them.
pub const ALLOW: &str = "GET, HEAD, OPTIONS, PUT, DELETE, MKCOL, COPY, MOVE, PROPFIND, PROPPATCH";

impl Method {
    fn named(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "OPTIONS" => Method::Options,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "MKCOL" => Method::Mkcol,
            "COPY" => Method::Copy,
            "MOVE" => Method::Move,
            "PROPFIND" => Method::Propfind,
            "PROPPATCH" => Method::Proppatch,
            _ => Method::Other,
        }
    }
}

/// How deep a request goes (RFC 4918 §10.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What is named alone.
    Zero,
    /// And what is in it.
    One,
    /// And all below.
    Infinity,
}

/// Why a head cannot be served; the number is the status to answer with. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400.
    BadRequest,
    /// 431: the head is too long, or has too many fields.
    HeadTooLarge,
    /// 501: a body in a coding that is not known here.
    NotImplemented,
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
    /// `Host`.
    pub host: Option<Vec<u8>>,
    /// The body that follows.
    pub body: BodyLength,
    /// `Expect: 100-continue`: the client waits with the body until it is told to go on.
    pub expects_continue: bool,
    /// There is a `Content-Range`: the body is a part of something.
    pub has_content_range: bool,
    /// `Range`.
    pub range: Option<Vec<u8>>,
    /// `If-Range`.
    pub if_range: Option<Vec<u8>>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<Vec<u8>>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since: Option<Vec<u8>>,
    /// `If-None-Match`; several fields are one list.
    pub if_none_match: Option<Vec<u8>>,
    /// `If-Match`; several fields are one list.
    pub if_match: Option<Vec<u8>>,
    /// There is an `If` (RFC 4918 §10.4).
    pub has_if: bool,
    /// `Destination`.
    pub destination: Option<Vec<u8>>,
    /// `Depth`.
    pub depth: Option<Depth>,
    /// `Overwrite` is not `F`.
    pub overwrite: bool,
}

/// What the bytes received so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Not yet a head.
    Partial,
    /// A head of `length` bytes.
    Complete {
        /// The request.
        request: Box<Request>,
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
                let request = Box::new(Request::judge(&head)?);
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
        let method = Method::named(head.method.unwrap_or(""));
        let newer = head.version == Some(1);
        let path = match head.path.unwrap_or("") {
            // RFC 9110 §9.3.7: the server itself.
            "*" if method == Method::Options => Some(b"/".to_vec()),
            target => target::decode(target),
        };
        let mut request = Request {
            method,
            path,
            keep_alive: newer,
            chunked_allowed: newer,
            host: None,
            body: BodyLength::Nothing,
            expects_continue: false,
            has_content_range: false,
            range: None,
            if_range: None,
            if_modified_since: None,
            if_unmodified_since: None,
            if_none_match: None,
            if_match: None,
            has_if: false,
            destination: None,
            depth: None,
            overwrite: true,
        };
        let mut hosts = 0;
        for field in head.headers.iter() {
            if field.name.eq_ignore_ascii_case("host") {
                hosts += 1;
            }
            request.take(field)?;
        }
        // RFC 9112 §3.2: exactly one Host from a client of 1.1, at most one from any.
        if hosts > 1 || (newer && hosts == 0) {
            return Err(Refusal::BadRequest);
        }
        // RFC 9112 §6.1: a client of 1.0 does not know chunks; RFC 9110 §10.1.1: nor can it wait.
        if !newer && request.body == BodyLength::Chunked {
            return Err(Refusal::BadRequest);
        }
        request.expects_continue &= newer;
        // These have no use for a body. It is not read, so what follows it cannot be found: the
        // connection ends after the answer.
        let unread = matches!(method, Method::Get | Method::Head | Method::Options);
        if unread && request.has_body() {
            request.keep_alive = false;
        }
        Ok(request)
    }

    /// Whether a body of at least one byte may follow.
    pub fn has_body(&self) -> bool {
        !matches!(self.body, BodyLength::Nothing | BodyLength::Bytes(0))
    }

    fn take(&mut self, field: &httparse::Header<'_>) -> Result<(), Refusal> {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let value = field.value.trim_ascii();
        if is("host") {
            self.host = Some(value.to_vec());
        } else if is("connection") {
            self.connection(value);
        } else if is("content-length") {
            return self.content_length(value);
        } else if is("transfer-encoding") {
            return self.transfer_encoding(value);
        } else if is("expect") {
            self.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
        } else if is("content-range") {
            self.has_content_range = true;
        } else if is("range") {
            self.range = Some(value.to_vec());
        } else if is("depth") {
            self.depth = Some(depth(value)?);
        } else if is("overwrite") {
            self.overwrite = overwrite(value)?;
        } else if is("destination") {
            self.destination = Some(value.to_vec());
        } else if field
            .name
            .get(..2)
            .is_some_and(|start| start.eq_ignore_ascii_case("if"))
        {
            self.condition(field.name, value);
        }
        Ok(())
    }

    fn condition(&mut self, name: &str, value: &[u8]) {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("if") {
            self.has_if = true;
        } else if is("if-range") {
            self.if_range = Some(value.to_vec());
        } else if is("if-modified-since") {
            self.if_modified_since = Some(value.to_vec());
        } else if is("if-unmodified-since") {
            self.if_unmodified_since = Some(value.to_vec());
        } else if is("if-none-match") {
            extend_list(&mut self.if_none_match, value);
        } else if is("if-match") {
            extend_list(&mut self.if_match, value);
        }
    }

    /// RFC 9112 §6.2, §6.3: two that differ, or one beside `Transfer-Encoding`, is how requests are smuggled.
    fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let digits = core::str::from_utf8(value).map_err(|_| Refusal::BadRequest)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Refusal::BadRequest);
        }
        let length = BodyLength::Bytes(digits.parse().map_err(|_| Refusal::BadRequest)?);
        if self.body != BodyLength::Nothing && self.body != length {
            return Err(Refusal::BadRequest);
        }
        self.body = length;
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.body != BodyLength::Nothing {
            return Err(Refusal::BadRequest);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::NotImplemented);
        }
        self.body = BodyLength::Chunked;
        Ok(())
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

fn extend_list(list: &mut Option<Vec<u8>>, value: &[u8]) {
    let list = list.get_or_insert_with(Vec::new);
    if !list.is_empty() {
        list.push(b',');
    }
    list.extend_from_slice(value);
}

fn depth(value: &[u8]) -> Result<Depth, Refusal> {
    match value {
        b"0" => Ok(Depth::Zero),
        b"1" => Ok(Depth::One),
        _ if value.eq_ignore_ascii_case(b"infinity") => Ok(Depth::Infinity),
        _ => Err(Refusal::BadRequest),
    }
}

/// RFC 4918 §10.6.
fn overwrite(value: &[u8]) -> Result<bool, Refusal> {
    match value {
        b"T" | b"t" => Ok(true),
        b"F" | b"f" => Ok(false),
        _ => Err(Refusal::BadRequest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;

    fn complete(text: &str) -> (Request, usize) {
        match Request::parse(text.as_bytes()) {
            Ok(Parsed::Complete { request, length }) => (*request, length),
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
    fn a_body_ends_where_one_field_says_and_not_two() {
        let parse = |fields: &str| {
            let text = format!("PUT /a HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
            match Request::parse(text.as_bytes()) {
                Ok(Parsed::Complete { request, .. }) => Ok(request.body),
                Ok(Parsed::Partial) => panic!("{text}"),
                Err(refusal) => Err(refusal),
            }
        };
        assert_eq!(parse("Content-Length: 5"), Ok(BodyLength::Bytes(5)));
        assert_eq!(parse("Transfer-Encoding: Chunked"), Ok(BodyLength::Chunked));
        assert_eq!(parse("X: y"), Ok(BodyLength::Nothing));
        let same = "Content-Length: 5\r\nContent-Length: 5";
        assert_eq!(parse(same), Ok(BodyLength::Bytes(5)));
        for fields in [
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: +5",
            "Content-Length: -5",
            "Content-Length: 5, 5",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ] {
            assert_eq!(parse(fields), Err(Refusal::BadRequest), "{fields}");
        }
        let unknown = parse("Transfer-Encoding: gzip, chunked");
        assert_eq!(unknown, Err(Refusal::NotImplemented));
    }

    #[test]
    fn what_webdav_adds_is_read_and_judged() {
        let (request, _) = complete(
            "MOVE /a HTTP/1.1\r\nHost: x\r\nDepth: Infinity\r\nOverwrite: F\r\n\
             Destination: /b\r\nIf-Match: \"1\"\r\nIf-Match: \"2\"\r\nIf: (<x>)\r\n\r\n",
        );
        assert_eq!(request.method, Method::Move);
        assert_eq!(request.depth, Some(Depth::Infinity));
        assert!(!request.overwrite && request.has_if);
        assert_eq!(request.destination.as_deref(), Some(&b"/b"[..]));
        assert_eq!(request.if_match.as_deref(), Some(&b"\"1\",\"2\""[..]));
        for field in ["Depth: 2", "Depth: 1,0", "Overwrite: yes"] {
            let text = format!("COPY /a HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n");
            let parsed = Request::parse(text.as_bytes());
            assert_eq!(parsed, Err(Refusal::BadRequest), "{field}");
        }
    }

    #[test]
    fn the_server_itself_has_options() {
        let (request, _) = complete("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(request.path.as_deref(), Some(&b"/"[..]));
        let (request, _) = complete("GET * HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(request.path, None);
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
