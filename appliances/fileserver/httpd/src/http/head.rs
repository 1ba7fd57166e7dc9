//! The head of an answer, and the short bodies that go with errors.

use super::date::HttpDate;
use super::request::Refusal;
use alloc::string::String;
use core::fmt::{self, Write as _};
use rumpuser::Errno;

/// A status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

#[allow(missing_docs, reason = "RFC 9110 §15 describes each")]
impl Status {
    pub const OK: Status = Status(200);
    pub const CREATED: Status = Status(201);
    pub const NO_CONTENT: Status = Status(204);
    pub const PARTIAL_CONTENT: Status = Status(206);
    pub const MULTI_STATUS: Status = Status(207);
    pub const MOVED_PERMANENTLY: Status = Status(301);
    pub const NOT_MODIFIED: Status = Status(304);
    pub const BAD_REQUEST: Status = Status(400);
    pub const FORBIDDEN: Status = Status(403);
    pub const NOT_FOUND: Status = Status(404);
    pub const METHOD_NOT_ALLOWED: Status = Status(405);
    pub const REQUEST_TIMEOUT: Status = Status(408);
    pub const CONFLICT: Status = Status(409);
    pub const PRECONDITION_FAILED: Status = Status(412);
    pub const CONTENT_TOO_LARGE: Status = Status(413);
    pub const UNSUPPORTED_MEDIA_TYPE: Status = Status(415);
    pub const RANGE_NOT_SATISFIABLE: Status = Status(416);
    pub const HEAD_TOO_LARGE: Status = Status(431);
    pub const INTERNAL_SERVER_ERROR: Status = Status(500);
    pub const NOT_IMPLEMENTED: Status = Status(501);
    pub const BAD_GATEWAY: Status = Status(502);
    pub const SERVICE_UNAVAILABLE: Status = Status(503);
    pub const VERSION_NOT_SUPPORTED: Status = Status(505);
    pub const INSUFFICIENT_STORAGE: Status = Status(507);

    /// The reason phrase.
    pub fn reason(self) -> &'static str {
        match self.0 {
            200 => "OK",
            201 => "Created",
            204 => "No Content",
            206 => "Partial Content",
            207 => "Multi-Status",
            301 => "Moved Permanently",
            304 => "Not Modified",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            409 => "Conflict",
            412 => "Precondition Failed",
            413 => "Content Too Large",
            415 => "Unsupported Media Type",
            416 => "Range Not Satisfiable",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            501 => "Not Implemented",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            505 => "HTTP Version Not Supported",
            507 => "Insufficient Storage",
            _ => "Unknown",
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        match refusal {
            Refusal::BadRequest => Status::BAD_REQUEST,
            Refusal::HeadTooLarge => Status::HEAD_TOO_LARGE,
            Refusal::NotImplemented => Status::NOT_IMPLEMENTED,
            Refusal::Version => Status::VERSION_NOT_SUPPORTED,
        }
    }
}

impl From<Errno> for Status {
    /// What a file system's answer means to a client.
    fn from(errno: Errno) -> Status {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => Status::NOT_FOUND,
            Errno::ENAMETOOLONG | Errno::EINVAL => Status::BAD_REQUEST,
            // A link to itself leads nowhere.
            Errno::ELOOP => Status::NOT_FOUND,
            // EBUSY is a mount's root, which is not to be moved or removed.
            Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::EBUSY => Status::FORBIDDEN,
            Errno::EEXIST | Errno::ENOTEMPTY | Errno::EISDIR => Status::CONFLICT,
            Errno::ENOSPC | Errno::EDQUOT | Errno::EMLINK => Status::INSUFFICIENT_STORAGE,
            Errno::EFBIG => Status::CONTENT_TOO_LARGE,
            // RFC 4918 §9.8.5 names it for another part of the same server's tree.
            Errno::EXDEV => Status::BAD_GATEWAY,
            Errno::ENOMEM | Errno::ENOBUFS | Errno::ENFILE | Errno::EMFILE | Errno::EAGAIN => {
                Status::SERVICE_UNAVAILABLE
            }
            _ => Status::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.reason())
    }
}

