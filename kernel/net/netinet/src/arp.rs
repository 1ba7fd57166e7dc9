//! Address resolution (RFC 826, RFC 1122 §2.3.2, announcements of RFC 5227).
//!
//! The cache is bounded; an unanswered entry holds back one packet, asks once a second, and after
//! five answers `EHOSTDOWN` for a while. A table entry is made only for an address that we
//! asked about, or that asks for ours from its own network.

use crate::inet::Inet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::sync::atomic::AtomicU64;
use core::time::Duration;
use hashbrown::HashMap;
use rumpkern::hash::HashKey;
use rumpkern::kmem::{self, Room};
use rumpkern::locks::{LockClass, Mutex};
use rumpkern::time;
use rumpnet::ifnet::{Ifnet, Link, count};
use rumpnet::mbuf::Mbuf;
use rumpnet_net::{ETHERTYPE_ARP, ETHERTYPE_IP, EtherAddr, ether_output};
use rumpuser::{Errno, Instant};

static ARP: LockClass = LockClass {
    name: "arp",
    rank: 250,
};

/// Entries in the cache.
const MAX_ENTRIES: usize = 256;
/// Requests before an address counts as down.
const MAX_TRIES: u8 = 5;
/// Between two requests for one address (RFC 1122 §2.3.2.1).
const RETRY: Duration = Duration::from_secs(1);
/// How long an address counts as down.
const DOWN: Duration = Duration::from_secs(10);
/// How long an answer is good (NetBSD's `arpt_keep`).
const KEEP: Duration = Duration::from_secs(20 * 60);
/// After so long a user of an entry asks again, while the old answer still serves.
const REFRESH: Duration = Duration::from_secs(15 * 60);

const ARP_LEN: usize = 28;
const OP_REQUEST: u16 = 1;
const OP_REPLY: u16 = 2;

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ArpPacket {
    op: u16,
    sender: EtherAddr,
    sender_ip: Ipv4Addr,
    target: EtherAddr,
    target_ip: Ipv4Addr,
}

impl ArpPacket {
    fn parse(bytes: &[u8; ARP_LEN]) -> Option<ArpPacket> {
        // Hardware type 1, protocol 0x800, lengths 6 and 4.
        if bytes[..6] != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let ether = |at: usize| {
            let mut address = [0; 6];
            address.copy_from_slice(&bytes[at..at + 6]);
            EtherAddr(address)
        };
        let ip = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        Some(ArpPacket {
            op: u16::from_be_bytes([bytes[6], bytes[7]]),
            sender: ether(8),
            sender_ip: ip(14),
            target: ether(18),
            target_ip: ip(24),
        })
    }

