//! Connections by many threads at once, ended in every way there is; afterwards nothing is left. It is a program of
//! its own, so that what is left is nobody else's.

#[allow(dead_code, reason = "another test uses the rest")]
#[path = "tcp/stack.rs"]
mod stack;

use rumpkern::uvm::{Cluster, SmallBuffer};
use rumpnet::Net;
use rumpnet::socket::{MsgFlags, SockOption, Socket};
use stack::{content, eventually, local, receive_all, send_all, stack};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const THREADS: u64 = 6;
const ROUNDS: u64 = 50;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % bound
    }
}

/// Whatever a user may do to an end of a connection, and at last the close.
fn misuse(so: &Arc<Socket>, dice: &mut Dice) {
    let mut buffer = vec![0; 9000];
    for _ in 0..dice.below(6) {
        // Errors are what this is about: the other end does as it likes.
        let _whatever = match dice.below(5) {
            0 => so
                .send(
                    &content(1 + dice.below(20_000) as usize, 1),
                    None,
                    MsgFlags::MSG_DONTWAIT,
                )
                .map(drop),
            1 => so.receive(&mut buffer, MsgFlags::MSG_DONTWAIT).map(drop),
            2 => so.shutdown(dice.below(2) == 0, dice.below(2) == 0),
            3 => so.set_option(SockOption::Linger(Some(Duration::ZERO))),
            _ => {
                thread::yield_now();
                Ok(())
            }
        };
    }
    so.close();
}

fn client(seed: u64, port: u16) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..ROUNDS {
        let so = stack().socket();
        match dice.below(8) {
            // Gone before it stands.
            0 => {
                so.set_nonblocking(true);
                let _in_progress = so.connect(local(port));
                so.close();
            }
            1..=3 => {
                if so.connect(local(port)).is_ok() {
                    misuse(&so, &mut dice);
                } else {
                    so.close();
                }
            }
            _ => {
                // It may be reset before we see that it stands.
                let _reset = so.connect(local(port));
                let _reset = so.send(b"hello", None, MsgFlags::empty());
                so.close();
            }
        }
    }
}

/// Everything here is back to what it was.
fn nothing_is_left(clusters: usize, smalls: usize) {
    let tcp = stack().tcp();
    let net = stack()
        .kernel
        .get::<Net>()
        .expect("the network is attached");
    eventually("no control block is left", || tcp.connections() == 0);
    eventually("no connection is in the making", || tcp.embryos() == 0);
    eventually("no socket buffer holds anything", || {
        net.budget().held() == 0
    });
    eventually("no cluster is left", || Cluster::in_use() <= clusters);
    eventually("no small buffer is left", || {
        SmallBuffer::in_use() <= smalls
    });
}

#[test]
fn connections_ended_in_every_way_by_many_threads_leave_nothing_behind() {
    let (warm, cold) = stack().pair();
    send_all(&warm, b"warm");
    warm.close();
    assert_eq!(receive_all(&cold), b"warm");
    cold.close();
    eventually("the first is gone", || stack().tcp().connections() == 0);
    // The interface takes its buffers in a thread of its own.
    let mut clusters = 0;
    eventually("the interface has its buffers", || {
        thread::sleep(Duration::from_millis(50));
        let before = std::mem::replace(&mut clusters, Cluster::in_use());
        before == clusters && clusters > 0
    });
    let smalls = SmallBuffer::in_use();

    let (listener, port) = stack().listener(64);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 1..=2u64 {
            let (listener, ended) = (&listener, &ended);
            scope.spawn(move || {
                let mut dice = Dice(seed << 32 | 77);
                listener.set_nonblocking(true);
                while !ended.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((so, _)) => misuse(&so, &mut dice),
                        Err(_) => thread::sleep(Duration::from_micros(200)),
                    }
                }
            });
        }
        let clients: Vec<_> = (1..=THREADS)
            .map(|seed| scope.spawn(move || client(seed, port)))
            .collect();
        for client in clients {
            client.join().expect("a client");
        }
        ended.store(true, Ordering::Relaxed);
    });
    listener.close();
    nothing_is_left(clusters, smalls);
}
