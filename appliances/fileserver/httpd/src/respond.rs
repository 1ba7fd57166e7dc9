//! What to answer to a request.
//!
//! This decides; [`connection`](crate::connection) receives and sends.

use crate::change;
use crate::dav::multistatus::{self, FINITE_DEPTH};
use crate::dav::question;
use crate::http::answer::{self, FileFacts};
use crate::http::head::{Head, Status, short_answer};
use crate::http::request::{ALLOW, Depth, Method, Request};
use crate::http::target::Encoded;
use crate::listing::Listing;
use crate::metrics::{self, Metrics};
use crate::place;
use crate::propfind::{Propfind, tag_of};
use crate::task::{Outcome, Task};
use crate::upload::Upload;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use rump::Errno;
use rump::fs::{self, File, FileType, Metadata};

/// An answer on its way.
pub(crate) struct Outgoing {
    pub text: String,
    pub sent: usize,
    pub body: Body,
    pub keep_alive: bool,
}

/// What follows the text of an answer.
pub(crate) enum Body {
    Nothing,
    File { file: File, at: u64, end: u64 },
    Listing(Listing),
    Propfind(Box<Propfind>),
    Metrics(Metrics),
}

impl Outgoing {
    pub fn text(text: String, keep_alive: bool) -> Outgoing {
        Outgoing {
            text,
            sent: 0,
            body: Body::Nothing,
            keep_alive,
        }
    }

    /// One whose body is made while it is sent: in chunks, or, for a client of HTTP/1.0, up to the end of the connection.
    fn made(request: &Request, mut head: Head, body: Body) -> Outgoing {
        let chunked = request.chunked_allowed;
        let keep_alive = request.keep_alive && chunked;
        if chunked {
            head.line(format_args!("Transfer-Encoding: chunked"));
        }
        Outgoing {
            text: head.finish(keep_alive),
            sent: 0,
            body,
            keep_alive,
        }
    }

    /// Makes it the last one of its connection.
    pub fn last(mut self) -> Outgoing {
        if self.keep_alive
            && let Some(line) = self.text.find("\r\n")
        {
            self.text.insert_str(line + 2, "Connection: close\r\n");
        }
        self.keep_alive = false;
        self
    }
}

/// What a request comes to.
pub(crate) enum Plan {
    /// This answer.
    Answer(Outgoing),
    /// Its body first.
    Receive(Sink),
    /// Something that takes long.
    Work(Task),
}

/// Where a body goes.
pub(crate) enum Sink {
    Upload(Upload),
    /// To be read when it is complete.
    Text(Vec<u8>),
    /// Nowhere; the answer is known.
    Skip(Outgoing),
}

/// A short answer. One to a request whose body has not been read leaves the connection open only if
/// `keep_alive` says so.
pub(crate) fn short(request: &Request, status: Status, keep_alive: bool, wall: i64) -> Outgoing {
    let head_only = request.method == Method::Head;
    if status == Status::NO_CONTENT {
        let head = Head::new(status, wall);
        return Outgoing::text(head.finish(keep_alive), keep_alive);
    }
    let allow;
    let fields = match status {
        Status::METHOD_NOT_ALLOWED => {
            allow = format!("Allow: {ALLOW}\r\n");
            &allow
        }
        Status::SERVICE_UNAVAILABLE => "Retry-After: 1\r\n",
        _ => "",
    };
    let text = short_answer(status, fields, wall, keep_alive, head_only);
    Outgoing::text(text, keep_alive)
}

/// Decides what a request comes to; its body, if it has one, has not been read.
pub(crate) fn plan(request: &Request, root: &[u8], wall: i64) -> Plan {
    match decide(request, root, wall) {
        Ok(plan) => plan,
        Err(status) => Plan::Answer(short(request, status, request.keep_alive, wall)),
    }
}

fn decide(request: &Request, root: &[u8], wall: i64) -> Result<Plan, Status> {
    if request.method == Method::Other {
        return Err(Status::METHOD_NOT_ALLOWED);
    }
    let path = request.path.as_deref().ok_or(Status::BAD_REQUEST)?;
    let reads = matches!(
        request.method,
        Method::Get | Method::Head | Method::Options | Method::Propfind | Method::Proppatch
    );
    if place::is_hidden_path(path) || (path == metrics::PATH && !reads) {
        return Err(if reads {
            Status::NOT_FOUND
        } else {
            Status::FORBIDDEN
        });
    }
    match request.method {
        Method::Get | Method::Head if path == metrics::PATH => {
            Ok(Plan::Answer(counted(request, wall)))
        }
        Method::Get | Method::Head => get(request, root, path, wall).map(Plan::Answer),
        Method::Options => Ok(Plan::Answer(options(request, wall))),
        Method::Propfind | Method::Proppatch => asked(request, root, path, wall),
        _ => change::decide(request, root, path, wall),
    }
}

