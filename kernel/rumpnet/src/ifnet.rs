//! Interfaces: what a driver is to the stack, its addresses, flags and counters.
//!
//! A driver makes an [`Ifnet`] with [`Ifnet::new`], attaches it with [`Net::if_attach`] and hands
//! every frame it receives to [`Ifnet::input`]. Source of names: NetBSD ifnet(9).

use crate::mbuf::{MLEN, Mbuf, Piece};
use crate::net::Net;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use rumpkern::kmem::Room;
use rumpkern::locks::RwLock;
use rumpuser::{Errno, PAGE_SIZE};

/// Addresses an interface may have.
const MAX_ADDRESSES: usize = 16;

bitflags! {
    /// State and nature of an interface (`IFF_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct IfFlags: u32 {
        /// It is up: packets pass.
        const IFF_UP = 0x1;
        /// Broadcast works.
        const IFF_BROADCAST = 0x2;
        /// It is a loopback.
        const IFF_LOOPBACK = 0x8;
        /// Its driver runs (the link is there).
        const IFF_RUNNING = 0x40;
        /// Multicast works.
        const IFF_MULTICAST = 0x8000;
    }

    /// What an interface does for the stack (`IFCAP_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct IfCaps: u32 {
        /// Completes TCP and UDP checksums over IPv4.
        const IFCAP_CSUM_TX = 0x1;
        /// Checks them on the way in, and says so with `M_CSUM_OK`.
        const IFCAP_CSUM_RX = 0x2;
        /// Cuts large TCP segments.
        const IFCAP_TSOV4 = 0x4;
    }
}

/// What frames look like on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet, with this address.
    Ethernet([u8; 6]),
    /// None: packets go back to this machine.
    Loopback,
}

/// Counters (`struct if_data`), each only ever increased.
#[derive(Debug, Default)]
pub struct IfCounters {
    /// Frames received.
    pub ipackets: AtomicU64,
    /// Bytes received.
    pub ibytes: AtomicU64,
    /// Frames received that were not well-formed.
    pub ierrors: AtomicU64,
    /// Frames received and dropped for want of memory or of room in a queue.
    pub iqdrops: AtomicU64,
    /// Frames received for a protocol that nobody speaks.
    pub noproto: AtomicU64,
    /// Frames sent.
    pub opackets: AtomicU64,
    /// Bytes sent.
    pub obytes: AtomicU64,
    /// Frames that could not be sent.
    pub oerrors: AtomicU64,
    /// Frames dropped because the queue to the device was full.
    pub oqdrops: AtomicU64,
}

/// Adds one to a counter.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// An IPv4 address of an interface (`struct in_ifaddr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InIfaddr {
    /// The address.
    pub addr: Ipv4Addr,
    /// Length of the network's prefix in bits, 0 to 32.
    pub prefix_len: u8,
}

impl InIfaddr {
    /// The netmask.
    pub fn mask(&self) -> u32 {
        prefix_mask(self.prefix_len)
    }

    /// The network's address.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.addr) & self.mask())
    }

    /// The network's broadcast address; none on networks of one or two addresses (RFC 3021).
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        (self.prefix_len < 31).then(|| Ipv4Addr::from(u32::from(self.addr) | !self.mask()))
    }

    /// Whether `other` is on this network.
    pub fn contains(&self, other: Ipv4Addr) -> bool {
        u32::from(other) & self.mask() == u32::from(self.network())
    }
}

/// The netmask of a prefix of `len` bits; all ones past 32.
pub fn prefix_mask(len: u8) -> u32 {
    match len {
        0 => 0,
        1..=31 => u32::MAX << (32 - len),
        _ => u32::MAX,
    }
}

/// What the stack asks of a driver.
pub trait IfDriver: Send + Sync {
    /// Sends a frame, its link-layer header in front (none on loopback). With `M_MORE` the driver
    /// may put off telling the device. Never waits, and never calls up into the stack.
    ///
    /// # Errors
    /// `ENOBUFS`: the queue is full. `ENETDOWN`: the device is broken. The frame is gone either way.
    fn transmit(&self, ifp: &Ifnet, frame: Mbuf) -> Result<(), Errno>;

    /// Whether there is a carrier.
    fn link_up(&self) -> bool {
        true
    }
}

/// An interface.
pub struct Ifnet {
    name: String,
    index: AtomicU32,
    link: Link,
    mtu: AtomicU32,
    flags: AtomicU32,
    caps: IfCaps,
    /// The most pieces in a frame that it sends.
    max_pieces: usize,
    /// What takes a received frame (`if_input`).
    receive: fn(&Net, &Arc<Ifnet>, Mbuf),
    addresses: RwLock<Vec<InIfaddr>>,
    driver: Arc<dyn IfDriver>,
    /// Counters.
    pub counters: IfCounters,
}

impl Ifnet {
    /// An interface, down and without addresses. Frames it receives go to `receive`: for Ethernet
    /// that is rumpnet_net's `ether_input`.
    pub fn new(
        name: String,
        link: Link,
        mtu: u32,
        caps: IfCaps,
        driver: Arc<dyn IfDriver>,
        receive: fn(&Net, &Arc<Ifnet>, Mbuf),
    ) -> Ifnet {
        let flags = match link {
            Link::Ethernet(_) => IfFlags::IFF_BROADCAST | IfFlags::IFF_MULTICAST,
            Link::Loopback => IfFlags::IFF_LOOPBACK,
        };
        Ifnet {
            name,
            index: AtomicU32::new(0),
            link,
            mtu: AtomicU32::new(mtu),
            flags: AtomicU32::new(flags.bits()),
            caps,
            max_pieces: usize::MAX,
            receive,
            addresses: RwLock::new(Vec::new()),
            driver,
            counters: IfCounters::default(),
        }
    }

