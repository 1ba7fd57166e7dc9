//! Soft interrupts: work that is put off to a thread (softint(9)).
//!
//! One thread per kernel runs the handlers, in the order in which they were scheduled. A handler that is
//! scheduled again while pending runs once; one that is scheduled while it runs, runs again.

use crate::kernel::Kernel;
use crate::locks::{Condvar, LockClass, Mutex};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use rumpuser::Errno;

static SOFTINT_CLASS: LockClass = LockClass {
    name: "softint",
    rank: 910,
};

/// The most soft interrupts of one kernel.
const MAX_SOFTINTS: usize = 256;

struct Handler {
    name: &'static str,
    pending: AtomicBool,
    run: alloc::boxed::Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Arc<Handler>>,
    established: usize,
    stopped: bool,
}

/// The soft interrupts of a kernel.
pub(crate) struct SoftintQueue {
    state: Mutex<State>,
    changed: Condvar,
}

/// A soft interrupt. Dropping it disestablishes it; what is pending then still runs once.
pub struct Softint {
    queue: Arc<SoftintQueue>,
    handler: Arc<Handler>,
}

impl Softint {
    /// Establishes a handler (softint_establish).
    ///
    /// # Errors
    /// `ENOMEM` beyond 256 of them.
    pub fn establish(
        kernel: &Arc<Kernel>,
        name: &'static str,
        run: impl Fn() + Send + Sync + 'static,
    ) -> Result<Softint, Errno> {
        let queue = kernel.softints().clone();
        let handler = Arc::new(Handler {
            name,
            pending: AtomicBool::new(false),
            run: alloc::boxed::Box::new(run),
        });
        let mut state = queue.state.lock();
        if state.established == MAX_SOFTINTS {
            return Err(Errno::ENOMEM);
        }
        state.established += 1;
        // Each is in the queue once at most, so scheduling never allocates. One that was dropped while
        // pending may still be in it.
        let room = state.established + state.ready.len();
        state.ready.reserve(room);
        drop(state);
        Ok(Softint { queue, handler })
    }

    /// Makes the handler run soon (softint_schedule).
    pub fn schedule(&self) {
        if self.handler.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut state = self.queue.state.lock();
        state.ready.push_back(self.handler.clone());
        self.queue.changed.notify_one();
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.handler.name
    }
}

impl Drop for Softint {
    fn drop(&mut self) {
        self.queue.state.lock().established -= 1;
    }
}

impl SoftintQueue {
    pub(crate) fn new() -> Arc<SoftintQueue> {
        Arc::new(SoftintQueue {
            state: Mutex::with_class(State::default(), &SOFTINT_CLASS),
            changed: Condvar::new(),
        })
    }

    /// The softint thread.
    pub(crate) fn run(&self) {
        let mut state = self.state.lock();
        while !state.stopped {
            let Some(handler) = state.ready.pop_front() else {
                state = self.changed.wait(state);
                continue;
            };
            drop(state);
            // Before it runs: what is scheduled from now on wants another run.
            handler.pending.store(false, Ordering::Release);
            (handler.run)();
            drop(handler);
            state = self.state.lock();
        }
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        let pending = {
            let mut state = self.state.lock();
            state.stopped = true;
            core::mem::take(&mut state.ready)
        };
        self.changed.notify_one();
        drop(pending);
    }
}
