use super::*;
use crate::callout::Callout;
use crate::init::{Class, Component};
use crate::softint::Softint;
use crate::testing::{boot, install_host};
use crate::{curkernel, curproc, spawn, time};
use core::sync::atomic::AtomicUsize;
use core::time::Duration;

#[test]
fn components_come_up_by_class_and_in_the_programs_order_within_one() {
    struct Order(Mutex<Vec<&'static str>>);
    fn note(kernel: &Arc<Kernel>, name: &'static str) {
        assert_eq!(curproc().expect("an lwp").pid(), 0);
        kernel.get::<Order>().expect("provided").0.lock().push(name);
    }
    fn provide(kernel: &Arc<Kernel>) -> Result<(), Errno> {
        kernel.provide(Arc::new(Order(Mutex::new(Vec::new()))))?;
        let again = kernel.provide(Arc::new(Order(Mutex::new(Vec::new()))));
        assert_eq!(again, Err(Errno::EEXIST));
        Ok(())
    }
    const fn component(
        name: &'static str,
        class: Class,
        init: fn(&Arc<Kernel>) -> Result<(), Errno>,
    ) -> Component {
        Component { name, class, init }
    }
    static LAST: Component = component("last", Class::PostInit, |k| {
        note(k, "last");
        Ok(())
    });
    static SECOND: Component = component("second", Class::Vfs, |k| {
        note(k, "second");
        Ok(())
    });
    static FIRST: Component = component("first", Class::Vfs, |k| {
        note(k, "first");
        Ok(())
    });
    static ORDER: Component = component("order", Class::Kern, provide);
    install_host();
    let kernel = Kernel::boot(Config::default(), &[&LAST, &FIRST, &SECOND, &ORDER]).expect("boots");
    let order = kernel.get::<Order>().expect("provided");
    assert_eq!(*order.0.lock(), ["first", "second", "last"]);
    kernel.shutdown();
    assert!(kernel.get::<Order>().is_none());
}

#[test]
fn a_component_that_fails_ends_the_boot_and_hooks_run_in_reverse() {
    static RAN: Mutex<Vec<u32>> = Mutex::new(Vec::new());
    static GOOD: Component = Component {
        name: "good",
        class: Class::Kern,
        init: |kernel| {
            kernel.at_shutdown("1", || RAN.lock().push(1));
            kernel.at_shutdown("2", || RAN.lock().push(2));
            Ok(())
        },
    };
    static BAD: Component = Component {
        name: "bad",
        class: Class::Dev,
        init: |_| Err(Errno::ENXIO),
    };
    install_host();
    let booted = Kernel::boot(Config::default(), &[&BAD, &GOOD]);
    assert_eq!(booted.err(), Some(Errno::ENXIO));
    assert_eq!(*RAN.lock(), [2, 1]);
}

#[test]
fn a_thread_is_an_lwp_while_attached_and_attachments_nest() {
    let (first, second) = (boot(), boot());
    assert!(curkernel().is_none());
    let outer = first.attach("outer").expect("attached");
    assert!(Arc::ptr_eq(&curkernel().expect("attached"), &first));
    {
        let _inner = second.attach("inner").expect("attached");
        assert!(Arc::ptr_eq(&curkernel().expect("attached"), &second));
    }
    assert!(Arc::ptr_eq(&curkernel().expect("attached"), &first));
    assert_eq!(outer.lwp().name(), "outer");
    drop(outer);
    assert!(curkernel().is_none());
    first.shutdown();
    second.shutdown();
}

#[test]
fn a_spawned_lwp_works_for_its_spawners_process_and_can_be_joined() {
    let kernel = boot();
    assert_eq!(spawn("orphan", || ()).err(), Some(Errno::ESRCH));
    let attached = kernel.attach("main").expect("attached");
    let pid = curproc().expect("attached").pid();
    let seen = Arc::new(AtomicU32::new(0));
    let told = seen.clone();
    let handle = spawn("worker", move || {
        told.store(curproc().expect("an lwp").pid(), Ordering::Relaxed)
    });
    handle.expect("a thread").join();
    assert_eq!(seen.load(Ordering::Relaxed), pid);
    assert_ne!(pid, 0);
    kernel.exit_proc(&curproc().expect("attached"));
    assert!(kernel.find_proc(pid).is_none());
    drop(attached);
    kernel.shutdown();
}

#[test]
fn the_process_of_an_attached_thread_ends_with_its_last_lwp() {
    let kernel = boot();
    let attached = kernel.attach("main").expect("attached");
    let pid = curproc().expect("attached").pid();
    let go_on = Arc::new(Mutex::new(()));
    let (held, theirs) = (go_on.lock(), go_on.clone());
    let worker = spawn("worker", move || drop(theirs.lock())).expect("a thread");
    drop(attached);
    assert!(kernel.find_proc(pid).is_some(), "its worker lives");
    drop(held);
    worker.join();
    assert!(kernel.find_proc(pid).is_none());
    // A process that was asked for stays until it is ended.
    let asked = kernel.new_proc().expect("a process");
    drop(crate::lwp::attach(&asked, "guest").expect("attached"));
    assert!(kernel.find_proc(asked.pid()).is_some());
    for _ in 0..MAXPROC {
        drop(kernel.attach("fleeting").expect("attached"));
    }
    kernel.shutdown();
}

#[test]
fn a_kernel_that_was_shut_down_is_gone_with_its_last_handle() {
    let kernel = boot();
    let weak = Arc::downgrade(&kernel);
    kernel.shutdown();
    kernel.shutdown();
    drop(kernel);
    assert!(weak.upgrade().is_none());
}

#[test]
fn callouts_run_in_the_order_of_their_times_and_not_before() {
    let kernel = boot();
    let ran = Arc::new(Mutex::new(Vec::new()));
    let start = time::now();
    let callouts: Vec<Callout> = [30u64, 10, 20, 10, 5]
        .iter()
        .map(|millis| {
            let ran = ran.clone();
            let millis = *millis;
            let callout = Callout::new(&kernel, move || {
                ran.lock().push((millis, time::now()));
            });
            callout.schedule_at(start + Duration::from_millis(millis));
            assert!(callout.pending());
            callout
        })
        .collect();
    time::sleep(Duration::from_millis(60));
    let ran = ran.lock();
    let order: Vec<u64> = ran.iter().map(|(millis, _)| *millis).collect();
    assert_eq!(order, [5, 10, 10, 20, 30]);
    for (millis, at) in ran.iter() {
        assert!(*at - start >= Duration::from_millis(*millis));
    }
    assert!(callouts.iter().all(|callout| !callout.pending()));
    kernel.shutdown();
}

#[test]
fn a_stopped_or_dropped_callout_does_not_run_and_a_rescheduled_one_runs_once() {
    let kernel = boot();
    let ran = Arc::new(AtomicUsize::new(0));
    let count = |by: usize| {
        let ran = ran.clone();
        move || {
            ran.fetch_add(by, Ordering::Relaxed);
        }
    };
    let stopped = Callout::new(&kernel, count(1));
    let dropped = Callout::try_new(&kernel, count(10)).expect("memory");
    let moved = Callout::new(&kernel, count(100));
    for callout in [&stopped, &dropped, &moved] {
        callout.schedule(Duration::from_millis(20));
    }
    moved.schedule(Duration::from_millis(5));
    assert!(stopped.stop());
    assert!(!stopped.halt());
    drop(dropped);
    time::sleep(Duration::from_millis(50));
    assert_eq!(ran.load(Ordering::Relaxed), 100);
    kernel.shutdown();
}

#[test]
fn halt_waits_for_the_handler_and_a_handler_may_schedule_itself() {
    let kernel = boot();
    let state = Arc::new((
        AtomicUsize::new(0),
        crate::locks::OnceLock::<Callout>::new(),
    ));
    let handler = state.clone();
    let callout = Callout::new(&kernel, move || {
        if handler.0.fetch_add(1, Ordering::SeqCst) < 2
            && let Some(callout) = handler.1.get()
        {
            callout.schedule(Duration::ZERO);
        } else {
            std::thread::sleep(Duration::from_millis(20));
            handler.0.fetch_add(100, Ordering::SeqCst);
        }
    });
    assert!(state.1.set(callout).is_ok());
    let callout = state.1.get().expect("set");
    callout.schedule(Duration::ZERO);
    while state.0.load(Ordering::SeqCst) < 3 {
        std::thread::yield_now();
    }
    callout.halt();
    assert_eq!(state.0.load(Ordering::SeqCst), 103);
    kernel.shutdown();
}

#[test]
fn thousands_of_callouts_keep_their_order() {
    let seed = 7;
    println!("seed {seed}");
    let mut random = crate::testing::Lcg::new(seed);
    let kernel = boot();
    let ran = Arc::new(Mutex::new(Vec::with_capacity(4000)));
    let callouts: Vec<(Callout, u64)> = (0..3000)
        .map(|_| {
            let nanos = random.below(1_000_000) as u64;
            let ran = ran.clone();
            let callout = Callout::new(&kernel, move || ran.lock().push(nanos));
            (callout, nanos)
        })
        .collect();
    // On a slow machine the first may be due before the last is scheduled: then again, with more time.
    let mut lead = Duration::from_millis(60);
    let mut expected = loop {
        let base = time::now() + lead;
        let (mut expected, mut stopped) = (Vec::new(), true);
        for (callout, nanos) in &callouts {
            callout.schedule_at(base + Duration::from_secs(nanos % 7));
            callout.schedule_at(base + Duration::from_nanos(*nanos));
            match random.below(4) {
                0 => stopped &= callout.stop(),
                _ => expected.push(*nanos),
            }
        }
        if time::now() < base {
            assert!(stopped);
            break expected;
        }
        callouts.iter().for_each(|(callout, _)| {
            callout.halt();
        });
        ran.lock().clear();
        lead *= 4;
    };
    expected.sort_unstable();
    while callouts.iter().any(|(callout, _)| callout.pending()) {
        std::thread::sleep(Duration::from_millis(5));
    }
    callouts.iter().for_each(|(callout, _)| {
        callout.halt();
    });
    assert_eq!(*ran.lock(), expected);
    kernel.shutdown();
}

#[test]
fn a_softint_scheduled_twice_while_pending_runs_once_and_again_when_scheduled_while_it_runs() {
    let kernel = boot();
    let ran = Arc::new(AtomicUsize::new(0));
    let hold = Arc::new(Mutex::new(()));
    let (counted, gate) = (ran.clone(), hold.clone());
    let softint = Softint::establish(&kernel, "test", move || {
        drop(gate.lock());
        counted.fetch_add(1, Ordering::SeqCst);
    })
    .expect("established");
    let closed = hold.lock();
    softint.schedule();
    time::sleep(Duration::from_millis(20));
    // It runs and waits at the gate: these make one more run.
    softint.schedule();
    softint.schedule();
    drop(closed);
    time::sleep(Duration::from_millis(30));
    assert_eq!(ran.load(Ordering::SeqCst), 2);
    kernel.shutdown();
}

#[test]
fn counters_are_listed_by_name() {
    let kernel = boot();
    let counters = kernel.counters();
    assert_eq!(counters.register("zz_total", "last", || 3), Ok(()));
    assert_eq!(
        counters.register("zz_total", "last", || 3),
        Err(Errno::EEXIST)
    );
    let mut text = String::new();
    counters.for_each(|name, help, value| {
        crate::counter::write_prometheus(&mut text, "rump_", (name, help, value))
            .expect("a string takes it");
    });
    assert!(text.contains("# TYPE rump_zz_total counter\nrump_zz_total 3\n"));
    assert!(text.contains("rump_uvm_limit_pages "));
    kernel.shutdown();
}

#[cfg(debug_assertions)]
mod order {
    use super::*;
    use crate::locks::{LockClass, Ordered};

    static LOW: LockClass = LockClass {
        name: "low",
        rank: 1,
    };
    static HIGH: LockClass = LockClass {
        name: "high",
        rank: 2,
    };

    fn panics(name: &'static str, f: impl FnOnce() + Send + 'static) -> String {
        let kernel = boot();
        let thread = std::thread::spawn(move || {
            let _attached = kernel.attach(name).expect("attached");
            f();
        });
        let panic = thread.join().expect_err("it panics");
        *panic.downcast::<String>().expect("a message")
    }

    #[test]
    fn taking_locks_against_their_order_is_found() {
        let said = panics("order", || {
            let low = Mutex::with_class((), &LOW);
            let high = RwLock::with_class((), &HIGH);
            let _first = high.read();
            let _second = low.lock();
        });
        assert!(
            said.contains("low (rank 1) taken while high (rank 2)"),
            "{said}"
        );
    }

    #[test]
    fn what_is_waited_for_like_a_lock_has_its_place_in_the_order() {
        let said = panics("ordered", || {
            let low = Mutex::with_class((), &LOW);
            drop(Ordered::enter(&HIGH, 1));
            let _first = low.lock();
            let _second = Ordered::enter(&HIGH, 1);
            let _third = Ordered::enter(&LOW, 2);
        });
        assert!(
            said.contains("low (rank 1) taken while low (rank 1)"),
            "{said}"
        );
    }

    #[test]
    fn taking_a_lock_twice_is_found() {
        let said = panics("twice", || {
            let lock = Mutex::new(());
            let _first = lock.lock();
            let _second = lock.lock();
        });
        assert!(said.contains("locking against myself"), "{said}");
    }

    #[test]
    fn the_right_order_and_a_try_against_it_are_fine() {
        let kernel = boot();
        let _attached = kernel.attach("fine").expect("attached");
        let low = Mutex::with_class((), &LOW);
        let high = Mutex::with_class((), &HIGH);
        let first = low.lock();
        let second = high.lock();
        drop(first);
        assert!(low.try_lock().is_some());
        drop(second);
        drop(low.lock());
        kernel.shutdown();
    }
}
