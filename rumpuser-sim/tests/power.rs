//! The power goes, at any moment, and takes with it what the disk had not yet made stable: what was synced is there afterwards.
//!
//! Each test says how many cut points it has tried; `RUMP_SIM_TIMES=20 cargo sim-power` tries tens of thousands.

mod volume;

use powercut::history::{self, History};
use powercut::judge::{EVERYBODYS, Found, Rule, judge};
use rumpdev::disk::Disk;
use rumpdev::md::MemoryDisk;
use rumpfs_ffs::check::repair::repair;
use rumpfs_ffs::check::{Finding, check};
use rumpfs_ffs::disk::Metadata;
use rumpfs_ffs::superblock::{self, Clean, Flags, Superblock, Tolerance};
use rumpuser::Errno;
use rumpuser_sim::bio::{PowerCut, Record};
use rumpuser_sim::{Stream, Universe, sweep};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use volume::worker::{Expected, Worker};
use volume::{Image, System, Tree};

/// Cut points of a universe.
const CUTS: u64 = 25;
/// What a cut point is counted as.
const CUT_POINTS: &str = "cut points";

/// Whether the volume is mounted with a log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Log {
    /// It is repaired after a cut.
    None,
    /// It is replayed.
    Kept,
}

impl Log {
    fn options(self, discard: bool) -> &'static str {
        match (self, discard) {
            (Log::None, false) => "",
            (Log::None, true) => "discard",
            (Log::Kept, false) => "log",
            (Log::Kept, true) => "log,discard",
        }
    }
}

/// What a scenario left behind.
struct Recorded {
    system: System,
    record: Record,
    histories: Vec<History>,
    /// Before the first moment the volume was not mounted yet.
    begun: usize,
    /// While the volume was mounted for writing.
    mounted: Vec<Range<usize>>,
    /// Where the disk after a cut is looked at.
    after: Arc<MemoryDisk>,
}

/// Its name.
const AFTER: &str = "ld1";

/// A fresh volume, which is drawn; one that is to have a log has room for it, inside or behind.
fn fresh(universe: &Universe, stream: &mut Stream, log: Log) -> Vec<u8> {
    let (inside, behind) = match log {
        Log::None => (3 << 20, 0),
        Log::Kept if stream.chance(1, 2) => (3 << 20, (1 << 20) + stream.below(64) * 512),
        Log::Kept => (8 << 20, 0),
    };
    let geometry = volume::draw(stream, inside);
    universe.note(&format!("{behind} bytes behind {geometry:?}"));
    let mut bytes = volume::make(geometry);
    bytes.resize((inside + behind) as usize, 0);
    bytes
}

/// What the threads do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Everything.
    Mixed,
    /// Some write files and cut them off again, others see to it that there are commits meanwhile.
    Cutting,
}

impl Work {
    /// Thread `number` does its part.
    fn be_done(self, worker: &mut Worker, number: u64, steps: u64) {
        match (self, number % 2) {
            (Work::Mixed, _) => worker.work(steps),
            (Work::Cutting, 0) => worker.write_and_cut(steps),
            (Work::Cutting, _) => worker.commit(steps),
        }
    }
}

/// Lets `count` threads work on files, each of its own.
fn let_work(
    universe: &Universe,
    system: &System,
    (what, steps): (Work, u64),
    count: u64,
) -> Vec<History> {
    let mut workers = Vec::new();
    for number in 0..count as usize {
        let stream = universe.stream(&format!("worker {number}"));
        let own = (&system.vfs, &system.proc);
        let expected = Expected::default();
        workers.push(Worker::new(
            own,
            system.disk,
            stream,
            number,
            60_000,
            expected,
        ));
    }
    let finished = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = workers
        .into_iter()
        .zip(0..)
        .map(|(mut worker, number)| {
            let finished = finished.clone();
            let run = move || {
                what.be_done(&mut worker, number, steps);
                finished.lock().expect("nobody panicked").push(worker);
            };
            rump::thread::spawn("worker", run).expect("a thread")
        })
        .collect();
    for thread in threads {
        thread.join();
    }
    let workers = std::mem::take(&mut *finished.lock().expect("nobody panicked"));
    workers.into_iter().flat_map(Worker::histories).collect()
}

