//! The transmission control block: one connection's state.
//!
//! It knows no packet, no socket, no lock and no clock. Segments, timer runs and user calls go in; an
//! [`Outcome`] says what became of it, and [`Tcb::poll_transmit`] is called until it has nothing more to
//! send. The bytes to send stay with the caller, who says how many there are; bytes received pass through to
//! the caller in order. So the whole machine is tested without a stack.
//!
//! | file | what |
//! |---|---|
//! | `tcb.rs` | state |
//! | `calls.rs` | what its user and ICMP may do to it (RFC 9293 §3.10.1 to §3.10.6, §3.9.2.2) |
//! | `input.rs` | segment arrives (§3.10.7) |
//! | `ack.rs` | acknowledgments: send buffer, round-trip time, fast retransmit and recovery |
//! | `text.rs` | data, FIN, the receive window |
//! | `output.rs` | what to send |
//! | `timer.rs` | what is due when |

use super::cc::{Algorithm, CongestionControl};
use super::header::{Header, Options, WINDOW_SHIFT_MAX};
use super::reass::{Payload, Reassembly};
use super::rtt::RttEstimator;
use super::seq::Seq;
use super::timer::Deadlines;
use bitflags::bitflags;
use core::time::Duration;
use rumpuser::{Errno, Instant};

/// The segment size of a peer that names none (RFC 9293 §3.7.1, MUST-15), for IPv4.
pub const MSS_DEFAULT: u16 = 536;
/// The least segment size that is used, whatever a peer asks: one that asks for less wants us to send
/// headers.
pub const MSS_MIN: u16 = 64;
/// The IPv4 and the TCP header without options.
pub const IPV4_TCP_HEADERS: u16 = 40;
/// How long a connection without a user waits for the other side's FIN.
pub(super) const FIN_WAIT_2: Duration = Duration::from_secs(60);

/// The states of RFC 9293 §3.3.2. LISTEN has no control block: see `demux.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No connection.
    Closed,
    /// We sent a SYN.
    SynSent,
    /// Both sent a SYN; ours is not acknowledged.
    SynReceived,
    /// Data flows.
    Established,
    /// We sent (or queued) a FIN.
    FinWait1,
    /// Our FIN is acknowledged.
    FinWait2,
    /// The other side sent a FIN; our user has not closed.
    CloseWait,
    /// Both sent a FIN; ours is not acknowledged, and the other's crossed it.
    Closing,
    /// As `Closing`, but the other's came first.
    LastAck,
    /// Over; kept for the other side's retransmissions. The control block is no longer needed.
    TimeWait,
}

impl State {
    /// Whether both sequence spaces are synchronised.
    pub fn is_synchronized(self) -> bool {
        !matches!(self, State::Closed | State::SynSent | State::SynReceived)
    }

    /// Whether data may still come.
    pub fn may_receive(self) -> bool {
        matches!(
            self,
            State::SynSent
                | State::SynReceived
                | State::Established
                | State::FinWait1
                | State::FinWait2
        )
    }
}

bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub(super) struct Flags: u16 {
        /// An acknowledgment is to go out at once.
        const ACK_NOW = 1 << 0;
        /// One is owed, and the delayed-acknowledgment timer runs.
        const ACK_DELAYED = 1 << 1;
        /// TCP_NODELAY: no Nagle.
        const NO_DELAY = 1 << 2;
        /// The user has closed his side: a FIN follows the send buffer.
        const CLOSING = 1 << 3;
        /// The user is gone: data that comes has no reader.
        const DETACHED = 1 << 4;
        /// One segment at `snd_una` is to be sent again.
        const RESEND = 1 << 5;
        /// The persist timer wants something sent into the closed window.
        const PROBE = 1 << 6;
        /// The keep-alive timer wants a sign of life.
        const KEEPALIVE_PROBE = 1 << 7;
        /// Fast recovery (RFC 6582).
        const RECOVERY = 1 << 8;
        /// Recovery has seen a partial acknowledgment.
        const PARTIAL = 1 << 9;
        /// It came by a listening socket.
        const PASSIVE = 1 << 10;
        /// A SYN had to be sent again.
        const LOST_SYN = 1 << 11;
        /// More follows soon: hold back what does not fill a segment.
        const MORE = 1 << 12;
    }
}

