//! The budget and the pagedaemon, with a limit of 1 MiB, against a small page cache on a disk in memory.
//!
//! Memory is the process's, so these tests have a process of their own, and take turns.

use rumpkern::kmem::{self, Room};
use rumpkern::locks::{Condvar, Mutex};
use rumpkern::lwp::{self, MemoryUse};
use rumpkern::uvm::dma::{Bio, BioOp, BlockQueue, IoFrame};
use rumpkern::uvm::lru::{self, Object, Owner, Reclaim, Reclaimed};
use rumpkern::uvm::{self, Alloc, Drain, Frame};
use rumpkern::{Config, Kernel};
use rumpuser::{Errno, PAGE_SIZE};
use rumpuser_hosted::{Host, RamDisk};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, Once, PoisonError, Weak};
use std::time::{Duration, Instant};

const LIMIT: usize = 1 << 20;

fn kernel() -> (MutexGuard<'static, ()>, Arc<Kernel>) {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    static HOST: Once = Once::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    HOST.call_once(|| {
        log::set_logger(&Log).expect("the only log");
        log::set_max_level(log::LevelFilter::Warn);
        Host::builder()
            .memory(64 << 20)
            .command_line("memlimit=1m loglevel=warn")
            .install()
            .expect("the only host");
    });
    let kernel = Kernel::boot(Config::from_host(), &[]).expect("boots");
    (turn, kernel)
}

/// The log of this process.
struct Log;

/// Lines that say that there is no memory.
static OUT_OF_MEMORY: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        println!("{line}");
        if line.contains("out of memory") {
            out_of_memory().push(line);
        }
    }

    fn flush(&self) {}
}

fn out_of_memory() -> MutexGuard<'static, Vec<String>> {
    OUT_OF_MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Page {
    frame: Frame,
    dirty: bool,
    writing: bool,
}

/// A page cache with one object, whose page `n` lies at sector `8 n`.
struct Cache {
    pages: Mutex<HashMap<u64, Page>>,
    /// A write or a reclaim was finished.
    changed: Condvar,
    owner: Mutex<Option<Owner>>,
    disk: Arc<BlockQueue>,
    itself: Weak<Cache>,
    errors: AtomicUsize,
}

impl Cache {
    fn new(disk: Arc<BlockQueue>) -> Arc<Cache> {
        let cache = Arc::new_cyclic(|itself| Cache {
            pages: Mutex::new(HashMap::new()),
            changed: Condvar::new(),
            owner: Mutex::new(None),
            disk,
            itself: itself.clone(),
            errors: AtomicUsize::new(0),
        });
        let weak: Weak<Cache> = Arc::downgrade(&cache);
        *cache.owner.lock() = Some(Owner::new(weak).expect("memory"));
        cache
    }

    fn fill(frame: &mut Frame, index: u64) {
        let bytes = frame.get_mut().expect("unique");
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = (index as usize * 31 + at) as u8;
        }
    }

    /// Dirties page `index`.
    fn write(&self, index: u64) -> Result<(), Errno> {
        let mut frame = Frame::alloc(Alloc::Wait)?;
        Cache::fill(&mut frame, index);
        let mut pages = self.pages.lock();
        if let Some(owner) = &*self.owner.lock() {
            lru::enqueue(&frame, owner, index);
        }
        let page = Page {
            frame,
            dirty: true,
            writing: false,
        };
        let before = pages.insert(index, page);
        assert!(before.is_none());
        Ok(())
    }

    /// Whether page `index` holds what was written, read back if need be.
    fn check(&self, index: u64) -> Result<(), Errno> {
        let mut expected = Frame::alloc(Alloc::Wait)?;
        Cache::fill(&mut expected, index);
        if let Some(page) = self.pages.lock().get(&index) {
            assert!(page.frame.as_bytes() == expected.as_bytes(), "page {index}");
            return Ok(());
        }
        let read = self.disk.read_frames(index * 8, PAGE_SIZE, Alloc::Wait)?;
        assert!(
            read[0].as_bytes() == expected.as_bytes(),
            "page {index} on disk"
        );
        Ok(())
    }

    fn written(&self, index: u64, result: Result<(), Errno>, freed: bool) -> usize {
        let mut pages = self.pages.lock();
        let page = pages.get_mut(&index).expect("busy pages stay");
        page.writing = false;
        let mut dropped = None;
        if result.is_ok() {
            page.dirty = false;
            if freed {
                dropped = pages.remove(&index);
            }
        } else {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        drop(pages);
        let count = dropped.is_some() as usize;
        drop(dropped);
        self.changed.notify_all();
        count
    }
}

