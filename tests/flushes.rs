//! What is asked of a disk's cache: flushes where correctness needs them, and nowhere else. The counts are those of one step at a
//! time, on a disk with a volatile cache; one without is never asked.
//!
//! A commit of a log takes two: one so that the records are stable before the header that makes them count, one for the header.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rump_tests::disk::Format;
use rump_tests::hosted::Mounted;
use rump_tests::spoil::Image;
use rump_tests::{scratch, volume};
use rumpdev::disk::Backend;
use rumpdev::md::MemoryDisk;
use rumpfs_ffs::check::check;
use rumpfs_ffs::journal::{self, Sectors};
use rumpfs_ffs::superblock::{self, Tolerance};
use rumpkern::proc::Proc;
use rumpkern::uvm::dma::{Bio, BioOp};
use rumpkern::{curproc, lwp};
use rumpuser::{BlockInfo, Errno};
use rumpvfs::Vfs;
use rumpvfs::syscalls::{self, OpenFlags};
use rumpvfs::vnode::Wait;

const NEW: OpenFlags = OpenFlags::READ
    .union(OpenFlags::WRITE)
    .union(OpenFlags::CREAT);

/// A disk in memory that says it has a cache, or none, and counts.
struct Counting {
    memory: Arc<MemoryDisk>,
    info: BlockInfo,
    flushes: AtomicU64,
    writes: AtomicU64,
    written: AtomicU64,
    /// Flushes wait meanwhile.
    held: AtomicBool,
}

impl Counting {
    fn new(bytes: Vec<u8>, volatile_cache: bool) -> Arc<Counting> {
        let memory = MemoryDisk::new(bytes);
        let info = BlockInfo {
            volatile_cache,
            ..memory.info().clone()
        };
        Arc::new(Counting {
            memory,
            info,
            flushes: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            written: AtomicU64::new(0),
            held: AtomicBool::new(false),
        })
    }

    /// How many flushes and writes `step` costs.
    fn cost<T>(&self, step: impl FnOnce() -> T) -> (u64, u64) {
        let counts = || [&self.flushes, &self.writes].map(|count| count.load(Ordering::SeqCst));
        let before = counts();
        step();
        let after = counts();
        (after[0] - before[0], after[1] - before[1])
    }

    fn bytes_written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    fn bytes(&self) -> Vec<u8> {
        self.memory.with_bytes(|bytes| bytes.to_vec())
    }
}

impl Backend for Counting {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        match bio.op {
            BioOp::Flush => {
                self.flushes.fetch_add(1, Ordering::SeqCst);
                while self.held.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            BioOp::Write => {
                self.writes.fetch_add(1, Ordering::SeqCst);
                let bytes: usize = bio.frames.iter().map(|io| io.len).sum();
                self.written.fetch_add(bytes as u64, Ordering::SeqCst);
            }
            BioOp::Read | BioOp::Discard { .. } => {}
        }
        self.memory.start(bio)
    }
}

/// An empty volume, which has a log already if it is to be mounted with one.
fn empty(log: bool) -> Vec<u8> {
    let folder = tempfile::tempdir_in(scratch("flushes")).expect("a folder under target");
    let image = folder.path().join("image");
    volume::make(&image, Format::UFS2, 16 << 20);
    let bytes = std::fs::read(&image).expect("the image");
    if !log {
        return bytes;
    }
    let disk = MemoryDisk::new(bytes);
    let mounted = Mounted::new(disk.clone(), "rw,log").expect("mounted");
    mounted.end().expect("unmounted");
    disk.with_bytes(|bytes| bytes.to_vec())
}

fn mounted(disk: &Arc<Counting>, options: &str) -> Mounted {
    Mounted::new(disk.clone(), options).expect("mounted")
}

fn process() -> Arc<Proc> {
    curproc().expect("the thread is an lwp")
}

