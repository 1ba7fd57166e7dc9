//! The console log: `[   0.123456] text`, time since the host's entry in front.
//!
//! Behind the `log` crate's macros, and [`aprint!`](crate::aprint) for boot lines. A line
//! is put together on the stack and written in one piece, so lines of several threads do not mix, and
//! logging allocates nothing: it must work when there is no memory.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use log::{Level, LevelFilter, Log, Metadata, Record};
use rumpuser::try_host;

/// Longer lines are written in several pieces.
const LINE: usize = 240;

struct Logger;

static LOGGER: Logger = Logger;
static OURS: AtomicBool = AtomicBool::new(false);
/// The level, as a number of `LevelFilter`'s.
static LEVEL: AtomicUsize = AtomicUsize::new(LevelFilter::Info as usize);

/// Makes the console the log of the process, unless the program has one of its own already, and sets
/// what is logged.
pub fn install(level: LevelFilter) {
    if log::set_logger(&LOGGER).is_ok() {
        OURS.store(true, Ordering::Relaxed);
    }
    LEVEL.store(level as usize, Ordering::Relaxed);
    if OURS.load(Ordering::Relaxed) {
        log::set_max_level(level);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let mark = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "WARNING: ",
            Level::Info | Level::Debug | Level::Trace => "",
        };
        print(mark, *record.args());
    }

    fn flush(&self) {}
}

/// A line on its way to the console.
struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl Line {
    fn flush(&mut self) {
        if let Some(host) = try_host() {
            host.console().write(&self.bytes[..self.len]);
        }
        self.len = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.len == LINE {
                self.flush();
            }
            self.bytes[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

/// Prints a line with the time in front.
pub fn print(mark: &str, text: fmt::Arguments<'_>) {
    let Some(host) = try_host() else {
        return;
    };
    let micros = host.clock().now().as_nanos() / 1000;
    let mut line = Line {
        bytes: [0; LINE],
        len: 0,
    };
    // Writing to a Line cannot fail; a value's own formatting that does leaves the line short.
    let _ = writeln!(
        line,
        "[{:4}.{:06}] {mark}{text}",
        micros / 1_000_000,
        micros % 1_000_000
    );
    line.flush();
}

/// Whether boot lines are shown: at `loglevel=info`, the default, and above.
pub fn shows_boot_lines() -> bool {
    LEVEL.load(Ordering::Relaxed) >= LevelFilter::Info as usize
}

/// Prints a boot line in the style of autoconf (aprint_normal(9)): unless `loglevel=` is below `info`, and whatever
/// logger the program has.
#[macro_export]
macro_rules! aprint {
    ($($argument:tt)*) => {
        if $crate::logger::shows_boot_lines() {
            $crate::logger::print("", ::core::format_args!($($argument)*));
        }
    };
}
