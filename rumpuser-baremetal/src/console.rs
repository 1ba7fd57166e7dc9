//! The console: the serial port.

use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU64, Ordering};
use platform_x86_64::uart;
use rumpuser::{ThreadId, Threads};

use crate::threads::THREADS;

pub(crate) struct Console;

pub(crate) static CONSOLE: Console = Console;

/// Number of the thread that wants to know of input; 0 for none.
static LISTENER: AtomicU64 = AtomicU64::new(0);

fn readable() {
    if let Some(thread) = NonZeroU64::new(LISTENER.load(Ordering::Acquire)) {
        THREADS.unpark(ThreadId::new(thread));
    }
}

impl rumpuser::Console for Console {
    fn write(&self, bytes: &[u8]) {
        uart::write(bytes);
    }

    fn read(&self) -> Option<u8> {
        uart::read()
    }

    fn listen(&self, thread: ThreadId) {
        LISTENER.store(thread.get(), Ordering::Release);
        uart::on_readable(readable);
    }
}
