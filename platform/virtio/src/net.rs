//! Network devices [virtio 1.2 §5.1].
//!
//! One receive and one transmit queue. A received frame lies where the caller's buffers are, behind the
//! device's header, which takes the first [`HEADER_BYTES`] of the first buffer. Headers of packets to send
//! lie in pages of the driver's own, one for each slot of the queue; the frame stays where the caller has it.
//!
//! Interrupts: one for the next received packet once [`VirtioNet::receive`] found none; none for sent
//! packets, unless the queue is full ([`VirtioNet::want_transmitted`]).

use crate::dma::{Dma, Pages, Segment, Table};
use crate::fault::{AttachError, Fault, RequestError};
use crate::queue::{LOOKS, Queue, Shape, Used};
use crate::transport::{Device, Transport};
use bitflags::bitflags;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;
use volatile::VolatilePtr;

mod header;

use header::{
    ETHER_HEADER, ETHER_TAG, ETHER_TYPE, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, GSO_NONE, GSO_TCPV4,
    GSO_TCPV6, RxHeader,
};
pub use header::{HEADER_BYTES, TxChecksum, TxCut, TxOffload};

#[cfg(test)]
mod tests;

bitflags! {
    /// Feature bits [virtio 1.2 §5.1.3].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct NetFeatures: u64 {
        /// The device completes checksums.
        const CSUM = 1 << 0;
        /// The driver takes packets with partial checksums.
        const GUEST_CSUM = 1 << 1;
        /// `mtu` holds.
        const MTU = 1 << 3;
        /// `mac` holds.
        const MAC = 1 << 5;
        /// The device cuts TCP over IPv4 into packets.
        const HOST_TSO4 = 1 << 11;
        /// The device cuts TCP over IPv6 into packets.
        const HOST_TSO6 = 1 << 12;
        /// A received packet may span buffers.
        const MRG_RXBUF = 1 << 15;
        /// `status` holds.
        const STATUS = 1 << 16;
    }
}

/// Configuration: offsets of the fields that are read [virtio 1.2 §5.1.4].
mod config {
    pub const MAC: usize = 0;
    pub const STATUS: usize = 6;
    pub const MTU: usize = 10;
    pub const LINK_UP: u16 = 1;
}

/// Headers to send lie so far apart.
const HEADER_STRIDE: usize = 16;

/// The least MTU [virtio 1.2 §5.1.4.1], and the usual one.
const MTU_MIN: u16 = 68;
const MTU_ETHERNET: u16 = 1500;
/// Without mergeable buffers every buffer takes a whole packet [virtio 1.2 §5.1.6.3.1].
const RX_BUFFER_WHOLE: usize = 1526;
/// With them any size will do; this much holds all headers, where a checksum may lie.
const RX_BUFFER_PART: usize = 256;

/// How a network device is to be driven.
#[derive(Clone, Copy, Debug)]
pub struct NetConfig {
    /// Buffers to receive into, at most.
    pub rx_size: u16,
    /// Packets to send, at most.
    pub tx_size: u16,
    /// Segments in a packet to send, at most.
    pub tx_segments: u16,
    /// MSI-X entry for changes of the configuration.
    pub configuration_vector: u16,
    /// MSI-X entry for received packets.
    pub rx_vector: u16,
    /// MSI-X entry for sent packets.
    pub tx_vector: u16,
}

impl NetConfig {
    /// 64 buffers, 64 packets of 32 segments (64 KiB in clusters of 2 KiB) take 56 KiB of the host's memory.
    pub const DEFAULT: NetConfig = NetConfig {
        rx_size: 64,
        tx_size: 64,
        tx_segments: 32,
        configuration_vector: 0,
        rx_vector: 1,
        tx_vector: 2,
    };
}

/// What a network device is.
#[derive(Clone, Copy, Debug)]
pub struct NetInfo {
    /// Ethernet address, if the device has one that a station may have.
    pub mac: Option<[u8; 6]>,
    /// The largest payload of a frame.
    pub mtu: u16,
    /// It completes checksums of packets to send.
    pub tx_checksum: bool,
    /// It cuts long TCP segments over IPv4 into packets.
    pub tso4: bool,
    /// It cuts long TCP segments over IPv6 into packets.
    pub tso6: bool,
    /// It may say that a received packet's checksum is right.
    pub rx_checksum: bool,
    /// A received packet may span buffers.
    pub rx_scatter: bool,
    /// The most segments in a packet to send.
    pub max_tx_segments: usize,
    /// How many buffers to receive into it keeps.
    pub rx_depth: usize,
    /// How many packets to send it keeps, at least.
    pub tx_depth: usize,
    /// The least length of a buffer to receive into.
    pub rx_buffer_bytes: usize,
}

