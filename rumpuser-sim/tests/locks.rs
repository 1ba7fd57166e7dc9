//! The locks and the protocol of park and unpark, under many schedules: mutual exclusion holds, no wake-up is lost, nobody waits for ever. A
//! wake-up that is lost leaves a universe in which nobody can run, and that is reported with its seed.

use rump::sync::{Condvar, Mutex, RwLock, WaitResult};
use rump::{Config, Kernel, thread, time};
use rumpuser_sim::{Universe, sweep};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Threads of a universe: an even number, half of which make what the others use.
const THREADS: u64 = 6;
/// What each does.
const STEPS: u64 = 60;
/// The most that waits in the queue.
const ROOM: usize = 2;

/// How often one that takes gives up: far more than the others need to come round.
const MOST_TRIES: u32 = 50_000;

/// What they share.
#[derive(Default)]
struct Shared {
    /// Two numbers that are equal whenever nobody holds the lock.
    counted: Mutex<(u64, u64)>,
    table: RwLock<(u64, u64)>,
    /// Writers of `table` at work; readers.
    writers: AtomicU32,
    readers: AtomicU32,
    queue: Mutex<Vec<u64>>,
    has_more: Condvar,
    has_room: Condvar,
}

/// Decisions of one thread (Marsaglia, "Xorshift RNGs", 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % end
    }
}

impl Shared {
    fn count(&self) {
        let mut both = self.counted.lock();
        assert_eq!(both.0, both.1, "somebody else is at it");
        both.0 += 1;
        thread::sleep(Duration::from_nanos(both.0 % 3));
        both.1 += 1;
    }

    /// Counts if nobody holds the lock; whether it did.
    fn try_count(&self) -> bool {
        let Some(mut both) = self.counted.try_lock() else {
            return false;
        };
        assert_eq!(both.0, both.1, "somebody else is at it");
        *both = (both.0 + 1, both.1 + 1);
        true
    }

    fn write(&self) {
        let mut both = self.table.write();
        assert_eq!(self.writers.fetch_add(1, Ordering::SeqCst), 0);
        assert_eq!(self.readers.load(Ordering::SeqCst), 0);
        both.0 += 1;
        thread::sleep(Duration::from_nanos(1));
        both.1 += 1;
        self.writers.fetch_sub(1, Ordering::SeqCst);
    }

    fn read(&self) {
        let both = self.table.read();
        self.readers.fetch_add(1, Ordering::SeqCst);
        assert_eq!(self.writers.load(Ordering::SeqCst), 0);
        assert_eq!(both.0, both.1);
        self.readers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Puts something in, waiting for room as long as that takes.
    fn put(&self, value: u64) {
        let mut queue = self.queue.lock();
        while queue.len() >= ROOM {
            queue = self.has_room.wait(queue);
        }
        queue.push(value);
        self.has_more.notify_one();
    }

    /// Takes something out, giving up now and then to try again.
    fn take(&self, dice: &mut Dice) -> u64 {
        let mut queue = self.queue.lock();
        for _ in 0..MOST_TRIES {
            if let Some(value) = queue.pop() {
                self.has_room.notify_one();
                return value;
            }
            let patience = Duration::from_nanos(dice.below(3000));
            let (again, result) = self
                .has_more
                .wait_until(queue, Some(time::now() + patience));
            queue = again;
            // A wake-up may come together with the end of the time: then it must not be lost for the others.
            if result == WaitResult::TimedOut && !queue.is_empty() {
                self.has_more.notify_one();
            }
        }
        panic!("nobody puts anything in: who waits for room was not woken");
    }
}

/// What one thread does: answers how often it counted, and wrote.
fn work(shared: &Shared, number: u64, seed: u64) -> (u64, u64) {
    let mut dice = Dice((seed * THREADS + number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (mut counted, mut written) = (0, 0);
    for step in 0..STEPS {
        // Each puts, or takes, as much as the others take, or put.
        match number % 2 {
            0 => shared.put(step),
            _ => assert!(shared.take(&mut dice) < STEPS),
        }
        match dice.below(5) {
            0 => {
                shared.count();
                counted += 1;
            }
            1 => counted += u64::from(shared.try_count()),
            2 => {
                shared.write();
                written += 1;
            }
            3 => shared.read(),
            _ => thread::sleep(Duration::from_nanos(dice.below(500))),
        }
    }
    (counted, written)
}

fn threads_meet(universe: &Universe) {
    let kernel = Kernel::boot(Config::default(), &[]).expect("a kernel");
    let process = kernel.attach("main").expect("a process");
    let shared = Arc::new(Shared::default());
    let totals = Arc::new(Mutex::new((0, 0)));
    let seed = universe.seed();
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (shared, totals) = (shared.clone(), totals.clone());
            let run = move || {
                let (counted, written) = work(&shared, number, seed);
                let mut totals = totals.lock();
                *totals = (totals.0 + counted, totals.1 + written);
            };
            thread::spawn("worker", run).expect("a thread")
        })
        .collect();
    threads.into_iter().for_each(thread::JoinHandle::join);
    let (counted, written) = *totals.lock();
    assert_eq!(*shared.counted.lock(), (counted, counted));
    assert_eq!(*shared.table.read(), (written, written));
    assert!(shared.queue.lock().is_empty());
    assert!(!shared.has_more.has_waiters() && !shared.has_room.has_waiters());
    drop(process);
    kernel.shutdown();
}

#[test]
fn locks_hold_and_no_wake_up_is_lost_under_any_schedule() {
    sweep!(
        locks_hold_and_no_wake_up_is_lost_under_any_schedule,
        200,
        threads_meet
    );
}
