//! What to answer for a regular file: which status, which head, which bytes (RFC 9110 §13, §14).

use super::condition;
use super::content_type;
use super::date::HttpDate;
use super::head::{ETag, Head, Status, short_answer};
use super::range::Range;
use super::request::{Method, Request};
use alloc::format;
use alloc::string::String;

/// What of a regular file an answer depends on.
#[derive(Clone, Copy, Debug)]
pub struct FileFacts<'a> {
    /// The last part of the path that was asked for.
    pub name: &'a [u8],
    /// Which version of which file; has the size.
    pub tag: ETag,
}

/// An answer: text to send, then a part of the file.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The head, and the body where it is not the file.
    pub text: String,
    /// The part of the file to send after it, from the first byte up to, not including, the second.
    pub part: Option<(u64, u64)>,
}

/// Answers a GET or HEAD for a file. `now` is the civil time in seconds since 1970.
pub fn for_file(request: &Request, facts: FileFacts<'_>, now: i64) -> Answer {
    let modified = HttpDate(facts.tag.modified.0);
    let head_only = request.method == Method::Head;
    if !condition::is_the_known_one(request, Some(facts.tag), now) {
        let status = Status::PRECONDITION_FAILED;
        return Answer {
            text: short_answer(status, "", now, request.keep_alive, head_only),
            part: None,
        };
    }
    if is_not_modified(request, facts.tag, modified, now) {
        let mut head = Head::new(Status::NOT_MODIFIED, now);
        version_lines(&mut head, facts.tag, modified);
        return Answer {
            text: head.finish(request.keep_alive),
            part: None,
        };
    }
    let size = facts.tag.size;
    let (status, start, end) = match wanted_range(request, facts.tag, modified, now) {
        Range::Whole => (Status::OK, 0, size),
        Range::Part { start, end } => (Status::PARTIAL_CONTENT, start, end),
        Range::Unsatisfiable => {
            let fields = format!("Content-Range: bytes */{size}\r\n");
            let status = Status::RANGE_NOT_SATISFIABLE;
            return Answer {
                text: short_answer(status, &fields, now, request.keep_alive, head_only),
                part: None,
            };
        }
    };
    let mut head = Head::new(status, now);
    head.line(format_args!(
        "Content-Type: {}",
        content_type::of(facts.name)
    ));
    head.line(format_args!("Content-Length: {}", end - start));
    if status == Status::PARTIAL_CONTENT {
        let last = end - 1;
        head.line(format_args!("Content-Range: bytes {start}-{last}/{size}"));
    }
    head.line(format_args!("Accept-Ranges: bytes"));
    version_lines(&mut head, facts.tag, modified);
    Answer {
        text: head.finish(request.keep_alive),
        part: (!head_only && start < end).then_some((start, end)),
    }
}

fn version_lines(head: &mut Head, tag: ETag, modified: HttpDate) {
    head.line(format_args!("Last-Modified: {modified}"));
    head.line(format_args!("ETag: {tag}"));
}

/// RFC 9110 §13.2.2: `If-None-Match` decides alone where it is present.
fn is_not_modified(request: &Request, tag: ETag, modified: HttpDate, now: i64) -> bool {
    if let Some(list) = &request.if_none_match {
        return tag.is_in(list);
    }
    let since = request.if_modified_since.as_deref();
    since
        .and_then(|text| HttpDate::parse(text, now))
        .is_some_and(|since| modified <= since)
}

/// RFC 9110 §13.1.5, §14.2: a range counts for GET alone, and only if `If-Range` names this version.
fn wanted_range(request: &Request, tag: ETag, modified: HttpDate, now: i64) -> Range {
    let Some(value) = request.range.as_deref() else {
        return Range::Whole;
    };
    if request.method != Method::Get {
        return Range::Whole;
    }
    if let Some(condition) = request.if_range.as_deref() {
        let condition = condition.trim_ascii();
        let same = match condition.first() {
            // A weak tag never matches here, where bytes must be the same.
            Some(b'"') => tag.is_in(condition),
            Some(b'W') if condition.starts_with(b"W/") => false,
            _ => HttpDate::parse(condition, now) == Some(modified),
        };
        if !same {
            return Range::Whole;
        }
    }
    Range::parse(value, tag.size)
}