/// The full path of what a client knows as `path`, without a slash at its end.
pub(crate) fn full_path(root: &[u8], path: &[u8]) -> Vec<u8> {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    [root, path].concat()
}

fn get(request: &Request, root: &[u8], path: &[u8], wall: i64) -> Result<Outgoing, Status> {
    match find(request, root, path, wall) {
        Ok(Found::Answer(outgoing)) => Ok(outgoing),
        Ok(Found::Elsewhere) => {
            let fields = format!("Location: {}/\r\n", Encoded(path));
            let head_only = request.method == Method::Head;
            let status = Status::MOVED_PERMANENTLY;
            let text = short_answer(status, &fields, wall, request.keep_alive, head_only);
            Ok(Outgoing::text(text, request.keep_alive))
        }
        Err(errno) => Err(told(path, errno)),
    }
}

/// The status for an error of the file system's; what is our fault, or the disk's, is logged.
pub(crate) fn told(path: &[u8], errno: Errno) -> Status {
    let status = Status::from(errno);
    if status == Status::INTERNAL_SERVER_ERROR {
        log::warn!("fileserver: {}: {errno}", path.escape_ascii());
    }
    status
}

/// RFC 9110 §9.3.7, RFC 4918 §10.1: class 1, which has no locks.
fn options(request: &Request, wall: i64) -> Outgoing {
    let mut head = Head::new(Status::OK, wall);
    head.line(format_args!("DAV: 1"));
    head.line(format_args!("Allow: {ALLOW}"));
    // Some clients of Microsoft's ask for it before they try WebDAV.
    head.line(format_args!("MS-Author-Via: DAV"));
    head.line(format_args!("Content-Length: 0"));
    Outgoing::text(head.finish(request.keep_alive), request.keep_alive)
}

/// PROPFIND and PROPPATCH, as far as their heads say.
fn asked(request: &Request, root: &[u8], path: &[u8], wall: i64) -> Result<Plan, Status> {
    let is_finite = matches!(request.depth, Some(Depth::Zero | Depth::One));
    if request.method == Method::Propfind && !is_finite {
        let status = Status::FORBIDDEN;
        return Ok(Plan::Answer(xml(request, status, FINITE_DEPTH, wall)));
    }
    if request.has_body() {
        return Ok(Plan::Receive(Sink::Text(Vec::new())));
    }
    question(request, root, path, b"", wall).map(Plan::Answer)
}

/// Answers a PROPFIND or PROPPATCH whose body has come.
pub(crate) fn answer_question(request: &Request, root: &[u8], body: &[u8], wall: i64) -> Outgoing {
    let path = request.path.as_deref().unwrap_or(b"/");
    match question(request, root, path, body, wall) {
        Ok(outgoing) => outgoing,
        Err(status) => short(request, status, request.keep_alive, wall),
    }
}

fn question(
    request: &Request,
    root: &[u8],
    path: &[u8],
    body: &[u8],
    wall: i64,
) -> Result<Outgoing, Status> {
    let full = [root.strip_suffix(b"/").unwrap_or(root), path].concat();
    if request.method == Method::Proppatch {
        let properties = question::proppatch(body).map_err(|_| Status::BAD_REQUEST)?;
        fs::metadata(&full).map_err(|errno| told(path, errno))?;
        let mut text = String::from(multistatus::START);
        multistatus::unchanged(&mut text, path, &properties);
        text.push_str(multistatus::END);
        return Ok(xml(request, Status::MULTI_STATUS, &text, wall));
    }
    let wanted = question::propfind(body).map_err(|_| Status::BAD_REQUEST)?;
    let deep = request.depth == Some(Depth::One);
    let chunked = request.chunked_allowed;
    let propfind =
        Propfind::open(&full, path, deep, wanted, chunked).map_err(|errno| told(path, errno))?;
    let mut head = Head::new(Status::MULTI_STATUS, wall);
    head.line(format_args!("Content-Type: {}", multistatus::CONTENT_TYPE));
    if propfind.path() != path {
        // RFC 4918 §5.2.
        head.line(format_args!(
            "Content-Location: {}",
            Encoded(propfind.path())
        ));
    }
    let body = Body::Propfind(Box::new(propfind));
    Ok(Outgoing::made(request, head, body))
}

