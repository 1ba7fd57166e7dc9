//! As many sockets as memory allows, and half of them wait for the other side's end alone: who connects is let in all the same. It is a
//! program of its own, since nobody else has a socket meanwhile.

#[allow(dead_code, reason = "another test uses the rest")]
#[path = "tcp/stack.rs"]
mod stack;

use rumpnet::Net;
use rumpnet::socket::MsgFlags;
use stack::{local, receive_all, send_all, stack};
use std::sync::atomic::Ordering;

#[test]
fn connections_that_nobody_has_make_room_for_those_that_somebody_wants() {
    let net = stack()
        .kernel
        .get::<Net>()
        .expect("the network is attached");
    let (listener, port) = stack().listener(4);
    let last = stack().socket();
    let mut held = Vec::new();
    while net.budget().has_socket_room() {
        let client = stack().socket();
        if !net.budget().has_socket_room() {
            client.close();
            break;
        }
        client.connect(local(port)).expect("it connects");
        let (server, _) = listener.accept().expect("it is accepted");
        send_all(&server, b"all");
        server.close();
        held.push(client);
    }
    // One is left over if the number was odd.
    let rest: Vec<_> =
        std::iter::from_fn(|| net.budget().has_socket_room().then(|| stack().socket())).collect();
    let stats = &stack().tcp().stats;
    assert_eq!(stats.listen_overflow.load(Ordering::Relaxed), 0);
    last.connect(local(port))
        .expect("there is room for it, in the end");
    // It asked again once or twice, not for the minute that such a connection waits otherwise.
    let refused = stats.listen_overflow.load(Ordering::Relaxed);
    assert!((1..4).contains(&refused), "{refused}");
    let (server, _) = listener.accept().expect("it is accepted");
    send_all(&last, b"hello");
    last.shutdown(false, true).expect("no more");
    assert_eq!(receive_all(&server), b"hello");
    for client in &held {
        let mut bytes = [0; 8];
        assert_eq!(
            client
                .receive(&mut bytes, MsgFlags::empty())
                .map(|got| got.0),
            Ok(3),
            "what was for it has come"
        );
    }
    drop(rest);
}
