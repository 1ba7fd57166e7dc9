//! Devices that lie in their capability list and in their registers.

use super::*;
use crate::blk::{BlkConfig, VirtioBlk};
use crate::fake::Seeded;
use crate::fake::memory::FakeDma;
use crate::fake::pci::{BAR_LEN, Fake, RegisterLie};
use crate::fault::AttachError;

fn disk() -> Fake {
    Fake::new(DeviceType::BLOCK, 0, &[64], vec![0; 60])
}

/// Attaches to the device; whatever comes of it, no memory may be lost and the device must be off after.
fn attach(fake: &Fake) -> Result<(), AttachError> {
    let dma = FakeDma::leak(1000, false);
    let result = PciTransport::new(fake.clone())
        .map_err(AttachError::from)
        .and_then(|transport| VirtioBlk::attach(transport, dma, BlkConfig::DEFAULT))
        .map(drop);
    assert_eq!(dma.live(), 0);
    result
}

#[test]
fn an_honest_device_is_found_and_switched_off_when_dropped() {
    let fake = disk();
    attach(&fake).unwrap();
    assert!(fake.is_stopped());
}

#[test]
fn a_device_of_another_vendor_is_not_ours() {
    let fake = disk();
    fake.poke(0, 0x86);
    assert_eq!(device_type(&fake), None);
}

#[test]
fn a_transitional_device_tells_its_type_in_the_subsystem() {
    let fake = disk();
    fake.poke(0x02, 0x01);
    fake.poke(0x2e, 2);
    fake.poke(0x03, 0x10);
    assert_eq!(device_type(&fake), Some(DeviceType::BLOCK));
    attach(&fake).unwrap();
}

#[test]
fn a_capability_list_that_is_a_loop_ends() {
    let fake = disk();
    fake.poke(0x41, 0x40);
    let missing = Fault::Capability {
        kind: "notification",
    };
    assert_eq!(attach(&fake), Err(missing.into()));
}

#[test]
fn a_capability_list_into_the_header_or_the_end_is_not_followed() {
    for next in [0x04, 0x3c, 0xf8, 0xfc, 0xff] {
        let fake = disk();
        fake.poke(0x34, next);
        for at in 0xf4..=0xff {
            fake.poke(at, 9);
        }
        assert!(matches!(
            attach(&fake),
            Err(AttachError::Fault(Fault::Capability { .. }))
        ));
    }
}

#[test]
fn a_window_outside_its_bar_does_not_count() {
    let bad_offset = |fake: &Fake| fake.poke(0x40 + 9, (BAR_LEN >> 8) as u8);
    let bad_len = |fake: &Fake| fake.poke(0x40 + 15, 0xff);
    let short = |fake: &Fake| {
        fake.poke(0x40 + 12, 55);
        fake.poke(0x40 + 13, 0);
    };
    let odd = |fake: &Fake| fake.poke(0x40 + 8, 2);
    let bar = |fake: &Fake| fake.poke(0x40 + 4, 6);
    let absent = |fake: &Fake| fake.poke(0x40 + 4, 3);
    let lies: [&dyn Fn(&Fake); 6] = [&bad_offset, &bad_len, &short, &odd, &bar, &absent];
    for lie in lies {
        let fake = disk();
        lie(&fake);
        let missing = Fault::Capability {
            kind: "common configuration",
        };
        assert_eq!(attach(&fake), Err(missing.into()));
    }
}

#[test]
fn a_doorbell_outside_its_window_is_refused() {
    // The multiplier is odd: queue 0 is at offset 0, but the network's queue 1 would be at 1.
    let fake = Fake::new(DeviceType::NETWORK, 0, &[64, 64], vec![0; 12]);
    fake.poke(0x64 + 16, 1);
    let transport = PciTransport::new(fake.clone()).unwrap();
    let dma = FakeDma::leak(1000, false);
    let config = crate::net::NetConfig::DEFAULT;
    let result = crate::net::VirtioNet::attach(transport, dma, config);
    let refused = Fault::NotifyAddress { queue: 1 };
    assert_eq!(result.err(), Some(refused.into()));
    assert_eq!(dma.live(), 0);
}

#[test]
fn each_lie_in_the_registers_has_its_fault() {
    let lies = [
        (RegisterLie::ResetIgnored, Fault::ResetIgnored),
        (RegisterLie::FeaturesRefused, Fault::FeaturesRefused),
        (RegisterLie::Unstable, Fault::ConfigurationUnstable),
        (
            RegisterLie::VectorsRefused,
            Fault::VectorRefused { vector: 0 },
        ),
        (RegisterLie::NoQueues, Fault::QueueMissing { queue: 0 }),
    ];
    for (lie, fault) in lies {
        let fake = disk();
        fake.model_mut().lie = lie;
        assert_eq!(attach(&fake), Err(fault.into()));
        assert!(!fake.is_master());
    }
}

#[test]
fn a_legacy_device_is_refused() {
    let fake = disk();
    fake.model_mut().offered = 0;
    assert_eq!(attach(&fake), Err(Fault::NotModern.into()));
}

#[test]
fn when_memory_runs_out_nothing_is_lost() {
    for pages in 0..14 {
        let fake = disk();
        let dma = FakeDma::leak(pages, false);
        let transport = PciTransport::new(fake.clone()).unwrap();
        let result = VirtioBlk::attach(transport, dma, BlkConfig::DEFAULT);
        drop(result);
        assert_eq!(dma.live(), 0, "with {pages} pages");
        assert!(fake.is_stopped());
    }
}

#[test]
fn a_noisy_configuration_space_never_leads_outside() {
    for seed in 0..3000 {
        let mut random = Seeded(seed);
        let fake = disk();
        for _ in 0..1 + random.below(40) {
            // Not the identity, or little would be tried.
            let register = 0x34 + random.below(0x100 - 0x34) as u8;
            fake.poke(register, random.next() as u8);
        }
        fake.model_mut().lie = match random.once_in(2) {
            true => RegisterLie::Misplaced,
            false => RegisterLie::Noise(seed),
        };
        // The fake asserts that every access is inside the BAR and aligned.
        let _ = attach(&fake);
    }
}

#[test]
fn noisy_registers_never_hang_or_panic() {
    for seed in 0..100 {
        let fake = disk();
        fake.model_mut().lie = RegisterLie::Noise(seed);
        let _ = attach(&fake);
    }
}
