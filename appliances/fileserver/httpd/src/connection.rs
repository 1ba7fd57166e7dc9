//! One client: what has been read, what is being sent, and what comes next.

use crate::http::answer::{self, FileFacts};
use crate::http::head::{ETag, Head, Status, short_answer};
use crate::http::request::{HEAD_MAX, Method, Parsed, Request};
use crate::http::target::Encoded;
use crate::listing::Listing;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use rump::fs::{self, File, FileType};
use rump::net::TcpStream;
use rump::{Errno, Instant, thread};

/// Bytes asked of a socket at once. Most heads fit into the first.
const READ_STEP: usize = 1024;

/// Bytes of a file handed to a socket at once.
const SEND_STEP: usize = 64 << 10;

/// Bytes sent before another connection gets its turn.
const TURN: usize = 256 << 10;

/// Bytes of a body that nobody wants, read so that the answer is not destroyed by a reset.
const DRAIN_MAX: usize = 256 << 10;

/// How long a connection may stay without a request.
const IDLE_MAX: Duration = Duration::from_secs(75);

/// How long a head may take from its first byte to its last.
const HEAD_TIME_MAX: Duration = Duration::from_secs(15);

/// How long a client may take nothing of its answer.
const STALL_MAX: Duration = Duration::from_secs(60);

/// How long the other's end is awaited after the last answer.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// A pause for the pagedaemon when there was no memory.
const STARVED_PAUSE: Duration = Duration::from_millis(2);

/// The path of the kernel's counters; it hides a file of that name.
const METRICS: &[u8] = b"/.metrics";

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Something to read.
    Readable,
    /// Room to send.
    Writable,
    /// Nothing: it goes on in its next turn.
    Turn,
    /// It has ended.
    Closed,
}

/// What is going on.
enum State {
    /// A head is awaited, or has come in part.
    Reading,
    /// An answer is on its way.
    Sending(Outgoing),
    /// The last answer was sent, and our side is shut; the other's end is awaited, so that the
    /// bytes it still sends do not make a reset that overtakes the answer (RFC 9112 §9.6).
    Draining { left: usize },
}

/// An answer on its way.
struct Outgoing {
    text: String,
    sent: usize,
    body: Body,
    keep_alive: bool,
}

/// What follows the text of an answer.
enum Body {
    Nothing,
    File { file: File, at: u64, end: u64 },
    Listing(Listing),
}

/// One client.
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    state: State,
    /// When what is going on began.
    since: Instant,
    /// When a byte last moved, either way.
    active: Instant,
}

impl Connection {
    /// A connection just accepted; its stream does not block.
    pub fn new(stream: TcpStream, now: Instant) -> Connection {
        Connection {
            stream,
            input: Vec::new(),
            state: State::Reading,
            since: now,
            active: now,
        }
    }

    /// Makes it one that is told to come again later, and ends.
    pub fn refuse(&mut self, wall: i64) {
        let status = Status::SERVICE_UNAVAILABLE;
        let text = short_answer(status, "Retry-After: 1\r\n", wall, false, false);
        self.state = State::Sending(Outgoing::text(text, false));
    }

    /// When a byte last moved.
    pub fn active(&self) -> Instant {
        self.active
    }

