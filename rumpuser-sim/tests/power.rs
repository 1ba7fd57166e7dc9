//! The power goes, at any moment, and takes with it what the disk had not yet made stable: what was synced is there afterwards.

mod volume;

use powercut::history::{self, History};
use powercut::judge::{Found, Rule, judge};
use rumpdev::disk::Disk;
use rumpdev::md::MemoryDisk;
use rumpfs_ffs::check::check;
use rumpfs_ffs::check::repair::repair;
use rumpuser::Errno;
use rumpuser_sim::bio::{PowerCut, Record};
use rumpuser_sim::{Universe, sweep};
use rumpvfs::vnode::Wait;
use std::sync::{Arc, Mutex};
use volume::worker::{Expected, Worker};
use volume::{Image, System, Tree};

/// Cut points of a universe.
const CUTS: u64 = 25;

/// What a scenario left behind.
struct Recorded {
    system: System,
    record: Record,
    histories: Vec<History>,
    /// Before this moment the volume was being set up.
    begun: usize,
    /// Where the disk after a cut is looked at.
    after: Arc<MemoryDisk>,
}

/// Its name.
const AFTER: &str = "ld1";

/// Works on a fresh volume, mounted with `options`, and records it.
fn work(universe: &Universe, options: &str) -> Recorded {
    let mut stream = universe.stream("power");
    let geometry = volume::draw(&mut stream, 3 << 20);
    let threads = stream.between(1, 8);
    let steps = stream.between(30, 160) / threads + 4;
    let volatile_cache = stream.chance(2, 3);
    let memory = [1 << 20, 8 << 20][stream.below(2) as usize];
    universe.note(&format!(
        "{threads} threads of {steps} steps, cache {volatile_cache}, {geometry:?}"
    ));
    let system = System::boot(universe, volume::make(geometry), volatile_cache, memory);
    let mount = system.mount("ld0", options).expect("it can be mounted");
    system
        .vfs
        .mkdir(&system.proc, b"/everybody", 0o777)
        .expect("made");
    let mut workers = Vec::new();
    for number in 0..threads as usize {
        let stream = universe.stream(&format!("worker {number}"));
        let own = (&system.vfs, &system.proc);
        workers.push(Worker::new(
            own,
            system.disk,
            stream,
            number,
            60_000,
            Expected::default(),
        ));
    }
    system.vfs.sync(Wait::Stable).expect("synced");
    system.disk.start_record();
    let begun = system.disk.moment();
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
    let workers = std::mem::take(&mut *finished.lock().expect("nobody panicked"));
    let histories = workers.into_iter().flat_map(Worker::histories).collect();
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

/// Cuts at `moment`, repairs, looks.
fn cut_and_repair(recorded: &Recorded, moment: usize, how: PowerCut<'_>) {
    let mut image = Image(recorded.record.cut(moment, how));
    let repaired = repair(&mut image).expect("it can be repaired");
    let left: Vec<String> = repaired
        .left
        .findings
        .iter()
        .map(|f| f.to_string())
        .collect();
    assert!(left.is_empty(), "{left:#?}");
    let again = check(&image).expect("it can be checked");
    assert!(again.is_consistent());
    let tree = look(&recorded.system, &recorded.after, &image.0, "ro").expect("it can be mounted");
    if let Err(what) = judge(&tree, &recorded.histories, moment, Rule::Repaired) {
        let found: Vec<String> = repaired.repaired.iter().map(|f| format!("  {f}")).collect();
        let paths: Vec<String> = tree
            .iter()
            .map(|Found { path, ino, bytes }| {
                let id = history::identity(bytes);
                format!("  {path} inode {ino}, {} bytes of file {id:?}", bytes.len())
            })
            .collect();
        panic!(
            "the power went at moment {moment} of {}: {what}\nrepaired:\n{}\nthere is:\n{}",
            recorded.record.len(),
            found.join("\n"),
            paths.join("\n")
        );
    }
}

fn cuts_without_a_log(universe: &Universe) {
    let recorded = work(universe, "");
    let mut stream = universe.stream("cuts");
    let moments = (recorded.record.len() - recorded.begun) as u64;
    for number in 0..CUTS {
        let moment = recorded.begun + stream.below(moments + 1) as usize;
        let how = match number % 4 {
            0 => PowerCut::Prefix,
            _ => PowerCut::Any(&mut stream),
        };
        universe.note(&format!("cut {number} at {moment}"));
        cut_and_repair(&recorded, moment, how);
    }
    recorded.system.shutdown();
}

#[test]
fn what_was_synced_is_there_after_a_power_cut_and_a_repair() {
    sweep!(
        what_was_synced_is_there_after_a_power_cut_and_a_repair,
        12,
        cuts_without_a_log,
        32 << 20
    );
}

/// Cuts at every moment of a scenario.
fn every_prefix(universe: &Universe) {
    let recorded = work(universe, "");
    let moments = recorded.begun..=recorded.record.len();
    for moment in moments.clone() {
        cut_and_repair(&recorded, moment, PowerCut::Prefix);
    }
    universe.note(&format!("{moments:?}"));
    recorded.system.shutdown();
}

#[test]
fn every_prefix_of_what_was_written_has_what_was_synced() {
    sweep!(
        every_prefix_of_what_was_written_has_what_was_synced,
        1,
        every_prefix
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
