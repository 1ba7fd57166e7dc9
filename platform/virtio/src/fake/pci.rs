//! A PCI function with virtio registers behind it.

use super::ring::Ring;
use crate::registers::Registers;
use crate::transport::pci::PciFunction;
use crate::transport::{DeviceType, Features, Status};
use std::cell::{Ref, RefCell, RefMut};
use std::rc::Rc;

/// Where the windows lie in BAR 4, as a real device might have it.
const BAR: u8 = 4;
const COMMON: usize = 0x0;
const DEVICE: usize = 0x2000;
const NOTIFY: usize = 0x3000;
const NOTIFY_MULTIPLIER: usize = 4;
pub const BAR_LEN: usize = 0x4000;
const CAPABILITIES: [u8; 3] = [0x40, 0x54, 0x64];

/// What a device does wrong in its registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RegisterLie {
    #[default]
    None,
    /// The status never reads 0.
    ResetIgnored,
    /// FEATURES_OK does not stay.
    FeaturesRefused,
    /// The generation changes at each look.
    Unstable,
    /// It takes no vectors.
    VectorsRefused,
    /// Its queues are not there.
    NoQueues,
    /// The windows lie somewhere else, so that writes mean nothing.
    Misplaced,
    /// Every register reads as what the seed says.
    Noise(u64),
}

/// A device.
pub struct Model {
    pub offered: u64,
    pub agreed: u64,
    pub status: u8,
    pub generation: u8,
    pub config_vector: u16,
    pub rings: Vec<Ring>,
    /// The device's own configuration.
    pub config: Vec<u8>,
    pub lie: RegisterLie,
    /// Interrupts sent, by vector.
    pub interrupts: Vec<usize>,
    /// Notifications seen.
    pub notifications: usize,
    device_select: u32,
    driver_select: u32,
    queue_select: u16,
    /// PCI configuration space.
    space: [u8; 256],
}

/// A handle on a device, for the driver (as its function) and for the test.
#[derive(Clone)]
pub struct Fake(Rc<RefCell<Model>>);

/// BAR 4 of a fake.
#[derive(Clone)]
pub struct FakeBar {
    fake: Fake,
    len: usize,
}

impl Fake {
    pub fn new(kind: DeviceType, features: u64, queues: &[u16], config: Vec<u8>) -> Fake {
        let mut space = [0; 256];
        space[0x00..0x02].copy_from_slice(&0x1af4u16.to_le_bytes());
        space[0x02..0x04].copy_from_slice(&(0x1040 + kind.0).to_le_bytes());
        space[0x06] = 1 << 4;
        space[0x34] = CAPABILITIES[0];
        capability(&mut space, 0, 1, COMMON, 0x1000);
        capability(&mut space, 1, 4, DEVICE, config.len());
        capability(&mut space, 2, 2, NOTIFY, 0x1000);
        space[0x64 + 16] = NOTIFY_MULTIPLIER as u8;
        Fake(Rc::new(RefCell::new(Model {
            offered: features | Features::VERSION_1.bits(),
            agreed: 0,
            status: 0xff,
            generation: 0,
            config_vector: u16::MAX,
            rings: queues.iter().map(|&max| Ring::new(max)).collect(),
            config,
            lie: RegisterLie::None,
            interrupts: vec![0; 8],
            notifications: 0,
            device_select: 0,
            driver_select: 0,
            queue_select: 0,
            space,
        })))
    }

    pub fn model(&self) -> Ref<'_, Model> {
        self.0.borrow()
    }

    pub fn model_mut(&self) -> RefMut<'_, Model> {
        self.0.borrow_mut()
    }

    /// Overwrites a byte of the PCI configuration space.
    pub fn poke(&self, register: u8, value: u8) {
        self.model_mut().space[usize::from(register)] = value;
    }

    /// Whether the function may reach memory.
    pub fn is_master(&self) -> bool {
        self.model().space[4] & 4 != 0
    }

    /// Whether the device was reset and cut off, as a device that was given up must be.
    pub fn is_stopped(&self) -> bool {
        self.model().status == 0 && !self.is_master()
    }
}

/// Writes the capability of number `index` of the list.
fn capability(space: &mut [u8; 256], index: usize, kind: u8, offset: usize, len: usize) {
    let at = usize::from(CAPABILITIES[index]);
    let next = CAPABILITIES.get(index + 1).copied().unwrap_or(0);
    let head = [9, next, if kind == 2 { 20 } else { 16 }, kind, BAR, 0, 0, 0];
    space[at..at + 8].copy_from_slice(&head);
    space[at + 8..at + 12].copy_from_slice(&(offset as u32).to_le_bytes());
    space[at + 12..at + 16].copy_from_slice(&(len as u32).to_le_bytes());
}

impl Model {
    /// Interrupts with `vector`, if there is such a one.
    pub fn interrupt(&mut self, vector: u16) {
        if let Some(count) = self.interrupts.get_mut(usize::from(vector)) {
            *count += 1;
        }
    }

    /// Says that the device is done with a chain, and interrupts if the driver wants it.
    pub fn complete(&mut self, queue: usize, head: u16, len: u32) {
        if self.rings[queue].push(head, len) {
            self.interrupt(self.rings[queue].vector);
        }
    }

    fn ring(&mut self) -> Option<&mut Ring> {
        self.rings.get_mut(usize::from(self.queue_select))
    }

