//! What is done with the network card.

use crate::pages;
use core::ptr::NonNull;
use rumpuser::{Errno, IoVec, PacketDevice, RxBuffer, RxChecksum, TxOffload, TxPacket, host};
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