/// A buffer that was received into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxPart {
    /// The buffer's token.
    pub token: u64,
    /// Where the bytes of the packet start in the buffer.
    pub offset: usize,
    /// How many there are; 0 in every part of a packet that is to be ignored.
    pub len: usize,
    /// More parts of the same packet follow at once.
    pub more: bool,
    /// The device answers for the packet's checksum.
    pub checksum_good: bool,
}

/// What is left of a packet whose first part was given out.
#[derive(Clone, Copy)]
struct Rest {
    parts: u16,
    ignore: bool,
    checksum_good: bool,
}

/// A network device.
pub struct VirtioNet<T: Transport> {
    // First, so that the device is stopped before its memory goes.
    device: Device<T>,
    rx: Queue,
    tx: Queue,
    /// The buffer in each slot of the receive queue.
    rx_buffers: Table<Segment>,
    tx_headers: Pages,
    rest: Option<Rest>,
    info: NetInfo,
    link_up: bool,
}

impl<T: Transport> VirtioNet<T> {
    /// Brings the device up.
    pub fn attach(
        transport: T,
        dma: &'static dyn Dma,
        config: NetConfig,
    ) -> Result<VirtioNet<T>, AttachError> {
        let mut device = Device::negotiate(transport, NetFeatures::all().bits())?;
        let mac = read_mac(&device)?;
        let mtu = read_mtu(&device)?;
        device.set_configuration_vector(config.configuration_vector)?;
        let shape = Shape {
            size: config.rx_size,
            chain: 1,
        };
        let rx = device.queue(dma, 0, shape, config.rx_vector)?;
        let shape = Shape {
            size: config.tx_size,
            chain: config.tx_segments.saturating_add(1),
        };
        let tx = device.queue(dma, 1, shape, config.tx_vector)?;
        if tx.max_chain() < 3 {
            // A header and the two segments that every packet may have.
            return Err(Fault::QueueMissing { queue: 1 }.into());
        }
        let nowhere = Segment {
            base: NonNull::dangling(),
            len: 0,
        };
        let no_memory = AttachError::NoMemory;
        let rx_buffers = Table::new(dma, usize::from(rx.size()), nowhere).ok_or(no_memory)?;
        let tx_headers = Pages::allocate(dma, usize::from(tx.size()) * HEADER_STRIDE);
        let tx_headers = tx_headers.ok_or(no_memory)?;
        let rx_scatter = device.has(NetFeatures::MRG_RXBUF.bits());
        let whole = HEADER_BYTES + ETHER_HEADER + ETHER_TAG + usize::from(mtu);
        let has = |feature: NetFeatures| device.has(feature.bits());
        let info = NetInfo {
            mac,
            mtu,
            tx_checksum: has(NetFeatures::CSUM),
            tso4: has(NetFeatures::CSUM | NetFeatures::HOST_TSO4),
            tso6: has(NetFeatures::CSUM | NetFeatures::HOST_TSO6),
            rx_checksum: has(NetFeatures::GUEST_CSUM),
            rx_scatter,
            max_tx_segments: usize::from(tx.max_chain() - 1),
            rx_depth: usize::from(rx.depth()),
            tx_depth: usize::from(tx.depth()),
            rx_buffer_bytes: match rx_scatter {
                true => RX_BUFFER_PART,
                false => whole.max(RX_BUFFER_WHOLE),
            },
        };
        device.start();
        let mut net = VirtioNet {
            rx,
            tx,
            rx_buffers,
            tx_headers,
            rest: None,
            info,
            link_up: true,
            device,
        };
        net.read_link();
        Ok(net)
    }

    /// What it is.
    pub fn info(&self) -> &NetInfo {
        &self.info
    }

    /// The device, as the transport sees it.
    pub fn device(&self) -> &Device<T> {
        &self.device
    }

    /// Whether the link was up when the device last said.
    pub fn link_up(&self) -> bool {
        self.link_up && self.device.fault().is_none()
    }

    /// Looks what a configuration interrupt was about: the link, or a device that asks for a reset,
    /// which is given up: then everything outstanding is to be taken back.
    pub fn configuration_changed(&mut self) {
        if self.device.check_status().is_ok() {
            self.read_link();
        }
    }

    fn read_link(&mut self) {
        if !self.device.has(NetFeatures::STATUS.bits()) {
            return;
        }
        let status = self
            .device
            .configuration("status", config::STATUS + 2, |t| {
                t.configuration16(config::STATUS)
            });
        match status {
            Ok(status) => self.link_up = status & config::LINK_UP != 0,
            Err(fault) => self.device.give_up(fault),
        }
    }

