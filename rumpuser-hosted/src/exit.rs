//! The way out: the end of the process.

use std::io::Write;

/// exit(3) and abort(3).
pub(crate) struct Process;

impl rumpuser::Exit for Process {
    fn exit(&self, status: u8) -> ! {
        flush();
        std::process::exit(i32::from(status))
    }

    fn panic(&self) -> ! {
        flush();
        std::process::abort()
    }
}

fn flush() {
    // Nothing can be done, or said, about an error output that is gone.
    let _ = std::io::stderr().flush();
    let _ = std::io::stdout().flush();
}
