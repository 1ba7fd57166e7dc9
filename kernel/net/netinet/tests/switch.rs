//! The whole of it on a switch: components booted, `virt0` configured by a DHCP server written with smoltcp's
//! message formats, and datagrams through the packet hypercalls.

use rumpkern::{Config, Kernel};
use rumpnet::net::Net;
use rumpnet::protocol::{Domain, SockType};
use rumpnet::socket::{MsgFlags, SockOption, socreate};
use rumpuser_hosted::{Host, RawPort, Switch};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress,
    EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket,
    UdpRepr,
};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x15];
const SERVER_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x22]);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const OFFERED: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

/// A datagram's way through the headers.
struct Datagram {
    to: EthernetAddress,
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
}

fn frame_of(way: &Datagram, payload: &[u8]) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let udp = UdpRepr {
        src_port: way.src.1,
        dst_port: way.dst.1,
    };
    let ip = Ipv4Repr {
        src_addr: way.src.0,
        dst_addr: way.dst.0,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + payload.len(),
        hop_limit: 64,
    };
    let ethernet = EthernetRepr {
        src_addr: SERVER_MAC,
        dst_addr: way.to,
        ethertype: EthernetProtocol::Ipv4,
    };
    let mut bytes = vec![0; 14 + 20 + ip.payload_len];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    ethernet.emit(&mut frame);
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet, &checksums);
    let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
    udp.emit(
        &mut datagram,
        &way.src.0.into(),
        &way.dst.0.into(),
        payload.len(),
        |to| to.copy_from_slice(payload),
        &checksums,
    );
    bytes
}

/// Answers a DHCP message, as a server that has one address to give.
fn dhcp_answer(asked: &[u8]) -> Option<Vec<u8>> {
    let packet = DhcpPacket::new_checked(asked).ok()?;
    let asked = DhcpRepr::parse(&packet).ok()?;
    let message_type = match asked.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request => DhcpMessageType::Ack,
        other => panic!("unexpected {other:?}"),
    };
    assert!(asked.broadcast);
    assert_eq!(asked.client_hardware_address, EthernetAddress(OUR_MAC));
    let answer = DhcpRepr {
        message_type,
        your_ip: OFFERED,
        server_ip: SERVER,
        router: Some(SERVER),
        subnet_mask: Some(MASK),
        server_identifier: Some(SERVER),
        lease_duration: Some(3600),
        ..asked
    };
    let mut bytes = vec![0; answer.buffer_len()];
    answer
        .emit(&mut DhcpPacket::new_unchecked(&mut bytes[..]))
        .ok()?;
    Some(bytes)
}

/// Answers one frame: ARP for the server's address, DHCP, and UDP echoes on port 7.
fn answer(bytes: &[u8]) -> Option<Vec<u8>> {
    let frame = EthernetFrame::new_checked(bytes).ok()?;
    if frame.ethertype() == EthernetProtocol::Arp {
        return arp_answer(frame.payload());
    }
    let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
    assert!(packet.verify_checksum());
    let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
    let (src, dst) = (packet.src_addr(), packet.dst_addr());
    assert!(datagram.verify_checksum(&src.into(), &dst.into()));
    match datagram.dst_port() {
        67 => {
            assert_eq!((src, dst), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST));
            let payload = dhcp_answer(datagram.payload())?;
            let way = Datagram {
                to: EthernetAddress::BROADCAST,
                src: (SERVER, 67),
                dst: (Ipv4Addr::BROADCAST, 68),
            };
            Some(frame_of(&way, &payload))
        }
        7 => {
            let way = Datagram {
                to: frame.src_addr(),
                src: (dst, 7),
                dst: (src, datagram.src_port()),
            };
            Some(frame_of(&way, datagram.payload()))
        }
        _ => None,
    }
}

fn arp_answer(payload: &[u8]) -> Option<Vec<u8>> {
    let asked = ArpRepr::parse(&ArpPacket::new_checked(payload).ok()?).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr: SERVER,
        ..
    } = asked
    else {
        return None;
    };
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: SERVER_MAC,
        source_protocol_addr: SERVER,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let ethernet = EthernetRepr {
        src_addr: SERVER_MAC,
        dst_addr: source_hardware_addr,
        ethertype: EthernetProtocol::Arp,
    };
    let mut bytes = vec![0; 14 + reply.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    ethernet.emit(&mut frame);
    reply.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    Some(bytes)
}

fn serve(port: &RawPort, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match port.receive() {
            Some(frame) => answer(&frame).iter().for_each(|frame| port.send(frame)),
            None => std::thread::sleep(Duration::from_micros(100)),
        }
    }
}

fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_interface_is_configured_by_dhcp_and_carries_datagrams() {
    let switch = Switch::new();
    let (device, raw) = (switch.port(OUR_MAC), switch.raw_port());
    let host = Host::builder().memory(16 << 20).packet_device(device);
    host.install().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let server = std::thread::spawn(move || serve(&raw, &stopped));
    let components = [
        &rumpnet::COMPONENT,
        &rumpnet_netinet::COMPONENT,
        &rumpnet_net::LOOPBACK_COMPONENT,
        &rumpnet_virtif::COMPONENT,
        &rumpnet_netinet::CONFIG_COMPONENT,
    ];
    let kernel = Kernel::boot(Config::default(), &components).unwrap();
    let net = kernel.get::<Net>().unwrap();
    let ifp = net.interface("virt0").unwrap();
    wait_for("an address", || {
        ifp.find_address(|a| (a.addr == OFFERED).then_some(()))
    });
    wait_for("a default route", || {
        net.routes.lookup(Ipv4Addr::new(8, 8, 8, 8))
    });
    let so = socreate(&net, Domain::AF_INET, SockType::Dgram, 0).unwrap();
    so.set_option(SockOption::RcvTimeo(Some(Duration::from_secs(5))))
        .unwrap();
    let echo = SocketAddr::V4(SocketAddrV4::new(SERVER, 7));
    for n in 0..2000usize {
        let data: Vec<u8> = (0..n % 1400).map(|i| (i + n) as u8).collect();
        so.send(&data, Some(echo), MsgFlags::empty()).unwrap();
        let mut buffer = [0; 1500];
        let (len, from) = so.receive(&mut buffer, MsgFlags::empty()).unwrap();
        assert_eq!(
            (&buffer[..len], from),
            (&data[..], Some(echo)),
            "datagram {n}"
        );
    }
    so.close();
    let mut seen = 0;
    kernel.counters().for_each(|name, _, value| {
        if matches!(
            name,
            "if_virt0_received_total" | "ip_sent_total" | "udp_received_total"
        ) {
            assert!(value >= 2000, "{name} {value}");
            seen += 1;
        }
    });
    assert_eq!(seen, 3);
    kernel.shutdown();
    stop.store(true, Ordering::Relaxed);
    server.join().unwrap();
}
