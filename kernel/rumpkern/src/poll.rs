//! Waiting for many objects at once: poll(2) and an event queue (kqueue(2)).
//!
//! An object that can be waited for has a [`SelInfo`], and says there what has become true
//! ([`SelInfo::notify`]). An [`EventQueue`] registers interest in objects once; a notification
//! puts the registration on the queue's ready list, and [`EventQueue::wait`] looks at those only: its cost
//! goes with what is ready, not with what is registered. Events are *levels*: what is still true is
//! reported again by the next wait.
//!
//! Lock order: the object's own lock, then its `SelInfo`'s, then the queue's. A wait asks objects
//! ([`FileOps::poll`](crate::file::FileOps::poll)) with none of these held.

use crate::file::File;
use crate::kmem::{self, Room};
use crate::locks::{Condvar, LockClass, Mutex};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bitflags::bitflags;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use rumpuser::{Errno, Instant};

static SELINFO_CLASS: LockClass = LockClass {
    name: "selinfo",
    rank: 850,
};
static QUEUE_CLASS: LockClass = LockClass {
    name: "event queue",
    rank: 860,
};

/// The most objects that one queue or one poll watches.
pub const MAX_WATCHED: usize = 65536;

bitflags! {
    /// What can be waited for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Events: u32 {
        /// A read would not wait: there are bytes, a connection, the end, or an error (`POLLIN`).
        const READABLE = 1;
        /// A write would not wait (`POLLOUT`).
        const WRITABLE = 4;
        /// There is an error to be fetched (`POLLERR`). Always watched for.
        const ERROR = 8;
        /// Both directions are closed (`POLLHUP`). Always watched for.
        const HANGUP = 16;
        /// The descriptor is not open (`POLLNVAL`); only [`poll`] says that.
        const INVALID = 32;
        /// There is urgent data (`POLLPRI`).
        const URGENT = 2;
    }
}

impl Events {
    /// What is reported whether it was asked for or not.
    const ALWAYS: Events = Events::ERROR.union(Events::HANGUP);
}

/// One object's interest in one queue (struct knote).
struct Knote {
    queue: Weak<Queue>,
    file: Arc<File>,
    key: u64,
    /// The events that are watched for, as bits; 0 when it was removed.
    interest: AtomicU32,
    /// On the ready list.
    ready: core::sync::atomic::AtomicBool,
}

/// Where those register that wait for an object (struct selinfo, klist).
pub struct SelInfo {
    knotes: Mutex<Vec<Weak<Knote>>>,
}

impl SelInfo {
    /// Nobody waits.
    pub const fn new() -> SelInfo {
        SelInfo {
            knotes: Mutex::with_class(Vec::new(), &SELINFO_CLASS),
        }
    }

    /// Says that some of `events` have become true (selnotify). May be called with the object's lock held.
    /// Allocates nothing.
    pub fn notify(&self, events: Events) {
        let knotes = self.knotes.lock();
        for knote in knotes.iter() {
            let Some(knote) = knote.upgrade() else {
                continue;
            };
            let interest = Events::from_bits_truncate(knote.interest.load(Ordering::SeqCst));
            if (interest | Events::ALWAYS).intersects(events) {
                Queue::make_ready(&knote);
            }
        }
    }

    /// Whether anybody is registered.
    pub fn has_watchers(&self) -> bool {
        !self.knotes.lock().is_empty()
    }

    fn add(&self, knote: Weak<Knote>) -> Result<(), Errno> {
        let mut knotes = self.knotes.lock();
        knotes.retain(|other| other.strong_count() > 0);
        knotes.room(1)?;
        knotes.push(knote);
        Ok(())
    }

    fn remove(&self, knote: &Arc<Knote>) {
        let mut knotes = self.knotes.lock();
        knotes.retain(|other| !core::ptr::eq(other.as_ptr(), Arc::as_ptr(knote)));
    }
}

impl Default for SelInfo {
    fn default() -> SelInfo {
        SelInfo::new()
    }
}

#[derive(Default)]
struct QueueState {
    /// Room for every registration, so that a notification allocates nothing.
    ready: VecDeque<Arc<Knote>>,
    watched: usize,
    /// `EventQueue::wake` was called.
    poked: bool,
}

struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

impl Queue {
    /// Puts a registration on its queue's ready list, once.
    fn make_ready(knote: &Arc<Knote>) {
        if knote.ready.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(queue) = knote.queue.upgrade() {
            let mut state = queue.state.lock();
            state.ready.push_back(knote.clone());
            queue.changed.notify_one();
        }
    }
}

/// What a wait reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the registration was given to be known by.
    pub key: u64,
    /// What is true.
    pub events: Events,
}

/// A registration with an [`EventQueue`]; dropping it ends it.
#[must_use = "dropping it ends the registration"]
pub struct Watch {
    knote: Arc<Knote>,
}

impl Watch {
    /// Changes what is watched for.
    pub fn set_interest(&self, interest: Events) {
        self.knote.interest.store(interest.bits(), Ordering::SeqCst);
        // It may be true already.
        Queue::make_ready(&self.knote);
    }

    /// What is watched for.
    pub fn interest(&self) -> Events {
        Events::from_bits_truncate(self.knote.interest.load(Ordering::SeqCst))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.knote.interest.store(0, Ordering::SeqCst);
        if let Some(selinfo) = self.knote.file.ops().selinfo() {
            selinfo.remove(&self.knote);
        }
        if let Some(queue) = self.knote.queue.upgrade() {
            let mut state = queue.state.lock();
            state.watched -= 1;
            if self.knote.ready.load(Ordering::SeqCst) {
                let at = state.ready.iter().position(|k| Arc::ptr_eq(k, &self.knote));
                let removed = at.and_then(|at| state.ready.remove(at));
                drop(state);
                drop(removed);
            }
        }
    }
}

