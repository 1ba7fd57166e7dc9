//! TCP (RFC 9293).
pub mod cc;
pub mod cookie;
pub mod header;
pub mod isn;
pub mod reass;
pub mod rtt;
pub mod seq;
pub mod siphash;
pub mod table;
pub mod tuple;
