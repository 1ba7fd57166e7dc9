//! TCP.

use super::{
    LONG, MOMENT, eventually, listening, local, pair, read_all, stream, streams, write_all,
};
use crate::files::pattern;
use crate::{Outcome, cases};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use rump::fs::{self, File};
use rump::net::{TcpListener, TcpStream};
use rump::poll::{Events, PollFd, poll};
use rump::sys::{
    self, Domain, FileFlags, MsgFlags, ProtoOption, ProtoOptionName, Shutdown, SockOption,
    SockOptionName, SockType,
};
use rump::{Errno, thread, time};

const NONE: MsgFlags = MsgFlags::empty();

fn bytes_come_in_order_both_ways_at_once() -> Outcome {
    let (client, server) = fine!(pair());
    let sent = pattern(9, 300_000);
    let copy = sent.clone();
    let echo = thread::spawn("echo", move || {
        let mut bytes = [0; 3000];
        while let Ok(count @ 1..) = sys::read(server, &mut bytes) {
            if write_all(server, &bytes[..count]).is_err() {
                return;
            }
        }
        // The other end sees whether this was done.
        let _ = sys::shutdown(server, Shutdown::Write);
    });
    let writer = thread::spawn("writer", move || {
        let _ = write_all(client, &copy);
        let _ = sys::shutdown(client, Shutdown::Write);
    });
    let came = fine!(read_all(client));
    fine!(writer).join();
    fine!(echo).join();
    same!(came.len(), sent.len());
    holds!(came == sent);
    Ok(())
}

fn both_ends_know_their_own_and_the_others_address() -> Outcome {
    let (client, server) = fine!(pair());
    same!(sys::getpeername(client), sys::getsockname(server));
    same!(sys::getpeername(server), sys::getsockname(client));
    fails!(sys::getpeername(fine!(stream())), ENOTCONN);
    Ok(())
}

fn after_the_end_reading_is_zero_and_writing_still_works() -> Outcome {
    let (client, server) = fine!(pair());
    fine!(sys::write(client, b"last words"));
    fine!(sys::shutdown(client, Shutdown::Write));
    same!(fine!(read_all(server)), b"last words");
    same!(sys::read(server, &mut [0; 8]), Ok(0));
    fails!(sys::write(client, b"x"), EPIPE);
    fine!(write_all(server, b"answer"));
    fine!(sys::close(server));
    same!(fine!(read_all(client)), b"answer");
    Ok(())
}

fn what_was_sent_before_the_close_arrives() -> Outcome {
    let (client, server) = fine!(pair());
    let sent = pattern(9, 20_000);
    fine!(write_all(client, &sent));
    fine!(sys::close(client));
    holds!(fine!(read_all(server)) == sent);
    Ok(())
}

fn reading_half_closed_is_the_end_and_the_other_half_goes_on() -> Outcome {
    let (client, server) = fine!(pair());
    fine!(sys::shutdown(client, Shutdown::Read));
    same!(sys::read(client, &mut [0; 8]), Ok(0));
    fine!(sys::write(client, b"x"));
    same!(sys::read(server, &mut [0; 8]), Ok(1));
    Ok(())
}

fn nobody_listens_so_nobody_answers() -> Outcome {
    let (listener, address) = fine!(listening(1));
    fine!(sys::close(listener));
    let fd = fine!(stream());
    fails!(sys::connect(fd, address), ECONNREFUSED);
    // The socket can try again.
    let (_listener, address) = fine!(listening(1));
    fine!(sys::connect(fd, address));
    Ok(())
}

fn lingering_for_no_time_is_a_reset() -> Outcome {
    let (client, server) = fine!(pair());
    fine!(sys::setsockopt(
        client,
        SockOption::Linger(Some(Duration::ZERO))
    ));
    fine!(sys::close(client));
    fails!(sys::read(server, &mut [0; 8]), ECONNRESET);
    fails!(sys::write(server, b"x"), EPIPE);
    Ok(())
}

fn closing_with_something_unread_is_a_reset() -> Outcome {
    let (client, server) = fine!(pair());
    fine!(sys::write(client, b"unread"));
    holds!(eventually(|| {
        sys::recv(
            server,
            &mut [0; 1],
            MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT,
        ) == Ok(1)
    }));
    fine!(sys::close(server));
    fails!(sys::read(client, &mut [0; 8]), ECONNRESET);
    Ok(())
}