/// Makes a file, or writes it anew, and has it stable.
fn put_and_sync(vfs: &Vfs, proc: &Proc, path: &str) {
    let file = vfs.open(proc, path.as_bytes(), NEW, 0o644).expect("a file");
    file.write_at(0, &[7; 20_000]).expect("room");
    syscalls::fsync(&file).expect("synced");
}

#[test]
fn an_fsync_with_a_log_is_two_flushes_and_what_is_stable_needs_none() {
    let disk = Counting::new(empty(true), true);
    let mounted = mounted(&disk, "rw,log");
    let (vfs, proc) = (&mounted.vfs, &process());
    put_and_sync(vfs, proc, "/first");
    let (flushes, writes) = disk.cost(|| put_and_sync(vfs, proc, "/second"));
    assert_eq!(flushes, 2);
    assert!(writes > 0);
    // Written over in place: the data and a time.
    assert_eq!(disk.cost(|| put_and_sync(vfs, proc, "/second")).0, 2);
    let file = vfs.open(proc, b"/second", NEW, 0o644).expect("a file");
    let again = disk.cost(|| syscalls::fsync(&file).expect("synced"));
    assert_eq!(again, (0, 0), "nothing was written");
    // When the directory was last looked at.
    vfs.sync(Wait::Stable).expect("synced");
    let again = disk.cost(|| vfs.sync(Wait::Stable).expect("synced"));
    assert_eq!(again, (0, 0), "nothing was written");
    // What nobody waits for costs none.
    let (flushes, _) = disk.cost(|| {
        for n in 0..20 {
            vfs.mkdir(proc, format!("/d{n}").as_bytes(), 0o755)
                .expect("a directory");
        }
    });
    assert_eq!(flushes, 0);
    let (flushes, _) = disk.cost(|| vfs.sync(Wait::Stable).expect("synced"));
    assert_eq!(flushes, 2, "twenty directories are one commit");
    drop(file);
    mounted.end().expect("unmounted");
}

#[test]
fn however_often_the_log_goes_round_a_commit_is_two_flushes() {
    let disk = Counting::new(empty(true), true);
    let mounted = mounted(&disk, "rw,log");
    let (vfs, proc) = (&mounted.vfs, &process());
    put_and_sync(vfs, proc, "/first");
    let (mut bytes, start) = (0, disk.bytes_written());
    for n in 0..400 {
        // New names and old ones: some blocks are changed by every commit, others once.
        let path = format!("/{}", n % 150);
        let (flushes, _) = disk.cost(|| put_and_sync(vfs, proc, &path));
        assert_eq!(flushes, 2, "{n}");
        bytes = disk.bytes_written() - start;
    }
    assert!(bytes > 4 << 20, "the log of 1 MiB went round: {bytes}");
    let log = {
        let image = disk.bytes();
        let sb = superblock::find(&Image(&image), Tolerance::default()).expect("a superblock");
        journal::read(&sb, &Sectors(&Image(&image)), u64::MAX).expect("it is sound")
    };
    println!("{} bytes of the log are in use", log.used());
    assert!(log.used() < 512 << 10, "{}", log.used());
    mounted.end().expect("unmounted");
    let report = check(&Image(&disk.bytes())).expect("it can be checked");
    assert!(report.is_consistent(), "{:?}", report.findings);
}

#[test]
fn an_fsync_without_a_log_is_flushed_too_and_what_is_stable_needs_none() {
    let disk = Counting::new(empty(false), true);
    let mounted = mounted(&disk, "rw");
    let (vfs, proc) = (&mounted.vfs, &process());
    put_and_sync(vfs, proc, "/file");
    let file = vfs.open(proc, b"/file", NEW, 0o644).expect("a file");
    syscalls::fsync(&file).expect("synced");
    vfs.sync(Wait::Stable).expect("synced");
    let again = disk.cost(|| syscalls::fsync(&file).expect("synced"));
    assert_eq!(again, (0, 0), "nothing was written");
    // The data are stable before the inode.
    file.write_at(0, &[8; 4096]).expect("room");
    let (flushes, writes) = disk.cost(|| syscalls::fsync(&file).expect("synced"));
    assert!(writes > 0);
    assert_eq!(flushes, 2);
    drop(file);
    mounted.end().expect("unmounted");
}

