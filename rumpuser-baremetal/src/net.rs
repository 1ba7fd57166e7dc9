//! Packet hypercalls, on virtio network devices.
//!
//! Lock: one for each device, a leaf, never held across a call into the kernel or its log. Interrupt handlers take none: they record and
//! wake the listener, which receives and reaps.

use crate::heap;
use crate::virtio::{DMA, Failure, Found, Listener, Obituary, Transport, errno, segment};
use platform_virtio::RequestError;
use platform_virtio::net::{self, HEADER_BYTES, NetConfig, NetInfo, TxChecksum, TxCut, VirtioNet};
use rumpuser::{
    Errno, PacketDevice, PacketFeatures, PacketInfo, RxBuffer, RxChecksum, RxPart, ThreadId,
    TxOffload, TxPacket,
};
use spin::{Mutex, Once};

/// The most packet devices.
const MAX_CARDS: usize = 8;

static CARDS: [Once<&'static Card>; MAX_CARDS] = [const { Once::new() }; MAX_CARDS];

struct Card {
    info: PacketInfo,
    driver: Mutex<VirtioNet<Transport>>,
    listener: Listener,
    obituary: Obituary,
}

/// The packet device of index `unit`.
pub(crate) fn device(unit: usize) -> Option<&'static dyn PacketDevice> {
    let card: &'static Card = CARDS.get(unit)?.get()?;
    Some(card)
}

/// Brings up a device that was found.
pub(crate) fn attach(found: &Found) -> Result<(), Failure> {
    let full = Failure::Exhausted("place for a network device");
    let unit = CARDS
        .iter()
        .position(|card| card.get().is_none())
        .ok_or(full)?;
    // The vectors of `NetConfig::DEFAULT`, in order.
    found.wire(
        &[configuration_interrupt, queue_interrupt, queue_interrupt],
        unit,
    )?;
    let driver = VirtioNet::attach(found.transport()?, DMA, NetConfig::DEFAULT)?;
    let device = *driver.info();
    let info = PacketInfo {
        parent: found.name,
        mac: device.mac.unwrap_or_else(|| found.local_address()),
        mtu: device.mtu,
        features: features(&device),
        max_tx_segments: device.max_tx_segments,
        rx_depth: device.rx_depth,
        tx_depth: device.tx_depth,
        rx_buffer_bytes: device.rx_buffer_bytes,
        rx_headroom: HEADER_BYTES,
    };
    let card = Card {
        info,
        driver: Mutex::new(driver),
        listener: Listener::new(),
        obituary: Obituary::new(),
    };
    let card = heap::place(card).map_err(|_| Failure::Exhausted("memory"))?;
    CARDS[unit].call_once(|| card);
    Ok(())
}

fn features(device: &NetInfo) -> PacketFeatures {
    let offered = [
        (device.tx_checksum, PacketFeatures::TX_CHECKSUM),
        (device.tso4, PacketFeatures::TSO4),
        (device.tso6, PacketFeatures::TSO6),
        (device.rx_checksum, PacketFeatures::RX_CHECKSUM),
        (device.rx_scatter, PacketFeatures::RX_SCATTER),
    ];
    let offered = offered.into_iter().filter(|&(has, _)| has);
    offered.fold(PacketFeatures::NONE, |all, (_, feature)| all | feature)
}

/// What the kernel asks for, in the driver's words.
fn offload(asked: &TxOffload) -> net::TxOffload {
    let checksum = asked.checksum;
    net::TxOffload {
        checksum: checksum.map(|(start, offset)| TxChecksum { start, offset }),
        cut: (asked.segment_bytes != 0).then_some(TxCut {
            payload_bytes: asked.segment_bytes,
            header_bytes: asked.header_bytes,
        }),
    }
}

fn queue_interrupt(unit: usize) {
    if let Some(card) = CARDS.get(unit).and_then(Once::get) {
        card.listener.wake();
    }
}

fn configuration_interrupt(unit: usize) {
    if let Some(card) = CARDS.get(unit).and_then(Once::get) {
        card.listener.configuration_interrupt();
    }
}

impl Card {
    /// Calls the driver, and says so if it gave the device up.
    fn with<R>(&self, call: impl FnOnce(&mut VirtioNet<Transport>) -> R) -> R {
        let (result, fault) = {
            let mut driver = self.driver.lock();
            if self.listener.configuration_changed() {
                driver.configuration_changed();
            }
            let result = call(&mut driver);
            (result, driver.device().fault())
        };
        self.obituary.check(self.info.parent, fault);
        result
    }
}

impl PacketDevice for Card {
    fn info(&self) -> &PacketInfo {
        &self.info
    }

    fn link_up(&self) -> bool {
        self.with(|driver| driver.link_up())
    }

    unsafe fn provide(&self, buffer: &RxBuffer) -> Result<(), Errno> {
        let memory = segment(&buffer.memory);
        self.with(|driver| {
            // SAFETY: the caller's promise is the one that the driver asks for.
            unsafe { driver.provide(memory, buffer.token) }
        })
        .map_err(|error| errno(error, Errno::ENXIO))
    }

    fn receive(&self) -> Option<RxPart> {
        let part = self.with(|driver| driver.receive())?;
        Some(RxPart {
            token: part.token,
            offset: part.offset,
            len: part.len,
            more: part.more,
            checksum: match part.checksum_good {
                true => RxChecksum::Good,
                false => RxChecksum::Unknown,
            },
        })
    }

    unsafe fn transmit(&self, packet: &TxPacket<'_>) -> Result<(), Errno> {
        let offload = offload(&packet.offload);
        let segments = packet.segments.iter().map(segment);
        let (sent, interrupt_comes) = self.with(|driver| {
            // SAFETY: the caller's promise is the one that the driver asks for.
            let sent = unsafe { driver.transmit(segments, offload, packet.token) };
            let full = sent == Err(RequestError::Full);
            (sent, !full || driver.want_transmitted())
        });
        if !interrupt_comes {
            self.listener.wake();
        }
        sent.map_err(|error| errno(error, Errno::ENXIO))
    }

    fn kick(&self) {
        self.with(|driver| driver.kick());
    }

    fn reap_transmitted(&self) -> Option<u64> {
        self.with(|driver| driver.reap_transmitted())
    }

    fn listen(&self, thread: ThreadId) {
        self.listener.set(thread);
    }
}
