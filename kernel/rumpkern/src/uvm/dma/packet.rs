//! Packets: receive buffers that a device holds, and packets under way.

use super::{DMA_CLASS, Token};
use crate::kmem;
use crate::locks::Mutex;
use crate::uvm::Frame;
use crate::uvm::cluster::{Cluster, MCLBYTES, SmallBuffer};
use alloc::vec::Vec;
use core::ptr::NonNull;
use rumpuser::{
    Errno, Instant, IoVec, PAGE_SIZE, PacketDevice, PacketInfo, RxBuffer, RxChecksum, TxOffload,
    TxPacket, host,
};

/// More buffers or packets than this are not handed to a device.
const MAX_DEPTH: usize = 1024;
/// More segments than this are not used in one packet: 64 KiB of pages, and headers.
const MAX_SEGMENTS: usize = 32;
/// A received packet has at most this many parts.
const MAX_PARTS: usize = 64;

/// A piece of a packet to send. It keeps its memory alive, and unwritten, until the packet is gone.
#[derive(Clone, Debug)]
pub enum TxPiece {
    /// A part of a page.
    Frame {
        /// The page.
        frame: Frame,
        /// Where the part starts, in bytes.
        offset: usize,
        /// How long it is.
        len: usize,
    },
    /// A part of a cluster.
    Cluster {
        /// The cluster.
        cluster: Cluster,
        /// Where the part starts, in bytes.
        offset: usize,
        /// How long it is.
        len: usize,
    },
    /// A part of a small buffer.
    Small {
        /// The buffer.
        buffer: SmallBuffer,
        /// Where the part starts, in bytes.
        offset: usize,
        /// How long it is.
        len: usize,
    },
    /// Bytes that are always there.
    Static(&'static [u8]),
}

impl TxPiece {
    /// How long it is, in bytes.
    pub fn len(&self) -> usize {
        match self {
            TxPiece::Frame { len, .. }
            | TxPiece::Cluster { len, .. }
            | TxPiece::Small { len, .. } => *len,
            TxPiece::Static(bytes) => bytes.len(),
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes; `None` if the part is not inside its buffer.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        let (bytes, offset, len): (&[u8], usize, usize) = match self {
            TxPiece::Frame { frame, offset, len } => (frame.as_bytes(), *offset, *len),
            TxPiece::Cluster {
                cluster,
                offset,
                len,
            } => (cluster.as_bytes(), *offset, *len),
            TxPiece::Small {
                buffer,
                offset,
                len,
            } => (buffer.as_bytes(), *offset, *len),
            TxPiece::Static(bytes) => (bytes, 0, bytes.len()),
        };
        bytes.get(offset..offset.checked_add(len)?)
    }

    fn segment(&self) -> Option<IoVec> {
        let bytes = self.as_bytes()?;
        if bytes.is_empty() {
            return None;
        }
        Some(IoVec {
            base: NonNull::from(bytes).cast(),
            len: bytes.len(),
        })
    }
}

/// A part of a received packet.
#[derive(Debug)]
pub struct RxPiece {
    /// The buffer that it was received into; this is the only handle.
    pub cluster: Cluster,
    /// Where the part starts, in bytes.
    pub offset: usize,
    /// How long it is; inside the cluster.
    pub len: usize,
}

struct RxSlot {
    generation: u32,
    cluster: Option<Cluster>,
}

struct Rx {
    slots: Vec<RxSlot>,
    free: Vec<u32>,
}

struct TxSlot {
    generation: u32,
    in_flight: bool,
    /// The pieces under way; its room is used again.
    pieces: Vec<TxPiece>,
}

struct Tx {
    slots: Vec<TxSlot>,
    free: Vec<u32>,
    segments: Vec<IoVec>,
}

/// The buffers and packets that one packet device has in hand.
///
/// What the device still has when the queue is dropped is never freed: the device may still write there.
pub struct PacketQueue {
    device: &'static dyn PacketDevice,
    rx: Mutex<Rx>,
    tx: Mutex<Tx>,
}

impl PacketQueue {
    /// Takes a device into use, with at most `rx_depth` buffers to receive and `tx_depth` packets to send.
    ///
    /// # Errors
    /// `ENOMEM`. `EINVAL` if the device wants buffers larger than a cluster.
    pub fn attach(
        device: &'static dyn PacketDevice,
        rx_depth: usize,
        tx_depth: usize,
    ) -> Result<PacketQueue, Errno> {
        let info = device.info();
        if info.rx_buffer_bytes > MCLBYTES {
            return Err(Errno::EINVAL);
        }
        let rx_depth = rx_depth.min(info.rx_depth).clamp(1, MAX_DEPTH);
        let tx_depth = tx_depth.min(info.tx_depth).clamp(1, MAX_DEPTH);
        let mut rx = Rx {
            slots: kmem::try_vec(rx_depth)?,
            free: kmem::try_vec(rx_depth)?,
        };
        rx.slots.resize_with(rx_depth, || RxSlot {
            generation: 0,
            cluster: None,
        });
        rx.free.extend((0..rx_depth as u32).rev());
        let mut tx = Tx {
            slots: kmem::try_vec(tx_depth)?,
            free: kmem::try_vec(tx_depth)?,
            segments: kmem::try_vec(info.max_tx_segments.clamp(1, MAX_SEGMENTS))?,
        };
        tx.slots.resize_with(tx_depth, || TxSlot {
            generation: 0,
            in_flight: false,
            pieces: Vec::new(),
        });
        tx.free.extend((0..tx_depth as u32).rev());
        Ok(PacketQueue {
            device,
            rx: Mutex::with_class(rx, &DMA_CLASS),
            tx: Mutex::with_class(tx, &DMA_CLASS),
        })
    }

