//! Lines of the boot log from below the hypercall line, in the form of the kernel's own.

use core::fmt::{self, Write};
use platform_x86_64::clock::now_nanos;
use platform_x86_64::uart;

struct Line;

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        uart::write(text.as_bytes());
        Ok(())
    }
}

/// Prints a line of the boot log, with the time since entry in front.
pub fn aprint(text: fmt::Arguments<'_>) {
    let micros = now_nanos() / 1000;
    // The console does not fail, and what fails to format has nobody to be told.
    let _ = writeln!(
        Line,
        "[{:4}.{:06}] {text}",
        micros / 1_000_000,
        micros % 1_000_000
    );
}

/// Prints a line of the boot log: `aprint!("{name} at pci0 dev {device}")`.
#[macro_export]
macro_rules! aprint {
    ($($argument:tt)*) => {
        $crate::aprint::aprint(::core::format_args!($($argument)*))
    };
}
