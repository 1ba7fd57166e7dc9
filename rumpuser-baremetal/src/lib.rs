//! The hypercalls on bare metal.
#![no_std]

mod start;

pub use platform_x86_64;
pub use start::Status;
#[doc(hidden)]
pub use start::{panicked, started};

/// Makes `main` the entry of an image: `fn main() -> impl Status`.
///
/// The image's crate is `#![no_std]` and `#![no_main]`, and its build script calls `rumpuser_baremetal_image::link`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        const _: () = {
            #[unsafe(no_mangle)]
            fn machine_main(
                boot_info: &'static mut $crate::platform_x86_64::bootloader_api::BootInfo,
                command_line: &'static [u8],
            ) -> ! {
                $crate::started(boot_info, command_line, || $crate::Status::status($main()))
            }

            #[panic_handler]
            fn panic(info: &::core::panic::PanicInfo<'_>) -> ! {
                $crate::panicked(info)
            }

            // The standard `alloc` library, built with unwinding, refers to both; with `panic = "abort"` nobody calls them.
            #[unsafe(no_mangle)]
            extern "C" fn rust_eh_personality() {}
            #[unsafe(no_mangle)]
            extern "C" fn _Unwind_Resume() {}
        };
    };
}
