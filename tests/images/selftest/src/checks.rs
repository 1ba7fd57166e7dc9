//! Checks of the machine: registers and red zones across interrupts, memory functions, memory, time, randomness.

use crate::say;
use core::arch::asm;
use core::sync::atomic::{AtomicUsize, Ordering};
use rumpuser::{Errno, PAGE_SIZE, host};
use rumpuser_baremetal::heap;
use rumpuser_baremetal::platform_x86_64::{clock, interrupt, pci, rtc};

/// Runs them all; a failed one panics.
pub fn run() {
    let checks: [(&str, fn()); 9] = [
        ("memory functions do as libc's", memory_functions),
        (
            "an interrupt leaves the red zone and every register alone",
            registers_across_an_interrupt,
        ),
        (
            "interrupts that come at any time leave the red zone and the SSE registers alone",
            red_zone_under_fire,
        ),
        ("the kernel's memory is RAM that nobody else has", memory),
        ("the heap gives back what was freed", heap_is_reusable),
        (
            "the clock goes on, at the rate of the battery-backed one",
            clock_goes_on,
        ),
        ("random bytes are random, or refused", random),
        ("vectors run out and come back", vectors),
        ("PCI functions are found once each", pci_functions),
    ];
    for (name, check) in checks {
        check();
        say!("ok {name}");
    }
    say!(
        "memcpy {} MB/s, rep movsb {} MB/s",
        copy_rate(copy),
        copy_rate(copy_by_string)
    );
}

unsafe extern "C" {
    fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
    fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
    fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8;
    fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32;
}

const SPAN: usize = 400;

fn pattern() -> [u8; SPAN] {
    core::array::from_fn(|i| (i * 7 + i / 251) as u8)
}

fn memory_functions() {
    // Lengths around each of the block sizes, at every distance that overlaps in another way.
    let lengths = (0..=70).chain([95, 96, 97, 127, 128, 129, 160, 191, 192, 193, 200]);
    for len in lengths {
        for (from, to) in [
            (100, 100),
            (100, 101),
            (101, 100),
            (100, 115),
            (115, 100),
            (100, 163),
            (163, 100),
            (0, 200),
            (200, 0),
        ] {
            let mut bytes = pattern();
            let mut wanted = pattern();
            for i in 0..len {
                core::hint::black_box(&mut wanted)[to + i] = pattern()[from + i];
            }
            let base = bytes.as_mut_ptr();
            // SAFETY: both ranges lie in the array; they may overlap.
            let moved = unsafe { memmove(base.wrapping_add(to), base.wrapping_add(from), len) };
            assert_eq!(moved, base.wrapping_add(to));
            assert!(
                bytes == wanted,
                "memmove of {len} bytes from {from} to {to}"
            );
        }
        check_copy_set_compare(len);
    }
}

fn check_copy_set_compare(len: usize) {
    for offset in [0, 1, 9] {
        let source = pattern();
        let mut bytes = [0xee; SPAN];
        // SAFETY: inside of two different arrays.
        unsafe {
            memcpy(
                bytes.as_mut_ptr().wrapping_add(offset),
                source.as_ptr().wrapping_add(3),
                len,
            )
        };
        for i in 0..SPAN {
            let inside = (offset..offset + len).contains(&i);
            assert_eq!(
                bytes[i],
                if inside { source[3 + i - offset] } else { 0xee },
                "memcpy of {len} at {offset}"
            );
        }
        // SAFETY: inside of the array.
        unsafe { memset(bytes.as_mut_ptr().wrapping_add(offset), 0x1a5, len) };
        for (i, byte) in bytes.iter().enumerate() {
            let inside = (offset..offset + len).contains(&i);
            assert_eq!(
                *byte,
                if inside { 0xa5 } else { 0xee },
                "memset of {len} at {offset}"
            );
        }
        let mut other = source;
        // SAFETY: inside of two different arrays.
        let same = unsafe {
            memcmp(
                source.as_ptr().wrapping_add(offset),
                other.as_ptr().wrapping_add(offset),
                len,
            )
        };
        assert_eq!(same, 0);
        if len > 0 {
            other[offset + len - 1] ^= 0x80;
            // SAFETY: as above.
            let differs = unsafe {
                memcmp(
                    source.as_ptr().wrapping_add(offset),
                    other.as_ptr().wrapping_add(offset),
                    len,
                )
            };
            assert_eq!(
                differs < 0,
                source[offset + len - 1] < other[offset + len - 1],
                "memcmp of {len}"
            );
        }
    }
}

static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);

/// A handler that destroys whatever it may.
fn destroy(argument: usize) {
    INTERRUPTS.fetch_add(argument, Ordering::Relaxed);
    // SAFETY: destroys registers that it says it destroys.
    unsafe {
        asm!(
            "pcmpeqd xmm0, xmm0", "pcmpeqd xmm1, xmm1", "pcmpeqd xmm7, xmm7", "pcmpeqd xmm8, xmm8", "pcmpeqd xmm15, xmm15",
            "mov rax, -1", "mov rcx, rax", "mov rdx, rax", "mov rsi, rax", "mov rdi, rax",
            "mov r8, rax", "mov r9, rax", "mov r10, rax", "mov r11, rax",
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("xmm0") _, out("xmm1") _, out("xmm7") _, out("xmm8") _, out("xmm15") _,
        );
    }
}

