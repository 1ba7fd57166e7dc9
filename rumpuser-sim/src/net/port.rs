//! A port: a kernel's end of a wire.
//!
//! As on a disk, memory under way is watched: what is sent must not change until its token is back.

use super::wire::Wire;
use crate::bio::gather;
use crate::threads::wake;
use crate::world::{self, Event};
use rumpuser::{
    Errno, IoVec, PacketDevice, PacketFeatures, PacketInfo, RxBuffer, RxChecksum, RxPart, ThreadId,
    TxPacket,
};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Ethernet header and the largest payload.
pub(super) const FRAME_BYTES: usize = 14 + 1500;
/// Frames that wait for the kernel; more are dropped, as by a card.
const BACKLOG: usize = 256;

#[derive(Default)]
struct State {
    buffers: VecDeque<RxBuffer>,
    arrived: VecDeque<Vec<u8>>,
    sent: VecDeque<u64>,
    in_flight: usize,
    listener: Option<ThreadId>,
    dropped: u64,
}

/// A port.
pub struct SimPort {
    info: PacketInfo,
    wire: Wire,
    /// Its place on the wire.
    pub(super) number: usize,
    state: Mutex<State>,
    /// Itself, for events to come.
    own: OnceLock<&'static SimPort>,
}

impl SimPort {
    pub(super) fn new(wire: Wire, number: usize, mac: [u8; 6]) -> &'static SimPort {
        let info = PacketInfo {
            parent: "sim0",
            mac,
            mtu: 1500,
            features: PacketFeatures::NONE,
            max_tx_segments: 32,
            rx_depth: 64,
            tx_depth: 64,
            rx_buffer_bytes: FRAME_BYTES,
            rx_headroom: 0,
        };
        let port: &'static SimPort = Box::leak(Box::new(SimPort {
            info,
            wire,
            number,
            state: Mutex::new(State::default()),
            own: OnceLock::new(),
        }));
        port.own.get_or_init(|| port)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frames that came when there was no room.
    pub fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// A frame has come.
    pub(super) fn deliver(&self, frame: Vec<u8>) {
        let mut state = self.state();
        if state.arrived.len() >= BACKLOG {
            state.dropped += 1;
            return;
        }
        state.arrived.push_back(frame);
        let listener = state.listener;
        drop(state);
        wake(listener);
    }

    /// A frame has left, from this memory.
    fn sent(&self, token: u64, segments: &[IoVec], frame: &[u8]) {
        // SAFETY: whoever sent it promised that its memory stays until the token is reaped, which comes later.
        let now = unsafe { gather(segments) };
        assert!(now == frame, "memory changed while it was being sent");
        let mut state = self.state();
        state.sent.push_back(token);
        state.in_flight -= 1;
        let listener = state.listener;
        drop(state);
        wake(listener);
    }
}

impl PacketDevice for SimPort {
    fn info(&self) -> &PacketInfo {
        &self.info
    }

    fn link_up(&self) -> bool {
        true
    }

    unsafe fn provide(&self, buffer: &RxBuffer) -> Result<(), Errno> {
        if buffer.memory.len < self.info.rx_buffer_bytes {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state();
        if state.buffers.len() >= self.info.rx_depth {
            return Err(Errno::EAGAIN);
        }
        state.buffers.push_back(*buffer);
        Ok(())
    }

    fn receive(&self) -> Option<RxPart> {
        let mut state = self.state();
        if state.buffers.is_empty() {
            return None;
        }
        let frame = state.arrived.pop_front()?;
        let buffer = state.buffers.pop_front()?;
        let to = buffer.memory.base.as_ptr();
        // SAFETY: whoever provided the buffer promised that it stays and that nobody looks at it until
        // its token comes back, which is below; a frame is no longer than the least buffer.
        unsafe { std::ptr::copy_nonoverlapping(frame.as_ptr(), to, frame.len()) };
        Some(RxPart {
            token: buffer.token,
            offset: 0,
            len: frame.len(),
            more: false,
            checksum: RxChecksum::Unknown,
        })
    }

    unsafe fn transmit(&self, packet: &TxPacket<'_>) -> Result<(), Errno> {
        let length: usize = packet.segments.iter().map(|segment| segment.len).sum();
        let offload = packet.offload.checksum.is_some() || packet.offload.segment_bytes != 0;
        let pieces = packet.segments.len();
        if !(14..=FRAME_BYTES).contains(&length) || offload || pieces > self.info.max_tx_segments {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state();
        if state.sent.len() + state.in_flight >= self.info.tx_depth {
            return Err(Errno::EAGAIN);
        }
        state.in_flight += 1;
        drop(state);
        // SAFETY: the caller vouches for the segments.
        let frame = unsafe { gather(packet.segments) };
        let left_after = self.wire.carry(self.number, &frame);
        let (token, segments) = (packet.token, packet.segments.to_vec());
        let port = *self.own.get().expect("set when it was made");
        let left = move || port.sent(token, &segments, &frame);
        world::with(|world| world.plan(left_after, Event::Call(Box::new(left))));
        Ok(())
    }

    fn kick(&self) {}

    fn reap_transmitted(&self) -> Option<u64> {
        self.state().sent.pop_front()
    }

    fn listen(&self, thread: ThreadId) {
        let waiting = {
            let mut state = self.state();
            state.listener = Some(thread);
            !state.arrived.is_empty()
        };
        if waiting {
            wake(Some(thread));
        }
    }
}
