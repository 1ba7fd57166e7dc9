//! The way out: the end of the process.

use rumpuser::ThreadId;
use std::io::Write;

/// exit(3) and abort(3).
pub(crate) struct Process;

impl rumpuser::Exit for Process {
    fn exit(&self, status: u8) -> ! {
        flush();
        std::process::exit(i32::from(status))
    }

    /// A process ends as its own program sees fit.
    fn is_asked(&self) -> bool {
        false
    }

    fn listen(&self, _: ThreadId) {}

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
