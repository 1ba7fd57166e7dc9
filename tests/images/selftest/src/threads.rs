//! Checks of threads and waiting.

use crate::say;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use rumpuser::{Errno, Instant, ThreadId, ThreadMain, ThreadSpec, Unparked, host};
use rumpuser_baremetal::heap;
use rumpuser_baremetal::platform_x86_64::clock;
use rumpuser_baremetal::threads::{USUAL_STACK_BYTES, stacks as stacks_in_use};

/// Runs them all; a failed one panics.
pub fn run() {
    let checks: [(&str, fn()); 8] = [
        (
            "a token given before is taken at once, and only once",
            tokens,
        ),
        ("a park ends at its deadline, not before", deadlines),
        (
            "sleepers wake in the order of their deadlines",
            order_of_deadlines,
        ),
        ("threads run in turn, each with its own word", turns),
        ("two threads hand a token to and fro", ping_pong),
        ("stacks of ended threads are used again", stacks),
        ("threads run out and come back", exhaustion),
        ("how much of a stack was used is known", use_of_stacks),
    ];
    for (name, check) in checks {
        check();
        say!("ok {name}");
    }
}

fn now() -> Instant {
    host().clock().now()
}

/// Waits for so long, whatever tokens come.
pub fn sleep(time: Duration) {
    let until = now() + time;
    while now() < until {
        host().threads().park(Some(until));
    }
}

fn spawn(name: &str, entry: fn(usize), argument: usize) -> Result<ThreadId, Errno> {
    host().threads().spawn(
        ThreadSpec {
            name,
            stack_bytes: 0,
        },
        ThreadMain { entry, argument },
    )
}

fn tokens() {
    let threads = host().threads();
    let me = threads.current();
    threads.unpark(me);
    threads.unpark(me);
    assert_eq!(threads.park(Some(Instant::from_nanos(0))), Unparked::Token);
    assert_eq!(
        threads.park(Some(Instant::from_nanos(0))),
        Unparked::TimedOut
    );
}

fn deadlines() {
    for millis in [0, 1, 5, 30] {
        let start = now();
        let until = start + Duration::from_millis(millis);
        assert_eq!(host().threads().park(Some(until)), Unparked::TimedOut);
        let took = now() - start;
        assert!(now() >= until, "{millis} ms took {took:?}");
    }
}

static WOKEN: AtomicUsize = AtomicUsize::new(0);
static SINCE: AtomicU64 = AtomicU64::new(0);

fn order_of_deadlines() {
    fn sleeper(millis: usize) {
        let since = Instant::from_nanos(SINCE.load(Ordering::Relaxed));
        let until = since + Duration::from_millis(millis as u64);
        while host().threads().park(Some(until)) != Unparked::TimedOut {}
        // Each is to find as many before it as sleep for less.
        let place = WOKEN.fetch_add(1, Ordering::Relaxed);
        assert_eq!(millis, (place + 1) * 20, "woken at place {place}");
    }
    SINCE.store(now().as_nanos(), Ordering::Relaxed);
    for millis in [100, 20, 60, 80, 40] {
        spawn("sleeper", sleeper, millis).expect("a thread");
    }
    while WOKEN.load(Ordering::Relaxed) < 5 {
        sleep(Duration::from_millis(10));
    }
}

static TURNS: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicUsize = AtomicUsize::new(0);

fn turns() {
    fn digit(own: usize) {
        let threads = host().threads();
        threads.set_local(own * 1000);
        for _ in 0..3 {
            TURNS.store(
                TURNS.load(Ordering::Relaxed) * 10 + own as u64,
                Ordering::Relaxed,
            );
            threads.yield_now();
            assert_eq!(threads.local(), own * 1000);
        }
        ENDED.fetch_add(1, Ordering::Relaxed);
    }
    let threads = host().threads();
    threads.set_local(7);
    for own in 1..=4 {
        spawn("digit", digit, own).expect("a thread");
    }
    while ENDED.load(Ordering::Relaxed) < 4 {
        threads.yield_now();
        assert_eq!(threads.local(), 7);
    }
    assert_eq!(TURNS.load(Ordering::Relaxed), 123_412_341_234);
}

