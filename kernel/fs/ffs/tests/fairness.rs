//! A reader gets on while a writer takes all the memory that there is, again and again.

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rig::{MOUNTS, Rig, asking_for_log, attach, make, options};
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::Format;
use rumpkern::lwp;
use rumpvfs::syscalls::OpenFlags;

const MEMORY: usize = 1 << 20;
/// Bytes moved at once.
const PIECE: usize = 64 << 10;
/// Pieces of the file that is read, a quarter of the memory.
const READ: u64 = 4;
/// Pieces of the file that is written, eight times the memory.
const WRITTEN: u64 = 128;
/// How often the reader reads its file, and the most pieces that the writer may write meanwhile.
const PASSES: u64 = 200;
const MOST: u64 = 20_000;

/// Makes a thread stop writing, also when the test fails.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn who_reads_a_file_again_and_again_gets_on_while_another_writes_without_end() {
    let _lwp = attach(MEMORY);
    for mount in MOUNTS {
        let volume = make(options(Format::Ufs2, Order::Little, 8192, 8, 2048));
        let rig = match mount {
            "" => Rig::with(volume, mount),
            _ => Rig::with(asking_for_log(volume, 1 << 20), mount),
        };
        let rig = Arc::new(rig.expect("it can be mounted"));
        read_beside_a_writer(&rig, mount);
        let rig = Arc::into_inner(rig).expect("the writer is gone");
        rig.finish(mount);
    }
}

fn read_beside_a_writer(rig: &Arc<Rig>, mount: &str) {
    let new = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREAT;
    let file = rig.vfs.open(&rig.proc, b"/read", new, 0o644).unwrap();
    for n in 0..READ {
        assert_eq!(file.write(&[n as u8; PIECE]), Ok(PIECE));
    }
    let mut piece = vec![0; PIECE];
    let mut pass = || {
        for n in 0..READ {
            let read = file.read_at(n * PIECE as u64, &mut piece);
            assert_eq!(read, Ok(PIECE));
            assert!(piece.iter().all(|byte| *byte == n as u8), "piece {n}");
        }
    };
    pass();
    let (written, ended) = (Arc::new(AtomicU64::new(0)), Arc::default());
    let stop = Stop(Arc::clone(&ended));
    let (theirs, count) = (rig.clone(), written.clone());
    let writer = lwp::spawn("writer", move || {
        let file = theirs.vfs.open(&theirs.proc, b"/written", new, 0o644);
        let file = file.expect("made");
        let piece = [0xee; PIECE];
        while !ended.load(Ordering::Relaxed) {
            let n = count.load(Ordering::Relaxed) % WRITTEN;
            assert_eq!(file.write_at(n * PIECE as u64, &piece), Ok(PIECE));
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let writer = writer.expect("a thread");
    // All the memory has been taken once.
    while written.load(Ordering::Relaxed) < 2 * (MEMORY / PIECE) as u64 {
        std::thread::yield_now();
    }
    let before = written.load(Ordering::Relaxed);
    (0..PASSES).for_each(|_| pass());
    let meanwhile = written.load(Ordering::Relaxed) - before;
    println!("{PASSES} passes, {meanwhile} pieces written, {mount:?}");
    drop(stop);
    writer.join();
    assert!(
        meanwhile < MOST,
        "{meanwhile} pieces were written while the file was read {PASSES} times"
    );
}
