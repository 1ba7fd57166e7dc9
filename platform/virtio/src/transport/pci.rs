//! virtio over PCI, modern interface [virtio 1.2 §4.1].
//!
//! Vendor capabilities say which windows of which BARs hold the registers. They are the device's
//! words: the list is walked with a bound, and a window that does not lie in its BAR does not count.

use super::{DeviceType, Doorbell, Status, Transport};
use crate::fault::Fault;
use crate::queue::Areas;
use crate::registers::Registers;

#[cfg(test)]
mod tests;

/// One function of a PCI device: what the bus driver gives this crate.
///
/// Registers of the configuration space are named by their offset, below 256.
pub trait PciFunction {
    /// What a BAR maps to. A clone is the same window.
    type Bar: Registers + Clone;
    /// Reads a byte of the configuration space.
    fn read8(&self, register: u8) -> u8;
    /// Reads an aligned 16-bit word.
    fn read16(&self, register: u8) -> u16;
    /// Reads an aligned 32-bit word.
    fn read32(&self, register: u8) -> u32;
    /// Writes an aligned 16-bit word.
    fn write16(&self, register: u8, value: u16);
    /// Maps memory BAR `bar` (0 to 5) for ever; `None` if it is absent, an I/O BAR or cannot be mapped.
    fn map_bar(&self, bar: u8) -> Option<Self::Bar>;
}

/// Registers of the PCI configuration space [PCI 3.0 §6.1].
mod config {
    pub const VENDOR: u8 = 0x00;
    pub const DEVICE: u8 = 0x02;
    pub const COMMAND: u8 = 0x04;
    pub const STATUS: u8 = 0x06;
    pub const SUBSYSTEM: u8 = 0x2e;
    pub const CAPABILITIES: u8 = 0x34;

    pub const COMMAND_MEMORY: u16 = 1 << 1;
    pub const COMMAND_MASTER: u16 = 1 << 2;
    pub const STATUS_CAPABILITIES: u16 = 1 << 4;
    pub const CAPABILITY_VENDOR: u8 = 9;
    /// The first byte behind the header.
    pub const FIRST: u8 = 0x40;
    /// So many capabilities of 4 bytes fit behind the header.
    pub const MOST: usize = (256 - 0x40) / 4;
}

/// The common configuration [virtio 1.2 §4.1.4.3].
mod common {
    pub const DEVICE_FEATURE_SELECT: usize = 0;
    pub const DEVICE_FEATURE: usize = 4;
    pub const DRIVER_FEATURE_SELECT: usize = 8;
    pub const DRIVER_FEATURE: usize = 12;
    pub const CONFIG_VECTOR: usize = 16;
    pub const NUM_QUEUES: usize = 18;
    pub const STATUS: usize = 20;
    pub const GENERATION: usize = 21;
    pub const QUEUE_SELECT: usize = 22;
    pub const QUEUE_SIZE: usize = 24;
    pub const QUEUE_VECTOR: usize = 26;
    pub const QUEUE_ENABLE: usize = 28;
    pub const QUEUE_NOTIFY_OFF: usize = 30;
    pub const QUEUE_DESC: usize = 32;
    pub const QUEUE_DRIVER: usize = 40;
    pub const QUEUE_DEVICE: usize = 48;
    pub const LEN: usize = 56;
}

const VENDOR_VIRTIO: u16 = 0x1af4;
const DEVICE_TRANSITIONAL: core::ops::RangeInclusive<u16> = 0x1000..=0x103f;
const DEVICE_MODERN: core::ops::RangeInclusive<u16> = 0x1040..=0x107f;

/// What kind of virtio device a function is, if it is one [virtio 1.2 §4.1.2].
pub fn device_type(function: &impl PciFunction) -> Option<DeviceType> {
    if function.read16(config::VENDOR) != VENDOR_VIRTIO {
        return None;
    }
    let device = function.read16(config::DEVICE);
    if DEVICE_MODERN.contains(&device) {
        return Some(DeviceType(device - DEVICE_MODERN.start()));
    }
    DEVICE_TRANSITIONAL
        .contains(&device)
        .then(|| DeviceType(function.read16(config::SUBSYSTEM)))
}

/// A part of a BAR, checked to lie in it.
struct Window<B> {
    bar: B,
    start: usize,
    len: usize,
}

impl<B: Registers> Window<B> {
    fn read8(&self, offset: usize) -> u8 {
        match self.holds(offset, 1) {
            true => self.bar.read8(self.start + offset),
            false => u8::MAX,
        }
    }

    fn read16(&self, offset: usize) -> u16 {
        match self.holds(offset, 2) {
            true => self.bar.read16(self.start + offset),
            false => u16::MAX,
        }
    }