fn xml(request: &Request, status: Status, body: &str, wall: i64) -> Outgoing {
    let mut head = Head::new(status, wall);
    head.line(format_args!("Content-Type: {}", multistatus::CONTENT_TYPE));
    head.line(format_args!("Content-Length: {}", body.len()));
    let text = head.finish(request.keep_alive) + body;
    Outgoing::text(text, request.keep_alive)
}

/// Answers what a task was for.
pub(crate) fn answer_outcome(
    request: &Request,
    root: &[u8],
    outcome: &Outcome,
    wall: i64,
) -> Outgoing {
    match outcome {
        Outcome::Whole(status) => short(request, *status, request.keep_alive, wall),
        Outcome::Members(failed) => {
            let root = root.strip_suffix(b"/").unwrap_or(root);
            let text = Outcome::members(failed, root.len());
            xml(request, Status::MULTI_STATUS, &text, wall)
        }
    }
}

/// Everything that the kernel counts.
fn counted(request: &Request, wall: i64) -> Outgoing {
    let mut head = Head::new(Status::OK, wall);
    head.line(format_args!("Content-Type: text/plain; version=0.0.4"));
    let body = match request.method {
        Method::Head => Body::Nothing,
        _ => Body::Metrics(Metrics::new(request.chunked_allowed)),
    };
    Outgoing::made(request, head, body)
}

/// Where a path led.
enum Found {
    Answer(Outgoing),
    /// A directory that was asked for without the slash at its end.
    Elsewhere,
}

fn find(request: &Request, root: &[u8], path: &[u8], wall: i64) -> Result<Found, Errno> {
    let mut full = Vec::new();
    full.extend_from_slice(root.strip_suffix(b"/").unwrap_or(root));
    full.extend_from_slice(path);
    let file = File::open(&full).map_err(|errno| match fs::metadata(&full) {
        // A device that is not there, a socket: not even to be opened, but no fault of the server's.
        Ok(facts) if !facts.is_file() && !facts.is_dir() => Errno::EACCES,
        _ => errno,
    })?;
    let facts = file.metadata()?;
    let slash = path.ends_with(b"/");
    match facts.file_type() {
        FileType::Dir if !slash => Ok(Found::Elsewhere),
        FileType::Dir => directory(request, &full, path, wall).map(Found::Answer),
        FileType::Reg if !slash => Ok(Found::Answer(regular(request, file, &facts, path, wall))),
        FileType::Reg => Err(Errno::ENOTDIR),
        // Devices, FIFOs and sockets have no bytes that a client could want.
        _ => Err(Errno::EACCES),
    }
}

/// Answers for a regular file, of which `facts` are known.
fn regular(request: &Request, file: File, facts: &Metadata, path: &[u8], wall: i64) -> Outgoing {
    let tag = tag_of(facts);
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let answer = answer::for_file(request, FileFacts { name, tag }, wall);
    Outgoing {
        text: answer.text,
        sent: 0,
        body: match answer.part {
            Some((at, end)) => Body::File { file, at, end },
            None => Body::Nothing,
        },
        keep_alive: request.keep_alive,
    }
}

/// A directory's index page if it has one, else the list of what is in it.
fn directory(request: &Request, full: &[u8], path: &[u8], wall: i64) -> Result<Outgoing, Errno> {
    const INDEX: &[u8] = b"index.html";
    let mut index = full.to_vec();
    index.extend_from_slice(INDEX);
    match File::open(&index) {
        Ok(file) => {
            let facts = file.metadata()?;
            if facts.file_type() == FileType::Reg {
                return Ok(regular(request, file, &facts, INDEX, wall));
            }
        }
        Err(Errno::ENOENT | Errno::ELOOP | Errno::ENAMETOOLONG) => {}
        Err(errno) => return Err(errno),
    }
    let mut head = Head::new(Status::OK, wall);
    head.line(format_args!("Content-Type: text/html; charset=utf-8"));
    head.line(format_args!("Cache-Control: no-cache"));
    let body = match request.method {
        Method::Head => Body::Nothing,
        _ => Body::Listing(Listing::open(full, path, request.chunked_allowed)?),
    };
    Ok(Outgoing::made(request, head, body))
}
