//! Threads of the processor: a stack, and what a function call preserves.
//!
//! Switching is cooperative: a call of [`switch`] in one thread returns in another. So only what the System V ABI has a function
//! preserve is saved, on the thread's own stack: `rbx`, `rbp`, `r12`..`r15` and the stack pointer. The control bits of
//! MXCSR and the x87 word are the same in all threads, since nobody changes them. An interrupt that comes meanwhile
//! saves for itself what it destroys.

use core::arch::naked_asm;
use core::ptr::NonNull;

/// Where a thread that does not run goes on: its stack pointer.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Context(u64);

/// What a new thread runs first; it never returns.
pub type Start = extern "C" fn(usize) -> !;

impl Context {
    /// The context of a thread that is running, to be filled by [`switch`].
    pub const fn running() -> Context {
        Context(0)
    }

    /// The context of a new thread, which will call `start(argument)` on the stack that ends below `stack_top`.
    ///
    /// # Safety
    /// The 80 bytes below `stack_top`, which is aligned to 16, must be writable, and the stack the thread's alone while it
    /// runs.
    pub unsafe fn new(stack_top: NonNull<u8>, start: Start, argument: usize) -> Context {
        // From the top: a frame that ends backtraces (return address 0, no caller), then what `switch` pops.
        let words: [u64; 10] = [
            argument as u64,       // r15
            start as usize as u64, // r14
            0,                     // r13
            0,                     // r12
            0,                     // rbx
            0,                     // rbp
            enter as *const () as usize as u64,
            0,
            0,
            0,
        ];
        // SAFETY: the caller's promise: that many bytes below the top are there.
        let bottom = unsafe { stack_top.cast::<[u64; 10]>().sub(1) };
        // SAFETY: as above; aligned, since the top is and 80 is a multiple of 8.
        unsafe { bottom.write(words) };
        Context(bottom.as_ptr().addr() as u64)
    }
}

/// Saves the running thread in `save` and goes on with the one in `load`. Returns when somebody switches back.
///
/// # Safety
/// Interrupts must be off. `load` must be the context of a thread that does not run and whose stack is intact; it is used
/// up by this.
#[unsafe(naked)]
pub unsafe extern "C" fn switch(save: *mut Context, load: *const Context) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, [rsi]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// The first instructions of a new thread, come to by the `ret` of [`switch`]. `rbp` is 0: backtraces end here.
#[unsafe(naked)]
unsafe extern "C" fn enter() {
    // Three words are left of the ten; a fourth makes the stack pointer a multiple of 16, as the ABI wants it before a call.
    naked_asm!("push rbp", "mov rdi, r15", "call r14", "ud2")
}
