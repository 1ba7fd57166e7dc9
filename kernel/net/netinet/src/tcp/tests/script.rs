//! One connection, segment by segment: what goes in, what must come out. Numbers are relative: ours start
//! at 0 with the SYN, so the first byte is 1; theirs alike.

use crate::tcp::header::{Control, Header, Options};
use crate::tcp::seq::Seq;
use crate::tcp::tcb::{Config, Emit, Events, Handshake, Outcome, State, Tcb};
use alloc::vec::Vec;
use rumpuser::{Errno, Instant};

/// Our and their initial numbers: both wrap during the tests.
pub const ISS: Seq = Seq(u32::MAX - 2000);
pub const IRS: Seq = Seq(u32::MAX - 1000);
/// The segment size of the scripts.
pub const MSS: u32 = 1000;
/// The window that they announce.
pub const WINDOW: u16 = 60_000;

pub const CONFIG: Config = Config {
    mss: MSS as u16,
    receive_bytes: 8000,
    receive_max: 8000,
    offload_bytes: 0,
    no_delay: false,
    keepalive: None,
};

const ACK: Control = Control::ACK;
pub const MS: u64 = 1_000_000;

/// A segment from them.
#[derive(Clone, Copy)]
pub struct Seg {
    pub header: Header,
    pub len: u32,
}

/// An acknowledgment up to `ack` from their number `seq`.
pub fn seg(seq: u32, ack: u32) -> Seg {
    let header = Header {
        seq: IRS + seq,
        ack: ISS + ack,
        control: ACK,
        window: WINDOW,
        ..Header::default()
    };
    Seg { header, len: 0 }
}

impl Seg {
    pub fn data(mut self, len: u32) -> Seg {
        self.len = len;
        self
    }

    pub fn fin(mut self) -> Seg {
        self.header.control |= Control::FIN;
        self
    }

    pub fn control(mut self, control: Control) -> Seg {
        self.header.control = control;
        self
    }

    pub fn window(mut self, window: u16) -> Seg {
        self.header.window = window;
        self
    }

    pub fn options(mut self, options: Options) -> Seg {
        self.header.options = options;
        self
    }
}

/// One side.
pub struct Side {
    pub tcb: Tcb<Vec<u8>>,
    pub now: u64,
    pub received: Vec<u8>,
    pub out: Outcome,
    pub error: Option<Errno>,
    /// The receive buffer takes nothing.
    pub full: bool,
}

impl Side {
    pub fn connecting(config: Config) -> Side {
        let now = 1000 * MS;
        let tcb = Tcb::connect(&config, ISS, Instant::from_nanos(now));
        Side {
            tcb,
            now,
            received: Vec::new(),
            out: Outcome::default(),
            error: None,
            full: false,
        }
    }

    /// After our open and their answer.
    pub fn established_with(config: Config) -> Side {
        let mut side = Side::connecting(config);
        side.expect_control(Control::SYN);
        let options = Options {
            mss: Some(MSS as u16),
            window_shift: None,
        };
        side.inject(seg(0, 1).control(Control::SYN | ACK).options(options));
        assert!(side.out.events.contains(Events::CONNECTED));
        side.expect(1, 1, 0);
        side.expect_silence();
        side
    }

    pub fn established() -> Side {
        Side::established_with(CONFIG)
    }

    /// After their open of a listening socket, the acknowledgment of our SYN still to come.
    pub fn syn_received() -> Side {
        let now = 1000 * MS;
        let handshake = Handshake {
            iss: ISS,
            irs: IRS,
            offer: Options {
                mss: Some(MSS as u16),
                window_shift: None,
            },
            window_shift: None,
            window: 8000,
            resent: false,
            sent_at: None,
        };
        let tcb = Tcb::accept(&CONFIG, &handshake, Instant::from_nanos(now));
        Side {
            tcb,
            now,
            received: Vec::new(),
            out: Outcome::default(),
            error: None,
            full: false,
        }
    }

