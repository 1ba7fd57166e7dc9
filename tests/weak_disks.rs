//! Disks that are slow, that stop for a while, and that take no writes any more, under a kernel with a megabyte of memory: it waits
//! as long as it takes, tells those who write what fails, and keeps what it said is stable.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rump_tests::disk::Format;
use rump_tests::guest::{Boot, Guest};
use rump_tests::hosted::Mounted;
use rump_tests::image::image;
use rump_tests::qmp;
use rump_tests::spoil::Image;
use rump_tests::{scratch, volume};
use rumpdev::md::MemoryDisk;
use rumpfs_ffs::check::check;

/// Much: the machine may be busy.
const LONG: Duration = Duration::from_secs(300);
/// Bytes of a volume.
const VOLUME: u64 = 24 << 20;
/// Of the trees of the image `acid` this part is written.
const PART: u32 = 16;
/// Trees, and threads.
const TREES: u32 = 2;

/// How the volume is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mount {
    Plain,
    Log,
}

fn volume(name: &str, mount: Mount) -> PathBuf {
    let disk = scratch("weak_disks").join(format!("{name}-{mount:?}"));
    volume::make(&disk, Format::UFS2, VOLUME);
    disk
}

/// A guest that does `steps` within a megabyte, on a disk by QEMU's own words.
fn boot<'a>(drive: &str, mount: Mount, steps: &str) -> Boot<'a> {
    let option = match mount {
        Mount::Plain => "rw",
        Mount::Log => "log",
    };
    let words = format!(
        "mount=ld0:/:ffs:{option} memlimit=1M threads={TREES} part={PART} steps={steps} counters"
    );
    Boot::new(image("acid"))
        .memory("32")
        .without_network()
        .keeping_writes()
        .append(&words)
        .limit(LONG)
        .qemu_arg("-drive")
        .qemu_arg(&format!("if=none,id=weak,format=raw,{drive}"))
        .qemu_arg("-device")
        .qemu_arg("virtio-blk-pci,drive=weak")
}

/// Waits for the guest's end. Memory was never given up.
fn ended(guest: &mut Guest) -> String {
    assert_eq!(guest.exit_status(LONG), 0, "{}", guest.console());
    let console = guest.console();
    assert!(!console.contains("out of memory"), "{console}");
    let line = guest.line_with("acid: high water").expect("the last line");
    assert!(line.ends_with(" 0 hopeless"), "{line}");
    println!("{line}");
    console
}

fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The disk takes two megabytes in a second, then none at all for longer than the pagedaemon has patience when nothing is under way.
fn slow(mount: Mount) {
    const STANDSTILL: Duration = Duration::from_secs(12);
    let disk = volume("slow", mount);
    let drive = format!("file={},throttling.bps-total={}", quoted(&disk), 2 << 20);
    let socket = qmp::Socket::new();
    let mut guest = socket
        .listen(boot(&drive, mount, "write,read,delete"))
        .start();
    let mut monitor = socket.connect();
    let deadline = Instant::now() + LONG;
    while monitor.written() < 4 << 20 {
        assert!(Instant::now() < deadline, "nothing is written");
        std::thread::sleep(Duration::from_millis(50));
    }
    monitor.throttle("weak", 1);
    let before = monitor.written();
    std::thread::sleep(STANDSTILL);
    let moved = monitor.written() - before;
    // What the throttle had let through already.
    assert!(moved < 1 << 20, "{moved} bytes were written meanwhile");
    assert!(guest.is_running());
    assert_eq!(guest.line_with("write"), None, "{}", guest.console());
    monitor.throttle("weak", 0);
    ended(&mut guest);
    volume::assert_clean(&disk);
    std::fs::remove_file(&disk).expect("our own file");
}

#[test]
fn on_a_disk_that_is_slow_and_stops_for_a_while_the_kernel_waits() {
    slow(Mount::Plain);
}

#[test]
fn on_a_disk_that_is_slow_and_stops_for_a_while_a_log_waits() {
    slow(Mount::Log);
}

/// Which writes fail.
enum Failing {
    /// All after so many.
    After(u32),
    /// Those that touch these bytes.
    Bytes(core::ops::Range<u64>),
}

