//! The way out.

/// Ending everything.
pub trait Exit: Sync {
    /// Ends the host: the process, or the machine. `status` 0 is success; others are passed on as
    /// the host can (a process its low eight bits; QEMU through `isa-debug-exit` 0 to 127).
    fn exit(&self, status: u8) -> !;

    /// Ends the host after a bug: what is in the console's buffers is written, and the status
    /// is a failure's. `rumpuser_exit(RUMPUSER_PANIC)` of NetBSD.
    fn panic(&self) -> !;
}