    /// Reads a register by its place in BAR 4.
    pub fn read(&mut self, offset: usize, width: usize) -> u32 {
        if let RegisterLie::Noise(seed) = &mut self.lie {
            *seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(offset as u64 | 1);
            return (*seed >> 32) as u32 >> (32 - 8 * width);
        }
        match offset {
            DEVICE..NOTIFY => {
                let bytes = (0..width).map(|at| self.config.get(offset - DEVICE + at));
                let bytes = bytes.map(|byte| u32::from(byte.copied().unwrap_or(0)));
                bytes.rev().fold(0, |word, byte| word << 8 | byte)
            }
            _ => self.read_common(offset - COMMON),
        }
    }

    fn read_common(&mut self, offset: usize) -> u32 {
        let queues = match self.lie {
            RegisterLie::NoQueues => 0,
            _ => self.rings.len() as u32,
        };
        match offset {
            4 if self.device_select < 2 => (self.offered >> (32 * self.device_select)) as u32,
            16 => u32::from(self.config_vector),
            18 => queues,
            20 => u32::from(self.status),
            21 => {
                if self.lie == RegisterLie::Unstable {
                    self.generation = self.generation.wrapping_add(1);
                }
                u32::from(self.generation)
            }
            24 => self.ring().map_or(0, |ring| u32::from(ring.size)),
            26 => self.ring().map_or(0xffff, |ring| u32::from(ring.vector)),
            28 => self.ring().map_or(0, |ring| u32::from(ring.enabled)),
            30 => u32::from(self.queue_select),
            _ => 0,
        }
    }

    /// Writes a register by its place in BAR 4.
    pub fn write(&mut self, offset: usize, value: u32) {
        if matches!(self.lie, RegisterLie::Noise(_) | RegisterLie::Misplaced) {
            return;
        }
        if (NOTIFY..NOTIFY + 0x1000).contains(&offset) {
            let queue = (offset - NOTIFY) / NOTIFY_MULTIPLIER;
            assert_eq!(queue, value as usize, "the queue's own doorbell");
            assert!(
                self.status & Status::DRIVER_OK.bits() != 0,
                "not before DRIVER_OK"
            );
            self.notifications += 1;
            self.rings[queue].notified = true;
            return;
        }
        let refused = self.lie == RegisterLie::VectorsRefused;
        let vector = if refused { u16::MAX } else { value as u16 };
        let agreed = self.agreed;
        match offset - COMMON {
            0 => self.device_select = value,
            8 => self.driver_select = value,
            12 => {
                let shift = 32 * self.driver_select;
                self.agreed &= !(0xffff_ffff << shift);
                self.agreed |= u64::from(value) << shift;
            }
            16 => self.config_vector = vector,
            20 => self.set_status(value as u8),
            22 => self.queue_select = value as u16,
            register => {
                let Some(ring) = self.ring() else { return };
                assert!(!ring.enabled, "set up before it is enabled");
                match register {
                    24 => ring.size = value as u16,
                    26 => ring.vector = vector,
                    28 => ring.enable(agreed),
                    32 => ring.descriptors = low(ring.descriptors, value),
                    36 => ring.descriptors = high(ring.descriptors, value),
                    40 => ring.driver = low(ring.driver, value),
                    44 => ring.driver = high(ring.driver, value),
                    48 => ring.device = low(ring.device, value),
                    52 => ring.device = high(ring.device, value),
                    _ => panic!("write to register {register:#x}"),
                }
            }
        }
    }

    fn set_status(&mut self, status: u8) {
        if status == 0 {
            for ring in &mut self.rings {
                *ring = Ring::new(ring.max);
            }
            if self.lie != RegisterLie::ResetIgnored {
                self.status = 0;
            }
            return;
        }
        self.status = status;
        if self.lie == RegisterLie::FeaturesRefused || self.agreed & !self.offered != 0 {
            self.status &= !Status::FEATURES_OK.bits();
        }
    }
}

fn low(word: u64, half: u32) -> u64 {
    word & !0xffff_ffff | u64::from(half)
}

fn high(word: u64, half: u32) -> u64 {
    word & 0xffff_ffff | u64::from(half) << 32
}

impl PciFunction for Fake {
    type Bar = FakeBar;

    fn read8(&self, register: u8) -> u8 {
        self.model().space[usize::from(register)]
    }

    fn read16(&self, register: u8) -> u16 {
        assert!(register.is_multiple_of(2));
        u16::from_le_bytes([self.read8(register), self.read8(register + 1)])
    }

    fn read32(&self, register: u8) -> u32 {
        assert!(register.is_multiple_of(4));
        u32::from(self.read16(register)) | u32::from(self.read16(register + 2)) << 16
    }

    fn write16(&self, register: u8, value: u16) {
        assert_eq!(register, 4, "only the command register is written");
        self.poke(register, value as u8);
        self.poke(register + 1, (value >> 8) as u8);
    }

    fn map_bar(&self, bar: u8) -> Option<FakeBar> {
        assert!(bar <= 5);
        let fake = self.clone();
        (bar == BAR).then_some(FakeBar { fake, len: BAR_LEN })
    }
}

impl FakeBar {
    fn read(&self, offset: usize, width: usize) -> u32 {
        assert!(offset + width <= self.len && offset.is_multiple_of(width));
        self.fake.model_mut().read(offset, width)
    }

    fn write(&self, offset: usize, width: usize, value: u32) {
        assert!(offset + width <= self.len && offset.is_multiple_of(width));
        self.fake.model_mut().write(offset, value);
    }
}

impl Registers for FakeBar {
    fn len(&self) -> usize {
        self.len
    }

    fn read8(&self, offset: usize) -> u8 {
        self.read(offset, 1) as u8
    }

    fn read16(&self, offset: usize) -> u16 {
        self.read(offset, 2) as u16
    }

    fn read32(&self, offset: usize) -> u32 {
        self.read(offset, 4)
    }

    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, 1, value.into());
    }

    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, 2, value.into());
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, 4, value);
    }
}
