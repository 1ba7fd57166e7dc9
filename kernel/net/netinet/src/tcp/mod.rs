//! TCP (RFC 9293).
mod ack;
pub mod cc;
pub mod cookie;
pub mod demux;
pub mod header;
mod input;
pub mod isn;
mod output;
pub mod ports;
pub mod reass;
pub mod rtt;
pub mod seq;
pub mod siphash;
pub mod syncache;
pub mod table;
pub mod tcb;
mod text;
mod timer;
pub mod timewait;
pub mod tuple;

#[cfg(test)]
mod tests;
