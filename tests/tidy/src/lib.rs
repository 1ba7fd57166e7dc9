//! Reads the project's own files, for the rules of the house that no compiler checks (`house.rs` beside this crate's `src`).
//!
//! - [`project`]: the files under version control.
//! - [`code`]: a Rust file without its comments, texts and test modules, so that a rule about code does not stumble over words.
//! - [`manifest`]: the few things that rules ask of a `Cargo.toml`.

pub mod code;
pub mod manifest;
pub mod project;
