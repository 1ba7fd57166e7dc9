//! Threads: one of the process's for each of the kernel's. A token is one futex word.

use rumpuser::{Errno, Instant, ThreadId, ThreadMain, ThreadSpec, Unparked};
use rustix::thread::{Timespec, futex};
use std::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Stack of a kernel thread that asks for none: as much as the standard library gives.
const DEFAULT_STACK: usize = 2 << 20;

const ABSENT: u32 = 0;
const PRESENT: u32 = 1;
/// No token, and the thread sleeps on the word.
const WAITING: u32 = 2;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static LIVING: RwLock<Option<HashMap<ThreadId, Arc<Parker>>>> = RwLock::new(None);

thread_local! {
    static SELF: OnceCell<Registered> = const { OnceCell::new() };
    static LOCAL: Cell<usize> = const { Cell::new(0) };
}

/// The token of one thread.
#[derive(Default)]
struct Parker {
    token: AtomicU32,
}

impl Parker {
    fn park(&self, left: impl Fn() -> Option<Duration>) -> Unparked {
        let take = |from| {
            self.token
                .compare_exchange(from, ABSENT, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        };
        if take(PRESENT) {
            return Unparked::Token;
        }
        loop {
            let timeout = left();
            if timeout == Some(Duration::ZERO) {
                // A token that came in the meantime is taken rather than left behind.
                return match self.token.swap(ABSENT, Ordering::Acquire) {
                    PRESENT => Unparked::Token,
                    _ => Unparked::TimedOut,
                };
            }
            let was =
                self.token
                    .compare_exchange(ABSENT, WAITING, Ordering::Relaxed, Ordering::Relaxed);
            if was != Err(PRESENT) {
                let timeout = timeout.map(timespec);
                // Every outcome, an interruption and a time-out included, is judged by the word.
                let _ = futex::wait(
                    &self.token,
                    futex::Flags::PRIVATE,
                    WAITING,
                    timeout.as_ref(),
                );
            }
            if take(PRESENT) {
                return Unparked::Token;
            }
        }
    }

    fn unpark(&self) {
        if self.token.swap(PRESENT, Ordering::Release) == WAITING {
            // Waking a word of our own process cannot fail.
            let _ = futex::wake(&self.token, futex::Flags::PRIVATE, 1);
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// A living thread's entry in the table; gone with the thread.
struct Registered {
    id: ThreadId,
    parker: Arc<Parker>,
}

impl Registered {
    fn new() -> Registered {
        let number = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let id = ThreadId::new(NonZeroU64::new(number).expect("64 bits do not run out"));
        let parker = Arc::new(Parker::default());
        let mut living = LIVING.write().unwrap_or_else(PoisonError::into_inner);
        living
            .get_or_insert_with(HashMap::new)
            .insert(id, parker.clone());
        Registered { id, parker }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut living = LIVING.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = living.as_mut() {
            table.remove(&self.id);
        }
    }
}

/// The process's threads.
pub(crate) struct HostThreads {
    start: std::time::Instant,
}

impl HostThreads {
    /// `start` is taken at the same moment as the clock's, so that deadlines mean the same.
    pub(crate) fn new(start: std::time::Instant) -> HostThreads {
        HostThreads { start }
    }
}

impl rumpuser::Threads for HostThreads {
    fn spawn(&self, spec: ThreadSpec<'_>, main: ThreadMain) -> Result<ThreadId, Errno> {
        let registered = Registered::new();
        let id = registered.id;
        let stack = match spec.stack_bytes {
            0 => DEFAULT_STACK,
            wanted => wanted.max(DEFAULT_STACK),
        };
        let run = move || {
            SELF.with(|cell| {
                // A thread starts without an identity, so the cell is empty.
                let _ = cell.set(registered);
            });
            (main.entry)(main.argument);
        };
        let name = spec.name.replace('\0', "?");
        let builder = std::thread::Builder::new().name(name).stack_size(stack);
        builder.spawn(run).map_err(|_| Errno::EAGAIN)?;
        Ok(id)
    }

    fn current(&self) -> ThreadId {
        SELF.with(|cell| cell.get_or_init(Registered::new).id)
    }

    fn park(&self, deadline: Option<Instant>) -> Unparked {
        let left = || {
            let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            deadline.map(|at| at.saturating_since(Instant::from_nanos(now)))
        };
        SELF.with(|cell| cell.get_or_init(Registered::new).parker.park(left))
    }

    fn unpark(&self, thread: ThreadId) {
        let living = LIVING.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(parker) = living.as_ref().and_then(|table| table.get(&thread)) {
            parker.unpark();
        }
    }

    fn yield_now(&self) {
        std::thread::yield_now();
    }

    fn cooperative(&self) -> bool {
        false
    }

    fn local(&self) -> usize {
        LOCAL.get()
    }

    fn set_local(&self, value: usize) {
        LOCAL.set(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumpuser::Threads;

    fn threads() -> &'static HostThreads {
        Box::leak(Box::new(HostThreads::new(std::time::Instant::now())))
    }

    #[test]
    fn an_unpark_before_the_park_is_not_lost() {
        let threads = threads();
        threads.unpark(threads.current());
        assert_eq!(threads.park(None), Unparked::Token);
    }

    #[test]
    fn two_unparks_are_one_token() {
        let threads = threads();
        threads.unpark(threads.current());
        threads.unpark(threads.current());
        assert_eq!(threads.park(None), Unparked::Token);
        let soon = Instant::from_nanos(0);
        assert_eq!(threads.park(Some(soon)), Unparked::TimedOut);
    }

    #[test]
    fn two_threads_hand_a_turn_to_each_other() {
        static TURNS: AtomicU64 = AtomicU64::new(0);
        let threads = threads();
        let main = threads.current();
        let entry = |main: usize| {
            let main = ThreadId::new(NonZeroU64::new(main as u64).expect("an id"));
            let threads = HostThreads::new(std::time::Instant::now());
            for _ in 0..1000 {
                while threads.park(None) != Unparked::Token {}
                TURNS.fetch_add(1, Ordering::Relaxed);
                threads.unpark(main);
            }
        };
        let spec = ThreadSpec {
            name: "other",
            stack_bytes: 0,
        };
        let main_fn = ThreadMain {
            entry,
            argument: main.get() as usize,
        };
        let other = threads.spawn(spec, main_fn).expect("a thread");
        for _ in 0..1000 {
            threads.unpark(other);
            assert_eq!(threads.park(None), Unparked::Token);
        }
        assert_eq!(TURNS.load(Ordering::Relaxed), 1000);
    }
}
