//! The first instructions: the PVH door, from 32-bit protected mode to Rust in long mode.
//!
//! A loader finds `pvh_entry` by the ELF note (Xen `public/elfnote.h`, `XEN_ELFNOTE_PHYS32_ENTRY` = 18) and jumps there
//! with paging off and `ebx` = `start_info` (Xen `docs/misc/pvh.pandoc`). What Rust code may rely on is made here, before
//! any runs: a stack, long mode with the first GiB mapped at its own address, no-execute and write-protect in force, and
//! the SSE registers (the target's code uses them).
//!
//! The page tables and the descriptor table made here are replaced by [`paging`](crate::paging) and
//! [`gdt`](crate::gdt).

use core::arch::global_asm;

/// Bytes of the stack that the machine starts on. Unoptimised code needs several times as much as optimised.
pub const BOOT_STACK_BYTES: usize = if cfg!(debug_assertions) {
    256 * 1024
} else {
    64 * 1024
};

/// Bytes below the stack that are mapped at first and become its guard page.
const GUARD_BYTES: usize = 4096;

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_entry

    .section .text.entry, "ax", @progbits
    .code32
    .globl pvh_entry
    .type pvh_entry, @function
pvh_entry:
    cli
    cld
    movl $boot_stack_top, %esp
    movl %ebx, %edi

    # Long mode (bit 29) and no-execute (bit 20), or nothing below works.
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb 8f
    movl $0x80000001, %eax
    cpuid
    andl $0x20100000, %edx
    cmpl $0x20100000, %edx
    jne 8f

    # One GiB in pages of 2 MiB, at its own address.
    movl $boot_pdpt + 3, boot_pml4
    movl $boot_pd + 3, boot_pdpt
    movl $boot_pd, %ecx
    movl $0x83, %eax
2:  movl %eax, (%ecx)
    addl $8, %ecx
    addl $0x200000, %eax
    cmpl $boot_pd + 4096, %ecx
    jne 2b

    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax            # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0xc0000080, %ecx      # EFER: LME, NXE
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl %cr0, %eax
    andl $0xfffffff3, %eax      # not EM, not TS
    orl $0x80010022, %eax       # PG, WP, NE, MP
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $8, $7f

    # Not a processor for us: say so on the first serial port and stop.
8:  movl $6f, %esi
9:  movb (%esi), %al
    testb %al, %al
    jz 5f
    movw $0x3f8, %dx
    outb %al, %dx
    incl %esi
    jmp 9b
5:  hlt
    jmp 5b
6:  .asciz "This processor has no long mode or no no-execute bit: cannot run here.\r\n"

    .code64
7:  movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movq $boot_stack_top, %rsp
    xorl %ebp, %ebp
    movl %edi, %edi
    call {start}
    ud2
    .size pvh_entry, . - pvh_entry

    .section .rodata.entry, "a", @progbits
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 64-bit code
    .quad 0x00cf93000000ffff    # data
boot_gdt_pointer:
    .word 23
    .long boot_gdt

    .section .bss.boot_stack, "aw", @nobits
    .balign 4096
    .globl boot_stack_guard
boot_stack_guard:
    .skip {guard}
    .skip {stack}
    .globl boot_stack_top
boot_stack_top:

    .section .bss.boot_tables, "aw", @nobits
    .balign 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4096
    "#,
    start = sym crate::pvh::start,
    guard = const GUARD_BYTES,
    stack = const BOOT_STACK_BYTES,
    options(att_syntax)
);
