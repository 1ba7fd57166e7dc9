//! The configuration space: by the two I/O ports of old, or in memory where the ACPI tables say that it is (ECAM).

use crate::acpi::Ecam;
use crate::paging;
use core::fmt;
use core::ptr::NonNull;
use spin::Mutex;
use volatile::VolatilePtr;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::port::Port;

/// Where a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The bus.
    pub bus: u8,
    /// The device on it, 0 to 31.
    pub device: u8,
    /// The function of it, 0 to 7.
    pub function: u8,
}

impl fmt::Display for Address {
    /// As autoconf puts it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pci{} dev {} function {}",
            self.bus, self.device, self.function
        )
    }
}

/// Bytes of one bus's part of the space in memory.
const BUS_BYTES: u64 = 1 << 20;
const FUNCTION_BYTES: u64 = 1 << 12;
/// Bytes of a function's space that the I/O ports reach.
const OLD_BYTES: u16 = 256;

enum Access {
    Ports,
    /// In memory, of buses `first_bus..=last_bus`. Each bus's part is mapped when it is first used.
    Memory(Ecam),
}

// The two ports belong together, so a lock.
static ACCESS: Mutex<Access> = Mutex::new(Access::Ports);

/// Goes over to the space in memory.
pub(super) fn use_memory(ecam: Ecam) {
    without_interrupts(|| *ACCESS.lock() = Access::Memory(ecam));
}

impl Access {
    /// Where the word is in memory, if it is.
    fn place(&self, address: Address, register: u16) -> Option<NonNull<u32>> {
        let Access::Memory(ecam) = self else {
            return None;
        };
        if !(ecam.first_bus..=ecam.last_bus).contains(&address.bus) {
            return None;
        }
        let function = u64::from(address.device % 32) << 3 | u64::from(address.function % 8);
        let bus = ecam.base.checked_add(u64::from(address.bus) * BUS_BYTES)?;
        let mapped =
            paging::map_device(bus.checked_add(function * FUNCTION_BYTES)?, FUNCTION_BYTES).ok()?;
        // SAFETY: the register is below 4096 and the function's 4096 bytes are mapped.
        Some(unsafe { mapped.byte_add(usize::from(register & 0xffc)) }.cast())
    }

    fn read(&self, address: Address, register: u16) -> u32 {
        if let Some(place) = self.place(address, register) {
            // SAFETY: aligned, mapped for ever, and made of bits that are all valid.
            return unsafe { VolatilePtr::new(place) }.read();
        }
        match select(address, register) {
            // SAFETY: selected just now, under the lock. Reading a register of a configuration space changes nothing else.
            true => unsafe { Port::new(DATA).read() },
            false => u32::MAX,
        }
    }

    fn write(&self, address: Address, register: u16, value: u32) {
        if let Some(place) = self.place(address, register) {
            // SAFETY: as in `read`.
            return unsafe { VolatilePtr::new(place) }.write(value);
        }
        if select(address, register) {
            // SAFETY: selected just now, under the lock; what the value does is its caller's affair.
            unsafe { Port::new(DATA).write(value) }
        }
    }
}

const SELECT: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

/// Selects a word for the data port; `false` if the ports do not reach it.
fn select(address: Address, register: u16) -> bool {
    const ENABLE: u32 = 1 << 31;
    if register >= OLD_BYTES {
        return false;
    }
    let function = u32::from(address.device % 32) << 11 | u32::from(address.function % 8) << 8;
    let word = ENABLE | u32::from(address.bus) << 16 | function | u32::from(register & 0xfc);
    // SAFETY: the selecting port, under the lock.
    unsafe { Port::new(SELECT).write(word) };
    true
}

/// Reads the aligned word at `register`; all ones where there is nothing.
pub(super) fn read(address: Address, register: u16) -> u32 {
    without_interrupts(|| ACCESS.lock().read(address, register))
}

/// Writes the aligned word at `register`.
pub(super) fn write(address: Address, register: u16, value: u32) {
    without_interrupts(|| ACCESS.lock().write(address, register, value));
}
