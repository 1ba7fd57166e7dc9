//! One client: what has been read, what is being sent, and what comes next.

use crate::change;
use crate::dav::question::BODY_MAX;
use crate::http::body::{BodyLength, Decoder};
use crate::http::head::{Status, short_answer};
use crate::http::request::{HEAD_MAX, Parsed, Request};
use crate::respond::{self, Body, Outgoing, Plan, Sink};
use crate::task::Task;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use rump::net::TcpStream;
use rump::{Errno, Instant, thread};
use rumpkern::kmem::{self, Room};

/// Bytes asked of a socket at once. Most heads fit into the first.
const READ_STEP: usize = 1024;

/// Bytes of a body asked of a socket at once.
const RECEIVE_STEP: usize = 16 << 10;

/// What tells a client that waits with its body to go on (RFC 9110 §15.2.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The slowest that a body may come, after its first minute.
const RECEIVE_BYTES_PER_SECOND: u64 = 256;

/// Bytes of a file handed to a socket at once.
const SEND_STEP: usize = 64 << 10;

/// Bytes sent before another connection gets its turn.
const TURN: usize = 256 << 10;

/// Bytes of a body that nobody wants, read so that the answer is not destroyed by a reset.
const DRAIN_MAX: usize = 256 << 10;

/// The longest body that is read although its request is refused, so that the connection can go on.
const SKIP_MAX: u64 = 64 << 10;

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
    /// The body of a request is awaited.
    Receiving(Box<Incoming>),
    /// Something that takes long is being done.
    Working(Box<Working>),
    /// An answer is on its way.
    Sending(Outgoing),
    /// The last answer was sent, and our side is shut; the other's end is awaited, so that the
    /// bytes it still sends do not make a reset that overtakes the answer (RFC 9112 §9.6).
    Draining { left: usize },
}

/// A request whose body is on its way.
struct Incoming {
    request: Box<Request>,
    decoder: Decoder,
    sink: Sink,
    /// How much of [`CONTINUE`] was sent.
    greeted: usize,
    received: u64,
}

