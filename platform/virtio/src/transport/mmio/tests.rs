//! The drivers over MMIO: the same fake device behind other registers.

use super::*;
use crate::blk::{BlkConfig, BlkOp, BlkResult, VirtioBlk};
use crate::dma::Segment;
use crate::fake::Seeded;
use crate::fake::memory::FakeDma;
use crate::fake::pci::{Fake, RegisterLie};
use std::cell::Cell;
use std::ptr::NonNull;

/// The registers of a fake's MMIO form, put in terms of those of its PCI form.
struct Window {
    fake: Fake,
    magic: u32,
    version: u32,
    noise: Option<Cell<u64>>,
    acknowledged: Cell<u32>,
}

impl Window {
    fn new(fake: &Fake) -> Window {
        Window {
            fake: fake.clone(),
            magic: MAGIC,
            version: VERSION_MODERN,
            noise: None,
            acknowledged: Cell::new(0),
        }
    }
}

/// The PCI register that does what an MMIO register does.
fn same_in_pci(register: usize) -> Option<usize> {
    Some(match register {
        register::DEVICE_FEATURES_SELECT => 0,
        register::DEVICE_FEATURES => 4,
        register::DRIVER_FEATURES_SELECT => 8,
        register::DRIVER_FEATURES => 12,
        register::STATUS => 20,
        register::GENERATION => 21,
        register::QUEUE_SELECT => 22,
        register::QUEUE_SIZE_MAX | register::QUEUE_SIZE => 24,
        register::QUEUE_READY => 28,
        0x080 | 0x084 => 32 + register - 0x080,
        0x090 | 0x094 => 40 + register - 0x090,
        0x0a0 | 0x0a4 => 48 + register - 0x0a0,
        _ => return None,
    })
}

impl Registers for Window {
    fn len(&self) -> usize {
        0x200
    }

    fn read8(&self, offset: usize) -> u8 {
        assert!(offset >= WINDOW_BYTES, "registers have 32 bits");
        let config = &self.fake.model().config;
        config.get(offset - WINDOW_BYTES).copied().unwrap_or(0)
    }

    fn read16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.read8(offset), self.read8(offset + 1)])
    }

    fn read32(&self, offset: usize) -> u32 {
        if let Some(noise) = &self.noise {
            let mut random = Seeded(noise.get());
            let value = random.next();
            noise.set(value);
            return value as u32;
        }
        match offset {
            register::MAGIC => self.magic,
            register::VERSION => self.version,
            register::DEVICE_ID => DeviceType::BLOCK.0.into(),
            register::INTERRUPT_STATUS => 3 & !self.acknowledged.get(),
            WINDOW_BYTES.. => {
                u32::from(self.read16(offset)) | u32::from(self.read16(offset + 2)) << 16
            }
            _ => {
                let same = same_in_pci(offset).expect("a register that can be read");
                self.fake.model_mut().read(same, 4)
            }
        }
    }

    fn write8(&self, _: usize, _: u8) {
        panic!("registers have 32 bits");
    }

    fn write16(&self, _: usize, _: u16) {
        panic!("registers have 32 bits");
    }

    fn write32(&self, offset: usize, value: u32) {
        if self.noise.is_some() {
            return;
        }
        match offset {
            register::QUEUE_NOTIFY => self.fake.model_mut().rings[value as usize].notified = true,
            register::INTERRUPT_ACKNOWLEDGE => self.acknowledged.set(value),
            _ => {
                let same = same_in_pci(offset).expect("a register that can be written");
                self.fake.model_mut().write(same, value);
            }
        }
    }
}

fn disk() -> Fake {
    let mut config = 64u64.to_le_bytes().to_vec();
    config.resize(60, 0);
    Fake::new(DeviceType::BLOCK, 0, &[128], config)
}

