//! The state of a universe: clock, threads, events to come, machines, trace.
//!
//! There is one per process, on the thread that runs it. It is borrowed for a moment at a time, never across a switch of threads and
//! never while a device's own code runs.

use crate::scheduler::{Coroutine, Style, Suspender};
use crate::seed::Stream;
use crate::trace::{Kind, Trace};
use rumpuser::{BlockDevice, PacketDevice};
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// What a clock that is asked costs: so a loop that waits for a time to come ends.
pub(crate) const CLOCK_NANOS: u64 = 25;
/// What it costs to come to a point where a thread may be pre-empted.
pub(crate) const POINT_NANOS: u64 = 40;

/// Where a thread stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is on the processor.
    Running,
    /// It could run.
    Ready,
    /// It waits for its token, perhaps until a time.
    Parked { until: Option<u64> },
    /// It is over, or will never run again.
    Ended,
}

/// A thread of a kernel's, or of the scenario's.
pub(crate) struct Thread {
    pub(crate) name: String,
    pub(crate) machine: usize,
    pub(crate) standing: Standing,
    pub(crate) token: bool,
    /// Tells the deadline of one park from that of another.
    pub(crate) parks: u64,
    pub(crate) local: usize,
    pub(crate) priority: u64,
    /// Taken out while it runs; none when it has ended.
    pub(crate) coroutine: Option<Coroutine>,
    /// How it gives the processor up, once it has run.
    pub(crate) suspender: Option<Suspender>,
}

/// What is around a kernel.
pub(crate) struct Surroundings {
    pub(crate) name: String,
    pub(crate) disks: Vec<&'static dyn BlockDevice>,
    pub(crate) ports: Vec<&'static dyn PacketDevice>,
    pub(crate) command_line: &'static [u8],
    /// The last of what was written to the console, for a report.
    pub(crate) console: Vec<u8>,
    pub(crate) typed: std::collections::VecDeque<u8>,
    pub(crate) console_listener: Option<rumpuser::ThreadId>,
}

/// Something to come.
pub(crate) enum Event {
    /// The deadline of a park.
    Deadline { thread: usize, park: u64 },
    /// A device's, or a scenario's.
    Call(Box<dyn FnOnce()>),
}

struct Entry {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest, as the heap gives the greatest first; of two at a time, what was planned first.
    fn cmp(&self, other: &Entry) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// The state of a universe.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) now: u64,
    sequence: u64,
    events: BinaryHeap<Entry>,
    pub(crate) threads: Vec<Thread>,
    pub(crate) ready: Vec<usize>,
    pub(crate) current: Option<usize>,
    pub(crate) schedule: Stream,
    pub(crate) entropy: Stream,
    pub(crate) style: Style,
    pub(crate) slices: u64,
    pub(crate) machines: Vec<Surroundings>,
    pub(crate) trace: Trace,
    /// What the scenario counts.
    pub(crate) counted: BTreeMap<String, u64>,
}

impl World {
    /// The universe of `seed` at its beginning: one machine, no threads.
    pub(crate) fn new(seed: u64) -> World {
        let mut schedule = Stream::new(seed, "schedule");
        let style = Style::draw(&mut schedule);
        let mut world = World {
            seed,
            now: 0,
            sequence: 0,
            events: BinaryHeap::new(),
            threads: Vec::new(),
            ready: Vec::new(),
            current: None,
            schedule,
            entropy: Stream::new(seed, "entropy"),
            style,
            slices: 0,
            machines: Vec::new(),
            trace: Trace::default(),
            counted: BTreeMap::new(),
        };
        world.add_machine("m0");
        world
    }

    pub(crate) fn add_machine(&mut self, name: &str) -> usize {
        self.machines.push(Surroundings {
            name: name.to_owned(),
            disks: Vec::new(),
            ports: Vec::new(),
            command_line: b"",
            console: Vec::new(),
            typed: std::collections::VecDeque::new(),
            console_listener: None,
        });
        self.machines.len() - 1
    }

    /// The machine of the thread that runs.
    pub(crate) fn machine(&mut self) -> &mut Surroundings {
        let index = self
            .current
            .map_or(0, |current| self.threads[current].machine);
        &mut self.machines[index]
    }

    /// Has `event` happen `after` nanoseconds from now.
    pub(crate) fn plan(&mut self, after: u64, event: Event) {
        self.plan_at(self.now.saturating_add(after), event);
    }

