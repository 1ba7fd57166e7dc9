//! What happened in a universe: a line an event for people, a sum of them all for comparing.
//!
//! A line is `SECONDS MACHINE/THREAD EVENT`; what the scheduler and devices do by themselves has `-` for the thread. Lines are only put
//! together when somebody keeps them; the sum is kept always, of the numbers that make the lines.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// What kind of event a line is about; the first word of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A thread gets the processor.
    Run,
    /// A thread is made.
    Spawn,
    /// A thread ends.
    End,
    /// A thread waits.
    Park,
    /// A thread is given its token.
    Unpark,
    /// A thread is taken off the processor, or lets others go first.
    Preempt,
    /// A disk does something.
    Disk,
    /// A wire does something.
    Wire,
    /// Something fails on purpose.
    Fault,
    /// Random bytes are handed out.
    Random,
    /// A line on a console.
    Console,
    /// What a scenario says.
    Note,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Run => "run",
            Kind::Spawn => "spawn",
            Kind::End => "end",
            Kind::Park => "park",
            Kind::Unpark => "unpark",
            Kind::Preempt => "preempt",
            Kind::Disk => "disk",
            Kind::Wire => "wire",
            Kind::Fault => "FAULT",
            Kind::Random => "random",
            Kind::Console => "console",
            Kind::Note => "note",
        }
    }
}

/// The trace of a universe.
#[derive(Default)]
pub(crate) struct Trace {
    sum: u64,
    events: u64,
    sink: Option<BufWriter<File>>,
}

impl Trace {
    /// Keeps the lines from now on, in the file `path`.
    pub(crate) fn keep(&mut self, path: &Path) -> std::io::Result<()> {
        self.sink = Some(BufWriter::new(File::create(path)?));
        Ok(())
    }

    /// Notes an event: `numbers` is what distinguishes it from others of its kind.
    pub(crate) fn event(
        &mut self,
        kind: Kind,
        now: u64,
        numbers: [u64; 3],
        who: &dyn fmt::Display,
        text: fmt::Arguments<'_>,
    ) {
        self.events += 1;
        for number in [kind as u64, now].into_iter().chain(numbers) {
            // Fowler, Noll, Vo: FNV-1a, a word at a time.
            self.sum = (self.sum ^ number).wrapping_mul(0x0000_0100_0000_01b3);
            self.sum ^= self.sum >> 29;
        }
        if let Some(sink) = &mut self.sink {
            let (seconds, nanos) = (now / 1_000_000_000, now % 1_000_000_000);
            let word = kind.word();
            // A disk that is full must not change what the universe does.
            let _ = writeln!(sink, "{seconds:6}.{nanos:09} {who} {word} {text}");
        }
    }

    /// What identifies all that happened.
    pub(crate) fn sum(&self) -> u64 {
        self.sum
    }

    /// How much happened.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// Writes what is kept in memory.
    pub(crate) fn flush(&mut self) {
        if let Some(sink) = &mut self.sink {
            let _ = sink.flush();
        }
    }
}
