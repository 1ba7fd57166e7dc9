//! The I/O APIC: interrupt lines to vectors (Intel 82093AA data sheet). Used for the serial port and for devices that
//! are on no bus; PCI devices send messages.

use crate::acpi::{Facts, IoApic, Override};
use crate::interrupt::Vector;
use crate::paging::{self, MapError};
use core::ptr::NonNull;
use spin::Once;
use volatile::VolatilePtr;

const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
const VERSION: u32 = 1;
const FIRST_ENTRY: u32 = 0x10;
const REGISTER_BYTES: u64 = 0x20;

const ACTIVE_LOW: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;

fn register(base: NonNull<u8>, offset: usize) -> VolatilePtr<'static, u32> {
    // SAFETY: inside the registers that `route` mapped for ever.
    let register = unsafe { base.byte_add(offset) }.cast();
    // SAFETY: aligned, mapped, and made of bits that are all valid.
    unsafe { VolatilePtr::new(register) }
}

fn read(base: NonNull<u8>, index: u32) -> u32 {
    register(base, SELECT).write(index);
    register(base, WINDOW).read()
}

fn write(base: NonNull<u8>, index: u32, value: u32) {
    register(base, SELECT).write(index);
    register(base, WINDOW).write(value);
}

/// The machine's first I/O APIC, for [`route_line`].
static FIRST: Once<IoApic> = Once::new();

/// Where firmware of PCs has had its I/O APIC since there are any: for machines without ACPI tables.
const USUAL: IoApic = IoApic {
    address: 0xfec0_0000,
    first_line: 0,
};

/// Makes the machine's first I/O APIC the one whose lines [`route_line`] leads. Once.
pub(crate) fn init(facts: &Facts) {
    FIRST.call_once(|| facts.io_apic.unwrap_or(USUAL));
}

/// Leads line `line` of the first I/O APIC, edge-triggered and active high as a paravirtual device's is, to `vector` on this
/// processor. Answers whether there is such a line.
pub fn route_line(line: u32, vector: Vector) -> bool {
    let plain = Override {
        irq: 0,
        line,
        active_low: false,
        level: false,
    };
    FIRST
        .get()
        .is_some_and(|&io_apic| program(io_apic, plain, vector) == Ok(true))
}

/// Leads line `plain.irq` of the ISA bus to `vector` on this processor: as `plain` says, unless the firmware says otherwise.
/// Answers whether the line has an entry.
///
/// # Errors
/// If the registers cannot be mapped.
pub(crate) fn route_isa(facts: &Facts, plain: Override, vector: Vector) -> Result<bool, MapError> {
    let io_apic = facts.io_apic.unwrap_or(USUAL);
    let known = facts.overrides().find(|known| known.irq == plain.irq);
    program(io_apic, known.unwrap_or(plain), vector)
}

/// Sets the entry of a line. Answers whether it has one.
fn program(io_apic: IoApic, line: Override, vector: Vector) -> Result<bool, MapError> {
    let Some(number) = line.line.checked_sub(io_apic.first_line) else {
        return Ok(false);
    };
    let base = paging::map_device(io_apic.address, REGISTER_BYTES)?;
    let last = read(base, VERSION) >> 16 & 0xff;
    if number > last {
        return Ok(false);
    }
    let mut low = u32::from(vector.number());
    if line.active_low {
        low |= ACTIVE_LOW;
    }
    if line.level {
        low |= LEVEL;
    }
    write(base, FIRST_ENTRY + 2 * number + 1, crate::apic::id() << 24);
    write(base, FIRST_ENTRY + 2 * number, low);
    Ok(true)
}
