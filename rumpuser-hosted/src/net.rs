//! Packet devices: a switch inside the process, and tap.

mod port;
mod switch;
mod tap;

pub use switch::{RawPort, Switch, SwitchPort};
pub use tap::Tap;
