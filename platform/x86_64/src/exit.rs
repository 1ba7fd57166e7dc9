//! Ends the machine.

use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts};

/// QEMU's `isa-debug-exit`, as `run-qemu.sh` places it: a byte `c` written here makes QEMU's own exit status `2c + 1`.
const DEBUG_EXIT: u16 = 0xf4;

/// The status of a machine that could not start.
pub const FAILURE: u8 = 1;
/// The status after a panic.
pub const PANICKED: u8 = 101;
/// The status after an exception of the processor's.
pub const EXCEPTION: u8 = 102;

/// Ends the machine: with `status` (0 to 127) if it has QEMU's `isa-debug-exit`.
pub fn exit(status: u8) -> ! {
    crate::uart::flush();
    interrupts::disable();
    // SAFETY: the port is that of the exit device, or of nothing at all.
    unsafe { Port::<u8>::new(DEBUG_EXIT).write(status & 0x7f) };
    loop {
        hlt();
    }
}
