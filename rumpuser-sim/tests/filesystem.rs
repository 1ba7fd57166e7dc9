//! Threads that make, write, rename, cut, sync and remove files on an FFS, with and without a log, while the disk is slow, the disk fails, memory
//! is short, slow to come or refused, and the volume fills up.

mod refusal;
mod volume;

use rumpfs_ffs::check::repair::repair;
use rumpfs_ffs::check::{Finding, check};
use rumpfs_ffs::superblock::{self, Clean, Tolerance};
use rumpuser::Errno;
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
    /// Allocations are refused now and then.
    RefusedMemory,
    /// Reads fail now and then.
    FailingReads,
    /// Reads and writes fail now and then.
    FailingDisk,
    /// The volume is too small.
    FullVolume,
    /// The disk has less room than it says.
    FullDisk,
    /// Others take all memory, again and again: an allocation waits, or fails.
    ScarceMemory,
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

/// What a volume with a log has to bear: above all, that memory is short.
const TROUBLES_WITH_A_LOG: [Trouble; 9] = [
    Trouble::None,
    Trouble::SlowDisk,
    Trouble::RefusedMemory,
    Trouble::ScarceMemory,
    Trouble::ScarceMemory,
    Trouble::FailingReads,
    Trouble::FailingDisk,
    Trouble::FullVolume,
    Trouble::FullDisk,
];

/// A universe whose threads have not come to an end by then hangs.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

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
            Trouble::ScarceMemory => refusal::begin_to_hog(stream),
        }
        system.disk.set_faults(faults);
    }

    fn end(self, system: &System) {
        system.disk.set_faults(DiskFaults::NONE);
        system.disk.make_thin(u64::MAX);
        refusal::end();
    }
}

/// What a sweep of the mixed work is about.
struct Mixed {
    troubles: &'static [Trouble],
    /// Whether the volume is mounted with a log.
    log: bool,
    /// The kernel's memory is one of these.
    memory: [usize; 4],
    /// At least so many threads.
    threads: u64,
}

const WITHOUT_A_LOG: Mixed = Mixed {
    troubles: &TROUBLES,
    log: false,
    memory: [512 << 10, 1 << 20, 3 << 20, 8 << 20],
    threads: 1,
};

const WITH_A_LOG: Mixed = Mixed {
    troubles: &TROUBLES_WITH_A_LOG,
    log: true,
    memory: [512 << 10, 512 << 10, 1 << 20, 8 << 20],
    threads: 2,
};

fn mixed_work(universe: &Universe, mixed: &Mixed) {
    universe.must_end_within(PATIENCE);
    let mut stream = universe.stream("mixed");
    let trouble = mixed.troubles[stream.below(mixed.troubles.len() as u64) as usize];
    let size = if trouble == Trouble::FullVolume {
        1 << 20
    } else {
        6 << 20
    };
    let options = volume::draw(&mut stream, size);
    let memory = mixed.memory[stream.below(4) as usize];
    let threads = stream.between(mixed.threads, 8);
    let steps = stream.between(20, 200) / threads + 5;
    universe.note(&format!(
        "{trouble:?}, {memory} bytes of memory, {threads} threads of {steps} steps, {options:?}"
    ));
    let mut bytes = volume::make(options);
    if mixed.log {
        // Room for a log, behind the volume.
        bytes.resize(bytes.len() + (1 << 20), 0);
    }
    let system = System::boot(universe, bytes, stream.chance(1, 2), memory);
    let how = if mixed.log { "log" } else { "" };
    let mount = system.mount("ld0", how).expect("it can be mounted");
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
    sweep!(
        mixed_work_in_all_sorts_of_trouble and [7546, 8716],
        200,
        |universe: &Universe| mixed_work(universe, &WITHOUT_A_LOG)
    );
}

#[test]
fn mixed_work_with_a_log_in_all_sorts_of_trouble() {
    sweep!(
        mixed_work_with_a_log_in_all_sorts_of_trouble,
        200,
        |universe: &Universe| mixed_work(universe, &WITH_A_LOG)
    );
}

/// Threads work with a log in 512 KiB, and one allocation that they ask for is refused: the one that the seed says.
fn one_allocation_is_refused(universe: &Universe) {
    universe.must_end_within(PATIENCE);
    let mut stream = universe.stream("refused");
    let options = volume::draw(&mut stream, 2 << 20);
    let mut bytes = volume::make(options);
    bytes.resize(bytes.len() + (1 << 20), 0);
    let system = System::boot(universe, bytes, true, 512 << 10);
    // From here on, until it is ended, the kernel may come to need any allocation of it.
    refusal::once(universe, universe.seed() + 1);
    let mount = system.mount("ld0", "log").or_else(|errno| {
        assert_eq!(errno, Errno::ENOMEM);
        system.mount("ld0", "log")
    });
    let mount = mount.expect("there is memory the second time");
    let expected = Expected {
        failures: true,
        losses: false,
    };
    let finished = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = (0..4)
        .filter_map(|number| {
            let made = (0..2).find_map(|_| {
                let stream = universe.stream(&format!("worker {number}"));
                let own = (&system.vfs, &system.proc);
                Worker::try_new(own, system.disk, stream, number, 60_000, expected).ok()
            });
            let mut worker = made.expect("one allocation is refused, not two");
            let finished = finished.clone();
            let run = move || {
                worker.work(12);
                finished.lock().expect("nobody panicked").push(worker);
            };
            rump::thread::spawn("worker", run).ok()
        })
        .collect();
    for thread in threads {
        thread.join();
    }
    universe.count("refused", u64::from(refusal::end()));
    let workers = std::mem::take(&mut *finished.lock().expect("nobody panicked"));
    for mut worker in workers {
        worker.verify_all(Expected::default());
    }
    system.vfs.unmount(&mount).expect("it can be unmounted");
    judge(system.disk.contents(), Trouble::RefusedMemory);
    system.shutdown();
}

#[test]
fn any_allocation_may_be_refused_while_a_log_is_kept() {
    sweep!(
        any_allocation_may_be_refused_while_a_log_is_kept,
        800,
        one_allocation_is_refused
    );
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
        rot: stream.below(20_000),
        lost_write: stream.below(10_000),
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
