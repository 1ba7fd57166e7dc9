//! Packet devices: ports, and the wires between them.

mod port;
mod wire;

pub use port::SimPort;
pub use wire::{Wire, WireFaults};