    pub(crate) fn plan_at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Entry {
            at,
            sequence: self.sequence,
            event,
        });
    }

    /// The next event that is due, if one is.
    pub(crate) fn due(&mut self) -> Option<Event> {
        let next = self.events.peek()?;
        if next.at > self.now {
            return None;
        }
        self.events.pop().map(|entry| entry.event)
    }

    /// When the next event comes.
    pub(crate) fn next_event_at(&self) -> Option<u64> {
        self.events.peek().map(|entry| entry.at)
    }

    /// Lets a thread run that waits.
    pub(crate) fn make_ready(&mut self, index: usize) {
        self.threads[index].standing = Standing::Ready;
        self.ready.push(index);
    }

    /// Gives a thread its token.
    pub(crate) fn unpark(&mut self, index: usize) {
        let Some(thread) = self.threads.get_mut(index) else {
            return;
        };
        if thread.standing == Standing::Ended || thread.token {
            return;
        }
        thread.token = true;
        let waits = matches!(thread.standing, Standing::Parked { .. });
        let numbers = [index as u64, 0, 0];
        self.event(Kind::Unpark, numbers, format_args!("#{index}"));
        if waits {
            self.make_ready(index);
        }
    }

    /// Notes what happened, in the name of the thread that runs.
    pub(crate) fn event(&mut self, kind: Kind, numbers: [u64; 3], text: fmt::Arguments<'_>) {
        let who = Who {
            machines: &self.machines,
            thread: self.current.map(|index| (index, &self.threads[index])),
        };
        self.trace.event(kind, self.now, numbers, &who, text);
    }

    /// Who waits for what, for a report.
    pub(crate) fn standings(&self) -> String {
        let mut text = String::new();
        for (index, thread) in self.threads.iter().enumerate() {
            let how = match thread.standing {
                Standing::Ended => continue,
                Standing::Running => "runs".to_owned(),
                Standing::Ready => "could run".to_owned(),
                Standing::Parked { until: None } => "waits".to_owned(),
                Standing::Parked { until: Some(at) } => format!("waits until {at} ns"),
            };
            let machine = &self.machines[thread.machine].name;
            text += &format!("  #{index} {machine}/{}: {how}\n", thread.name);
        }
        text
    }
}

/// The machine and thread of a trace line.
struct Who<'a> {
    machines: &'a [Surroundings],
    thread: Option<(usize, &'a Thread)>,
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.thread {
            Some((index, thread)) => {
                let machine = &self.machines[thread.machine].name;
                write!(f, "{machine}/{}#{index}", thread.name)
            }
            None => f.write_str("-"),
        }
    }
}

/// Begins a universe on this thread.
pub(crate) fn begin(world: World) {
    WORLD.with_borrow_mut(|place| *place = Some(world));
}

/// Ends the universe of this thread. Its threads are left as they are: whoever began it leaves the process soon.
pub(crate) fn end() -> Option<World> {
    WORLD.with_borrow_mut(Option::take)
}

/// Calls `f` with the universe of this thread.
///
/// # Panics
/// If there is none: the simulator's hypercalls work inside of [`crate::Universe::run`] alone.
#[inline]
pub(crate) fn with<R>(f: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with_borrow_mut(|world| f(world.as_mut().expect("a hypercall outside of a universe")))
}

/// As [`with`], where there may be none.
pub(crate) fn try_with<R>(f: impl FnOnce(&mut World) -> R) -> Option<R> {
    WORLD
        .try_with(|place| place.try_borrow_mut().ok()?.as_mut().map(f))
        .ok()
        .flatten()
}

/// In a process that has failed: writes the trace out, and says whose thread it was and what was on the console.
pub(crate) fn say_who_failed() {
    let _ = try_with(|world| {
        world.trace.flush();
        let (now, slices) = (world.now, world.slices);
        eprintln!("seed {}, {now} ns, slice {slices}", world.seed);
        if let Some(current) = world.current {
            let thread = &world.threads[current];
            let machine = &world.machines[thread.machine];
            eprintln!("thread {}/{}#{current}", machine.name, thread.name);
        }
        for machine in &world.machines {
            if !machine.console.is_empty() {
                let text = String::from_utf8_lossy(&machine.console);
                eprintln!("console of {}:\n{}", machine.name, text.trim_end());
            }
        }
    });
}
