//! Boot parameters: what the program chose.

/// The parameters, as one line.
pub(crate) struct CommandLine(Vec<u8>);

impl CommandLine {
    pub(crate) fn new(line: Vec<u8>) -> CommandLine {
        CommandLine(line)
    }
}

impl rumpuser::Params for CommandLine {
    fn command_line(&self) -> &[u8] {
        &self.0
    }
}
