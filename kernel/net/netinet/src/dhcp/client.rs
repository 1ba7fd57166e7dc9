//! The client's state machine (RFC 2131 §4.4): what it wants done, given time and messages. It knows
//! neither sockets nor threads.

use super::message::{Kind, Reply, Request};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;
use rumpuser::Instant;

/// The first wait for an answer, and the longest (RFC 2131 §4.1 doubles 4 s up to 64 s; a virtual
/// network answers sooner, so asking starts sooner).
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(64);
/// Requests for an offer before asking everybody again.
const REQUEST_TRIES: u32 = 4;
/// Between two requests while renewing, at the least (RFC 2131 §4.4.5).
const RENEW_MIN: Duration = Duration::from_secs(60);
/// A lease that says no time, or none that makes sense.
const DEFAULT_LEASE: u32 = 3600;
/// Shorter leases count as this long, or a server could make us ask without end.
const SHORTEST_LEASE: u32 = 60;

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub addr: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix_len: u8,
    /// The default router.
    pub router: Option<Ipv4Addr>,
    /// A name server.
    pub dns: Option<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// For how many seconds; `u32::MAX` is for ever.
    pub seconds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Selecting,
    Requesting { offer: Lease },
    Bound { lease: Lease },
    Renewing { lease: Lease },
    Rebinding { lease: Lease },
}

/// What the client wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes to everybody on the wire, from no address.
    Broadcast(Vec<u8>),
    /// Send these bytes to the server.
    Unicast(Vec<u8>, Ipv4Addr),
    /// Use this lease; the one used so far, if it has another address, no more.
    Configure(Lease),
    /// Use the address no more: the lease has run out, or was refused.
    Deconfigure(Lease),
}

/// The times of a lease.
#[derive(Clone, Copy, Debug)]
struct Times {
    renew: Instant,
    rebind: Instant,
    expire: Instant,
}

/// The client of one interface.
pub struct Client {
    mac: [u8; 6],
    hostname: String,
    state: State,
    xid: u32,
    began: Instant,
    tries: u32,
    /// When to do the next thing.
    next: Instant,
    times: Times,
    /// Spreads out retries; any stream of numbers that differs between machines.
    jitter: u64,
}

impl Client {
    /// A client that starts by asking everybody. `seed` makes its transactions its own.
    pub fn new(mac: [u8; 6], hostname: &str, seed: u64, now: Instant) -> Client {
        Client {
            mac,
            hostname: hostname.chars().take(63).collect(),
            state: State::Selecting,
            xid: seed as u32,
            began: now,
            tries: 0,
            next: now,
            times: Times {
                renew: now,
                rebind: now,
                expire: now,
            },
            jitter: seed | 1,
        }
    }

    /// When [`Client::poll`] has something to do again.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// The lease in use.
    pub fn lease(&self) -> Option<Lease> {
        match self.state {
            State::Bound { lease } | State::Renewing { lease } | State::Rebinding { lease } => {
                Some(lease)
            }
            State::Selecting | State::Requesting { .. } => None,
        }
    }