/// A version of a file: it changes when the file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ETag {
    /// The inode's number.
    pub inode: u64,
    /// The size in bytes.
    pub size: u64,
    /// When it was last modified: seconds and nanoseconds since 1970.
    pub modified: (i64, u32),
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = self.modified;
        write!(
            f,
            "\"{:x}-{:x}-{seconds:x}.{nanos:x}\"",
            self.inode, self.size
        )
    }
}

impl ETag {
    /// Whether an `If-None-Match` list names this version (RFC 9110 §13.1.2: weak comparison).
    pub fn is_in(&self, list: &[u8]) -> bool {
        let mut own = String::new();
        if write!(own, "{self}").is_err() {
            return false;
        }
        list.split(|byte| *byte == b',').any(|entry| {
            let entry = entry.trim_ascii();
            let strong = entry.strip_prefix(b"W/").unwrap_or(entry);
            entry == b"*" || strong == own.as_bytes()
        })
    }

    /// Whether an `If-Match` list names this version (RFC 9110 §13.1.1: strong comparison).
    pub fn is_strongly_in(&self, list: &[u8]) -> bool {
        list.split(|byte| *byte == b',')
            .filter(|entry| !entry.trim_ascii().starts_with(b"W/"))
            .any(|entry| self.is_in(entry))
    }
}

/// Writes the head of an answer.
pub struct Head {
    text: String,
}

impl Head {
    /// Starts a head. `now` is the civil time, in seconds since 1970.
    pub fn new(status: Status, now: i64) -> Head {
        let mut head = Head {
            text: String::with_capacity(320),
        };
        head.line(format_args!("HTTP/1.1 {status}"));
        head.line(format_args!("Date: {}", HttpDate(now)));
        head.line(format_args!("Server: rump"));
        head
    }

    /// Adds a line.
    pub fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing into a String fails only if a formatter of ours does, and ours do not.
        let _ = self.text.write_fmt(line);
        self.text.push_str("\r\n");
    }

    /// Ends the head.
    pub fn finish(mut self, keep_alive: bool) -> String {
        if !keep_alive {
            self.line(format_args!("Connection: close"));
        }
        self.text.push_str("\r\n");
        self.text
    }
}

/// A whole answer for a status that has nothing else to say: a short page.
///
/// `fields` are further lines of the head, each with its line end. To HEAD only the head is sent.
pub fn short_answer(
    status: Status,
    fields: &str,
    now: i64,
    keep_alive: bool,
    head_only: bool,
) -> String {
    let mut body = String::new();
    // As above.
    let _ = writeln!(
        body,
        "<!doctype html><meta charset=utf-8><meta name=color-scheme content=\"light dark\">\
         <title>{status}</title><h1>{status}</h1>"
    );
    let mut head = Head::new(status, now);
    head.line(format_args!("Content-Type: text/html; charset=utf-8"));
    head.line(format_args!("Content-Length: {}", body.len()));
    head.text.push_str(fields);
    let mut text = head.finish(keep_alive);
    if !head_only {
        text.push_str(&body);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn a_short_answer_says_its_own_length() {
        let text = short_answer(Status::NOT_FOUND, "X: y\r\n", 0, true, false);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 404 Not Found\r\nDate: Thu, 01 Jan 1970"));
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(head.contains("X: y") && !head.contains("Connection"));
        let text = short_answer(Status::BAD_REQUEST, "", 0, false, true);
        assert!(text.ends_with("Connection: close\r\n\r\n"));
    }

    #[test]
    fn a_version_is_found_in_a_list_however_weak() {
        let tag = ETag {
            inode: 7,
            size: 255,
            modified: (16, 1),
        };
        assert_eq!(format!("{tag}"), "\"7-ff-10.1\"");
        assert!(tag.is_in(b"\"a\", W/\"7-ff-10.1\""));
        assert!(tag.is_in(b"*"));
        assert!(!tag.is_in(b"\"7-ff-10.2\", 7-ff-10.1"));
    }

    #[test]
    fn every_status_has_a_reason() {
        for errno in 1..100 {
            let status = Status::from(Errno::new(errno).unwrap());
            assert_ne!(status.reason(), "Unknown");
        }
    }
}
