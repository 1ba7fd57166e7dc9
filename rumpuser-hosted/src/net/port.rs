//! What every packet device of this host shares: buffers to receive into, frames that wait for one.

use rumpuser::{
    Errno, IoVec, PacketFeatures, PacketInfo, RxBuffer, RxChecksum, RxPart, ThreadId, TxPacket,
};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ethernet header and the largest payload.
const FRAME_BYTES: usize = 14 + 1500;
/// Frames that wait for the kernel; more are dropped, as on a wire.
const BACKLOG: usize = 256;

#[derive(Default)]
struct State {
    buffers: VecDeque<RxBuffer>,
    arrived: VecDeque<Vec<u8>>,
    sent: VecDeque<u64>,
    listener: Option<ThreadId>,
    dropped: u64,
}

/// The queues of one device.
pub(super) struct Port {
    info: PacketInfo,
    state: Mutex<State>,
}

impl Port {
    pub(super) fn new(parent: &'static str, mac: [u8; 6]) -> Port {
        let info = PacketInfo {
            parent,
            mac,
            mtu: 1500,
            features: PacketFeatures::NONE,
            max_tx_segments: 64,
            rx_depth: 64,
            tx_depth: 64,
            rx_buffer_bytes: FRAME_BYTES,
            rx_headroom: 0,
        };
        Port {
            info,
            state: Mutex::new(State::default()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn info(&self) -> &PacketInfo {
        &self.info
    }

    /// A frame has come for the kernel.
    pub(super) fn deliver(&self, frame: &[u8]) {
        let listener = {
            let mut state = self.state();
            if frame.len() > FRAME_BYTES || state.arrived.len() >= BACKLOG {
                state.dropped += 1;
                return;
            }
            state.arrived.push_back(frame.to_vec());
            state.listener
        };
        wake(listener);
    }

    pub(super) fn provide(&self, buffer: &RxBuffer) -> Result<(), Errno> {
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

    pub(super) fn receive(&self) -> Option<RxPart> {
        let mut state = self.state();
        if state.buffers.is_empty() {
            return None;
        }
        let frame = state.arrived.pop_front()?;
        let buffer = state.buffers.pop_front()?;
        let to = buffer.memory.base.as_ptr();
        // SAFETY: whoever provided the buffer promised that it stays and that nobody looks at it
        // until its token comes back, which is below; a frame is no longer than the least buffer.
        unsafe { std::ptr::copy_nonoverlapping(frame.as_ptr(), to, frame.len()) };
        Some(RxPart {
            token: buffer.token,
            offset: 0,
            len: frame.len(),
            more: false,
            checksum: RxChecksum::Unknown,
        })
    }

    /// Checks a packet to send and gives its bytes.
    ///
    /// # Safety
    /// As `PacketDevice::transmit`.
    pub(super) unsafe fn gather(&self, packet: &TxPacket<'_>) -> Result<Vec<u8>, Errno> {
        let length: usize = packet.segments.iter().map(|segment| segment.len).sum();
        let offload = packet.offload.checksum.is_some() || packet.offload.segment_bytes != 0;
        let pieces = packet.segments.len();
        if !(14..=FRAME_BYTES).contains(&length) || offload || pieces > self.info.max_tx_segments {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state();
        if state.sent.len() >= self.info.tx_depth {
            return Err(Errno::EAGAIN);
        }
        let mut frame = Vec::with_capacity(length);
        for IoVec { base, len } in packet.segments {
            // SAFETY: the caller vouches for the segment until the token is reaped.
            frame.extend_from_slice(unsafe { std::slice::from_raw_parts(base.as_ptr(), *len) });
        }
        state.sent.push_back(packet.token);
        Ok(frame)
    }

    pub(super) fn reap_transmitted(&self) -> Option<u64> {
        self.state().sent.pop_front()
    }

    pub(super) fn listen(&self, thread: ThreadId) {
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

fn wake(listener: Option<ThreadId>) {
    if let (Some(thread), Some(host)) = (listener, rumpuser::try_host()) {
        host.threads().unpark(thread);
    }
}

/// Implements `PacketDevice` for a type with a field `port` and a method `send(&self, Vec<u8>)`.
macro_rules! packet_device {
    ($type:ty) => {
        impl rumpuser::PacketDevice for $type {
            fn info(&self) -> &rumpuser::PacketInfo {
                self.port.info()
            }

            fn link_up(&self) -> bool {
                true
            }

            unsafe fn provide(&self, buffer: &rumpuser::RxBuffer) -> Result<(), rumpuser::Errno> {
                self.port.provide(buffer)
            }

            fn receive(&self) -> Option<rumpuser::RxPart> {
                self.port.receive()
            }

            unsafe fn transmit(
                &self,
                packet: &rumpuser::TxPacket<'_>,
            ) -> Result<(), rumpuser::Errno> {
                // SAFETY: the caller's promise is passed on.
                let frame = unsafe { self.port.gather(packet) }?;
                self.send(&frame);
                Ok(())
            }

            fn kick(&self) {}

            fn reap_transmitted(&self) -> Option<u64> {
                self.port.reap_transmitted()
            }

            fn listen(&self, thread: rumpuser::ThreadId) {
                self.port.listen(thread)
            }
        }
    };
}
pub(super) use packet_device;
