//! virtio over MMIO, modern interface [virtio 1.2 §4.2].
//!
//! One window of registers for each device, found where the machine says. There are no vectors: one interrupt
//! line serves the whole device, and its handler must [`acknowledge`] before it returns. Nor is there a bus to cut a
//! device off by: one that does not even reset may go on writing where it was told to.

use super::{DeviceType, Doorbell, Status, Transport};
use crate::fault::Fault;
use crate::queue::Areas;
use crate::registers::Registers;

#[cfg(test)]
mod tests;

/// Length of a device's window up to its own configuration.
const WINDOW_BYTES: usize = 0x100;

/// The registers [virtio 1.2 §4.2.2], all 32 bits wide.
mod register {
    pub const MAGIC: usize = 0x000;
    pub const VERSION: usize = 0x004;
    pub const DEVICE_ID: usize = 0x008;
    pub const DEVICE_FEATURES: usize = 0x010;
    pub const DEVICE_FEATURES_SELECT: usize = 0x014;
    pub const DRIVER_FEATURES: usize = 0x020;
    pub const DRIVER_FEATURES_SELECT: usize = 0x024;
    pub const QUEUE_SELECT: usize = 0x030;
    pub const QUEUE_SIZE_MAX: usize = 0x034;
    pub const QUEUE_SIZE: usize = 0x038;
    pub const QUEUE_READY: usize = 0x044;
    pub const QUEUE_NOTIFY: usize = 0x050;
    pub const INTERRUPT_STATUS: usize = 0x060;
    pub const INTERRUPT_ACKNOWLEDGE: usize = 0x064;
    pub const STATUS: usize = 0x070;
    pub const QUEUE_DESC: usize = 0x080;
    pub const QUEUE_DRIVER: usize = 0x090;
    pub const QUEUE_DEVICE: usize = 0x0a0;
    pub const GENERATION: usize = 0x0fc;
}

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION_MODERN: u32 = 2;

const INTERRUPT_QUEUE: u32 = 1;
const INTERRUPT_CONFIGURATION: u32 = 2;

/// Where a machine without a bus says that a device is: a word of the kernel's command line,
/// `virtio_mmio.device=SIZE@ADDRESS:LINE`, as QEMU's microvm and Firecracker write it for Linux (its
/// `kernel-parameters.txt`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Length of the window in bytes.
    pub bytes: u64,
    /// Its physical address, a multiple of 4.
    pub start: u64,
    /// The interrupt line.
    pub line: u8,
}

/// A longer window is none.
const MAX_BYTES: u64 = 1 << 20;
const ANNOUNCEMENT: &[u8] = b"virtio_mmio.device=";

impl Announced {
    /// Whether a word is meant to announce a device, well or ill.
    pub fn is(word: &[u8]) -> bool {
        word.starts_with(ANNOUNCEMENT)
    }

    /// What a word announces; `None` if it is no such word or makes no sense.
    pub fn parse(word: &[u8]) -> Option<Announced> {
        let place = core::str::from_utf8(word.strip_prefix(ANNOUNCEMENT)?).ok()?;
        let (size, rest) = place.split_once('@')?;
        // A third number is for Linux's own use.
        let mut numbers = rest.split(':').map(number);
        let (start, line) = (numbers.next()??, numbers.next()??);
        let shift = match size.as_bytes().last()? {
            b'k' | b'K' => 10,
            b'm' | b'M' => 20,
            _ => 0,
        };
        let digits = match shift {
            0 => size,
            _ => &size[..size.len() - 1],
        };
        let bytes = number(digits)?.checked_mul(1 << shift)?;
        let right = (WINDOW_BYTES as u64..=MAX_BYTES).contains(&bytes) && start.is_multiple_of(4);
        let line = u8::try_from(line).ok()?;
        right.then_some(Announced { bytes, start, line })
    }
}

/// A number, decimal or with `0x` in front.
fn number(digits: &str) -> Option<u64> {
    match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => digits.parse().ok(),
    }
}

/// What a device interrupted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// A queue has something used.
    pub queue: bool,
    /// The configuration changed.
    pub configuration: bool,
}

/// Acknowledges all that the device interrupts for now, and answers what that is. For interrupt handlers: two accesses,
/// no lock.
pub fn acknowledge(registers: &impl Registers) -> Interrupt {
    let status = registers.read32(register::INTERRUPT_STATUS);
    registers.write32(register::INTERRUPT_ACKNOWLEDGE, status & 3);
    Interrupt {
        queue: status & INTERRUPT_QUEUE != 0,
        configuration: status & INTERRUPT_CONFIGURATION != 0,
    }
}

