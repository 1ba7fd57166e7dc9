//! Who runs next: coroutines, and the loop that resumes them.

use crate::seed::Stream;
use crate::trace::Kind;
use crate::world::{self, Event, Standing, Thread, World};
use corosensei::stack::DefaultStack;
use corosensei::{CoroutineResult, Yielder};
use std::cell::RefCell;
use std::panic::resume_unwind;

/// A thread's stack and where it stands.
pub(crate) type Coroutine = corosensei::Coroutine<(), (), (), DefaultStack>;

/// Bytes of a thread's stack: as much as the standard library gives. They are committed as they are touched.
const STACK_BYTES: usize = 2 << 20;
/// A universe of more slices than this does not end by itself.
const MOST_SLICES: u64 = 400_000_000;
/// Of a schedule by priorities: they are drawn again after so many slices on average, so that nobody waits for ever.
const REDRAW: u64 = 48;

thread_local! {
    /// Stacks of threads that have ended.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

/// How the next thread is chosen, and how often one is taken off the processor: drawn once for a universe, since a bug that one way of
/// choosing meets another never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    /// Whoever has the highest priority, which is drawn at random now and then; otherwise anybody.
    priorities: bool,
    /// Of 4096 points where a thread may be pre-empted, so many do.
    preempts: u64,
}

impl Style {
    pub(crate) fn draw(schedule: &mut Stream) -> Style {
        Style {
            priorities: schedule.chance(1, 2),
            preempts: [0, 16, 128, 1024][schedule.below(4) as usize],
        }
    }
}

/// How a thread gives up the processor: its own coroutine's yielder.
#[derive(Clone, Copy)]
pub(crate) struct Suspender(*const Yielder<(), ()>);

/// Gives the processor of the running thread to the scheduler, until the thread is chosen again. Its standing was set before.
fn suspend() {
    let suspender = world::with(|world| {
        let current = world.current.expect("a thread runs");
        world.threads[current].suspender
    });
    let suspender = suspender.expect("a thread that runs has stored how it stops");
    // SAFETY: the pointer was stored by this very coroutine when it began, and its yielder lives on its
    // stack for as long as it runs.
    let yielder = unsafe { &*suspender.0 };
    yielder.suspend(());
}

/// The running thread waits; answers whether it got its token rather than met its deadline.
pub(crate) fn park(until: Option<u64>) -> bool {
    let waits = world::with(|world| {
        let current = world
            .current
            .expect("only a thread of the universe can wait");
        if std::mem::take(&mut world.threads[current].token) {
            return Some(true);
        }
        if until.is_some_and(|until| until <= world.now) {
            // Whoever waits for what is past gives others a turn.
            lay_down(world, Standing::Ready, Kind::Preempt);
            return None;
        }
        if world.schedule.chance(1, 512) {
            // A park may return without cause.
            lay_down(world, Standing::Ready, Kind::Preempt);
            world.threads[current].token = true;
            return None;
        }
        lay_down(world, Standing::Parked { until }, Kind::Park);
        None
    });
    if let Some(token) = waits {
        return token;
    }
    suspend();
    world::with(|world| {
        let current = world.current.expect("this thread runs again");
        std::mem::take(&mut world.threads[current].token)
    })
}

/// Takes the running thread's place in the world off the processor.
fn lay_down(world: &mut World, standing: Standing, kind: Kind) {
    let current = world.current.expect("a thread runs");
    let until = match standing {
        Standing::Parked { until } => until,
        _ => None,
    };
    match until {
        Some(until) => world.event(kind, [until, 1, 0], format_args!("until {until} ns")),
        None => world.event(kind, [0; 3], format_args!("")),
    }
    world.threads[current].standing = standing;
    if standing == Standing::Ready {
        world.threads[current].priority = world.schedule.next();
        world.ready.push(current);
    }
    let thread = &mut world.threads[current];
    thread.parks += 1;
    if let Some(until) = until {
        let park = thread.parks;
        let thread = current;
        world.plan_at(until, Event::Deadline { thread, park });
    }
}

/// Lets others run.
pub(crate) fn yield_now() {
    world::with(|world| lay_down(world, Standing::Ready, Kind::Preempt));
    suspend();
}

/// A point at which the running thread may be taken off the processor.
pub(crate) fn point() {
    let preempted = world::try_with(|world| {
        world.now += world::POINT_NANOS;
        let preempts = world.style.preempts;
        if world.current.is_none() || preempts == 0 || !world.schedule.chance(preempts, 4096) {
            return false;
        }
        lay_down(world, Standing::Ready, Kind::Preempt);
        true
    });
    if preempted == Some(true) {
        suspend();
    }
}

/// The running thread will never run again: its machine is halted.
pub(crate) fn stop() -> ! {
    world::with(|world| lay_down(world, Standing::Ended, Kind::End));
    suspend();
    unreachable!("a thread that has ended is not resumed");
}

