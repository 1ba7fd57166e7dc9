//! Tests of the machine as a whole, in virtual time.
//!
//! | file | what |
//! |---|---|
//! | `script.rs` | one connection, segment by segment: what the others are written with |
//! | `rfc9293.rs`, `rfc5681.rs`, `rfc5961.rs`, `timers.rs` | a sentence for each rule |
//! | `node.rs` | a stack of nothing but TCP: tables, connections, buffers |
//! | `link.rs` | a link that loses, delays, reorders and doubles packets, by a seed |
//! | `smoltcp.rs` | our node against smoltcp, an implementation of others |
//! | `flood.rs`, `hostile.rs` | SYN floods, malformed and senseless segments |

mod flood;
mod hostile;
mod link;
mod node;
mod rfc5681;
mod rfc5961;
mod rfc9293;
mod script;
mod smoltcp;
mod timers;