/// A set of objects to wait for.
pub struct EventQueue {
    queue: Arc<Queue>,
}

impl EventQueue {
    /// An empty queue.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<EventQueue, Errno> {
        let queue = kmem::try_arc(Queue {
            state: Mutex::with_class(QueueState::default(), &QUEUE_CLASS),
            changed: Condvar::new(),
        })?;
        Ok(EventQueue { queue })
    }

    /// Watches `file` for `interest`, and errors. Its events are reported with `key`.
    ///
    /// # Errors
    /// `ENOMEM`; `EMFILE` beyond [`MAX_WATCHED`].
    pub fn watch(&self, file: Arc<File>, key: u64, interest: Events) -> Result<Watch, Errno> {
        let knote = kmem::try_arc(Knote {
            queue: Arc::downgrade(&self.queue),
            file,
            key,
            interest: AtomicU32::new(interest.bits()),
            ready: core::sync::atomic::AtomicBool::new(false),
        })?;
        {
            let mut state = self.queue.state.lock();
            if state.watched == MAX_WATCHED {
                return Err(Errno::EMFILE);
            }
            // Twice: a wait may have taken as many off the list to look at them.
            let room = (state.watched + 1) * 2;
            let more = room.saturating_sub(state.ready.len());
            state.ready.room(more)?;
            state.watched += 1;
        }
        // From here on a drop of the watch undoes it.
        let watch = Watch { knote };
        if let Some(selinfo) = watch.knote.file.ops().selinfo() {
            selinfo.add(Arc::downgrade(&watch.knote))?;
        }
        // What is true already was not notified: the first wait looks.
        Queue::make_ready(&watch.knote);
        Ok(watch)
    }

    /// Makes a wait return, now or when it comes, even if nothing is ready.
    pub fn wake(&self) {
        self.queue.state.lock().poked = true;
        self.queue.changed.notify_one();
    }

    /// Waits until something is ready, [`EventQueue::wake`] is called, or `deadline`. Puts at most `most`
    /// events into `events`, which is emptied first; those that are not reported come next time.
    pub fn wait(&self, events: &mut Vec<Event>, most: usize, deadline: Option<Instant>) {
        events.clear();
        loop {
            let looked_at = self.collect(events, most);
            if !events.is_empty() {
                return;
            }
            let mut state = self.queue.state.lock();
            if core::mem::take(&mut state.poked) {
                return;
            }
            if looked_at > 0 && !state.ready.is_empty() {
                continue;
            }
            while state.ready.is_empty() && !state.poked {
                let (again, result) = self.queue.changed.wait_until(state, deadline);
                state = again;
                if result == crate::locks::WaitResult::TimedOut {
                    break;
                }
            }
            if state.ready.is_empty() && !state.poked {
                return;
            }
        }
    }

    /// Looks at the registrations that were ready at the start, each once. Returns how many.
    fn collect(&self, events: &mut Vec<Event>, most: usize) -> usize {
        let candidates = self.queue.state.lock().ready.len();
        for looked_at in 0..candidates {
            if events.len() >= most {
                return looked_at;
            }
            let Some(knote) = self.queue.state.lock().ready.pop_front() else {
                return looked_at;
            };
            // Before it is asked: what becomes true from now on makes it ready again.
            knote.ready.store(false, Ordering::SeqCst);
            let interest = knote.interest.load(Ordering::SeqCst);
            if interest == 0 {
                continue;
            }
            let interest = Events::from_bits_truncate(interest) | Events::ALWAYS;
            let found = knote.file.ops().poll(interest) & interest;
            if found.is_empty() {
                continue;
            }
            events.push(Event {
                key: knote.key,
                events: found,
            });
            // A level: it is looked at again by the next wait.
            Queue::make_ready(&knote);
        }
        candidates
    }
}

/// A file to poll, and what was found.
pub struct PollFd {
    /// The file; `None` is answered with [`Events::INVALID`].
    pub file: Option<Arc<File>>,
    /// What to wait for.
    pub interest: Events,
    /// What is true.
    pub found: Events,
}

/// Waits until at least one of `fds` has something to report, or for `timeout`; `None` waits for ever. Returns how
/// many have (poll(2)).
///
/// # Errors
/// `ENOMEM`; `EINVAL` beyond [`MAX_WATCHED`].
pub fn poll(fds: &mut [PollFd], timeout: Option<Duration>) -> Result<usize, Errno> {
    if fds.len() > MAX_WATCHED {
        return Err(Errno::EINVAL);
    }
    let ready = look(fds);
    if ready > 0 || timeout == Some(Duration::ZERO) {
        return Ok(ready);
    }
    let deadline = timeout.map(|timeout| crate::time::now() + timeout);
    let queue = EventQueue::new()?;
    let mut watches = kmem::try_vec(fds.len())?;
    for fd in fds.iter() {
        if let Some(file) = &fd.file {
            watches.push(queue.watch(file.clone(), 0, fd.interest)?);
        }
    }
    let mut events = kmem::try_vec(1)?;
    queue.wait(&mut events, 1, deadline);
    drop(watches);
    Ok(look(fds))
}

/// Asks each once.
fn look(fds: &mut [PollFd]) -> usize {
    let mut ready = 0;
    for fd in fds.iter_mut() {
        let wanted = fd.interest | Events::ALWAYS;
        fd.found = match &fd.file {
            Some(file) => file.ops().poll(wanted) & wanted,
            None => Events::INVALID,
        };
        ready += !fd.found.is_empty() as usize;
    }
    ready
}

#[cfg(test)]
#[path = "poll_tests.rs"]
mod tests;