#[test]
fn a_disk_behind_mmio_is_read() {
    let fake = disk();
    let dma = FakeDma::leak(100, false);
    let transport = MmioTransport::new(Window::new(&fake)).unwrap();
    let mut driver = VirtioBlk::attach(transport, dma, BlkConfig::DEFAULT).unwrap();
    assert_eq!(driver.info().sectors, 64);
    let mut bytes = vec![0; 512];
    let memory = Segment {
        base: NonNull::new(bytes.as_mut_ptr()).unwrap(),
        len: bytes.len(),
    };
    // SAFETY: the buffer stays until the request is reaped.
    unsafe { driver.submit(BlkOp::Read, 3, std::iter::once(memory), 9) }.unwrap();
    assert!(fake.model().rings[0].notified);
    let given = fake.model_mut().rings[0].pop().unwrap();
    given.write(0, &[5; 512]);
    given.write(512, &[0]);
    fake.model_mut().complete(0, given.head, 513);
    assert_eq!(driver.reap().unwrap().result, BlkResult::Done);
    assert_eq!(bytes, [5; 512]);
    drop(driver);
    assert_eq!(fake.model().status, 0);
    assert_eq!(dma.live(), 0);
}

#[test]
fn an_interrupt_is_acknowledged_for_what_it_was() {
    let window = Window::new(&disk());
    let both = Interrupt {
        queue: true,
        configuration: true,
    };
    assert_eq!(acknowledge(&window), both);
    assert_eq!(window.acknowledged.get(), 3);
    assert!(!acknowledge(&window).queue);
}

#[test]
fn what_is_no_modern_device_is_refused() {
    let fake = disk();
    let mut window = Window::new(&fake);
    window.version = 1;
    assert_eq!(MmioTransport::new(window).err(), Some(Fault::NotModern));
    let mut window = Window::new(&fake);
    window.magic = u32::MAX;
    assert_eq!(device_type(&window), None);
    assert_eq!(MmioTransport::new(window).err(), Some(Fault::NotModern));
}

#[test]
fn a_device_that_lies_is_not_attached() {
    let lies = [
        (RegisterLie::ResetIgnored, Fault::ResetIgnored),
        (RegisterLie::FeaturesRefused, Fault::FeaturesRefused),
        (RegisterLie::Unstable, Fault::ConfigurationUnstable),
    ];
    for (lie, fault) in lies {
        let fake = disk();
        fake.model_mut().lie = lie;
        let dma = FakeDma::leak(100, false);
        let transport = MmioTransport::new(Window::new(&fake)).unwrap();
        let result = VirtioBlk::attach(transport, dma, BlkConfig::DEFAULT);
        assert_eq!(result.err(), Some(fault.into()));
        assert_eq!(dma.live(), 0);
    }
}

#[test]
fn noisy_registers_never_hang_or_panic() {
    for seed in 0..200 {
        let fake = disk();
        let transport = MmioTransport {
            registers: Window {
                noise: Some(Cell::new(seed)),
                ..Window::new(&fake)
            },
            device_type: DeviceType::BLOCK,
        };
        let dma = FakeDma::leak(100, false);
        let _ = VirtioBlk::attach(transport, dma, BlkConfig::DEFAULT);
        assert_eq!(dma.live(), 0);
    }
}

#[test]
fn announcements_are_read_as_qemu_and_firecracker_write_them() {
    let parse = |place: &str| {
        let announced = Announced::parse(format!("virtio_mmio.device={place}").as_bytes())?;
        Some((announced.bytes, announced.start, announced.line))
    };
    assert_eq!(parse("512@0xfeb02a00:12"), Some((512, 0xfeb0_2a00, 12)));
    assert_eq!(parse("4K@0xd0000000:5"), Some((4096, 0xd000_0000, 5)));
    assert_eq!(
        parse("1M@3489660928:0x10:3"),
        Some((1 << 20, 0xd000_0000, 16))
    );
    for place in [
        "",
        "512",
        "512@",
        "512@1000",
        "@0x1000:5",
        "K@0x1000:5",
        "512@0x1001:5",
        "255@0x1000:5",
        "2M@0x1000:5",
        "512@0x1000:256",
        "512@0x1000:",
        "99999999999999999K@0:1",
        "5\u{e9}@0:1",
    ] {
        assert_eq!(parse(place), None, "{place}");
    }
    assert_eq!(Announced::parse(b"virtio_mmio.device=\xff@0:1"), None);
    assert!(!Announced::is(b"memlimit=8m"));
}
