//! Threads that make, write, rename, cut, sync and remove files on an FFS, while the disk is slow, the disk fails, memory is short or refused,
//! and the volume fills up.

mod refusal;
mod volume;

use rumpfs_ffs::check::repair::repair;
use rumpfs_ffs::check::{Finding, check};
use rumpfs_ffs::superblock::{self, Clean, Tolerance};
use rumpuser_sim::bio::DiskFaults;
use rumpuser_sim::{Stream, Universe, sweep};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use volume::worker::{Expected, Worker};
use volume::{Image, System};

/// What a universe has against its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    SlowDisk,
    /// Allocations of pages are refused now and then.
    RefusedMemory,
    /// Reads fail now and then.
    FailingReads,
    /// Reads and writes fail now and then.
    FailingDisk,
    /// The volume is too small.
    FullVolume,
    /// The disk has less room than it says.
    FullDisk,
}

const TROUBLES: [Trouble; 7] = [
    Trouble::None,
    Trouble::SlowDisk,
    Trouble::RefusedMemory,
    Trouble::FailingReads,
    Trouble::FailingDisk,
    Trouble::FullVolume,
    Trouble::FullDisk,
];

impl Trouble {
    /// Whether calls may fail.
    fn fails_calls(self) -> bool {
        !matches!(self, Trouble::None | Trouble::SlowDisk)
    }

    /// Whether writes may be lost for good, so that the volume needs a repair.
    fn loses_writes(self) -> bool {
        matches!(self, Trouble::FailingDisk | Trouble::FullDisk)
    }

    fn begin(self, universe: Universe, system: &System, mut stream: Stream) {
        let mut faults = DiskFaults::NONE;
        match self {
            Trouble::None | Trouble::FullVolume => {}
            Trouble::SlowDisk => {
                faults.slowest = 50_000_000;
                faults.stall = 20_000;
            }
            Trouble::RefusedMemory => refusal::begin(universe, stream),
            Trouble::FailingReads => faults.read_error = 20_000,
            Trouble::FailingDisk => {
                faults.read_error = 5000;
                faults.write_error = 20_000;
                faults.flush_error = 5000;
            }
            Trouble::FullDisk => system.disk.make_thin(stream.between(100, 2000)),
        }
        system.disk.set_faults(faults);
    }

    fn end(self, system: &System) {
        system.disk.set_faults(DiskFaults::NONE);
        system.disk.make_thin(u64::MAX);
        refusal::end();
    }
}

fn mixed_work(universe: &Universe) {
    let mut stream = universe.stream("mixed");
    let trouble = TROUBLES[stream.below(TROUBLES.len() as u64) as usize];
    let size = if trouble == Trouble::FullVolume {
        1 << 20
    } else {
        6 << 20
    };
    let options = volume::draw(&mut stream, size);
    let memory = [512 << 10, 1 << 20, 3 << 20, 8 << 20][stream.below(4) as usize];
    let threads = stream.between(1, 8);
    let steps = stream.between(20, 200) / threads + 5;
    universe.note(&format!(
        "{trouble:?}, {memory} bytes of memory, {threads} threads of {steps} steps, {options:?}"
    ));
    let system = System::boot(universe, volume::make(options), stream.chance(1, 2), memory);
    let mount = system.mount("ld0", "").expect("it can be mounted");
    system
        .vfs
        .mkdir(&system.proc, b"/everybody", 0o777)
        .expect("made");
    let expected = Expected {
        failures: trouble.fails_calls(),
        losses: trouble.loses_writes(),
    };
    let mut workers = Vec::new();
    for number in 0..threads as usize {
        let stream = universe.stream(&format!("worker {number}"));
        let own = (&system.vfs, &system.proc);
        let most = if trouble == Trouble::FullVolume {
            200_000
        } else {
            60_000
        };
        workers.push(Worker::new(
            own,
            system.disk,
            stream,
            number,
            most,
            expected,
        ));
    }
    trouble.begin(*universe, &system, universe.stream("trouble"));
    let finished = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = workers
        .into_iter()
        .map(|mut worker| {
            let finished = finished.clone();
            let run = move || {
                worker.work(steps);
                finished.lock().expect("nobody panicked").push(worker);
            };
            rump::thread::spawn("worker", run).expect("a thread")
        })
        .collect();
    for thread in threads {
        thread.join();
    }
    // The syncer has had its turn, too.
    universe.sleep(Duration::from_secs(stream.below(90)));
    trouble.end(&system);
    let mut workers = std::mem::take(&mut *finished.lock().expect("nobody panicked"));
    if !trouble.loses_writes() {
        for worker in &mut workers {
            worker.verify_all(Expected::default());
        }
    }
    drop(workers);
    let unmounted = system.vfs.unmount(&mount);
    assert!(unmounted.is_ok() || trouble.loses_writes(), "{unmounted:?}");
    judge(system.disk.contents(), trouble);
    system.shutdown();
}

