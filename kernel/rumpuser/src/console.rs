//! The console.

/// The console: where the boot log goes, and where a person types.
pub trait Console: Sync {
    /// Writes all of `bytes`. A line feed is written as the terminal wants it. May block while
    /// the device drains; never fails: what cannot be written is lost with the console itself.
    fn write(&self, bytes: &[u8]);

    /// Takes the next byte typed, if there is one.
    fn read(&self) -> Option<u8>;

    /// Unparks `thread` whenever a byte becomes readable. A later call replaces an earlier one.
    fn listen(&self, thread: crate::ThreadId);
}
