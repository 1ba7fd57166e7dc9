//! Waiting for several sockets at once: event queues and poll(2).

use super::{LONG, MOMENT, local, streams};
use crate::{Outcome, cases};
use alloc::vec::Vec;
use core::time::Duration;
use rump::fs::File;
use rump::net::{TcpListener, TcpStream, UdpSocket};
use rump::poll::{EventQueue, Events, PollFd, poll};
use rump::{thread, time};

/// The keys of what is ready within `within`.
fn ready(queue: &EventQueue, within: Duration) -> Vec<u64> {
    let mut events = Vec::new();
    queue.wait(&mut events, 16, Some(time::now() + within));
    let mut keys: Vec<u64> = events.iter().map(|event| event.key).collect();
    keys.sort_unstable();
    keys
}

fn asked(file: &alloc::sync::Arc<rump::poll::File>, interest: Events) -> PollFd {
    PollFd {
        file: Some(file.clone()),
        interest,
        found: Events::empty(),
    }
}

fn nothing_happens_until_somebody_comes() -> Outcome {
    let listener = fine!(TcpListener::bind(local(0)));
    let queue = fine!(EventQueue::new());
    let _watch = fine!(queue.watch(listener.file().clone(), 7, Events::READABLE));
    same!(ready(&queue, MOMENT), []);
    let _client = fine!(TcpStream::connect(fine!(listener.local_addr())));
    same!(ready(&queue, LONG), [7]);
    // Events are levels: it is still so.
    same!(ready(&queue, LONG), [7]);
    fine!(listener.accept());
    same!(ready(&queue, MOMENT), []);
    Ok(())
}

fn only_those_that_are_ready_are_told() -> Outcome {
    let sockets = [
        fine!(UdpSocket::bind(local(0))),
        fine!(UdpSocket::bind(local(0))),
        fine!(UdpSocket::bind(local(0))),
    ];
    let queue = fine!(EventQueue::new());
    let mut watches = Vec::new();
    for (key, socket) in sockets.iter().enumerate() {
        let file = socket.file().clone();
        watches.push(fine!(queue.watch(file, key as u64, Events::READABLE)));
    }
    for to in [&sockets[0], &sockets[2]] {
        fine!(sockets[1].send_to(b"x", fine!(to.local_addr())));
    }
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let keys = ready(&queue, LONG);
        holds!(!keys.is_empty() && !keys.contains(&1));
        for key in keys {
            fine!(sockets[key as usize].recv_from(&mut [0; 4]));
            seen.push(key);
        }
    }
    seen.sort_unstable();
    same!(seen, [0, 2]);
    Ok(())
}

fn an_interest_can_be_changed_and_given_up() -> Outcome {
    let (client, _server) = fine!(streams());
    let queue = fine!(EventQueue::new());
    let watch = fine!(queue.watch(client.file().clone(), 1, Events::READABLE));
    same!(ready(&queue, MOMENT), []);
    watch.set_interest(Events::WRITABLE);
    same!(ready(&queue, LONG), [1]);
    drop(watch);
    same!(ready(&queue, MOMENT), []);
    Ok(())
}

fn the_other_ends_end_is_something_to_read() -> Outcome {
    let (client, server) = fine!(streams());
    let queue = fine!(EventQueue::new());
    let _watch = fine!(queue.watch(client.file().clone(), 1, Events::READABLE));
    drop(server);
    same!(ready(&queue, LONG), [1]);
    same!(client.read(&mut [0; 4]), Ok(0));
    Ok(())
}

fn a_full_buffer_is_not_writable_until_it_is_read() -> Outcome {
    let (client, server) = fine!(streams());
    fine!(client.set_nonblocking(true));
    let mut written = 0;
    while let Ok(count) = client.write(&[1; 10_000]) {
        written += count;
        // What is on its way makes room for a while.
        thread::sleep(Duration::from_millis(1));
    }
    let mut fds = [asked(client.file(), Events::WRITABLE)];
    same!(fine!(poll(&mut fds, Some(MOMENT))), 0);
    let reader = thread::spawn("reader", move || {
        let mut bytes = [0; 10_000];
        let mut left = written;
        while left > 0 {
            match server.read(&mut bytes) {
                Ok(count @ 1..) => left -= count,
                _ => return,
            }
        }
    });
    same!(fine!(poll(&mut fds, Some(LONG))), 1);
    same!(fds[0].found, Events::WRITABLE);
    fine!(reader).join();
    Ok(())
}

fn poll_answers_at_once_or_after_its_time() -> Outcome {
    let (client, server) = fine!(streams());
    let mut fds = [
        asked(client.file(), Events::READABLE),
        asked(server.file(), Events::READABLE),
    ];
    same!(fine!(poll(&mut fds, Some(Duration::ZERO))), 0);
    let begun = time::now();
    same!(fine!(poll(&mut fds, Some(MOMENT))), 0);
    holds!(time::now() - begun >= MOMENT);
    fine!(server.write(b"x"));
    same!(fine!(poll(&mut fds, Some(LONG))), 1);
    same!(
        (fds[0].found, fds[1].found),
        (Events::READABLE, Events::empty())
    );
    Ok(())
}

fn a_descriptor_that_is_none_is_invalid() -> Outcome {
    let mut fds = [PollFd {
        file: None,
        interest: Events::READABLE,
        found: Events::empty(),
    }];
    same!(fine!(poll(&mut fds, None)), 1);
    same!(fds[0].found, Events::INVALID);
    Ok(())
}

fn a_regular_file_is_always_ready() -> Outcome {
    let directory = fine!(File::open("/"));
    let queue = fine!(EventQueue::new());
    let both = Events::READABLE | Events::WRITABLE;
    let mut fds = [asked(directory.file(), both)];
    same!(fine!(poll(&mut fds, Some(Duration::ZERO))), 1);
    same!(fds[0].found, both);
    let _watch = fine!(queue.watch(directory.file().clone(), 3, Events::READABLE));
    same!(ready(&queue, LONG), [3]);
    Ok(())
}

fn who_waits_for_a_queue_can_be_woken() -> Outcome {
    let queue = alloc::sync::Arc::new(fine!(EventQueue::new()));
    let theirs = queue.clone();
    let waker = thread::spawn("waker", move || {
        thread::sleep(MOMENT);
        theirs.wake();
    });
    let begun = time::now();
    same!(ready(&queue, LONG), []);
    holds!(time::now() - begun < LONG);
    fine!(waker).join();
    Ok(())
}

cases!(
    nothing_happens_until_somebody_comes,
    only_those_that_are_ready_are_told,
    an_interest_can_be_changed_and_given_up,
    the_other_ends_end_is_something_to_read,
    a_full_buffer_is_not_writable_until_it_is_read,
    poll_answers_at_once_or_after_its_time,
    a_descriptor_that_is_none_is_invalid,
    a_regular_file_is_always_ready,
    who_waits_for_a_queue_can_be_woken,
);
