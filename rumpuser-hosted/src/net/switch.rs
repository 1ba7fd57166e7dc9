//! An Ethernet switch inside the process.

use super::port::{Port, packet_device};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Frames that a [`RawPort`] keeps for its reader; older ones are dropped.
const RAW_BACKLOG: usize = 4096;

#[derive(Default)]
struct Ports {
    kernels: Vec<&'static SwitchPort>,
    raw: Vec<Arc<Mutex<VecDeque<Vec<u8>>>>>,
}

/// An Ethernet switch: kernels plug in by [`port`](Switch::port), tests by [`raw_port`](Switch::raw_port).
///
/// A frame to a group address, or to an address nobody here has, goes to everybody but its
/// sender; raw ports see every frame.
#[derive(Clone, Default)]
pub struct Switch {
    ports: Arc<Mutex<Ports>>,
}

/// A kernel's end of a cable: a packet device.
pub struct SwitchPort {
    port: Port,
    switch: Switch,
}

/// A test's end of a cable: raw frames.
pub struct RawPort {
    switch: Switch,
    queue: Arc<Mutex<VecDeque<Vec<u8>>>>,
}

impl Switch {
    /// A switch with nothing plugged in.
    pub fn new() -> Switch {
        Switch::default()
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plugs in a kernel with Ethernet address `mac`. The device lives as long as the process.
    pub fn port(&self, mac: [u8; 6]) -> &'static SwitchPort {
        let port: &'static SwitchPort = Box::leak(Box::new(SwitchPort {
            port: Port::new("switch0", mac),
            switch: self.clone(),
        }));
        self.ports().kernels.push(port);
        port
    }

    /// Plugs in a reader and writer of raw frames.
    pub fn raw_port(&self) -> RawPort {
        let queue = Arc::new(Mutex::new(VecDeque::new()));
        self.ports().raw.push(queue.clone());
        RawPort {
            switch: self.clone(),
            queue,
        }
    }

    fn forward(&self, frame: &[u8], from: Option<&SwitchPort>, raw_from: Option<&RawPort>) {
        let (kernels, raw) = {
            let ports = self.ports();
            (ports.kernels.clone(), ports.raw.clone())
        };
        for queue in raw {
            if raw_from.is_some_and(|sender| Arc::ptr_eq(&sender.queue, &queue)) {
                continue;
            }
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.len() == RAW_BACKLOG {
                queue.pop_front();
            }
            queue.push_back(frame.to_vec());
        }
        let to = frame.get(..6);
        let known = kernels
            .iter()
            .find(|port| to == Some(&port.port.info().mac[..]));
        for port in &kernels {
            let is_sender = from.is_some_and(|sender| std::ptr::eq(sender, *port));
            let is_meant = known.is_none_or(|known| std::ptr::eq(*known, *port));
            if !is_sender && is_meant {
                port.port.deliver(frame);
            }
        }
    }
}

impl SwitchPort {
    fn send(&self, frame: &[u8]) {
        self.switch.forward(frame, Some(self), None);
    }
}

packet_device!(SwitchPort);

impl RawPort {
    /// Puts a frame on the wire.
    pub fn send(&self, frame: &[u8]) {
        self.switch.forward(frame, None, Some(self));
    }

    /// Takes the next frame that went by.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumpuser::{Errno, IoVec, PacketDevice, RxBuffer, TxOffload, TxPacket};
    use std::ptr::NonNull;

    fn transmit(port: &SwitchPort, frame: &mut [u8]) -> Result<(), Errno> {
        let segments = [IoVec {
            base: NonNull::from(&mut *frame).cast(),
            len: frame.len(),
        }];
        let packet = TxPacket {
            segments: &segments,
            offload: TxOffload::default(),
            token: 5,
        };
        // SAFETY: the port copies the frame inside the call.
        unsafe { port.transmit(&packet) }
    }

    #[test]
    fn a_frame_reaches_the_port_it_names_and_raw_ports() {
        let switch = Switch::new();
        let (one, two, three) = (
            switch.port([2, 0, 0, 0, 0, 1]),
            switch.port([2, 0, 0, 0, 0, 2]),
            switch.port([2, 0, 0, 0, 0, 3]),
        );
        let raw = switch.raw_port();
        let mut frame = [7u8; 60];
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
        transmit(one, &mut frame).unwrap();
        assert_eq!(one.reap_transmitted(), Some(5));
        assert_eq!(raw.receive().as_deref(), Some(&frame[..]));

        let mut memory = [0u8; 2048];
        let buffer = RxBuffer {
            memory: IoVec {
                base: NonNull::from(&mut memory[..]).cast(),
                len: memory.len(),
            },
            token: 9,
        };
        // SAFETY: `memory` is not looked at until the token is back.
        unsafe { two.provide(&buffer) }.unwrap();
        let part = two.receive().expect("the frame");
        assert_eq!((part.token, part.len, part.more), (9, 60, false));
        assert_eq!(memory[..60], frame);
        // SAFETY: as above.
        unsafe { three.provide(&buffer) }.unwrap();
        assert!(three.receive().is_none());
    }

    #[test]
    fn a_runt_is_refused_and_a_short_buffer_too() {
        let port = Switch::new().port([2; 6]);
        assert_eq!(transmit(port, &mut [0; 13]), Err(Errno::EINVAL));
        let mut memory = [0u8; 64];
        let buffer = RxBuffer {
            memory: IoVec {
                base: NonNull::from(&mut memory[..]).cast(),
                len: memory.len(),
            },
            token: 0,
        };
        // SAFETY: `memory` outlives the call, which refuses it.
        assert_eq!(unsafe { port.provide(&buffer) }, Err(Errno::EINVAL));
    }
}
