//! Many seeds: each universe in a process of its own, and a report of the first that fails.
//!
//! The test program starts itself again with `--exact NAME` and a variable that names the seed; the new process comes to the same
//! [`sweep!`](crate::sweep!) and runs the one universe. It ends with a line on its standard output; a process without that line has failed,
//! whatever it did.
//!
//! One seed in fifty is run twice, in two processes: both have to give the same trace.

use crate::universe::{Summary, Universe};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Tells a process which universe it is: `NAME:SEED`.
const UNIVERSE: &str = "RUMP_SIM_UNIVERSE";
/// Tells it where its trace goes.
const TRACE: &str = "RUMP_SIM_TRACE";
/// The one seed to run.
const SEED: &str = "RUMP_SIM_SEED";
/// How many seeds to run.
const SEEDS: &str = "RUMP_SIM_SEEDS";
/// How many times the number of seeds that each test has.
const TIMES: &str = "RUMP_SIM_TIMES";
/// What the line of a universe that ended well begins with.
const ENDED: &str = "rump-sim: ended";
/// What the lines of what it counted begin with.
const COUNTED: &str = "rump-sim: counted";
/// One of so many seeds is run twice.
const AGAIN: u64 = 50;
/// Lines of a trace that a report shows.
const SHOWN: usize = 60;

/// What a test runs many universes of.
pub struct Sweep {
    /// The cargo package that the test is in.
    pub package: &'static str,
    /// The test target: the name of its file.
    pub target: &'static str,
    /// The test: the name of its function.
    pub test: &'static str,
    /// How many seeds, from 0 on, if nobody says another number.
    pub seeds: u64,
    /// Seeds beyond, which have found a fault before.
    pub regressions: &'static [u64],
    /// Memory of a universe's kernels together.
    pub memory: usize,
}

/// What the universes of a sweep did together.
#[derive(Clone, Debug, Default)]
pub struct Total {
    /// How many there were.
    pub universes: u64,
    /// How much time passed in them.
    pub elapsed: Duration,
    /// How many events they had.
    pub events: u64,
    /// What they counted: [`Universe::count`].
    pub counted: BTreeMap<String, u64>,
}

/// Why a sweep ends before its end.
enum Failure {
    /// The universe of a seed has failed, and said this.
    Failed(u64, Output),
    /// The universe of a seed was not twice the same.
    Differs(u64),
}

/// Runs `$scenario` (a `fn(&Universe)`) with `$seeds` seeds, and further ones (`name and [17, 30], …`), as the test function `$test`; with `$memory` bytes for the
/// kernels of each, 32 MiB if nothing is said. See [`Sweep::run`].
#[macro_export]
macro_rules! sweep {
    ($test:ident, $seeds:expr, $scenario:expr) => {
        $crate::sweep!($test and [], $seeds, $scenario, 32 << 20)
    };
    ($test:ident, $seeds:expr, $scenario:expr, $memory:expr) => {
        $crate::sweep!($test and [], $seeds, $scenario, $memory)
    };
    ($test:ident and [$($seed:expr),*], $seeds:expr, $scenario:expr) => {
        $crate::sweep!($test and [$($seed),*], $seeds, $scenario, 32 << 20)
    };
    ($test:ident and [$($seed:expr),*], $seeds:expr, $scenario:expr, $memory:expr) => {
        $crate::sweep::Sweep {
            package: env!("CARGO_PKG_NAME"),
            target: env!("CARGO_CRATE_NAME"),
            test: stringify!($test),
            seeds: $seeds,
            regressions: &[$($seed),*],
            memory: $memory,
        }
        .run($scenario)
    };
}

impl Sweep {
    /// In the process of a universe, runs it; otherwise starts those processes, as many at once as there are processors, and answers what they
    /// did together.
    ///
    /// # Panics
    /// If a universe fails: with its seed, its trace's end, and the command that replays it.
    pub fn run(&self, scenario: impl FnOnce(&Universe) + 'static) -> Total {
        if let Ok(universe) = std::env::var(UNIVERSE) {
            let (test, seed) = universe.split_once(':').expect("NAME:SEED");
            assert_eq!(
                test, self.test,
                "a universe is a process, and a process has one"
            );
            self.be_a_universe(seed.parse().expect("a seed"), scenario);
        }
        match std::env::var(SEED) {
            Ok(seed) => {
                let seed = seed
                    .parse()
                    .unwrap_or_else(|_| panic!("{SEED}={seed}: a number"));
                self.replay(seed)
            }
            Err(_) => self.run_all(self.number_of_seeds()),
        }
    }

