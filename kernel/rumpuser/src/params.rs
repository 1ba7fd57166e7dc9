//! Boot parameters.

/// Boot parameters: the kernel's command line on bare metal, what the program chose in a process.
pub trait Params: Sync {
    /// The parameters as one line: words separated by blanks, `KEY=VALUE` or `KEY`. Bytes, since a
    /// boot loader promises no encoding.
    fn command_line(&self) -> &[u8];
}
