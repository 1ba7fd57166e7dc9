//! A wire: an Ethernet switch with everything that can go wrong between two of its ports.

use super::port::SimPort;
use crate::seed::Stream;
use crate::trace::Kind;
use crate::world::{self, Event};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Frames are corrupted from their 15th byte on: what a card's own checksum does not find is rare, and where it is in the Ethernet header, the
/// frame goes astray, which is a loss.
const ETHERNET_HEADER: usize = 14;
/// The type of IPv4 in an Ethernet header. Only such frames are corrupted: ARP has no checksum of its own, so nobody could know.
const IPV4: [u8; 2] = [8, 0];

/// How a wire behaves; chances are out of 1,000,000 for each frame and receiver.
#[derive(Clone, Copy, Debug)]
pub struct WireFaults {
    /// The time from one end to the other, in nanoseconds.
    pub delay: u64,
    /// Bits that a port sends in a second; 0: any number at once.
    pub rate: u64,
    /// A frame does not arrive.
    pub loss: u64,
    /// It arrives twice.
    pub duplication: u64,
    /// It is late by up to sixteen delays, so that others overtake it.
    pub reordering: u64,
    /// One of its bits is wrong.
    pub corruption: u64,
}

impl WireFaults {
    /// A gigabit per second, 50 µs, and nothing goes wrong.
    pub const NONE: WireFaults = WireFaults {
        delay: 50_000,
        rate: 1_000_000_000,
        loss: 0,
        duplication: 0,
        reordering: 0,
        corruption: 0,
    };
}

struct Plug {
    port: &'static SimPort,
    /// Ports of different sides do not hear each other.
    side: u32,
    /// When the last frame that it sends will have left.
    busy_until: u64,
}

struct State {
    name: String,
    stream: Stream,
    faults: WireFaults,
    plugs: Vec<Plug>,
}

/// A wire: any number of ports.
#[derive(Clone)]
pub struct Wire(Arc<Mutex<State>>);

impl Wire {
    /// A wire without ports and faults. Its name is that of its random stream.
    pub fn new(name: &str) -> Wire {
        let seed = world::with(|world| world.seed);
        Wire(Arc::new(Mutex::new(State {
            name: name.to_owned(),
            stream: Stream::new(seed, &format!("wire {name}")),
            faults: WireFaults::NONE,
            plugs: Vec::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A port with the Ethernet address `mac`. It lives as long as the process.
    pub fn port(&self, mac: [u8; 6]) -> &'static SimPort {
        let mut state = self.state();
        let port = SimPort::new(self.clone(), state.plugs.len(), mac);
        state.plugs.push(Plug {
            port,
            side: 0,
            busy_until: 0,
        });
        port
    }

    /// How it behaves from now on.
    pub fn set_faults(&self, faults: WireFaults) {
        self.state().faults = faults;
    }

    /// Puts `port` on a side: ports of different sides do not hear each other. All begin on side 0.
    pub fn set_side(&self, port: &SimPort, side: u32) {
        let mut state = self.state();
        state.plugs[port.number].side = side;
        let name = state.name.clone();
        drop(state);
        world::with(|world| {
            let numbers = [port.number as u64, u64::from(side), 0];
            let number = port.number;
            world.event(
                Kind::Fault,
                numbers,
                format_args!("{name} port {number} on side {side}"),
            );
        });
    }

    /// Takes a frame from the port numbered `from`; answers after how many nanoseconds it has left.
    pub(super) fn carry(&self, from: usize, frame: &[u8]) -> u64 {
        let now = world::with(|world| world.now);
        let mut state = self.state();
        let bits = (frame.len() as u64 + 24) * 8;
        let takes = match state.faults.rate {
            0 => 0,
            rate => bits * 1_000_000_000 / rate,
        };
        let leaves = state.plugs[from].busy_until.max(now) + takes;
        state.plugs[from].busy_until = leaves;
        let to = frame.get(..6);
        let meant = state
            .plugs
            .iter()
            .position(|plug| to == Some(&rumpuser::PacketDevice::info(plug.port).mac[..]));
        let receivers: Vec<usize> = match meant {
            Some(meant) => vec![meant],
            None => (0..state.plugs.len()).collect(),
        };
        for receiver in receivers.into_iter().filter(|receiver| *receiver != from) {
            state.send(from, receiver, frame, leaves);
        }
        leaves - now
    }
}

impl State {
    fn send(&mut self, from: usize, to: usize, frame: &[u8], leaves: u64) {
        let faults = self.faults;
        if self.plugs[from].side != self.plugs[to].side {
            return self.say(Kind::Fault, from, to, frame.len(), "cut off");
        }
        if self.happens(faults.loss) {
            return self.say(Kind::Fault, from, to, frame.len(), "lost");
        }
        let copies = match self.happens(faults.duplication) {
            true => 2,
            false => 1,
        };
        for copy in 0..copies {
            let mut frame = frame.to_vec();
            let mut what = if copy == 0 { "carries" } else { "doubles" };
            if frame.get(12..14) == Some(&IPV4[..]) && self.happens(faults.corruption) {
                let at = self
                    .stream
                    .between(ETHERNET_HEADER as u64, frame.len() as u64 - 1);
                frame[at as usize] ^= 1 << self.stream.below(8);
                what = "corrupts";
            }
            let mut arrives = leaves + faults.delay;
            if self.happens(faults.reordering) {
                arrives += self.stream.below(faults.delay * 16 + 1);
                what = "delays";
            }
            let kind = if what == "carries" {
                Kind::Wire
            } else {
                Kind::Fault
            };
            self.say(kind, from, to, frame.len(), what);
            let port = self.plugs[to].port;
            let deliver = Event::Call(Box::new(move || port.deliver(frame)));
            world::with(|world| world.plan_at(arrives, deliver));
        }
    }

    fn happens(&mut self, chance: u64) -> bool {
        chance > 0 && self.stream.chance(chance, 1_000_000)
    }

    fn say(&self, kind: Kind, from: usize, to: usize, len: usize, what: &str) {
        world::with(|world| {
            let numbers = [from as u64, to as u64, len as u64];
            let name = &self.name;
            world.event(
                kind,
                numbers,
                format_args!("{name} {from} -> {to}: {what} {len} bytes"),
            );
        });
    }
}
