//! Parameters: the command line of the calling thread's machine.

use crate::world;

/// The machine's command line.
pub(crate) struct CommandLine;

impl rumpuser::Params for CommandLine {
    fn command_line(&self) -> &[u8] {
        world::try_with(|world| world.machine().command_line).unwrap_or_default()
    }
}
