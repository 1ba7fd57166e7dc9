//! Boot parameters: the loader's command line.

use crate::heap;
use platform_virtio::transport::mmio::Announced;
use spin::Once;

pub(crate) struct Params {
    command_line: Once<&'static [u8]>,
}

pub(crate) static PARAMS: Params = Params {
    command_line: Once::new(),
};

impl Params {
    pub(crate) fn init(&self, command_line: &'static [u8]) {
        self.command_line
            .call_once(|| without_windows(command_line));
    }
}

/// The command line without the words that are the host's own: blanks are in their place. A machine without memory
/// for that shows them to the kernel, which will say that it does not know them.
fn without_windows(command_line: &'static [u8]) -> &'static [u8] {
    let words = || command_line.split(u8::is_ascii_whitespace);
    if !words().any(Announced::is) {
        return command_line;
    }
    let Ok(copy) = heap::place_slice(command_line.len(), |index| command_line[index]) else {
        return command_line;
    };
    for word in copy.split_mut(u8::is_ascii_whitespace) {
        if Announced::is(word) {
            word.fill(b' ');
        }
    }
    copy
}

impl rumpuser::Params for Params {
    fn command_line(&self) -> &[u8] {
        self.command_line.get().copied().unwrap_or_default()
    }
}
