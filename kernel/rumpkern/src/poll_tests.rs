use super::*;
use crate::file::{FileFlags, FileOps};
use crate::testing::install_host;
use crate::time;
use core::any::Any;
use core::sync::atomic::{AtomicU32, AtomicUsize};

/// A pollable object whose state the test sets.
#[derive(Default)]
struct Switch {
    events: AtomicU32,
    asked: AtomicUsize,
    selinfo: SelInfo,
}

impl Switch {
    fn set(&self, events: Events) {
        self.events.store(events.bits(), Ordering::SeqCst);
        self.selinfo.notify(events);
    }
}

impl FileOps for Switch {
    fn read(&self, _: &mut u64, _: &mut [u8], _: FileFlags) -> Result<usize, Errno> {
        Err(Errno::EAGAIN)
    }

    fn write(&self, _: &mut u64, _: &[u8], _: FileFlags) -> Result<usize, Errno> {
        Err(Errno::EAGAIN)
    }

    fn poll(&self, interest: Events) -> Events {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Events::from_bits_truncate(self.events.load(Ordering::SeqCst)) & interest
    }

    fn selinfo(&self) -> Option<&SelInfo> {
        Some(&self.selinfo)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn file(switch: &Arc<Switch>) -> Arc<File> {
    Arc::new(File::new(FileFlags::READ, switch.clone()))
}

fn soon() -> Option<Instant> {
    Some(time::now() + Duration::from_millis(20))
}

#[test]
fn what_is_true_already_is_reported_and_again_until_it_is_false() {
    install_host();
    let switch = Arc::new(Switch::default());
    switch.set(Events::READABLE);
    let queue = EventQueue::new().expect("memory");
    let _watch = queue
        .watch(file(&switch), 7, Events::READABLE)
        .expect("memory");
    let mut events = Vec::new();
    for _ in 0..3 {
        queue.wait(&mut events, 8, None);
        assert_eq!(
            events,
            [Event {
                key: 7,
                events: Events::READABLE
            }]
        );
    }
    switch.set(Events::empty());
    queue.wait(&mut events, 8, soon());
    assert!(events.is_empty());
}

#[test]
fn a_notification_ends_a_wait() {
    install_host();
    let switch = Arc::new(Switch::default());
    let queue = EventQueue::new().expect("memory");
    let _watch = queue
        .watch(file(&switch), 1, Events::WRITABLE)
        .expect("memory");
    let setter = {
        let switch = switch.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            switch.set(Events::READABLE);
            std::thread::sleep(Duration::from_millis(10));
            switch.set(Events::READABLE | Events::WRITABLE);
        })
    };
    let mut events = Vec::new();
    queue.wait(&mut events, 8, None);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].events, Events::WRITABLE);
    setter.join().expect("the setter ends");
}

#[test]
fn errors_and_hangups_are_reported_unasked() {
    install_host();
    let switch = Arc::new(Switch::default());
    let queue = EventQueue::new().expect("memory");
    let _watch = queue
        .watch(file(&switch), 1, Events::READABLE)
        .expect("memory");
    let mut events = Vec::new();
    queue.wait(&mut events, 8, soon());
    assert!(events.is_empty());
    switch.set(Events::HANGUP);
    queue.wait(&mut events, 8, None);
    assert_eq!(events[0].events, Events::HANGUP);
}

#[test]
fn a_dropped_watch_reports_nothing_and_changed_interest_counts_at_once() {
    install_host();
    let switch = Arc::new(Switch::default());
    switch.set(Events::WRITABLE);
    let queue = EventQueue::new().expect("memory");
    let watch = queue
        .watch(file(&switch), 1, Events::READABLE)
        .expect("memory");
    let mut events = Vec::new();
    queue.wait(&mut events, 8, soon());
    assert!(events.is_empty());
    watch.set_interest(Events::WRITABLE);
    queue.wait(&mut events, 8, None);
    assert_eq!(events.len(), 1);
    drop(watch);
    assert!(!switch.selinfo.has_watchers());
    queue.wait(&mut events, 8, soon());
    assert!(events.is_empty());
}

#[test]
fn the_cost_of_a_wait_goes_with_what_is_ready() {
    install_host();
    let queue = EventQueue::new().expect("memory");
    let switches: Vec<_> = (0..1000).map(|_| Arc::new(Switch::default())).collect();
    let _watches: Vec<_> = (0..)
        .zip(&switches)
        .map(|(key, switch)| {
            queue
                .watch(file(switch), key, Events::READABLE)
                .expect("memory")
        })
        .collect();
    let mut events = Vec::new();
    queue.wait(&mut events, 1000, soon());
    let asked = || -> usize {
        switches
            .iter()
            .map(|s| s.asked.load(Ordering::Relaxed))
            .sum()
    };
    let before = asked();
    switches[123].set(Events::READABLE);
    queue.wait(&mut events, 1000, None);
    assert_eq!(events[0].key, 123);
    assert!(asked() - before <= 2);
}

#[test]
fn all_that_is_ready_gets_its_turn_when_few_fit() {
    install_host();
    let queue = EventQueue::new().expect("memory");
    let switch = Arc::new(Switch::default());
    switch.set(Events::READABLE);
    let _watches: Vec<_> = (0..10)
        .map(|key| {
            queue
                .watch(file(&switch), key, Events::READABLE)
                .expect("memory")
        })
        .collect();
    let mut seen = [0; 10];
    let mut events = Vec::new();
    for _ in 0..10 {
        queue.wait(&mut events, 3, None);
        assert_eq!(events.len(), 3);
        for event in &events {
            seen[event.key as usize] += 1;
        }
    }
    assert_eq!(seen, [3; 10]);
}

#[test]
fn wake_ends_a_wait_with_nothing() {
    install_host();
    let queue = Arc::new(EventQueue::new().expect("memory"));
    let waker = queue.clone();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(10));
        waker.wake();
    });
    let mut events = Vec::new();
    queue.wait(&mut events, 8, None);
    assert!(events.is_empty());
    thread.join().expect("the waker ends");
}

#[test]
fn poll_answers_for_each_file_and_waits_for_the_first() {
    install_host();
    let (first, second) = (Arc::new(Switch::default()), Arc::new(Switch::default()));
    let mut fds = [Some(&first), Some(&second), None].map(|switch| PollFd {
        file: switch.map(file),
        interest: Events::READABLE,
        found: Events::empty(),
    });
    assert_eq!(poll(&mut fds, None), Ok(1));
    assert_eq!(fds[2].found, Events::INVALID);
    let fds = &mut fds[..2];
    assert_eq!(poll(fds, Some(Duration::ZERO)), Ok(0));
    assert_eq!(poll(fds, Some(Duration::from_millis(10))), Ok(0));
    let setter = {
        let second = second.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            second.set(Events::READABLE);
        })
    };
    assert_eq!(poll(fds, None), Ok(1));
    assert_eq!(
        (fds[0].found, fds[1].found),
        (Events::empty(), Events::READABLE)
    );
    assert!(!first.selinfo.has_watchers() && !second.selinfo.has_watchers());
    setter.join().expect("the setter ends");
}
