//! ARP, IPv4 with fragments, ICMP and UDP against smoltcp, an implementation of others.

mod wire;

use rumpkern::poll::Events;
use rumpnet::protocol::{Domain, SockType};
use rumpnet::socket::{MsgFlags, SockOption, SockOptionName, socreate};
use rumpuser::Errno;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{icmp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress};
use wire::peer::Peer;
use wire::{OUR_IP, PEER_IP, Wire, addr};

fn our_ip() -> IpAddress {
    IpAddress::Ipv4(OUR_IP)
}

fn udp_peer(peer: &mut Peer<'_>, port: u16) -> smoltcp::iface::SocketHandle {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 65536]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(port).unwrap();
    peer.sockets.add(socket)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 253) as u8).collect()
}

#[test]
fn an_echo_comes_back_whole_also_in_fragments() {
    let wire = Wire::new();
    let mut peer = Peer::new(&wire);
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 20_000]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(0x1234)).unwrap();
    let handle = peer.sockets.add(socket);
    for (seq_no, len) in [(1, 0), (2, 56), (3, 1472), (4, 1473), (5, 6000)] {
        let data = pattern(len);
        let echo = Icmpv4Repr::EchoRequest {
            ident: 0x1234,
            seq_no,
            data: &data,
        };
        let socket = peer.sockets.get_mut::<icmp::Socket<'_>>(handle);
        let bytes = socket.send(echo.buffer_len(), our_ip()).unwrap();
        echo.emit(
            &mut Icmpv4Packet::new_unchecked(bytes),
            &ChecksumCapabilities::default(),
        );
        let reply = peer.until("an echo reply", |peer| {
            let socket = peer.sockets.get_mut::<icmp::Socket<'_>>(handle);
            socket.recv().ok().map(|(bytes, _)| bytes.to_vec())
        });
        let packet = Icmpv4Packet::new_checked(&reply[..]).unwrap();
        let repr = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).unwrap();
        let expected = Icmpv4Repr::EchoReply {
            ident: 0x1234,
            seq_no,
            data: &data,
        };
        assert_eq!(repr, expected);
    }
}

#[test]
fn a_datagram_to_an_unresolved_address_waits_for_arp_and_arrives() {
    let wire = Wire::new();
    let mut peer = Peer::new(&wire);
    let handle = udp_peer(&mut peer, 7);
    let so = wire.udp_socket();
    so.send(b"first", Some(addr(PEER_IP, 7)), MsgFlags::empty())
        .unwrap();
    let (data, from) = peer.until("the datagram", |peer| {
        let socket = peer.sockets.get_mut::<udp::Socket<'_>>(handle);
        socket
            .recv()
            .ok()
            .map(|(data, meta)| (data.to_vec(), meta.endpoint))
    });
    assert_eq!(data, b"first");
    assert_eq!(from.addr, our_ip());
    let local = so.sockname().unwrap();
    assert_eq!(local.port(), from.port);
    assert!(from.port >= 49152, "ephemeral ports are the dynamic ones");
    so.close();
}

#[test]
fn datagrams_of_all_sizes_go_both_ways_in_fragments_where_they_must() {
    let wire = Wire::new();
    let mut peer = Peer::new(&wire);
    let handle = udp_peer(&mut peer, 7);
    let so = wire.udp_socket();
    so.bind(addr(OUR_IP, 9)).unwrap();
    for len in [0, 1, 1472, 1473, 4000, 8000] {
        let data = pattern(len);
        so.send(&data, Some(addr(PEER_IP, 7)), MsgFlags::empty())
            .unwrap();
        let (there, from) = peer.until("the datagram", |peer| {
            let socket = peer.sockets.get_mut::<udp::Socket<'_>>(handle);
            socket
                .recv()
                .ok()
                .map(|(data, meta)| (data.to_vec(), meta.endpoint))
        });
        assert_eq!(there, data, "{len} bytes");
        let socket = peer.sockets.get_mut::<udp::Socket<'_>>(handle);
        socket.send_slice(&data, from).unwrap();
        let mut buffer = vec![0; 10_000];
        let (back, sender) = peer.until("the datagram's return", |_| {
            so.receive(&mut buffer, MsgFlags::empty()).ok()
        });
        assert_eq!(buffer[..back], data, "{len} bytes");
        assert_eq!(sender, Some(addr(PEER_IP, 7)));
    }
    so.close();
}

