//! How a driver reaches a device's registers, and the life cycle of a device.
//!
//! [`Transport`] is what PCI and MMIO have in common; [`Device`] owns one, brings the device up
//! and, when it is dropped, stops it before the queues' memory goes.
//! Sources: virtio 1.2 §2.1 (status), §2.2 (features), §2.5 (configuration), §3.1 (initialisation).

use crate::dma::Dma;
use crate::fault::{AttachError, Fault};
use crate::queue::{Areas, Queue, Shape};
use bitflags::bitflags;
use core::fmt;

pub mod mmio;
pub mod pci;

/// What kind of device it is [virtio 1.2 §5].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceType(pub u16);

impl DeviceType {
    /// Network card.
    pub const NETWORK: DeviceType = DeviceType(1);
    /// Block device.
    pub const BLOCK: DeviceType = DeviceType(2);
    /// Entropy source.
    pub const ENTROPY: DeviceType = DeviceType(4);
}

impl fmt::Display for DeviceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "network device",
            2 => "block device",
            3 => "console device",
            4 => "entropy device",
            5 => "memory balloon device",
            8 => "SCSI device",
            9 => "9P device",
            16 => "GPU device",
            18 => "input device",
            19 => "socket device",
            25 => "sound device",
            26 => "file system device",
            other => return write!(f, "device of type {other}"),
        };
        f.write_str(name)
    }
}

bitflags! {
    /// The device status register [virtio 1.2 §2.1].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Status: u8 {
        /// The driver has seen the device.
        const ACKNOWLEDGE = 1;
        /// The driver knows how to drive it.
        const DRIVER = 2;
        /// The driver is ready.
        const DRIVER_OK = 4;
        /// The features are agreed.
        const FEATURES_OK = 8;
        /// The device asks for a reset.
        const DEVICE_NEEDS_RESET = 64;
        /// The driver gave the device up.
        const FAILED = 128;
        const _ = !0;
    }

    /// The feature bits that do not depend on the kind of device [virtio 1.2 §6].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// A descriptor may point at a table of descriptors.
        const INDIRECT_DESC = 1 << 28;
        /// Notifications are asked for by index.
        const EVENT_IDX = 1 << 29;
        /// The device is a modern one.
        const VERSION_1 = 1 << 32;
        /// The device's addresses are the platform's bus addresses.
        const ACCESS_PLATFORM = 1 << 33;
        /// Memory is ordered as the platform orders it.
        const ORDER_PLATFORM = 1 << 36;
        const _ = !0;
    }
}

impl Features {
    /// What every driver here takes when it is offered.
    const GENERAL: Features = Features::INDIRECT_DESC
        .union(Features::EVENT_IDX)
        .union(Features::VERSION_1)
        .union(Features::ACCESS_PLATFORM)
        .union(Features::ORDER_PLATFORM);
}

/// Where a queue is notified: opaque to all but the transport that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell(pub(crate) usize);

/// The registers of one device.
pub trait Transport {
    /// What kind of device it is.
    fn device_type(&self) -> DeviceType;
    /// Reads the status register.
    fn status(&self) -> Status;
    /// Writes the status register.
    fn set_status(&mut self, status: Status);
    /// What the device offers, bits 0 to 63.
    fn device_features(&mut self) -> u64;
    /// What the driver takes.
    fn set_driver_features(&mut self, features: u64);
    /// The most descriptors that queue `queue` may have; 0: there is no such queue.
    fn queue_max(&mut self, queue: u16) -> u16;
    /// Tells the device where queue `queue` lies and which interrupt vector (an entry of the MSI-X table, where
    /// there are vectors) it is to use, and enables it.
    fn set_up_queue(&mut self, queue: u16, areas: &Areas, vector: u16) -> Result<Doorbell, Fault>;
    /// Sets the interrupt vector for changes of the configuration, where there are vectors.
    fn set_configuration_vector(&mut self, vector: u16) -> Result<(), Fault>;
    /// Notifies the device of new chains in queue `queue`.
    fn notify(&self, doorbell: Doorbell, queue: u16);
    /// The configuration's generation counter.
    fn generation(&self) -> u32;
    /// Length of the device's own configuration space in bytes.
    fn configuration_len(&self) -> usize;
    /// A byte of the configuration; all ones outside of it.
    fn configuration8(&self, offset: usize) -> u8;
    /// A 16-bit word of the configuration.
    fn configuration16(&self, offset: usize) -> u16;
    /// A 32-bit word of the configuration.
    fn configuration32(&self, offset: usize) -> u32;
    /// Keeps the device from reaching memory, by the bus if there is a way, whatever the device
    /// thinks of it.
    fn cut_off(&mut self);
}

/// How often a register is read before a device that does not react is given up. One read takes
/// at least 100 ns, so this is 10 ms or more; a reset takes microseconds.
const PATIENCE: usize = if cfg!(test) { 100 } else { 100_000 };

/// How often the configuration is read anew because it changed meanwhile.
const GENERATIONS: usize = 16;

/// A device that is being driven. Dropping it stops the device.
pub struct Device<T: Transport> {
    transport: T,
    features: u64,
    fault: Option<Fault>,
}

