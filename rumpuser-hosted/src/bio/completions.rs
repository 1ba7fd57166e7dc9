//! Finished requests, and whom to tell.

use rumpuser::{BioDone, Errno, ThreadId};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

#[derive(Default)]
struct State {
    done: VecDeque<BioDone>,
    in_flight: usize,
    listener: Option<ThreadId>,
}

/// Counts what is in flight, keeps what has finished, wakes the listener.
#[derive(Default)]
pub(super) struct Completions(Mutex<State>);

impl Completions {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for one more request; `EAGAIN` if `depth` are taken. A place is free again
    /// when its completion is reaped.
    pub(super) fn enter(&self, depth: usize) -> Result<(), Errno> {
        let mut state = self.state();
        if state.in_flight >= depth {
            return Err(Errno::EAGAIN);
        }
        state.in_flight += 1;
        Ok(())
    }

    pub(super) fn finish(&self, done: BioDone) {
        let listener = {
            let mut state = self.state();
            state.done.push_back(done);
            state.listener
        };
        wake(listener);
    }

    pub(super) fn reap(&self) -> Option<BioDone> {
        let mut state = self.state();
        let done = state.done.pop_front()?;
        state.in_flight -= 1;
        Some(done)
    }

    pub(super) fn listen(&self, thread: ThreadId) {
        let waiting = {
            let mut state = self.state();
            state.listener = Some(thread);
            !state.done.is_empty()
        };
        if waiting {
            wake(Some(thread));
        }
    }
}

fn wake(listener: Option<ThreadId>) {
    if let (Some(thread), Some(host)) = (listener, rumpuser::try_host()) {
        host.threads().unpark(thread);
    }
}