    /// Gives the device a buffer to receive into. It may look at it only after a [`kick`](Self::kick).
    ///
    /// # Errors
    /// [`RequestError::Full`], [`RequestError::Invalid`] (too short), [`RequestError::Broken`].
    ///
    /// # Safety
    /// Until [`receive`](Self::receive) gives the token back, or the driver is dropped, the memory
    /// stays where it is and nobody else looks at it.
    pub unsafe fn provide(&mut self, buffer: Segment, token: u64) -> Result<(), RequestError> {
        if self.device.fault().is_some() {
            return Err(RequestError::Broken);
        }
        if buffer.len < self.info.rx_buffer_bytes || u32::try_from(buffer.len).is_err() {
            return Err(RequestError::Invalid);
        }
        let mut chain = self.rx.begin().ok_or(RequestError::Full)?;
        let head = usize::from(chain.head());
        chain.push_segment(buffer, u32::MAX, true)?;
        self.rx_buffers[head] = buffer;
        chain.commit(token);
        Ok(())
    }

    /// Takes the next received part. `None`: there is none now, and an interrupt will tell of the next.
    /// Once the device was given up, all its buffers come out as parts of no bytes.
    pub fn receive(&mut self) -> Option<RxPart> {
        for _ in 0..LOOKS {
            if self.device.fault().is_some() {
                self.rest = None;
                return self.rx.abandon().map(ignored);
            }
            match self.rx.take() {
                Ok(Some(used)) => return Some(self.part(used)),
                // They were all used when the first part was given out, so the index went back.
                Ok(None) if let Some(rest) = self.rest => {
                    self.device.give_up(Fault::BufferCount {
                        claimed: rest.parts,
                        used: 0,
                    });
                }
                Ok(None) if self.rx.want_interrupt(1) => return None,
                // Arrived meanwhile: take it.
                Ok(None) => {}
                Err(fault) => self.device.give_up(fault),
            }
        }
        None
    }

    fn part(&mut self, used: Used) -> RxPart {
        let Some(rest) = self.rest.take() else {
            return self.first_part(used);
        };
        self.expect(Rest {
            parts: rest.parts - 1,
            ..rest
        });
        RxPart {
            token: used.token,
            offset: 0,
            len: if rest.ignore { 0 } else { used.len as usize },
            more: self.rest.is_some(),
            checksum_good: rest.checksum_good,
        }
    }

    fn expect(&mut self, rest: Rest) {
        self.rest = (rest.parts > 0).then_some(rest);
    }

    fn first_part(&mut self, used: Used) -> RxPart {
        let Some(len) = (used.len as usize).checked_sub(HEADER_BYTES) else {
            return ignored(used.token);
        };
        let header = self.read_header(used.head);
        let parts = match self.info.rx_scatter {
            true => header.num_buffers,
            false => 1,
        };
        // All of a packet's buffers are used at once [virtio 1.2 §5.1.6.3.2].
        let more = self.rx.pending();
        if let Err(fault) = more {
            self.device.give_up(fault);
            return ignored(used.token);
        }
        let there = more.unwrap_or(0).saturating_add(1);
        if parts == 0 || parts > there {
            self.device.give_up(Fault::BufferCount {
                claimed: parts,
                used: there,
            });
            return ignored(used.token);
        }
        let checksum = header.checksum(self.info.rx_checksum, len);
        self.expect(Rest {
            parts: parts - 1,
            ignore: checksum.is_none(),
            checksum_good: checksum.unwrap_or(false),
        });
        RxPart {
            token: used.token,
            offset: HEADER_BYTES,
            len: if checksum.is_none() { 0 } else { len },
            more: self.rest.is_some(),
            checksum_good: checksum.unwrap_or(false),
        }
    }

    /// Reads the header, once, from the buffer that was in slot `head`.
    fn read_header(&self, head: u16) -> RxHeader {
        let buffer = self.rx_buffers[usize::from(head)];
        // SAFETY: `provide` put the buffer into this slot, at least `rx_buffer_bytes` long, and its
        // caller keeps it in place until the token comes out, which is after this; bytes need no alignment.
        let header = unsafe { VolatilePtr::new(buffer.base.cast::<[u8; HEADER_BYTES]>()) };
        RxHeader::parse(header.read())
    }