    fn number_of_seeds(&self) -> u64 {
        match std::env::var(SEEDS) {
            Ok(seeds) => seeds
                .parse()
                .unwrap_or_else(|_| panic!("{SEEDS}={seeds}: a number")),
            Err(_) => self.seeds * times(),
        }
    }

    fn be_a_universe(&self, seed: u64, scenario: impl FnOnce(&Universe) + 'static) -> ! {
        fail_at_once();
        let trace = std::env::var_os(TRACE).map(PathBuf::from);
        let Summary {
            trace,
            events,
            slices,
            elapsed,
            counted,
        } = Universe::run(seed, self.memory, trace.as_deref(), scenario);
        let nanos = elapsed.as_nanos();
        // A line of its own, whatever libtest has begun.
        println!("\n{ENDED} {trace:016x} {events} {slices} {nanos}");
        for (what, number) in counted {
            println!("{COUNTED} {number} {what}");
        }
        // What the test would do afterwards is the first process's to do.
        std::process::exit(0)
    }

    /// Runs the universe of `seed` in a process.
    ///
    /// # Panics
    /// If the test program cannot be started.
    pub fn in_process(&self, seed: u64, trace: Option<&Path>) -> (Output, Option<Summary>) {
        let program = std::env::current_exe().expect("the test program's path");
        let mut command = Command::new(program);
        command.args(["--exact", self.test, "--nocapture", "--test-threads=1"]);
        command.env(UNIVERSE, format!("{}:{seed}", self.test));
        command.env_remove(TRACE);
        if let Some(trace) = trace {
            command.env(TRACE, trace);
        }
        let output = command.output().expect("the test program starts");
        let summary = summary_of(&output);
        (output, summary)
    }

    /// One seed, with its trace.
    fn replay(&self, seed: u64) -> Total {
        let trace = self.trace_path(seed, "");
        let (output, summary) = self.in_process(seed, Some(&trace));
        let Some(summary) = summary else {
            panic!("{}", self.report(seed, &output, &trace));
        };
        print!("{}", String::from_utf8_lossy(&output.stderr));
        println!("{}: seed {seed}: {summary:?}", self.test);
        println!("its trace: {}", trace.display());
        let mut total = Total::default();
        total.add(summary);
        total
    }

    fn run_all(&self, seeds: u64) -> Total {
        let begun = Instant::now();
        let beyond = self.regressions.iter().filter(|seed| **seed >= seeds);
        let order: Vec<u64> = beyond.copied().chain(0..seeds).collect();
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let failure = Mutex::new(None::<Failure>);
        let total = Mutex::new(Total::default());
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let Some(seed) = order.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return;
                };
                match self.run_one(*seed) {
                    Ok(summary) => locked(&total).add(summary),
                    Err(what) => {
                        stop.store(true, Ordering::Relaxed);
                        locked(&failure).get_or_insert(what);
                        return;
                    }
                }
            }
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(work);
            }
        });
        let failure = failure.into_inner();
        match failure.unwrap_or_else(PoisonError::into_inner) {
            Some(Failure::Failed(seed, output)) => {
                let trace = self.trace_path(seed, "");
                // The same again, but for the trace.
                let (again, summary) = self.in_process(seed, Some(&trace));
                let output = if summary.is_none() { again } else { output };
                panic!("{}", self.report(seed, &output, &trace));
            }
            Some(Failure::Differs(seed)) => panic!("{}", self.compare(seed)),
            None => {}
        }
        let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
        println!("{}: {}", self.test, total.told(begun.elapsed()));
        total
    }

    /// The universe of `seed`; twice, if it is its turn.
    fn run_one(&self, seed: u64) -> Result<Summary, Failure> {
        let (output, summary) = self.in_process(seed, None);
        let summary = summary.ok_or(Failure::Failed(seed, output))?;
        if seed % AGAIN == AGAIN / 8 && self.in_process(seed, None).1.as_ref() != Some(&summary) {
            return Err(Failure::Differs(seed));
        }
        Ok(summary)
    }

    /// Where two runs of a seed, which were not the same, differ now.
    fn compare(&self, seed: u64) -> String {
        let paths = ["", "-again"].map(|which| self.trace_path(seed, which));
        let [first, second] = paths.each_ref().map(|path| {
            self.in_process(seed, Some(path));
            std::fs::read_to_string(path).unwrap_or_default()
        });
        let mut lines = first.lines().zip(second.lines()).enumerate();
        let differs = lines.find(|(_, (one, other))| one != other);
        let where_to = match differs {
            Some((line, (one, other))) => format!("line {}:\n{one}\n{other}", line + 1),
            None => "this time they are the same as far as both go".to_owned(),
        };
        format!(
            "seed {seed} of {}, commit {}: two runs are not the same universe\n{}\n{}\n{where_to}",
            self.test,
            commit(),
            paths[0].display(),
            paths[1].display()
        )
    }

    /// Where the trace of a seed goes, or another of it: beside the test program.
    fn trace_path(&self, seed: u64, which: &str) -> PathBuf {
        let program = std::env::current_exe().expect("the test program's path");
        let folder = program.parent().unwrap_or(Path::new("."));
        folder.join(format!("{}-{}-{seed}{which}.trace", self.target, self.test))
    }

    fn report(&self, seed: u64, output: &Output, trace: &Path) -> String {
        let lines = std::fs::read_to_string(trace).unwrap_or_default();
        let lines: Vec<&str> = lines.lines().collect();
        let end = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
        format!(
            "seed {seed} of {test} fails ({status}), commit {commit}\n\
             --- what it said\n{said}\n\
             --- the end of its trace; all of it is in {trace}\n{end}\n\
             --- replay it by\n\
             {SEED}={seed} cargo test {profile}-p {package} --test {target} {test} -- --exact --nocapture",
            test = self.test,
            status = output.status,
            commit = commit(),
            said = String::from_utf8_lossy(&output.stderr).trim_end(),
            trace = trace.display(),
            profile = profile(),
            package = self.package,
            target = self.target,
        )
    }
}