    pub fn instant(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    pub fn state(&self) -> State {
        self.tcb.state()
    }

    pub fn note(&mut self, out: Outcome) {
        self.error = self.error.or(out.error);
        self.out = out;
    }

    pub fn inject(&mut self, seg: Seg) {
        let (now, full, received) = (self.instant(), self.full, &mut self.received);
        // Byte n of their stream has the value n.
        let first = seg.header.seq - IRS;
        let payload: Vec<u8> = (0..seg.len).map(|n| first.wrapping_add(n) as u8).collect();
        let mut deliver = |data: Vec<u8>| {
            if !full {
                received.extend(data);
            }
            !full
        };
        let out = self.tcb.input(now, &seg.header, payload, &mut deliver);
        self.note(out);
    }

    pub fn send(&mut self, bytes: u32) {
        self.tcb.send(bytes, false);
    }

    pub fn close_send(&mut self) {
        let out = self.tcb.close_send().unwrap();
        self.note(out);
    }

    pub fn close(&mut self) {
        let out = self.tcb.close(self.instant());
        self.note(out);
    }

    pub fn next(&mut self) -> Option<Emit> {
        self.tcb.poll_transmit(self.instant())
    }

    /// The next segment is `len` bytes from `seq` on and acknowledges `ack`.
    #[track_caller]
    pub fn expect(&mut self, seq: u32, ack: u32, len: u32) -> Emit {
        let emit = self.next().expect("a segment");
        let found = (emit.header.seq - ISS, emit.header.ack - IRS, emit.len);
        assert_eq!(found, (seq, ack, len), "(seq, ack, len) of {emit:?}");
        emit
    }

    #[track_caller]
    pub fn expect_control(&mut self, control: Control) -> Emit {
        let emit = self.next().expect("a segment");
        assert_eq!(emit.header.control - Control::PSH, control);
        emit
    }

    #[track_caller]
    pub fn expect_silence(&mut self) {
        assert_eq!(self.next(), None);
    }

    /// All that goes out, as (seq, len).
    pub fn burst(&mut self) -> Vec<(u32, u32)> {
        core::iter::from_fn(|| self.next())
            .map(|e| (e.header.seq - ISS, e.len))
            .collect()
    }

    /// Time passes, and timers run.
    pub fn sleep(&mut self, millis: u64) {
        let end = self.now + millis * MS;
        while let Some(at) = self
            .tcb
            .deadline()
            .map(Instant::as_nanos)
            .filter(|&at| at <= end)
        {
            self.now = at.max(self.now);
            let out = self.tcb.on_timer(self.instant());
            self.note(out);
            if !out.events.is_empty() {
                return;
            }
        }
        self.now = end;
    }

    /// Until the next timer that brings something about; answers how long that took in milliseconds.
    pub fn sleep_until_timer(&mut self) -> Option<u64> {
        let start = self.now;
        loop {
            self.now = self.tcb.deadline()?.as_nanos().max(self.now);
            let out = self.tcb.on_timer(self.instant());
            self.note(out);
            if !out.events.is_empty() {
                return Some((self.now - start) / MS);
            }
        }
    }

    /// Grows the congestion window to at least `segments` segments, with nothing in flight at the end;
    /// answers our next number.
    pub fn warm_up(&mut self, segments: u32) -> u32 {
        let mut next = 1;
        while self.tcb.congestion_window() < segments * MSS {
            let len = self.tcb.congestion_window() / MSS * MSS;
            self.send(len);
            let mut sent = 0;
            while let Some(emit) = self.next() {
                sent += emit.len;
            }
            self.now += 10 * MS;
            let end = next + sent;
            while next < end {
                next = (next + 2 * MSS).min(end);
                self.inject(seg(1, next));
                self.burst()
                    .into_iter()
                    .for_each(|(seq, len)| assert_eq!(seq + len, end));
            }
        }
        self.burst();
        next
    }
}
