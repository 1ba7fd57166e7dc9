//! Devices in windows of registers of their own, as machines without PCI have them (QEMU's microvm, Firecracker).
//!
//! The machine says where they are by words of the command line ([`Announced`]). Each has an interrupt line of its own.

use super::Failure;
use core::fmt;
use platform_virtio::transport::mmio::{Announced, acknowledge, device_type};
use platform_virtio::{DeviceType, Mmio};
use platform_x86_64::interrupt::{self, Handler};
use platform_x86_64::{ioapic, paging};
use spin::Once;

/// The most devices.
const MAX_LINES: usize = 16;

/// Who is told of a device's interrupts.
struct Line {
    registers: Mmio,
    configuration: Handler,
    queue: Handler,
    argument: usize,
}

static LINES: [Once<Line>; MAX_LINES] = [const { Once::new() }; MAX_LINES];

/// A place where a device may be.
pub(crate) struct Window {
    pub(crate) registers: Mmio,
    start: u64,
    pub(crate) line: u8,
}

/// The address of a window, in autoconf's words.
pub(crate) struct Address {
    start: u64,
    line: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mainbus0 addr {:#x} irq {}", self.start, self.line)
    }
}

/// The windows that the command line names and that can be mapped.
pub(crate) fn windows(command_line: &[u8]) -> impl Iterator<Item = Window> + '_ {
    let words = command_line.split(u8::is_ascii_whitespace);
    words.filter_map(Announced::parse).filter_map(|announced| {
        let bytes = announced.bytes;
        let base = paging::map_device(announced.start, bytes).ok()?;
        // SAFETY: mapped just now, for ever, uncached, outside of RAM, aligned to 4 as every place that is
        // announced; what the device does with memory is what its queues tell it.
        let registers = unsafe { Mmio::new(base, bytes as usize) };
        Some(Window {
            registers,
            start: announced.start,
            line: announced.line,
        })
    })
}

impl Window {
    /// What kind of device is there, if any.
    pub(crate) fn device_type(&self) -> Option<DeviceType> {
        device_type(&self.registers)
    }

    pub(crate) fn address(&self) -> Address {
        Address {
            start: self.start,
            line: self.line,
        }
    }

    /// Leads the device's line to the first of `handlers`, for changes of the configuration, and the last, for queues.
    pub(super) fn wire(&self, handlers: &[Handler], argument: usize) -> Result<(), Failure> {
        let (Some(&configuration), Some(&queue)) = (handlers.first(), handlers.last()) else {
            return Ok(());
        };
        let index = LINES.iter().position(|line| line.get().is_none());
        let index = index.ok_or(Failure::Exhausted("interrupt line"))?;
        LINES[index].call_once(|| Line {
            registers: self.registers,
            configuration,
            queue,
            argument,
        });
        let vector = interrupt::allocate(serve, index);
        let vector = vector.ok_or(Failure::Exhausted("interrupt vector"))?;
        match ioapic::route_line(self.line.into(), vector) {
            true => Ok(()),
            false => Err(Failure::Exhausted("interrupt line")),
        }
    }
}

/// Acknowledges, so that the line can be raised again, before anybody is woken to look.
fn serve(index: usize) {
    let Some(line) = LINES.get(index).and_then(Once::get) else {
        return;
    };
    let interrupt = acknowledge(&line.registers);
    if interrupt.configuration {
        (line.configuration)(line.argument);
    }
    if interrupt.queue {
        (line.queue)(line.argument);
    }
}