/// Works on a fresh volume, from before it is mounted until after it is unmounted, and records it.
fn work(universe: &Universe, log: Log, what: Work) -> Recorded {
    let mut stream = universe.stream("power");
    let bytes = fresh(universe, &mut stream, log);
    let threads = stream.between(1, 8);
    let steps = stream.between(30, 160) / threads + 4;
    let volatile_cache = stream.chance(2, 3);
    let memory = [512 << 10, 1 << 20, 8 << 20][stream.below(3) as usize];
    let options = log.options(stream.chance(1, 4));
    universe.note(&format!(
        "{threads} threads of {steps} steps, cache {volatile_cache}, {memory} bytes of memory, options {options:?}"
    ));
    let system = System::boot(universe, bytes, volatile_cache, memory);
    system.disk.start_record();
    let begun = system.disk.moment();
    let mount = system.mount("ld0", options).expect("it can be mounted");
    let since = system.disk.moment();
    system
        .vfs
        .mkdir(&system.proc, EVERYBODYS.as_bytes(), 0o777)
        .expect("made");
    let histories = let_work(universe, &system, (what, steps), threads);
    let mut mounted = Vec::new();
    mounted.push(since..system.disk.moment());
    if stream.chance(1, 2) {
        // For reading only, and back.
        system.vfs.remount(&mount, "ro").expect("nobody writes");
        let options = format!("rw,{options}");
        system.vfs.remount(&mount, &options).expect("as before");
        let since = system.disk.moment();
        let path = format!("{EVERYBODYS}/remounted");
        system
            .vfs
            .mkdir(&system.proc, path.as_bytes(), 0o777)
            .expect("made");
        mounted.push(since..system.disk.moment());
    }
    system.vfs.unmount(&mount).expect("it can be unmounted");
    let record = system.disk.take_record().expect("it was started");
    let after = MemoryDisk::new(system.disk.contents());
    system
        .vfs
        .add_device(Disk::new(1, after.clone()))
        .expect("room for a disk");
    Recorded {
        after,
        system,
        record,
        histories,
        begun,
        mounted,
    }
}

/// Mounts `image` in the system's kernel, and gives all that it shows.
fn look(system: &System, after: &MemoryDisk, image: &[u8], options: &str) -> Result<Tree, Errno> {
    after.with_bytes(|bytes| bytes.copy_from_slice(image));
    let mount = system.mount(AFTER, options)?;
    let mut tree = Tree::new();
    system.tree("", &mut tree).expect("all of it can be read");
    system.vfs.unmount(&mount).expect("it can be unmounted");
    Ok(tree)
}

fn findings(image: &dyn Metadata) -> Vec<String> {
    let report = check(image).expect("it can be checked");
    report.findings.iter().map(ToString::to_string).collect()
}

/// Repairs what a cut left.
fn repaired(image: Vec<u8>) -> (Vec<u8>, Vec<String>) {
    let mut image = Image(image);
    let repaired = repair(&mut image).expect("it can be repaired");
    let told = |report: &[Finding]| report.iter().map(ToString::to_string).collect::<Vec<_>>();
    let left = told(&repaired.left.findings);
    assert!(left.is_empty(), "{left:#?}");
    let again = findings(&image);
    assert!(again.is_empty(), "{again:#?}");
    (image.0, told(&repaired.repaired))
}

/// The volume on `image` without a log, after a cut at `moment`: repaired, and judged.
fn repair_and_judge(recorded: &Recorded, moment: usize, image: Vec<u8>) {
    let (image, found) = repaired(image);
    let tree = look(&recorded.system, &recorded.after, &image, "ro").expect("it can be mounted");
    judged(recorded, moment, &tree, Rule::Repaired, &found);
}

/// The volume on `image`, which is mounted with a log as a rule, after a cut at `moment`: replayed in one of all ways, and judged. Nothing
/// else is wrong with it.
fn replay_and_judge(recorded: &Recorded, moment: usize, image: Vec<u8>, stream: &mut Stream) {
    let sb = superblock_of(&image);
    let is_logged = sb.flags.contains(Flags::DOWAPBL);
    // While a log is made, and after one has ended, there is none that holds what changes.
    let (image, rule) = match is_logged || sb.clean == Clean::IS_CLEAN {
        true => (image, Rule::Replayed),
        false => (repaired(image).0, Rule::Repaired),
    };
    let options = ["ro", "", "log"][stream.below(3) as usize];
    let tree = look(&recorded.system, &recorded.after, &image, options);
    let tree = tree.unwrap_or_else(|errno| panic!("moment {moment}, {options}: {errno}"));
    judged(recorded, moment, &tree, rule, &[]);
    let left = recorded.after.with_bytes(|bytes| bytes.to_vec());
    if options == "ro" {
        // The files without a name that the log lists are freed when it is mounted for writing.
        assert!(left == image, "moment {moment}: it was mounted to read");
        return;
    }
    let wrong = findings(&Image(left));
    assert!(wrong.is_empty(), "moment {moment}, {options}: {wrong:#?}");
}

