//! The table of threads: who runs, who can, who waits for what.
//!
//! Nothing here touches the machine but the clock's reading: the switches and waits that it decides on are its caller's to make.

use platform_x86_64::clock;
use platform_x86_64::context::Context;
use rumpuser::{ThreadId, ThreadMain, Unparked};

use super::stack::Stack;
use super::{CURRENT_ID, CURRENT_LOCAL};
use core::sync::atomic::Ordering;

pub(super) const NAME_BYTES: usize = 16;
/// Slots at first; doubled when they are all in use.
pub(super) const FIRST_SLOTS: usize = 16;
pub(super) const MAX_SLOTS: usize = 4096;
/// No deadline.
pub(super) const NEVER: u64 = u64::MAX;
/// Ends the run queue.
pub(super) const NOBODY: usize = usize::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody's: the slot is free.
    Free,
    /// Runs, or stands in the run queue.
    Runnable,
    /// Waits for its token or its deadline.
    Parked,
}

pub(super) struct Slot {
    pub(super) state: State,
    pub(super) token: bool,
    /// The park ended by its deadline.
    pub(super) timed_out: bool,
    /// The thread's number, never used again; 0 in a free slot.
    pub(super) id: u64,
    /// When a parked thread is woken, in nanoseconds since entry; [`NEVER`] for no time.
    pub(super) deadline: u64,
    /// The one behind it in the run queue.
    pub(super) next: usize,
    /// The kernel's word, while the thread does not run.
    pub(super) local: usize,
    pub(super) context: Context,
    pub(super) stack: Option<Stack>,
    pub(super) main: Option<ThreadMain>,
    pub(super) name: [u8; NAME_BYTES],
}

impl Slot {
    pub(super) fn free() -> Slot {
        Slot {
            state: State::Free,
            token: false,
            timed_out: false,
            id: 0,
            deadline: NEVER,
            next: NOBODY,
            local: 0,
            context: Context::running(),
            stack: None,
            main: None,
            name: [0; NAME_BYTES],
        }
    }

    pub(super) fn name(&self) -> &str {
        text_of(&self.name)
    }
}

/// A name up to its first zero.
pub(super) fn text_of(name: &[u8; NAME_BYTES]) -> &str {
    let len = name
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(NAME_BYTES);
    core::str::from_utf8(&name[..len]).unwrap_or("?")
}

pub(super) struct Table {
    pub(super) slots: &'static mut [Slot],
    /// Index of the running thread's slot.
    pub(super) current: usize,
    /// First and last of the run queue.
    pub(super) first: usize,
    pub(super) last: usize,
    /// No deadline is sooner. It may be too early, after an unpark; never too late.
    pub(super) nearest: u64,
    /// When the timer will fire; [`NEVER`] if it is not armed.
    pub(super) armed: u64,
    /// Threads started so far.
    pub(super) started: u64,
    /// The name and the stack of a thread that ended, until the next one frees it.
    pub(super) dead: Option<([u8; NAME_BYTES], Stack)>,
}

/// The two contexts of a switch.
#[derive(Clone, Copy)]
pub(super) struct Switch {
    pub(super) save: *mut Context,
    pub(super) load: *const Context,
}

/// What a thread that waits does next.
pub(super) enum Step {
    Done(Unparked),
    Switch(Switch),
    /// Nobody can run: wait for an interrupt, after arming the timer if told.
    Idle(Option<u64>),
}

impl Table {
    pub(super) fn slot_of(&mut self, thread: ThreadId) -> Option<usize> {
        // A number is its slot's index, plus a count of threads in the upper bits.
        let index = thread.get() as usize % MAX_SLOTS;
        self.slots
            .get(index)
            .filter(|slot| slot.id == thread.get())
            .map(|_| index)
    }

    pub(super) fn push(&mut self, index: usize) {
        self.slots[index].next = NOBODY;
        match self.last {
            NOBODY => self.first = index,
            last => self.slots[last].next = index,
        }
        self.last = index;
    }