    /// Whether it is between two requests, so that ending it now breaks nothing.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Reading) && self.input.is_empty()
    }

    /// Whether it has lasted too long: a head that does not come to its end, an answer that nobody
    /// takes, an end that does not come, or nothing at all.
    pub fn has_expired(&self, now: Instant) -> bool {
        match &self.state {
            State::Reading if self.input.is_empty() => now - self.active > IDLE_MAX,
            State::Reading => now - self.since > HEAD_TIME_MAX,
            State::Sending(_) => now - self.active > STALL_MAX,
            State::Draining { .. } => now - self.since > DRAIN_TIME_MAX,
        }
    }

    /// Goes on as far as possible without waiting for the client. Reading the disk may block.
    pub fn advance(&mut self, root: &[u8], now: Instant, wall: i64) -> Next {
        let mut turn = TURN;
        loop {
            let was = core::mem::discriminant(&self.state);
            let idle = self.is_idle();
            let step = match &mut self.state {
                State::Reading => self.read_request(root, wall),
                State::Sending(_) => self.send(&mut turn),
                State::Draining { .. } => self.drain(),
            };
            if idle || was != core::mem::discriminant(&self.state) {
                self.since = now;
            }
            match step {
                Ok(()) => self.active = now,
                Err(Step::Wait(next)) => return next,
                Err(Step::Starved) => {
                    thread::sleep(STARVED_PAUSE);
                    return Next::Turn;
                }
                Err(Step::Close) => return Next::Closed,
            }
            if turn == 0 {
                return Next::Turn;
            }
        }
    }

    fn read_request(&mut self, root: &[u8], wall: i64) -> Result<(), Step> {
        if !self.input.is_empty() {
            match Request::parse(&self.input) {
                Ok(Parsed::Complete { request, length }) => {
                    self.input.drain(..length);
                    if self.input.is_empty() {
                        // An idle connection holds no buffer.
                        self.input = Vec::new();
                    }
                    self.state = State::Sending(respond(&request, root, wall));
                    return Ok(());
                }
                Ok(Parsed::Partial) => {}
                Err(refusal) => {
                    self.input = Vec::new();
                    let text = short_answer(Status::from(refusal), "", wall, false, false);
                    self.state = State::Sending(Outgoing::text(text, false));
                    return Ok(());
                }
            }
        }
        let mut buffer = [0; READ_STEP];
        let room = HEAD_MAX
            .saturating_sub(self.input.len())
            .clamp(1, READ_STEP);
        match self.stream.read(&mut buffer[..room]) {
            Ok(0) => Err(Step::Close),
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(Errno::EAGAIN) => Err(Step::Wait(Next::Readable)),
            Err(_) => Err(Step::Close),
        }
    }

    fn send(&mut self, turn: &mut usize) -> Result<(), Step> {
        let State::Sending(outgoing) = &mut self.state else {
            return Ok(());
        };
        if outgoing.sent < outgoing.text.len() {
            let rest = &outgoing.text.as_bytes()[outgoing.sent..];
            let more = !matches!(outgoing.body, Body::Nothing);
            let count = self.stream.send(rest, more).map_err(Step::from_send)?;
            outgoing.sent += count;
            *turn = turn.saturating_sub(count);
            return Ok(());
        }
        match &mut outgoing.body {
            Body::File { file, at, end } if *at < *end => {
                let want = (*end - *at).min(SEND_STEP as u64) as usize;
                let count = self
                    .stream
                    .send_file(file, *at, want)
                    .map_err(Step::from_send)?;
                if count == 0 {
                    // The file is shorter than its head said: only an end can tell the client.
                    return Err(Step::Close);
                }
                *at += count as u64;
                *turn = turn.saturating_sub(count);
                Ok(())
            }
            Body::Listing(listing) => match listing.next_piece() {
                Ok(Some(piece)) => {
                    outgoing.text = piece;
                    outgoing.sent = 0;
                    Ok(())
                }
                Ok(None) => {
                    outgoing.body = Body::Nothing;
                    Ok(())
                }
                Err(_) => Err(Step::Close),
            },
            Body::File { .. } | Body::Nothing => self.answered(),
        }
    }

    /// An answer has been sent wholly.
    fn answered(&mut self) -> Result<(), Step> {
        let keep_alive = matches!(&self.state, State::Sending(outgoing) if outgoing.keep_alive);
        if keep_alive {
            self.state = State::Reading;
            return Ok(());
        }
        self.stream.shutdown_write().map_err(|_| Step::Close)?;
        self.state = State::Draining { left: DRAIN_MAX };
        Ok(())
    }

    fn drain(&mut self) -> Result<(), Step> {
        let State::Draining { left } = &mut self.state else {
            return Ok(());
        };
        let mut buffer = [0; READ_STEP];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(Step::Close),
            Ok(count) => {
                *left = left.checked_sub(count).ok_or(Step::Close)?;
                Ok(())
            }
            Err(Errno::EAGAIN) => Err(Step::Wait(Next::Readable)),
            Err(_) => Err(Step::Close),
        }
    }
}

/// Why a step did not get on.
enum Step {
    Wait(Next),
    /// The kernel had no memory for it: the pagedaemon is at work.
    Starved,
    Close,
}

impl Step {
    fn from_send(errno: Errno) -> Step {
        match errno {
            Errno::EAGAIN => Step::Wait(Next::Writable),
            Errno::ENOBUFS | Errno::ENOMEM => Step::Starved,
            _ => Step::Close,
        }
    }
}

