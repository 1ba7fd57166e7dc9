//! Ends the machine.

use crate::acpi::SoftOff;
use crate::{paging, uart};
use spin::Once;
use volatile::VolatilePtr;
use x86_64::instructions::port::Port;
use x86_64::instructions::tables::lidt;
use x86_64::instructions::{hlt, interrupts};
use x86_64::structures::DescriptorTablePointer;

/// QEMU's `isa-debug-exit`, as `run-qemu.sh` places it: a byte `c` written here makes QEMU's own exit status `2c + 1`.
const DEBUG_EXIT: u16 = 0xf4;
/// The greatest status that QEMU can pass on.
const MAX_STATUS: u8 = 0x7f;

/// The status of a machine that could not start.
pub const FAILURE: u8 = 1;
/// The status after a panic, as of a Rust program.
pub const PANICKED: u8 = 101;
/// The status after an exception of the processor's.
pub const EXCEPTION: u8 = 102;

static SOFT_OFF: Once<SoftOff> = Once::new();

/// Tells how the machine is switched off where it has no exit device.
pub(crate) fn set_soft_off(how: SoftOff) {
    SOFT_OFF.call_once(|| how);
}

/// Ends the machine, after what was printed has left: by QEMU's `isa-debug-exit` with `status` (more than 127 becomes 127); without that
/// device by switching the machine off, and if that does not work either by resetting it, which say nothing of success.
pub fn exit(status: u8) -> ! {
    uart::flush();
    interrupts::disable();
    // SAFETY: the port is that of the exit device, or of nothing at all.
    unsafe { Port::<u8>::new(DEBUG_EXIT).write(status.min(MAX_STATUS)) };
    if let Some(&how) = SOFT_OFF.get() {
        switch_off(how);
    }
    triple_fault()
}

fn switch_off(how: SoftOff) {
    match how {
        SoftOff::Pm1a {
            port,
            value,
            enable,
        } => {
            const OURS: u16 = 1;
            let mut control = Port::<u16>::new(port);
            // SAFETY: the ACPI tables say that the register is there; reading it has no side effect.
            let owned = unsafe { control.read() } & OURS != 0;
            if let Some((command, enable)) = enable.filter(|_| !owned) {
                // SAFETY: the ACPI tables say that this makes the firmware hand the register over.
                unsafe { Port::<u8>::new(command).write(enable) };
            }
            // SAFETY: switches the machine off, which is wanted.
            unsafe { control.write(value) };
        }
        SoftOff::SleepControl { address, value } => {
            if let Ok(register) = paging::map_device(address, 1) {
                // SAFETY: the ACPI tables say that the register is there; it was just mapped, and a byte is always aligned.
                unsafe { VolatilePtr::new(register) }.write(value);
            }
        }
    }
    // The machine takes a moment to notice.
    for _ in 0..1_000_000 {
        core::hint::spin_loop();
    }
}

fn triple_fault() -> ! {
    let empty = DescriptorTablePointer {
        limit: 0,
        base: x86_64::VirtAddr::zero(),
    };
    // SAFETY: without a table the next exception resets the processor, which is wanted.
    unsafe { lidt(&empty) };
    interrupts::int3();
    loop {
        hlt();
    }
}
