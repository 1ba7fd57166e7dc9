//! The report of the machine's end: what happened, where, and how it came there.

use crate::idt::Frame;
use crate::symbols::{Symbol, Symbols};
use crate::uart::emergency_print;
use crate::{exit, image, paging};
use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use x86_64::registers::control::{Cr0, Cr2, Cr3, Cr4};

/// No more frames than this are followed.
const MAX_FRAMES: usize = 40;

/// Says of an address what the platform does not know (whose stack it is), or of `None` who is running. `false` if there is
/// nothing to say.
pub type Describe = fn(&mut fmt::Formatter<'_>, Option<u64>) -> Result<bool, fmt::Error>;

/// A [`Describe`] by its address; 0 while there is none.
static DESCRIBE: AtomicUsize = AtomicUsize::new(0);
static REPORTING: AtomicBool = AtomicBool::new(false);

/// Has `describe` say more in reports.
pub fn set_describe(describe: Describe) {
    DESCRIBE.store(describe as usize, Ordering::Release);
}

/// What [`Describe`] says, in parentheses.
struct Description(Option<u64>);

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DESCRIBE.load(Ordering::Acquire) {
            0 => Ok(()),
            describe => {
                // SAFETY: `set_describe` stored it from a value of this very type.
                let describe = unsafe { core::mem::transmute::<usize, Describe>(describe) };
                describe(f, self.0).map(|_| ())
            }
        }
    }
}

/// Reports an exception and ends the machine. Called by the entries of exceptions alone.
pub(crate) extern "C" fn exception(frame: &Frame) -> ! {
    if REPORTING.swap(true, Ordering::AcqRel) {
        let (vector, rip) = (frame.vector, frame.rip);
        emergency_print(format_args!(
            "\nexception {vector} at {rip:#x} while reporting another\n"
        ));
        exit::exit(exit::EXCEPTION);
    }
    let cr2 = Cr2::read_raw();
    let about = Exception {
        vector: frame.vector,
        error: frame.error,
        address: cr2,
    };
    emergency_print(format_args!("\nfatal: {about}{}\n", Description(None)));
    print_registers(frame, cr2);
    emergency_print(format_args!("backtrace:\n"));
    print_place(frame.rip, frame.rip);
    if !is_code(frame.rip) {
        // A call led astray: the address to return to has been pushed, but no frame made.
        let back = read_word(frame.rsp).filter(|&back| is_code(back));
        back.inspect(|&back| print_place(back, back.wrapping_sub(1)));
    }
    print_callers(frame.rbp);
    exit::exit(exit::EXCEPTION)
}

/// Reports a panic and ends the machine.
pub fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if REPORTING.swap(true, Ordering::AcqRel) {
        emergency_print(format_args!(
            "\npanic while reporting: {}\n",
            info.message()
        ));
        exit::exit(exit::PANICKED);
    }
    emergency_print(format_args!("\n{info}{}\n", Description(None)));
    let rbp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
    emergency_print(format_args!("backtrace:\n"));
    print_callers(rbp);
    exit::exit(exit::PANICKED)
}

/// An exception in words.
struct Exception {
    vector: u64,
    error: u64,
    address: u64,
}

fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error (#DE)",
        1 => "debug exception (#DB)",
        2 => "non-maskable interrupt",
        3 => "breakpoint (#BP)",
        4 => "overflow (#OF)",
        5 => "bound range exceeded (#BR)",
        6 => "invalid opcode (#UD)",
        7 => "device not available (#NM)",
        8 => "double fault (#DF)",
        10 => "invalid TSS (#TS)",
        11 => "segment not present (#NP)",
        12 => "stack fault (#SS)",
        13 => "general protection fault (#GP)",
        14 => "page fault (#PF)",
        16 => "x87 floating-point error (#MF)",
        17 => "alignment check (#AC)",
        18 => "machine check (#MC)",
        19 => "SIMD floating-point error (#XM)",
        20 => "virtualization exception (#VE)",
        21 => "control protection exception (#CP)",
        28 => "hypervisor injection exception (#HV)",
        29 => "VMM communication exception (#VC)",
        30 => "security exception (#SX)",
        _ => "exception",
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exception {}, {}", self.vector, name(self.vector))?;
        match self.vector {
            14 => self.page_fault(f),
            // Zero means that no segment is to blame: a wrong address, register or instruction is.
            10..=13 if self.error != 0 => self.selector(f),
            _ => Ok(()),
        }
    }
}