impl Object for Cache {
    fn reclaim(&self, index: u64, _most: usize, how: Reclaim) -> Reclaimed {
        let Some(mut pages) = self.pages.try_lock() else {
            return Reclaimed::Busy;
        };
        let Some(page) = pages.get_mut(&index) else {
            return Reclaimed::Gone;
        };
        if page.writing {
            return Reclaimed::Busy;
        }
        if !page.dirty {
            if !page.frame.is_unique() {
                return Reclaimed::Referenced;
            }
            let page = pages.remove(&index);
            drop(pages);
            drop(page);
            return Reclaimed::Freed(1);
        }
        if how == Reclaim::CleanOnly {
            return Reclaimed::Busy;
        }
        page.writing = true;
        let frame = page.frame.clone();
        drop(pages);
        let cache = self.itself.upgrade().expect("the caller has a reference");
        let pageout = uvm::pageout_started(1);
        let bio = Bio {
            op: BioOp::Write,
            sector: index * 8,
            frames: vec![IoFrame::whole(frame)],
            done: Box::new(move |frames, result| {
                drop(frames);
                let freed = cache.written(index, result, true);
                pageout.done(freed);
            }),
        };
        match self.disk.start(bio) {
            Ok(()) => Reclaimed::PageoutStarted(1),
            Err(_) => {
                self.written(index, Err(Errno::EIO), false);
                Reclaimed::Busy
            }
        }
    }
}

#[test]
fn a_file_sixteen_times_the_limit_goes_through_and_comes_back() {
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    let disk = BlockQueue::attach(&kernel, RamDisk::zeroed(64 << 11)).expect("attached");
    let cache = Cache::new(disk);
    let pages = 16 * (LIMIT / PAGE_SIZE) as u64;
    let before = uvm::stats();
    let threads: Vec<_> = (0..4)
        .map(|part| {
            let cache = cache.clone();
            let write = move || {
                for index in (0..pages).filter(|index| index % 4 == part) {
                    cache.write(index).expect("memory comes");
                }
            };
            rumpkern::spawn("writer", write).expect("a thread")
        })
        .collect();
    for thread in threads {
        thread.join();
    }
    for index in 0..pages {
        cache.check(index).expect("readable");
    }
    let stats = uvm::stats();
    println!("{stats:?}");
    assert!(stats.high_water <= LIMIT / PAGE_SIZE);
    assert!(stats.pageouts_done - before.pageouts_done >= pages / 2);
    assert_eq!(stats.hopeless, before.hopeless);
    cache.pages.lock().clear();
    while uvm::stats().outstanding > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    kernel.shutdown();
}

#[test]
fn with_a_disk_that_stands_still_the_daemon_waits_and_does_not_give_up() {
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    let ram = RamDisk::zeroed(16 << 11);
    let cache = Cache::new(BlockQueue::attach(&kernel, ram).expect("attached"));
    let before = uvm::stats();
    ram.hold();
    let written = Arc::new(AtomicUsize::new(0));
    let (writer, count) = (cache.clone(), written.clone());
    let thread = rumpkern::spawn("writer", move || {
        for index in 0..1024 {
            writer.write(index).expect("memory comes");
            count.fetch_add(1, Ordering::Relaxed);
        }
    })
    .expect("a thread");
    std::thread::sleep(Duration::from_millis(1500));
    let stuck = uvm::stats();
    assert!(stuck.waiters == 1 && stuck.outstanding > 0, "{stuck:?}");
    assert!(written.load(Ordering::Relaxed) < 256);
    assert_eq!(stuck.hopeless, before.hopeless);
    ram.release();
    thread.join();
    assert_eq!(written.load(Ordering::Relaxed), 1024);
    for index in 0..1024 {
        cache.check(index).expect("readable");
    }
    while uvm::stats().outstanding > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    cache.pages.lock().clear();
    kernel.shutdown();
}

