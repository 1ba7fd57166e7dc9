//! The queue by itself: against a device in another thread, and at its edges.

use super::*;
use crate::fake::Seeded;
use crate::fake::memory::FakeDma;
use crate::fake::ring::Ring;
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

fn pair(shape: Shape, features: Features) -> (Queue, Ring, &'static FakeDma) {
    let dma = FakeDma::leak(1000, false);
    let queue = Queue::new(dma, 0, shape, features).unwrap();
    let areas = queue.areas();
    let mut ring = Ring::new(areas.size);
    ring.descriptors = areas.descriptors;
    ring.driver = areas.driver;
    ring.device = areas.device;
    ring.enable(features.bits());
    (queue, ring, dma)
}

fn add(queue: &mut Queue, pieces: u32, token: u64) -> Result<(), ChainError> {
    let mut chain = queue.begin().ok_or(ChainError::Full)?;
    for piece in 0..pieces {
        chain.push(0x1000 * u64::from(piece), 16, piece > 0)?;
    }
    chain.commit(token);
    Ok(())
}

#[test]
fn a_chain_that_is_dropped_leaves_no_trace() {
    for features in [Features::INDIRECT_DESC, Features::empty()] {
        let (mut queue, mut ring, _dma) = pair(Shape { size: 8, chain: 4 }, features);
        for _ in 0..100 {
            let mut chain = queue.begin().unwrap();
            chain.push(0x1000, 8, false).unwrap();
            chain.push(0x2000, 8, false).unwrap();
        }
        assert_eq!(add(&mut queue, 5, 0), Err(ChainError::TooLong));
        assert!(ring.pop().is_none());
        let held = (0..20)
            .take_while(|&token| add(&mut queue, 4, token).is_ok())
            .count();
        assert_eq!(held, usize::from(queue.depth()));
        assert_eq!(std::iter::from_fn(|| ring.pop()).count(), held);
    }
}

#[test]
fn chains_in_the_ring_come_and_go_in_any_order() {
    let (mut queue, mut ring, _dma) = pair(Shape { size: 16, chain: 5 }, Features::empty());
    let mut random = Seeded(1);
    let mut with_device = Vec::new();
    for token in 0..10_000 {
        if add(&mut queue, 1 + random.below(5) as u32, token).is_ok() {
            with_device.push(ring.pop().unwrap());
        }
        if random.once_in(2) && !with_device.is_empty() {
            let index = random.below(with_device.len() as u64) as usize;
            ring.push(with_device.swap_remove(index).head, 0);
            queue.take().unwrap().unwrap();
        }
        assert_eq!(usize::from(queue.outstanding()), with_device.len());
    }
}

#[test]
fn lengths_do_not_overflow() {
    let (mut queue, _ring, _dma) = pair(Shape { size: 8, chain: 8 }, Features::INDIRECT_DESC);
    let mut chain = queue.begin().unwrap();
    chain.push(0, u32::MAX, true).unwrap();
    assert_eq!(chain.push(0, 1, true), Err(ChainError::TooLong));
}

/// One side's way to wake the other.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    /// Sleeps until it was rung.
    fn wait(&self, who: &str) {
        let rung = self.rung.lock().unwrap();
        let patience = Duration::from_secs(10);
        let (mut rung, result) = self
            .changed
            .wait_timeout_while(rung, patience, |rung| !*rung)
            .unwrap();
        assert!(!result.timed_out(), "nobody wakes the {who}");
        *rung = false;
    }
}

/// Both sides sleep whenever they find nothing to do, and rely on being told.
fn nobody_sleeps_for_ever(features: Features) {
    const COUNT: u64 = 50_000;
    let (mut queue, mut ring, _dma) = pair(Shape { size: 8, chain: 1 }, features);
    let (notification, interrupt) = (Bell::default(), Bell::default());
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut served = 0;
            while served < COUNT {
                while let Some(given) = ring.pop() {
                    served += 1;
                    if ring.push(given.head, 0) {
                        interrupt.ring();
                    }
                }
                if served < COUNT && ring.sleep() {
                    notification.wait("device");
                }
            }
        });
        let (mut added, mut taken) = (0, 0);
        while taken < COUNT {
            while added < COUNT && add(&mut queue, 1, added).is_ok() {
                added += 1;
            }
            if queue.wants_notification() {
                notification.ring();
            }
            while queue.take().unwrap().is_some() {
                taken += 1;
            }
            if taken < added && queue.want_interrupt(1) {
                interrupt.wait("driver");
            }
        }
    });
}

#[test]
fn nobody_sleeps_for_ever_with_event_indices() {
    nobody_sleeps_for_ever(Features::EVENT_IDX);
}

#[test]
fn nobody_sleeps_for_ever_without_event_indices() {
    nobody_sleeps_for_ever(Features::empty());
}