impl Exception {
    /// The error code of a page fault (SDM volume 3A, "Page-Fault Exception").
    fn page_fault(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is = |bit: u32| self.error >> bit & 1 != 0;
        let access = match (is(4), is(1)) {
            (true, _) => "executing",
            (false, true) => "writing",
            (false, false) => "reading",
        };
        let why = match (is(3), is(0)) {
            (true, _) => "with a reserved bit set in its page tables",
            (false, true) if is(4) => "whose page is not executable",
            (false, true) => "whose page is protected",
            (false, false) => "which is not mapped",
        };
        write!(f, ": {access} {:#x}, {why}", self.address)?;
        if self.address < 0x1_0000 {
            f.write_str(" (a null pointer?)")?;
        }
        write!(f, "{}", Description(Some(self.address)))
    }

    /// The error code of the exceptions about a segment (SDM volume 3A, "Error Code").
    fn selector(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = match self.error >> 1 & 3 {
            0 => "GDT",
            2 => "LDT",
            _ => "IDT",
        };
        write!(f, ": {table} entry {}", self.error >> 3 & 0x1fff)
    }
}

fn print_registers(frame: &Frame, cr2: u64) {
    let Frame {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rbp,
        rsp,
        rip,
        rflags,
        cs,
        ss,
        error,
        ..
    } = *frame;
    let [r15, r14, r13, r12, r11, r10, r9, r8] = frame.high;
    emergency_print(format_args!(
        "  rax {rax:016x}  rbx {rbx:016x}  rcx {rcx:016x}  rdx {rdx:016x}\n  \
           rsi {rsi:016x}  rdi {rdi:016x}  rbp {rbp:016x}  rsp {rsp:016x}\n  \
           r8  {r8:016x}  r9  {r9:016x}  r10 {r10:016x}  r11 {r11:016x}\n  \
           r12 {r12:016x}  r13 {r13:016x}  r14 {r14:016x}  r15 {r15:016x}\n  \
           rip {rip:016x}  rflags {rflags:08x}  cs {cs:04x}  ss {ss:04x}  error {error:#x}\n"
    ));
    let (cr0, cr3, cr4) = (
        Cr0::read_raw(),
        Cr3::read().0.start_address().as_u64(),
        Cr4::read_raw(),
    );
    emergency_print(format_args!(
        "  cr0 {cr0:08x}  cr2 {cr2:016x}  cr3 {cr3:016x}  cr4 {cr4:08x}\n"
    ));
}

/// Prints the functions that are to be returned to, by the frame pointers from `rbp` on.
fn print_callers(mut rbp: u64) {
    for _ in 0..MAX_FRAMES {
        // A frame is the caller's frame pointer and, above it, the address to return to.
        let Some((caller, back)) = read_word(rbp).zip(read_word(rbp.wrapping_add(8))) else {
            break;
        };
        if back == 0 {
            break;
        }
        // The call is before the address to return to, which may already be another function's.
        print_place(back, back.wrapping_sub(1));
        rbp = caller;
    }
}

fn read_word(address: u64) -> Option<u64> {
    if !address.is_multiple_of(8) || !paging::is_mapped(address) {
        return None;
    }
    // SAFETY: mapped and aligned; a word that somebody may change is read whole.
    Some(unsafe { (address as *const u64).read_volatile() })
}

fn print_place(address: u64, inside: u64) {
    match symbol(inside) {
        Some(symbol) => emergency_print(format_args!("  {address:#018x} {symbol}\n")),
        None => emergency_print(format_args!("  {address:#018x}\n")),
    }
}

fn is_code(address: u64) -> bool {
    let text = image::text();
    (text.start..text.end).contains(&address)
}

/// The name of the function at `address`, if it is code of the image's and the image has its table.
pub fn symbol(address: u64) -> Option<Symbol<'static>> {
    if !is_code(address) {
        return None;
    }
    Symbols::parse(image::symbols(), image::text().start)?.find(address)
}
