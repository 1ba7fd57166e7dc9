//! The SYN cache: connections that a listening socket is asked for, before they stand (RFC 4987 §3.5).
//!
//! An entry takes a fraction of a control block. When the cache is full, further SYNs are answered with a
//! cookie (§3.6) and leave nothing behind; cookies are believed only while, and shortly after, they
//! are made.

use super::cookie::{self, Remembered};
use super::header::{Control, Header, Options};
use super::isn::initial_sequence;
use super::seq::Seq;
use super::table::{Index, Table};
use super::tcb::{Config, Handshake, MSS_DEFAULT};
use super::tuple::Tuple;
use rumpkern::hash::HashKey;
use rumpuser::Instant;

/// How long each transmission of our SYN is waited for; after the last the entry goes.
const WAITS: [u64; 4] = [1_000_000_000, 2_000_000_000, 4_000_000_000, 8_000_000_000];
/// How long after the last cookie one is believed: what an epoch and the next last.
const COOKIE_LIFE: u64 = 128_000_000_000;

struct Entry {
    iss: Seq,
    irs: Seq,
    offer: Options,
    our_mss: u16,
    our_shift: u8,
    window: u16,
    resent: bool,
    sent_at: u64,
    /// When the wait began that its queue stands for.
    queued_at: u64,
}

impl Entry {
    fn handshake(&self) -> Handshake {
        Handshake {
            iss: self.iss,
            irs: self.irs,
            offer: self.offer,
            window_shift: self.offer.window_shift.map(|_| self.our_shift),
            window: u32::from(self.window),
            resent: self.resent,
            sent_at: Some(Instant::from_nanos(self.sent_at)),
        }
    }

    fn syn_ack(&self) -> Header {
        syn_ack(&self.handshake(), self.our_mss)
    }
}

/// Our SYN.
fn syn_ack(handshake: &Handshake, our_mss: u16) -> Header {
    Header {
        seq: handshake.iss,
        ack: handshake.irs + 1,
        control: Control::SYN | Control::ACK,
        window: handshake.window as u16,
        options: Options {
            mss: Some(our_mss),
            window_shift: handshake.window_shift,
        },
        ..Header::default()
    }
}

/// What an acknowledgment, or a reset, is to a connection in the making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched {
    /// It belongs to none.
    Nothing,
    /// It completes the handshake. The entry stays until [`SynCache::remove`].
    Complete(Handshake),
    /// It is to be answered so.
    Reply(Header),
    /// It is to be dropped.
    Drop,
}

/// The cache.
pub struct SynCache {
    table: Table<Entry, { WAITS.len() }>,
    isn_key: HashKey,
    cookie_key: HashKey,
    /// Cookies are believed until then.
    cookies_until: u64,
    /// Cookies made.
    pub cookies_sent: u64,
    /// Handshakes that a cookie completed.
    pub cookies_good: u64,
}

impl SynCache {
    /// A cache for up to `limit` connections in the making.
    pub fn new(
        table_key: HashKey,
        isn_key: HashKey,
        cookie_key: HashKey,
        limit: usize,
    ) -> SynCache {
        SynCache {
            table: Table::new(table_key, limit),
            isn_key,
            cookie_key,
            cookies_until: 0,
            cookies_sent: 0,
            cookies_good: 0,
        }
    }