/// A request that takes long.
struct Working {
    request: Box<Request>,
    task: Task,
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
            State::Receiving(incoming) => {
                let earned = Duration::from_secs(incoming.received / RECEIVE_BYTES_PER_SECOND);
                now - self.active > STALL_MAX || now - self.since > STALL_MAX + earned
            }
            State::Working(_) => false,
            State::Sending(_) => now - self.active > STALL_MAX,
            State::Draining { .. } => now - self.since > DRAIN_TIME_MAX,
        }
    }

    /// Drops what is going on, and with it every file that is open for it.
    pub fn abandon(&mut self) {
        self.state = State::Reading;
    }

    /// Goes on as far as possible without waiting for the client. Reading the disk may block.
    pub fn advance(&mut self, root: &[u8], now: Instant, wall: i64) -> Next {
        let mut turn = TURN;
        loop {
            let was = core::mem::discriminant(&self.state);
            let idle = self.is_idle();
            let step = match &mut self.state {
                State::Reading => self.read_request(root, wall),
                State::Receiving(_) => self.receive(&mut turn, root, wall),
                State::Working(_) => self.work(&mut turn, root, wall),
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
                    self.begin(request, root, wall);
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

    /// Starts on a request whose head has come.
    fn begin(&mut self, request: Box<Request>, root: &[u8], wall: i64) {
        let sink = match respond::plan(&request, root, wall) {
            Plan::Work(task) => {
                self.state = State::Working(Box::new(Working { request, task }));
                return;
            }
            Plan::Answer(answer) => match is_skipped(&request, &answer) {
                Some(false) => {
                    // What follows cannot be found, so the answer must say that this is the end.
                    self.state = State::Sending(answer.last());
                    return;
                }
                Some(true) => Sink::Skip(answer),
                None => {
                    self.state = State::Sending(answer);
                    return;
                }
            },
            Plan::Receive(sink) => sink,
        };
        let waits = request.expects_continue && request.has_body();
        self.state = State::Receiving(Box::new(Incoming {
            decoder: Decoder::new(request.body),
            sink,
            greeted: if waits { 0 } else { CONTINUE.len() },
            received: 0,
            request,
        }));
    }

    fn receive(&mut self, turn: &mut usize, root: &[u8], wall: i64) -> Result<(), Step> {
        let State::Receiving(incoming) = &mut self.state else {
            return Ok(());
        };
        if incoming.decoder.is_done() {
            if let State::Receiving(incoming) = core::mem::replace(&mut self.state, State::Reading)
            {
                self.state = State::Sending(incoming.finish(root, wall));
            }
            return Ok(());
        }
        if !self.input.is_empty() {
            let input = core::mem::take(&mut self.input);
            return self.take(&input, turn, wall);
        }
        if let Some(rest) = CONTINUE
            .get(incoming.greeted..)
            .filter(|rest| !rest.is_empty())
        {
            let count = self.stream.send(rest, false).map_err(Step::from_send)?;
            incoming.greeted += count;
            return Ok(());
        }
        let want = incoming.decoder.wanted().min(RECEIVE_STEP as u64) as usize;
        // Held no longer than this call: whoever waits holds no buffer.
        let mut buffer = kmem::try_vec(want).map_err(|_| Step::Starved)?;
        buffer.resize(want, 0);
        match self.stream.read(&mut buffer) {
            // A part of a file is none.
            Ok(0) => Err(Step::Close),
            Ok(count) => self.take(buffer.get(..count).unwrap_or(&buffer), turn, wall),
            Err(Errno::EAGAIN) => Err(Step::Wait(Next::Readable)),
            Err(_) => Err(Step::Close),
        }
    }

    /// Takes bytes that have come: of the body, and perhaps of the next request.
    fn take(&mut self, bytes: &[u8], turn: &mut usize, wall: i64) -> Result<(), Step> {
        let State::Receiving(incoming) = &mut self.state else {
            return Ok(());
        };
        *turn = turn.saturating_sub(bytes.len());
        match incoming.take(bytes) {
            Ok(consumed) => self.input = bytes.get(consumed..).unwrap_or(b"").to_vec(),
            Err(status) => {
                let answer = respond::short(&incoming.request, status, false, wall);
                self.state = State::Sending(answer);
            }
        }
        Ok(())
    }

    /// Does a step of what takes long.
    fn work(&mut self, turn: &mut usize, root: &[u8], wall: i64) -> Result<(), Step> {
        let State::Working(working) = &mut self.state else {
            return Ok(());
        };
        match working.task.step() {
            None => *turn = 0,
            Some(outcome) => {
                let request = &working.request;
                let answer = respond::answer_outcome(request, root, &outcome, wall);
                self.state = State::Sending(answer);
            }
        }
        Ok(())
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
        let (piece, is_last) = match &mut outgoing.body {
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
                return Ok(());
            }
            Body::Listing(listing) => (listing.next_piece(), listing.is_done()),
            Body::Propfind(propfind) => (propfind.next_piece(), propfind.is_done()),
            Body::Metrics(metrics) => (metrics.next_piece(), metrics.is_done()),
            Body::File { .. } | Body::Nothing => return self.answered(),
        };
        outgoing.goes_on(piece, is_last)
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

impl Outgoing {
    /// The next piece of its body. Behind the last nothing is promised to follow: the socket would wait for it.
    fn goes_on(&mut self, piece: Result<Option<String>, Errno>, is_last: bool) -> Result<(), Step> {
        let piece = piece.map_err(|_| Step::Close)?;
        if is_last {
            self.body = Body::Nothing;
        }
        self.text = piece.unwrap_or_default();
        self.sent = 0;
        Ok(())
    }
}

/// Whether the body of a request that is answered already is to be read and thrown away, so that the
/// connection can go on; `None`: there is none, or the connection ends anyway.
fn is_skipped(request: &Request, answer: &Outgoing) -> Option<bool> {
    if !request.has_body() || !answer.keep_alive {
        return None;
    }
    let is_short = matches!(request.body, BodyLength::Bytes(count) if count <= SKIP_MAX);
    // One that waits to be told will not send it.
    Some(is_short && !request.expects_continue)
}

impl Incoming {
    /// Takes bytes of the body; answers how many were of it.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Status> {
        let mut at = 0;
        while at < bytes.len() && !self.decoder.is_done() {
            let rest = bytes.get(at..).unwrap_or(b"");
            let decoded = self.decoder.decode(rest).map_err(|_| Status::BAD_REQUEST)?;
            let data = rest.get(decoded.data).unwrap_or(b"");
            match &mut self.sink {
                Sink::Upload(upload) => upload.write(data)?,
                Sink::Text(text) if text.len() + data.len() > BODY_MAX => {
                    return Err(Status::CONTENT_TOO_LARGE);
                }
                Sink::Text(text) => {
                    text.room(data.len())
                        .map_err(|_| Status::SERVICE_UNAVAILABLE)?;
                    text.extend_from_slice(data);
                }
                Sink::Skip(_) => {}
            }
            at += decoded.consumed;
        }
        self.received += at as u64;
        Ok(at)
    }

    /// The body has come wholly.
    fn finish(self, root: &[u8], wall: i64) -> Outgoing {
        let request = &self.request;
        match self.sink {
            Sink::Upload(upload) => change::finish_put(request, upload, wall),
            Sink::Text(body) => respond::answer_question(request, root, &body, wall),
            Sink::Skip(answer) => answer,
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
