//! Counters that a user can read: vmstat(1), evcnt(9), and the server's metrics.

use crate::locks::RwLock;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use rumpuser::Errno;

/// The most counters in a registry.
const MAX_COUNTERS: usize = 4096;

/// A number that grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// At 0.
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// Adds `by`.
    #[inline]
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Entry {
    name: Box<str>,
    help: &'static str,
    value: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// Calls what it is given with name, help text and value of each counter of a group.
pub type Group = fn(&mut dyn FnMut(&str, &str, u64));

/// The counters of a kernel, by name. Names are lower case with underscores; those of numbers that
/// only grow end in `_total`, others carry their unit.
#[derive(Default)]
pub struct Counters {
    entries: RwLock<Vec<Entry>>,
    groups: RwLock<Vec<Group>>,
}

impl Counters {
    /// Registers many counters at once, without memory for each.
    pub fn register_group(&self, group: Group) {
        self.groups.write().push(group);
    }

    /// Registers a counter or gauge.
    ///
    /// # Errors
    /// `EEXIST` if the name is taken; `ENOMEM` if there are too many.
    pub fn register(
        &self,
        name: &str,
        help: &'static str,
        value: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<(), Errno> {
        let entry = Entry {
            name: name.into(),
            help,
            value: Box::new(value),
        };
        let mut entries = self.entries.write();
        if entries.len() == MAX_COUNTERS {
            return Err(Errno::ENOMEM);
        }
        let at = entries.partition_point(|other| *other.name < *name);
        if entries.get(at).is_some_and(|other| *other.name == *name) {
            return Err(Errno::EEXIST);
        }
        entries.insert(at, entry);
        Ok(())
    }

    /// Calls `f` with name, help text and value of each: those registered singly, by name, then the groups'. In the same order each
    /// time, if none is registered meanwhile.
    pub fn for_each(&self, mut f: impl FnMut(&str, &str, u64)) {
        for entry in self.entries.read().iter() {
            f(&entry.name, entry.help, (entry.value)());
        }
        for group in self.groups.read().iter() {
            group(&mut f);
        }
    }
}

/// Writes name, help text and value of a counter in the text format of Prometheus, the name with `prefix` in front.
///
/// # Errors
/// The writer's.
pub fn write_prometheus(
    out: &mut dyn fmt::Write,
    prefix: &str,
    (name, help, value): (&str, &str, u64),
) -> fmt::Result {
    let kind = match name.ends_with("_total") {
        true => "counter",
        false => "gauge",
    };
    writeln!(out, "# HELP {prefix}{name} {help}")?;
    writeln!(out, "# TYPE {prefix}{name} {kind}")?;
    writeln!(out, "{prefix}{name} {value}")
}
