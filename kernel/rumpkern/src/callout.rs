//! Callouts: functions called at a time (callout(9)).
//!
//! One thread per kernel, *softclock*, runs them. Those that are due are found by a binary heap of slot
//! numbers whose room is reserved when a callout is made; so scheduling and stopping allocate nothing and
//! cost O(log n).

use crate::kernel::Kernel;
use crate::locks::{Condvar, LockClass, Mutex};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use rumpuser::{Errno, Instant, ThreadId, host};

static CALLOUT_CLASS: LockClass = LockClass {
    name: "callout",
    rank: 900,
};

type Handler = Arc<dyn Fn() + Send + Sync>;

const NOT_QUEUED: u32 = u32::MAX;

struct Slot {
    due: Instant,
    /// Orders those due at the same time.
    sequence: u64,
    /// Where in the heap it is.
    position: u32,
    /// None: the slot is free.
    handler: Option<Handler>,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    free: Vec<u32>,
    heap: Vec<u32>,
    sequence: u64,
    /// The slot whose handler runs.
    running: Option<u32>,
    stopped: bool,
}

/// The callout clock of a kernel.
pub(crate) struct Softclock {
    state: Mutex<State>,
    /// The thread waits here for the earliest to be due.
    changed: Condvar,
    /// `halt` waits here for a handler to return.
    returned: Condvar,
    thread: crate::locks::OnceLock<ThreadId>,
}

/// A function that can be scheduled. Dropping it stops it.
pub struct Callout {
    clock: Arc<Softclock>,
    slot: u32,
}

impl Callout {
    /// A callout that is not scheduled. `handler` runs in the softclock thread and must not wait long.
    /// It may schedule its own callout again.
    pub fn new(kernel: &Arc<Kernel>, handler: impl Fn() + Send + Sync + 'static) -> Callout {
        let clock = kernel.softclock().clone();
        let handler = Arc::new(handler);
        // Outside of the lock, for it may wait. If it is refused, `allocate` insists.
        let _ = clock.reserve();
        let slot = clock.allocate(handler);
        Callout { clock, slot }
    }

    /// As [`Callout::new`], where an input decides how many there are.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn try_new(
        kernel: &Arc<Kernel>,
        handler: impl Fn() + Send + Sync + 'static,
    ) -> Result<Callout, Errno> {
        let clock = kernel.softclock().clone();
        let handler = crate::kmem::try_arc(handler)?;
        clock.reserve()?;
        let slot = clock.allocate(handler);
        Ok(Callout { clock, slot })
    }

    /// Runs it in `after` from now; if it is scheduled already, then instead (callout_schedule).
    pub fn schedule(&self, after: Duration) {
        self.schedule_at(host().clock().now() + after);
    }

    /// Runs it at `due`, or as soon as possible if that is past.
    pub fn schedule_at(&self, due: Instant) {
        self.clock.schedule(self.slot, due);
    }

    /// Takes it off the schedule; true if it was on. A handler that runs already goes on (callout_stop).
    pub fn stop(&self) -> bool {
        self.clock.unschedule(self.slot)
    }

    /// As [`Callout::stop`], and waits for a handler that runs (callout_halt). Must not be called
    /// with a lock held that the handler takes. From a handler, does not wait.
    pub fn halt(&self) -> bool {
        let was_pending = self.clock.unschedule(self.slot);
        self.clock.wait_returned(self.slot);
        was_pending
    }

    /// Whether it is scheduled.
    pub fn pending(&self) -> bool {
        let state = self.clock.state.lock();
        state.slots[self.slot as usize].position != NOT_QUEUED
    }
}

impl Drop for Callout {
    fn drop(&mut self) {
        self.clock.release(self.slot);
    }
}

impl Softclock {
    pub(crate) fn new() -> Arc<Softclock> {
        Arc::new(Softclock {
            state: Mutex::with_class(State::default(), &CALLOUT_CLASS),
            changed: Condvar::new(),
            returned: Condvar::new(),
            thread: crate::locks::OnceLock::new(),
        })
    }

    /// Makes room for one more slot.
    fn reserve(&self) -> Result<(), Errno> {
        loop {
            let len = {
                let state = self.state.lock();
                if !state.free.is_empty() || state.has_room() {
                    return Ok(());
                }
                state.slots.len()
            };
            let room = len + len / 2 + 16;
            let mut slots = crate::kmem::try_vec(room)?;
            let mut free = crate::kmem::try_vec(room)?;
            let mut heap = crate::kmem::try_vec(room)?;
            let mut state = self.state.lock();
            if state.slots.len() == len {
                // Within the new room, so nothing is allocated under the lock; the old is freed after it.
                slots.append(&mut state.slots);
                free.append(&mut state.free);
                heap.append(&mut state.heap);
                core::mem::swap(&mut state.slots, &mut slots);
                core::mem::swap(&mut state.free, &mut free);
                core::mem::swap(&mut state.heap, &mut heap);
            }
            drop(state);
        }
    }

