//! Tests the machine and the host from inside.
//!
//! The command line says what to do: nothing, and every check of `checks` and `threads` runs; `crash=NAME`, and the machine ends by the
//! fault of that name (`crash`), whose report the harness outside reads; `idle=SECONDS`, and it waits; `echo`, and it answers what is
//! typed until a line says `end`; `button`, and it ends when the power button is pressed; `chatter=LINES`, and it prints so many numbered lines.
#![no_std]
#![no_main]

mod checks;
mod crash;
mod threads;

use core::fmt::{self, Write};
use core::time::Duration;
use rumpuser::host;

rumpuser_baremetal::entry!(main);

/// The console, for `write!`.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        host().console().write(text.as_bytes());
        Ok(())
    }
}

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        // The console does not fail.
        let _ = writeln!($crate::Console, $($argument)*);
    }};
}

fn main() {
    let line = core::str::from_utf8(host().params().command_line()).unwrap_or_default();
    for word in line.split_ascii_whitespace() {
        match word.split_once('=') {
            Some(("crash", name)) => return crash::crash(name),
            Some(("idle", seconds)) => return idle(seconds.parse().unwrap_or(1)),
            Some(("chatter", lines)) => return chatter(lines.parse().unwrap_or(1)),
            _ if word == "echo" => return echo(),
            _ if word == "button" => return button(),
            _ => say!("unknown word {word}"),
        }
    }
    checks::run();
    threads::run();
    say!("all checks passed");
}

fn idle(seconds: u64) {
    say!("idle");
    threads::sleep(Duration::from_secs(seconds));
    say!("done");
}

fn chatter(lines: u32) {
    for line in 0..lines {
        say!("line {line}, which goes on for a while so that the device's buffers fill up");
    }
}

fn button() {
    let exit = host().exit();
    exit.listen(host().threads().current());
    say!("press");
    while !exit.is_asked() {
        host().threads().park(None);
    }
    say!("pressed");
}

fn echo() {
    let console = host().console();
    console.listen(host().threads().current());
    say!("type");
    let mut line = [0; 16];
    let mut len = 0;
    loop {
        let Some(byte) = console.read() else {
            host().threads().park(None);
            continue;
        };
        if byte != b'\r' && byte != b'\n' {
            line[len % line.len()] = byte;
            len += 1;
            continue;
        }
        let text = core::str::from_utf8(&line[..len.min(line.len())]).unwrap_or("?");
        say!("got {text}");
        if text == "end" {
            return;
        }
        len = 0;
    }
}