/// What kind of device answers in a window; `None`: none.
pub fn device_type(registers: &impl Registers) -> Option<DeviceType> {
    if registers.len() < WINDOW_BYTES || registers.read32(register::MAGIC) != MAGIC {
        return None;
    }
    let id = registers.read32(register::DEVICE_ID);
    u16::try_from(id).ok().filter(|&id| id != 0).map(DeviceType)
}

/// A device behind a window of registers.
pub struct MmioTransport<R: Registers> {
    registers: R,
    device_type: DeviceType,
}

impl<R: Registers> MmioTransport<R> {
    /// The device in this window.
    ///
    /// # Errors
    /// [`Fault::NotModern`] if there is none, or it has the legacy interface.
    pub fn new(registers: R) -> Result<MmioTransport<R>, Fault> {
        let device_type = device_type(&registers).ok_or(Fault::NotModern)?;
        if registers.read32(register::VERSION) != VERSION_MODERN {
            return Err(Fault::NotModern);
        }
        Ok(MmioTransport {
            registers,
            device_type,
        })
    }

    fn write64(&self, register: usize, value: u64) {
        self.registers.write32(register, value as u32);
        self.registers.write32(register + 4, (value >> 32) as u32);
    }
}

impl<R: Registers> Transport for MmioTransport<R> {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn status(&self) -> Status {
        Status::from_bits_retain(self.registers.read32(register::STATUS) as u8)
    }

    fn set_status(&mut self, status: Status) {
        let status = status.bits().into();
        self.registers.write32(register::STATUS, status);
    }

    fn device_features(&mut self) -> u64 {
        let mut features = 0;
        for half in 0..2 {
            let select = register::DEVICE_FEATURES_SELECT;
            self.registers.write32(select, half);
            let bits = self.registers.read32(register::DEVICE_FEATURES);
            features |= u64::from(bits) << (32 * half);
        }
        features
    }

    fn set_driver_features(&mut self, features: u64) {
        for half in 0..2 {
            let select = register::DRIVER_FEATURES_SELECT;
            self.registers.write32(select, half);
            let bits = (features >> (32 * half)) as u32;
            self.registers.write32(register::DRIVER_FEATURES, bits);
        }
    }

    fn queue_max(&mut self, queue: u16) -> u16 {
        let select = register::QUEUE_SELECT;
        self.registers.write32(select, queue.into());
        let max = self.registers.read32(register::QUEUE_SIZE_MAX);
        u16::try_from(max).unwrap_or(u16::MAX)
    }

    fn set_up_queue(&mut self, queue: u16, areas: &Areas, _: u16) -> Result<Doorbell, Fault> {
        let select = register::QUEUE_SELECT;
        self.registers.write32(select, queue.into());
        if self.registers.read32(register::QUEUE_READY) != 0 {
            return Err(Fault::QueueMissing { queue });
        }
        let size = areas.size.into();
        self.registers.write32(register::QUEUE_SIZE, size);
        self.write64(register::QUEUE_DESC, areas.descriptors);
        self.write64(register::QUEUE_DRIVER, areas.driver);
        self.write64(register::QUEUE_DEVICE, areas.device);
        self.registers.write32(register::QUEUE_READY, 1);
        Ok(Doorbell(register::QUEUE_NOTIFY))
    }

    fn set_configuration_vector(&mut self, _: u16) -> Result<(), Fault> {
        Ok(())
    }

    fn notify(&self, doorbell: Doorbell, queue: u16) {
        self.registers.write32(doorbell.0, queue.into());
    }

    fn generation(&self) -> u32 {
        self.registers.read32(register::GENERATION)
    }

    fn configuration_len(&self) -> usize {
        self.registers.len() - WINDOW_BYTES
    }

    fn configuration8(&self, offset: usize) -> u8 {
        self.registers.read8(WINDOW_BYTES.saturating_add(offset))
    }

    fn configuration16(&self, offset: usize) -> u16 {
        self.registers.read16(WINDOW_BYTES.saturating_add(offset))
    }

    fn configuration32(&self, offset: usize) -> u32 {
        self.registers.read32(WINDOW_BYTES.saturating_add(offset))
    }

    fn cut_off(&mut self) {}
}
