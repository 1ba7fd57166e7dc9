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
use platform_x86_64::{clock, machine, paging, without_interrupts};
use rumpuser::{Errno, Instant, PAGE_SIZE, ThreadId, ThreadMain, ThreadSpec, Unparked};
use spin::Mutex;

/// Bytes of stack of a thread that asks for no particular size.
pub const USUAL_STACK_BYTES: usize = if cfg!(debug_assertions) {
    64 * 1024
} else {
    16 * 1024
};
const MAX_STACK_BYTES: usize = 1 << 20;
const NAME_BYTES: usize = 16;
/// Slots at first; doubled when they are all in use.
const FIRST_SLOTS: usize = 16;
const MAX_SLOTS: usize = 4096;
/// No deadline.
const NEVER: u64 = u64::MAX;
/// Ends the run queue.
const NOBODY: usize = usize::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody's: the slot is free.
    Free,
    /// Runs, or stands in the run queue.
    Runnable,
    /// Waits for its token or its deadline.
    Parked,
}

/// A stack, with its guard page at `base`.
#[derive(Clone, Copy, Debug)]
struct Stack {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: an address; what is there is the thread's that runs on it.
unsafe impl Send for Stack {}

struct Slot {
    state: State,
    token: bool,
    /// The park ended by its deadline.
    timed_out: bool,
    /// The thread's number, never used again; 0 in a free slot.
    id: u64,
    /// When a parked thread is woken, in nanoseconds since entry; [`NEVER`] for no time.
    deadline: u64,
    /// The one behind it in the run queue.
    next: usize,
    /// The kernel's word, while the thread does not run.
    local: usize,
    context: Context,
    stack: Option<Stack>,
    main: Option<ThreadMain>,
    name: [u8; NAME_BYTES],
}

impl Slot {
    fn free() -> Slot {
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

    fn name(&self) -> &str {
        text_of(&self.name)
    }
}

/// A name up to its first zero.
fn text_of(name: &[u8; NAME_BYTES]) -> &str {
    let len = name
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(NAME_BYTES);
    core::str::from_utf8(&name[..len]).unwrap_or("?")
}

struct Table {
    slots: &'static mut [Slot],
    /// Index of the running thread's slot.
    current: usize,
    /// First and last of the run queue.
    first: usize,
    last: usize,
    /// No deadline is sooner. It may be too early, after an unpark; never too late.
    nearest: u64,
    /// When the timer will fire; [`NEVER`] if it is not armed.
    armed: u64,
    /// Threads started so far.
    started: u64,
    /// The stack of a thread that ended, until the next one frees it.
    dead: Option<Stack>,
}

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

/// The two contexts of a switch.
#[derive(Clone, Copy)]
struct Switch {
    save: *mut Context,
    load: *const Context,
}

/// What a thread that waits does next.
enum Step {
    Done(Unparked),
    Switch(Switch),
    /// Nobody can run: wait for an interrupt, after arming the timer if told.
    Idle(Option<u64>),
}

impl Table {
    fn slot_of(&mut self, thread: ThreadId) -> Option<usize> {
        // A number is its slot's index, plus a count of threads in the upper bits.
        let index = thread.get() as usize % MAX_SLOTS;
        self.slots
            .get(index)
            .filter(|slot| slot.id == thread.get())
            .map(|_| index)
    }

    fn push(&mut self, index: usize) {
        self.slots[index].next = NOBODY;
        match self.last {
            NOBODY => self.first = index,
            last => self.slots[last].next = index,
        }
        self.last = index;
    }

