//! UDP.

use super::{LONG, MOMENT, bound, datagram, eventually, local};
use crate::files::pattern;
use crate::{Outcome, cases};
use alloc::vec;
use core::net::{Ipv4Addr, SocketAddr};
use rump::sys::{self, FileFlags, MsgFlags, SockOption, SockOptionName, SockType};
use rump::{Errno, thread, time};

const NONE: MsgFlags = MsgFlags::empty();

fn messages_keep_their_borders_their_order_and_their_senders() -> Outcome {
    let ((one, from), (two, to)) = (fine!(bound()), fine!(bound()));
    for message in [&b"first"[..], b"", b"third"] {
        same!(fine!(sys::sendto(one, message, NONE, to)), message.len());
    }
    let mut bytes = [0; 64];
    for message in [&b"first"[..], b"", b"third"] {
        same!(
            sys::recvfrom(two, &mut bytes, NONE),
            Ok((message.len(), Some(from)))
        );
        same!(bytes[..message.len()], *message);
    }
    Ok(())
}

fn what_does_not_fit_is_cut_off() -> Outcome {
    let ((one, _), (two, to)) = (fine!(bound()), fine!(bound()));
    fine!(sys::sendto(one, b"abcdef", NONE, to));
    fine!(sys::sendto(one, b"next", NONE, to));
    let mut bytes = [0; 3];
    same!(fine!(sys::recv(two, &mut bytes, NONE)), 3);
    same!(bytes, *b"abc");
    same!(fine!(sys::recv(two, &mut bytes, NONE)), 3);
    same!(bytes, *b"nex");
    Ok(())
}

fn a_look_leaves_the_message_where_it_is() -> Outcome {
    let ((one, _), (two, to)) = (fine!(bound()), fine!(bound()));
    fine!(sys::sendto(one, b"text", NONE, to));
    let mut bytes = [0; 8];
    same!(fine!(sys::recv(two, &mut bytes, MsgFlags::MSG_PEEK)), 4);
    same!(fine!(sys::recv(two, &mut bytes, NONE)), 4);
    fails!(sys::recv(two, &mut bytes, MsgFlags::MSG_DONTWAIT), EAGAIN);
    Ok(())
}

fn large_messages_come_whole_and_too_large_ones_not_at_all() -> Outcome {
    let ((one, _), (two, to)) = (fine!(bound()), fine!(bound()));
    let large = pattern(9, 9000);
    fine!(sys::sendto(one, &large, NONE, to));
    let mut bytes = vec![0; 10_000];
    same!(fine!(sys::recv(two, &mut bytes, NONE)), 9000);
    holds!(bytes[..9000] == large);
    fails!(sys::sendto(one, &vec![0; 65_508], NONE, to), EMSGSIZE);
    Ok(())
}

fn without_a_peer_there_is_nobody_to_send_to() -> Outcome {
    let fd = fine!(datagram());
    fails!(sys::send(fd, b"x", NONE), EDESTADDRREQ);
    fails!(sys::getpeername(fd), ENOTCONN);
    fails!(sys::sendto(fd, b"x", NONE, local(0)), EADDRNOTAVAIL);
    Ok(())
}

fn a_connected_socket_hears_its_peer_alone() -> Outcome {
    let ((one, from), (two, to), (three, _)) = (fine!(bound()), fine!(bound()), fine!(bound()));
    fine!(sys::connect(two, from));
    same!(sys::getpeername(two), Ok(from));
    fine!(sys::sendto(three, b"stranger", NONE, to));
    fine!(sys::sendto(one, b"peer", NONE, to));
    let mut bytes = [0; 16];
    same!(fine!(sys::recv(two, &mut bytes, NONE)), 4);
    fine!(sys::send(two, b"answer", NONE));
    same!(fine!(sys::recv(one, &mut bytes, NONE)), 6);
    fails!(sys::recv(two, &mut bytes, MsgFlags::MSG_DONTWAIT), EAGAIN);
    Ok(())
}

fn a_port_where_nobody_listens_is_econnrefused_to_who_is_connected() -> Outcome {
    let (gone, address) = fine!(bound());
    fine!(sys::close(gone));
    let fd = fine!(datagram());
    fine!(sys::connect(fd, address));
    fine!(sys::setsockopt(fd, SockOption::RcvTimeo(Some(LONG))));
    fine!(sys::send(fd, b"x", NONE));
    fails!(sys::recv(fd, &mut [0; 8], NONE), ECONNREFUSED);
    // It was told once.
    fails!(sys::recv(fd, &mut [0; 8], MsgFlags::MSG_DONTWAIT), EAGAIN);
    Ok(())
}

fn a_port_is_taken_once_unless_it_is_shared() -> Outcome {
    let (_, address) = fine!(bound());
    let fd = fine!(datagram());
    fails!(sys::bind(fd, address), EADDRINUSE);
    fine!(sys::bind(fd, local(0)));
    fails!(sys::bind(fd, local(0)), EINVAL);
    let (one, two) = (fine!(datagram()), fine!(datagram()));
    for fd in [one, two] {
        fine!(sys::setsockopt(fd, SockOption::ReusePort(true)));
    }
    fine!(sys::bind(one, local(0)));
    fine!(sys::bind(two, fine!(sys::getsockname(one))));
    Ok(())
}

