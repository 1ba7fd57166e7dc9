//! Serves a disk over HTTP.
fn main() {}
