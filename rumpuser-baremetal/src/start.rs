//! From the machine's entry to the image's `main`, and the way out.

use core::panic::PanicInfo;
use platform_x86_64::bootloader_api::BootInfo;
use platform_x86_64::{exit, uart};
use rumpuser::Errno;

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
                uart::emergency_print(format_args!("main: {error}\n"));
                exit::FAILURE
            }
        }
    }
}

/// Starts the host, runs `main`, ends the machine.
pub fn started(
    _boot_info: &'static mut BootInfo,
    _command_line: &'static [u8],
    main: fn() -> u8,
) -> ! {
    exit::exit(main())
}

/// Reports a panic and ends the machine.
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    uart::emergency_print(format_args!("{info}\n"));
    exit::exit(exit::PANICKED)
}
