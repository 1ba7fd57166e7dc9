//! Sending.

use crate::ETHER_HDR_LEN;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use rumpkern::kmem::Room;
use rumpkern::locks::{LockClass, Mutex};
use rumpkern::uvm::dma::{PacketQueue, TxPiece};
use rumpnet::mbuf::{Mbuf, MbufFlags, PktHdr, Storage};
use rumpuser::{Errno, ThreadId, TxOffload, host};

static VIRTIF: LockClass = LockClass {
    name: "virtif",
    rank: 280,
};

/// What the thread has to look after.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// Nothing.
    Idle,
    /// Packets are with the device.
    UnderWay,
    /// Packets wait for room.
    Waiting,
}

struct State {
    /// What the device had no room for.
    waiting: VecDeque<Mbuf>,
    /// The pieces of the packet being sent; its room is used again.
    pieces: Vec<TxPiece>,
    /// The thread is in a batch, at whose end it kicks.
    in_batch: bool,
    /// The device was given something and not told.
    unkicked: bool,
    thread: Option<ThreadId>,
    /// The thread sleeps with nothing under way, and so for as long as the device says nothing.
    asleep: bool,
}

/// The way to the device.
pub(crate) struct TxQueue {
    state: Mutex<State>,
    most_waiting: usize,
}

impl TxQueue {
    pub(crate) fn new(most_waiting: usize) -> TxQueue {
        let state = State {
            waiting: VecDeque::new(),
            pieces: Vec::new(),
            in_batch: false,
            unkicked: false,
            thread: None,
            asleep: false,
        };
        TxQueue {
            state: Mutex::with_class(state, &VIRTIF),
            most_waiting,
        }
    }

    /// Sends a frame, or has it wait.
    pub(crate) fn transmit(&self, queue: &PacketQueue, frame: Mbuf) -> Result<(), Errno> {
        let more = frame.pkthdr.flags.contains(MbufFlags::M_MORE);
        let mut state = self.state.lock();
        let sent = state.send_or_queue(queue, frame, self.most_waiting);
        // Also after a failure: the last of a run of M_MORE may be the one that was dropped.
        if !state.in_batch && (!more || sent.is_err()) {
            state.kick(queue);
        }
        // It looks after what was sent, so that storage does not stay longer than it must.
        if core::mem::take(&mut state.asleep)
            && let Some(thread) = state.thread
        {
            host().threads().unpark(thread);
        }
        sent
    }

    /// The thread begins a batch: packets sent from now on are told to the device at its end.
    pub(crate) fn begin_batch(&self) {
        self.state.lock().in_batch = true;
    }

    /// The thread ends a batch: lets go of what was sent, and sends what waited.
    pub(crate) fn end_batch(&self, queue: &PacketQueue) {
        queue.reap();
        let mut state = self.state.lock();
        state.in_batch = false;
        while let Some(frame) = state.waiting.pop_front() {
            if state.send(queue, &frame) == Err(Errno::EAGAIN) {
                state.waiting.push_front(frame);
                break;
            }
        }
        state.kick(queue);
    }

    /// What there is to look after.
    pub(crate) fn outlook(&self, queue: &PacketQueue) -> Outlook {
        let mut state = self.state.lock();
        if !state.waiting.is_empty() {
            return Outlook::Waiting;
        }
        // Under the lock: what is sent from now on finds the thread asleep, and wakes it.
        state.asleep = queue.in_flight() == 0;
        match state.asleep {
            true => Outlook::Idle,
            false => Outlook::UnderWay,
        }
    }

    /// Notes the thread, for [`TxQueue::wake_thread`].
    pub(crate) fn set_thread(&self) {
        self.state.lock().thread = Some(host().threads().current());
    }

    pub(crate) fn wake_thread(&self) {
        let thread = self.state.lock().thread;
        if let Some(thread) = thread {
            host().threads().unpark(thread);
        }
    }
}

impl State {
    fn kick(&mut self, queue: &PacketQueue) {
        if core::mem::take(&mut self.unkicked) {
            queue.kick();
        }
    }

    fn send_or_queue(
        &mut self,
        queue: &PacketQueue,
        mut frame: Mbuf,
        most_waiting: usize,
    ) -> Result<(), Errno> {
        let sent = match self.waiting.is_empty() {
            true => self.send(queue, &frame),
            // Behind those that wait.
            false => Err(Errno::EAGAIN),
        };
        if sent != Err(Errno::EAGAIN) {
            return sent;
        }
        if self.waiting.len() >= most_waiting || self.waiting.room(1).is_err() {
            return Err(Errno::ENOBUFS);
        }
        frame.pkthdr.flags.remove(MbufFlags::M_MORE);
        self.waiting.push_back(frame);
        Ok(())
    }

    /// Gives a frame to the device, which holds on to its storage until it is sent.
    fn send(&mut self, queue: &PacketQueue, frame: &Mbuf) -> Result<(), Errno> {
        let offload = offload_of(&frame.pkthdr)?;
        self.pieces.clear();
        let room = self.pieces.room(frame.piece_count());
        room.map_err(|_| Errno::ENOBUFS)?;
        let pieces = frame.pieces().filter(|piece| !piece.is_empty());
        self.pieces.extend(pieces.map(|piece| {
            let (storage, offset, len) = piece.clone().into_parts();
            tx_piece(storage, offset, len)
        }));
        let sent = queue.transmit(&mut self.pieces, offload);
        // Empty after a success; after a failure the storage must not be held on to.
        self.pieces.clear();
        self.unkicked |= sent.is_ok();
        sent
    }
}

fn tx_piece(storage: Storage, offset: usize, len: usize) -> TxPiece {
    match storage {
        Storage::Frame(frame) => TxPiece::Frame { frame, offset, len },
        Storage::Cluster(cluster) => TxPiece::Cluster {
            cluster,
            offset,
            len,
        },
        Storage::Small(buffer) => TxPiece::Small {
            buffer,
            offset,
            len,
        },
        Storage::Static(bytes) => TxPiece::Static(&bytes[offset..offset + len]),
    }
}

/// What the device is asked to do to a packet.
fn offload_of(pkthdr: &PktHdr) -> Result<TxOffload, Errno> {
    let Some(checksum) = pkthdr.checksum else {
        return match pkthdr.segment_bytes {
            0 => Ok(TxOffload::default()),
            _ => Err(Errno::EINVAL),
        };
    };
    let start = ETHER_HDR_LEN as u16 + pkthdr.network_header;
    let header_bytes = match pkthdr.segment_bytes {
        0 => 0,
        _ => start + pkthdr.transport_header,
    };
    Ok(TxOffload {
        checksum: Some((start, u16::from(checksum.field))),
        segment_bytes: pkthdr.segment_bytes,
        header_bytes,
    })
}