    /// What the device is.
    pub fn info(&self) -> &PacketInfo {
        self.device.info()
    }

    /// Whether the link is up.
    pub fn link_up(&self) -> bool {
        self.device.link_up()
    }

    /// The most pieces that a packet may have.
    pub fn max_pieces(&self) -> usize {
        self.info().max_tx_segments.clamp(1, MAX_SEGMENTS)
    }

    /// Gives the device a buffer to receive into.
    ///
    /// # Errors
    /// Gives the cluster back. `EAGAIN`: it has as many as it keeps. `EINVAL`: there is another handle.
    /// `ENXIO`: the device is broken.
    pub fn provide(&self, cluster: Cluster) -> Result<(), (Errno, Cluster)> {
        if !cluster.is_unique() {
            return Err((Errno::EINVAL, cluster));
        }
        let mut rx = self.rx.lock();
        let Some(slot) = rx.free.last().copied() else {
            return Err((Errno::EAGAIN, cluster));
        };
        let memory = IoVec {
            base: cluster.address(),
            len: MCLBYTES,
        };
        let entry = &mut rx.slots[slot as usize];
        entry.cluster = Some(cluster);
        let buffer = RxBuffer {
            memory,
            token: Token::new(slot as usize, entry.generation).0,
        };
        // SAFETY: the table owns the only handle of the cluster until the token comes back (`take_part` is the
        // only taker, and a drop of the queue forgets it), so it stays and nobody looks.
        let provided = unsafe { self.device.provide(&buffer) };
        match provided {
            Ok(()) => {
                rx.free.pop();
                Ok(())
            }
            Err(errno) => match rx.slots[slot as usize].cluster.take() {
                Some(cluster) => Err((errno, cluster)),
                None => Ok(()),
            },
        }
    }

    /// How many more buffers the table has room for.
    pub fn rx_room(&self) -> usize {
        self.rx.lock().free.len()
    }

    /// Takes one whole received packet: puts its parts at the end of `parts`. A packet that the device
    /// describes wrongly is dropped with a word in the log.
    pub fn receive(&self, parts: &mut Vec<RxPiece>) -> Option<RxChecksum> {
        let first = parts.len();
        let mut good = true;
        let mut rx = self.rx.lock();
        loop {
            let part = self.device.receive()?;
            let piece = rx.take_part(Token(part.token), part.offset, part.len);
            match piece {
                Some(piece) if piece.len > 0 && parts.len() - first < MAX_PARTS => {
                    parts.push(piece)
                }
                // A device that breaks gives its buffers back empty; that is no packet.
                Some(_) => good = false,
                None => {
                    log::error!(
                        "{}: bad receive token {:#x} or range {}+{}",
                        self.info().parent,
                        part.token,
                        part.offset,
                        part.len
                    );
                    good = false;
                }
            }
            if part.more {
                continue;
            }
            if good {
                return Some(part.checksum);
            }
            parts.truncate(first);
            good = true;
        }
    }