fn only_an_address_of_ones_own_can_be_bound() -> Outcome {
    let foreign = SocketAddr::from((Ipv4Addr::new(198, 51, 100, 7), 0));
    fails!(sys::bind(fine!(datagram()), foreign), EADDRNOTAVAIL);
    let six = SocketAddr::from((core::net::Ipv6Addr::LOCALHOST, 0));
    fails!(sys::bind(fine!(datagram()), six), EAFNOSUPPORT);
    Ok(())
}

fn a_port_is_chosen_at_the_first_message() -> Outcome {
    let (two, to) = fine!(bound());
    let one = fine!(datagram());
    fine!(sys::sendto(one, b"x", NONE, to));
    let chosen = fine!(sys::getsockname(one)).port();
    holds!(chosen != 0);
    let (_, from) = fine!(sys::recvfrom(two, &mut [0; 8], NONE));
    same!(from, Some(local(chosen)));
    Ok(())
}

fn receiving_waits_as_long_as_it_is_told() -> Outcome {
    let (fd, _) = fine!(bound());
    fine!(sys::setsockopt(fd, SockOption::RcvTimeo(Some(MOMENT))));
    let begun = time::now();
    fails!(sys::recv(fd, &mut [0; 8], NONE), EAGAIN);
    holds!(time::now() - begun >= MOMENT);
    Ok(())
}

fn who_waits_wakes_when_a_message_comes() -> Outcome {
    let ((one, _), (two, to)) = (fine!(bound()), fine!(bound()));
    let waiter = thread::spawn("waiter", move || {
        let mut bytes = [0; 8];
        let count = sys::recv(two, &mut bytes, NONE);
        let answer: &[u8] = if count == Ok(4) { b"yes" } else { b"no" };
        // Who does not hear of it says so.
        let _ = sys::sendto(two, answer, NONE, sys::getsockname(one).unwrap_or(to));
    });
    thread::sleep(MOMENT);
    fine!(sys::sendto(one, b"text", NONE, to));
    fine!(waiter).join();
    let mut bytes = [0; 8];
    same!(fine!(sys::recv(one, &mut bytes, NONE)), 3);
    same!(bytes[..3], *b"yes");
    Ok(())
}

fn a_nonblocking_socket_does_not_wait() -> Outcome {
    let kind = (sys::Domain::AF_INET, SockType::Dgram);
    let fd = fine!(sys::socket(kind.0, kind.1, 0, FileFlags::NONBLOCK));
    fine!(sys::bind(fd, local(0)));
    fails!(sys::recv(fd, &mut [0; 8], NONE), EAGAIN);
    Ok(())
}

fn more_than_the_buffer_holds_is_lost_and_the_rest_is_whole() -> Outcome {
    let ((one, _), (two, to)) = (fine!(bound()), fine!(bound()));
    for n in 0..500u32 {
        let mut message = [0; 1000];
        message[..4].copy_from_slice(&n.to_le_bytes());
        // Out of buffers is a way to be lost.
        match sys::sendto(one, &message, NONE, to) {
            Ok(1000) | Err(Errno::ENOBUFS) => {}
            other => same!(other, Ok(1000)),
        }
    }
    let (mut came, mut last) = (0, None);
    holds!(eventually(|| {
        let mut bytes = [0; 2000];
        while sys::recv(two, &mut bytes, MsgFlags::MSG_DONTWAIT) == Ok(1000) {
            let number = bytes.first_chunk().map(|first| u32::from_le_bytes(*first));
            came += usize::from(number > last);
            last = number;
        }
        came > 0
    }));
    holds!(came <= 500);
    Ok(())
}

fn options_are_what_they_were_set_to() -> Outcome {
    let fd = fine!(datagram());
    let options = [
        (SockOptionName::Broadcast, SockOption::Broadcast(true)),
        (SockOptionName::ReuseAddr, SockOption::ReuseAddr(true)),
        (SockOptionName::RcvTimeo, SockOption::RcvTimeo(Some(LONG))),
        (SockOptionName::RcvLowat, SockOption::RcvLowat(10)),
    ];
    for (name, option) in options {
        fine!(sys::setsockopt(fd, option));
        same!(sys::getsockopt(fd, name), Ok(option));
    }
    same!(
        sys::getsockopt(fd, SockOptionName::Type),
        Ok(SockOption::Type(SockType::Dgram))
    );
    fails!(sys::setsockopt(fd, SockOption::RcvBuf(0)), EINVAL);
    fails!(
        sys::setsockopt(fd, SockOption::AcceptConn(true)),
        ENOPROTOOPT
    );
    Ok(())
}

fn a_datagram_socket_does_not_listen() -> Outcome {
    let (fd, _) = fine!(bound());
    fails!(sys::listen(fd, 1), EOPNOTSUPP);
    Ok(())
}

cases!(
    messages_keep_their_borders_their_order_and_their_senders,
    what_does_not_fit_is_cut_off,
    a_look_leaves_the_message_where_it_is,
    large_messages_come_whole_and_too_large_ones_not_at_all,
    without_a_peer_there_is_nobody_to_send_to,
    a_connected_socket_hears_its_peer_alone,
    a_port_where_nobody_listens_is_econnrefused_to_who_is_connected,
    a_port_is_taken_once_unless_it_is_shared,
    only_an_address_of_ones_own_can_be_bound,
    a_port_is_chosen_at_the_first_message,
    receiving_waits_as_long_as_it_is_told,
    who_waits_wakes_when_a_message_comes,
    a_nonblocking_socket_does_not_wait,
    more_than_the_buffer_holds_is_lost_and_the_rest_is_whole,
    options_are_what_they_were_set_to,
    a_datagram_socket_does_not_listen,
);