#[test]
fn a_mount_and_an_unmount_with_a_log_cost_a_few_and_without_changes_and_log_none() {
    let disk = Counting::new(empty(false), true);
    let unchanged = disk.bytes();
    // To be written, it ends with a flush of what others may have left in the cache.
    for (options, flushes) in [("", 0), ("rw", 1)] {
        let cost = disk.cost(|| mounted(&disk, options).end().expect("unmounted"));
        assert_eq!(cost, (flushes, 0), "{options}");
    }
    assert!(disk.bytes() == unchanged);
    let disk = Counting::new(empty(true), true);
    let mut kept = None;
    let (flushes, _) = disk.cost(|| kept = Some(mounted(&disk, "rw,log")));
    println!("a mount with a log: {flushes} flushes");
    // What was there before; two headers; a commit; its checkpoint.
    assert_eq!(flushes, 1 + 2 + 2 + 2);
    let kept = kept.expect("it was mounted");
    let (flushes, _) = disk.cost(|| kept.end().expect("unmounted"));
    println!("an unmount of it: {flushes} flushes");
    // A commit and its checkpoint that say so; the clean superblock.
    assert!(flushes <= 7, "{flushes}");
}

#[test]
fn threads_that_sync_at_the_same_time_share_commits() {
    const THREADS: u64 = 16;
    let disk = Counting::new(empty(true), true);
    let mounted = mounted(&disk, "rw,log");
    let (vfs, proc) = (mounted.vfs.clone(), process());
    put_and_sync(&vfs, &proc, "/first");
    disk.held.store(true, Ordering::SeqCst);
    let ready = Arc::new(AtomicU64::new(0));
    let (flushes, _) = disk.cost(|| {
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let (vfs, proc, ready) = (vfs.clone(), proc.clone(), ready.clone());
                let work = move || {
                    let path = format!("/f{n}");
                    let file = vfs.open(&proc, path.as_bytes(), NEW, 0o644);
                    let file = file.expect("a file");
                    file.write_at(0, &[n as u8; 5000]).expect("room");
                    ready.fetch_add(1, Ordering::SeqCst);
                    // All have something to sync before the first is done.
                    while ready.load(Ordering::SeqCst) < THREADS {
                        std::thread::yield_now();
                    }
                    syscalls::fsync(&file).expect("synced");
                };
                lwp::spawn("syncing", work).expect("a thread")
            })
            .collect();
        while ready.load(Ordering::SeqCst) < THREADS {
            std::thread::yield_now();
        }
        // The first commit is held until the others have come; one that is late costs a commit more.
        std::thread::sleep(Duration::from_millis(300));
        disk.held.store(false, Ordering::SeqCst);
        for thread in threads {
            thread.join();
        }
    });
    println!("{THREADS} threads: {flushes} flushes");
    assert!((2..=6).contains(&flushes), "{flushes}");
    mounted.end().expect("unmounted");
}

#[test]
fn a_disk_without_a_cache_is_never_flushed() {
    for options in ["rw", "rw,log"] {
        let disk = Counting::new(empty(false), false);
        let (flushes, writes) = disk.cost(|| {
            let mounted = mounted(&disk, options);
            let (vfs, proc) = (&mounted.vfs, &process());
            put_and_sync(vfs, proc, "/file");
            vfs.unlink(proc, b"/file").expect("it is there");
            vfs.sync(Wait::Stable).expect("synced");
            mounted.end().expect("unmounted");
        });
        assert!(writes > 0);
        assert_eq!(flushes, 0, "{options}");
    }
}