/// Makes a thread of machine `machine` that runs `main`; `None` without a stack for it.
pub(crate) fn spawn(machine: usize, name: &str, main: impl FnOnce() + 'static) -> Option<usize> {
    let stack = STACKS.with_borrow_mut(Vec::pop);
    let stack = match stack {
        Some(stack) => stack,
        None => DefaultStack::new(STACK_BYTES).ok()?,
    };
    let coroutine = Coroutine::with_stack(stack, move |yielder, ()| {
        world::with(|world| {
            let current = world.current.expect("this thread runs");
            world.threads[current].suspender = Some(Suspender(yielder));
        });
        main();
    });
    Some(world::with(|world| {
        let index = world.threads.len();
        let numbers = [index as u64, machine as u64, 0];
        world.event(Kind::Spawn, numbers, format_args!("#{index} {name}"));
        let priority = world.schedule.next();
        world.threads.push(Thread {
            name: name.to_owned(),
            machine,
            standing: Standing::Ready,
            token: false,
            parks: 0,
            local: 0,
            priority,
            coroutine: Some(coroutine),
            suspender: None,
        });
        world.ready.push(index);
        index
    }))
}

/// What the scheduler does next.
enum Next {
    Run(usize, Coroutine),
    Call(Box<dyn FnOnce()>),
    Deadlock,
}

/// Runs the universe until the thread `main` has ended.
///
/// # Panics
/// If nobody can run and nothing is to come, if it does not end, or as a thread did.
pub(crate) fn run(main: usize) {
    loop {
        match world::with(next) {
            Next::Call(call) => call(),
            Next::Run(index, coroutine) => {
                if resume(index, coroutine) && index == main {
                    return;
                }
            }
            Next::Deadlock => {
                let who = world::with(|world| world.standings());
                panic!("deadlock: nobody can run, and nothing is to come\n{who}");
            }
        }
    }
}

fn next(world: &mut World) -> Next {
    loop {
        while let Some(event) = world.due() {
            match event {
                Event::Deadline { thread, park } => expire(world, thread, park),
                Event::Call(call) => return Next::Call(call),
            }
        }
        if !world.ready.is_empty() {
            let index = choose(world);
            return start(world, index);
        }
        match world.next_event_at() {
            Some(at) => world.now = at,
            None => return Next::Deadlock,
        }
    }
}

fn expire(world: &mut World, index: usize, park: u64) {
    let thread = &world.threads[index];
    if thread.parks == park && matches!(thread.standing, Standing::Parked { .. }) {
        world.make_ready(index);
    }
}

/// Takes the next thread out of those that could run.
fn choose(world: &mut World) -> usize {
    let World {
        ready,
        threads,
        schedule,
        ..
    } = world;
    let at = if ready.len() == 1 {
        0
    } else if world.style.priorities {
        if schedule.chance(1, REDRAW) {
            let lucky = ready[schedule.below(ready.len() as u64) as usize];
            threads[lucky].priority = u64::MAX;
        }
        let best = (0..ready.len()).max_by_key(|at| (threads[ready[*at]].priority, *at));
        best.expect("it is not empty")
    } else {
        schedule.below(ready.len() as u64) as usize
    };
    ready.swap_remove(at)
}

fn start(world: &mut World, index: usize) -> Next {
    world.slices += 1;
    assert!(
        world.slices < MOST_SLICES,
        "it does not end: {MOST_SLICES} slices\n{}",
        world.standings()
    );
    // Between a switch that finds all in the cache and one that finds nothing.
    world.now += world.schedule.between(300, 3000);
    world.current = Some(index);
    world.event(Kind::Run, [index as u64, 0, 0], format_args!(""));
    let thread = &mut world.threads[index];
    thread.standing = Standing::Running;
    let coroutine = thread.coroutine.take();
    Next::Run(index, coroutine.expect("a thread that is ready has one"))
}

/// Runs a thread until it stops; answers whether it has ended.
fn resume(index: usize, mut coroutine: Coroutine) -> bool {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| coroutine.resume(())));
    let ended = match result {
        Ok(CoroutineResult::Yield(())) => false,
        Ok(CoroutineResult::Return(())) => true,
        Err(panic) => {
            world::with(|world| world.trace.flush());
            resume_unwind(panic)
        }
    };
    if ended {
        STACKS.with_borrow_mut(|stacks| stacks.push(coroutine.into_stack()));
        world::with(|world| {
            world.event(Kind::End, [0; 3], format_args!(""));
            world.threads[index].standing = Standing::Ended;
            world.current = None;
        });
        return true;
    }
    world::with(|world| {
        world.current = None;
        world.threads[index].coroutine = Some(coroutine);
    });
    false
}

impl Drop for Thread {
    /// A thread that has not ended is left where it is: to unwind it would run the kernel's code outside of a universe.
    fn drop(&mut self) {
        std::mem::forget(self.coroutine.take());
    }
}
