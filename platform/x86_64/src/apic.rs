//! The local APIC: the timer's and the devices' way to the processor (SDM volume 3A, chapter "APIC").
//!
//! By machine-specific registers (x2APIC) where the processor has them, else in memory.

use core::arch::x86_64::_mm_mfence;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Once;
use volatile::VolatilePtr;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags, Msr};

use crate::interrupt::SPURIOUS_VECTOR;
use crate::paging::{self, MapError};

/// Registers, by their offset in memory; as machine-specific registers they are `0x800 + offset / 16`.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Register {
    Id = 0x20,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    Spurious = 0xf0,
    LvtTimer = 0x320,
    LvtLint0 = 0x350,
    LvtLint1 = 0x360,
    LvtError = 0x370,
    InitialCount = 0x380,
    CurrentCount = 0x390,
    DivideConfiguration = 0x3e0,
}

const ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const TSC_DEADLINE: u32 = 2 << 17;
const DIVIDE_BY_1: u32 = 0b1011;
const MSR_TSC_DEADLINE: u32 = 0x6e0;
const REGISTER_BYTES: u64 = 4096;

#[derive(Clone, Copy)]
enum Access {
    Msr,
    Memory(NonNull<u32>),
}

// SAFETY: an address of registers, each of which is read and written whole.
unsafe impl Send for Access {}
// SAFETY: as above.
unsafe impl Sync for Access {}

static ACCESS: Once<Access> = Once::new();
static ID: AtomicU32 = AtomicU32::new(0);

fn read(register: Register) -> u32 {
    match ACCESS.get() {
        Some(Access::Msr) => {
            // SAFETY: a register of the x2APIC, which `init` turned on; reading has no side effect.
            unsafe { Msr::new(0x800 + register as u32 / 16).read() as u32 }
        }
        Some(&Access::Memory(base)) => pointer(base, register).read(),
        None => 0,
    }
}

fn write(register: Register, value: u32) {
    match ACCESS.get() {
        Some(Access::Msr) => {
            // SAFETY: a register of the x2APIC, and a value that it defines.
            unsafe { Msr::new(0x800 + register as u32 / 16).write(value.into()) }
        }
        Some(&Access::Memory(base)) => pointer(base, register).write(value),
        None => {}
    }
}

fn pointer(base: NonNull<u32>, register: Register) -> VolatilePtr<'static, u32> {
    // SAFETY: inside the page of registers that `init` mapped for ever.
    let register = unsafe { base.byte_add(register as usize) };
    // SAFETY: aligned, mapped, and made of bits that are all valid.
    unsafe { VolatilePtr::new(register) }
}

/// Turns the local APIC on and the two old interrupt controllers off. Once; with interrupts off.
///
/// # Errors
/// If its registers cannot be mapped.
pub(crate) fn init() -> Result<(), MapError> {
    silence_8259();
    let (frame, flags) = ApicBase::read();
    let x2apic = crate::cpu::features().x2apic;
    let access = if x2apic {
        // SAFETY: the processor has it, and nothing has used the APIC yet.
        unsafe {
            ApicBase::write(
                frame,
                flags | ApicBaseFlags::LAPIC_ENABLE | ApicBaseFlags::X2APIC_ENABLE,
            )
        };
        Access::Msr
    } else {
        // SAFETY: as above.
        unsafe { ApicBase::write(frame, flags | ApicBaseFlags::LAPIC_ENABLE) };
        let base = paging::map_device(frame.start_address().as_u64(), REGISTER_BYTES)?;
        Access::Memory(base.cast())
    };
    ACCESS.call_once(|| access);
    for local in [
        Register::LvtTimer,
        Register::LvtLint0,
        Register::LvtLint1,
        Register::LvtError,
    ] {
        write(local, MASKED);
    }
    write(Register::TaskPriority, 0);
    write(Register::Spurious, ENABLE | u32::from(SPURIOUS_VECTOR));
    write(Register::DivideConfiguration, DIVIDE_BY_1);
    let id = read(Register::Id);
    ID.store(if x2apic { id } else { id >> 24 }, Ordering::Relaxed);
    Ok(())
}

/// Masks all lines of the two 8259s, after moving their vectors away from the processor's exceptions.
fn silence_8259() {
    /// The last sixteen device vectors, which [`allocate`](crate::interrupt::allocate) gives out last.
    const MOVED: u8 = 0x90;
    let writes: [(u16, u8); 10] = [
        (0x20, 0x11), // ICW1: edge-triggered, cascaded, ICW4 follows
        (0xa0, 0x11),
        (0x21, MOVED),
        (0xa1, MOVED + 8),
        (0x21, 4), // ICW3: the second one is on line 2
        (0xa1, 2),
        (0x21, 1), // ICW4: 8086 mode
        (0xa1, 1),
        (0x21, 0xff), // every line masked
        (0xa1, 0xff),
    ];
    for (port, value) in writes {
        // SAFETY: the controllers' registers, or nothing; interrupts are off and nobody else uses them.
        unsafe { Port::<u8>::new(port).write(value) };
    }
}

/// This processor's number.
pub fn id() -> u32 {
    ID.load(Ordering::Relaxed)
}

/// Says that the interrupt in service has been served.
pub(crate) fn end_of_interrupt() {
    write(Register::EndOfInterrupt, 0);
}

/// Makes the timer raise `vector` once per arming: at a value of the time-stamp counter, or after a count of its own ticks.
pub(crate) fn set_timer_vector(vector: u8, by_deadline: bool) {
    let mode = if by_deadline { TSC_DEADLINE } else { 0 };
    write(Register::LvtTimer, u32::from(vector) | mode);
    // The mode is set in memory, the deadline in a register of the processor's: nothing else keeps the two in order (SDM volume 3A,
    // "TSC-Deadline Mode").
    // SAFETY: every processor with long mode has the instruction.
    unsafe { _mm_mfence() };
}

/// Arms the timer, in deadline mode; 0 disarms it.
pub(crate) fn set_deadline(tsc: u64) {
    // SAFETY: the processor has the register: the caller chose deadline mode because it says so.
    unsafe { Msr::new(MSR_TSC_DEADLINE).write(tsc) };
}

/// Starts the timer's count, in one-shot mode; 0 stops it.
pub(crate) fn set_count(ticks: u32) {
    write(Register::InitialCount, ticks);
}

/// What is left of the timer's count.
pub(crate) fn count() -> u32 {
    read(Register::CurrentCount)
}
