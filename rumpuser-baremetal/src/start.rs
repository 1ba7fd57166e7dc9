//! From the machine's entry to the image's `main`, and the way out.

use crate::heap::{self, Pieces};
use crate::{aprint, clock, host, memory, params, threads, virtio};
use core::alloc::Layout;
use core::panic::PanicInfo;
use core::ptr::NonNull;
use platform_x86_64::bootloader_api::BootInfo;
use platform_x86_64::{cpu, exit, machine, report, uart};
use rumpuser::{Errno, PAGE_SIZE};

/// What an image's `main` may return: how the machine ends.
pub trait Status {
    /// 0 for success, up to 127.
    fn status(self) -> u8;
}

impl Status for () {
    fn status(self) -> u8 {
        0
    }
}

impl Status for u8 {
    fn status(self) -> u8 {
        self
    }
}

impl<T: Status> Status for Result<T, Errno> {
    fn status(self) -> u8 {
        match self {
            Ok(value) => value.status(),
            Err(error) => {
                aprint!("main: {error}");
                exit::FAILURE
            }
        }
    }
}

/// Starts the host, runs `main` in the first thread, ends the machine. Called by [`entry!`](crate::entry) alone.
pub fn started(
    boot_info: &'static mut BootInfo,
    command_line: &'static [u8],
    main: fn() -> u8,
) -> ! {
    if let Err(reason) = start(boot_info, command_line) {
        uart::emergency_print(format_args!("cannot start: {reason}\n"));
        exit::exit(exit::FAILURE);
    }
    exit::exit(main())
}

/// Reports a panic and ends the machine. Called by [`entry!`](crate::entry) alone.
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    report::panic(info)
}

/// A zeroed page for a page table.
fn page_table<T>() -> Option<NonNull<T>> {
    let layout = Layout::from_size_align(PAGE_SIZE, PAGE_SIZE).ok()?;
    heap::allocate_zeroed(layout).ok().map(NonNull::cast)
}

fn start(boot_info: &'static BootInfo, command_line: &'static [u8]) -> Result<(), &'static str> {
    let regions = &boot_info.memory_regions;
    let pieces = Pieces::choose(regions, boot_info.kernel_addr + boot_info.kernel_len);
    // SAFETY: once; the pieces are RAM that the boot information calls usable, and `memory` leaves them out.
    unsafe { heap::init(&pieces) };
    report::set_describe(threads::describe);
    // SAFETY: once, from the entry thread, with what the loader said of this machine.
    let machine = unsafe { machine::init(boot_info, page_table, threads::timer_fired) };
    machine.map_err(|_| "no memory for page tables, or no interrupt controller")?;
    memory::MEMORY.init(regions, &pieces);
    clock::CLOCK.init();
    params::PARAMS.init(command_line);
    threads::init().map_err(|_| "no memory for threads")?;
    announce(&pieces);
    virtio::init(command_line);
    machine::enable_interrupts();
    rumpuser::install(&host::HOST).map_err(|_| "there is a host already")
}

/// The first lines of the boot log.
fn announce(heap: &Pieces) {
    let kib = |bytes: u64| bytes / 1024;
    let (start, end) = platform_x86_64::image::bounds();
    let pages = memory::MEMORY.pages() as u64 * PAGE_SIZE as u64;
    aprint!(
        "memory: {} KB for the kernel, {} KB for its host, image {} KB",
        kib(pages),
        kib(heap.bytes()),
        kib(end - start)
    );
    if let Some((hz, source)) = platform_x86_64::clock::tsc_rate() {
        let random = if platform_x86_64::random::available() {
            ""
        } else {
            ", no random numbers"
        };
        let (apic, timer) = (cpu::features().x2apic, cpu::features().tsc_deadline);
        let apic = if apic { "x2apic" } else { "apic" };
        let timer = if timer { "deadline" } else { "one-shot" };
        aprint!(
            "cpu0 at mainbus0: {apic}, {timer} timer, counter at {} MHz ({source}){random}",
            hz / 1_000_000
        );
    }
}
