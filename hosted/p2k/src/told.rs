//! What the programs say on standard error besides their own errors: the kernel's log, and the requests of Linux.

use log::{Level, LevelFilter, Log, Metadata, Record};
use std::path::Path;
use std::sync::OnceLock;
use ukfs::Shown;

/// Where a line goes.
struct Told(OnceLock<fn(&str)>);

static TOLD: Told = Told(OnceLock::new());

/// Shows the kernel's errors from now on; with `verbose` 1 its warnings, with 2 information too, with 3 details and each request that
/// Linux makes of a mount. `say` puts a line on standard error.
pub fn start_log(verbose: u8, say: fn(&str)) {
    let level = match verbose {
        0 => LevelFilter::Error,
        1 => LevelFilter::Warn,
        2 => LevelFilter::Info,
        _ => LevelFilter::Trace,
    };
    if TOLD.0.set(say).is_ok() && log::set_logger(&TOLD).is_ok() {
        log::set_max_level(level);
    }
}

fn is_of_fuse(line: &Metadata<'_>) -> bool {
    line.target().starts_with("fuser")
}

impl Log for Told {
    fn enabled(&self, line: &Metadata<'_>) -> bool {
        // The FUSE library answers requests that Linux has taken back, and calls it an error that nobody wanted the answer. Its
        // details are the requests.
        let is_chatter = is_of_fuse(line) && line.level() < Level::Debug;
        line.level() <= log::max_level() && !is_chatter
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let whose = match is_of_fuse(record.metadata()) {
            true => "fuse",
            false => "kernel",
        };
        let mark = match record.level() {
            Level::Error | Level::Warn => "",
            Level::Info | Level::Debug | Level::Trace => "  ",
        };
        let text = record.args().to_string();
        if let Some(say) = self.0.get() {
            say(&format!("{whose}: {mark}{}", Shown(Path::new(&text))));
        }
    }

    fn flush(&self) {}
}
