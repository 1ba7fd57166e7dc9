//! The entropy driver against an honest device, and against ones that lie.

use super::*;
use crate::fake::memory::FakeDma;
use crate::fake::pci::Fake;
use crate::fault::Fault;
use crate::transport::DeviceType;
use crate::transport::pci::PciTransport;

fn attach() -> (Fake, VirtioRng<PciTransport<Fake>>) {
    let fake = Fake::new(DeviceType::ENTROPY, 0, &[8], vec![]);
    let transport = PciTransport::new(fake.clone()).unwrap();
    let dma = FakeDma::leak(100, false);
    let driver = VirtioRng::attach(transport, dma, 0).unwrap();
    (fake, driver)
}

#[test]
fn bytes_are_handed_out_once() {
    let (fake, mut driver) = attach();
    let mut out = [0; 40];
    assert_eq!(driver.fill(&mut out), Ok(0));
    assert_eq!(driver.fill(&mut out), Ok(0));
    assert_eq!(fake.model().notifications, 1);
    let given = fake.model_mut().rings[0].pop().unwrap();
    let bytes: Vec<u8> = (1..=64).collect();
    given.write(0, &bytes);
    fake.model_mut().complete(0, given.head, 50);
    assert_eq!(fake.model().interrupts[0], 1);
    assert_eq!(driver.fill(&mut out), Ok(40));
    assert_eq!(out, std::array::from_fn(|at| 50 - at as u8));
    assert_eq!(driver.fill(&mut out), Ok(10));
    assert_eq!(out[..10], [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(driver.fill(&mut out), Ok(0));
}

#[test]
fn a_source_that_gives_nothing_does_not_hang_and_one_that_lies_is_given_up() {
    let (fake, mut driver) = attach();
    let mut out = [0; 8];
    assert_eq!(driver.fill(&mut out), Ok(0));
    let given = fake.model_mut().rings[0].pop().unwrap();
    fake.model_mut().complete(0, given.head, 0);
    assert_eq!(driver.fill(&mut out), Ok(0));
    assert_eq!(driver.fill(&mut out), Ok(0));
    let given = fake.model_mut().rings[0].pop().unwrap();
    fake.model_mut().complete(0, given.head, 65);
    assert_eq!(driver.fill(&mut out), Err(RequestError::Broken));
    let fault = Fault::UsedLength {
        claimed: 65,
        writable: 64,
    };
    assert_eq!(driver.device().fault(), Some(fault));
    assert!(fake.is_stopped());
    assert_eq!(driver.fill(&mut out), Err(RequestError::Broken));
}
