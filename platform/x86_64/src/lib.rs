//! The x86-64 machine: entry, paging, interrupts, clock, context switch.
#![no_std]
#![cfg_attr(
    test,
    allow(
        dead_code,
        reason = "a host program has no machine: only the pure parts are tested"
    )
)]

#[cfg(not(test))]
mod entry;
pub mod exit;
pub mod image;
#[cfg(not(test))]
mod memory_functions;
pub mod phys;
pub mod pvh;
pub mod regions;
pub mod uart;

pub use bootloader_api;

/// Everything that the entry code's page tables map, from address 0: structures of a loader's beyond are out of reach.
pub(crate) const MAPPED_AT_ENTRY: u64 = 1 << 30;
