//! The x86-64 machine: entry, paging, interrupts, clock, context switch.
//!
//! Known to `rumpuser-baremetal` alone. One processor is used. In the order in which a boot goes through them:
//!
//! | module | what it does |
//! |---|---|
//! | `entry` | from the loader's 32-bit jump to Rust: long mode, SSE, a stack |
//! | [`pvh`], [`regions`] | what the loader says, as `bootloader_api::BootInfo` |
//! | [`uart`] | the console |
//! | `gdt`, `idt`, [`report`], [`symbols`] | stacks for exceptions and interrupts; the report of a fatal exception |
//! | [`paging`] | the address space: physical addresses, least rights, guard pages |
//! | [`acpi`] | facts from the firmware's tables |
//! | `apic`, [`ioapic`], [`interrupt`] | interrupts of devices |
//! | [`clock`], `calibrate`, [`rtc`] | time-stamp counter and timer, their rates, the battery-backed clock |
//! | [`pci`] | functions, BARs, MSI-X |
//! | [`context`] | switching stacks |
//! | [`exit`](mod@exit), [`power_button`] | the way out, and who asks for it |
//!
//! **Interrupts and the red zone.** The target's code keeps data below its stack pointer and in SSE registers. So every vector
//! enters on a stack of its own, and an interrupt's entry saves the SSE registers.
//!
//! **Locks.** Each is held for a moment with interrupts off, so that an interrupt's handler may take it too. In this order, where one is
//! held while another is taken: PCI's configuration space, the page tables, the host's heap. The others are leaves.
//!
//! Sources: Intel SDM (volume and section at the spot), ACPI 6.5, PCI 3.0, Xen `public/arch-x86/hvm/start_info.h`, System V ABI
//! (x86-64).
#![no_std]
#![cfg_attr(
    test,
    allow(
        dead_code,
        reason = "a host program has no machine: only the pure parts are tested"
    )
)]

pub mod acpi;
mod apic;
mod calibrate;
pub mod clock;
pub mod context;
pub mod cpu;
#[cfg(not(test))]
mod entry;
pub mod exit;
mod gdt;
#[cfg(not(test))]
mod idt;
pub mod image;
pub mod interrupt;
pub mod ioapic;
#[cfg(not(test))]
pub mod machine;
#[cfg(not(test))]
mod memory_functions;
pub mod paging;
pub mod pci;
pub mod phys;
pub mod power_button;
pub mod pvh;
pub mod random;
pub mod regions;
#[cfg(not(test))]
pub mod report;
pub mod rtc;
pub mod symbols;
pub mod uart;

pub use bootloader_api;
pub use x86_64::instructions::interrupts::without_interrupts;

/// Everything that the entry code's page tables map, from address 0: structures of a loader's beyond are out of reach.
pub(crate) const MAPPED_AT_ENTRY: u64 = 1 << 30;
