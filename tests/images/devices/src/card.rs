//! What is done with the network card.

use crate::pages;
use core::ptr::NonNull;
use core::time::Duration;
use rumpuser::{
    Errno, IoVec, PacketDevice, PacketFeatures, RxBuffer, RxChecksum, TxOffload, TxPacket, host,
};
use rumpuser_baremetal::aprint;

const BUFFER: usize = 2048;
const BUFFERS: usize = 48;

/// The EtherType for experiments on a local network (IEEE 802).
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// A card, and the buffers it receives into; a buffer's number is its token.
struct Card {
    device: &'static dyn PacketDevice,
    memory: NonNull<u8>,
}

impl Card {
    fn buffer(&self, number: usize) -> NonNull<u8> {
        // SAFETY: inside the pages that `echo` took.
        unsafe { self.memory.add(number % BUFFERS * BUFFER) }
    }

    fn provide(&self, number: usize) -> Result<(), Errno> {
        let memory = IoVec {
            base: self.buffer(number),
            len: BUFFER,
        };
        let buffer = RxBuffer {
            memory,
            token: number as u64,
        };
        // SAFETY: nobody looks at a buffer between its going out and its coming back.
        unsafe { self.device.provide(&buffer) }
    }

    /// Gives buffers that were sent back to the device to receive into.
    fn provide_sent(&self) -> Result<(), Errno> {
        while let Some(token) = self.device.reap_transmitted() {
            self.provide(token as usize)?;
        }
        Ok(())
    }

    /// Sends the `len` bytes at `offset` of a buffer, in two pieces.
    fn send(&self, number: usize, offset: usize, len: usize) -> Result<(), Errno> {
        let piece = |at: usize, len| {
            // SAFETY: `offset + len` is inside the buffer, as received.
            let base = unsafe { self.buffer(number).add(offset + at) };
            IoVec { base, len }
        };
        let segments = [piece(0, 14), piece(14, len - 14)];
        let packet = TxPacket {
            segments: &segments,
            offload: TxOffload::default(),
            token: number as u64,
        };
        // SAFETY: the buffer is provided again, and so changed, only once its token was reaped.
        unsafe { self.device.transmit(&packet) }
    }

    fn frame(&mut self, number: usize, offset: usize, len: usize) -> &mut [u8] {
        // SAFETY: inside the buffer.
        let start = unsafe { self.buffer(number).add(offset) };
        // SAFETY: received into and not provided again, so the buffer is ours alone while the frame is looked at.
        unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), len) }
    }
}

/// Bytes of Ethernet, IPv4 and TCP header; where TCP's starts, and where in it the checksum is.
const HEADERS: usize = 14 + 20 + 20;
const TCP_START: usize = 14 + 20;
const TCP_CHECKSUM: u16 = 16;
const SEGMENT_BYTES: u16 = 1000;
const PAYLOAD: usize = 20_000;

/// Sends one TCP segment of [`PAYLOAD`] bytes that the card is to cut, to whoever listens.
pub(crate) fn segment() -> Result<(), Errno> {
    let device = host().packet_device(0).ok_or(Errno::ENXIO)?;
    if !device.info().features.contains(PacketFeatures::TSO4) {
        aprint!("card: cuts nothing");
        return Ok(());
    }
    let memory = pages(0, 8)?;
    // SAFETY: the pages are nobody else's, and hold that many bytes.
    let frame = unsafe { core::slice::from_raw_parts_mut(memory.as_ptr(), HEADERS + PAYLOAD) };
    for (byte, index) in frame[HEADERS..].iter_mut().zip(0u32..) {
        *byte = index as u8;
    }
    let headers = &mut frame[..HEADERS];
    headers.fill(0);
    headers[..6].fill(0xff);
    headers[6..12].copy_from_slice(&device.info().mac);
    headers[12..14].copy_from_slice(&[0x08, 0x00]);
    let ip_bytes = (20 + 20 + PAYLOAD) as u16;
    headers[14] = 0x45;
    headers[16..18].copy_from_slice(&ip_bytes.to_be_bytes());
    (headers[22], headers[23]) = (64, 6);
    headers[26..30].copy_from_slice(&[10, 77, 0, 2]);
    headers[30..34].copy_from_slice(&[10, 77, 0, 1]);
    headers[TCP_START + 12] = 5 << 4;
    let base = memory;
    let piece = |at: usize, len| {
        // SAFETY: inside the frame.
        let base = unsafe { base.add(at) };
        IoVec { base, len }
    };
    let segments = [
        piece(0, HEADERS),
        piece(HEADERS, 7000),
        piece(HEADERS + 7000, PAYLOAD - 7000),
    ];
    let offload = TxOffload {
        checksum: Some((TCP_START as u16, TCP_CHECKSUM)),
        segment_bytes: SEGMENT_BYTES,
        header_bytes: HEADERS as u16,
    };
    let packet = TxPacket {
        segments: &segments,
        offload,
        token: 7,
    };
    // SAFETY: the pages are not touched again before the token is reaped.
    unsafe { device.transmit(&packet) }?;
    device.kick();
    let second = host().clock().now() + Duration::from_secs(5);
    while device.reap_transmitted() != Some(7) {
        if host().clock().now() > second {
            return Err(Errno::ETIMEDOUT);
        }
        host().threads().yield_now();
    }
    aprint!("card: sent a segment of {PAYLOAD} bytes");
    Ok(())
}

/// Sends every frame for experiments back, until one says `quit`.
pub(crate) fn echo() -> Result<(), Errno> {
    let device = host().packet_device(0).ok_or(Errno::ENXIO)?;
    let info = device.info();
    aprint!(
        "card: {:02x?} at {}, mtu {}, {:?}, {} segments, rx {} of {} bytes, tx {}, link {}",
        info.mac,
        info.parent,
        info.mtu,
        info.features,
        info.max_tx_segments,
        info.rx_depth,
        info.rx_buffer_bytes,
        info.tx_depth,
        if device.link_up() { "up" } else { "down" }
    );
    let mut card = Card {
        device,
        memory: pages(0, BUFFERS * BUFFER / rumpuser::PAGE_SIZE)?,
    };
    for number in 0..BUFFERS.min(info.rx_depth) {
        card.provide(number)?;
    }
    device.listen(host().threads().current());
    device.kick();
    aprint!("card: ready");
    let (mut frames, mut good) = (0u32, 0u32);
    loop {
        let mut quit = false;
        while let Some(part) = device.receive() {
            let number = part.token as usize;
            frames += 1;
            good += u32::from(part.checksum == RxChecksum::Good);
            let wanted = part.len >= 18 && !part.more && {
                let frame = card.frame(number, part.offset, part.len);
                let (to, from) = frame.split_at_mut(6);
                to.swap_with_slice(&mut from[..6]);
                frame[12..14] == EXPERIMENT
            };
            if !wanted {
                card.provide(number)?;
                continue;
            }
            quit |= card.frame(number, part.offset, part.len)[14..].starts_with(b"quit");
            while let Err(error) = card.send(number, part.offset, part.len) {
                if error != Errno::EAGAIN {
                    return Err(error);
                }
                device.kick();
                host().threads().park(None);
                card.provide_sent()?;
            }
        }
        card.provide_sent()?;
        device.kick();
        if quit {
            aprint!("card: {frames} frames, {good} with good checksums");
            return Ok(());
        }
        host().threads().park(None);
    }
}