#[cfg(test)]
mod tests {
    use super::super::request::Parsed;
    use super::*;

    const TAG: ETag = ETag {
        inode: 3,
        size: 100,
        modified: (784_111_777, 0),
    };

    fn answer(fields: &str) -> Answer {
        answer_to("GET", fields)
    }

    fn answer_to(method: &str, fields: &str) -> Answer {
        let text = format!("{method} /a.txt HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let Ok(Parsed::Complete { request, .. }) = Request::parse(text.as_bytes()) else {
            panic!("{text}");
        };
        let facts = FileFacts {
            name: b"a.txt",
            tag: TAG,
        };
        for_file(&request, facts, 1_700_000_000)
    }

    fn status(answer: &Answer) -> &str {
        &answer.text[9..12]
    }

    #[test]
    fn a_plain_get_is_the_whole_file_with_its_version() {
        let answer = answer("");
        assert_eq!((status(&answer), answer.part), ("200", Some((0, 100))));
        for line in [
            "Content-Length: 100\r\n",
            "Content-Type: text/plain; charset=utf-8\r\n",
            "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
            "ETag: \"3-64-2ebc98a1.0\"\r\n",
            "Accept-Ranges: bytes\r\n",
        ] {
            assert!(answer.text.contains(line), "{line} in {}", answer.text);
        }
    }

    #[test]
    fn head_says_the_same_and_sends_nothing() {
        let (get, head) = (answer(""), answer_to("HEAD", "Range: bytes=0-1\r\n"));
        assert_eq!(get.text, head.text);
        assert_eq!(head.part, None);
    }

    #[test]
    fn a_range_is_206_and_one_beyond_the_end_416() {
        let part = answer("Range: bytes=10-19\r\n");
        assert_eq!((status(&part), part.part), ("206", Some((10, 20))));
        assert!(part.text.contains("Content-Range: bytes 10-19/100\r\n"));
        assert!(part.text.contains("Content-Length: 10\r\n"));
        let beyond = answer("Range: bytes=100-\r\n");
        assert_eq!((status(&beyond), beyond.part), ("416", None));
        assert!(beyond.text.contains("Content-Range: bytes */100\r\n"));
    }

    #[test]
    fn what_the_client_has_is_304_and_the_tag_beats_the_date() {
        let date = "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        let other = "If-None-Match: \"x\"\r\n";
        let same = "If-None-Match: W/\"3-64-2ebc98a1.0\"\r\n";
        assert_eq!(status(&answer(date)), "304");
        assert_eq!(status(&answer(same)), "304");
        assert_eq!(status(&answer(&format!("{date}{other}"))), "200");
        let older = "If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n";
        assert_eq!(status(&answer(older)), "200");
        assert_eq!(status(&answer("If-Modified-Since: soon\r\n")), "200");
    }

    #[test]
    fn a_range_of_another_version_is_the_whole() {
        let range = "Range: bytes=0-0\r\n";
        let with = |condition: &str| answer(&format!("{range}If-Range: {condition}\r\n"));
        assert_eq!(status(&with("\"3-64-2ebc98a1.0\"")), "206");
        assert_eq!(status(&with("Sun, 06 Nov 1994 08:49:37 GMT")), "206");
        assert_eq!(status(&with("W/\"3-64-2ebc98a1.0\"")), "200");
        assert_eq!(status(&with("\"other\"")), "200");
        assert_eq!(status(&with("Sun, 06 Nov 1994 08:49:38 GMT")), "200");
    }
}
