//! Sockets of one machine among themselves.

use crate::stack::{
    content, eventually, local, receive_all, send_all, stack, undisturbed, would_wait,
};
use rumpkern::uvm::SmallBuffer;
use rumpnet::protocol::{ProtoOption, ProtoOptionName};
use rumpnet::socket::{MsgFlags, SockOption, SockOptionName};
use rumpuser::Errno;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn megabytes_go_both_ways_at_once_and_arrive_as_they_were() {
    let (client, server) = stack().pair();
    let (there, back) = (content(3 << 20, 1), content(3 << 20, 2));
    thread::scope(|scope| {
        scope.spawn(|| {
            send_all(&client, &there);
            client.shutdown(false, true).unwrap();
        });
        scope.spawn(|| {
            send_all(&server, &back);
            server.shutdown(false, true).unwrap();
        });
        let got = scope.spawn(|| receive_all(&server));
        assert!(receive_all(&client) == back);
        assert!(got.join().unwrap() == there);
    });
    client.close();
    server.close();
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    let (listener, port) = stack().listener(1);
    listener.close();
    let client = stack().socket();
    assert_eq!(client.connect(local(port)), Err(Errno::ECONNREFUSED));
    client.close();
}

#[test]
fn both_ends_know_their_names() {
    let (client, server) = stack().pair();
    assert_eq!(client.sockname(), server.peername());
    assert_eq!(client.peername(), server.sockname());
    client.close();
    server.close();
}

#[test]
fn half_a_connection_closes_and_the_other_half_goes_on() {
    let (client, server) = stack().pair();
    client.shutdown(false, true).unwrap();
    assert_eq!(receive_all(&server), b"");
    send_all(&server, b"still here");
    server.close();
    assert_eq!(receive_all(&client), b"still here");
    assert_eq!(
        client.send(b"x", None, MsgFlags::empty()),
        Err(Errno::EPIPE)
    );
    client.close();
}

#[test]
fn what_was_sent_before_the_close_arrives() {
    let (client, server) = stack().pair();
    let data = content(100_000, 3);
    thread::scope(|scope| {
        scope.spawn(|| {
            send_all(&client, &data);
            client.close();
        });
        assert!(receive_all(&server) == data);
    });
    server.close();
}

#[test]
fn a_close_with_unread_data_resets_the_other_side() {
    let (client, server) = stack().pair();
    send_all(&client, b"nobody reads this");
    eventually("the data is there", || server.lock().rcv.len() == 17);
    server.close();
    let mut buffer = [0; 10];
    assert_eq!(
        client.receive(&mut buffer, MsgFlags::empty()),
        Err(Errno::ECONNRESET)
    );
    client.close();
}

#[test]
fn linger_of_no_time_resets() {
    let (client, server) = stack().pair();
    client
        .set_option(SockOption::Linger(Some(Duration::ZERO)))
        .unwrap();
    client.close();
    let mut buffer = [0; 10];
    assert_eq!(
        server.receive(&mut buffer, MsgFlags::empty()),
        Err(Errno::ECONNRESET)
    );
    server.close();
}

#[test]
fn calls_that_must_not_wait_do_not() {
    let (listener, port) = stack().listener(4);
    listener.set_nonblocking(true);
    assert!(would_wait(listener.accept()));
    let client = stack().socket();
    client.set_nonblocking(true);
    let connecting = client.connect(local(port));
    assert!(
        matches!(connecting, Ok(()) | Err(Errno::EINPROGRESS)),
        "{connecting:?}"
    );
    let mut accepted = None;
    eventually("a connection to accept", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (server, peer) = accepted.unwrap();
    assert_eq!(Ok(peer), client.sockname());
    server.set_nonblocking(true);
    let mut buffer = [0; 100];
    assert!(would_wait(server.receive(&mut buffer, MsgFlags::empty())));
    let mut sent = 0;
    eventually("the buffers are full", || {
        match client.send(&[7; 4096], None, MsgFlags::empty()) {
            Ok(n) => sent += n,
            Err(error) => {
                assert_eq!(error, Errno::EAGAIN);
                // The window may still be on its way.
                thread::sleep(Duration::from_millis(1));
                return server.lock().rcv.space() == 0;
            }
        }
        false
    });
    let mut got = 0;
    eventually("all of it arrives", || {
        while let Ok((n, _)) = server.receive(&mut buffer, MsgFlags::empty()) {
            got += n;
        }
        got == sent
    });
    for so in [client, server, listener] {
        so.close();
    }
}

#[test]
fn options_are_kept_and_inherited() {
    let (listener, port) = stack().listener(1);
    listener
        .set_option(SockOption::Protocol(ProtoOption::TcpNodelay(true)))
        .unwrap();
    let client = stack().socket();
    client.connect(local(port)).unwrap();
    let (server, _) = listener.accept().unwrap();
    let name = SockOptionName::Protocol(ProtoOptionName::TcpNodelay);
    assert_eq!(
        server.option(name),
        Ok(SockOption::Protocol(ProtoOption::TcpNodelay(true)))
    );
    assert_eq!(
        client.option(name),
        Ok(SockOption::Protocol(ProtoOption::TcpNodelay(false)))
    );
    assert_eq!(
        client.set_option(SockOption::Protocol(ProtoOption::TcpKeepIdle(0))),
        Err(Errno::EINVAL)
    );
    for so in [client, server, listener] {
        so.close();
    }
}

#[test]
fn a_port_is_bound_once_and_can_be_bound_again_after_the_close() {
    let (listener, port) = stack().listener(1);
    let other = stack().socket();
    assert_eq!(other.bind(local(port)), Err(Errno::EADDRINUSE));
    listener.close();
    assert_eq!(other.bind(local(port)), Ok(()));
    other.close();
}

#[test]
fn a_thousand_connections_leave_no_control_block_and_no_memory_behind() {
    let tcp = stack().tcp();
    let (listener, port) = stack().listener(16);
    let mut smalls = 0;
    for n in 0..1000 {
        let client = stack().socket();
        client.connect(local(port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        send_all(&client, b"ping");
        client.shutdown(false, true).unwrap();
        assert_eq!(receive_all(&server), b"ping");
        server.close();
        client.close();
        if n == 100 {
            smalls = SmallBuffer::in_use();
        }
    }
    listener.close();
    eventually("no buffer more than after the first hundred", || {
        SmallBuffer::in_use() <= smalls + 64
    });
    eventually("few control blocks", || tcp.connections() < 50);
}

#[test]
fn a_close_that_lingers_returns_when_all_is_delivered() {
    let (client, server) = stack().pair();
    client
        .set_option(SockOption::Linger(Some(Duration::from_secs(30))))
        .unwrap();
    let data = content(300_000, 4);
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            send_all(&client, &data);
            client.close();
        });
        assert!(receive_all(&server) == data);
    });
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "the other side has not closed yet"
    );
    server.close();
}