bitflags! {
    /// What a call has brought about.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Events: u8 {
        /// The handshake is over.
        const CONNECTED = 1 << 0;
        /// Data was delivered, or there will be no more.
        const READABLE = 1 << 1;
        /// The send buffer has room that it had not.
        const WRITABLE = 1 << 2;
        /// The other side has sent its last byte.
        const EOF = 1 << 3;
        /// The connection is gone; [`Outcome::error`] says why, if not by mutual consent.
        const CLOSED = 1 << 4;
        /// The connection is over and belongs into TIME_WAIT once what is to be sent is sent.
        const TIME_WAIT = 1 << 5;
        /// There may be something to send: [`Tcb::poll_transmit`].
        const OUTPUT = 1 << 6;
        /// All that was sent, our FIN too, is acknowledged: a close that lingers may return.
        const DRAINED = 1 << 7;
    }
}

/// What a call has brought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What happened.
    pub events: Events,
    /// That many bytes at the front of the send buffer are acknowledged: drop them.
    pub acked: u32,
    /// For the user, once.
    pub error: Option<Errno>,
    /// A segment without data to answer with, its ports left 0.
    pub reply: Option<Header>,
}

/// A segment to send. Ports are 0: the caller knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emit {
    /// The header.
    pub header: Header,
    /// Where in the send buffer its data starts.
    pub offset: u32,
    /// How many bytes of data it has.
    pub len: u32,
    /// If not 0, the interface is to cut it into segments of that many bytes.
    pub segment_bytes: u16,
}

/// Keep-alive (RFC 9293 §3.8.4): off unless a user asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// How long a connection is silent before the first probe, in seconds.
    pub idle_seconds: u32,
    /// How long between probes, in seconds.
    pub interval_seconds: u32,
    /// How many go unanswered before the connection is given up.
    pub probes: u8,
}

impl Default for Keepalive {
    fn default() -> Keepalive {
        // §3.8.4: at least two hours by default.
        Keepalive {
            idle_seconds: 7200,
            interval_seconds: 75,
            probes: 8,
        }
    }
}

/// What a connection starts with.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The largest segment the interface takes, in bytes of data.
    pub mss: u16,
    /// The receive buffer to begin with, in bytes.
    pub receive_bytes: u32,
    /// What the receive buffer may grow to.
    pub receive_max: u32,
    /// The largest piece of data that the interface cuts into segments itself; 0 if it does not.
    pub offload_bytes: u32,
    /// TCP_NODELAY.
    pub no_delay: bool,
    /// SO_KEEPALIVE.
    pub keepalive: Option<Keepalive>,
}

impl Config {
    /// The window shift to offer: the least that lets the buffer be announced (RFC 7323 §2.3).
    pub fn window_shift(&self) -> u8 {
        let over = self.receive_max.max(self.receive_bytes) >> 16;
        ((u32::BITS - over.leading_zeros()) as u8).min(WINDOW_SHIFT_MAX)
    }
}

/// A handshake that a listening socket's SYN cache (or a cookie) has carried through up to the
/// acknowledgment of our SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Our initial sequence number.
    pub iss: Seq,
    /// The other side's.
    pub irs: Seq,
    /// What its SYN said.
    pub offer: Options,
    /// Our window shift, if ours offered one.
    pub window_shift: Option<u8>,
    /// The window that our SYN announced, in bytes.
    pub window: u32,
    /// Whether our SYN was sent more than once.
    pub resent: bool,
    /// When it was sent.
    pub sent_at: Option<Instant>,
}

/// One connection.
pub struct Tcb<P> {
    pub(super) state: State,
    pub(super) flags: Flags,

    // Send sequence space (RFC 9293 §3.3.1).
    pub(super) iss: Seq,
    pub(super) snd_una: Seq,
    /// The next to send; goes back to `snd_una` when the timer runs out.
    pub(super) snd_nxt: Seq,
    /// The highest ever sent, plus one.
    pub(super) snd_max: Seq,
    pub(super) snd_wnd: u32,
    pub(super) snd_wnd_max: u32,
    pub(super) snd_wl1: Seq,
    pub(super) snd_wl2: Seq,
    pub(super) snd_shift: u8,
    /// The number of the send buffer's first byte.
    pub(super) buf_seq: Seq,
    /// Bytes in the send buffer.
    pub(super) queued: u32,
    pub(super) mss: u32,
    pub(super) offload_bytes: u32,
    /// What of that was last taken: halved when the interface refuses, doubled with each acknowledgment.
    pub(super) offload_now: u32,

