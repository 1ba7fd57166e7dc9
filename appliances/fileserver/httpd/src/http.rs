//! The parts of HTTP/1.1 that know neither sockets nor files: RFC 9110 and RFC 9112.

pub mod answer;
pub mod body;
pub mod condition;
pub mod content_type;
pub mod date;
pub mod destination;
pub mod head;
pub mod range;
pub mod request;
pub mod target;