    /// The same, for a device that takes at most `pieces` pieces in a frame.
    pub fn with_max_pieces(mut self, pieces: usize) -> Ifnet {
        self.max_pieces = pieces;
        self
    }

    /// Its name, such as `virt0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number in its kernel, from 1; 0 until attached.
    pub fn index(&self) -> u32 {
        self.index.load(Ordering::Relaxed)
    }

    pub(crate) fn set_index(&self, index: u32) {
        self.index.store(index, Ordering::Relaxed);
    }

    /// What its frames look like.
    pub fn link(&self) -> Link {
        self.link
    }

    /// Whether it is a loopback.
    pub fn is_loopback(&self) -> bool {
        self.link == Link::Loopback
    }

    /// The largest packet in bytes, link-layer header not counted.
    pub fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed) as usize
    }

    /// What it does for the stack.
    pub fn caps(&self) -> IfCaps {
        self.caps
    }

    /// Its flags now.
    pub fn flags(&self) -> IfFlags {
        IfFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.flags().contains(IfFlags::IFF_UP)
    }

    /// Brings it up (`if_up`).
    pub fn up(&self) {
        let on = IfFlags::IFF_UP | IfFlags::IFF_RUNNING;
        self.flags.fetch_or(on.bits(), Ordering::Relaxed);
    }

    /// Takes it down (`if_down`).
    pub fn down(&self) {
        self.flags
            .fetch_and(!IfFlags::IFF_UP.bits(), Ordering::Relaxed);
    }

    /// Whether there is a carrier.
    pub fn link_up(&self) -> bool {
        self.driver.link_up()
    }

    /// Hands a frame to the driver. Too many pieces are made fewer by copying.
    ///
    /// # Errors
    /// `ENETDOWN` if it is down; what [`IfDriver::transmit`] says.
    pub fn transmit(&self, frame: Mbuf) -> Result<(), Errno> {
        if !self.is_up() {
            return Err(Errno::ENETDOWN);
        }
        let len = frame.len() as u64;
        let frame = match self.fit_pieces(frame) {
            Ok(frame) => frame,
            Err(error) => {
                count(&self.counters.oqdrops);
                return Err(error);
            }
        };
        match self.driver.transmit(self, frame) {
            Ok(()) => {
                count(&self.counters.opackets);
                self.counters.obytes.fetch_add(len, Ordering::Relaxed);
                Ok(())
            }
            Err(Errno::ENOBUFS) => {
                count(&self.counters.oqdrops);
                Err(Errno::ENOBUFS)
            }
            Err(error) => {
                count(&self.counters.oerrors);
                Err(error)
            }
        }
    }

    /// A frame in few enough pieces: its headers, and as much as needed of its data copied into pages.
    fn fit_pieces(&self, mut frame: Mbuf) -> Result<Mbuf, Errno> {
        if frame.piece_count() <= self.max_pieces {
            return Ok(frame);
        }
        let headers = frame.pieces().next().map_or(0, Piece::len).min(MLEN);
        let mut fitted = frame.copy_start(headers)?;
        fitted.pkthdr = frame.pkthdr;
        frame.trim_front(headers);
        fitted.append(frame.to_pages()?)?;
        if fitted.piece_count() > self.max_pieces {
            return Err(Errno::EMSGSIZE);
        }
        Ok(fitted)
    }

    /// The most bytes of data in a TCP segment that it cuts up (`if_hw_tsomax`): what fits in the pieces it
    /// takes, also if it must be copied into pages.
    pub fn tso_max(&self) -> usize {
        self.max_pieces.saturating_sub(1).saturating_mul(PAGE_SIZE)
    }

    /// The most pieces that its driver takes in one frame.
    pub fn max_pieces(&self) -> usize {
        self.max_pieces
    }

    /// Its IPv4 addresses.
    pub fn addresses(&self) -> Vec<InIfaddr> {
        self.addresses.read().clone()
    }

    /// Calls `f` with its IPv4 addresses, until it answers something.
    pub fn find_address<T>(&self, f: impl FnMut(&InIfaddr) -> Option<T>) -> Option<T> {
        self.addresses.read().iter().find_map(f)
    }

    /// Gives it an address. The caller adds the route to its network.
    ///
    /// # Errors
    /// `EEXIST` if it has it; `ENOBUFS` if it has as many as it may.
    pub fn add_address(&self, address: InIfaddr) -> Result<(), Errno> {
        let mut addresses = self.addresses.write();
        if addresses.iter().any(|a| a.addr == address.addr) {
            return Err(Errno::EEXIST);
        }
        if addresses.len() == MAX_ADDRESSES || addresses.room(1).is_err() {
            return Err(Errno::ENOBUFS);
        }
        addresses.push(address);
        Ok(())
    }

    /// Takes an address away. Answers what it was.
    pub fn remove_address(&self, addr: Ipv4Addr) -> Option<InIfaddr> {
        let mut addresses = self.addresses.write();
        let at = addresses.iter().position(|a| a.addr == addr)?;
        Some(addresses.remove(at))
    }

    /// Counts a received frame and passes it up.
    pub fn input(self: &Arc<Self>, net: &Net, frame: Mbuf) {
        count(&self.counters.ipackets);
        self.counters
            .ibytes
            .fetch_add(frame.len() as u64, Ordering::Relaxed);
        (self.receive)(net, self, frame);
    }
}
