//! Reassembly of fragments (RFC 791 §3.2, RFC 815).
//!
//! Bounded in packets, fragments per packet, bytes and time. Fragments that overlap are never
//! legitimate: such a packet is dropped whole, the rest of it included while its entry lives
//! (RFC 5722's rule for IPv6; RFC 1858 shows the attack on IPv4). A fragment that came twice is ignored.

use super::header::{IP_MAXPACKET, IpHeader, IpProto};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;
use rumpkern::kmem::Room;
use rumpkern::uvm;
use rumpnet::mbuf::Mbuf;
use rumpuser::{Instant, PAGE_SIZE};

/// How long the parts of a packet are kept (RFC 1122 §3.3.2 asks for a fixed time-out; BSD's 30 s).
pub const IPFRAGTTL: Duration = Duration::from_secs(30);

/// Packets under reassembly at once.
const MAX_PACKETS: usize = 32;

/// Fragments of one packet: a 64 KiB one over the least MTU that is met, 576.
const MAX_FRAGMENTS: usize = 128;

#[derive(PartialEq, Eq)]
struct Key {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    proto: IpProto,
    id: u16,
}

struct Fragment {
    offset: usize,
    data: Mbuf,
}

impl Fragment {
    fn end(&self) -> usize {
        self.offset + self.data.len()
    }
}

struct Packet {
    key: Key,
    /// In the order of their offsets, not overlapping.
    fragments: Vec<Fragment>,
    /// Bytes of data in all, once the last fragment has come.
    total: Option<usize>,
    /// The header of the first fragment, once it has come.
    first: Option<IpHeader>,
    /// It overlapped: swallow the rest.
    poisoned: bool,
    /// Bytes of storage it holds.
    held: usize,
    expires: Instant,
}

/// Why a fragment led to nothing; for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It overlapped another, or contradicted one about where the end is.
    Overlap,
    /// No room, or no memory.
    NoRoom,
}

/// What became of a fragment.
#[derive(Debug)]
pub enum Outcome {
    /// More must come.
    Incomplete,
    /// It was the last that was missing: the packet's header and data.
    Complete(IpHeader, Mbuf),
    /// It was dropped.
    Dropped(Dropped),
}

impl core::fmt::Debug for Fragment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}..{}", self.offset, self.end())
    }
}

/// A packet whose time ran out, with what an ICMP error about it quotes.
pub struct Expired {
    /// The first fragment's header and data, if it came.
    pub first: Option<(IpHeader, Mbuf)>,
}

/// The packets under reassembly.
pub struct Reassembly {
    packets: Vec<Packet>,
    held: usize,
    max_held: usize,
}

impl Reassembly {
    /// None yet; together they may hold a thirty-second of the memory, but at least one packet of the largest.
    pub fn new() -> Reassembly {
        let share = uvm::limit_pages().saturating_mul(PAGE_SIZE) / 32;
        Self::with_limit(share.clamp(2 * IP_MAXPACKET, 1 << 20))
    }

    fn with_limit(max_held: usize) -> Reassembly {
        Reassembly {
            packets: Vec::new(),
            held: 0,
            max_held,
        }
    }

