//! Interrupts of devices: vectors, their handlers, and the message that raises one.
//!
//! A handler runs with interrupts off, on the interrupt stack. It acknowledges, records and wakes, and takes no lock that is
//! ever held with interrupts on.

use crate::apic;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The first vector of a device. Below are the processor's exceptions.
pub(crate) const FIRST_DEVICE_VECTOR: u8 = 32;
/// How many there are.
pub(crate) const DEVICE_VECTORS: u8 = 128;
/// What the local APIC raises if there is nothing to raise after all (SDM volume 3A, "Spurious Interrupt").
pub(crate) const SPURIOUS_VECTOR: u8 = 0xff;

/// A handler: a function, and what it is called with.
pub type Handler = fn(usize);

struct Slot {
    taken: AtomicBool,
    /// A [`Handler`] by its address; 0 while there is none.
    handler: AtomicUsize,
    argument: AtomicUsize,
}

static SLOTS: [Slot; DEVICE_VECTORS as usize] = [const {
    Slot {
        taken: AtomicBool::new(false),
        handler: AtomicUsize::new(0),
        argument: AtomicUsize::new(0),
    }
}; DEVICE_VECTORS as usize];

/// A vector that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector(u8);

/// What a device writes where to raise an interrupt (MSI; SDM volume 3A, "Message Signalled Interrupts").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The address.
    pub address: u64,
    /// The word.
    pub data: u32,
}

impl Vector {
    /// The vector's number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The message that raises it on this processor.
    pub fn message(self) -> Message {
        Message {
            address: 0xfee0_0000 | (u64::from(apic::id()) & 0xff) << 12,
            data: self.0.into(),
        }
    }
}

/// Takes a free vector for `handler`, which is called with `argument` at each of its interrupts. `None` if all are taken.
pub fn allocate(handler: Handler, argument: usize) -> Option<Vector> {
    for (slot, number) in SLOTS.iter().zip(FIRST_DEVICE_VECTOR..) {
        if slot.taken.swap(true, Ordering::Acquire) {
            continue;
        }
        slot.argument.store(argument, Ordering::Relaxed);
        slot.handler.store(handler as usize, Ordering::Release);
        return Some(Vector(number));
    }
    None
}

/// Gives a vector back. The device must have been told not to raise it any more; one that is still under way is ignored.
pub fn release(vector: Vector) {
    if let Some(slot) = SLOTS.get(usize::from(vector.0.wrapping_sub(FIRST_DEVICE_VECTOR))) {
        slot.handler.store(0, Ordering::Release);
        slot.taken.store(false, Ordering::Release);
    }
}

/// Serves the device vector of index `number`. Called by its entry alone.
pub(crate) extern "C" fn dispatch(number: u32) {
    if let Some(slot) = SLOTS.get(number as usize) {
        let handler = slot.handler.load(Ordering::Acquire);
        if handler != 0 {
            // SAFETY: `allocate` stored it from a value of this very type.
            let handler = unsafe { core::mem::transmute::<usize, Handler>(handler) };
            handler(slot.argument.load(Ordering::Relaxed));
        }
    }
    apic::end_of_interrupt();
}