    /// Sends a packet, in pieces from the Ethernet header on. On success `pieces` comes back empty, with room
    /// to be used again; the device may still wait for a [`PacketQueue::kick`].
    ///
    /// # Errors
    /// Leaves `pieces` as they are. `EAGAIN`: as many packets as it takes are in flight, after
    /// [`PacketQueue::reap`] too. `EINVAL`: too many pieces, an empty one, one outside of its buffer, or an offload
    /// that the device does not have. `ENXIO`: the device is broken.
    pub fn transmit(&self, pieces: &mut Vec<TxPiece>, offload: TxOffload) -> Result<(), Errno> {
        if pieces.is_empty() || pieces.len() > self.max_pieces() {
            return Err(Errno::EINVAL);
        }
        let mut tx = self.tx.lock();
        if tx.free.is_empty() {
            self.reap_into(&mut tx);
        }
        match self.submit(&mut tx, pieces, offload) {
            Err(Errno::EAGAIN) if self.reap_into(&mut tx) > 0 => {
                self.submit(&mut tx, pieces, offload)
            }
            result => result,
        }
    }

    fn submit(
        &self,
        tx: &mut Tx,
        pieces: &mut Vec<TxPiece>,
        offload: TxOffload,
    ) -> Result<(), Errno> {
        let slot = tx.free.last().copied().ok_or(Errno::EAGAIN)?;
        tx.segments.clear();
        for piece in pieces.iter() {
            let segment = piece.segment().ok_or(Errno::EINVAL)?;
            tx.segments.push(segment);
        }
        let entry = &mut tx.slots[slot as usize];
        // Moving a piece does not move its memory: the vectors are swapped.
        core::mem::swap(&mut entry.pieces, pieces);
        entry.in_flight = true;
        let packet = TxPacket {
            segments: &tx.segments,
            offload,
            token: Token::new(slot as usize, entry.generation).0,
        };
        // SAFETY: the table owns a handle of every piece until the token is reaped (a drop of the queue forgets
        // them), so the memory stays; while there is a handle, nobody has or gets an exclusive reference.
        let transmitted = unsafe { self.device.transmit(&packet) };
        let entry = &mut tx.slots[slot as usize];
        if let Err(errno) = transmitted {
            entry.in_flight = false;
            core::mem::swap(&mut entry.pieces, pieces);
            return Err(errno);
        }
        tx.free.pop();
        Ok(())
    }

    /// Lets go of packets that have been sent; returns how many.
    pub fn reap(&self) -> usize {
        self.reap_into(&mut self.tx.lock())
    }

    fn reap_into(&self, tx: &mut Tx) -> usize {
        let mut reaped = 0;
        while let Some(token) = self.device.reap_transmitted() {
            let token = Token(token);
            let entry = tx
                .slots
                .get_mut(token.slot())
                .filter(|entry| entry.in_flight && entry.generation == token.generation());
            let Some(entry) = entry else {
                log::error!("{}: bad transmit token {:#x}", self.info().parent, token.0);
                continue;
            };
            entry.in_flight = false;
            entry.generation = entry.generation.wrapping_add(1);
            // The room stays for the next packet.
            entry.pieces.clear();
            tx.free.push(token.slot() as u32);
            reaped += 1;
        }
        reaped
    }

    /// How many packets are in flight.
    pub fn in_flight(&self) -> usize {
        let tx = self.tx.lock();
        tx.slots.len() - tx.free.len()
    }

    /// Makes the device look at what it was given.
    pub fn kick(&self) {
        self.device.kick();
    }

    /// Makes the device wake the calling thread when something was received, or sent after an `EAGAIN`.
    pub fn listen(&self) {
        self.device.listen(host().threads().current());
    }

    /// Waits for the device, in the thread that called [`PacketQueue::listen`]; may return early. What the device did since the
    /// thread last looked ends the wait at once, whatever locks the thread waited for in between.
    pub fn wait(&self, deadline: Option<Instant>) {
        host().threads().park(deadline);
    }
}

impl Rx {
    /// Takes a buffer back from the device, if it had it and the range is inside.
    fn take_part(&mut self, token: Token, offset: usize, len: usize) -> Option<RxPiece> {
        let entry = self.slots.get_mut(token.slot())?;
        if entry.generation != token.generation() {
            return None;
        }
        let cluster = entry.cluster.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(token.slot() as u32);
        if offset.checked_add(len)? > MCLBYTES {
            return None;
        }
        Some(RxPiece {
            cluster,
            offset,
            len,
        })
    }
}

impl Drop for PacketQueue {
    fn drop(&mut self) {
        for slot in &mut self.rx.get_mut().slots {
            core::mem::forget(slot.cluster.take());
        }
        for slot in &mut self.tx.get_mut().slots {
            if slot.in_flight {
                core::mem::forget(core::mem::take(&mut slot.pieces));
            }
        }
    }
}

const _: () = assert!(MCLBYTES < PAGE_SIZE);
