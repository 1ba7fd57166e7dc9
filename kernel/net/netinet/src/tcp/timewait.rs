//! TIME-WAIT: what is left of a connection that is over (RFC 9293 §3.6.1).
//!
//! An entry is the tuple and two numbers; control block, socket and buffers are gone. There are only
//! so many: beyond that the oldest makes room, which is less harm than refusing new connections. A SYN
//! beyond the old connection's numbers opens a new one early (RFC 9293 §3.6.1 MAY-2, RFC 6191 §2); a
//! RST changes nothing (RFC 1337, fix F1).

use super::header::{Control, Header};
use super::seq::Seq;
use super::table::Table;
use super::tuple::Tuple;
use rumpkern::hash::HashKey;
use rumpuser::Instant;

/// Twice the maximum segment lifetime, which is taken as 30 s, as BSD does.
const TWO_MSL: u64 = 60_000_000_000;

struct Entry {
    snd_nxt: Seq,
    rcv_nxt: Seq,
    since: u64,
}

/// What a segment is to a connection in TIME-WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lingering {
    /// There is no such connection.
    Nothing,
    /// It is to be dropped.
    Drop,
    /// It is to be answered so.
    Reply(Header),
    /// It opens the connection anew; our numbers must start beyond this one. The entry is gone.
    Reopen(Seq),
}

/// All connections in TIME-WAIT.
pub struct TimeWait {
    table: Table<Entry, 1>,
}

impl TimeWait {
    /// Room for `limit` connections.
    pub fn new(key: HashKey, limit: usize) -> TimeWait {
        TimeWait {
            table: Table::new(key, limit),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The memory they take.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes()
    }

    /// Whether there is one of this name.
    pub fn contains(&self, tuple: &Tuple) -> bool {
        self.table.find(tuple).is_some()
    }

    /// Whether the name of any of them is such.
    pub fn any(&self, is_such: impl Fn(&Tuple) -> bool) -> bool {
        self.table.tuples().any(is_such)
    }

    /// A connection enters.
    pub fn enter(&mut self, now: Instant, tuple: Tuple, snd_nxt: Seq, rcv_nxt: Seq) {
        if let Some(index) = self.table.find(&tuple) {
            self.table.remove(index);
        }
        if self.table.is_full()
            && let Some(index) = self.table.oldest(0)
        {
            self.table.remove(index);
        }
        let entry = Entry {
            snd_nxt,
            rcv_nxt,
            since: now.as_nanos(),
        };
        if !self.table.insert(tuple, entry, 0) {
            log::debug!("tcp: no memory for TIME-WAIT of {tuple:?}");
        }
    }

    /// Takes in a segment with `payload` bytes of data.
    pub fn input(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        header: &Header,
        payload: u32,
    ) -> Lingering {
        let Some(index) = self.table.find(tuple) else {
            return Lingering::Nothing;
        };
        let Some(entry) = self.table.get_mut(index) else {
            return Lingering::Nothing;
        };
        if header.control.contains(Control::RST) {
            return Lingering::Drop;
        }
        let opens = header.control & (Control::SYN | Control::ACK) == Control::SYN;
        if opens && header.seq.after(entry.rcv_nxt) {
            let floor = entry.snd_nxt;
            self.table.remove(index);
            return Lingering::Reopen(floor);
        }
        if header.sequence_len(payload) == 0 {
            return Lingering::Drop;
        }
        let reply = Header {
            seq: entry.snd_nxt,
            ack: entry.rcv_nxt,
            control: Control::ACK,
            ..Header::default()
        };
        if header.control.contains(Control::FIN) {
            entry.since = now.as_nanos();
            self.table.requeue(index, 0);
        }
        Lingering::Reply(reply)
    }

    /// When [`expire`](TimeWait::expire) has something to do next.
    pub fn deadline(&self) -> Option<u64> {
        let index = self.table.oldest(0)?;
        self.table
            .get(index)
            .map(|(_, entry)| entry.since + TWO_MSL)
    }

    /// Forgets those whose time is over.
    pub fn expire(&mut self, now: Instant) {
        while self.deadline().is_some_and(|at| at <= now.as_nanos()) {
            let Some(index) = self.table.oldest(0) else {
                return;
            };
            self.table.remove(index);
        }
    }
}