    // Receive sequence space.
    pub(super) irs: Seq,
    pub(super) rcv_nxt: Seq,
    /// The right edge of the window as far as it was ever announced.
    pub(super) rcv_adv: Seq,
    pub(super) rcv_shift: u8,
    /// Bytes delivered that the user has not read.
    pub(super) rcv_unread: u32,
    /// What memory there is for more, however large the buffer may be.
    pub(super) rcv_room: u32,
    /// The receive buffer's size now, and what it may grow to.
    pub(super) rcv_bytes: u32,
    pub(super) rcv_max: u32,
    /// What came since `tune_start`.
    pub(super) tune_bytes: u32,
    pub(super) tune_start: u64,
    pub(super) reass: Reassembly<P>,

    // Loss and congestion.
    pub(super) cc: Algorithm,
    pub(super) dup_acks: u8,
    /// How often the timer ran out since the last progress.
    pub(super) retries: u8,
    /// RFC 6582 recover, plus one: recovery ends when it is acknowledged.
    pub(super) recover: Seq,
    pub(super) rtt: RttEstimator,
    /// The segment that is timed ends here, and was sent then (0: none).
    pub(super) timed_seq: Seq,
    pub(super) timed_at: u64,

    // Time.
    pub(super) due: Deadlines,
    pub(super) last_sent: u64,
    pub(super) last_heard: u64,
    pub(super) persist_shift: u8,
    /// Keep-alive or window probes that nobody answered.
    pub(super) probes: u8,
    pub(super) keepalive: Option<Keepalive>,
    pub(super) challenge_start: u64,
    pub(super) challenges: u8,

    pub(super) our_mss: u16,
    pub(super) our_shift: u8,
    /// What ICMP reported; said when the connection times out.
    pub(super) soft_error: Option<Errno>,
}

impl<P: Payload> Tcb<P> {
    /// An active OPEN: the first [`poll_transmit`](Tcb::poll_transmit) sends the SYN.
    pub fn connect(config: &Config, iss: Seq, now: Instant) -> Tcb<P> {
        Tcb::new(config, State::SynSent, iss, now)
    }

    /// A passive OPEN, in SYN-RECEIVED: the acknowledgment that completed the handshake is to be put into
    /// [`input`](Tcb::input) next.
    pub fn accept(config: &Config, handshake: &Handshake, now: Instant) -> Tcb<P> {
        let mut tcb = Tcb::new(config, State::SynReceived, handshake.iss, now);
        tcb.flags |= Flags::PASSIVE;
        tcb.flags.set(Flags::LOST_SYN, handshake.resent);
        tcb.snd_nxt = handshake.iss + 1;
        tcb.snd_max = tcb.snd_nxt;
        tcb.irs = handshake.irs;
        tcb.rcv_nxt = handshake.irs + 1;
        tcb.rcv_adv = tcb.rcv_nxt + handshake.window;
        tcb.our_shift = handshake.window_shift.unwrap_or(0);
        let offer = Options {
            window_shift: handshake
                .offer
                .window_shift
                .filter(|_| handshake.window_shift.is_some()),
            ..handshake.offer
        };
        tcb.negotiate(&offer);
        if let Some(sent_at) = handshake.sent_at.filter(|_| !handshake.resent) {
            tcb.timed_at = sent_at.as_nanos().max(1);
            tcb.timed_seq = handshake.iss + 1;
        }
        tcb
    }