static BACK: AtomicU64 = AtomicU64::new(0);
const PASSES: u64 = 20_000;

fn ping_pong() {
    fn pong(passes: usize) {
        let threads = host().threads();
        let main = ThreadId::new(
            core::num::NonZeroU64::new(BACK.load(Ordering::Relaxed)).expect("a thread"),
        );
        for _ in 0..passes {
            while threads.park(None) != Unparked::Token {}
            threads.unpark(main);
        }
    }
    let threads = host().threads();
    BACK.store(threads.current().get(), Ordering::Relaxed);
    let other = spawn("pong", pong, PASSES as usize).expect("a thread");
    let start = clock::now_nanos();
    for _ in 0..PASSES {
        threads.unpark(other);
        while threads.park(None) != Unparked::Token {}
    }
    let nanos = clock::now_nanos() - start;
    say!("unpark, park and switch: {} ns", nanos / (2 * PASSES));
    // A thread that ended is ignored.
    threads.yield_now();
    threads.unpark(other);
}

fn stacks() {
    fn nothing(_: usize) {}
    let threads = host().threads();
    let mut used = 0;
    for round in 0..300 {
        spawn("brief", nothing, 0).expect("a thread");
        // It runs, and ends; the second turn frees its stack.
        threads.yield_now();
        threads.yield_now();
        if round == 1 {
            used = heap::usage().0;
        }
    }
    assert_eq!(heap::usage().0, used);
}

static GATE: AtomicUsize = AtomicUsize::new(0);

fn exhaustion() {
    fn wait_for_gate(_: usize) {
        while GATE.load(Ordering::Relaxed) == 0 {
            host().threads().yield_now();
        }
        ENDED.fetch_add(1, Ordering::Relaxed);
    }
    ENDED.store(0, Ordering::Relaxed);
    let big = ThreadSpec {
        name: "too big",
        stack_bytes: usize::MAX,
    };
    let main = ThreadMain {
        entry: wait_for_gate,
        argument: 0,
    };
    assert_eq!(host().threads().spawn(big, main), Err(Errno::EAGAIN));
    let mut count = 0;
    let error = loop {
        match spawn("many", wait_for_gate, 0) {
            Ok(_) if count < 10_000 => count += 1,
            Ok(_) => panic!("no end of threads"),
            Err(error) => break error,
        }
    };
    assert_eq!(error, Errno::EAGAIN);
    say!("{count} threads at once");
    assert!(count >= 8, "only {count} threads");
    GATE.store(1, Ordering::Relaxed);
    while ENDED.load(Ordering::Relaxed) < count {
        host().threads().yield_now();
    }
    host().threads().yield_now();
    spawn("after", wait_for_gate, 0).expect("memory is back");
    while ENDED.load(Ordering::Relaxed) == count {
        host().threads().yield_now();
    }
}

fn use_of_stacks() {
    fn recursive(depth: usize) -> usize {
        let frame = core::hint::black_box([depth as u8; 256]);
        if depth == 0 {
            0
        } else {
            recursive(depth - 1) + usize::from(frame[7])
        }
    }
    fn user(depth: usize) {
        core::hint::black_box(recursive(depth));
        GATE.store(2, Ordering::Relaxed);
        while GATE.load(Ordering::Relaxed) == 2 {
            host().threads().yield_now();
        }
    }
    const DEPTH: usize = 20;
    spawn("user", user, DEPTH).expect("a thread");
    while GATE.load(Ordering::Relaxed) != 2 {
        host().threads().yield_now();
    }
    let mut seen = 0;
    stacks_in_use(|name, used, all| {
        if name == "user" {
            seen += 1;
            assert_eq!(all, USUAL_STACK_BYTES);
            assert!((DEPTH * 256..all).contains(&used), "{used} bytes used");
        }
    });
    assert_eq!(seen, 1);
    GATE.store(1, Ordering::Relaxed);
    host().threads().yield_now();
}
