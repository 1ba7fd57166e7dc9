//! The interrupt descriptor table, and the entries behind it.
//!
//! An exception is always a bug: its entry saves every register for [`report`](crate::report), which ends the machine.
//! An interrupt's entry saves what compiled code may destroy, the SSE registers among it, calls
//! [`interrupt::dispatch`](crate::interrupt::dispatch) and returns. Both run on stacks of their own ([`gdt`](crate::gdt)).
//! Of the floating-point state that is `xmm0` to `xmm15`: compiled code uses neither x87 nor, since it was told of none, wider registers,
//! and leaves the control words alone. (Saving them one by one takes half the time of `fxsave` on an emulated processor.)

use crate::gdt::Stack;
use crate::interrupt::{DEVICE_VECTORS, FIRST_DEVICE_VECTOR, SPURIOUS_VECTOR};
use core::arch::global_asm;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::structures::idt::{EntryOptions, InterruptDescriptorTable};

/// The registers at an exception, in the order in which its entry pushes them, last one first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// `r15`, `r14`, … `r8`.
    pub high: [u64; 8],
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    /// Number of the exception.
    pub vector: u64,
    /// What the processor says about it; 0 for those about which it says nothing.
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

// Entry of each kind has a fixed size, so that the address of a vector's entry can be computed.
const ENTRY_BYTES: u64 = 16;

global_asm!(
    r#"
    .section .text.vectors, "ax", @progbits
    .globl exception_entries, interrupt_entries, spurious_entry

    # Exceptions 0 to 31. Those in the mask (8, 10..14, 17, 21, 29, 30) push an error code themselves.
    .balign 16
exception_entries:
    .set vector, 0
    .rept 32
    .balign 16
    .if (0x60227d00 >> vector) & 1 == 0
    push 0
    .endif
    push vector
    jmp exception_common
    .set vector, vector + 1
    .endr

exception_common:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    cld
    and rsp, -16
    call {exception}
    ud2

    # Devices. The number counts from the first device vector.
    .balign 16
interrupt_entries:
    .set vector, 0
    .rept {count}
    .balign 16
    push rdi
    mov edi, vector
    jmp interrupt_common
    .set vector, vector + 1
    .endr

interrupt_common:
    push rax
    push rcx
    push rdx
    push rsi
    push r8
    push r9
    push r10
    push r11
    push qword ptr [rsp + 72]   # the interrupted address: with rbp, a frame that a backtrace can follow
    push rbp
    mov rbp, rsp
    sub rsp, 256
    and rsp, -16
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps [rsp + 16 * \number], xmm\number
    .endr
    cld
    call {interrupt}
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps xmm\number, [rsp + 16 * \number]
    .endr
    mov rsp, rbp
    pop rbp
    add rsp, 8
    pop r11
    pop r10
    pop r9
    pop r8
    pop rsi
    pop rdx
    pop rcx
    pop rax
    pop rdi
    iretq

    # The local APIC had nothing to say after all. No acknowledgement is wanted.
    .balign 16
spurious_entry:
    iretq
    "#,
    exception = sym crate::report::exception,
    interrupt = sym crate::interrupt::dispatch,
    count = const DEVICE_VECTORS,
);

unsafe extern "C" {
    static exception_entries: u8;
    static interrupt_entries: u8;
    static spurious_entry: u8;
}

static IDT: Once<InterruptDescriptorTable> = Once::new();

fn entry(first: *const u8, number: u64) -> VirtAddr {
    VirtAddr::new(first.addr() as u64 + number * ENTRY_BYTES)
}

/// Loads the table. Once, after the segments.
pub(crate) fn init() {
    IDT.call_once(|| {
        let mut idt = InterruptDescriptorTable::new();
        fill_exceptions(&mut idt);
        for number in 0..DEVICE_VECTORS {
            let address = entry(&raw const interrupt_entries, u64::from(number));
            // SAFETY: the entry of that vector above.
            let options = unsafe { idt[FIRST_DEVICE_VECTOR + number].set_handler_addr(address) };
            on_stack(options, Stack::Interrupt);
        }
        let address = entry(&raw const spurious_entry, 0);
        // SAFETY: as above.
        let options = unsafe { idt[SPURIOUS_VECTOR].set_handler_addr(address) };
        on_stack(options, Stack::Interrupt);
        idt
    })
    .load();
}

fn on_stack(options: &mut EntryOptions, stack: Stack) {
    // SAFETY: the task state has that stack, and what runs on it is never interrupted by what runs on the same one:
    // the gates turn interrupts off, and an exception's handler does not return.
    unsafe { options.set_stack_index(stack.index()) };
}

fn fill_exceptions(idt: &mut InterruptDescriptorTable) {
    macro_rules! exceptions {
        ($($number:literal $field:ident $stack:ident,)*) => {$(
            let address = entry(&raw const exception_entries, $number);
            // SAFETY: the entry of that exception above, which knows whether there is an error code.
            let options = unsafe { idt.$field.set_handler_addr(address) };
            on_stack(options, Stack::$stack);
        )*};
    }
    exceptions! {
        0 divide_error Exception,
        1 debug Exception,
        2 non_maskable_interrupt Critical,
        3 breakpoint Exception,
        4 overflow Exception,
        5 bound_range_exceeded Exception,
        6 invalid_opcode Exception,
        7 device_not_available Exception,
        8 double_fault Critical,
        10 invalid_tss Exception,
        11 segment_not_present Exception,
        12 stack_segment_fault Exception,
        13 general_protection_fault Exception,
        14 page_fault Exception,
        16 x87_floating_point Exception,
        17 alignment_check Exception,
        18 machine_check Critical,
        19 simd_floating_point Exception,
        20 virtualization Exception,
        21 cp_protection_exception Exception,
        28 hv_injection_exception Exception,
        29 vmm_communication_exception Exception,
        30 security_exception Exception,
    }
}
