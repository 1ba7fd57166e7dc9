//! Threads, and waiting: cooperative, on one processor, round robin.
//!
//! A thread runs until it parks or yields. Who parks looks for the next thread that can run and switches to it; if there is none it
//! waits for an interrupt, on its own stack, until there is one again: there is no idle thread, and no periodic tick. The
//! timer is armed only before such a wait, for the nearest deadline.
//!
//! Each thread has a slot in a table that grows with need. Its stack has an unmapped page below. The stack of a thread that
//! ended is freed by the one that runs next.
//!
//! Lock: `TABLE`, with interrupts off, since an interrupt's handler may unpark. The heap's and the page tables' locks are
//! not taken under it. No lock is held across a switch; interrupts are off across it.

use crate::heap;
use core::alloc::Layout;
use core::fmt;
use core::num::NonZeroU64;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use platform_x86_64::context::{Context, switch};
use platform_x86_64::{clock, machine, without_interrupts};
use rumpuser::{Errno, Instant, PAGE_SIZE, ThreadId, ThreadMain, ThreadSpec, Unparked};
use spin::Mutex;

mod stack;
mod table;

use stack::Stack;
pub use stack::USUAL_STACK_BYTES;
use table::{
    FIRST_SLOTS, MAX_SLOTS, NAME_BYTES, NEVER, NOBODY, Slot, State, Step, Switch, Table, text_of,
};

static TABLE: Mutex<Table> = Mutex::new(Table {
    slots: &mut [],
    current: 0,
    first: NOBODY,
    last: NOBODY,
    nearest: NEVER,
    armed: NEVER,
    started: 0,
    dead: None,
});

/// The running thread's number and the kernel's word for it, so that asking takes no lock.
static CURRENT_ID: AtomicU64 = AtomicU64::new(0);
static CURRENT_LOCAL: AtomicUsize = AtomicUsize::new(0);

fn with<T>(body: impl FnOnce(&mut Table) -> T) -> T {
    without_interrupts(|| body(&mut TABLE.lock()))
}

/// Makes sure that there is a free slot.
fn grow() -> Result<(), Errno> {
    let needed = with(|table| {
        table
            .take_slot()
            .is_none()
            .then(|| (table.slots.len() * 2).max(FIRST_SLOTS))
    });
    let Some(len) = needed else { return Ok(()) };
    if len > MAX_SLOTS {
        return Err(Errno::EAGAIN);
    }
    let larger = heap::place_slice(len, |_| Slot::free()).map_err(|_| Errno::EAGAIN)?;
    // Nobody else grows it meanwhile: threads are cooperative, and interrupts' handlers do not spawn.
    let old = with(|table| {
        for (to, from) in larger.iter_mut().zip(table.slots.iter_mut()) {
            core::mem::swap(to, from);
        }
        core::mem::replace(&mut table.slots, larger)
    });
    if let (false, Ok(layout)) = (old.is_empty(), Layout::array::<Slot>(old.len())) {
        // SAFETY: it came from the heap by `place_slice` with this layout, and the table has left it.
        unsafe { heap::free(NonNull::from(old).cast(), layout) };
    }
    Ok(())
}

/// Makes the calling code, which runs on the stack the machine started on, the first thread.
pub(crate) fn init() -> Result<(), Errno> {
    grow()?;
    let id = with(|table| table.fill_slot(0, "main"));
    CURRENT_ID.store(id, Ordering::Relaxed);
    Ok(())
}

/// The timer fired: whoever waits for an interrupt looks at the deadlines. Called by its interrupt.
pub(crate) fn timer_fired(_: usize) {
    with(|table| table.armed = NEVER);
}

/// Tells, of each thread with a stack of its own, its name, how many bytes of its stack it has used at most, and how many
/// it has.
pub fn stacks(mut tell: impl FnMut(&str, usize, usize)) {
    let mut index = 0;
    // One at a time: `tell` may print, which takes time and waits.
    while let Some(slot) = with(|table| table.slots.get(index).map(|slot| (slot.name, slot.stack)))
    {
        index += 1;
        let (name, Some(stack)) = slot else { continue };
        let bytes = stack.bytes();
        tell(text_of(&name), bytes - stack.unused_bytes(), bytes);
    }
}

/// How far down its stack a thread came.
#[derive(Clone, Copy)]
pub(crate) struct Depth {
    name: [u8; NAME_BYTES],
    /// Bytes used at most.
    pub(crate) used: usize,
    /// Bytes there are.
    pub(crate) bytes: usize,
}

impl Depth {
    const NONE: Depth = Depth {
        name: [0; NAME_BYTES],
        used: 0,
        bytes: 0,
    };

    fn of(name: [u8; NAME_BYTES], stack: Stack) -> Depth {
        let bytes = stack.bytes();
        let used = bytes - stack.unused_bytes();
        Depth { name, used, bytes }
    }

    /// Which of the two threads has less left.
    fn or(self, other: Depth) -> Depth {
        let is_deeper = other.bytes - other.used < self.bytes - self.used;
        if self.bytes == 0 || is_deeper {
            other
        } else {
            self
        }
    }

    pub(crate) fn name(&self) -> &str {
        text_of(&self.name)
    }
}

/// Of the threads that have ended, the one that had the least left of its stack.
static DEEPEST: Mutex<Depth> = Mutex::new(Depth::NONE);

/// Of all threads so far with a stack of their own, the one that had the least left of it.
pub(crate) fn deepest() -> Depth {
    let mut deepest = *DEEPEST.lock();
    let mut index = 0;
    while let Some(slot) = with(|table| table.slots.get(index).map(|slot| (slot.name, slot.stack)))
    {
        index += 1;
        if let (name, Some(stack)) = slot {
            deepest = deepest.or(Depth::of(name, stack));
        }
    }
    deepest
}

