//! Boot parameters: the loader's command line.

use spin::Once;

pub(crate) struct Params {
    command_line: Once<&'static [u8]>,
}

pub(crate) static PARAMS: Params = Params {
    command_line: Once::new(),
};

impl Params {
    pub(crate) fn init(&self, command_line: &'static [u8]) {
        self.command_line.call_once(|| command_line);
    }
}

impl rumpuser::Params for Params {
    fn command_line(&self) -> &[u8] {
        self.command_line.get().copied().unwrap_or_default()
    }
}
