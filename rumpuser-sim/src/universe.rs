//! What a scenario gets: machines, tasks, time, randomness, faults.

use crate::bio::SimDisk;
use crate::net::SimPort;
use crate::seed::Stream;
use crate::trace::Kind;
use crate::world::{self, Event, World};
use crate::{host, scheduler};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// A universe, from inside: handed to the scenario, which is its first thread, on the machine `m0`.
#[derive(Clone, Copy, Debug)]
pub struct Universe {
    seed: u64,
}

/// How a universe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What identifies all that happened.
    pub trace: u64,
    /// How many events that was.
    pub events: u64,
    /// How often a thread was given the processor.
    pub slices: u64,
    /// How much time passed in it.
    pub elapsed: Duration,
    /// What the scenario counted.
    pub counted: BTreeMap<String, u64>,
}

/// What surrounds a kernel: disks, wires, command line, console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine(usize);

/// A thread that a scenario started.
pub struct Task<T> {
    index: usize,
    result: Rc<RefCell<Option<T>>>,
    waiter: Rc<RefCell<Option<usize>>>,
}

impl Universe {
    /// Runs the universe of `seed`, in a process that has no other, with `memory` bytes for its kernels; keeps the trace in the file `trace` if there is one.
    ///
    /// # Panics
    /// If the process has a host; if the trace cannot be written; as the scenario, or a thread of a kernel's; on a deadlock.
    pub fn run(
        seed: u64,
        memory: usize,
        trace: Option<&Path>,
        scenario: impl FnOnce(&Universe) + 'static,
    ) -> Summary {
        host::install(memory);
        let mut world = World::new(seed);
        if let Some(path) = trace {
            let kept = world.trace.keep(path);
            kept.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        world::begin(world);
        let run = move || scenario(&Universe { seed });
        let main = scheduler::spawn(0, "main", run).expect("there is a stack for the first thread");
        scheduler::run(main);
        let mut world = world::end().expect("it was begun");
        world.trace.flush();
        Summary {
            trace: world.trace.sum(),
            events: world.trace.events(),
            slices: world.slices,
            elapsed: Duration::from_nanos(world.now),
            counted: world.counted,
        }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A stream of random numbers of the scenario's own; each name has its own.
    pub fn stream(&self, name: &str) -> Stream {
        Stream::new(self.seed, &format!("scenario {name}"))
    }

    /// The machine on which the scenario itself runs.
    pub fn here(&self) -> Machine {
        Machine(0)
    }

    /// Another machine.
    pub fn machine(&self, name: &str) -> Machine {
        Machine(world::with(|world| world.add_machine(name)))
    }

    /// Time since the beginning.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(world::with(|world| world.now))
    }

    /// Waits.
    pub fn sleep(&self, time: Duration) {
        let until = world::with(|world| world.now + nanos(time));
        while world::with(|world| world.now) < until {
            scheduler::park(Some(until));
        }
    }

    /// The universe fails unless it has ended when `time` has passed: one in which clocks tick, but nobody gets on, is no deadlock to the
    /// scheduler.
    pub fn must_end_within(&self, time: Duration) {
        self.after(time, move || {
            let who = world::with(|world| world.standings());
            panic!("it has not ended within {time:?}\n{who}");
        });
    }

    /// Calls `what` when `after` has passed, between two slices: no thread, it must not wait. For faults.
    pub fn after(&self, after: Duration, what: impl FnOnce() + 'static) {
        world::with(|world| world.plan(nanos(after), Event::Call(Box::new(what))));
    }

    /// Notes a line in the trace.
    pub fn note(&self, text: &str) {
        world::with(|world| {
            world.event(
                Kind::Note,
                [text.len() as u64, 0, 0],
                format_args!("{text}"),
            )
        });
    }

    /// Counts `number` more of `what`, such as cuts of the power: a sweep says how many there were in all its universes.
    pub fn count(&self, what: &str, number: u64) {
        world::with(|world| *world.counted.entry(what.to_owned()).or_default() += number);
    }

    /// Notes a fault in the trace.
    pub fn fault(&self, text: &str) {
        world::with(|world| {
            world.event(
                Kind::Fault,
                [text.len() as u64, 0, 0],
                format_args!("{text}"),
            );
        });
    }
}

impl Machine {
    /// Adds a disk: its first is `block_device(0)` of the kernels on this machine.
    pub fn add_disk(self, disk: &'static SimDisk) {
        world::with(|world| world.machines[self.0].disks.push(disk));
    }

    /// Adds a packet device.
    pub fn add_port(self, port: &'static SimPort) {
        world::with(|world| world.machines[self.0].ports.push(port));
    }

    /// Sets the command line of the kernels on it.
    pub fn set_command_line(self, line: &str) {
        let line: &'static [u8] = line.as_bytes().to_vec().leak();
        world::with(|world| world.machines[self.0].command_line = line);
    }

    /// The last that was written to its console.
    pub fn console(self) -> String {
        world::with(|world| String::from_utf8_lossy(&world.machines[self.0].console).into_owned())
    }

    /// Starts a thread on it.
    ///
    /// # Panics
    /// Without a stack for it.
    pub fn spawn<T: 'static>(self, name: &str, run: impl FnOnce() -> T + 'static) -> Task<T> {
        let result = Rc::new(RefCell::new(None));
        let waiter = Rc::new(RefCell::new(None));
        let (theirs, their_waiter) = (result.clone(), waiter.clone());
        let main = move || {
            let value = run();
            *theirs.borrow_mut() = Some(value);
            if let Some(waiter) = their_waiter.take() {
                world::with(|world| world.unpark(waiter));
            }
        };
        let index = scheduler::spawn(self.0, name, main).expect("there is a stack for a thread");
        Task {
            index,
            result,
            waiter,
        }
    }
}

impl<T> Task<T> {
    /// Waits until the thread has ended, and answers with what it gave.
    pub fn join(self) -> T {
        loop {
            if let Some(value) = self.result.take() {
                return value;
            }
            *self.waiter.borrow_mut() = world::with(|world| world.current);
            scheduler::park(None);
        }
    }

    /// Whether the thread has ended.
    pub fn has_ended(&self) -> bool {
        self.result.borrow().is_some()
    }

    /// Its number in the trace.
    pub fn number(&self) -> usize {
        self.index
    }
}

/// As many nanoseconds as a universe counts.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}