#[test]
fn a_closed_port_refuses_a_connected_socket() {
    let wire = Wire::new();
    let mut peer = Peer::new(&wire);
    let so = wire.udp_socket();
    so.connect(addr(PEER_IP, 99)).unwrap();
    so.send(b"anybody?", None, MsgFlags::empty()).unwrap();
    let mut buffer = [0; 10];
    let error = peer.until("a refusal", |_| {
        match so.receive(&mut buffer, MsgFlags::empty()) {
            Err(Errno::EAGAIN) => None,
            other => Some(other),
        }
    });
    assert_eq!(error, Err(Errno::ECONNREFUSED));
    assert_eq!(
        so.option(SockOptionName::Error),
        Ok(SockOption::Error(None))
    );
    so.close();
}

#[test]
fn our_closed_port_is_unreachable_to_the_peer() {
    let wire = Wire::new();
    let mut peer = Peer::new(&wire);
    let handle = udp_peer(&mut peer, 7);
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 2000]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket
        .bind(icmp::Endpoint::Udp(smoltcp::wire::IpListenEndpoint {
            addr: None,
            port: 7,
        }))
        .unwrap();
    let errors = peer.sockets.add(socket);
    let socket = peer.sockets.get_mut::<udp::Socket<'_>>(handle);
    socket.send_slice(b"hello", (our_ip(), 4242)).unwrap();
    let told = peer.until("an ICMP error", |peer| {
        let socket = peer.sockets.get_mut::<icmp::Socket<'_>>(errors);
        socket.recv().ok().map(|(bytes, _)| bytes.to_vec())
    });
    let packet = Icmpv4Packet::new_checked(&told[..]).unwrap();
    let repr = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).unwrap();
    assert!(matches!(
        repr,
        Icmpv4Repr::DstUnreachable {
            reason: smoltcp::wire::Icmpv4DstUnreachable::PortUnreachable,
            ..
        }
    ));
}

#[test]
fn loopback_works_without_a_wire() {
    let wire = Wire::new();
    let (one, two) = (wire.udp_socket(), wire.udp_socket());
    one.set_nonblocking(false);
    one.set_option(SockOption::RcvTimeo(Some(std::time::Duration::from_secs(
        5,
    ))))
    .unwrap();
    for ip in [std::net::Ipv4Addr::LOCALHOST, OUR_IP] {
        let port = one.sockname().unwrap().port();
        if port == 0 {
            one.bind(addr(std::net::Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        }
        let port = one.sockname().unwrap().port();
        let data = pattern(30_000);
        two.send(&data, Some(addr(ip, port)), MsgFlags::empty())
            .unwrap();
        let mut buffer = vec![0; 40_000];
        let (n, from) = one.receive(&mut buffer, MsgFlags::empty()).unwrap();
        assert_eq!(buffer[..n], data);
        assert_eq!(
            from.map(|from| from.port()),
            Some(two.sockname().unwrap().port())
        );
    }
    assert!(wire.sent().is_empty());
    one.close();
    two.close();
}

#[test]
fn a_message_longer_than_a_packet_or_the_buffer_is_emsgsize() {
    let wire = Wire::new();
    let so = wire.udp_socket();
    so.set_option(SockOption::SndBuf(100_000)).unwrap();
    let long = vec![0; 65_508];
    let sent = so.send(&long, Some(addr(PEER_IP, 7)), MsgFlags::empty());
    assert_eq!(sent, Err(Errno::EMSGSIZE));
    so.set_option(SockOption::SndBuf(3000)).unwrap();
    let sent = so.send(&long[..3001], Some(addr(PEER_IP, 7)), MsgFlags::empty());
    assert_eq!(sent, Err(Errno::EMSGSIZE));
    so.close();
}

#[test]
fn broadcasts_need_the_option_and_reach_everybody() {
    let wire = Wire::new();
    let so = wire.udp_socket();
    let everybody = addr(std::net::Ipv4Addr::new(10, 0, 0, 255), 7);
    assert_eq!(
        so.send(b"x", Some(everybody), MsgFlags::empty()),
        Err(Errno::EACCES)
    );
    so.set_option(SockOption::Broadcast(true)).unwrap();
    so.send(b"x", Some(everybody), MsgFlags::empty()).unwrap();
    let sent = wire.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].bytes[..6], [0xff; 6]);
    so.close();
}