fn what_came_before_it_was_accepted_is_kept() -> Outcome {
    let (listener, address) = fine!(listening(1));
    let client = fine!(stream());
    fine!(sys::connect(client, address));
    fine!(sys::write(client, b"early"));
    fine!(sys::close(client));
    let (server, _) = fine!(sys::accept(listener, FileFlags::empty()));
    same!(fine!(read_all(server)), b"early");
    Ok(())
}

fn connections_wait_in_the_order_in_which_they_came() -> Outcome {
    let (listener, address) = fine!(listening(8));
    let mut names = Vec::new();
    for _ in 0..5 {
        let client = fine!(stream());
        fine!(sys::connect(client, address));
        names.push(fine!(sys::getsockname(client)));
    }
    for name in names {
        let (_, peer) = fine!(sys::accept(listener, FileFlags::empty()));
        same!(peer, name);
    }
    Ok(())
}

fn a_full_queue_lets_others_wait() -> Outcome {
    let (listener, address) = fine!(listening(1));
    let mut waiting = Vec::new();
    let mut refused = 0;
    for _ in 0..12 {
        let fd = fine!(sys::socket(
            Domain::AF_INET,
            SockType::Stream,
            0,
            FileFlags::NONBLOCK
        ));
        match sys::connect(fd, address) {
            Ok(()) | Err(Errno::EINPROGRESS) => waiting.push(fd),
            Err(_) => refused += 1,
        }
    }
    same!(refused, 0);
    // Each gets its turn: a SYN that was not answered is sent again.
    for _ in 0..3 {
        fine!(sys::accept(listener, FileFlags::empty()));
    }
    Ok(())
}

fn closing_who_listens_resets_who_waits() -> Outcome {
    let listener = fine!(TcpListener::bind(local(0)));
    let client = fine!(TcpStream::connect(fine!(listener.local_addr())));
    // Whose handshake is not over yet is not waiting yet.
    let mut fds = [PollFd {
        file: Some(listener.file().clone()),
        interest: Events::READABLE,
        found: Events::empty(),
    }];
    same!(fine!(poll(&mut fds, Some(LONG))), 1);
    drop((fds, listener));
    fails!(client.read(&mut [0; 8]), ECONNRESET);
    Ok(())
}

fn accepting_does_not_wait_if_it_must_not() -> Outcome {
    let fd = fine!(sys::socket(
        Domain::AF_INET,
        SockType::Stream,
        0,
        FileFlags::NONBLOCK
    ));
    fails!(sys::accept(fd, FileFlags::empty()), EINVAL);
    fine!(sys::bind(fd, local(0)));
    fine!(sys::listen(fd, 1));
    fails!(sys::accept(fd, FileFlags::empty()), EAGAIN);
    Ok(())
}

fn connecting_does_not_wait_if_it_must_not() -> Outcome {
    let (listener, address) = fine!(listening(1));
    let fd = fine!(sys::socket(
        Domain::AF_INET,
        SockType::Stream,
        0,
        FileFlags::NONBLOCK
    ));
    match sys::connect(fd, address) {
        Ok(()) => {}
        other => same!(other, Err(Errno::EINPROGRESS)),
    }
    fine!(sys::accept(listener, FileFlags::empty()));
    holds!(eventually(
        || sys::getpeername(fd).is_ok() && sys::connect(fd, address) == Err(Errno::EISCONN)
    ));
    same!(
        sys::getsockopt(fd, SockOptionName::Error),
        Ok(SockOption::Error(None))
    );
    fails!(sys::read(fd, &mut [0; 8]), EAGAIN);
    Ok(())
}

fn a_socket_connects_once_and_not_while_it_listens() -> Outcome {
    let (listener, address) = fine!(listening(2));
    let client = fine!(stream());
    fine!(sys::connect(client, address));
    fails!(sys::connect(client, address), EISCONN);
    fails!(sys::connect(listener, address), EOPNOTSUPP);
    fails!(sys::listen(client, 1), EINVAL);
    Ok(())
}

fn without_a_connection_there_is_nothing_to_read_or_write() -> Outcome {
    let fd = fine!(stream());
    fails!(sys::read(fd, &mut [0; 8]), ENOTCONN);
    fails!(sys::write(fd, b"x"), ENOTCONN);
    fails!(sys::shutdown(fd, Shutdown::Both), ENOTCONN);
    let (listener, _) = fine!(listening(1));
    fails!(sys::read(listener, &mut [0; 8]), ENOTCONN);
    Ok(())
}

fn a_port_is_taken_until_it_is_closed() -> Outcome {
    let (listener, address) = fine!(listening(1));
    let fd = fine!(stream());
    fails!(sys::bind(fd, address), EADDRINUSE);
    fine!(sys::close(listener));
    fine!(sys::bind(fd, address));
    fine!(sys::listen(fd, 1));
    Ok(())
}

