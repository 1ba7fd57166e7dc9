//! The way out, and the power button, which asks for it.

use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU64, Ordering};
use platform_x86_64::power_button;
use rumpuser::{ThreadId, Threads};

use crate::aprint;
use crate::threads::{THREADS, deepest};

pub(crate) struct Exit;

pub(crate) static EXIT: Exit = Exit;

/// Number of the thread that wants to know of the button; 0 for none.
static LISTENER: AtomicU64 = AtomicU64::new(0);

fn pressed() {
    if let Some(thread) = NonZeroU64::new(LISTENER.load(Ordering::Acquire)) {
        THREADS.unpark(ThreadId::new(thread));
    }
}

impl rumpuser::Exit for Exit {
    /// Says first how much was left of the stacks: one that is full ends everything, wherever it is.
    fn exit(&self, status: u8) -> ! {
        let deepest = deepest();
        aprint!(
            "stacks: thread {:?} used most, {} of {} bytes",
            deepest.name(),
            deepest.used,
            deepest.bytes
        );
        platform_x86_64::exit::exit(status)
    }

    fn is_asked(&self) -> bool {
        power_button::is_pressed()
    }

    fn listen(&self, thread: ThreadId) {
        LISTENER.store(thread.get(), Ordering::Release);
        power_button::on_press(pressed);
    }

    fn panic(&self) -> ! {
        platform_x86_64::exit::exit(platform_x86_64::exit::PANICKED)
    }
}