    fn allocate(&self, handler: Handler) -> u32 {
        let slot = Slot {
            due: Instant::default(),
            sequence: 0,
            position: NOT_QUEUED,
            handler: Some(handler),
        };
        let mut state = self.state.lock();
        if let Some(number) = state.free.pop() {
            state.slots[number as usize] = slot;
            return number;
        }
        let number = state.slots.len() as u32;
        state.slots.push(slot);
        // Every slot may be free, or scheduled, at once.
        let room = state.slots.capacity();
        let (free, heap) = (state.free.len(), state.heap.len());
        state.free.reserve(room - free);
        state.heap.reserve(room - heap);
        number
    }

    fn release(&self, number: u32) {
        let handler = {
            let mut state = self.state.lock();
            state.remove(number);
            state.free.push(number);
            state.slots[number as usize].handler.take()
        };
        // May be the last reference: what it captured is dropped without the lock.
        drop(handler);
    }

    fn schedule(&self, number: u32, due: Instant) {
        let mut state = self.state.lock();
        state.remove(number);
        state.sequence += 1;
        let sequence = state.sequence;
        let slot = &mut state.slots[number as usize];
        slot.due = due;
        slot.sequence = sequence;
        state.insert(number);
        if state.heap.first() == Some(&number) {
            self.changed.notify_one();
        }
    }

    fn unschedule(&self, number: u32) -> bool {
        self.state.lock().remove(number)
    }

    fn wait_returned(&self, number: u32) {
        if self.thread.get() == Some(&host().threads().current()) {
            return;
        }
        let mut state = self.state.lock();
        while state.running == Some(number) {
            state = self.returned.wait(state);
        }
    }

    /// The softclock thread.
    pub(crate) fn run(&self) {
        // Only one thread runs a clock; a second would be refused here.
        if self.thread.set(host().threads().current()).is_err() {
            return;
        }
        let mut state = self.state.lock();
        while !state.stopped {
            let Some(first) = state.heap.first().copied() else {
                state = self.changed.wait(state);
                continue;
            };
            let due = state.slots[first as usize].due;
            if due > host().clock().now() {
                state = self.changed.wait_until(state, Some(due)).0;
                continue;
            }
            state.remove(first);
            let handler = state.slots[first as usize].handler.clone();
            state.running = Some(first);
            drop(state);
            if let Some(handler) = handler {
                handler();
            }
            state = self.state.lock();
            state.running = None;
            self.returned.notify_all();
        }
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_one();
    }
}

impl State {
    fn has_room(&self) -> bool {
        let len = self.slots.len();
        len < self.slots.capacity() && len < self.free.capacity() && len < self.heap.capacity()
    }

    fn key(&self, position: usize) -> (Instant, u64) {
        let slot = &self.slots[self.heap[position] as usize];
        (slot.due, slot.sequence)
    }

    fn insert(&mut self, number: u32) {
        let position = self.heap.len();
        self.heap.push(number);
        self.slots[number as usize].position = position as u32;
        self.sift_up(position);
    }

    /// Takes a slot out of the heap; false if it was not in.
    fn remove(&mut self, number: u32) -> bool {
        let position = self.slots[number as usize].position;
        if position == NOT_QUEUED {
            return false;
        }
        let position = position as usize;
        let last = self.heap.len() - 1;
        self.swap(position, last);
        self.heap.pop();
        self.slots[number as usize].position = NOT_QUEUED;
        if position < last {
            self.sift_up(position);
            self.sift_down(position);
        }
        true
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.slots[self.heap[a] as usize].position = a as u32;
        self.slots[self.heap[b] as usize].position = b as u32;
    }

    fn sift_up(&mut self, mut position: usize) {
        while position > 0 {
            let parent = (position - 1) / 2;
            if self.key(parent) <= self.key(position) {
                return;
            }
            self.swap(parent, position);
            position = parent;
        }
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let left = 2 * position + 1;
            if left >= self.heap.len() {
                return;
            }
            let right = left + 1;
            let child = match right < self.heap.len() && self.key(right) < self.key(left) {
                true => right,
                false => left,
            };
            if self.key(position) <= self.key(child) {
                return;
            }
            self.swap(position, child);
            position = child;
        }
    }
}
