//! Sleep queues: where a thread waits that found a lock taken (NetBSD's sleepq(9) and turnstile(9)).
//!
//! A fixed table of queues hashed by the address of the thing waited for; so a lock is one word,
//! and waiting allocates nothing: the queue entry lives on the waiter's stack. Order among the
//! waiters for one address is first come, first served, whatever the hash does.
//!
//! Protocol. A waiter enters the queue under the bucket's lock, after it has validated there that it
//! must wait. A waker takes it off under the same lock, stores the outcome in it as the last
//! access to it, and unparks its thread. A waiter that times out, or unwinds, takes itself off.
//!
//! A thread has one token for all who wake it. One that also parks for something else, as a device's thread does, must not
//! lose that token to a lock that it waited for: it may have come from the device alone, or from both at once. So whoever took
//! a token here gives it back when the waiting is over, and the thread finds it at its next park, at worst for nothing.

use super::atomic::{AtomicU32, Ordering};
use super::short::{Short, enter};
use core::cell::Cell;
use core::ptr::NonNull;
use rumpuser::{Instant, ThreadId, Unparked, host};

/// Queues in the table; a power of two.
const BUCKETS: usize = 64;

/// How a [`sleep`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wakeup {
    /// Validation said that there is nothing to wait for; the thread did not wait.
    Invalid,
    /// A waker chose this thread: look again.
    Signalled,
    /// A waker chose this thread and passed it what it waited for.
    Handed,
    /// The deadline passed.
    TimedOut,
}

const WAITING: u32 = 0;
const SIGNALLED: u32 = 1;
const HANDED: u32 = 2;

struct Waiter {
    key: usize,
    thread: ThreadId,
    /// Waited in vain before: a waker should hand over.
    impatient: bool,
    outcome: AtomicU32,
    next: Cell<Option<NonNull<Waiter>>>,
    prev: Cell<Option<NonNull<Waiter>>>,
}

/// A list of waiters on their stacks. Touched only under its bucket's lock.
struct Queue {
    head: Option<NonNull<Waiter>>,
    tail: Option<NonNull<Waiter>>,
}

// SAFETY: the entries point to waiters of any thread; a waiter stays in place while it is queued
// (see `Queued`), and its links are touched only under the bucket's lock.
unsafe impl Send for Queue {}

impl Queue {
    /// The waiter behind a queued pointer.
    fn get(&self, at: NonNull<Waiter>) -> &Waiter {
        // SAFETY: only queued waiters are reachable from a queue, and a queued waiter is alive: its
        // stack frame is left only after it was taken off (`Queued::drop`), which needs the lock that the
        // caller holds.
        unsafe { at.as_ref() }
    }

    fn push(&mut self, waiter: &Waiter) {
        waiter.prev.set(self.tail);
        waiter.next.set(None);
        let at = Some(NonNull::from(waiter));
        match self.tail {
            Some(tail) => self.get(tail).next.set(at),
            None => self.head = at,
        }
        self.tail = at;
    }

    fn unlink(&mut self, waiter: &Waiter) {
        let (next, prev) = (waiter.next.get(), waiter.prev.get());
        match prev {
            Some(prev) => self.get(prev).next.set(next),
            None => self.head = next,
        }
        match next {
            Some(next) => self.get(next).prev.set(prev),
            None => self.tail = prev,
        }
    }

    /// The first waiter for `key` from `start` on.
    fn find(&self, start: Option<NonNull<Waiter>>, key: usize) -> Option<NonNull<Waiter>> {
        let mut at = start;
        while let Some(waiter) = at {
            if self.get(waiter).key == key {
                return at;
            }
            at = self.get(waiter).next.get();
        }
        None
    }
}

static TABLE: [Short<Queue>; BUCKETS] = [const {
    Short::new(Queue {
        head: None,
        tail: None,
    })
}; BUCKETS];

fn bucket(key: usize) -> &'static Short<Queue> {
    // Fibonacci hashing: locks lie at multiples of their size.
    let mixed = (key as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    &TABLE[(mixed >> 58) as usize % BUCKETS]
}

