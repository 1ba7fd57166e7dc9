//! The kernel on a wire, with smoltcp and with raw frames at the other end.

use crate::peer::{FAIR, Fate, Peer, Weather};
use crate::raw::{frame, segment};
use crate::stack::{OURS, content, receive_all, send_all, stack, undisturbed};
use rumpnet::socket::MsgFlags;
use rumpuser::Errno;
use smoltcp::socket::tcp;
use smoltcp::wire::TcpControl;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

/// They connect; both send `len` bytes at once and close.
fn both_ways(number: u8, weather: Weather, len: usize, seed: u64) {
    let (listener, port) = stack().listener(4);
    let mut peer = Peer::new(&stack().switch, number, weather, seed);
    let (there, back) = (content(len, seed), content(len, seed + 1));
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (so, _) = listener.accept().expect("they connect");
            let sender = {
                let (so, back) = (so.clone(), &back);
                scope.spawn(move || {
                    send_all(&so, back);
                    so.shutdown(false, true).expect("it is connected");
                })
            };
            let got = receive_all(&so);
            sender.join().expect("the sender");
            so.close();
            got
        });
        let handle = peer.connect((OURS, port), 5000, 65_535);
        let got = peer.exchange(handle, &there);
        assert!(got == back, "what they got differs, seed {seed}");
        peer.run_until("the server to end", |_| server.is_finished());
        assert!(
            server.join().expect("the server") == there,
            "what we got differs, seed {seed}"
        );
    });
    listener.close();
}

#[test]
fn a_megabyte_goes_both_ways_over_a_wire() {
    both_ways(1, FAIR, 1 << 20, 11);
}

#[test]
fn bytes_survive_a_wire_that_loses_doubles_and_swaps_frames() {
    let weather = Weather {
        loss: 2,
        doubling: 3,
        swapping: 5,
    };
    both_ways(2, weather, 150_000, 12);
}

#[test]
fn we_connect_to_others_too() {
    let mut peer = Peer::new(&stack().switch, 3, FAIR, 13);
    let handle = peer.listen(80, 16_384);
    let to = SocketAddr::from((peer.addr(), 80));
    thread::scope(|scope| {
        let client = scope.spawn(move || {
            let so = stack().socket();
            so.connect(to).expect("they answer");
            send_all(&so, b"hello");
            so.shutdown(false, true).expect("it is connected");
            let got = receive_all(&so);
            so.close();
            got
        });
        assert_eq!(peer.exchange(handle, b"good day"), b"hello");
        peer.run_until("our end", |_| client.is_finished());
        assert_eq!(client.join().expect("the client"), b"good day");
    });
}

#[test]
fn nobody_at_the_address_is_said_before_long() {
    let so = stack().socket();
    so.set_nonblocking(true);
    let nobody = SocketAddr::from((Ipv4Addr::new(10, 1, 200, 1), 80));
    assert_eq!(so.connect(nobody), Err(Errno::EINPROGRESS));
    so.close();
}

#[test]
fn a_hundred_thousand_syns_leave_little_behind_and_a_client_is_served_meanwhile() {
    let _alone = undisturbed();
    let tcp = stack().tcp();
    let (listener, port) = stack().listener(4);
    let flood = stack().switch.raw_port();
    let mut fate = Fate::new(14);
    let mut syns = |count: usize| {
        for _ in 0..count {
            let from = (1 + fate.below(200) as u8, 1 + fate.below(65_000) as u16);
            let syn = segment(TcpControl::Syn, fate.next() as u32, None, &[]);
            flood.send(&frame(from, port, &syn));
            // What is answered to ARP and SYN is not for us to read.
            while flood.receive().is_some() {}
        }
    };
    syns(50_000);
    let mut peer = Peer::new(&stack().switch, 4, FAIR, 14);
    let handle = peer.connect((OURS, port), 6000, 4096);
    peer.run_until("the client's connection", |peer| {
        syns(20);
        peer.socket(handle).may_send()
    });
    syns(50_000);
    // After a cookie a lost acknowledgment is made up for by the data that comes again.
    let data = b"still there?";
    peer.socket(handle).send_slice(data).expect("it can send");
    listener.set_nonblocking(true);
    let mut accepted = None;
    peer.run_until("the connection", |_| {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (so, _) = accepted.expect("the client");
    let mut request = [0; 12];
    so.set_nonblocking(true);
    peer.run_until("the request", |_| {
        so.receive(&mut request, MsgFlags::empty()).is_ok()
    });
    assert_eq!(&request, b"still there?");
    assert!(
        tcp.embryos() <= 2048,
        "{} connections in the making",
        tcp.embryos()
    );
    so.close();
    listener.close();
}

#[test]
fn ten_thousand_senseless_frames_hurt_nobody() {
    let (listener, port) = stack().listener(4);
    let mut peer = Peer::new(&stack().switch, 5, FAIR, 15);
    let handle = peer.connect((OURS, port), 7000, 4096);
    peer.run_until("the client's connection", |peer| {
        peer.socket(handle).may_send()
    });
    let (so, _) = listener.accept().expect("the client");
    let wire = stack().switch.raw_port();
    let mut fate = Fate::new(15);
    let controls = [
        TcpControl::None,
        TcpControl::Psh,
        TcpControl::Syn,
        TcpControl::Fin,
        TcpControl::Rst,
    ];
    for _ in 0..10_000 {
        let control = controls[fate.below(5) as usize];
        let ack = fate.percent(70).then(|| fate.next() as u32);
        let data = vec![b'x'; [0, 0, 1, 100, 1400][fate.below(5) as usize]];
        let sane = segment(control, fate.next() as u32, ack, &data);
        let mut bytes = frame((252, 1 + fate.below(3) as u16), port, &sane);
        for _ in 0..fate.below(4) {
            // Behind the addresses, so that it arrives.
            let at = 14 + fate.below(bytes.len() as u64 - 14) as usize;
            bytes[at] ^= 1 << fate.below(8);
        }
        if fate.percent(20) {
            bytes.truncate(fate.below(bytes.len() as u64 + 1) as usize);
        }
        wire.send(&bytes);
        while wire.receive().is_some() {}
    }
    peer.socket(handle)
        .send_slice(b"alive")
        .expect("it can send");
    let mut got = [0; 5];
    so.set_nonblocking(true);
    peer.run_until("the data", |_| {
        so.receive(&mut got, MsgFlags::empty()).is_ok()
    });
    assert_eq!(&got, b"alive");
    so.close();
    peer.run_until("the close", |peer| {
        peer.socket(handle).close();
        !peer.socket(handle).is_open() || peer.socket(handle).state() == tcp::State::TimeWait
    });
    listener.close();
}