fn a_port_is_taken_over_from_connections_that_linger() -> Outcome {
    let (listener, address) = fine!(listening(1));
    let client = fine!(stream());
    fine!(sys::connect(client, address));
    let (server, _) = fine!(sys::accept(listener, FileFlags::empty()));
    fine!(sys::close(listener));
    // Who closes first lingers.
    fine!(sys::close(server));
    same!(fine!(read_all(client)), b"");
    fine!(sys::close(client));
    let fd = fine!(stream());
    fine!(sys::setsockopt(fd, SockOption::ReuseAddr(true)));
    fine!(sys::bind(fd, address));
    fine!(sys::listen(fd, 1));
    Ok(())
}

fn reading_waits_as_long_as_it_is_told() -> Outcome {
    let (client, _server) = fine!(pair());
    fine!(sys::setsockopt(client, SockOption::RcvTimeo(Some(MOMENT))));
    let begun = time::now();
    fails!(sys::read(client, &mut [0; 8]), EAGAIN);
    holds!(time::now() - begun >= MOMENT);
    Ok(())
}

fn writing_waits_for_room_as_long_as_it_is_told() -> Outcome {
    let (client, server) = fine!(pair());
    fine!(sys::setsockopt(client, SockOption::SndTimeo(Some(MOMENT))));
    let chunk = vec![7; 50_000];
    let mut written = 0;
    let refused = loop {
        match sys::write(client, &chunk) {
            Ok(count) => written += count,
            Err(errno) => break errno,
        }
        holds!(written < 100_000_000);
    };
    same!(refused, Errno::EAGAIN);
    fine!(sys::shutdown(client, Shutdown::Write));
    same!(fine!(read_all(server)).len(), written);
    Ok(())
}

fn a_look_leaves_the_bytes_where_they_are() -> Outcome {
    let (client, server) = fine!(pair());
    fine!(sys::write(client, b"abc"));
    let mut bytes = [0; 3];
    fine!(sys::recv(
        server,
        &mut bytes,
        MsgFlags::MSG_PEEK | MsgFlags::MSG_WAITALL
    ));
    same!(bytes, *b"abc");
    bytes = [0; 3];
    fine!(sys::recv(server, &mut bytes, MsgFlags::MSG_WAITALL));
    same!(bytes, *b"abc");
    fails!(
        sys::recv(server, &mut bytes, MsgFlags::MSG_DONTWAIT),
        EAGAIN
    );
    Ok(())
}

fn waiting_for_all_takes_several_segments() -> Outcome {
    let (client, server) = fine!(pair());
    let writer = thread::spawn("writer", move || {
        for _ in 0..10 {
            // The reader sees whether they came.
            let _ = sys::write(client, &[3; 500]);
            thread::sleep(Duration::from_millis(2));
        }
    });
    let mut bytes = vec![0; 5000];
    same!(
        fine!(sys::recv(server, &mut bytes, MsgFlags::MSG_WAITALL)),
        5000
    );
    holds!(bytes.iter().all(|byte| *byte == 3));
    fine!(writer).join();
    Ok(())
}

fn who_waits_to_read_wakes_when_the_other_end_goes() -> Outcome {
    let (client, server) = fine!(pair());
    let closer = thread::spawn("closer", move || {
        thread::sleep(MOMENT);
        // The reader sees whether it was.
        let _ = sys::close(server);
    });
    same!(sys::read(client, &mut [0; 8]), Ok(0));
    fine!(closer).join();
    Ok(())
}

fn who_waits_to_accept_wakes_when_somebody_comes() -> Outcome {
    let (listener, address) = fine!(listening(1));
    let caller = thread::spawn("caller", move || {
        thread::sleep(MOMENT);
        let connected = stream().and_then(|fd| sys::connect(fd, address).map(|()| fd));
        if let Ok(fd) = connected {
            // The other end sees whether it came.
            let _ = sys::write(fd, b"hello");
            let _ = sys::close(fd);
        }
    });
    let (server, _) = fine!(sys::accept(listener, FileFlags::empty()));
    same!(fine!(read_all(server)), b"hello");
    fine!(caller).join();
    Ok(())
}