    fn new(config: &Config, state: State, iss: Seq, now: Instant) -> Tcb<P> {
        let now = now.as_nanos();
        Tcb {
            state,
            flags: if config.no_delay {
                Flags::NO_DELAY
            } else {
                Flags::empty()
            },
            iss,
            snd_una: iss,
            snd_nxt: iss,
            snd_max: iss,
            snd_wnd: 0,
            snd_wnd_max: 0,
            snd_wl1: Seq(0),
            snd_wl2: Seq(0),
            snd_shift: 0,
            buf_seq: iss + 1,
            queued: 0,
            mss: u32::from(MSS_DEFAULT.min(config.mss).max(MSS_MIN)),
            offload_bytes: config.offload_bytes,
            offload_now: config.offload_bytes,
            irs: Seq(0),
            rcv_nxt: Seq(0),
            rcv_adv: Seq(0),
            rcv_shift: 0,
            rcv_unread: 0,
            rcv_room: u32::MAX,
            rcv_bytes: config.receive_bytes,
            rcv_max: config.receive_max.max(config.receive_bytes),
            tune_bytes: 0,
            tune_start: now,
            reass: Reassembly::default(),
            cc: Algorithm::default(),
            dup_acks: 0,
            retries: 0,
            recover: iss,
            rtt: RttEstimator::default(),
            timed_seq: iss,
            timed_at: 0,
            due: Deadlines::default(),
            last_sent: now,
            last_heard: now,
            persist_shift: 0,
            probes: 0,
            keepalive: config.keepalive,
            challenge_start: 0,
            challenges: 0,
            our_mss: config.mss.max(MSS_MIN),
            our_shift: config.window_shift(),
            soft_error: None,
        }
    }

    /// Takes in what the other side's SYN offers.
    pub(super) fn negotiate(&mut self, offer: &Options) {
        let peer = offer.mss.unwrap_or(MSS_DEFAULT);
        self.mss = u32::from(peer.min(self.our_mss).max(MSS_MIN));
        match offer.window_shift {
            Some(shift) => {
                self.snd_shift = shift;
                self.rcv_shift = self.our_shift;
            }
            None => {
                self.snd_shift = 0;
                self.rcv_shift = 0;
                self.rcv_max = self.rcv_max.min(u32::from(u16::MAX));
                self.rcv_bytes = self.rcv_bytes.min(self.rcv_max);
            }
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Our next number to send and the next one expected: what TIME_WAIT keeps.
    pub fn next_numbers(&self) -> (Seq, Seq) {
        (self.snd_max, self.rcv_nxt)
    }

    /// The size of segments sent, in bytes of data.
    pub fn mss(&self) -> u32 {
        self.mss
    }

    /// The smoothed round-trip time in nanoseconds, if known.
    pub fn smoothed_rtt(&self) -> Option<u64> {
        self.rtt.smoothed()
    }

    /// The congestion window in bytes.
    pub fn congestion_window(&self) -> u32 {
        self.cc.window()
    }

    /// The size of the receive buffer now: it grows while the other side fills it in a round trip.
    pub fn receive_bytes(&self) -> u32 {
        self.rcv_bytes
    }

    /// Bytes in the send buffer, by what [`send`](Tcb::send) said and what was acknowledged.
    pub fn queued(&self) -> u32 {
        self.queued
    }

    /// Bytes delivered and not yet [`consumed`](Tcb::consumed).
    pub fn unread(&self) -> u32 {
        self.rcv_unread
    }

    /// How large a send buffer keeps the path busy.
    pub fn send_bytes_wanted(&self) -> u32 {
        self.cc.window().saturating_mul(2)
    }

    /// The memory that segments out of order hold.
    pub fn reassembly_bytes(&self) -> usize {
        self.reass.memory_bytes()
    }

    /// Bytes that were sent and not acknowledged.
    pub fn in_flight(&self) -> u32 {
        self.snd_max - self.snd_una
    }

    /// The connection is gone.
    pub(super) fn terminate(&mut self, out: &mut Outcome, error: Option<Errno>) {
        self.state = State::Closed;
        self.due = Deadlines::default();
        self.reass.clear();
        out.error = error;
        out.events = Events::CLOSED | Events::READABLE | Events::WRITABLE;
    }

    /// The number of our FIN.
    pub(super) fn fin_seq(&self) -> Seq {
        self.buf_seq + self.queued
    }

    /// Whether our FIN was ever sent.
    pub(super) fn fin_sent(&self) -> bool {
        self.flags.contains(Flags::CLOSING) && self.snd_max.after(self.fin_seq())
    }
}
