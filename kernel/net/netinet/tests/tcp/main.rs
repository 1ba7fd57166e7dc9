//! TCP from the sockets down to the wire: over `lo0`, and against smoltcp on a switch.

mod loopback;
mod peer;
mod raw;
mod stack;
mod wire;