#[test]
fn clean_pages_are_freed_while_dirty_ones_wait_for_a_slow_disk() {
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    let ram = RamDisk::zeroed(16 << 11);
    let cache = Cache::new(BlockQueue::attach(&kernel, ram).expect("attached"));
    for index in 0..150 {
        cache.write(index).expect("memory");
    }
    for (index, page) in cache.pages.lock().iter_mut() {
        page.dirty = index % 2 == 0;
    }
    ram.hold();
    for index in 1000..1100 {
        cache.write(index).expect("clean pages make room");
    }
    ram.release();
    while uvm::stats().outstanding > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    cache.pages.lock().clear();
    kernel.shutdown();
}

#[test]
fn what_is_recycled_for_a_reader_was_used_once_and_not_again_and_is_not_ahead_of_him() {
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    let disk = BlockQueue::attach(&kernel, RamDisk::zeroed(64 << 11)).expect("attached");
    let cache = Cache::new(disk);
    let (again, once, ahead) = (0..20, 20..40, 40..60);
    for index in 0..60 {
        cache.write(index).expect("memory");
        let mut pages = cache.pages.lock();
        let page = pages.get_mut(&index).expect("just written");
        page.dirty = false;
        lru::mark_new(&page.frame);
        let uses = usize::from(index < 40) + usize::from(again.contains(&index));
        (0..uses).for_each(|_| lru::mark_used(&page.frame));
    }
    let mut freed = 0;
    while freed < 20 {
        let now = uvm::recycle(20 - freed);
        assert!(now > 0, "{freed} of 20 were freed");
        freed += now;
    }
    assert_eq!(
        uvm::recycle(1),
        0,
        "those ahead stay, and those used again for now"
    );
    let pages = cache.pages.lock();
    assert!(again.chain(ahead).all(|index| pages.contains_key(&index)));
    assert!(!once.into_iter().any(|index| pages.contains_key(&index)));
    drop(pages);
    cache.pages.lock().clear();
    kernel.shutdown();
}

#[test]
fn used_pages_outlive_a_flood_of_pages_that_are_used_once() {
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    let disk = BlockQueue::attach(&kernel, RamDisk::zeroed(64 << 11)).expect("attached");
    let cache = Cache::new(disk);
    for index in 0..40 {
        cache.write(index).expect("memory");
    }
    let use_hot = || {
        let pages = cache.pages.lock();
        for index in 0..40 {
            if let Some(page) = pages.get(&index) {
                lru::mark_used(&page.frame);
            }
        }
    };
    for index in 1000..3000 {
        if index % 20 == 0 {
            use_hot();
        }
        cache.write(index).expect("memory");
    }
    let left = (0..40).filter(|index| cache.pages.lock().contains_key(index));
    let left = left.count();
    println!("{left} of 40 are left");
    assert!(left >= 36);
    while uvm::stats().outstanding > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    cache.pages.lock().clear();
    kernel.shutdown();
}

/// Takes all memory that frames may use but `left` pages.
fn fill_memory(left: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    loop {
        let before = frames.len();
        while let Ok(frame) = Frame::alloc(Alloc::NoWait) {
            frames.push(frame);
        }
        if frames.len() == before {
            break;
        }
        // The refusal woke the pagedaemon, which may find empty slabs that an earlier test left.
        std::thread::sleep(Duration::from_millis(20));
    }
    frames.truncate(frames.len() - left);
    frames
}