    fn encode(&self) -> [u8; ARP_LEN] {
        let mut bytes = [0; ARP_LEN];
        bytes[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        bytes[6..8].copy_from_slice(&self.op.to_be_bytes());
        bytes[8..14].copy_from_slice(&self.sender.0);
        bytes[14..18].copy_from_slice(&self.sender_ip.octets());
        bytes[18..24].copy_from_slice(&self.target.0);
        bytes[24..].copy_from_slice(&self.target_ip.octets());
        bytes
    }
}

enum State {
    /// Asked, not answered; one packet waits.
    Incomplete { waiting: Option<Mbuf>, tries: u8 },
    /// Answered.
    Reachable(EtherAddr),
    /// Never answered.
    Down,
}

struct Entry {
    ifp: Arc<Ifnet>,
    state: State,
    /// When it was last answered, or last asked.
    since: Instant,
    /// When a request was last sent.
    asked: Instant,
}

type Key = (u32, Ipv4Addr);

/// The cache, and counters.
pub struct Arp {
    entries: Mutex<HashMap<Key, Entry, HashKey>>,
    conflict_logged: Mutex<Option<Instant>>,
    /// Requests sent.
    pub requests: AtomicU64,
    /// Replies sent.
    pub replies: AtomicU64,
    /// Packets received that made no sense.
    pub bad: AtomicU64,
    /// Packets dropped because their address was not resolved.
    pub dropped: AtomicU64,
}

/// What to do with a packet whose next hop was looked up.
enum Verdict {
    Send(EtherAddr, Mbuf, bool),
    Ask,
    Wait,
    Down,
}

impl Arp {
    pub(crate) fn new() -> Result<Arp, Errno> {
        Ok(Arp {
            entries: Mutex::with_class(HashMap::with_hasher(HashKey::random()?), &ARP),
            conflict_logged: Mutex::new(None),
            requests: AtomicU64::new(0),
            replies: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    /// Entries in the cache.
    pub fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Who has `ip` on the wire of interface number `index`, as far as is known.
    pub fn lookup(&self, index: u32, ip: Ipv4Addr) -> Option<EtherAddr> {
        match self.entries.lock().get(&(index, ip))?.state {
            State::Reachable(address) => Some(address),
            _ => None,
        }
    }

    fn judge(&self, ifp: &Arc<Ifnet>, ip: Ipv4Addr, m: Mbuf, now: Instant) -> Verdict {
        let key = (ifp.index(), ip);
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(&key) else {
            let state = State::Incomplete {
                waiting: Some(m),
                tries: 1,
            };
            return match insert(&mut entries, key, entry(ifp, state, now)) {
                true => Verdict::Ask,
                false => Verdict::Wait,
            };
        };
        match &mut entry.state {
            State::Reachable(address) if now.saturating_since(entry.since) < KEEP => {
                let stale = now.saturating_since(entry.since) > REFRESH;
                let ask = stale && now.saturating_since(entry.asked) >= RETRY;
                if ask {
                    entry.asked = now;
                }
                Verdict::Send(*address, m, ask)
            }
            State::Incomplete { waiting, .. } => {
                // The newest packet is the one worth keeping (RFC 1122 §2.3.2.2).
                if waiting.replace(m).is_some() {
                    count(&self.dropped);
                }
                Verdict::Wait
            }
            State::Down if now.saturating_since(entry.since) < DOWN => Verdict::Down,
            State::Down | State::Reachable(_) => {
                let state = State::Incomplete {
                    waiting: Some(m),
                    tries: 1,
                };
                *entry = self::entry(ifp, state, now);
                Verdict::Ask
            }
        }
    }

    /// Notes who has `ip`; answers the packet that waited for it. Makes an entry only if `create`.
    fn learn(
        &self,
        ifp: &Arc<Ifnet>,
        ip: Ipv4Addr,
        address: EtherAddr,
        create: bool,
        now: Instant,
    ) -> Option<Mbuf> {
        let key = (ifp.index(), ip);
        let mut entries = self.entries.lock();
        let new = entry(ifp, State::Reachable(address), now);
        match entries.get_mut(&key) {
            Some(known) => match core::mem::replace(known, new).state {
                State::Incomplete { waiting, .. } => waiting,
                _ => None,
            },
            None => {
                if create {
                    insert(&mut entries, key, new);
                }
                None
            }
        }
    }

    /// Ages the cache: which addresses to ask for again, and whether any entry waits for an answer.
    fn age(&self, now: Instant) -> (Vec<(Arc<Ifnet>, Ipv4Addr)>, bool) {
        let mut ask = Vec::new();
        let mut waits = false;
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| match entry.state {
            State::Reachable(_) => now.saturating_since(entry.since) < KEEP,
            State::Down => now.saturating_since(entry.since) < DOWN,
            State::Incomplete { .. } => true,
        });
        for ((_, ip), entry) in entries.iter_mut() {
            let State::Incomplete { tries, .. } = &mut entry.state else {
                continue;
            };
            if *tries >= MAX_TRIES {
                entry.state = State::Down;
                entry.since = now;
                count(&self.dropped);
                continue;
            }
            waits = true;
            if now.saturating_since(entry.asked) < RETRY {
                continue;
            }
            if ask.room(1).is_ok() {
                *tries += 1;
                entry.asked = now;
                ask.push((entry.ifp.clone(), *ip));
            }
        }
        (ask, waits)
    }
}

fn entry(ifp: &Arc<Ifnet>, state: State, now: Instant) -> Entry {
    Entry {
        ifp: ifp.clone(),
        state,
        since: now,
        asked: now,
    }
}

/// Inserts, in the place of the oldest if the cache is full. Answers false without memory.
fn insert(entries: &mut HashMap<Key, Entry, HashKey>, key: Key, entry: Entry) -> bool {
    if entries.len() >= MAX_ENTRIES {
        let oldest = entries.iter().min_by_key(|(_, entry)| entry.since);
        let oldest = oldest.map(|(key, _)| *key);
        if let Some(oldest) = oldest {
            entries.remove(&oldest);
        }
    }
    let spare = entries.capacity() - entries.len();
    if kmem::room_by(spare, 1, || entries.try_reserve(1)).is_err() {
        return false;
    }
    entries.insert(key, entry);
    true
}

impl Inet {
    /// Sends a packet with its IP header to `next` on the wire, as soon as its Ethernet address is known.
    pub(crate) fn arp_resolve(
        &self,
        ifp: &Arc<Ifnet>,
        next: Ipv4Addr,
        m: Mbuf,
    ) -> Result<(), Errno> {
        match self.arp.judge(ifp, next, m, time::now()) {
            Verdict::Send(to, m, refresh) => {
                if refresh {
                    // Unicast (RFC 1122 §2.3.2.1(2)); if it is lost, the next user asks again.
                    let _lost = self.arp_request(ifp, next, to);
                }
                ether_output(ifp, to, ETHERTYPE_IP, m)
            }
            Verdict::Ask => {
                self.arm_timer();
                // It may be dropped: the timer asks again.
                let _lost = self.arp_request(ifp, next, EtherAddr::BROADCAST);
                Ok(())
            }
            Verdict::Wait => Ok(()),
            Verdict::Down => Err(Errno::EHOSTDOWN),
        }
    }

    /// Asks who has `ip`.
    fn arp_request(&self, ifp: &Ifnet, ip: Ipv4Addr, to: EtherAddr) -> Result<(), Errno> {
        let source = ifp.find_address(|a| a.contains(ip).then_some(a.addr));
        let source = source.or_else(|| ifp.find_address(|a| Some(a.addr)));
        count(&self.arp.requests);
        self.arp_send(
            ifp,
            OP_REQUEST,
            source.unwrap_or(Ipv4Addr::UNSPECIFIED),
            ip,
            to,
        )
    }

    /// Tells the wire that `ip` is ours (RFC 5227 §2.3).
    pub(crate) fn arp_announce(&self, ifp: &Ifnet, ip: Ipv4Addr) -> Result<(), Errno> {
        self.arp_send(ifp, OP_REQUEST, ip, ip, EtherAddr::BROADCAST)
    }

    fn arp_send(
        &self,
        ifp: &Ifnet,
        op: u16,
        sender_ip: Ipv4Addr,
        target_ip: Ipv4Addr,
        to: EtherAddr,
    ) -> Result<(), Errno> {
        let Link::Ethernet(ours) = ifp.link() else {
            return Err(Errno::EINVAL);
        };
        let target = match op {
            OP_REPLY => to,
            _ => EtherAddr([0; 6]),
        };
        let packet = ArpPacket {
            op,
            sender: EtherAddr(ours),
            sender_ip,
            target,
            target_ip,
        };
        let mut m = Mbuf::new();
        m.prepend_slice(&packet.encode())?;
        ether_output(ifp, to, ETHERTYPE_ARP, m)
    }

    /// Takes an ARP packet from the wire.
    pub(crate) fn arp_input(&self, ifp: &Arc<Ifnet>, m: Mbuf) {
        let packet = m.header(0).ok().and_then(|bytes| ArpPacket::parse(&bytes));
        let packet = packet.filter(|p| {
            !p.sender.is_group() && !p.sender_ip.is_multicast() && !p.sender_ip.is_broadcast()
        });
        let Some(packet) = packet else {
            count(&self.arp.bad);
            return;
        };
        let ours = |ip: Ipv4Addr| ifp.find_address(|a| (a.addr == ip).then_some(())).is_some();
        let for_us = ours(packet.target_ip);
        if ours(packet.sender_ip) {
            self.arp_conflict(ifp, &packet);
        } else if !packet.sender_ip.is_unspecified() {
            let neighbour = ifp.find_address(|a| a.contains(packet.sender_ip).then_some(()));
            let create = for_us && packet.op == OP_REQUEST && neighbour.is_some();
            self.arp_learned(ifp, &packet, create);
        }
        if for_us && packet.op == OP_REQUEST {
            count(&self.arp.replies);
            // Whoever asked asks again if this is lost.
            let _lost = self.arp_send(
                ifp,
                OP_REPLY,
                packet.target_ip,
                packet.sender_ip,
                packet.sender,
            );
        }
    }

    fn arp_learned(&self, ifp: &Arc<Ifnet>, packet: &ArpPacket, create: bool) {
        let now = time::now();
        let waiting = self
            .arp
            .learn(ifp, packet.sender_ip, packet.sender, create, now);
        if let Some(m) = waiting {
            // As any packet, it may be dropped on the way.
            let _lost = ether_output(ifp, packet.sender, ETHERTYPE_IP, m);
        }
    }

    /// Somebody else has our address: says so, at most every ten seconds.
    fn arp_conflict(&self, ifp: &Ifnet, packet: &ArpPacket) {
        let now = time::now();
        let mut logged = self.arp.conflict_logged.lock();
        if logged.is_some_and(|at| now.saturating_since(at) < DOWN) {
            return;
        }
        *logged = Some(now);
        drop(logged);
        let (ip, from) = (packet.sender_ip, packet.sender);
        log::warn!("{}: duplicate IP address {ip} sent from {from}", ifp.name());
    }

    /// Runs once a second while an answer is waited for. Answers whether one still is.
    pub(crate) fn arp_tick(&self, now: Instant) -> bool {
        let (ask, waits) = self.arp.age(now);
        for (ifp, ip) in ask {
            // The next tick asks again.
            let _lost = self.arp_request(&ifp, ip, EtherAddr::BROADCAST);
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_encoded_as_rfc_826_says_and_parsed_back() {
        let packet = ArpPacket {
            op: OP_REQUEST,
            sender: EtherAddr([2, 0, 0, 0, 0, 1]),
            sender_ip: [10, 0, 0, 1].into(),
            target: EtherAddr([0; 6]),
            target_ip: [10, 0, 0, 2].into(),
        };
        let bytes = packet.encode();
        assert_eq!(bytes[..8], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(ArpPacket::parse(&bytes), Some(packet));
    }

    struct Nowhere;

    impl rumpnet::ifnet::IfDriver for Nowhere {
        fn transmit(&self, _: &Ifnet, _: Mbuf) -> Result<(), Errno> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_is_asked_for_again_in_time_and_in_the_end_forgotten() {
        rumpuser_hosted::Host::install_for_tests();
        let caps = rumpnet::ifnet::IfCaps::empty();
        let mac = EtherAddr([2, 0, 0, 0, 0, 1]);
        let ifp = rumpnet_net::ether_ifattach("x0".into(), mac, 1500, caps, Arc::new(Nowhere));
        let ifp = Arc::new(ifp);
        let arp = Arp::new().unwrap();
        let peer = EtherAddr([2, 0, 0, 0, 0, 2]);
        let ip = Ipv4Addr::new(10, 0, 0, 2);
        let at = |seconds: u64| Instant::from_nanos((1 + seconds) * 1_000_000_000);
        assert!(arp.learn(&ifp, ip, peer, true, at(0)).is_none());
        let asks = |now| match arp.judge(&ifp, ip, Mbuf::new(), now) {
            Verdict::Send(to, _, ask) => {
                assert_eq!(to, peer);
                Some(ask)
            }
            Verdict::Ask => None,
            Verdict::Wait | Verdict::Down => panic!("it was resolved"),
        };
        assert_eq!(asks(at(1)), Some(false));
        assert_eq!(asks(at(901)), Some(true));
        assert_eq!(asks(at(901)), Some(false), "once a second");
        assert_eq!(asks(at(902)), Some(true));
        assert_eq!(
            asks(at(1200)),
            None,
            "too old to be used, with no timer running"
        );
        assert!(arp.learn(&ifp, ip, peer, false, at(1201)).is_some());
        assert_eq!(asks(at(1202)), Some(false));
    }

    #[test]
    fn a_packet_for_other_hardware_or_protocols_is_not_parsed() {
        for at in 0..6 {
            let mut bytes = [0, 1, 8, 0, 6, 4]
                .iter()
                .copied()
                .chain([0; 22])
                .collect::<Vec<u8>>();
            bytes[at] ^= 1;
            let bytes: [u8; ARP_LEN] = bytes.try_into().unwrap();
            assert_eq!(ArpPacket::parse(&bytes), None);
        }
    }
}
