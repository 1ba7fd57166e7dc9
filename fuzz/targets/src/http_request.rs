//! What a client of the file server sends: a head, a body in chunks, the XML of PROPFIND and PROPPATCH.
//!
//! An input: how the bytes come in pieces (a byte); the bytes.
//!
//! What must hold, besides no panic: how the bytes come in pieces does not matter; a path that was decoded and encoded
//! is the same path; an answer promises as many bytes as it has, and nothing of the request gets among its fields; an
//! answer of many parts is well-formed XML.

use httpd::dav::multistatus;
use httpd::dav::property::Facts;
use httpd::dav::question;
use httpd::http::answer::{FileFacts, for_file};
use httpd::http::body::{BodyLength, Decoder};
use httpd::http::condition;
use httpd::http::date::HttpDate;
use httpd::http::destination;
use httpd::http::head::ETag;
use httpd::http::range::Range;
use httpd::http::request::{Method, Parsed, Request};
use httpd::http::target;
use xmlparser::{ElementEnd, Token, Tokenizer};

use crate::input::Input;

/// 2026-01-01.
const NOW: i64 = 1_767_225_600;

const TAG: ETag = ETag {
    inode: 77,
    size: 100_000,
    modified: (NOW - 1000, 5),
};

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let step = usize::from(input.u8()) + 1;
    let bytes = input.rest();
    let body = match Request::parse(bytes) {
        Ok(Parsed::Complete { request, length }) => {
            whole(bytes, length, step, &request);
            answered(&request);
            changed(&request);
            pieces(request.body, &bytes[length..], step);
            &bytes[length..]
        }
        Ok(Parsed::Partial) | Err(_) => bytes,
    };
    pieces(BodyLength::Chunked, body, step);
    questions(body);
    alone(body);
}

/// No part of a head is one.
fn whole(bytes: &[u8], length: usize, step: usize, request: &Request) {
    for end in (0..length).step_by(step) {
        assert_eq!(Request::parse(&bytes[..end]), Ok(Parsed::Partial), "{end}");
    }
    let alone = Request::parse(&bytes[..length]);
    let Ok(Parsed::Complete { request: again, .. }) = alone else {
        panic!("it was complete before");
    };
    assert_eq!(*again, *request);
}

/// What a file is answered with.
fn answered(request: &Request) {
    let facts = FileFacts {
        name: b"some.txt",
        tag: TAG,
    };
    let answer = for_file(request, facts, NOW);
    let (head, body) = answer.text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 "), "{head}");
    let mut promised = None;
    for line in head.split("\r\n") {
        assert!(!line.contains(['\r', '\n']), "{line:?}");
        if let Some(count) = line.strip_prefix("Content-Length: ") {
            assert!(promised.is_none(), "two lengths");
            promised = Some(count.parse::<u64>().expect("a number"));
        }
    }
    if let Some((start, end)) = answer.part {
        assert!(start < end && end <= TAG.size, "{start} to {end}");
        assert_eq!(promised, Some(end - start));
    } else if request.method != Method::Head {
        assert_eq!(promised.unwrap_or(0), body.len() as u64, "{head}");
    }
    condition::holds(request, Some(TAG), NOW);
    condition::holds(request, None, NOW);
}

/// The names in a request.
fn changed(request: &Request) {
    let destination = request.destination.as_deref();
    let destination = destination.map(|value| destination::parse(value, request.host.as_deref()));
    let paths = [request.path.clone(), destination.and_then(Result::ok)];
    for path in paths.into_iter().flatten() {
        assert!(path.starts_with(b"/"), "{path:?}");
        assert!(!path.contains(&0));
        let mut parts = path.split(|byte| *byte == b'/');
        assert!(!parts.any(|part| matches!(part, b"." | b"..")), "{path:?}");
        let encoded = target::Encoded(&path).to_string();
        assert_eq!(target::decode(&encoded), Some(path), "{encoded}");
    }
}

/// Takes a body apart, at once and in pieces.
fn pieces(length: BodyLength, bytes: &[u8], step: usize) {
    let at_once = decoded(length, bytes, bytes.len().max(1));
    let in_pieces = decoded(length, bytes, step);
    assert_eq!(at_once, in_pieces, "in pieces of {step}");
}

/// The body, how many bytes it took, and whether it ended; nothing if it is none.
fn decoded(length: BodyLength, bytes: &[u8], step: usize) -> Option<(Vec<u8>, usize, bool)> {
    let mut decoder = Decoder::new(length);
    let (mut body, mut at) = (Vec::new(), 0);
    for piece in bytes.chunks(step) {
        let mut from = 0;
        while from < piece.len() && !decoder.is_done() {
            let decoded = decoder.decode(&piece[from..]).ok()?;
            assert!(decoded.consumed > 0, "it gets on");
            assert!(decoded.data.end <= decoded.consumed);
            body.extend_from_slice(&piece[from..][decoded.data]);
            from += decoded.consumed;
        }
        at += from;
    }
    Some((body, at, decoder.is_done()))
}