#[test]
fn a_waiter_gets_what_another_thread_frees() {
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    let mut frames = fill_memory(0);
    let given = Arc::new(AtomicUsize::new(0));
    let waiters: Vec<_> = (0..8)
        .map(|_| {
            let given = given.clone();
            let wait = move || {
                let frame = Frame::alloc(Alloc::Wait).expect("memory comes");
                given.fetch_add(1, Ordering::SeqCst);
                std::mem::forget(frame.clone());
            };
            rumpkern::spawn("waiter", wait).expect("a thread")
        })
        .collect();
    // An earlier test's thread may give a page back at its end.
    while uvm::stats().waiters + given.load(Ordering::SeqCst) < 8 {
        std::thread::sleep(Duration::from_millis(1));
    }
    for expected in given.load(Ordering::SeqCst) + 1..=8 {
        drop(frames.pop());
        let deadline = Instant::now() + Duration::from_secs(5);
        while given.load(Ordering::SeqCst) < expected {
            assert!(Instant::now() < deadline, "{expected}: not woken");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    for waiter in waiters {
        waiter.join();
    }
    kernel.shutdown();
}

#[test]
fn the_reserve_is_for_the_io_path_and_never_exceeds_the_limit() {
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    let frames = fill_memory(0);
    assert_eq!(Frame::alloc(Alloc::NoWait).err(), Some(Errno::ENOMEM));
    let mut reserve = Vec::new();
    {
        let _reserve = lwp::set_memory_use(MemoryUse::Reserve);
        while let Ok(frame) = Frame::alloc(Alloc::Wait) {
            reserve.push(frame);
        }
    }
    let marks = uvm::marks();
    assert_eq!(reserve.len(), marks.reserve + marks.kernel_reserve);
    assert_eq!(uvm::stats().used, LIMIT / PAGE_SIZE);
    assert_eq!(Frame::alloc(Alloc::PageDaemon).err(), Some(Errno::ENOMEM));
    {
        let _nowait = lwp::set_memory_use(MemoryUse::NoWait);
        assert_eq!(Frame::alloc(Alloc::Wait).err(), Some(Errno::ENOMEM));
    }
    drop((frames, reserve));
    kernel.shutdown();
}

#[test]
fn when_nothing_can_be_reclaimed_a_waiter_fails_in_the_end_and_the_log_says_so_once() {
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    for _ in 0..2 {
        let frames = fill_memory(0);
        out_of_memory().clear();
        let before = uvm::stats();
        // However many are refused until memory comes.
        for _ in 0..5 {
            let refused = Frame::alloc(Alloc::Wait).err();
            assert_eq!(refused, Some(Errno::ENOMEM));
        }
        let stats = uvm::stats();
        assert!(stats.hopeless > before.hopeless + 5 && stats.waiters == 0);
        let lines = std::mem::take(&mut *out_of_memory());
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert_numbers(&lines[0]);
        drop(frames);
        assert!(Frame::alloc(Alloc::Wait).is_ok());
        // A daemon that is woken has slept, and knew that there was memory.
        while uvm::stats().pdwoke == stats.pdwoke {
            drop(fill_memory(0));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    assert!(out_of_memory().is_empty(), "and not when there is some");
    kernel.shutdown();
}

/// The line says how much of the memory is what.
fn assert_numbers(line: &str) {
    let words = line.split(|c: char| !c.is_ascii_alphanumeric());
    let numbers: Vec<usize> = words.filter_map(|word| word.parse().ok()).collect();
    let [used, limit, kmem, active, inactive, wanted] = numbers[..] else {
        panic!("{line}");
    };
    let marks = uvm::marks();
    assert_eq!(limit, LIMIT / PAGE_SIZE, "{line}");
    let usable = limit - marks.reserve - marks.kernel_reserve;
    assert!((usable..=limit).contains(&used), "{line}");
    assert!(kmem + active + inactive <= used && wanted > 0, "{line}");
    let ending = "wanted, none freed, none outstanding";
    assert!(line.ends_with(ending), "{line}");
}

#[test]
fn a_cache_that_is_registered_is_drained() {
    struct Hoard(Mutex<Vec<Frame>>);
    impl Drain for Hoard {
        fn drain(&self, want: usize) -> usize {
            let mut frames = self.0.lock();
            let len = frames.len();
            let taken = frames.split_off(len - want.min(len));
            drop(frames);
            taken.len()
        }
    }
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    let frames = fill_memory(40);
    let hoard = Arc::new(Hoard(Mutex::new(Vec::new())));
    let weak: Weak<Hoard> = Arc::downgrade(&hoard);
    uvm::register_drain("hoard", 5, weak).expect("memory");
    while let Ok(frame) = Frame::alloc(Alloc::NoWait) {
        hoard.0.lock().push(frame);
    }
    let frame = Frame::alloc(Alloc::Wait).expect("the hoard gives");
    assert!(hoard.0.lock().len() < 40);
    drop((frame, frames, hoard));
    kernel.shutdown();
}

#[test]
fn a_failing_disk_loses_no_page_and_leaves_the_count_right() {
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    let ram = RamDisk::zeroed(16 << 11);
    let cache = Cache::new(BlockQueue::attach(&kernel, ram).expect("attached"));
    for index in 0..100 {
        ram.fail_sector(index * 8);
        cache.write(index).expect("memory");
    }
    for index in 100..1000 {
        cache.write(index).expect("the others make room");
    }
    assert!(cache.errors.load(Ordering::Relaxed) > 0);
    for index in 0..100 {
        assert!(cache.pages.lock().contains_key(&index));
    }
    ram.mend();
    for index in 1000..1300 {
        cache.write(index).expect("memory");
    }
    for index in 0..1300 {
        cache.check(index).expect("readable");
    }
    while uvm::stats().outstanding > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    cache.pages.lock().clear();
    kernel.shutdown();
}

#[test]
fn a_limit_that_is_too_small_is_refused() {
    let (_turn, kernel) = kernel();
    assert_eq!(uvm::set_limit(64 << 10), Err(Errno::EINVAL));
    assert_eq!(uvm::set_limit(usize::MAX), Err(Errno::ENOMEM));
    let config = Config {
        memlimit: Some(1000),
        ..Config::default()
    };
    assert_eq!(Kernel::boot(config, &[]).err(), Some(Errno::EINVAL));
    assert_eq!(uvm::limit_pages(), LIMIT / PAGE_SIZE);
    kernel.shutdown();
}

#[test]
fn a_run_of_pages_is_had_from_memory_in_single_pieces() {
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    let disk = BlockQueue::attach(&kernel, RamDisk::zeroed(16 << 11)).expect("attached");
    let cache = Cache::new(disk);
    // Other address space than the limit's is there; with all of it in use but what is freed, runs are rare.
    for index in 0..1000 {
        cache.write(index).expect("memory");
    }
    let hopeless = uvm::stats().hopeless;
    let big = rumpkern::uvm::Cluster::alloc(Alloc::Wait).expect("a cluster");
    let threads: Vec<_> = (1000..1004)
        .map(|first| {
            let cache = cache.clone();
            let write = move || {
                for round in 0..100 {
                    cache.write(first + round * 4).expect("memory comes");
                }
            };
            rumpkern::spawn("writer", write).expect("a thread")
        })
        .collect();
    for pages in [2, 7, 16, 40, 100] {
        let layout = std::alloc::Layout::from_size_align(pages * PAGE_SIZE, 16).expect("a layout");
        let run = rumpkern::kmem::Run::alloc(layout, Alloc::Wait).expect("the daemon makes room");
        drop(run);
    }
    for thread in threads {
        thread.join();
    }
    assert_eq!(uvm::stats().hopeless, hopeless);
    drop(big);
    while uvm::stats().outstanding > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    cache.pages.lock().clear();
    kernel.shutdown();
}

#[test]
fn a_run_that_no_page_in_the_world_makes_room_for_is_refused_in_the_end() {
    let (_turn, kernel) = kernel();
    let lwp = kernel.attach("test").expect("attached");
    let run = |how| {
        let layout = std::alloc::Layout::from_size_align(100 * PAGE_SIZE, 16).expect("a layout");
        rumpkern::kmem::Run::alloc(layout, how)
    };
    // A page behind each run that there is; nobody gives those back, and nearly all memory is free.
    let mut between = Vec::new();
    while let Ok(found) = run(Alloc::NoWait) {
        between.push(Frame::alloc(Alloc::NoWait).expect("a page"));
        drop(found);
    }
    assert!(between.len() < 20, "{} runs", between.len());
    let before = uvm::stats();
    let (tell, told) = std::sync::mpsc::channel();
    let waiter = rumpkern::spawn("waiter", move || {
        let refused = run(Alloc::Wait).err();
        tell.send(refused).expect("somebody listens");
    });
    let refused = told.recv_timeout(Duration::from_secs(60));
    assert_eq!(refused, Ok(Some(Errno::ENOMEM)));
    waiter.expect("a thread").join();
    let stats = uvm::stats();
    assert!(stats.hopeless > before.hopeless && stats.waiters == 0);
    drop(between);
    assert!(run(Alloc::Wait).is_ok());
    drop(lwp);
    kernel.shutdown();
}

#[test]
fn frames_clusters_and_runs_of_many_threads_share_the_budget() {
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    let disk = BlockQueue::attach(&kernel, RamDisk::zeroed(64 << 11)).expect("attached");
    let cache = Cache::new(disk);
    let before = uvm::stats();
    let seed = 11;
    println!("seed {seed}");
    let threads: Vec<_> = (0..6u64)
        .map(|thread| {
            let cache = cache.clone();
            let work = move || {
                let mut random = seed + thread;
                let mut frames = Vec::new();
                let mut clusters = Vec::new();
                let mut runs = Vec::new();
                for round in 0..1500 {
                    random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
                    match random >> 61 {
                        0..3 => cache
                            .write(thread * 1500 + round)
                            .expect("the cache makes room"),
                        3 => frames.push(Frame::alloc(Alloc::Wait).expect("memory comes")),
                        4 => clusters.push(uvm::Cluster::alloc(Alloc::Wait).expect("memory comes")),
                        5 => {
                            let pages = 1 + (random >> 40) as usize % 4;
                            let layout = std::alloc::Layout::from_size_align(pages * 4000, 16);
                            let layout = layout.expect("a layout");
                            let run = rumpkern::kmem::Run::alloc(layout, Alloc::Wait);
                            runs.push(run.expect("memory comes"));
                        }
                        _ => {}
                    }
                    // What threads hold on to is a small part of the limit: the rest is cache.
                    frames.truncate(
                        frames
                            .len()
                            .min(8)
                            .saturating_sub((random >> 50) as usize % 3),
                    );
                    clusters.truncate(clusters.len().min(8));
                    runs.truncate(
                        runs.len()
                            .min(2)
                            .saturating_sub((random >> 45) as usize % 2),
                    );
                }
            };
            rumpkern::spawn("worker", work).expect("a thread")
        })
        .collect();
    for thread in threads {
        thread.join();
    }
    while uvm::stats().outstanding > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let stats = uvm::stats();
    assert!(stats.high_water <= LIMIT / PAGE_SIZE);
    assert_eq!(stats.hopeless, before.hopeless);
    cache.pages.lock().clear();
    // All but empty slabs that are kept.
    assert!(
        uvm::stats().used <= before.used + 16,
        "{before:?} {:?}",
        uvm::stats()
    );
    kernel.shutdown();
}

#[test]
fn an_allocation_refused_at_any_point_of_a_read_is_an_errno_and_loses_nothing() {
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    let disk = BlockQueue::attach(&kernel, RamDisk::zeroed(64)).expect("attached");
    let used = uvm::stats().used;
    let mut refusals = 0;
    for allocation in 1.. {
        uvm::fail_after(allocation);
        let read = disk.read_frames(0, 8 * PAGE_SIZE, Alloc::NoWait);
        let was_refused = uvm::fail_after(0) == 0;
        match was_refused {
            false => assert_eq!(read.map(|frames| frames.len()), Ok(8)),
            true => assert_eq!(read.err(), Some(Errno::ENOMEM), "{allocation}"),
        }
        assert_eq!(uvm::stats().used, used);
        if !was_refused {
            break;
        }
        refusals += 1;
    }
    // The pages, and what is smaller.
    assert!(refusals > 8, "{refusals}");
    kernel.shutdown();
}

#[test]
fn small_allocations_are_refused_as_pages_are_but_room_that_is_there_is_not() {
    let (_turn, kernel) = kernel();
    let _lwp = kernel.attach("test").expect("attached");
    let refused = |what: &mut dyn FnMut() -> Result<(), Errno>| {
        uvm::fail_after(1);
        let outcome = what();
        (outcome, uvm::fail_after(0))
    };
    let of_memory = (Err(Errno::ENOMEM), 0);
    assert_eq!(refused(&mut || kmem::try_vec::<u8>(1).map(drop)), of_memory);
    assert_eq!(refused(&mut || kmem::try_box(1u8).map(drop)), of_memory);
    assert_eq!(refused(&mut || kmem::try_arc(1u8).map(drop)), of_memory);
    let mut bytes = vec![0u8; 3];
    assert_eq!(refused(&mut || bytes.room(1000)), of_memory);
    assert_eq!(bytes, [0; 3]);
    assert_eq!(bytes.room(1000), Ok(()));
    let not_asked_for = (Ok(()), 1);
    assert_eq!(refused(&mut || bytes.room(1000)), not_asked_for);
    assert_eq!(
        refused(&mut || kmem::try_vec::<u8>(0).map(drop)),
        not_asked_for
    );
    assert_eq!(refused(&mut || kmem::try_box(()).map(drop)), not_asked_for);
    kernel.shutdown();
}
