use super::*;
use crate::testing::{install_host, on_threads};
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use rumpuser::host;
use std::sync::Arc;

#[test]
fn a_mutex_lets_one_in_at_a_time() {
    install_host();
    let counter = Arc::new(Mutex::new((0u64, 0u64)));
    on_threads(4, |_| {
        let counter = counter.clone();
        move || {
            for round in 0..20_000 {
                let mut both = counter.lock();
                assert_eq!(both.0, both.1);
                both.0 += 1;
                if round % 512 == 0 {
                    host().threads().yield_now();
                }
                both.1 += 1;
            }
        }
    });
    assert_eq!(*counter.lock(), (80_000, 80_000));
}

#[test]
fn try_lock_of_a_held_mutex_is_refused_and_of_a_free_one_is_not() {
    install_host();
    let mutex = Mutex::new(1);
    let guard = mutex.lock();
    assert!(mutex.try_lock().is_none());
    drop(guard);
    assert_eq!(*mutex.try_lock().expect("free"), 1);
}

#[test]
fn writers_exclude_readers_and_each_other() {
    install_host();
    let lock = Arc::new(RwLock::new((0u64, 0u64)));
    let reads = Arc::new(AtomicUsize::new(0));
    on_threads(4, |number| {
        let (lock, reads) = (lock.clone(), reads.clone());
        move || {
            for round in 0..5_000 {
                if (round + number) % 4 == 0 {
                    let mut both = lock.write();
                    both.0 += 1;
                    if round % 256 == 0 {
                        host().threads().yield_now();
                    }
                    both.1 += 1;
                } else {
                    let both = lock.read();
                    assert_eq!(both.0, both.1);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    assert_eq!(*lock.read(), (5_000, 5_000));
    assert_eq!(reads.load(Ordering::Relaxed), 15_000);
}

#[test]
fn a_waiting_writer_keeps_new_readers_out() {
    install_host();
    let lock = Arc::new(RwLock::new(0));
    let first = lock.read();
    let writer = {
        let lock = lock.clone();
        std::thread::spawn(move || *lock.write() += 1)
    };
    while lock.try_read().is_some() {
        std::thread::yield_now();
    }
    drop(first);
    writer.join().expect("the writer ends");
    assert_eq!(*lock.read(), 1);
}

#[test]
fn a_downgraded_writer_lets_readers_in_and_writers_not() {
    install_host();
    let lock = RwLock::new(0);
    let mut writer = lock.write();
    *writer = 7;
    let reader = writer.downgrade();
    assert_eq!(*lock.try_read().expect("readers may come"), 7);
    assert!(lock.try_write().is_none());
    drop(reader);
    assert!(lock.try_write().is_some());
}

#[test]
fn each_notification_wakes_one_waiter_and_none_is_lost() {
    install_host();
    let shared = Arc::new((Mutex::new(0usize), Condvar::new(), Condvar::new()));
    const ITEMS: usize = 4_000;
    on_threads(4, |number| {
        let shared = shared.clone();
        move || {
            let (items, more, fewer) = &*shared;
            for _ in 0..ITEMS {
                let mut count = items.lock();
                if number % 2 == 0 {
                    while *count == 8 {
                        count = fewer.wait(count);
                    }
                    *count += 1;
                    more.notify_one();
                } else {
                    while *count == 0 {
                        count = more.wait(count);
                    }
                    *count -= 1;
                    fewer.notify_one();
                }
            }
        }
    });
    assert_eq!(*shared.0.lock(), 0);
    assert!(!shared.1.has_waiters() && !shared.2.has_waiters());
}

#[test]
fn notify_all_wakes_all() {
    install_host();
    let shared = Arc::new((Mutex::new(false), Condvar::new()));
    let woken = Arc::new(AtomicUsize::new(0));
    let waiters: Vec<_> = (0..6)
        .map(|_| {
            let (shared, woken) = (shared.clone(), woken.clone());
            std::thread::spawn(move || {
                let mut go = shared.0.lock();
                while !*go {
                    go = shared.1.wait(go);
                }
                woken.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(10));
    *shared.0.lock() = true;
    shared.1.notify_all();
    for waiter in waiters {
        waiter.join().expect("all wake");
    }
    assert_eq!(woken.load(Ordering::Relaxed), 6);
}

#[test]
fn a_wait_ends_at_its_deadline_with_the_mutex_held() {
    install_host();
    let mutex = Mutex::new(());
    let never = Condvar::new();
    let start = host().clock().now();
    let wait = Duration::from_millis(20);
    let (guard, result) = never.wait_until(mutex.lock(), Some(start + wait));
    assert_eq!(result, WaitResult::TimedOut);
    assert!(host().clock().now() - start >= wait);
    assert!(mutex.try_lock().is_none());
    drop(guard);
    assert!(!never.has_waiters());
}

#[test]
fn a_once_lock_is_set_once() {
    install_host();
    let once = Arc::new(OnceLock::new());
    let computed = Arc::new(AtomicUsize::new(0));
    on_threads(4, |number| {
        let (once, computed) = (once.clone(), computed.clone());
        move || {
            let value = *once.get_or_init(|| {
                computed.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
                number
            });
            assert_eq!(Some(&value), once.get());
        }
    });
    assert_eq!(computed.load(Ordering::Relaxed), 1);
    assert!(once.set(9).is_err());
}

#[test]
fn waits_that_time_out_while_they_are_notified_leave_the_queues_whole() {
    install_host();
    let shared = Arc::new((Mutex::new(0usize), Condvar::new()));
    let taken = Arc::new(AtomicUsize::new(0));
    const PERMITS: usize = 3_000;
    on_threads(4, |number| {
        let (shared, taken) = (shared.clone(), taken.clone());
        move || {
            let (permits, more) = &*shared;
            if number == 0 {
                for _ in 0..PERMITS {
                    *permits.lock() += 1;
                    more.notify_one();
                }
                return;
            }
            while taken.load(Ordering::SeqCst) < PERMITS {
                let mut left = permits.lock();
                if *left == 0 {
                    let soon = host().clock().now() + Duration::from_micros(20);
                    left = more.wait_until(left, Some(soon)).0;
                }
                if *left > 0 {
                    *left -= 1;
                    taken.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    });
    assert_eq!(taken.load(Ordering::SeqCst), PERMITS);
    assert!(!shared.1.has_waiters());
}

#[test]
fn a_waiter_is_handed_a_mutex_that_is_taken_again_and_again() {
    install_host();
    let mutex = Arc::new(Mutex::new(()));
    let stop = Arc::new(AtomicUsize::new(0));
    let hog = {
        let (mutex, stop) = (mutex.clone(), stop.clone());
        std::thread::spawn(move || {
            while stop.load(Ordering::SeqCst) == 0 {
                let _held = mutex.lock();
                std::thread::sleep(Duration::from_micros(300));
            }
        })
    };
    let start = host().clock().now();
    for _ in 0..20 {
        drop(mutex.lock());
    }
    let waited = host().clock().now() - start;
    stop.store(1, Ordering::SeqCst);
    hog.join().expect("the hog ends");
    // Each turn costs a few of the hog's; without handing over it might never come.
    assert!(waited < Duration::from_secs(5), "{waited:?}");
}

#[test]
fn a_token_from_elsewhere_outlives_the_wait_for_a_lock() {
    install_host();
    let threads = host().threads();
    let pair = Arc::new((Mutex::new(()), Condvar::new()));
    // As a device does whose interrupt comes now.
    threads.unpark(threads.current());
    let waker = {
        let pair = pair.clone();
        std::thread::spawn(move || {
            while !pair.1.has_waiters() {
                std::thread::yield_now();
            }
            // Whoever waits has let go of the mutex only when it is on the queue.
            let guard = pair.0.lock();
            pair.1.notify_one();
            drop(guard);
        })
    };
    drop(pair.1.wait(pair.0.lock()));
    waker.join().expect("the thread ends");
    let past = rumpuser::Instant::from_nanos(0);
    assert_eq!(threads.park(Some(past)), rumpuser::Unparked::Token);
}
