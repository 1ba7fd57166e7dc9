//! The simulator itself: its threads, clock, disks and wires keep the contracts of the hypercalls, and what fails is reported so that it can
//! be replayed.

use rumpuser::{
    BioOp, BioRequest, BlockDevice, Errno, Instant, IoVec, ThreadId, ThreadMain, ThreadSpec,
    Unparked, host,
};
use rumpuser_sim::bio::DiskFaults;
use rumpuser_sim::{SimDisk, Universe, sweep};
use std::num::NonZeroU64;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

static TURNS: AtomicU64 = AtomicU64::new(0);

/// Two threads hand a turn to each other: no token is lost, and none comes from nowhere for long.
fn hand_over(_: &Universe) {
    let threads = host().threads();
    let main = threads.current();
    let entry = |main: usize| {
        let main = ThreadId::new(NonZeroU64::new(main as u64).expect("an id"));
        for turn in 0..100 {
            // A park may return early: the turn says whether it was meant.
            while TURNS.load(Ordering::Relaxed) != 2 * turn + 1 {
                host().threads().park(None);
            }
            TURNS.fetch_add(1, Ordering::Relaxed);
            host().threads().unpark(main);
        }
    };
    let spec = ThreadSpec {
        name: "other",
        stack_bytes: 0,
    };
    let argument = main.get() as usize;
    let other = threads
        .spawn(spec, ThreadMain { entry, argument })
        .expect("a thread");
    for turn in 0..100 {
        TURNS.fetch_add(1, Ordering::Relaxed);
        threads.unpark(other);
        while TURNS.load(Ordering::Relaxed) != 2 * turn + 2 {
            threads.park(None);
        }
    }
    threads.unpark(main);
    assert_eq!(threads.park(None), Unparked::Token);
    let soon = host().clock().now() + Duration::from_millis(5);
    while threads.park(Some(soon)) == Unparked::Token {}
    assert!(host().clock().now() >= soon);
    assert_eq!(
        threads.park(Some(Instant::from_nanos(0))),
        Unparked::TimedOut
    );
}

#[test]
fn threads_hand_a_turn_to_each_other() {
    sweep!(threads_hand_a_turn_to_each_other, 8, hand_over, 1 << 20);
}

fn start(
    disk: &SimDisk,
    op: BioOp,
    sector: u64,
    memory: &mut [u8],
    token: u64,
) -> Result<(), Errno> {
    let segments = [IoVec {
        base: NonNull::from(&mut *memory).cast(),
        len: memory.len(),
    }];
    let request = BioRequest {
        op,
        sector,
        segments: if memory.is_empty() { &[] } else { &segments },
        token,
    };
    // SAFETY: every caller keeps the memory, and leaves it alone, until `finish` has the token.
    unsafe { disk.submit(&request) }
}

/// Waits for the next request to be over.
fn finish(universe: &Universe, disk: &SimDisk) -> (u64, Result<(), Errno>) {
    loop {
        if let Some(done) = disk.reap() {
            return (done.token, done.result);
        }
        universe.sleep(Duration::from_micros(10));
    }
}

fn use_a_disk(universe: &Universe) {
    let disk = SimDisk::new("disk", vec![0; 64 * 512], true);
    let mut memory = vec![7; 1024];
    assert_eq!(
        start(disk, BioOp::Write, 63, &mut memory, 1),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        start(disk, BioOp::Read, u64::MAX, &mut memory, 1),
        Err(Errno::EINVAL)
    );
    start(disk, BioOp::Write, 8, &mut memory, 1).expect("it is taken");
    assert_eq!(finish(universe, disk), (1, Ok(())));
    memory.fill(0);
    start(disk, BioOp::Read, 8, &mut memory, 2).expect("it is taken");
    assert_eq!(finish(universe, disk), (2, Ok(())));
    assert!(memory.iter().all(|byte| *byte == 7));

    // As many as it takes, and they finish in an order of their own.
    for token in 0..disk.info().queue_depth as u64 {
        start(disk, BioOp::Flush, 0, &mut [], token).expect("there is room");
    }
    assert_eq!(
        start(disk, BioOp::Flush, 0, &mut [], 99),
        Err(Errno::EAGAIN)
    );
    let order: Vec<u64> = (0..disk.info().queue_depth)
        .map(|_| finish(universe, disk).0)
        .collect();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert!(sorted.iter().copied().eq(0..disk.info().queue_depth as u64) && order != sorted);

    disk.set_faults(DiskFaults {
        read_error: 1_000_000,
        ..DiskFaults::NONE
    });
    start(disk, BioOp::Read, 8, &mut memory, 3).expect("it is taken");
    assert_eq!(finish(universe, disk), (3, Err(Errno::EIO)));
    disk.set_faults(DiskFaults {
        read_rot: 1_000_000,
        ..DiskFaults::NONE
    });
    start(disk, BioOp::Read, 8, &mut memory, 4).expect("it is taken");
    assert_eq!(finish(universe, disk), (4, Ok(())));
    assert_eq!(wrong_bits(&memory), 1);
    disk.set_faults(DiskFaults {
        rot: 1_000_000,
        ..DiskFaults::NONE
    });
    start(disk, BioOp::Read, 8, &mut memory, 5).expect("it is taken");
    assert_eq!(finish(universe, disk), (5, Ok(())));
    let rotten = memory.clone();
    assert_eq!(wrong_bits(&rotten), 1);
    disk.set_faults(DiskFaults {
        lost_write: 1_000_000,
        ..DiskFaults::NONE
    });
    memory.fill(9);
    start(disk, BioOp::Write, 8, &mut memory, 6).expect("it is taken");
    assert_eq!(finish(universe, disk), (6, Ok(())));
    disk.set_faults(DiskFaults::NONE);
    start(disk, BioOp::Read, 8, &mut memory, 7).expect("it is taken");
    assert_eq!(finish(universe, disk), (7, Ok(())));
    assert!(
        memory == rotten,
        "it stays wrong, and what was lost is not there"
    );
    disk.make_thin(1);
    start(disk, BioOp::Write, 0, &mut memory, 8).expect("it is taken");
    assert_eq!(finish(universe, disk), (8, Err(Errno::ENOSPC)));
}