#[test]
fn binding_twice_is_eaddrinuse_unless_both_share() {
    let wire = Wire::new();
    let sockets: Vec<_> = (0..4).map(|_| wire.udp_socket()).collect();
    sockets[0].bind(addr(OUR_IP, 5000)).unwrap();
    assert_eq!(sockets[1].bind(addr(OUR_IP, 5000)), Err(Errno::EADDRINUSE));
    assert_eq!(sockets[0].bind(addr(OUR_IP, 5001)), Err(Errno::EINVAL));
    assert_eq!(
        sockets[1].bind(addr(PEER_IP, 5000)),
        Err(Errno::EADDRNOTAVAIL)
    );
    for so in &sockets[2..] {
        so.set_option(SockOption::ReuseAddr(true)).unwrap();
        so.bind(addr(OUR_IP, 6000)).unwrap();
    }
    sockets.iter().for_each(|so| so.close());
    let again = wire.udp_socket();
    again.bind(addr(OUR_IP, 5000)).unwrap();
    again.close();
}

#[test]
fn poll_says_readable_exactly_while_a_message_waits() {
    let wire = Wire::new();
    let mut peer = Peer::new(&wire);
    let handle = udp_peer(&mut peer, 7);
    let so = wire.udp_socket();
    so.bind(addr(OUR_IP, 9)).unwrap();
    assert!(!so.lock().events().contains(Events::READABLE));
    assert!(so.lock().events().contains(Events::WRITABLE));
    let socket = peer.sockets.get_mut::<udp::Socket<'_>>(handle);
    socket.send_slice(b"", (our_ip(), 9)).unwrap();
    peer.until("readable", |_| {
        so.lock().events().contains(Events::READABLE).then_some(())
    });
    so.receive(&mut [0; 1], MsgFlags::empty()).unwrap();
    assert!(!so.lock().events().contains(Events::READABLE));
    so.close();
}

#[test]
fn closing_a_listening_socket_wakes_who_accepts() {
    let wire = Wire::new();
    let so = socreate(&wire.net, Domain::AF_INET, SockType::Stream, 0).unwrap();
    so.bind(addr(OUR_IP, 80)).unwrap();
    so.listen(1).unwrap();
    let waiter = so.clone();
    let waiting = std::thread::spawn(move || waiter.accept().map(|_| ()));
    std::thread::sleep(std::time::Duration::from_millis(50));
    so.close();
    assert_eq!(waiting.join().unwrap(), Err(Errno::EINVAL));
}

#[test]
fn a_socket_shut_for_receiving_receives_no_more() {
    let wire = Wire::new();
    let (one, two) = (wire.udp_socket(), wire.udp_socket());
    two.bind(addr(OUR_IP, 9)).unwrap();
    one.connect(addr(OUR_IP, 9)).unwrap();
    two.connect(one.sockname().unwrap()).unwrap();
    two.shutdown(true, false).unwrap();
    one.send(b"x", None, MsgFlags::empty()).unwrap();
    assert_eq!(two.receive(&mut [0; 1], MsgFlags::empty()), Ok((0, None)));
    one.shutdown(false, true).unwrap();
    assert_eq!(one.send(b"x", None, MsgFlags::empty()), Err(Errno::EPIPE));
    assert_eq!(wire.udp_socket().shutdown(true, true), Err(Errno::ENOTCONN));
    one.close();
    two.close();
}

#[test]
fn a_reader_waits_for_the_low_water_mark_or_the_end() {
    let wire = Wire::new();
    let stream = || socreate(&wire.net, Domain::AF_INET, SockType::Stream, 0).unwrap();
    let (listener, client) = (stream(), stream());
    listener.bind(addr(OUR_IP, 80)).unwrap();
    listener.listen(1).unwrap();
    client.connect(addr(OUR_IP, 80)).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_option(SockOption::RcvLowat(100)).unwrap();
    let timeout = SockOption::RcvTimeo(Some(std::time::Duration::from_millis(50)));
    server.set_option(timeout).unwrap();
    let mut buffer = [0; 500];
    client.send(&[1; 60], None, MsgFlags::empty()).unwrap();
    assert_eq!(
        server.receive(&mut buffer, MsgFlags::empty()),
        Err(Errno::EAGAIN)
    );
    assert!(!server.lock().events().contains(Events::READABLE));
    client.send(&[1; 60], None, MsgFlags::empty()).unwrap();
    let long = SockOption::RcvTimeo(Some(std::time::Duration::from_secs(5)));
    server.set_option(long).unwrap();
    assert_eq!(
        server.receive(&mut buffer, MsgFlags::empty()),
        Ok((120, None))
    );
    client.send(&[1; 7], None, MsgFlags::empty()).unwrap();
    client.close();
    assert_eq!(
        server.receive(&mut buffer, MsgFlags::empty()),
        Ok((7, None))
    );
    assert_eq!(
        server.receive(&mut buffer, MsgFlags::empty()),
        Ok((0, None))
    );
    server.close();
    listener.close();
}