    /// Does what is due.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        if now < self.next {
            return None;
        }
        match self.state {
            State::Selecting => {
                if self.tries == 0 {
                    self.new_transaction(now);
                }
                self.back_off(now);
                Some(Action::Broadcast(self.request(
                    now,
                    Kind::Discover,
                    None,
                    None,
                )))
            }
            State::Requesting { .. } if self.tries >= REQUEST_TRIES => {
                self.select(now);
                self.poll(now)
            }
            State::Requesting { offer } => {
                self.back_off(now);
                let bytes = self.request(now, Kind::Request, None, Some(&offer));
                Some(Action::Broadcast(bytes))
            }
            State::Bound { lease } => {
                self.state = State::Renewing { lease };
                self.new_transaction(now);
                self.poll(now)
            }
            State::Renewing { lease } if now >= self.times.rebind => {
                self.state = State::Rebinding { lease };
                self.poll(now)
            }
            State::Renewing { lease } => {
                self.next = now + renew_wait(now, self.times.rebind);
                let bytes = self.request(now, Kind::Request, Some(lease.addr), None);
                Some(Action::Unicast(bytes, lease.server))
            }
            State::Rebinding { lease } if now >= self.times.expire => {
                self.select(now);
                Some(Action::Deconfigure(lease))
            }
            State::Rebinding { lease } => {
                self.next = now + renew_wait(now, self.times.expire);
                let bytes = self.request(now, Kind::Request, Some(lease.addr), None);
                Some(Action::Unicast(bytes, Ipv4Addr::BROADCAST))
            }
        }
    }

    /// Takes a message.
    pub fn receive(&mut self, bytes: &[u8], now: Instant) -> Option<Action> {
        let reply = Reply::parse(bytes)?;
        if reply.xid != self.xid || reply.mac != self.mac {
            return None;
        }
        match (self.state, reply.kind) {
            (State::Selecting, Kind::Offer) => {
                let offer = lease_of(&reply)?;
                self.state = State::Requesting { offer };
                self.tries = 0;
                self.next = now;
                self.poll(now)
            }
            // Only from the server we chose (RFC 2131 §4.3.1): its identifier must be there.
            (State::Requesting { offer }, Kind::Ack) => {
                let lease = lease_of(&reply)?;
                let chosen = lease.server == offer.server && lease.addr == offer.addr;
                chosen.then(|| self.bind(lease, now))
            }
            (State::Requesting { offer }, Kind::Nak) if reply.server == Some(offer.server) => {
                self.select(now + FIRST_WAIT);
                None
            }
            (State::Renewing { lease }, kind) if reply.server == Some(lease.server) => {
                self.renewed(lease, kind, &reply, now)
            }
            (State::Rebinding { lease }, kind) if reply.server.is_some() => {
                self.renewed(lease, kind, &reply, now)
            }
            _ => None,
        }
    }

    fn renewed(&mut self, old: Lease, kind: Kind, reply: &Reply, now: Instant) -> Option<Action> {
        match kind {
            Kind::Ack => {
                let lease = lease_of(reply)?;
                (lease.addr == old.addr).then(|| self.bind(lease, now))
            }
            Kind::Nak => {
                self.select(now);
                Some(Action::Deconfigure(old))
            }
            _ => None,
        }
    }

    fn bind(&mut self, lease: Lease, now: Instant) -> Action {
        self.state = State::Bound { lease };
        let after = |seconds: u64| match lease.seconds {
            u32::MAX => Instant::from_nanos(u64::MAX),
            _ => now + Duration::from_secs(seconds),
        };
        let seconds = u64::from(lease.seconds);
        // The server's own T1 and T2 would not do better than the defaults (RFC 2131 §4.4.5).
        self.times = Times {
            renew: after(seconds / 2),
            rebind: after(seconds * 7 / 8),
            expire: after(seconds),
        };
        self.next = self.times.renew;
        Action::Configure(lease)
    }

    fn select(&mut self, when: Instant) {
        self.state = State::Selecting;
        self.tries = 0;
        self.next = when;
    }

    fn new_transaction(&mut self, now: Instant) {
        self.xid = self.random() as u32;
        self.began = now;
        self.tries = 0;
    }

    /// Waits longer each time, a little at random (RFC 2131 §4.1).
    fn back_off(&mut self, now: Instant) {
        let wait = FIRST_WAIT * 2u32.saturating_pow(self.tries.min(10));
        let wait = wait.min(LONGEST_WAIT);
        let jitter = wait / 1000 * (self.random() % 250) as u32;
        self.tries += 1;
        self.next = now + wait + jitter;
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn random(&mut self) -> u64 {
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn request(
        &self,
        now: Instant,
        kind: Kind,
        ciaddr: Option<Ipv4Addr>,
        offer: Option<&Lease>,
    ) -> Vec<u8> {
        let secs = now.saturating_since(self.began).as_secs();
        let request = Request {
            kind,
            xid: self.xid,
            secs: u16::try_from(secs).unwrap_or(u16::MAX),
            mac: self.mac,
            ciaddr,
            requested: offer.map(|offer| offer.addr),
            server: offer.map(|offer| offer.server),
            hostname: &self.hostname,
        };
        request.encode()
    }
}

/// Half of what is left, but not less than a minute (RFC 2131 §4.4.5), unless less is left.
fn renew_wait(now: Instant, end: Instant) -> Duration {
    let left = end.saturating_since(now);
    (left / 2)
        .max(RENEW_MIN)
        .min(left.max(Duration::from_secs(1)))
}

/// The lease that an offer or an acknowledgment gives, if one can be used.
fn lease_of(reply: &Reply) -> Option<Lease> {
    let addr = reply.yiaddr;
    let useless = addr.is_unspecified() || addr.is_broadcast() || addr.is_multicast();
    if useless || addr.is_loopback() {
        return None;
    }
    let mask = u32::from(reply.mask.unwrap_or(default_mask(addr)));
    let prefix_len = mask.leading_ones();
    // A mask with holes is none (RFC 1122 §3.3.6 with RFC 950), nor one that leaves all hosts out.
    if mask.count_ones() != prefix_len || prefix_len == 0 {
        return None;
    }
    Some(Lease {
        addr,
        prefix_len: prefix_len as u8,
        router: reply.router.filter(|router| !router.is_unspecified()),
        dns: reply.dns,
        server: reply.server?,
        seconds: reply.lease.unwrap_or(DEFAULT_LEASE).max(SHORTEST_LEASE),
    })
}

/// The mask of an address's class, for a server that says none (RFC 2132 §3.3 makes it optional).
fn default_mask(addr: Ipv4Addr) -> Ipv4Addr {
    match addr.octets()[0] {
        0..=127 => Ipv4Addr::new(255, 0, 0, 0),
        128..=191 => Ipv4Addr::new(255, 255, 0, 0),
        _ => Ipv4Addr::new(255, 255, 255, 0),
    }
}

#[cfg(test)]
mod tests;