    fn read32(&self, offset: usize) -> u32 {
        match self.holds(offset, 4) {
            true => self.bar.read32(self.start + offset),
            false => u32::MAX,
        }
    }

    fn write64(&self, offset: usize, value: u64) {
        // Two halves are allowed, and simpler than 64-bit accesses [virtio 1.2 §4.1.3.1].
        self.bar.write32(self.start + offset, value as u32);
        self.bar
            .write32(self.start + offset + 4, (value >> 32) as u32);
    }

    fn holds(&self, offset: usize, bytes: usize) -> bool {
        offset.checked_add(bytes).is_some_and(|end| end <= self.len)
    }
}

/// A device behind PCI.
pub struct PciTransport<F: PciFunction> {
    function: F,
    device_type: DeviceType,
    common: Window<F::Bar>,
    notify: Window<F::Bar>,
    notify_multiplier: usize,
    device: Option<Window<F::Bar>>,
}

/// The kinds of vendor capabilities that are looked for [virtio 1.2 §4.1.4].
const KIND_COMMON: u8 = 1;
const KIND_NOTIFY: u8 = 2;
const KIND_DEVICE: u8 = 4;

impl<F: PciFunction> PciTransport<F> {
    /// Finds the registers of `function`, turns on its memory space and bus mastering.
    ///
    /// # Errors
    /// [`Fault::NotModern`] if it is no virtio device, [`Fault::Capability`] if registers that are
    /// needed are not where a BAR is.
    pub fn new(function: F) -> Result<PciTransport<F>, Fault> {
        let device_type = device_type(&function).ok_or(Fault::NotModern)?;
        let command = function.read16(config::COMMAND);
        let enable = config::COMMAND_MEMORY | config::COMMAND_MASTER;
        function.write16(config::COMMAND, command | enable);

        let mut common = None;
        let mut notify = None;
        let mut device = None;
        let mut bars = Bars::new(&function);
        for capability in Capabilities::new(&function) {
            let kind = function.read8(capability.saturating_add(3));
            let (slot, min_len, align) = match kind {
                KIND_COMMON => (&mut common, common::LEN, 4),
                KIND_NOTIFY => (&mut notify, 2, 2),
                KIND_DEVICE => (&mut device, 1, 4),
                _ => continue,
            };
            if slot.is_some() {
                continue;
            }
            let window = window(&mut bars, capability, min_len, align);
            *slot = window.map(|window| (window, capability));
        }
        let missing = |kind| Fault::Capability { kind };
        let (common, _) = common.ok_or(missing("common configuration"))?;
        let (notify, notify_capability) = notify.ok_or(missing("notification"))?;
        let multiplier = notify_capability
            .checked_add(16)
            .map(|register| function.read32(register))
            .ok_or(missing("notification"))?;
        Ok(PciTransport {
            device_type,
            common,
            notify,
            notify_multiplier: multiplier as usize,
            device: device.map(|(window, _)| window),
            function,
        })
    }

    fn select(&mut self, queue: u16) {
        self.common_write16(common::QUEUE_SELECT, queue);
    }

    fn common_write16(&mut self, offset: usize, value: u16) {
        self.common.bar.write16(self.common.start + offset, value);
    }

    fn common_write32(&mut self, offset: usize, value: u32) {
        self.common.bar.write32(self.common.start + offset, value);
    }

    /// Writes an interrupt vector and reads back whether the device took it [virtio 1.2 §4.1.5.1.2].
    fn set_vector(&mut self, register: usize, vector: u16) -> Result<(), Fault> {
        self.common_write16(register, vector);
        if self.common.read16(register) == vector {
            return Ok(());
        }
        Err(Fault::VectorRefused { vector })
    }
}

/// The positions of a function's virtio capabilities.
struct Capabilities<'a, F> {
    function: &'a F,
    next: u8,
    left: usize,
}

impl<'a, F: PciFunction> Capabilities<'a, F> {
    fn new(function: &'a F) -> Self {
        let status = function.read16(config::STATUS);
        let next = match status & config::STATUS_CAPABILITIES {
            0 => 0,
            _ => function.read8(config::CAPABILITIES),
        };
        Capabilities {
            function,
            next,
            left: config::MOST,
        }
    }
}

impl<F: PciFunction> Iterator for Capabilities<'_, F> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        // The list may be a loop: no more steps than capabilities fit.
        while self.left > 0 {
            self.left -= 1;
            let at = self.next & !3;
            if at < config::FIRST {
                return None;
            }
            self.next = self.function.read8(at + 1);
            if self.function.read8(at) == config::CAPABILITY_VENDOR {
                return Some(at);
            }
        }
        None
    }
}

/// The BARs of a function, each mapped when it is first asked for: to measure one takes a while.
struct Bars<'a, F: PciFunction> {
    function: &'a F,
    mapped: [Option<F::Bar>; 6],
}

