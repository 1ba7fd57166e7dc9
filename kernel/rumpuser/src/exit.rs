//! The way out.

use crate::ThreadId;

/// Ending everything.
pub trait Exit: Sync {
    /// Ends the host: the process, or the machine. `status` 0 is success; others are passed on as
    /// the host can (a process its low eight bits; QEMU through `isa-debug-exit` 0 to 127).
    fn exit(&self, status: u8) -> !;

    /// Whether somebody outside has asked for the end in order: a machine's power button was pressed. Once asked, for ever.
    /// A host whose end is its own program's affair is never asked.
    fn is_asked(&self) -> bool;

    /// Unparks `thread` when [`is_asked`](Exit::is_asked) becomes true; at once if it is. A later call replaces an earlier one.
    fn listen(&self, thread: ThreadId);

    /// Ends the host after a bug: what is in the console's buffers is written, and the status
    /// is a failure's. `rumpuser_exit(RUMPUSER_PANIC)` of NetBSD.
    fn panic(&self) -> !;
}