/// Goes over to another thread. Returns when this one is switched to again. Interrupts are off.
fn go(Switch { save, load }: Switch) {
    // SAFETY: both are slots of the table, which moves only when a thread that runs spawns; the one to load does not
    // run, and its stack is as it left it.
    unsafe { switch(save, load) };
    switched();
}

/// What a thread does first when it is switched to.
fn switched() {
    let dead = TABLE.lock().dead.take();
    if let Some((name, stack)) = dead {
        let mut deepest = DEEPEST.lock();
        *deepest = deepest.or(Depth::of(name, stack));
        drop(deepest);
        stack.free();
    }
}

/// Waits, or ends (with no deadline told), with interrupts off.
fn wait(mut deadline: Option<u64>) -> Unparked {
    loop {
        let step = TABLE.lock().park_step(deadline.take());
        match step {
            Step::Done(why) => return why,
            Step::Switch(switch) => {
                go(switch);
                return with(|table| {
                    let me = table.current;
                    table.woken(me)
                });
            }
            Step::Idle(timer) => {
                clock::refine();
                if let Some(at) = timer {
                    clock::arm(at);
                }
                machine::wait_for_interrupt();
            }
        }
    }
}

/// The first function of every thread. Interrupts are off.
extern "C" fn begin(_: usize) -> ! {
    switched();
    let main = with(|table| {
        let me = table.current;
        table.slots[me].main.take()
    });
    machine::enable_interrupts();
    if let Some(ThreadMain { entry, argument }) = main {
        entry(argument);
    }
    end()
}

/// Ends the running thread.
fn end() -> ! {
    machine::disable_interrupts();
    {
        let mut table = TABLE.lock();
        let me = table.current;
        // It is still on its stack, and its slot holds the context that the last switch writes to: the slot is free for others
        // only to `spawn`, which runs later, in another thread.
        let slot = &mut table.slots[me];
        let (name, stack) = (slot.name, slot.stack.take());
        slot.state = State::Free;
        slot.id = 0;
        slot.deadline = NEVER;
        table.dead = stack.map(|stack| (name, stack));
    }
    wait(None);
    unreachable!("a thread that ended was switched to")
}

pub(crate) struct Threads;

pub(crate) static THREADS: Threads = Threads;

impl rumpuser::Threads for Threads {
    fn spawn(&self, spec: ThreadSpec<'_>, main: ThreadMain) -> Result<ThreadId, Errno> {
        let stack = Stack::new(spec.stack_bytes)?;
        if let Err(error) = grow() {
            stack.free();
            return Err(error);
        }
        // SAFETY: one past the stack's last byte, in the same allocation.
        let top = unsafe { stack.base.byte_add(stack.layout.size()) };
        // SAFETY: the stack is page-aligned, larger than that, and nobody's yet.
        let context = unsafe { Context::new(top, begin, 0) };
        let id = with(|table| {
            let index = table.take_slot()?;
            let id = table.fill_slot(index, spec.name);
            let slot = &mut table.slots[index];
            slot.context = context;
            slot.stack = Some(stack);
            slot.main = Some(main);
            table.push(index);
            NonZeroU64::new(id)
        });
        id.map(ThreadId::new).ok_or(Errno::EAGAIN)
    }

    fn current(&self) -> ThreadId {
        let id = NonZeroU64::new(CURRENT_ID.load(Ordering::Relaxed));
        ThreadId::new(id.expect("threads are set up before the image's main runs"))
    }

    fn park(&self, deadline: Option<Instant>) -> Unparked {
        let deadline = deadline.map_or(NEVER, Instant::as_nanos);
        without_interrupts(|| wait(Some(deadline)))
    }

    fn unpark(&self, thread: ThreadId) {
        with(|table| {
            if let Some(index) = table.slot_of(thread) {
                table.slots[index].token = true;
                table.wake(index);
            }
        });
    }

    fn yield_now(&self) {
        without_interrupts(|| {
            let switch = {
                let mut table = TABLE.lock();
                if table.nearest != NEVER {
                    table.expire(clock::now_nanos());
                }
                let me = table.current;
                table.pop().and_then(|next| {
                    table.push(me);
                    table.switch_to(next)
                })
            };
            if let Some(switch) = switch {
                go(switch);
            }
        });
    }

    fn cooperative(&self) -> bool {
        true
    }

    fn local(&self) -> usize {
        CURRENT_LOCAL.load(Ordering::Relaxed)
    }

    fn set_local(&self, value: usize) {
        CURRENT_LOCAL.store(value, Ordering::Relaxed);
    }
}

/// Says, in a report, who is running, or whose guard page `address` is in.
pub(crate) fn describe(
    f: &mut fmt::Formatter<'_>,
    address: Option<u64>,
) -> Result<bool, fmt::Error> {
    // The report may be about this very module, so it does not wait for the lock.
    let Some(table) = TABLE.try_lock() else {
        return Ok(false);
    };
    let Some(running) = table.slots.get(table.current) else {
        return Ok(false);
    };
    let Some(address) = address else {
        write!(f, ", in thread \"{}\"", running.name())?;
        return Ok(true);
    };
    let page = address & !(PAGE_SIZE as u64 - 1);
    let owner = table.slots.iter().find(|slot| match slot.stack {
        Some(stack) => stack.base.as_ptr().addr() as u64 == page,
        None => slot.id != 0 && machine::boot_stack_guard_page() == page,
    });
    let Some(owner) = owner else { return Ok(false) };
    write!(f, ": the stack of thread \"{}\" is full", owner.name())?;
    Ok(true)
}
