//! The locks and the protocol of park and unpark, under every order of their steps that shuttle comes up with.
//!
//! The source of the locks is compiled here once more, with shuttle's atomics in the place of the processor's and with a
//! host whose threads are shuttle's: it can then change from one thread to another at every atomic operation and every hypercall. A
//! thread that nobody wakes is reported as a deadlock, with the schedule that led to it, and `SHUTTLE_RUNS` says how many schedules
//! each test has of either kind (100). The smallest case is gone through without chance, as far as 4,000 schedules go.

#![allow(
    missing_docs,
    reason = "a test; what is public in the locks' source is not here"
)]

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, Once, PoisonError};

use locks::{Condvar, Mutex, RwLock};
use rumpuser::{Errno, Instant, ThreadId, ThreadMain, ThreadSpec, Unparked, host};
use shuttle::rand::Rng;
use shuttle::sync::atomic::AtomicU32;
use shuttle::thread;

/// The source of the locks, but for what they stand on.
#[path = "../src/locks"]
mod locks {
    #![allow(dead_code, reason = "not all of it is needed here")]
    #![allow(unsafe_code, reason = "as in the kernel")]

    mod atomic {
        pub(crate) use shuttle::sync::atomic::{AtomicU32, Ordering};
    }

    /// Without the order of locks.
    mod class {
        pub struct LockClass;
        pub static UNRANKED: LockClass = LockClass;

        pub(crate) struct Order;

        impl Order {
            pub(crate) const fn new(_: &'static LockClass) -> Order {
                Order
            }

            pub(crate) fn check(&self, _: usize) {}

            pub(crate) fn acquired(&self, _: usize) {}

            pub(crate) fn released(&self, _: usize) {}
        }
    }

    /// Short sections that are waited for without spinning, which no schedule has an end of.
    mod short {
        pub(crate) use shuttle::sync::Mutex as Short;

        pub(crate) fn enter<T>(lock: &Short<T>) -> shuttle::sync::MutexGuard<'_, T> {
            lock.lock().expect("nobody panics in one")
        }
    }

    mod condvar;
    mod mutex;
    mod rwlock;
    mod sleepq;

    pub use condvar::Condvar;
    pub use mutex::Mutex;
    pub use rwlock::RwLock;

    fn adaptive_spins(_: u32) -> u32 {
        0
    }
}

/// What can be unparked.
struct Parker {
    token: AtomicU32,
    thread: thread::Thread,
}

static PARKERS: StdMutex<Option<HashMap<ThreadId, Arc<Parker>>>> = StdMutex::new(None);

fn parkers<R>(f: impl FnOnce(&mut HashMap<ThreadId, Arc<Parker>>) -> R) -> R {
    let mut parkers = PARKERS.lock().unwrap_or_else(PoisonError::into_inner);
    f(parkers.get_or_insert_default())
}

/// A thread's number; gone with the thread.
struct Numbered(ThreadId);

impl Numbered {
    fn new() -> Numbered {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = ThreadId::new(NonZeroU64::new(number).expect("64 bits do not run out"));
        let parker = Parker {
            token: AtomicU32::new(0),
            thread: thread::current(),
        };
        parkers(|parkers| parkers.insert(id, Arc::new(parker)));
        Numbered(id)
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        parkers(|parkers| parkers.remove(&self.0));
    }
}

shuttle::thread_local! {
    static NUMBERED: Numbered = Numbered::new();
}

/// Threads of shuttle's, whose time passes when it will.
struct Threads;

impl rumpuser::Threads for Threads {
    fn spawn(&self, _: ThreadSpec<'_>, _: ThreadMain) -> Result<ThreadId, Errno> {
        Err(Errno::EAGAIN)
    }

    fn current(&self) -> ThreadId {
        NUMBERED.with(|numbered| numbered.0)
    }

    fn park(&self, deadline: Option<Instant>) -> Unparked {
        let id = self.current();
        let parker = parkers(|parkers| parkers.get(&id).cloned()).expect("it lives");
        loop {
            if parker.token.swap(0, Ordering::SeqCst) == 1 {
                return Unparked::Token;
            }
            match deadline {
                None => thread::park(),
                Some(_) if shuttle::rand::thread_rng().gen_bool(0.3) => return Unparked::TimedOut,
                Some(_) => thread::yield_now(),
            }
        }
    }

    fn unpark(&self, id: ThreadId) {
        if let Some(parker) = parkers(|parkers| parkers.get(&id).cloned()) {
            parker.token.store(1, Ordering::SeqCst);
            parker.thread.unpark();
        }
    }

    fn yield_now(&self) {
        thread::yield_now();
    }

    fn cooperative(&self) -> bool {
        true
    }

    fn local(&self) -> usize {
        0
    }

    fn set_local(&self, _: usize) {}
}

/// A host that has threads, and nothing else that the locks could ask for.
struct Host;

impl rumpuser::Host for Host {
    fn threads(&self) -> &dyn rumpuser::Threads {
        &Threads
    }

    fn clock(&self) -> &dyn rumpuser::Clock {
        unreachable!("locks have no clock")
    }

    fn memory(&self) -> &dyn rumpuser::Memory {
        unreachable!("locks do not allocate")
    }

    fn random(&self) -> &dyn rumpuser::Random {
        unreachable!("locks leave nothing to chance")
    }

    fn console(&self) -> &dyn rumpuser::Console {
        unreachable!("locks are silent")
    }

    fn params(&self) -> &dyn rumpuser::Params {
        unreachable!("locks have no parameters")
    }