/// Bits in which `memory` is not full of sevens.
fn wrong_bits(memory: &[u8]) -> u32 {
    memory.iter().map(|byte| (byte ^ 7).count_ones()).sum()
}

#[test]
fn a_disk_keeps_its_contract_and_fails_as_it_is_told() {
    sweep!(
        a_disk_keeps_its_contract_and_fails_as_it_is_told,
        8,
        use_a_disk,
        1 << 20
    );
}

fn change_memory_under_way(universe: &Universe) {
    let disk = SimDisk::new("disk", vec![0; 64 * 512], true);
    let mut memory = vec![7; 512];
    start(disk, BioOp::Write, 0, &mut memory, 1).expect("it is taken");
    memory[100] = 8;
    assert_eq!(finish(universe, disk), (1, Ok(())));
}

#[test]
#[should_panic(expected = "memory changed while it was being written to sector 0")]
fn memory_that_changes_under_way_is_found_out() {
    sweep!(
        memory_that_changes_under_way_is_found_out,
        1,
        change_memory_under_way,
        1 << 20
    );
}

fn wait_for_nobody(universe: &Universe) {
    universe.sleep(Duration::from_secs(1));
    loop {
        host().threads().park(None);
    }
}

fn tick_for_ever(universe: &Universe) {
    universe.must_end_within(Duration::from_secs(60));
    loop {
        universe.sleep(Duration::from_secs(1));
    }
}

#[test]
#[should_panic(expected = "it has not ended within 60s")]
fn a_universe_that_does_not_get_on_is_told() {
    sweep!(
        a_universe_that_does_not_get_on_is_told,
        1,
        tick_for_ever,
        1 << 20
    );
}

fn look_beyond(universe: &Universe) {
    // What no kernel has a way to learn: it is another in every process.
    universe.sleep(Duration::from_nanos(std::process::id().into()));
}

#[test]
#[should_panic(expected = "two runs are not the same universe")]
fn a_universe_that_is_not_twice_the_same_is_found_out() {
    // As many as it takes for one to be run twice.
    sweep!(
        a_universe_that_is_not_twice_the_same_is_found_out,
        20,
        look_beyond,
        1 << 20
    );
}

#[test]
#[should_panic(expected = "deadlock: nobody can run, and nothing is to come")]
fn a_deadlock_is_told_with_who_waits() {
    sweep!(
        a_deadlock_is_told_with_who_waits,
        1,
        wait_for_nobody,
        1 << 20
    );
}

fn fail_with_seed_two(universe: &Universe) {
    universe.note("about to fail");
    assert_ne!(universe.seed(), 2, "as planned");
}

#[test]
#[should_panic(
    expected = "RUMP_SIM_SEED=2 cargo test -p rumpuser_sim --test host what_fails_says_how_to_replay_it"
)]
fn what_fails_says_how_to_replay_it() {
    let run = || {
        sweep!(
            what_fails_says_how_to_replay_it,
            5,
            fail_with_seed_two,
            1 << 20
        );
    };
    let Err(report) = std::panic::catch_unwind(run) else {
        return;
    };
    let text = report
        .downcast_ref::<String>()
        .expect("a report")
        .replace("--profile sim ", "");
    for part in [
        "seed 2 of",
        "commit",
        "as planned",
        "m0/main#0 note about to fail",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    std::panic::resume_unwind(Box::new(text));
}