impl Outgoing {
    fn text(text: String, keep_alive: bool) -> Outgoing {
        Outgoing {
            text,
            sent: 0,
            body: Body::Nothing,
            keep_alive,
        }
    }
}

/// Decides what to answer.
fn respond(request: &Request, root: &[u8], wall: i64) -> Outgoing {
    let head_only = request.method == Method::Head;
    let keep_alive = request.keep_alive;
    let short = |status, fields: &str| {
        let text = short_answer(status, fields, wall, keep_alive, head_only);
        Outgoing::text(text, keep_alive)
    };
    if request.method == Method::Other {
        return short(Status::METHOD_NOT_ALLOWED, "Allow: GET, HEAD\r\n");
    }
    let Some(path) = request.path.as_deref() else {
        return short(Status::BAD_REQUEST, "");
    };
    if path == METRICS {
        return metrics(request, wall);
    }
    match find(request, root, path, wall) {
        Ok(Found::Answer(outgoing)) => outgoing,
        Ok(Found::Elsewhere) => {
            let fields = format!("Location: {}/\r\n", Encoded(path));
            short(Status::MOVED_PERMANENTLY, &fields)
        }
        Err(errno) => {
            let status = Status::from(errno);
            if status == Status::INTERNAL_SERVER_ERROR {
                log::warn!("fileserver: {}: {errno}", path.escape_ascii());
            }
            short(status, "")
        }
    }
}

/// Everything that the kernel counts, in the text format of Prometheus 0.0.4.
fn metrics(request: &Request, wall: i64) -> Outgoing {
    let mut body = String::new();
    if let Some(kernel) = rumpkern::curkernel() {
        // Writing into a String fails only if a formatter fails, and the kernel's do not.
        let _ = kernel.counters().write_prometheus(&mut body, "rump_");
    }
    let mut head = Head::new(Status::OK, wall);
    head.line(format_args!("Content-Type: text/plain; version=0.0.4"));
    head.line(format_args!("Content-Length: {}", body.len()));
    let mut text = head.finish(request.keep_alive);
    if request.method == Method::Get {
        text.push_str(&body);
    }
    Outgoing::text(text, request.keep_alive)
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
        FileType::Reg if !slash => Ok(Found::Answer(regular(request, file, path, wall)?)),
        FileType::Reg => Err(Errno::ENOTDIR),
        // Devices, FIFOs and sockets have no bytes that a client could want.
        _ => Err(Errno::EACCES),
    }
}

fn regular(request: &Request, file: File, path: &[u8], wall: i64) -> Result<Outgoing, Errno> {
    let facts = file.metadata()?;
    let modified = facts.modified();
    let tag = ETag {
        inode: facts.ino(),
        size: facts.len(),
        modified: (modified.seconds, modified.nanos),
    };
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let answer = answer::for_file(request, FileFacts { name, tag }, wall);
    Ok(Outgoing {
        text: answer.text,
        sent: 0,
        body: match answer.part {
            Some((at, end)) => Body::File { file, at, end },
            None => Body::Nothing,
        },
        keep_alive: request.keep_alive,
    })
}

/// A directory's index page if it has one, else the list of what is in it.
fn directory(request: &Request, full: &[u8], path: &[u8], wall: i64) -> Result<Outgoing, Errno> {
    const INDEX: &[u8] = b"index.html";
    let mut index = full.to_vec();
    index.extend_from_slice(INDEX);
    match File::open(&index) {
        Ok(file) if file.metadata()?.file_type() == FileType::Reg => {
            return regular(request, file, INDEX, wall);
        }
        Ok(_) | Err(Errno::ENOENT | Errno::ELOOP | Errno::ENAMETOOLONG) => {}
        Err(errno) => return Err(errno),
    }
    // A client of HTTP/1.0 knows the end of the list by the end of the connection.
    let chunked = request.chunked_allowed;
    let keep_alive = request.keep_alive && chunked;
    let mut head = Head::new(Status::OK, wall);
    head.line(format_args!("Content-Type: text/html; charset=utf-8"));
    head.line(format_args!("Cache-Control: no-cache"));
    if chunked {
        head.line(format_args!("Transfer-Encoding: chunked"));
    }
    let body = match request.method {
        Method::Head => Body::Nothing,
        _ => Body::Listing(Listing::open(full, path, chunked)?),
    };
    Ok(Outgoing {
        text: head.finish(keep_alive),
        sent: 0,
        body,
        keep_alive,
    })
}
