//! Prints what the basic operations cost on this machine, in nanoseconds. A measurement, not a test of
//! time: `cargo test --release -p rumpkern --test costs -- --nocapture`.

use rumpkern::callout::Callout;
use rumpkern::kmem::Run;
use rumpkern::locks::{Condvar, Mutex, RwLock};
use rumpkern::uvm::{Alloc, Cluster, Frame, lru};
use rumpkern::{Config, Kernel};
use rumpuser_hosted::Host;
use std::alloc::Layout;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn cost(name: &str, rounds: u32, mut operation: impl FnMut()) {
    for _ in 0..rounds / 10 {
        operation();
    }
    let start = Instant::now();
    for _ in 0..rounds {
        operation();
    }
    let nanos = start.elapsed().as_nanos() as f64 / f64::from(rounds);
    println!("{name:<44} {nanos:9.1} ns");
}

#[test]
fn the_costs_of_the_basic_operations_are_printed() {
    Host::builder()
        .memory(256 << 20)
        .command_line("loglevel=warn")
        .install()
        .expect("the only host");
    let kernel = Kernel::boot(Config::from_host(), &[]).expect("boots");
    let _lwp = kernel.attach("costs").expect("attached");
    const N: u32 = if cfg!(debug_assertions) {
        10_000
    } else {
        200_000
    };

    let mutex = Mutex::new(0u64);
    cost("mutex: lock and unlock", N, || *mutex.lock() += 1);
    let lock = RwLock::new(0u64);
    cost("rwlock: read and release", N, || {
        black_box(*lock.read());
    });
    cost("rwlock: write and release", N, || *lock.write() += 1);
    let condvar = Condvar::new();
    cost("condvar: notify nobody", N, || condvar.notify_one());

    for size in [16, 64, 200, 600, 2048, 4096, 16384] {
        let layout = Layout::from_size_align(size, 8).expect("a layout");
        cost(&format!("kmem: allocate and free {size}"), N, || {
            black_box(Run::alloc(layout, Alloc::Wait).expect("memory"));
        });
    }
    let layout = Layout::from_size_align(64, 8).expect("a layout");
    let mut blocks = Vec::with_capacity(1000);
    cost("kmem: 1000 times 64, then free, each", N / 1000, || {
        for _ in 0..1000 {
            blocks.push(Run::alloc(layout, Alloc::Wait).expect("memory"));
        }
        blocks.clear();
    });
    cost("frame: allocate and free", N, || {
        black_box(Frame::alloc(Alloc::Wait).expect("memory"));
    });
    let frame = Frame::alloc(Alloc::Wait).expect("memory");
    cost("frame: clone and drop", N, || {
        black_box(frame.clone());
    });
    cost("frame: look at a byte", N, || {
        black_box(frame.as_bytes()[7]);
    });
    cost("lru: mark used", N, || lru::mark_used(&frame));
    cost("cluster: allocate and free", N, || {
        black_box(Cluster::alloc(Alloc::Wait).expect("memory"));
    });
    let callouts: Vec<Callout> = (0..1000).map(|_| Callout::new(&kernel, || ())).collect();
    let mut turn = 0;
    cost("callout: reschedule one of 1000", N, || {
        turn += 1;
        let after = Duration::from_secs(3600 + turn % 977);
        callouts[turn as usize % 1000].schedule(after);
    });
    cost("random: 8 bytes", N, || {
        black_box(rumpkern::random::u64().expect("a source"));
    });

    let shared = Arc::new((Mutex::new(0u32), Condvar::new()));
    let other = shared.clone();
    const TURNS: u32 = N / 10;
    let thread = rumpkern::spawn("ping", move || {
        let mut turn = other.0.lock();
        for _ in 0..TURNS {
            while (*turn).is_multiple_of(2) {
                turn = other.1.wait(turn);
            }
            *turn += 1;
            other.1.notify_one();
        }
    })
    .expect("a thread");
    let start = Instant::now();
    let mut turn = shared.0.lock();
    for _ in 0..TURNS {
        *turn += 1;
        shared.1.notify_one();
        while !(*turn).is_multiple_of(2) {
            turn = shared.1.wait(turn);
        }
    }
    drop(turn);
    let nanos = start.elapsed().as_nanos() as f64 / f64::from(TURNS);
    println!("{:<44} {nanos:9.1} ns", "condvar: there and back");
    thread.join();
    kernel.shutdown();
}
