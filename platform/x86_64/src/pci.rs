//! PCI: the functions that there are, their registers and their interrupts (PCI Local Bus 3.0, PCI Express Base).
//!
//! The firmware has numbered the buses and placed the BARs; nothing is moved here. What a device says of itself is not trusted: lists
//! are walked with a bound, and a BAR that lies in RAM is not mapped.

pub mod config;
pub mod function;
pub mod msix;
pub mod scan;

pub use config::Address;
pub use function::{Bar, Function};
pub use msix::{MsixError, MsixTable};
pub use scan::{functions, init};
