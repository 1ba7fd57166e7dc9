//! Segments, and the stacks that exceptions and interrupts run on.
//!
//! Compiled code uses the 128 bytes below its stack pointer (the System V ABI's red zone), so nothing may be pushed onto an
//! interrupted stack: every vector enters on a stack of its own, through the interrupt stack table (SDM volume 3A,
//! "Interrupt Stack Table").

use core::cell::UnsafeCell;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

/// Bytes of each of these stacks. Unoptimised code needs more.
const STACK_BYTES: usize = if cfg!(debug_assertions) {
    32 * 1024
} else {
    12 * 1024
};

#[repr(C, align(4096))]
struct GuardedStack {
    guard: [u8; 4096],
    stack: [u8; STACK_BYTES],
}

#[repr(transparent)]
struct Stacks(UnsafeCell<[GuardedStack; 3]>);

// SAFETY: nothing in Rust looks at the contents; the processor does, on the vectors that the table below says.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(UnsafeCell::new(
    [const {
        GuardedStack {
            guard: [0; 4096],
            stack: [0; STACK_BYTES],
        }
    }; 3],
));

/// The stacks, by their index in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    /// Exceptions that a bug causes.
    Exception,
    /// What may come while an exception is handled: a double fault, an NMI, a machine check.
    Critical,
    /// Devices. Their vectors keep interrupts off, so one stack is enough for them all.
    Interrupt,
}

impl Stack {
    pub(crate) const ALL: [Stack; 3] = [Stack::Exception, Stack::Critical, Stack::Interrupt];

    pub(crate) const fn index(self) -> u16 {
        self as u16
    }

    /// Address of the page below it.
    pub(crate) fn guard(self) -> u64 {
        let stacks = STACKS.0.get().cast::<GuardedStack>();
        stacks.wrapping_add(self as usize).addr() as u64
    }

    fn top(self) -> VirtAddr {
        VirtAddr::new(self.guard() + size_of::<GuardedStack>() as u64)
    }
}

static TSS: Once<TaskStateSegment> = Once::new();
static GDT: Once<(GlobalDescriptorTable, [SegmentSelector; 3])> = Once::new();

/// Loads the segments and the task state with its stacks. Once, before any interrupt.
pub(crate) fn init() {
    let tss = TSS.call_once(|| {
        let mut tss = TaskStateSegment::new();
        for stack in Stack::ALL {
            tss.interrupt_stack_table[usize::from(stack.index())] = stack.top();
        }
        tss
    });
    let (gdt, [code, data, task]) = GDT.call_once(|| {
        let mut gdt = GlobalDescriptorTable::new();
        let code = gdt.append(Descriptor::kernel_code_segment());
        let data = gdt.append(Descriptor::kernel_data_segment());
        let task = gdt.append(Descriptor::tss_segment(tss));
        (gdt, [code, data, task])
    });
    gdt.load();
    // SAFETY: a 64-bit code segment of the table just loaded, at privilege 0, as the one in use.
    unsafe { CS::set_reg(*code) };
    // SAFETY: a flat data segment of that table.
    unsafe { SS::set_reg(*data) };
    // SAFETY: as above.
    unsafe { DS::set_reg(*data) };
    // SAFETY: as above.
    unsafe { ES::set_reg(*data) };
    // SAFETY: an available task state segment of that table, whose stacks are in place and which lives for ever.
    unsafe { load_tss(*task) };
}
