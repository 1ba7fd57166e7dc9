//! Faults, each of which ends the machine with a report that the harness outside reads.

use crate::say;
use core::arch::asm;
use core::hint::black_box;
use rumpuser::{ThreadMain, ThreadSpec, host};

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