    fn exit(&self) -> &dyn rumpuser::Exit {
        unreachable!("locks do not end the process")
    }

    fn block_device(&self, _: usize) -> Option<&'static dyn rumpuser::BlockDevice> {
        None
    }

    fn packet_device(&self, _: usize) -> Option<&'static dyn rumpuser::PacketDevice> {
        None
    }
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let installed = rumpuser::install(&Host);
        assert!(installed.is_ok(), "no other host is installed");
    });
}

/// The tests of this file run one after the other: the sleep queues are the process's, and shuttle's locks, which guard them here,
/// know only the threads of one run.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: StdMutex<()> = StdMutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `test` under many schedules: random ones, and those that a few changes of priority make (PCT).
fn explore(test: impl Fn() + Send + Sync + Copy + 'static) {
    let _alone = alone();
    install();
    let given = std::env::var("SHUTTLE_RUNS").ok();
    let runs = given.and_then(|runs| runs.parse().ok()).unwrap_or(100);
    shuttle::check_random(test, runs);
    shuttle::check_pct(test, runs, 3);
}

/// Runs `test` under all schedules, or the first of them.
fn exhaust(test: impl Fn() + Send + Sync + 'static) {
    let _alone = alone();
    install();
    shuttle::check_dfs(test, Some(4_000));
}

/// Runs `number` threads, and waits for them.
fn on_threads<F: FnOnce() + Send + 'static>(number: usize, make: impl Fn(usize) -> F) {
    let threads: Vec<_> = (0..number).map(|n| thread::spawn(make(n))).collect();
    for thread in threads {
        thread.join().expect("the thread ends well");
    }
}

/// Two numbers that only differ while their lock is held.
type Pair = (u32, u32);

fn count_up(pair: &mut Pair) {
    assert_eq!(pair.0, pair.1);
    pair.0 += 1;
    thread::yield_now();
    pair.1 += 1;
}

fn threads_count_in_a_mutex(number: usize, rounds: u32) {
    let counter = Arc::new(Mutex::new((0, 0)));
    on_threads(number, |_| {
        let counter = counter.clone();
        move || (0..rounds).for_each(|_| count_up(&mut counter.lock()))
    });
    let all = number as u32 * rounds;
    assert_eq!(*counter.lock(), (all, all));
}

#[test]
fn a_mutex_lets_one_in_at_a_time_and_leaves_nobody_waiting() {
    explore(|| threads_count_in_a_mutex(3, 4));
}

#[test]
fn two_threads_at_a_mutex_in_every_order() {
    exhaust(|| threads_count_in_a_mutex(2, 1));
}

#[test]
fn a_lock_for_readers_and_writers_lets_in_whom_it_should_and_leaves_nobody_waiting() {
    explore(|| {
        let lock: Arc<RwLock<Pair>> = Arc::new(RwLock::new((0, 0)));
        on_threads(4, |number| {
            let lock = lock.clone();
            move || {
                for round in 0..3 {
                    if (number + round) % 2 == 0 {
                        count_up(&mut lock.write());
                        continue;
                    }
                    let pair = lock.read();
                    thread::yield_now();
                    assert_eq!(pair.0, pair.1);
                }
            }
        });
        assert_eq!(*lock.read(), (6, 6));
    });
}

#[test]
fn no_notification_is_lost_also_to_those_that_wait_for_a_time() {
    explore(|| {
        let queue = Arc::new((Mutex::new(0u32), Condvar::new()));
        on_threads(4, |number| {
            let queue = queue.clone();
            move || {
                for _ in 0..2 {
                    let mut there = queue.0.lock();
                    if number < 2 {
                        *there += 1;
                        queue.1.notify_one();
                        continue;
                    }
                    while *there == 0 {
                        let deadline = (number == 2).then_some(Instant::from_nanos(1));
                        there = queue.1.wait_until(there, deadline).0;
                    }
                    *there -= 1;
                }
            }
        });
        assert_eq!(*queue.0.lock(), 0);
    });
}

/// A thread that works for a device: it looks, takes a lock that others want too, and parks until the device unparks it.
fn device_and_its_thread(events: u32, rounds: u32) {
    let arrived = Arc::new(AtomicU32::new(0));
    let lock = Arc::new(Mutex::new((0, 0)));
    let id = Arc::new(Mutex::new(None));
    let listening = Arc::new(Condvar::new());
    let listener = {
        let (arrived, lock) = (arrived.clone(), lock.clone());
        let (id, listening) = (id.clone(), listening.clone());
        move || {
            let threads = host().threads();
            *id.lock() = Some(threads.current());
            listening.notify_all();
            while arrived.load(Ordering::SeqCst) < events {
                count_up(&mut lock.lock());
                threads.park(None);
            }
        }
    };
    let device = move || {
        let mut guard = id.lock();
        while guard.is_none() {
            guard = listening.wait(guard);
        }
        let thread = guard.expect("it was looked at");
        drop(guard);
        for _ in 0..events {
            arrived.fetch_add(1, Ordering::SeqCst);
            host().threads().unpark(thread);
        }
    };
    let other = move || (0..rounds).for_each(|_| count_up(&mut lock.lock()));
    let threads = [
        thread::spawn(listener),
        thread::spawn(device),
        thread::spawn(other),
    ];
    for thread in threads {
        thread.join().expect("the thread ends well");
    }
}

#[test]
fn a_device_wakes_its_thread_also_while_that_waits_for_a_lock() {
    explore(|| device_and_its_thread(3, 3));
}
