//! Threads: coroutines, of which the scheduler runs one at a time.

use crate::scheduler;
use crate::world;
use rumpuser::{Errno, Instant, ThreadId, ThreadMain, ThreadSpec, Threads, Unparked};
use std::num::NonZeroU64;

/// The simulated threads.
pub(crate) struct SimThreads;

/// The name of the thread with this place in the world's list.
pub(crate) fn id_of(index: usize) -> ThreadId {
    ThreadId::new(NonZeroU64::new(index as u64 + 1).expect("not 0"))
}

fn index_of(thread: ThreadId) -> usize {
    (thread.get() - 1) as usize
}

/// Gives `thread` its token, from a device.
pub(crate) fn wake(thread: Option<ThreadId>) {
    if let Some(thread) = thread {
        world::with(|world| world.unpark(index_of(thread)));
    }
}

impl Threads for SimThreads {
    fn spawn(&self, spec: ThreadSpec<'_>, main: ThreadMain) -> Result<ThreadId, Errno> {
        scheduler::point();
        let machine = world::with(|world| {
            let current = world.current.expect("a thread makes another");
            world.threads[current].machine
        });
        let run = move || (main.entry)(main.argument);
        let index = scheduler::spawn(machine, spec.name, run).ok_or(Errno::EAGAIN)?;
        Ok(id_of(index))
    }

    fn current(&self) -> ThreadId {
        let current = world::try_with(|world| world.current).flatten();
        // What runs between two threads, or after the end, counts as the first.
        id_of(current.unwrap_or(0))
    }

    fn park(&self, deadline: Option<Instant>) -> Unparked {
        match scheduler::park(deadline.map(Instant::as_nanos)) {
            true => Unparked::Token,
            false => Unparked::TimedOut,
        }
    }

    fn unpark(&self, thread: ThreadId) {
        scheduler::point();
        // After the end of the universe there is nobody to wake.
        let _ = world::try_with(|world| world.unpark(index_of(thread)));
    }

    fn yield_now(&self) {
        scheduler::yield_now();
    }

    fn cooperative(&self) -> bool {
        true
    }

    fn may_preempt(&self) {
        scheduler::point();
    }

    fn local(&self) -> usize {
        world::try_with(|world| world.current.map(|current| world.threads[current].local))
            .flatten()
            .unwrap_or(0)
    }

    fn set_local(&self, value: usize) {
        let _ = world::try_with(|world| {
            if let Some(current) = world.current {
                world.threads[current].local = value;
            }
        });
    }
}
