//! The hypercalls on bare metal: a [`rumpuser::Host`] on the machine of `platform_x86_64` and the devices of `platform_virtio`.
//!
//! An image is a program with [`entry!`] and a build script of one line (`rumpuser_baremetal_image`):
//!
//! ```text
//! #![no_std]
//! #![no_main]
//! rumpuser_baremetal::entry!(main);
//! fn main() { … }
//! ```
//!
//! Its `main` runs in the first thread, with the host installed. When it returns the machine ends.
//!
//! - `start`: bringing the host up, in order.
//! - `threads`: cooperative, round robin, on one processor; waiting without a tick.
//! - [`heap`]: what the host needs for itself; `memory`: what is left, for the kernel.
//! - `virtio`: finding devices and leading their interrupts; `bio`, `net` and `entropy` are on them.
//! - The other modules bear the names of `rumpuser`'s and do what those say.
//!
//! Locks: each module's is a leaf, held with interrupts off. An interrupt's handler records and unparks, no more.
#![no_std]

pub mod aprint;
mod bio;
mod clock;
mod console;
mod entropy;
mod exit;
pub mod heap;
mod host;
mod memory;
mod net;
mod params;
mod random;
mod start;
pub mod threads;
mod virtio;

pub use platform_x86_64;
pub use start::Status;
#[doc(hidden)]
pub use start::{panicked, started};

/// Makes `main` the entry of an image: `fn main() -> impl Status`.
///
/// Defines what no library may: the panic handler, and the two symbols of the unwinder that is not there.
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
