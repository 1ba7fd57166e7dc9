//! The hypercalls in a simulator: one seed, one universe.
//!
//! A *universe* is a run of kernels in which the seed decides everything that a real host leaves to chance: which thread runs
//! next and for how long, when an interrupt comes, how long a disk takes and in which order, what a wire loses, every random number
//! and every fault. Time is virtual: it passes when the simulator says so, and an idle hour costs nothing. The same seed gives the same
//! universe, to the byte of its trace, on any machine.
//!
//! ```no_run
//! use rumpuser_sim::{Universe, sweep};
//!
//! fn scenario(universe: &Universe) {
//!     universe.sleep(std::time::Duration::from_secs(3600));
//! }
//!
//! # fn main() {
//! // The body of a #[test] of this name: 200 universes, each in a process of its own.
//! sweep!(an_hour_passes, 200, scenario);
//! # }
//! ```
//!
//! # A universe is a process
//!
//! A kernel's physical memory is the process's, and so are the identity of threads and what is said once. So a universe gets a fresh
//! process: [`sweep!`] starts the test program again, for one test and one seed, as often as there are seeds. Nothing has to be reset,
//! what ends one universe (a panic, an abort, a stack that overflows) is seen from outside, and seed 17 alone is what seed 17 was among
//! ten thousand. One that fails is run again with its trace written to a file; the report has the seed, the commit, the command that
//! replays it and the end of the trace.
//!
//! | variable | meaning |
//! |---|---|
//! | `RUMP_SIM_SEED` | run this seed, and keep its trace |
//! | `RUMP_SIM_SEEDS` | how many seeds to run instead of the test's own number |
//! | `RUMP_SIM_TIMES` | how many times the test's own number of seeds to run |
//!
//! # Layout
//!
//! - `world`: the state: clock, threads, events to come, trace. `scheduler`: who runs next. [`universe`]: what a scenario gets.
//! - `threads`, `clock`, `memory`, `random`, `console`, `params`, `exit`, `host`: the hypercalls, as in `rumpuser`.
//! - [`bio`]: a disk with latency, reordering, faults, and a record of its writes from which [`bio::PowerCut`] makes what a cut leaves.
//! - [`net`]: a wire with loss, duplication, reordering, corruption, delay, rate and partitions.
//! - [`seed`]: random streams. [`sweep`](mod@sweep): many seeds. [`trace`]: what happened.
//!
//! # How it runs
//!
//! All on one thread of the process. A kernel's thread is a coroutine with a stack of its own; the scheduler resumes one, until it
//! parks, yields, or is pre-empted. It may be pre-empted in any hypercall, and before it takes a lock in builds with debug assertions
//! ([`rumpuser::Threads::may_preempt`]); a build of the profile `sim` is optimised and has them. Between two slices the scheduler
//! delivers the events that are due: deadlines, completions of disks, frames on wires, faults. When nobody can run, time jumps to the next event; when there is
//! none, the universe is deadlocked and says who waits.
//!
//! A *machine* ([`Machine`]) is what a kernel finds around it: disks, wires, command line, console. A thread belongs to its maker's machine;
//! so a hundred kernels in one process each have their own `block_device(0)`.
//!
//! What must not decide anything: addresses, the order of a hash table keyed at random by the process, the system's clock. Nothing here
//! looks at them; that the kernel does not either is what `tests/replay.rs` checks.
//!
//! Each random decision is drawn from the stream of what it concerns (the scheduler, each disk, each wire, each scenario's own), so that one more fault on a
//! disk does not change what the wires do.
//!
//! # Locks
//!
//! None is held across a switch. A device's own state is borrowed before the world's, never the other way round.
//!
//! Sources: rumpuser(3); FoundationDB's and TigerBeetle's accounts of simulation as a way to test; S. Burckhardt et al., "A randomized scheduler
//! with probabilistic guarantees of finding bugs", 2010, for the schedule by priorities.

pub mod bio;
mod clock;
mod console;
mod exit;
mod host;
mod memory;
pub mod net;
mod params;
mod random;
mod scheduler;
pub mod seed;
pub mod sweep;
mod threads;
pub mod trace;
pub mod universe;
mod world;

pub use bio::SimDisk;
pub use net::{SimPort, Wire};
pub use seed::Stream;
pub use universe::{Machine, Task, Universe};