impl Total {
    fn add(&mut self, summary: Summary) {
        self.universes += 1;
        self.elapsed += summary.elapsed;
        self.events += summary.events;
        for (what, number) in summary.counted {
            *self.counted.entry(what).or_default() += number;
        }
    }

    /// In words, for a sweep that took `real`.
    fn told(&self, real: Duration) -> String {
        let (simulated, real) = (self.elapsed.as_secs_f64(), real.as_secs_f64());
        let counted: String = self
            .counted
            .iter()
            .map(|(what, number)| format!(", {number} {what}"))
            .collect();
        format!(
            "{} universes, {simulated:.1} simulated seconds, {} events{counted} in {real:.2} s: {:.1} universes and {:.0} simulated seconds a second",
            self.universes,
            self.events,
            self.universes as f64 / real,
            simulated / real,
        )
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many times its own number of seeds each test is to run.
fn times() -> u64 {
    match std::env::var(TIMES) {
        Ok(times) => times
            .parse()
            .unwrap_or_else(|_| panic!("{TIMES}={times}: a number")),
        Err(_) => 1,
    }
}

/// What the process of a universe says at its end.
fn summary_of(output: &Output) -> Option<Summary> {
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix(ENDED))?;
    let mut words = line.split_whitespace();
    let trace = u64::from_str_radix(words.next()?, 16).ok()?;
    let mut number = || words.next()?.parse().ok();
    Some(Summary {
        trace,
        events: number()?,
        slices: number()?,
        elapsed: Duration::from_nanos(number()?),
        counted: text.lines().filter_map(counted_of).collect(),
    })
}

/// What a line says was counted, if it is such a line.
fn counted_of(line: &str) -> Option<(String, u64)> {
    let (number, what) = line.strip_prefix(COUNTED)?.trim_start().split_once(' ')?;
    Some((what.to_owned(), number.parse().ok()?))
}

/// A panic ends the process where it happens: to unwind would run the kernel's code after its bug.
fn fail_at_once() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        crate::world::say_who_failed();
        std::process::exit(101);
    }));
}

/// The commit that was built, as far as git knows.
fn commit() -> String {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

/// The words that choose the profile which this program was built with: its folder's name says it.
fn profile() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let folder = program
        .parent()
        .and_then(Path::parent)
        .and_then(Path::file_name);
    match folder.and_then(|folder| folder.to_str()) {
        Some("debug") | None => String::new(),
        Some(profile) => format!("--profile {profile} "),
    }
}
