//! Bringing the machine up, in order.

use crate::acpi::{self, Facts, Override};
use crate::gdt::Stack;
use crate::paging::{self, MapError, TableSource};
use crate::{apic, clock, exit, gdt, idt, interrupt, ioapic, pci, power_button, uart};
use bootloader_api::BootInfo;
use bootloader_api::info::MemoryRegion;
use x86_64::instructions::{hlt, interrupts};

unsafe extern "C" {
    static boot_stack_guard: u8;
}

/// The page below the stack that the machine starts on.
pub fn boot_stack_guard_page() -> u64 {
    (&raw const boot_stack_guard).addr() as u64
}

/// Brings the machine up: segments, exceptions, page tables, interrupts, time, PCI. Interrupts are still off afterwards.
///
/// `source` gives pages for page tables; `timer` is called, from the interrupt, when the timer fires.
///
/// # Errors
/// If there is no memory for page tables, or the interrupt controller cannot be reached.
///
/// # Safety
/// Once, from the entry thread, with the boot information of this machine.
pub unsafe fn init(
    boot_info: &'static BootInfo,
    source: TableSource,
    timer: fn(usize),
) -> Result<Facts, MapError> {
    gdt::init();
    idt::init();
    let regions: &'static [MemoryRegion] = &boot_info.memory_regions;
    let [exception, critical, interrupt] = Stack::ALL.map(Stack::guard);
    let guards = [boot_stack_guard_page(), exception, critical, interrupt];
    // SAFETY: the caller's promises; nothing uses the pages below those stacks.
    unsafe { paging::init(regions, source, &guards) }?;
    let rsdp = boot_info.rsdp_addr.into_option();
    let facts = rsdp
        .map(|rsdp| acpi::parse(&acpi::Firmware, rsdp))
        .unwrap_or_default();
    if let Some(how) = facts.soft_off {
        exit::set_soft_off(how);
    }
    apic::init()?;
    clock::init(&facts, timer);
    ioapic::init(&facts);
    connect_uart(&facts);
    power_button::connect(&facts);
    pci::init(&facts);
    Ok(facts)
}

/// Leads the serial port's interrupt to it. Without, the port is polled.
fn connect_uart(facts: &Facts) {
    let Some(vector) = interrupt::allocate(uart::interrupt, 0) else {
        return;
    };
    // ISA lines are edge-triggered, active high, and in their place.
    let plain = Override {
        irq: uart::ISA_IRQ,
        line: uart::ISA_IRQ.into(),
        active_low: false,
        level: false,
    };
    if let Ok(true) = ioapic::route_isa(facts, plain, vector) {
        uart::enable_interrupt();
    }
}

/// Lets interrupts in and waits for one. One that is pending is taken at once: the processor lets none in between the two
/// instructions. Interrupts are off again afterwards.
pub fn wait_for_interrupt() {
    interrupts::enable_and_hlt();
    interrupts::disable();
}

/// Lets interrupts in.
pub fn enable_interrupts() {
    interrupts::enable();
}

/// Keeps interrupts out.
pub fn disable_interrupts() {
    interrupts::disable();
}

/// Stops for ever, without a report.
pub fn halt() -> ! {
    interrupts::disable();
    loop {
        hlt();
    }
}
