//! The power button of ACPI's fixed hardware (ACPI 6.5 §4.8.2.2.1.1): its press is recorded, and told once it can be.
//!
//! A machine may want to be switched off in order this way too: QEMU's `system_powerdown`, a hypervisor's "shut down".

use crate::acpi::{Facts, Override, PowerButton};
use crate::{interrupt, ioapic};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use spin::Once;
use x86_64::instructions::port::Port;

/// The button's bit in the status and the enable register (§4.8.3.1.1, PWRBTN_STS).
const BUTTON: u16 = 1 << 8;

/// The bit of the control register that says that the registers are ours (§4.8.3.2.1, SCI_EN).
const OURS: u16 = 1;

/// How often the firmware is asked whether it has handed the registers over.
const HANDOVER_POLLS: usize = 100_000;

static REGISTERS: Once<PowerButton> = Once::new();

static PRESSED: AtomicBool = AtomicBool::new(false);

/// What is called, from the interrupt, when the button is pressed: a `fn()` by its address, 0 for none.
static HOOK: AtomicUsize = AtomicUsize::new(0);

fn read(port: u16) -> u16 {
    // SAFETY: the ACPI tables say that one of PM1a's registers is there; reading them has no side effect.
    unsafe { Port::new(port).read() }
}

fn write(port: u16, value: u16) {
    // SAFETY: the ACPI tables say that PM1a's status or enable register is there, which are this module's alone.
    unsafe { Port::new(port).write(value) };
}

/// Makes the registers ours. Answers whether they are.
fn take_over(button: &PowerButton) -> bool {
    if read(button.control) & OURS != 0 {
        return true;
    }
    let Some((command, value)) = button.handover else {
        return false;
    };
    // SAFETY: the ACPI tables say that this makes the firmware hand the registers over.
    unsafe { Port::<u8>::new(command).write(value) };
    (0..HANDOVER_POLLS).any(|_| read(button.control) & OURS != 0)
}

/// Leads the button's interrupt here, where the machine has such a button.
pub(crate) fn connect(facts: &Facts) {
    let Some(button) = facts.power_button.filter(take_over) else {
        return;
    };
    let Some(vector) = interrupt::allocate(interrupted, 0) else {
        return;
    };
    let button = REGISTERS.call_once(|| button);
    // §5.2.9, SCI_INT: shared, active low, by its level.
    let plain = Override {
        irq: button.irq,
        line: button.irq.into(),
        active_low: true,
        level: true,
    };
    // No other bit interrupts: none is served here.
    write(button.enable, 0);
    if let Ok(true) = ioapic::route_isa(facts, plain, vector) {
        write(button.status, BUTTON);
        write(button.enable, BUTTON);
    }
}

/// Serves the interrupt, which others may share.
fn interrupted(_: usize) {
    let Some(button) = REGISTERS.get() else {
        return;
    };
    if read(button.status) & BUTTON == 0 {
        return;
    }
    write(button.status, BUTTON);
    PRESSED.store(true, Ordering::Release);
    announce();
}

fn announce() {
    let hook = HOOK.load(Ordering::Acquire);
    if hook != 0 {
        // SAFETY: stored by `on_press` from a value of this very type.
        let hook: fn() = unsafe { core::mem::transmute::<usize, fn()>(hook) };
        hook();
    }
}

/// Whether the button has been pressed since the machine started.
pub fn is_pressed() -> bool {
    PRESSED.load(Ordering::Acquire)
}

/// Has `hook` called, from the interrupt, whenever the button is pressed; once now if it was.
pub fn on_press(hook: fn()) {
    HOOK.store(hook as usize, Ordering::Release);
    if is_pressed() {
        hook();
    }
}