fn registers_across_an_interrupt() {
    let vector = interrupt::allocate(destroy, 1).expect("a free vector");
    macro_rules! raise {
        ($($number:literal)*) => {
            match vector.number() {
                $($number => raise_and_compare::<$number>(),)*
                other => say!("vector {other}: raised by no instruction of this check"),
            }
        };
    }
    let before = INTERRUPTS.load(Ordering::Relaxed);
    raise!(32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47);
    const ROUNDS: u64 = 5000;
    let start = clock::now_nanos();
    for _ in 0..ROUNDS {
        raise!(32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47);
    }
    say!(
        "an interrupt takes {} ns",
        (clock::now_nanos() - start) / ROUNDS
    );
    interrupt::release(vector);
    assert!(
        INTERRUPTS.load(Ordering::Relaxed) > before,
        "the handler was not called"
    );
}

/// Raises a vector with known values in the red zone and in the registers, and looks whether they are still there.
fn raise_and_compare<const VECTOR: u8>() {
    let broken: u64;
    // SAFETY: raises an interrupt whose handler returns; what the code itself changes it says.
    unsafe {
        asm!(
            "mov rax, 0x1111111111111111",
            // The red zone: 128 bytes below the stack pointer.
            "mov rcx, -128",
            "2: mov [rsp + rcx], rax", "add rcx, 8", "jnz 2b",
            "movq xmm0, rax", "movq xmm1, rax", "movq xmm7, rax", "movq xmm8, rax", "movq xmm15, rax",
            "mov rdx, rax", "mov rsi, rax", "mov rdi, rax", "mov r8, rax", "mov r9, rax", "mov r10, rax", "mov r11, rax",
            "mov rcx, rax",
            "int {vector}",
            "xor rcx, rax", "xor rdx, rax", "xor rsi, rax", "xor rdi, rax",
            "xor r8, rax", "xor r9, rax", "xor r10, rax", "xor r11, rax",
            "or rcx, rdx", "or rcx, rsi", "or rcx, rdi", "or rcx, r8", "or rcx, r9", "or rcx, r10", "or rcx, r11",
            "mov rdx, rcx",
            "movq rsi, xmm0", "xor rsi, rax", "or rdx, rsi",
            "movq rsi, xmm1", "xor rsi, rax", "or rdx, rsi",
            "movq rsi, xmm7", "xor rsi, rax", "or rdx, rsi",
            "movq rsi, xmm8", "xor rsi, rax", "or rdx, rsi",
            "movq rsi, xmm15", "xor rsi, rax", "or rdx, rsi",
            "mov rcx, -128",
            "3: mov rsi, [rsp + rcx]", "xor rsi, rax", "or rdx, rsi", "add rcx, 8", "jnz 3b",
            "mov rsi, 0x1111111111111111", "xor rsi, rax", "or rdx, rsi",
            vector = const VECTOR,
            out("rax") _, out("rcx") _, out("rdx") broken, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("xmm0") _, out("xmm1") _, out("xmm7") _, out("xmm8") _, out("xmm15") _,
        );
    }
    assert_eq!(broken, 0, "bits that changed");
}

fn red_zone_under_fire() {
    for round in 1..=200u64 {
        // The timer fires somewhere in the loop below.
        clock::arm(clock::now_nanos() + 20_000 + round * 100);
        let broken: u64;
        // SAFETY: writes to the red zone alone.
        unsafe {
            asm!(
                "movq xmm9, {value}",
                "2:",
                "mov [rsp - 8], {value}", "mov [rsp - 64], {value}", "mov [rsp - 128], {value}",
                "movq {a}, xmm9",
                "xor {a}, {value}", "or {broken}, {a}",
                "mov {a}, [rsp - 8]", "xor {a}, {value}", "or {broken}, {a}",
                "mov {a}, [rsp - 64]", "xor {a}, {value}", "or {broken}, {a}",
                "mov {a}, [rsp - 128]", "xor {a}, {value}", "or {broken}, {a}",
                "dec {count}", "jnz 2b",
                value = in(reg) round * 0x0101_0101_0101,
                a = out(reg) _,
                broken = inout(reg) 0u64 => broken,
                count = inout(reg) 5_000u64 => _,
                out("xmm9") _,
            );
        }
        assert_eq!(broken, 0, "bits that changed in round {round}");
    }
}

fn memory() {
    let regions = host().memory().regions();
    assert!(!regions.is_empty());
    let image = rumpuser_baremetal::platform_x86_64::image::bounds();
    for region in regions {
        let start = region.base.as_ptr().addr();
        let bytes = region.pages * PAGE_SIZE;
        assert!(start.is_multiple_of(PAGE_SIZE) && start >= 0x1_0000);
        assert!(
            start + bytes <= image.0 as usize || start >= image.1 as usize,
            "a region over the image"
        );
        for offset in [0, (bytes / 2) & !7, bytes - 8] {
            let word = region.base.as_ptr().wrapping_add(offset).cast::<u64>();
            // SAFETY: the kernel's memory, and there is no kernel.
            unsafe { word.write_volatile(0x0123_4567_89ab_cdef) };
            // SAFETY: as above.
            let read = unsafe { word.read_volatile() };
            assert_eq!(read, 0x0123_4567_89ab_cdef, "at {word:p}");
        }
    }
}

