//! Faults, each of which ends the machine with a report that the harness outside reads.

use crate::say;
use core::arch::asm;
use core::hint::black_box;
use rumpuser::{ThreadMain, ThreadSpec, host};
use rumpuser_baremetal::platform_x86_64::paging;

/// Does what is called `name`. Returns only if that did not end the machine.
pub fn crash(name: &str) {
    match name {
        "panic" => panic!("on purpose"),
        "null" => read(0x10),
        "unmapped" => read(0x7000_0000_0000),
        "text" => write(crash as *const () as usize),
        "rodata" => write(CONSTANT.as_ptr().addr()),
        "execute-data" => execute(VARIABLE.as_ptr().addr()),
        "execute-ram" => execute(host().memory().regions()[0].base.as_ptr().addr()),
        "invalid" => invalid_opcode(),
        "divide" => divide(),
        "general" => read(0x8000_0000_0000_0000),
        "breakpoint" => breakpoint(),
        "double" => double_fault(),
        "stack" => {
            black_box(deep(1));
        }
        "thread-stack" => in_thread(|_| {
            black_box(deep(1));
        }),
        "thread-panic" => in_thread(|_| panic!("in a thread")),
        _ => say!("no fault is called {name}"),
    }
    say!("survived {name}");
}

static CONSTANT: [u64; 4] = [0xc3c3_c3c3_c3c3_c3c3; 4];
static VARIABLE: [core::sync::atomic::AtomicU64; 4] =
    [const { core::sync::atomic::AtomicU64::new(0xc3c3_c3c3_c3c3_c3c3) }; 4];

fn read(address: usize) {
    // SAFETY: meant to fault.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _) };
}

fn write(address: usize) {
    // SAFETY: meant to fault.
    unsafe { asm!("mov qword ptr [{0}], 0", in(reg) address) };
}

fn execute(address: usize) {
    // SAFETY: meant to fault; where it does not, the code there returns at once.
    unsafe { asm!("call {0}", in(reg) address, clobber_abi("C")) };
}

fn invalid_opcode() {
    // SAFETY: meant to fault.
    unsafe { asm!("ud2") };
}

fn breakpoint() {
    // SAFETY: meant to fault.
    unsafe { asm!("int3") };
}

fn divide() {
    // SAFETY: meant to fault.
    unsafe { asm!("div {0:e}", in(reg) 0u32, inout("eax") 1u32 => _, inout("edx") 0u32 => _) };
}

/// Faults when there is no stack for exceptions: the top page of the first stack of the interrupt stack table is taken out.
fn double_fault() {
    let mut gdt = [0u8; 10];
    let task: u64;
    // SAFETY: stores ten bytes.
    unsafe { asm!("sgdt [{}]", in(reg) gdt.as_mut_ptr()) };
    // SAFETY: reads a register.
    unsafe { asm!("str {0:x}", "movzx {0:e}, {0:x}", out(reg) task) };
    let table = u64::from_le_bytes(gdt[2..].try_into().expect("eight bytes"));
    // SAFETY: the descriptor that the task register names, of 16 bytes; the processor reads it there too.
    let descriptor = unsafe { ((table + task) as *const [u64; 2]).read_unaligned() };
    // SDM volume 3A, "TSS Descriptor in 64-bit Mode"; the first stack is at offset 36 of the segment.
    let low = (descriptor[0] >> 16 & 0xff_ffff) | (descriptor[0] >> 56 << 24);
    let segment = low | descriptor[1] << 32;
    // SAFETY: inside the task state segment.
    let top = unsafe { ((segment + 36) as *const u64).read_unaligned() };
    // SAFETY: what is meant to fault is that nobody can use the page.
    let taken = unsafe { paging::guard(top - 4096) };
    assert_eq!(taken, Ok(()));
    read(0x10);
}

/// Uses up the stack.
#[inline(never)]
fn deep(depth: u64) -> u64 {
    let frame = black_box([depth; 32]);
    if depth == u64::MAX {
        return frame[0];
    }
    deep(black_box(depth + 1)) + frame[31]
}

fn in_thread(entry: fn(usize)) {
    let spec = ThreadSpec {
        name: "victim",
        stack_bytes: 0,
    };
    host()
        .threads()
        .spawn(spec, ThreadMain { entry, argument: 0 })
        .expect("a thread");
    host().threads().park(None);
}