    pub(super) fn pop(&mut self) -> Option<usize> {
        let index = self.first;
        if index == NOBODY {
            return None;
        }
        self.first = self.slots[index].next;
        if self.first == NOBODY {
            self.last = NOBODY;
        }
        Some(index)
    }

    pub(super) fn wake(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.state == State::Parked {
            slot.state = State::Runnable;
            slot.deadline = NEVER;
            self.push(index);
        }
    }

    /// Wakes those whose deadline is past, in the order of the deadlines.
    pub(super) fn expire(&mut self, now: u64) {
        while now >= self.nearest {
            // The bound may have been too early: then nobody is woken, and it is right afterwards.
            let deadlines = self.slots.iter().map(|slot| slot.deadline).zip(0..);
            let (deadline, index) = deadlines.min().unwrap_or((NEVER, 0));
            if deadline == NEVER || deadline > now {
                self.nearest = deadline;
                return;
            }
            self.slots[index].timed_out = true;
            self.wake(index);
        }
    }

    /// Makes `index` the running thread, if it is not.
    pub(super) fn switch_to(&mut self, index: usize) -> Option<Switch> {
        let from = self.current;
        if from == index {
            return None;
        }
        self.current = index;
        self.slots[from].local = CURRENT_LOCAL.load(Ordering::Relaxed);
        CURRENT_LOCAL.store(self.slots[index].local, Ordering::Relaxed);
        CURRENT_ID.store(self.slots[index].id, Ordering::Relaxed);
        Some(Switch {
            save: &raw mut self.slots[from].context,
            load: &raw const self.slots[index].context,
        })
    }

    /// The running thread waits: it has just begun to (`deadline` is told), or goes on after a switch or an interrupt.
    pub(super) fn park_step(&mut self, deadline: Option<u64>) -> Step {
        let me = self.current;
        if let Some(deadline) = deadline {
            let slot = &mut self.slots[me];
            if slot.token {
                slot.token = false;
                return Step::Done(Unparked::Token);
            }
            slot.state = State::Parked;
            slot.timed_out = false;
            slot.deadline = deadline;
            self.nearest = self.nearest.min(deadline);
        }
        self.run_next(me)
    }

    pub(super) fn run_next(&mut self, me: usize) -> Step {
        if self.nearest != NEVER {
            self.expire(clock::now_nanos());
        }
        match self.pop() {
            Some(next) if next == me => Step::Done(self.woken(me)),
            Some(next) => match self.switch_to(next) {
                Some(switch) => Step::Switch(switch),
                None => Step::Done(self.woken(me)),
            },
            None => Step::Idle(self.timer_wanted()),
        }
    }

    /// Why the running thread's wait ended.
    pub(super) fn woken(&mut self, me: usize) -> Unparked {
        let slot = &mut self.slots[me];
        if slot.timed_out && !slot.token {
            return Unparked::TimedOut;
        }
        slot.token = false;
        Unparked::Token
    }

    /// When the timer must be armed for, if it is not armed for that time or sooner.
    pub(super) fn timer_wanted(&mut self) -> Option<u64> {
        if self.nearest >= self.armed {
            return None;
        }
        self.armed = self.nearest;
        Some(self.nearest)
    }

    /// A free slot, of which there is one after [`grow`].
    pub(super) fn take_slot(&mut self) -> Option<usize> {
        self.slots.iter().position(|slot| slot.state == State::Free)
    }

    /// Fills a free slot. The new thread is not yet in the run queue.
    pub(super) fn fill_slot(&mut self, index: usize, name: &str) -> u64 {
        self.started += 1;
        let slot = &mut self.slots[index];
        *slot = Slot::free();
        slot.state = State::Runnable;
        slot.id = self.started * MAX_SLOTS as u64 + index as u64;
        for (to, from) in slot.name.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        slot.id
    }
}