fn heap_is_reusable() {
    let layout = core::alloc::Layout::from_size_align(3 * PAGE_SIZE, PAGE_SIZE).expect("a layout");
    let before = heap::usage();
    for _ in 0..100 {
        let memory = heap::allocate_zeroed(layout).expect("host memory");
        assert!(memory.as_ptr().addr().is_multiple_of(PAGE_SIZE));
        // SAFETY: allocated just now, and used by nobody.
        unsafe { heap::free(memory, layout) };
    }
    assert_eq!(heap::usage(), before);
    let huge = core::alloc::Layout::from_size_align(1 << 40, 8).expect("a layout");
    assert_eq!(heap::allocate(huge), Err(Errno::ENOMEM));
}

fn clock_goes_on() {
    let (start, civil) = (clock::now_nanos(), rtc::read_civil_time());
    let mut last = start;
    for _ in 0..1000 {
        let now = clock::now_nanos();
        assert!(now >= last);
        last = now;
    }
    let Some(civil) = civil else { return };
    let wall = host().clock().wall();
    assert!(
        wall.seconds > 1_700_000_000 && (wall.seconds - civil).abs() <= 1,
        "{wall:?}"
    );
    // Time to measure the rate more exactly.
    crate::threads::sleep(core::time::Duration::from_millis(1200));
    if let Some((hz, source)) = clock::tsc_rate() {
        say!("counter at {hz} Hz ({source})");
    }
    // From one change of the second to the next.
    let edge = |mut from: i64| {
        let second = from;
        while from == second {
            from = rtc::read_civil_time().unwrap_or(from);
        }
        (from, clock::now_nanos())
    };
    let (second, first) = edge(rtc::read_civil_time().unwrap_or(civil));
    let (_, later) = edge(second);
    let error = (later - first).abs_diff(1_000_000_000);
    say!(
        "a second of the battery-backed clock is off by {} ppm",
        error / 1000
    );
    // A busy host may be late to show either second; a wrong rate is off by much more.
    assert!(
        error < 200_000_000,
        "a second of the battery-backed clock took {} ns",
        later - first
    );
}

fn random() {
    let random = host().random();
    let (mut a, mut b) = ([0u8; 37], [0u8; 37]);
    match random.fill(&mut a) {
        Err(Errno::ENXIO) => say!("no source of randomness"),
        Err(error) => panic!("{error}"),
        Ok(()) => {
            random.fill(&mut b).expect("again");
            assert!(a != b && a.iter().any(|byte| *byte != 0));
        }
    }
}

fn vectors() {
    let mut taken = [None; 256];
    let mut count = 0;
    while let Some(vector) = interrupt::allocate(destroy, 0) {
        assert!(!taken.contains(&Some(vector)));
        taken[count] = Some(vector);
        count += 1;
    }
    assert!(count > 64, "only {count} vectors");
    for vector in taken.into_iter().flatten() {
        interrupt::release(vector);
    }
    let again = interrupt::allocate(destroy, 0);
    assert_eq!(again, taken[0]);
    if let Some(vector) = again {
        interrupt::release(vector);
    }
}

fn pci_functions() {
    for function in pci::functions() {
        let same = pci::functions()
            .filter(|other| other.address() == function.address())
            .count();
        assert_eq!(same, 1);
        say!(
            "{}: {:04x}:{:04x} class {:06x}",
            function.address(),
            function.vendor(),
            function.device(),
            function.class()
        );
        for number in 0..6 {
            if let Some(bar) = function.bar(number) {
                say!("  BAR {number}: {bar:x?}");
            }
        }
    }
}

const COPIED: usize = 64 * 1024;

fn copy(to: *mut u8, from: *const u8) {
    // SAFETY: `copy_rate` gives that many bytes of both.
    unsafe { memcpy(to, from, COPIED) };
}

fn copy_by_string(to: *mut u8, from: *const u8) {
    // SAFETY: as above.
    unsafe {
        asm!("rep movsb", inout("rcx") COPIED => _, inout("rdi") to => _, inout("rsi") from => _)
    };
}

/// How fast `copy` is, in MB/s.
fn copy_rate(copy: fn(*mut u8, *const u8)) -> u64 {
    const ROUNDS: u64 = 200;
    let region = host()
        .memory()
        .regions()
        .iter()
        .max_by_key(|region| region.pages)
        .expect("memory");
    assert!(region.pages * PAGE_SIZE >= 2 * COPIED);
    let from = region.base.as_ptr();
    let start = clock::now_nanos();
    for _ in 0..ROUNDS {
        copy(from.wrapping_add(COPIED), from);
    }
    let nanos = clock::now_nanos() - start;
    ROUNDS * COPIED as u64 * 1000 / nanos.max(1)
}