impl Failing {
    /// For QEMU's block driver `blkdebug` (QEMU docs/devel/blkdebug.rst).
    fn rules(&self) -> String {
        let mut rules = String::new();
        let inject = "[inject-error]\nevent = \"write_aio\"\niotype = \"write\"\nerrno = \"5\"";
        let written = match self {
            Failing::After(count) => (1..*count)
                .try_for_each(|state| {
                    let next = state + 1;
                    writeln!(
                        rules,
                        "[set-state]\nstate = \"{state}\"\nevent = \"write_aio\"\nnew_state = \"{next}\""
                    )
                })
                .and_then(|()| writeln!(rules, "{inject}\nstate = \"{count}\"")),
            // A rule is about one sector, and no write is shorter than a fragment.
            Failing::Bytes(bytes) => (bytes.start / 512..bytes.end / 512)
                .step_by(Format::UFS2.fragment / 512)
                .try_for_each(|sector| writeln!(rules, "{inject}\nsector = \"{sector}\"")),
        };
        written.expect("a string takes it");
        rules
    }
}

/// The files of which the console says `what`.
fn files(console: &str, what: &str) -> Vec<String> {
    let lines = console.lines();
    let paths = lines.filter_map(|line| line.split_once(&format!("acid: {what} ")));
    paths.map(|(_, path)| path.trim().to_owned()).collect()
}

/// Every file that was said to be stable is on the volume, which is replayed if it has a log, and else repaired.
fn assert_stable(disk: &Path, mount: Mount, stable: &[String]) {
    let mut bytes = std::fs::read(disk).expect("our own file");
    if mount == Mount::Plain {
        let mut repaired = volume::Bytes(bytes);
        volume::repair(&mut repaired);
        bytes = repaired.0;
    }
    let memory = MemoryDisk::new(bytes);
    let mounted = Mounted::new(memory.clone(), "rw").expect("it can be mounted");
    let trees = (0..TREES).flat_map(|number| acid_tree::files(number, PART));
    let stable_ones = trees.filter(|file| stable.contains(&file.path));
    let mut count = 0;
    for file in stable_ones {
        let vnode = mounted.file(&file.path).expect("it is there");
        let found = mounted.read(&vnode, 0, file.size as usize + 1);
        let found = found.expect("it can be read");
        let mut wanted = vec![0; file.size as usize];
        acid_tree::fill(file.seed, 0, &mut wanted);
        assert!(found == wanted, "{}: {} bytes", file.path, found.len());
        count += 1;
    }
    assert_eq!(count, stable.len());
    mounted.end().expect("it can be unmounted");
    let report = memory.with_bytes(|bytes| check(&Image(bytes)).expect("it can be checked"));
    let wrong: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Times that a guest is let write until something of it was to go where nothing can.
const ATTEMPTS: usize = 10;

/// Lets guests write to a disk that does not take all of it.
fn fails(name: &str, failing: &Failing, mount: Mount) {
    let disk = volume(name, mount);
    let rules = disk.with_extension("rules");
    std::fs::write(&rules, failing.rules()).expect("a file under target");
    let drive = format!(
        "cache=writeback,file.driver=blkdebug,file.config={},file.image.driver=file,file.image.filename={}",
        quoted(&rules),
        quoted(&disk)
    );
    let mut attempt = 1;
    let (console, stable, told) = loop {
        let console = ended(&mut boot(&drive, mount, "insist").start());
        let (stable, told) = (files(&console, "stable"), files(&console, "told"));
        println!("{} files are stable, {} not", stable.len(), told.len());
        // The directories of the root go to groups that are chosen at random: now and then to none of a part of the disk.
        if told.is_empty() && matches!(failing, Failing::Bytes(_)) && attempt < ATTEMPTS {
            attempt += 1;
            volume(name, mount);
            continue;
        }
        break (console, stable, told);
    };
    assert!(!stable.is_empty() && !told.is_empty(), "{console}");
    if let Failing::After(_) = failing {
        // Of a part alone metadata need not be: then sync(2), which starts writing and waits for nothing, has nothing to tell.
        assert_eq!(files(&console, "sync:"), ["Err(EIO)"], "{console}");
    }
    assert_stable(&disk, mount, &stable);
    for path in [disk, rules] {
        std::fs::remove_file(path).expect("our own file");
    }
}

#[test]
fn on_a_disk_that_takes_no_more_writes_those_who_write_are_told_and_what_was_stable_is_there() {
    fails("dies", &Failing::After(600), Mount::Plain);
}

#[test]
fn on_a_disk_that_takes_no_more_writes_a_log_tells_and_has_what_was_stable() {
    fails("dies", &Failing::After(600), Mount::Log);
}

#[test]
fn where_a_part_of_a_disk_takes_no_writes_those_who_write_there_are_told() {
    let bytes = VOLUME / 3..VOLUME / 2;
    fails("bad", &Failing::Bytes(bytes), Mount::Plain);
}

#[test]
fn where_a_part_of_a_disk_takes_no_writes_a_log_tells_those_who_write_there() {
    let bytes = VOLUME / 3..VOLUME / 2;
    fails("bad", &Failing::Bytes(bytes), Mount::Log);
}
