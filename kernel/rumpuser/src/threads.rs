//! Threads, and waiting.

use crate::{Errno, Instant};
use core::num::NonZeroU64;

/// Names a thread of the host. Never used again for another while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadId(NonZeroU64);

impl ThreadId {
    /// For a host: the thread it numbers `number`.
    pub const fn new(number: NonZeroU64) -> ThreadId {
        ThreadId(number)
    }

    /// The host's number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// What a new thread runs: `entry(argument)`. When it returns, the thread ends.
#[derive(Clone, Copy)]
pub struct ThreadMain {
    /// The function.
    pub entry: fn(usize),
    /// What it is given: opaque to the host.
    pub argument: usize,
}

/// How a thread is to be.
#[derive(Clone, Copy)]
pub struct ThreadSpec<'a> {
    /// For people: in reports and debuggers. The host may cut it.
    pub name: &'a str,
    /// Bytes of stack wanted; 0 for the host's usual size. A host may give more, never less.
    pub stack_bytes: usize,
}

/// Why a [`Threads::park`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unparked {
    /// A token was there, or came.
    Token,
    /// The deadline passed without one.
    TimedOut,
}

/// Threads, and waiting.
///
/// Each thread has one *token*, absent at first. [`unpark`](Threads::unpark) makes it present (twice
/// is once); [`park`](Threads::park) waits until it is present and takes it. So an unpark that comes
/// before the park is not lost. A park may also return early without cause as if there had been a
/// token: callers check their condition again.
///
/// Everything before an `unpark` happens before the return of the `park` that takes its token.
pub trait Threads: Sync {
    /// Starts a thread.
    ///
    /// # Errors
    /// `EAGAIN` when the host has no stack or thread left.
    fn spawn(&self, spec: ThreadSpec<'_>, main: ThreadMain) -> Result<ThreadId, Errno>;

    /// The calling thread. A thread that the host did not start (a test's) is adopted by its
    /// first call.
    fn current(&self) -> ThreadId;

    /// Waits for the calling thread's token, until `deadline` if there is one.
    fn park(&self, deadline: Option<Instant>) -> Unparked;

    /// Gives `thread` its token. A thread that has ended is ignored. The one call that an interrupt
    /// handler of the host's own may make too.
    fn unpark(&self, thread: ThreadId);

    /// Lets others run that can. Returns at once if there are none.
    fn yield_now(&self);

    /// Whether others run only when the calling thread parks or yields. Then the kernel yields by
    /// itself in long loops.
    fn cooperative(&self) -> bool;

    /// A place where the calling thread could be taken off the processor: kernels built with debug assertions
    /// say so before they take a lock. For a host that explores interleavings; others need do nothing.
    fn may_preempt(&self) {}

    /// The calling thread's word of kernel state, 0 at first (`rumpuser_curlwp`).
    fn local(&self) -> usize;

    /// Sets that word.
    fn set_local(&self, value: usize);
}