    /// Packets under reassembly.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// When the next one's time runs out.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.packets.iter().map(|p| p.expires).min()
    }

    /// Takes a fragment: a checked header and the data behind it.
    pub fn input(&mut self, header: &IpHeader, data: Mbuf, now: Instant) -> Outcome {
        let key = Key {
            src: header.src,
            dst: header.dst,
            proto: header.proto,
            id: header.id,
        };
        // A short piece of a large cluster is copied, or a few fragments would hold it all.
        let data = match 2 * data.len() < data.held_bytes() {
            true => match data.deep_copy() {
                Ok(copy) => copy,
                Err(_) => return Outcome::Dropped(Dropped::NoRoom),
            },
            false => data,
        };
        let held = data.held_bytes();
        if !self.make_room(held, &key) {
            return Outcome::Dropped(Dropped::NoRoom);
        }
        let at = match self.packets.iter().position(|p| p.key == key) {
            Some(at) => at,
            None => match self.start(key, now + IPFRAGTTL) {
                Some(at) => at,
                None => return Outcome::Dropped(Dropped::NoRoom),
            },
        };
        let packet = &mut self.packets[at];
        let before = packet.held;
        let added = packet.add(header, data, held);
        self.held = self.held - before + packet.held;
        match added {
            Err(why) => Outcome::Dropped(why),
            Ok(()) if packet.is_complete() => self.finish(at),
            Ok(()) => Outcome::Incomplete,
        }
    }

    /// Drops the oldest packets other than `key`'s until `more` bytes fit.
    fn make_room(&mut self, more: usize, key: &Key) -> bool {
        while self.held + more > self.max_held {
            let others = self
                .packets
                .iter()
                .enumerate()
                .filter(|(_, p)| p.key != *key);
            let Some((oldest, _)) = others.min_by_key(|(_, p)| p.expires) else {
                return false;
            };
            self.remove(oldest);
        }
        true
    }

    fn start(&mut self, key: Key, expires: Instant) -> Option<usize> {
        if self.packets.len() == MAX_PACKETS {
            let all = self.packets.iter().enumerate();
            let (oldest, _) = all.min_by_key(|(_, p)| p.expires)?;
            self.remove(oldest);
        }
        self.packets.room(1).ok()?;
        self.packets.push(Packet {
            key,
            fragments: Vec::new(),
            total: None,
            first: None,
            poisoned: false,
            held: 0,
            expires,
        });
        Some(self.packets.len() - 1)
    }

    fn remove(&mut self, at: usize) -> Packet {
        let packet = self.packets.swap_remove(at);
        self.held -= packet.held;
        packet
    }

    fn finish(&mut self, at: usize) -> Outcome {
        let packet = self.remove(at);
        let Some(first) = packet.first else {
            return Outcome::Dropped(Dropped::Overlap);
        };
        let mut whole = Mbuf::new();
        for fragment in packet.fragments {
            if whole.append(fragment.data).is_err() {
                return Outcome::Dropped(Dropped::NoRoom);
            }
        }
        let header = IpHeader {
            more_fragments: false,
            fragment_offset: 0,
            total_len: first.header_len + whole.len(),
            ..first
        };
        Outcome::Complete(header, whole)
    }

    /// Takes out one packet whose time has run out.
    pub fn expire(&mut self, now: Instant) -> Option<Expired> {
        let at = self.packets.iter().position(|p| p.expires <= now)?;
        let packet = self.remove(at);
        let first = packet.first.zip(packet.fragments.into_iter().next());
        Some(Expired {
            first: first.map(|(header, fragment)| (header, fragment.data)),
        })
    }
}

impl Default for Reassembly {
    fn default() -> Reassembly {
        Reassembly::new()
    }
}

impl Packet {
    fn add(&mut self, header: &IpHeader, data: Mbuf, held: usize) -> Result<(), Dropped> {
        if self.poisoned {
            return Err(Dropped::Overlap);
        }
        let (start, end) = (header.fragment_offset, header.fragment_offset + data.len());
        let at = self.fragments.partition_point(|f| f.offset < start);
        let again = self
            .fragments
            .get(at)
            .is_some_and(|f| f.offset == start && f.end() == end);
        if again {
            return Ok(());
        }
        let before = at.checked_sub(1).and_then(|at| self.fragments.get(at));
        let overlaps = before.is_some_and(|f| f.end() > start)
            || self.fragments.get(at).is_some_and(|f| f.offset < end);
        if overlaps || !self.end_agrees(header, end) {
            return Err(self.poison());
        }
        if self.fragments.len() == MAX_FRAGMENTS || self.fragments.room(1).is_err() {
            return Err(Dropped::NoRoom);
        }
        if !header.more_fragments {
            self.total = Some(end);
        }
        if start == 0 {
            self.first = Some(*header);
        }
        self.held += held;
        let fragment = Fragment {
            offset: start,
            data,
        };
        self.fragments.insert(at, fragment);
        Ok(())
    }

    /// Whether a fragment that ends at `end` fits what is known of the packet's end.
    fn end_agrees(&self, header: &IpHeader, end: usize) -> bool {
        match (self.total, header.more_fragments) {
            (Some(total), true) => end < total,
            (Some(total), false) => end == total,
            (None, true) => true,
            (None, false) => self.fragments.last().is_none_or(|last| last.end() <= end),
        }
    }

    fn poison(&mut self) -> Dropped {
        self.poisoned = true;
        self.fragments = Vec::new();
        self.first = None;
        self.held = 0;
        Dropped::Overlap
    }

    /// They do not overlap and none reaches past the end: so if they sum up to it, none is missing.
    fn is_complete(&self) -> bool {
        let sum = self.fragments.iter().map(|f| f.data.len()).sum();
        self.total == Some(sum) && self.first.is_some()
    }
}

#[cfg(test)]
mod tests;