fn many_connections_at_once_do_not_mix() -> Outcome {
    let (listener, address) = fine!(listening(40));
    let mut pairs = Vec::new();
    for n in 0..30u8 {
        let client = fine!(stream());
        fine!(sys::connect(client, address));
        let (server, _) = fine!(sys::accept(listener, FileFlags::empty()));
        fine!(sys::write(client, &[n; 100]));
        pairs.push((n, client, server));
    }
    for (n, client, server) in pairs {
        fine!(sys::close(client));
        same!(fine!(read_all(server)), [n; 100]);
        fine!(sys::close(server));
    }
    Ok(())
}

fn options_of_a_listener_are_its_connections_too() -> Outcome {
    let (listener, address) = fine!(listening(1));
    let nodelay = SockOption::Protocol(ProtoOption::TcpNodelay(true));
    fine!(sys::setsockopt(listener, nodelay));
    fine!(sys::setsockopt(listener, SockOption::KeepAlive(true)));
    let client = fine!(stream());
    fine!(sys::connect(client, address));
    let (server, _) = fine!(sys::accept(listener, FileFlags::empty()));
    let name = SockOptionName::Protocol(ProtoOptionName::TcpNodelay);
    same!(sys::getsockopt(server, name), Ok(nodelay));
    same!(
        sys::getsockopt(server, SockOptionName::KeepAlive),
        Ok(SockOption::KeepAlive(true))
    );
    same!(
        sys::getsockopt(listener, SockOptionName::AcceptConn),
        Ok(SockOption::AcceptConn(true))
    );
    same!(
        sys::getsockopt(server, SockOptionName::Type),
        Ok(SockOption::Type(SockType::Stream))
    );
    Ok(())
}

fn a_file_is_sent_as_it_is() -> Outcome {
    // On the first file system, whichever that is.
    let path = "/sent-to-a-socket";
    let bytes = pattern(9, 150_000);
    let file = fine!(File::create(path));
    let mut at = 0;
    while at < bytes.len() {
        at += fine!(file.write(&bytes[at..]));
    }
    let (client, server) = fine!(streams());
    let sender = thread::spawn("sender", move || {
        let Ok(file) = File::open(path) else { return };
        let mut at = 0;
        while let Ok(count @ 1..) = server.send_file(&file, at, 1 << 20) {
            at += count as u64;
        }
    });
    let mut came = Vec::new();
    let mut piece = [0; 5000];
    loop {
        match fine!(client.read(&mut piece)) {
            0 => break,
            count => came.extend_from_slice(&piece[..count]),
        }
    }
    fine!(sender).join();
    fine!(fs::remove_file(path));
    same!(came.len(), bytes.len());
    holds!(came == bytes);
    Ok(())
}

fn what_is_no_socket_is_enotsock() -> Outcome {
    let fd = fine!(sys::open(b"/", sys::OpenFlags::READ, 0));
    fails!(sys::bind(fd, local(0)), ENOTSOCK);
    fails!(sys::send(fd, b"x", NONE), ENOTSOCK);
    fails!(sys::accept(fd, FileFlags::empty()), ENOTSOCK);
    let socket = fine!(stream());
    fails!(sys::lseek(socket, 0, sys::Whence::Set), ESPIPE);
    fails!(sys::ftruncate(socket, 0), EINVAL);
    Ok(())
}

cases!(
    bytes_come_in_order_both_ways_at_once,
    both_ends_know_their_own_and_the_others_address,
    after_the_end_reading_is_zero_and_writing_still_works,
    what_was_sent_before_the_close_arrives,
    reading_half_closed_is_the_end_and_the_other_half_goes_on,
    nobody_listens_so_nobody_answers,
    lingering_for_no_time_is_a_reset,
    closing_with_something_unread_is_a_reset,
    what_came_before_it_was_accepted_is_kept,
    connections_wait_in_the_order_in_which_they_came,
    a_full_queue_lets_others_wait,
    closing_who_listens_resets_who_waits,
    accepting_does_not_wait_if_it_must_not,
    connecting_does_not_wait_if_it_must_not,
    a_socket_connects_once_and_not_while_it_listens,
    without_a_connection_there_is_nothing_to_read_or_write,
    a_port_is_taken_until_it_is_closed,
    a_port_is_taken_over_from_connections_that_linger,
    reading_waits_as_long_as_it_is_told,
    writing_waits_for_room_as_long_as_it_is_told,
    a_look_leaves_the_bytes_where_they_are,
    waiting_for_all_takes_several_segments,
    who_waits_to_read_wakes_when_the_other_end_goes,
    who_waits_to_accept_wakes_when_somebody_comes,
    many_connections_at_once_do_not_mix,
    options_of_a_listener_are_its_connections_too,
    a_file_is_sent_as_it_is,
    what_is_no_socket_is_enotsock,
);