/// Takes its waiter off the queue if nobody else has, however the waiting ends.
struct Queued<'a>(&'a Waiter);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.0.outcome.load(Ordering::Acquire) != WAITING {
            return;
        }
        let mut queue = enter(bucket(self.0.key));
        if self.0.outcome.load(Ordering::Acquire) == WAITING {
            queue.unlink(self.0);
        }
    }
}

/// Waits on `key` until woken, or until `deadline`.
///
/// `must_wait` runs under the queue's lock, so what it finds is in order with every [`wake_one`]
/// and [`wake_all`] on `key`; it must be short and must not call out. `before_park` runs when the
/// thread is on the queue. `impatient` asks the waker to hand over rather than to signal.
pub(crate) fn sleep(
    key: usize,
    impatient: bool,
    must_wait: impl FnOnce() -> bool,
    before_park: impl FnOnce(),
    deadline: Option<Instant>,
) -> Wakeup {
    let threads = host().threads();
    let waiter = Waiter {
        key,
        thread: threads.current(),
        impatient,
        outcome: AtomicU32::new(WAITING),
        next: Cell::new(None),
        prev: Cell::new(None),
    };
    {
        let mut queue = enter(bucket(key));
        if !must_wait() {
            return Wakeup::Invalid;
        }
        queue.push(&waiter);
    }
    let queued = Queued(&waiter);
    before_park();
    let mut took_token = false;
    while waiter.outcome.load(Ordering::Acquire) == WAITING
        && threads.park(deadline) == Unparked::Token
    {
        took_token = true;
    }
    drop(queued);
    if took_token {
        threads.unpark(waiter.thread);
    }
    match waiter.outcome.load(Ordering::Acquire) {
        SIGNALLED => Wakeup::Signalled,
        HANDED => Wakeup::Handed,
        _ => Wakeup::TimedOut,
    }
}

/// What a waker finds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// Somebody waits.
    pub(crate) any: bool,
    /// More than one waits.
    pub(crate) more: bool,
    /// The first has waited in vain before.
    pub(crate) impatient: bool,
}

/// Wakes the thread that has waited on `key` longest. `decide` runs under the queue's lock with what
/// was found, changes the lock's state to match, and says whether it hands the lock over.
pub(crate) fn wake_one(key: usize, decide: impl FnOnce(Found) -> bool) -> bool {
    let thread = {
        let mut queue = enter(bucket(key));
        let first = queue.find(queue.head, key);
        let Some(at) = first else {
            decide(Found {
                any: false,
                more: false,
                impatient: false,
            });
            return false;
        };
        let waiter = queue.get(at);
        let found = Found {
            any: true,
            more: queue.find(waiter.next.get(), key).is_some(),
            impatient: waiter.impatient,
        };
        let outcome = if decide(found) { HANDED } else { SIGNALLED };
        take_off(&mut queue, at, outcome)
    };
    host().threads().unpark(thread);
    true
}

/// Wakes all that wait on `key`; `change` runs under the queue's lock before any is woken.
pub(crate) fn wake_all(key: usize, change: impl FnOnce()) {
    let mut change = Some(change);
    // One at a time: an unpark is a hypercall and has no place in a short section. The bound is
    // the number of waiters at the start, so threads that come back to wait are left alone.
    let mut left = usize::MAX;
    while left > 0 {
        let thread = {
            let mut queue = enter(bucket(key));
            if let Some(change) = change.take() {
                change();
                left = count(&queue, key);
            }
            match queue.find(queue.head, key) {
                Some(at) if left > 0 => take_off(&mut queue, at, SIGNALLED),
                _ => return,
            }
        };
        host().threads().unpark(thread);
        left -= 1;
    }
}

fn count(queue: &Queue, key: usize) -> usize {
    let mut found = 0;
    let mut at = queue.find(queue.head, key);
    while let Some(waiter) = at {
        found += 1;
        at = queue.find(queue.get(waiter).next.get(), key);
    }
    found
}

/// Takes a queued waiter off and tells it the outcome. From then on it may be gone.
fn take_off(queue: &mut Queue, at: NonNull<Waiter>, outcome: u32) -> ThreadId {
    // SAFETY: `at` is queued, and the caller holds the bucket's lock: alive until the store below.
    let waiter = unsafe { at.as_ref() };
    let thread = waiter.thread;
    queue.unlink(waiter);
    waiter.outcome.store(outcome, Ordering::Release);
    thread
}
