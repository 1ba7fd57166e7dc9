//! Files that power cuts are tried on: what is written to them, and what may be found after a cut.
//!
//! Everything that is written is in records of 16 bytes: whose file it is, which write of it, and where. So wherever bytes turn
//! up, they say where they belong.
//!
//! - [`history`]: what became of a file, step by step, and what follows from it for a cut.
//! - [`judge`]: whether what was found is what may be found.
//! - [`plan`]: what a thread of a guest does, which a seed decides; so the host knows it without being told.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod history;
pub mod judge;
pub mod plan;