    /// Hands a frame to the device. It may look at it only after a [`kick`](Self::kick).
    ///
    /// # Errors
    /// See [`RequestError`]. After [`RequestError::Full`], ask [`want_transmitted`](Self::want_transmitted).
    ///
    /// # Safety
    /// Until the token is reaped, or the driver dropped, the memory of every segment stays where it
    /// is and nobody changes it.
    pub unsafe fn transmit(
        &mut self,
        segments: impl Iterator<Item = Segment> + Clone,
        offload: TxOffload,
        token: u64,
    ) -> Result<(), RequestError> {
        if self.device.fault().is_some() {
            return Err(RequestError::Broken);
        }
        let bytes = self.measure(segments.clone())?;
        let gso_type = match offload.cut {
            Some(_) => self.gso_type(segments.clone().next())?,
            None => GSO_NONE,
        };
        let words = self.info.tx_header(bytes, gso_type, offload)?;
        let mut chain = self.tx.begin().ok_or(RequestError::Full)?;
        let header = usize::from(chain.head()) * HEADER_STRIDE;
        self.tx_headers.store64(header, words.0, Ordering::Relaxed);
        self.tx_headers
            .store32(header + 8, words.1, Ordering::Relaxed);

        chain.push(self.tx_headers.bus(header), HEADER_BYTES as u32, false)?;
        for segment in segments {
            chain.push_segment(segment, u32::MAX, false)?;
        }
        chain.commit(token);
        Ok(())
    }

    /// The bytes of a frame, if it is not in too many pieces.
    fn measure(&self, segments: impl Iterator<Item = Segment>) -> Result<usize, RequestError> {
        let mut bytes = 0usize;
        for (index, segment) in segments.enumerate() {
            bytes = bytes.saturating_add(segment.len);
            if index == self.info.max_tx_segments {
                return Err(RequestError::Invalid);
            }
        }
        Ok(bytes)
    }

    /// How the frame that starts with `first` is cut, by its EtherType.
    fn gso_type(&self, first: Option<Segment>) -> Result<u8, RequestError> {
        let first = first.filter(|first| first.len >= ETHER_HEADER);
        let first = first.ok_or(RequestError::Invalid)?;
        // SAFETY: two bytes of the segment, which has so many; `transmit`'s caller keeps it in place
        // and unchanged. Bytes need no alignment.
        let ether_type = unsafe { first.base.add(ETHER_TYPE) };
        // SAFETY: as above.
        let ether_type = unsafe { VolatilePtr::new(ether_type.cast::<[u8; 2]>()) };
        match ether_type.read() {
            ETHER_TYPE_IPV4 if self.info.tso4 => Ok(GSO_TCPV4),
            ETHER_TYPE_IPV6 if self.info.tso6 => Ok(GSO_TCPV6),
            _ => Err(RequestError::Invalid),
        }
    }

    /// Tells the device of what was given to it since the last call, if it wants to know.
    pub fn kick(&mut self) {
        self.device.kick(&mut self.rx);
        self.device.kick(&mut self.tx);
    }

    /// Takes the token of one packet that was sent, or given up with the device.
    pub fn reap_transmitted(&mut self) -> Option<u64> {
        if self.device.fault().is_none() {
            match self.tx.take() {
                Ok(used) => return used.map(|used| used.token),
                Err(fault) => self.device.give_up(fault),
            }
        }
        self.tx.abandon()
    }

    /// Asks for an interrupt once the device has sent half of what it was given. `false`: it has
    /// already, so none may come; reap instead.
    pub fn want_transmitted(&mut self) -> bool {
        self.device.kick(&mut self.tx);
        let half = self.tx.outstanding().div_ceil(2);
        self.device.fault().is_none() && self.tx.want_interrupt(half)
    }
}

/// A part with nothing in it.
fn ignored(token: u64) -> RxPart {
    RxPart {
        token,
        offset: 0,
        len: 0,
        more: false,
        checksum_good: false,
    }
}

fn read_mac<T: Transport>(device: &Device<T>) -> Result<Option<[u8; 6]>, Fault> {
    if !device.has(NetFeatures::MAC.bits()) {
        return Ok(None);
    }
    let mac = device.configuration("mac", config::MAC + 6, |t| {
        core::array::from_fn(|index| t.configuration8(config::MAC + index))
    })?;
    // A group address, or none at all, names no station [IEEE 802 §8.2].
    let station = mac[0] & 1 == 0 && mac != [0; 6];
    Ok(station.then_some(mac))
}

fn read_mtu<T: Transport>(device: &Device<T>) -> Result<u16, Fault> {
    if !device.has(NetFeatures::MTU.bits()) {
        return Ok(MTU_ETHERNET);
    }
    let field = "mtu";
    let mtu = device.configuration(field, config::MTU + 2, |t| t.configuration16(config::MTU))?;
    if mtu < MTU_MIN {
        return Err(Fault::Configuration { field });
    }
    Ok(mtu)
}