impl<T: Transport> Device<T> {
    /// Resets the device and agrees on features: all that are offered of `wanted`, which holds bits of
    /// the device's own kind, and of the general ones [virtio 1.2 §3.1.1 steps 1 to 6].
    pub fn negotiate(transport: T, wanted: u64) -> Result<Self, Fault> {
        let mut device = Device {
            transport,
            features: 0,
            fault: None,
        };
        device.agree(wanted).inspect_err(|_| {
            let failed = device.transport.status() | Status::FAILED;
            device.transport.set_status(failed);
        })?;
        Ok(device)
    }

    fn agree(&mut self, wanted: u64) -> Result<(), Fault> {
        self.reset()?;
        let mut status = Status::ACKNOWLEDGE;
        self.transport.set_status(status);
        status |= Status::DRIVER;
        self.transport.set_status(status);
        let offered = self.transport.device_features();
        self.features = offered & (wanted | Features::GENERAL.bits());
        if !self.has(Features::VERSION_1.bits()) {
            return Err(Fault::NotModern);
        }
        self.transport.set_driver_features(self.features);
        status |= Status::FEATURES_OK;
        self.transport.set_status(status);
        if self.transport.status().contains(Status::FEATURES_OK) {
            return Ok(());
        }
        Err(Fault::FeaturesRefused)
    }

    /// Writes 0 to the status register and waits until it reads 0 [virtio 1.2 §4.1.4.3.2].
    fn reset(&mut self) -> Result<(), Fault> {
        self.transport.set_status(Status::empty());
        for _ in 0..PATIENCE {
            if self.transport.status().is_empty() {
                return Ok(());
            }
            core::hint::spin_loop();
        }
        Err(Fault::ResetIgnored)
    }

    /// Makes queue `index` of at most `shape.size` descriptors and tells the device.
    pub fn queue(
        &mut self,
        dma: &'static dyn Dma,
        index: u16,
        shape: Shape,
        vector: u16,
    ) -> Result<Queue, AttachError> {
        let max = self.transport.queue_max(index);
        if max == 0 {
            return Err(Fault::QueueMissing { queue: index }.into());
        }
        // Chains that lie in the ring itself need it longer for as many of them.
        let wanted = match self.has(Features::INDIRECT_DESC.bits()) {
            true => shape.size,
            false => shape.size.saturating_mul(shape.chain),
        };
        // A split queue's size is a power of two [virtio 1.2 §2.7], and the device may say anything.
        let size = wanted.min(max).clamp(1, Queue::MAX_SIZE);
        let size = 1 << size.ilog2();
        let features = Features::from_bits_retain(self.features);
        let mut queue = Queue::new(dma, index, Shape { size, ..shape }, features)
            .ok_or(AttachError::NoMemory)?;
        let doorbell = self.transport.set_up_queue(index, &queue.areas(), vector)?;
        queue.set_doorbell(doorbell);
        Ok(queue)
    }

    /// Sets DRIVER_OK: from now on the device may be notified.
    pub fn start(&mut self) {
        let status = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK;
        self.transport.set_status(status | Status::DRIVER_OK);
    }

    /// Notifies the device of what was added to `queue` since the last call, if it wants to know.
    pub fn kick(&self, queue: &mut Queue) {
        if queue.wants_notification() && self.fault.is_none() {
            self.transport.notify(queue.doorbell(), queue.index());
        }
    }

    /// Whether all of `features` were agreed on.
    pub fn has(&self, features: u64) -> bool {
        self.features & features == features
    }

    /// The registers.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// Sets the interrupt vector for changes of the configuration.
    pub fn set_configuration_vector(&mut self, vector: u16) -> Result<(), Fault> {
        self.transport.set_configuration_vector(vector)
    }

    /// Reads from the configuration until it does not change meanwhile [virtio 1.2 §2.5.1].
    /// `end`: how many bytes of it there must be; `field` names what is read.
    pub fn configuration<V>(
        &self,
        field: &'static str,
        end: usize,
        read: impl Fn(&T) -> V,
    ) -> Result<V, Fault> {
        if self.transport.configuration_len() < end {
            return Err(Fault::Configuration { field });
        }
        for _ in 0..GENERATIONS {
            let before = self.transport.generation();
            let value = read(&self.transport);
            if self.transport.generation() == before {
                return Ok(value);
            }
        }
        Err(Fault::ConfigurationUnstable)
    }

    /// After a configuration interrupt: gives the device up if it asks for a reset.
    pub fn check_status(&mut self) -> Result<(), Fault> {
        if self.transport.status().contains(Status::DEVICE_NEEDS_RESET) {
            self.give_up(Fault::NeedsReset);
        }
        self.fault.map_or(Ok(()), Err)
    }

    /// Why the device was given up, if it was.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Gives the device up: it is reset and cut off from memory, so that the caller may take back
    /// whatever was outstanding.
    pub fn give_up(&mut self, fault: Fault) {
        if self.fault.is_some() {
            return;
        }
        self.fault = Some(fault);
        self.stop();
    }

    fn stop(&mut self) {
        // A device that does not even reset is cut off all the same.
        let _ = self.reset();
        self.transport.cut_off();
    }
}

impl<T: Transport> Drop for Device<T> {
    fn drop(&mut self) {
        if self.fault.is_none() {
            self.stop();
        }
    }
}
