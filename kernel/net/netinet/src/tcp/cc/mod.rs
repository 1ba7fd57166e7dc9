//! Congestion control: what a connection may have in flight.
//!
//! The control block tells the algorithm what happened (new data acknowledged, a loss found by duplicate
//! acknowledgments, a time-out); the algorithm answers with a window. Which segment is lost and what is
//! sent again is the control block's business, not the algorithm's.

mod newreno;

pub use newreno::NewReno;

/// What an acknowledgment of new data tells the algorithm.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    /// Bytes it acknowledged.
    pub bytes: u32,
    /// Bytes in flight before it came.
    pub in_flight: u32,
    /// The segment size.
    pub mss: u32,
    /// Smoothed round-trip time in nanoseconds, if known.
    pub srtt: Option<u64>,
    /// Now, in nanoseconds of the monotonic clock.
    pub now: u64,
}

/// An algorithm. Windows are bytes.
pub trait CongestionControl {
    /// The handshake is over: sets the initial window. `lost_syn`: a SYN had to be sent again.
    fn established(&mut self, mss: u32, lost_syn: bool);

    /// What may be in flight.
    fn window(&self) -> u32;

    /// New data was acknowledged outside of recovery.
    fn acked(&mut self, ack: Acked);

    /// A loss was found by duplicate acknowledgments: recovery begins.
    fn enter_recovery(&mut self, in_flight: u32, mss: u32);

    /// One more duplicate during recovery: a segment has left the network.
    fn duplicate(&mut self, mss: u32);

    /// Part of what was in flight when recovery began was acknowledged.
    fn partial(&mut self, bytes: u32, mss: u32);

    /// All of it was: recovery is over.
    fn leave_recovery(&mut self, in_flight: u32, mss: u32);

    /// The retransmission timer ran out. `again`: for a segment that it had run out for before.
    fn timed_out(&mut self, in_flight: u32, mss: u32, again: bool);

    /// Nothing was sent for longer than the retransmission time-out.
    fn idle(&mut self, mss: u32);
}

/// The algorithm of a connection: one of those there are, without an allocation.
#[derive(Clone, Debug)]
pub enum Algorithm {
    /// RFC 5681 and RFC 6582.
    NewReno(NewReno),
}

impl Default for Algorithm {
    fn default() -> Algorithm {
        Algorithm::NewReno(NewReno::default())
    }
}

macro_rules! each {
    ($self:ident, $inner:ident => $body:expr) => {
        match $self {
            Algorithm::NewReno($inner) => $body,
        }
    };
}

impl CongestionControl for Algorithm {
    fn established(&mut self, mss: u32, lost_syn: bool) {
        each!(self, cc => cc.established(mss, lost_syn));
    }

    #[inline]
    fn window(&self) -> u32 {
        each!(self, cc => cc.window())
    }

    fn acked(&mut self, ack: Acked) {
        each!(self, cc => cc.acked(ack));
    }

    fn enter_recovery(&mut self, in_flight: u32, mss: u32) {
        each!(self, cc => cc.enter_recovery(in_flight, mss));
    }

    fn duplicate(&mut self, mss: u32) {
        each!(self, cc => cc.duplicate(mss));
    }

    fn partial(&mut self, bytes: u32, mss: u32) {
        each!(self, cc => cc.partial(bytes, mss));
    }

    fn leave_recovery(&mut self, in_flight: u32, mss: u32) {
        each!(self, cc => cc.leave_recovery(in_flight, mss));
    }

    fn timed_out(&mut self, in_flight: u32, mss: u32, again: bool) {
        each!(self, cc => cc.timed_out(in_flight, mss, again));
    }

    fn idle(&mut self, mss: u32) {
        each!(self, cc => cc.idle(mss));
    }
}
