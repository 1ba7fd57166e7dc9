//! The console: standard error for what the kernel says, standard input for what a person types.

use rumpuser::ThreadId;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Mutex, Once, PoisonError};

/// Bytes typed ahead that are kept; more make the reader wait, and so the terminal's own line buffer.
const TYPE_AHEAD: usize = 4096;

#[derive(Default)]
struct Input {
    typed: VecDeque<u8>,
    listener: Option<ThreadId>,
}

static INPUT: Mutex<Option<Input>> = Mutex::new(None);

/// Standard error and standard input.
pub(crate) struct Terminal {
    reader: Once,
}

impl Terminal {
    pub(crate) fn new() -> Terminal {
        Terminal {
            reader: Once::new(),
        }
    }
}

impl rumpuser::Console for Terminal {
    fn write(&self, bytes: &[u8]) {
        // The contract: what cannot be written is lost with the console itself.
        let _ = std::io::stderr().write_all(bytes);
    }

    fn read(&self) -> Option<u8> {
        with_input(|input| input.typed.pop_front())
    }

    /// Standard input is read from the first call on, so that a kernel which never listens leaves
    /// it to the program.
    fn listen(&self, thread: ThreadId) {
        with_input(|input| input.listener = Some(thread));
        self.reader.call_once(|| {
            let builder = std::thread::Builder::new().name("console".into());
            if builder.spawn(read_stdin).is_err() {
                let _ = std::io::stderr().write_all(b"console: no thread to read standard input\n");
            }
        });
    }
}

fn with_input<R>(f: impl FnOnce(&mut Input) -> R) -> R {
    let mut input = INPUT.lock().unwrap_or_else(PoisonError::into_inner);
    f(input.get_or_insert_with(Input::default))
}

fn read_stdin() {
    let mut buffer = [0; 256];
    let mut stdin = std::io::stdin().lock();
    while let Ok(count @ 1..) = stdin.read(&mut buffer) {
        while with_input(|input| input.typed.len() + count > TYPE_AHEAD) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let listener = with_input(|input| {
            input.typed.extend(&buffer[..count]);
            input.listener
        });
        if let (Some(thread), Some(host)) = (listener, rumpuser::try_host()) {
            host.threads().unpark(thread);
        }
    }
}