/// What a PROPFIND or PROPPATCH asks, and the answer.
fn questions(body: &[u8]) {
    let mut out = String::from(multistatus::START);
    let path = &body[..body.len().min(40)];
    if let Ok(wanted) = question::propfind(body) {
        for is_collection in [false, true] {
            let facts = Facts {
                name: path,
                is_collection,
                tag: TAG,
                created: is_collection.then_some(NOW),
            };
            multistatus::properties(&mut out, path, &facts, &wanted);
        }
    }
    if let Ok(properties) = question::proppatch(body) {
        multistatus::unchanged(&mut out, path, &properties);
    }
    out.push_str(multistatus::END);
    well_formed(&out);
}

fn well_formed(text: &str) {
    let mut open = Vec::new();
    let mut last = None;
    for token in Tokenizer::from(text) {
        match token.unwrap_or_else(|error| panic!("{error} in {text}")) {
            Token::ElementStart { prefix, local, .. } => last = Some((prefix, local)),
            Token::ElementEnd { end, .. } => match end {
                ElementEnd::Open => open.push(last.expect("it was started")),
                ElementEnd::Empty => {}
                ElementEnd::Close(prefix, local) => {
                    let (was, name) = open.pop().expect("it was opened");
                    let same = was.as_str() == prefix.as_str() && name.as_str() == local.as_str();
                    assert!(same, "{local} ends {name} in {text}");
                }
            },
            _ => {}
        }
    }
    assert!(open.is_empty(), "{text}");
}

/// Values of fields that are read by themselves.
fn alone(bytes: &[u8]) {
    if let Some(date) = HttpDate::parse(bytes, NOW) {
        let text = date.to_string();
        // Years of four digits alone can be written.
        if let Some(again) = HttpDate::parse(text.as_bytes(), NOW) {
            assert_eq!(again, date, "{text}");
        }
    }
    for size in [0, 1, 1000, u64::MAX] {
        if let Range::Part { start, end } = Range::parse(bytes, size) {
            assert!(start < end && end <= size, "{start} to {end} of {size}");
        }
    }
    TAG.is_in(bytes);
    TAG.is_strongly_in(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        target::decode(text);
    }
}

/// Inputs to start from: requests of every method, and bodies.
pub fn seeds() -> Vec<Vec<u8>> {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let find = "<?xml version=\"1.0\"?><D:propfind xmlns:D=\"DAV:\" xmlns=\"u\"><D:prop><D:getetag/><x/>\
                </D:prop></D:propfind>";
    let patch = "<d:propertyupdate xmlns:d='DAV:'><d:set><d:prop><x xmlns='u'><y/></x></d:prop></d:set>\
                 </d:propertyupdate>";
    let texts = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        format!("GET /a%20b/c?d#e HTTP/1.1\r\nHost: a\r\nRange: bytes=1-2\r\nIf-Range: {date}\r\n\r\n"),
        format!("HEAD http://a/b HTTP/1.0\r\nConnection: keep-alive\r\nIf-Modified-Since: {date}\r\n\r\n"),
        format!("GET /a HTTP/1.1\r\nHost: a\r\nIf-None-Match: W/\"1\", {TAG}\r\nIf-Match: *\r\n\r\n"),
        "PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello".into(),
        "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n".into(),
        "MOVE /a HTTP/1.1\r\nHost: a:80\r\nDestination: http://a:80/b%2fc\r\nOverwrite: F\r\nDepth: 0\r\n\r\n".into(),
        format!("COPY /a HTTP/1.1\r\nHost: a\r\nDestination: /b\r\nDepth: infinity\r\nIf-Unmodified-Since: {date}\r\n\r\n"),
        format!("PROPFIND / HTTP/1.1\r\nHost: a\r\nDepth: 1\r\nContent-Length: {}\r\n\r\n{find}", find.len()),
        format!("PROPPATCH /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{patch}", patch.len()),
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "MKCOL /d/ HTTP/1.1\r\nHost: a\r\nContent-Range: bytes 0-1/2\r\n\r\n".into(),
        "DELETE /d HTTP/1.1\r\nHost: a\r\nIf: (<x>)\r\n\r\n".into(),
        find.into(),
        patch.into(),
        "<propfind xmlns='DAV:'><allprop/></propfind>".into(),
        "5\r\nhello\r\n0\r\n\r\n".into(),
        date.into(),
        "Sunday, 06-Nov-94 08:49:37 GMT".into(),
        "Sun Nov  6 08:49:37 1994".into(),
        "bytes=-5".into(),
        "/a/%2e%2e/b".into(),
    ];
    let steps = [0u8, 2, 6].into_iter();
    let seeds = steps.flat_map(|step| {
        let texts: Vec<String> = texts.to_vec();
        texts
            .into_iter()
            .map(move |text| [&[step][..], text.as_bytes()].concat())
    });
    seeds.collect()
}