fn superblock_of(image: &[u8]) -> Superblock {
    superblock::find(&Image(image.to_vec()), Tolerance::default()).expect("a superblock")
}

/// A volume that was mounted at `moment` says that it has a log.
fn assert_logged(recorded: &Recorded, moment: usize, image: &[u8]) {
    let is_logged = superblock_of(image).flags.contains(Flags::DOWAPBL);
    let is_mounted = recorded.mounted.iter().any(|it| it.contains(&moment));
    assert!(is_logged || !is_mounted, "moment {moment}: it has no log");
}

/// Panics with all that is known unless `tree` is what may be there after a cut at `moment`.
fn judged(recorded: &Recorded, moment: usize, tree: &Tree, rule: Rule, repaired: &[String]) {
    let Err(what) = judge(tree, &recorded.histories, moment, rule) else {
        return;
    };
    let paths: Vec<String> = tree
        .iter()
        .map(|Found { path, ino, bytes }| {
            let id = history::identity(bytes);
            format!("  {path} inode {ino}, {} bytes of file {id:?}", bytes.len())
        })
        .collect();
    panic!(
        "the power went at moment {moment} of {}: {what}\nrepaired:\n  {}\nthere is:\n{}",
        recorded.record.len(),
        repaired.join("\n  "),
        paths.join("\n")
    );
}

/// The volume on `image` after a cut at `moment`: put in order as belongs to `log`, and judged.
fn recover_and_judge(
    recorded: &Recorded,
    moment: usize,
    image: Vec<u8>,
    (log, stream): (Log, &mut Stream),
) {
    match log {
        Log::None => repair_and_judge(recorded, moment, image),
        Log::Kept => {
            assert_logged(recorded, moment, &image);
            replay_and_judge(recorded, moment, image, stream);
        }
    }
}

/// Cuts at any moments.
fn cuts(universe: &Universe, log: Log, what: Work) {
    let recorded = work(universe, log, what);
    let mut stream = universe.stream("cuts");
    let moments = (recorded.record.len() - recorded.begun) as u64;
    for number in 0..CUTS {
        let moment = recorded.begun + stream.below(moments + 1) as usize;
        let how = match number % 4 {
            0 => PowerCut::Prefix,
            _ => PowerCut::Any(&mut stream),
        };
        universe.note(&format!("cut {number} at {moment}"));
        let image = recorded.record.cut(moment, how);
        recover_and_judge(&recorded, moment, image, (log, &mut stream));
        universe.count(CUT_POINTS, 1);
    }
    recorded.system.shutdown();
}

#[test]
fn what_was_synced_is_there_after_a_power_cut_and_a_repair() {
    sweep!(
        what_was_synced_is_there_after_a_power_cut_and_a_repair,
        12,
        |universe: &Universe| cuts(universe, Log::None, Work::Mixed),
        32 << 20
    );
}

#[test]
fn with_a_log_a_power_cut_leaves_whole_operations_and_all_that_was_synced() {
    sweep!(
        with_a_log_a_power_cut_leaves_whole_operations_and_all_that_was_synced and [37],
        12,
        |universe: &Universe| cuts(universe, Log::Kept, Work::Mixed),
        32 << 20
    );
}

#[test]
fn a_file_that_was_cut_off_while_others_committed_shows_nothing_of_another() {
    sweep!(
        a_file_that_was_cut_off_while_others_committed_shows_nothing_of_another,
        12,
        |universe: &Universe| cuts(universe, Log::Kept, Work::Cutting),
        32 << 20
    );
}

/// Cuts at every moment of a scenario: once with all that was written until then, once with any of it.
fn every_prefix(universe: &Universe, log: Log) {
    let recorded = work(universe, log, Work::Mixed);
    let mut stream = universe.stream("prefixes");
    for moment in recorded.begun..=recorded.record.len() {
        let image = recorded.record.cut(moment, PowerCut::Prefix);
        recover_and_judge(&recorded, moment, image, (log, &mut stream));
        universe.note(&format!("and any of it at {moment}"));
        let image = recorded.record.cut(moment, PowerCut::Any(&mut stream));
        recover_and_judge(&recorded, moment, image, (log, &mut stream));
        universe.count(CUT_POINTS, 2);
    }
    recorded.system.shutdown();
}

#[test]
fn every_prefix_of_what_was_written_has_what_was_synced() {
    sweep!(
        every_prefix_of_what_was_written_has_what_was_synced,
        1,
        |universe: &Universe| every_prefix(universe, Log::None)
    );
}

#[test]
fn every_prefix_of_what_was_written_with_a_log_is_replayed() {
    sweep!(
        every_prefix_of_what_was_written_with_a_log_is_replayed,
        1,
        |universe: &Universe| every_prefix(universe, Log::Kept)
    );
}