    fn pop(&mut self) -> Option<usize> {
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

    fn wake(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.state == State::Parked {
            slot.state = State::Runnable;
            slot.deadline = NEVER;
            self.push(index);
        }
    }

    /// Wakes those whose deadline is past, in the order of the deadlines.
    fn expire(&mut self, now: u64) {
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
    fn switch_to(&mut self, index: usize) -> Option<Switch> {
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
    fn park_step(&mut self, deadline: Option<u64>) -> Step {
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

    fn run_next(&mut self, me: usize) -> Step {
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
    fn woken(&mut self, me: usize) -> Unparked {
        let slot = &mut self.slots[me];
        if slot.timed_out && !slot.token {
            return Unparked::TimedOut;
        }
        slot.token = false;
        Unparked::Token
    }

    /// When the timer must be armed for, if it is not armed for that time or sooner.
    fn timer_wanted(&mut self) -> Option<u64> {
        if self.nearest >= self.armed {
            return None;
        }
        self.armed = self.nearest;
        Some(self.nearest)
    }

    /// A free slot, of which there is one after [`grow`].
    fn take_slot(&mut self) -> Option<usize> {
        self.slots.iter().position(|slot| slot.state == State::Free)
    }

    /// Fills a free slot. The new thread is not yet in the run queue.
    fn fill_slot(&mut self, index: usize, name: &str) -> u64 {
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

/// What fills a stack that was never used, in debug builds: how deep it was used can be seen by what is left of it.
const UNUSED: u8 = 0xa5;

/// Tells, of each thread with a stack of its own, its name, how many bytes of its stack it has used at most, and how many
/// it has. Only debug builds know how many were used; others say 0.
pub fn stacks(mut tell: impl FnMut(&str, usize, usize)) {
    let mut index = 0;
    // One at a time: `tell` may print, which takes time and waits.
    while let Some(slot) = with(|table| table.slots.get(index).map(|slot| (slot.name, slot.stack)))
    {
        index += 1;
        let (name, Some(stack)) = slot else { continue };
        let bytes = stack.layout.size() - PAGE_SIZE;
        let unused = match cfg!(debug_assertions) {
            true => unused_bytes(stack, bytes),
            false => bytes,
        };
        tell(text_of(&name), bytes - unused, bytes);
    }
}

/// How many bytes at the bottom of a stack still are as they were at first.
fn unused_bytes(stack: Stack, bytes: usize) -> usize {
    let bottom = stack.base.as_ptr().wrapping_add(PAGE_SIZE);
    let untouched = |&offset: &usize| {
        // SAFETY: inside the stack, above its guard page. Its thread does not run meanwhile, and nobody frees it: threads are
        // cooperative, and this one has not ended.
        unsafe { bottom.wrapping_add(offset).read_volatile() == UNUSED }
    };
    (0..bytes).take_while(untouched).count()
}

fn new_stack(wanted: usize) -> Result<Stack, Errno> {
    let bytes = if wanted == 0 {
        USUAL_STACK_BYTES
    } else {
        wanted
    };
    if bytes > MAX_STACK_BYTES {
        return Err(Errno::EAGAIN);
    }
    let bytes = bytes.next_multiple_of(PAGE_SIZE) + PAGE_SIZE;
    let layout = Layout::from_size_align(bytes, PAGE_SIZE).map_err(|_| Errno::EAGAIN)?;
    let stack = Stack {
        base: heap::allocate(layout).map_err(|_| Errno::EAGAIN)?,
        layout,
    };
    // SAFETY: the stack's lowest page, which nobody uses.
    if unsafe { paging::guard(stack.base.as_ptr().addr() as u64) }.is_err() {
        free_stack(stack);
        return Err(Errno::EAGAIN);
    }
    if cfg!(debug_assertions) {
        // SAFETY: the rest of the memory allocated above.
        let bottom = unsafe { stack.base.byte_add(PAGE_SIZE) };
        // SAFETY: as above.
        unsafe { bottom.write_bytes(UNUSED, bytes - PAGE_SIZE) };
    }
    Ok(stack)
}

fn free_stack(stack: Stack) {
    // SAFETY: RAM of ours, taken out when the stack was made.
    if unsafe { paging::restore(stack.base.as_ptr().addr() as u64) }.is_err() {
        // Cannot be: what mapped the page before can do so again. Without it, the memory must not be used.
        return;
    }
    // SAFETY: it came from `new_stack`, and nobody runs on it any more.
    unsafe { heap::free(stack.base, stack.layout) };
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
    if let Some(stack) = dead {
        free_stack(stack);
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
        let stack = slot.stack.take();
        slot.state = State::Free;
        slot.id = 0;
        slot.deadline = NEVER;
        table.dead = stack;
    }
    wait(None);
    unreachable!("a thread that ended was switched to")
}

pub(crate) struct Threads;

pub(crate) static THREADS: Threads = Threads;

impl rumpuser::Threads for Threads {
    fn spawn(&self, spec: ThreadSpec<'_>, main: ThreadMain) -> Result<ThreadId, Errno> {
        let stack = new_stack(spec.stack_bytes)?;
        if let Err(error) = grow() {
            free_stack(stack);
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