    /// How many connections are in the making.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The memory the cache takes.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes()
    }

    /// Answers a SYN for a listening socket. `floor`: what an earlier incarnation of the connection
    /// sent up to; our numbers start beyond it.
    pub fn syn(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        header: &Header,
        config: &Config,
        floor: Option<Seq>,
    ) -> Header {
        let nanos = now.as_nanos();
        if let Some(index) = self.table.find(tuple) {
            if let Some(entry) = self.table.get_mut(index).filter(|e| e.irs == header.seq) {
                entry.resent = true;
                entry.sent_at = nanos;
                return entry.syn_ack();
            }
            // The other side has started over.
            self.table.remove(index);
        }
        let mut iss = initial_sequence(self.isn_key, tuple, now);
        if let Some(floor) = floor.filter(|floor| !iss.after(*floor)) {
            iss = floor + 1;
        }
        let entry = Entry {
            iss,
            irs: header.seq,
            offer: header.options,
            our_mss: config.mss,
            our_shift: config.window_shift(),
            window: config.receive_bytes.min(u32::from(u16::MAX)) as u16,
            resent: false,
            sent_at: nanos,
            queued_at: nanos,
        };
        let handshake = entry.handshake();
        if self.table.insert(*tuple, entry, 0) {
            return syn_ack(&handshake, config.mss);
        }
        self.cookies_until = nanos + COOKIE_LIFE;
        self.cookies_sent += 1;
        let offer = Remembered {
            mss: header.options.mss.unwrap_or(MSS_DEFAULT),
            window_shift: header.options.window_shift,
        };
        let iss = cookie::bake(self.cookie_key, tuple, header.seq, offer, now);
        syn_ack(&Handshake { iss, ..handshake }, config.mss)
    }

    /// What a segment with ACK and without SYN is to a connection in the making.
    pub fn acknowledged(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        header: &Header,
        config: &Config,
    ) -> Matched {
        let Some(entry) = self
            .table
            .find(tuple)
            .and_then(|index| self.table.get(index))
        else {
            return self.taste(now, tuple, header, config);
        };
        let handshake = entry.1.handshake();
        if header.ack != handshake.iss + 1 {
            return Matched::Nothing;
        }
        if !header
            .seq
            .within(handshake.irs + 1, handshake.window.max(1))
        {
            return Matched::Reply(acknowledgment(&handshake));
        }
        Matched::Complete(handshake)
    }

    /// A RST for a connection in the making (RFC 5961 §3.2).
    pub fn reset(&mut self, tuple: &Tuple, header: &Header) -> Matched {
        let Some(index) = self.table.find(tuple) else {
            return Matched::Nothing;
        };
        let Some((_, entry)) = self.table.get(index) else {
            return Matched::Nothing;
        };
        let handshake = entry.handshake();
        if header.seq == handshake.irs + 1 {
            self.table.remove(index);
            return Matched::Drop;
        }
        if header.seq.within(handshake.irs + 1, handshake.window) {
            return Matched::Reply(acknowledgment(&handshake));
        }
        Matched::Drop
    }

    /// The connection stands, or will never: forgets it.
    pub fn remove(&mut self, tuple: &Tuple) {
        if let Some(index) = self.table.find(tuple) {
            self.table.remove(index);
        }
    }

    /// Forgets those whose name `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&Tuple) -> bool) {
        self.table.retain(keep);
    }

    /// Whether any of the connections in the making is for this tuple.
    pub fn contains(&self, tuple: &Tuple) -> bool {
        self.table.find(tuple).is_some()
    }

    /// When [`next_due`](SynCache::next_due) must be called next.
    pub fn deadline(&self) -> Option<u64> {
        (0..WAITS.len())
            .filter_map(|queue| self.due_at(queue).map(|(_, at)| at))
            .min()
    }

    /// Our next SYN to send again; forgets what was waited for long enough.
    pub fn next_due(&mut self, now: Instant) -> Option<(Tuple, Header)> {
        let now = now.as_nanos();
        for queue in 0..WAITS.len() {
            while let Some((index, _)) = self.due_at(queue).filter(|&(_, at)| at <= now) {
                if queue + 1 == WAITS.len() {
                    self.table.remove(index);
                    continue;
                }
                self.table.requeue(index, queue + 1);
                let entry = self.table.get_mut(index)?;
                entry.resent = true;
                entry.sent_at = now;
                entry.queued_at = now;
                let header = entry.syn_ack();
                return self.table.get(index).map(|(tuple, _)| (*tuple, header));
            }
        }
        None
    }

    fn due_at(&self, queue: usize) -> Option<(Index, u64)> {
        let index = self.table.oldest(queue)?;
        self.table
            .get(index)
            .map(|(_, entry)| (index, entry.queued_at + WAITS[queue]))
    }

    fn taste(&mut self, now: Instant, tuple: &Tuple, header: &Header, config: &Config) -> Matched {
        if now.as_nanos() >= self.cookies_until {
            return Matched::Nothing;
        }
        let (irs, iss) = (header.seq.back(1), header.ack.back(1));
        let Some(offer) = cookie::taste(self.cookie_key, tuple, irs, iss, now) else {
            return Matched::Nothing;
        };
        self.cookies_good += 1;
        Matched::Complete(Handshake {
            iss,
            irs,
            offer: Options {
                mss: Some(offer.mss),
                window_shift: offer.window_shift,
            },
            window_shift: offer.window_shift.map(|_| config.window_shift()),
            window: config.receive_bytes.min(u32::from(u16::MAX)),
            resent: false,
            sent_at: None,
        })
    }
}

/// The challenge of a connection in the making.
fn acknowledgment(handshake: &Handshake) -> Header {
    Header {
        seq: handshake.iss + 1,
        ack: handshake.irs + 1,
        control: Control::ACK,
        window: handshake.window as u16,
        ..Header::default()
    }
}