impl<'a, F: PciFunction> Bars<'a, F> {
    fn new(function: &'a F) -> Self {
        let mapped = [const { None }; 6];
        Bars { function, mapped }
    }

    fn get(&mut self, bar: u8) -> Option<F::Bar> {
        let slot = self.mapped.get_mut(usize::from(bar))?;
        if slot.is_none() {
            *slot = self.function.map_bar(bar);
        }
        slot.clone()
    }
}

/// The window that the capability at `at` describes, if it lies in a BAR that can be mapped.
fn window<F: PciFunction>(
    bars: &mut Bars<'_, F>,
    at: u8,
    min_len: usize,
    align: usize,
) -> Option<Window<F::Bar>> {
    // struct virtio_pci_cap has 16 bytes; a shorter one would reach past the configuration space.
    let length_register = at.checked_add(12)?;
    let function = bars.function;
    let bar = function.read8(at + 4);
    let start = function.read32(at + 8) as usize;
    let len = function.read32(length_register) as usize;
    if len < min_len || !start.is_multiple_of(align) {
        return None;
    }
    let bar = bars.get(bar)?;
    let end = start.checked_add(len)?;
    (end <= bar.len()).then_some(Window { bar, start, len })
}

impl<F: PciFunction> Transport for PciTransport<F> {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn status(&self) -> Status {
        Status::from_bits_retain(self.common.read8(common::STATUS))
    }

    fn set_status(&mut self, status: Status) {
        let register = self.common.start + common::STATUS;
        self.common.bar.write8(register, status.bits());
    }

    fn device_features(&mut self) -> u64 {
        let mut features = 0;
        for half in 0..2 {
            self.common_write32(common::DEVICE_FEATURE_SELECT, half);
            features |= u64::from(self.common.read32(common::DEVICE_FEATURE)) << (32 * half);
        }
        features
    }

    fn set_driver_features(&mut self, features: u64) {
        for half in 0..2 {
            self.common_write32(common::DRIVER_FEATURE_SELECT, half);
            let bits = (features >> (32 * half)) as u32;
            self.common_write32(common::DRIVER_FEATURE, bits);
        }
    }

    fn queue_max(&mut self, queue: u16) -> u16 {
        if queue >= self.common.read16(common::NUM_QUEUES) {
            return 0;
        }
        self.select(queue);
        self.common.read16(common::QUEUE_SIZE)
    }

    fn set_up_queue(&mut self, queue: u16, areas: &Areas, vector: u16) -> Result<Doorbell, Fault> {
        self.select(queue);
        self.common_write16(common::QUEUE_SIZE, areas.size);
        if self.common.read16(common::QUEUE_SIZE) != areas.size {
            return Err(Fault::QueueMissing { queue });
        }
        self.common.write64(common::QUEUE_DESC, areas.descriptors);
        self.common.write64(common::QUEUE_DRIVER, areas.driver);
        self.common.write64(common::QUEUE_DEVICE, areas.device);
        self.set_vector(common::QUEUE_VECTOR, vector)?;
        let offset = usize::from(self.common.read16(common::QUEUE_NOTIFY_OFF))
            .checked_mul(self.notify_multiplier)
            .filter(|&offset| offset.is_multiple_of(2) && self.notify.holds(offset, 2))
            .ok_or(Fault::NotifyAddress { queue })?;
        self.common_write16(common::QUEUE_ENABLE, 1);
        Ok(Doorbell(self.notify.start + offset))
    }

    fn set_configuration_vector(&mut self, vector: u16) -> Result<(), Fault> {
        self.set_vector(common::CONFIG_VECTOR, vector)
    }

    fn notify(&self, doorbell: Doorbell, queue: u16) {
        self.notify.bar.write16(doorbell.0, queue);
    }

    fn generation(&self) -> u32 {
        u32::from(self.common.read8(common::GENERATION))
    }

    fn configuration_len(&self) -> usize {
        self.device.as_ref().map_or(0, |window| window.len)
    }

    fn configuration8(&self, offset: usize) -> u8 {
        let window = self.device.as_ref();
        window.map_or(u8::MAX, |window| window.read8(offset))
    }

    fn configuration16(&self, offset: usize) -> u16 {
        let window = self.device.as_ref();
        window.map_or(u16::MAX, |window| window.read16(offset))
    }

    fn configuration32(&self, offset: usize) -> u32 {
        let window = self.device.as_ref();
        window.map_or(u32::MAX, |window| window.read32(offset))
    }

    fn cut_off(&mut self) {
        let command = self.function.read16(config::COMMAND);
        self.function
            .write16(config::COMMAND, command & !config::COMMAND_MASTER);
    }
}