/// Cuts, and cuts again while the log is replayed.
fn cuts_of_our_replay(universe: &Universe) {
    let recorded = work(universe, Log::Kept, Work::Mixed);
    let mut stream = universe.stream("cuts of replays");
    let disk = recorded.system.disk;
    for _ in 0..4 {
        let during = &recorded.mounted[0];
        let moment = stream.between(during.start as u64, during.end as u64) as usize;
        let image = recorded.record.cut(moment, PowerCut::Any(&mut stream));
        universe.note(&format!("cut at {moment}"));
        replay_and_judge(&recorded, moment, image.clone(), &mut stream);
        disk.modify(|bytes| bytes.copy_from_slice(&image));
        disk.start_record();
        let options = ["", "log"][stream.below(2) as usize];
        let mount = recorded.system.mount("ld0", options);
        let mount = mount.expect("it can be mounted");
        recorded.system.vfs.unmount(&mount).expect("unmounted");
        let record = disk.take_record().expect("it was started");
        for _ in 0..5 {
            let again = stream.below(record.len() as u64 + 1) as usize;
            universe.note(&format!("and again at {again} of {}", record.len()));
            let image = record.cut(again, PowerCut::Any(&mut stream));
            replay_and_judge(&recorded, moment, image, &mut stream);
        }
        universe.count(CUT_POINTS, 6);
    }
    recorded.system.shutdown();
}

#[test]
fn a_replay_of_our_own_log_that_the_power_cuts_off_is_repeated() {
    sweep!(
        a_replay_of_our_own_log_that_the_power_cuts_off_is_repeated,
        4,
        cuts_of_our_replay,
        32 << 20
    );
}

/// Volumes that NetBSD left with a log to replay, with the trees that it shows afterwards.
const LOGGED: [&str; 4] = [
    "ffs1-log-cut-a",
    "ffs2-log-cut-a",
    "ffs2-log-cut-b",
    "ffs2-log-cut-16k",
];

/// Mounts a volume with a log, and cuts at any moment of the replay.
fn cuts_of_a_replay(universe: &Universe) {
    let mut stream = universe.stream("replay");
    let name = LOGGED[universe.seed() as usize % LOGGED.len()];
    let Some(logged) = rump_tests::disk::Disk::by_netbsd(name) else {
        return;
    };
    let bytes = std::fs::read(&logged.image).expect("the image");
    let system = System::boot(universe, bytes.clone(), true, 8 << 20);
    system.disk.start_record();
    let mount = system.mount("ld0", "").expect("it can be mounted");
    system.vfs.unmount(&mount).expect("it can be unmounted");
    let record = system.disk.take_record().expect("it was started");
    universe.note(&format!("{name}: {} moments", record.len()));
    assert!(record.len() > 2, "{name} was not replayed");
    let after = MemoryDisk::new(bytes);
    system
        .vfs
        .add_device(Disk::new(1, after.clone()))
        .expect("room for a disk");
    for _ in 0..CUTS {
        let moment = stream.below(record.len() as u64 + 1) as usize;
        let image = record.cut(moment, PowerCut::Any(&mut stream));
        // Once the log is done with, and before the volume is unmounted, it wants a check, and has nothing to find.
        let tree = look(&system, &after, &image, "").or_else(|errno| match errno {
            Errno::EROFS => look(&system, &after, &image, "ro"),
            errno => Err(errno),
        });
        let tree = tree.expect("it can be mounted");
        for Found { path, bytes, .. } in &tree {
            let found = rump_tests::tree::fingerprint(bytes);
            let expected = logged.tree.nodes.get(path.trim_start_matches('/'));
            assert_eq!(Some(&found), expected, "{name}, cut at {moment}: {path}");
        }
        let is_file =
            |node: &&rump_tests::tree::Node| matches!(node, rump_tests::tree::Node::File { .. });
        let files = logged.tree.nodes.values().filter(is_file).count();
        assert_eq!(tree.len(), files, "{name}, cut at {moment}");
        let left = after.with_bytes(|bytes| bytes.to_vec());
        let report = check(&Image(left)).expect("it can be checked");
        let findings: Vec<String> = report.findings.iter().map(|f| f.to_string()).collect();
        assert!(
            findings.is_empty(),
            "{name}, cut at {moment}: {findings:#?}"
        );
        universe.count(CUT_POINTS, 1);
    }
    system.shutdown();
}

#[test]
fn a_replay_that_the_power_cuts_off_is_repeated() {
    sweep!(
        a_replay_that_the_power_cuts_off_is_repeated,
        4,
        cuts_of_a_replay,
        64 << 20
    );
}