/// Nothing is wrong with the volume that is left. If calls failed half-way, it may say that it is to be checked; then a repair makes it whole,
/// and finds nothing that it would have to guess at.
fn judge(bytes: Vec<u8>, trouble: Trouble) {
    let mut image = Image(bytes);
    let report = check(&image).expect("it can be checked");
    let text = |findings: &[Finding]| {
        findings
            .iter()
            .map(|f| format!("  {f}\n"))
            .collect::<String>()
    };
    if report.is_consistent() {
        return;
    }
    assert!(trouble.fails_calls(), "{}", text(&report.findings));
    let superblock = superblock::find(&image, Tolerance { force: true }).expect("it has one");
    assert!(
        superblock.clean.0 & Clean::IS_CLEAN.0 == 0,
        "it says that it is clean:\n{}",
        text(&report.findings)
    );
    let fatal = report.findings.iter().any(is_fatal);
    assert!(
        !fatal || trouble.loses_writes(),
        "{}",
        text(&report.findings)
    );
    let left = repair(&mut image).expect("it can be repaired").left;
    assert!(left.is_consistent(), "{}", text(&left.findings));
}

/// What must not be left behind, as no repair could tell what is right.
fn is_fatal(finding: &Finding) -> bool {
    matches!(
        finding,
        Finding::Duplicate { .. }
            | Finding::NameOfNothing { .. }
            | Finding::NameType { .. }
            | Finding::Root
            | Finding::Dot { .. }
            | Finding::Corrupt(_)
    )
}

#[test]
fn mixed_work_in_all_sorts_of_trouble() {
    sweep!(mixed_work_in_all_sorts_of_trouble, 200, mixed_work);
}

/// Bits change under way, and sectors break for good. What calls answer is theirs to say; that they answer is looked at, and that the
/// kernel goes on.
fn rotten_disk(universe: &Universe) {
    let mut stream = universe.stream("rot");
    let options = volume::draw(&mut stream, 3 << 20);
    let system = System::boot(universe, volume::make(options), false, 2 << 20);
    let mount = system.mount("ld0", "").expect("it can be mounted");
    for directory in ["/everybody", "/everybody/a", "/everybody/a/b"] {
        system
            .vfs
            .mkdir(&system.proc, directory.as_bytes(), 0o777)
            .expect("made");
    }
    let faults = DiskFaults {
        read_rot: stream.between(5000, 100_000),
        permanent: stream.below(10_000),
        write_error: stream.below(10_000),
        ..DiskFaults::NONE
    };
    universe.note(&format!("{faults:?}, {options:?}"));
    system.disk.set_faults(faults);
    let threads: Vec<_> = (0..stream.between(1, 5))
        .map(|number| {
            let (vfs, proc) = (system.vfs.clone(), system.proc.clone());
            let stream = universe.stream(&format!("vandal {number}"));
            let run = move || volume::worker::do_anything(&vfs, &proc, stream, 60);
            rump::thread::spawn("vandal", run).expect("a thread")
        })
        .collect();
    for thread in threads {
        thread.join();
    }
    universe.sleep(Duration::from_secs(60));
    let _ = system.vfs.unmount(&mount);
    system.disk.set_faults(DiskFaults::NONE);
    // What was spoiled on its way back to the disk may be beyond repair; it is said, not stumbled over.
    let mut image = Image(system.disk.contents());
    let _ = repair(&mut image);
    system.shutdown();
}

#[test]
fn a_rotten_disk_gets_answers_and_no_panic() {
    sweep!(a_rotten_disk_gets_answers_and_no_panic, 100, rotten_disk);
}
