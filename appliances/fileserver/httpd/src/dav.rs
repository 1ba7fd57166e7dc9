//! What WebDAV says in XML (RFC 4918), without sockets and files.

pub mod multistatus;
pub mod property;
pub mod question;