#[test]
fn after_a_refusal_the_same_socket_may_try_again() {
    let (listener, port) = stack().listener(1);
    listener.close();
    let client = stack().socket();
    for _ in 0..3 {
        assert_eq!(client.connect(local(port)), Err(Errno::ECONNREFUSED));
    }
    assert_eq!(client.sockname().map(|name| name.port()), Ok(0));
    client.close();
}

#[test]
fn a_port_with_a_connection_in_time_wait_is_bound_only_by_who_says_so() {
    let (listener, port) = stack().listener(1);
    let client = stack().socket();
    client.connect(local(port)).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.close();
    assert_eq!(receive_all(&client), b"");
    client.close();
    listener.close();
    let other = stack().socket();
    assert_eq!(other.bind(local(port)), Err(Errno::EADDRINUSE));
    other.set_option(SockOption::ReuseAddr(true)).unwrap();
    assert_eq!(other.bind(local(port)), Ok(()));
    other.close();
}

#[test]
fn connections_that_wait_to_be_accepted_are_reset_when_nobody_will() {
    let (listener, port) = stack().listener(4);
    let client = stack().socket();
    client.connect(local(port)).unwrap();
    eventually("it waits", || listener.lock().readable());
    listener.close();
    let mut buffer = [0; 1];
    let got = client.receive(&mut buffer, MsgFlags::empty());
    assert_eq!(got, Err(Errno::ECONNRESET));
    client.close();
}

#[test]
fn the_queue_of_a_listening_socket_is_bounded_and_empties_as_it_accepts() {
    // In a flood handshakes are done by cookies, and one that a full queue turns away leaves no trace.
    let _alone = undisturbed();
    let (listener, port) = stack().listener(2);
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let client = stack().socket();
            client.set_nonblocking(true);
            let connecting = client.connect(local(port));
            assert!(matches!(connecting, Ok(()) | Err(Errno::EINPROGRESS)));
            client
        })
        .collect();
    // Those beyond the queue try again, a second later, and get in as others are accepted.
    let servers: Vec<_> = clients
        .iter()
        .map(|_| listener.accept().unwrap().0)
        .collect();
    for so in clients.iter().chain(&servers) {
        so.close();
    }
    listener.close();
}

#[test]
fn data_for_a_reader_who_shut_that_half_is_taken_and_thrown_away() {
    let (client, server) = stack().pair();
    server.shutdown(true, false).unwrap();
    send_all(&client, &content(200_000, 5));
    client.shutdown(false, true).unwrap();
    send_all(&server, b"done");
    server.shutdown(false, true).unwrap();
    assert_eq!(receive_all(&client), b"done");
    client.close();
    server.close();
}

#[test]
fn a_socket_connected_to_itself_talks_to_itself() {
    let so = stack().socket();
    so.bind(local(45_678)).unwrap();
    so.connect(local(45_678)).unwrap();
    send_all(&so, b"echo");
    let mut buffer = [0; 4];
    eventually("the echo", || so.lock().rcv.len() == 4);
    assert_eq!(so.receive(&mut buffer, MsgFlags::empty()), Ok((4, None)));
    assert_eq!(&buffer, b"echo");
    so.close();
}
