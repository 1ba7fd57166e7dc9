//! What a router must do with packets for others (RFC 1812 §5.2, §5.3), seen from its wires.

mod wire;

use rumpnet::ifnet::{IfCaps, IfDriver, Ifnet, InIfaddr};
use rumpnet::mbuf::Mbuf;
use rumpnet_net::{EtherAddr, ether_ifattach};
use rumpnet_netinet::in_cksum::in_cksum;
use rumpuser::Errno;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use wire::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Wire, ethernet};

/// Somewhere beyond our default router.
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
/// Somebody else on our wire.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

struct Packet {
    to_mac: [u8; 6],
    src: Ipv4Addr,
    dst: Ipv4Addr,
    ttl: u8,
    flags: u16,
    options: Vec<u8>,
    len: usize,
}

fn packet() -> Packet {
    Packet {
        to_mac: OUR_MAC,
        src: NEIGHBOUR,
        dst: FAR,
        ttl: 9,
        flags: 0,
        options: Vec::new(),
        len: 100,
    }
}

impl Packet {
    /// A datagram that counts.
    fn frame(&self) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut header = vec![0x40 | (header_len / 4) as u8, 0];
        header.extend(((header_len + self.len) as u16).to_be_bytes());
        header.extend(7u16.to_be_bytes());
        header.extend(self.flags.to_be_bytes());
        header.extend([self.ttl, 17, 0, 0]);
        header.extend(self.src.octets());
        header.extend(self.dst.octets());
        header.extend(&self.options);
        let sum = in_cksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut frame = ethernet(self.to_mac, PEER_MAC, 0x0800);
        frame.extend(header);
        frame.extend((0..self.len).map(|n| n as u8));
        frame
    }
}

/// A router that knows its neighbours' Ethernet addresses.
fn router() -> Wire {
    let wire = Wire::new();
    wire.inet.set_forwarding(true);
    for (ip, mac) in [(PEER_IP, PEER_MAC), (NEIGHBOUR, [2, 0, 0, 0, 0, 9])] {
        wire.put(&arp(OUR_MAC, mac, ip, OUR_IP));
    }
    wire.sent();
    wire
}

/// A request by `ip` at `mac`, from which the one asked learns where that is.
fn arp(to: [u8; 6], mac: [u8; 6], ip: Ipv4Addr, asked: Ipv4Addr) -> Vec<u8> {
    let mut arp = ethernet(to, mac, 0x0806);
    arp.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(mac);
    arp.extend(ip.octets());
    arp.extend([0; 6]);
    arp.extend(asked.octets());
    arp
}

/// What `packet` makes the router send, as IP packets.
fn sent(wire: &Wire, packet: &Packet) -> Vec<Vec<u8>> {
    wire.put(&packet.frame());
    let frames = wire.sent().into_iter();
    frames.map(|sent| sent.bytes[14..].to_vec()).collect()
}

/// Type, code, next link's MTU and sender of the ICMP message that is all that was sent.
fn icmp(packets: &[Vec<u8>]) -> (u8, u8, u16, Ipv4Addr) {
    let [packet] = packets else {
        panic!("{} packets", packets.len());
    };
    assert_eq!((packet[9], in_cksum(&packet[20..])), (1, 0));
    let mtu = u16::from_be_bytes([packet[26], packet[27]]);
    let sender: [u8; 4] = packet[12..16].try_into().expect("an address");
    (packet[20], packet[21], mtu, sender.into())
}

#[test]
fn a_packet_for_another_goes_on_with_one_less_to_live() {
    let wire = router();
    let [ref whole] = sent(&wire, &packet())[..] else {
        panic!("one packet goes on");
    };
    assert_eq!((whole[8], in_cksum(&whole[..20])), (8, 0));
    let came = packet().frame();
    assert_eq!(whole[12..], came[14 + 12..]);
    assert_eq!(wire.inet.ipstat.forward.load(Relaxed), 1);
}

#[test]
fn a_host_hands_nothing_on() {
    let wire = router();
    wire.inet.set_forwarding(false);
    assert_eq!(sent(&wire, &packet()).len(), 0);
    assert_eq!(wire.inet.ipstat.cant_forward.load(Relaxed), 1);
}

#[test]
fn what_has_lived_long_enough_is_reported_from_the_interface_it_came_by() {
    let wire = router();
    for ttl in [0, 1] {
        let old = Packet { ttl, ..packet() };
        assert_eq!(icmp(&sent(&wire, &old)), (11, 0, 0, OUR_IP));
    }
}

#[test]
fn without_a_route_the_network_is_unreachable() {
    let wire = router();
    wire.net.routes.remove(|route| route.prefix_len == 0);
    assert_eq!(icmp(&sent(&wire, &packet())), (3, 0, 0, OUR_IP));
}

/// The narrow wire on the other side of a router, and what was sent on it.
#[derive(Default)]
struct Narrow(Mutex<Vec<Vec<u8>>>);

impl IfDriver for Narrow {
    fn transmit(&self, _: &Ifnet, frame: Mbuf) -> Result<(), Errno> {
        let mut bytes = vec![0; frame.len()];
        frame.copy_out(0, &mut bytes)?;
        self.0.lock().unwrap().push(bytes);
        Ok(())
    }
}

/// Attaches a wire with an MTU of 600 to the router, and [`FAR`]'s network to it.
fn attach_narrow(wire: &Wire) -> Arc<Narrow> {
    let narrow = Arc::new(Narrow::default());
    let mac = EtherAddr([2, 0, 0, 0, 1, 1]);
    let ifp = ether_ifattach("test1".into(), mac, 600, IfCaps::empty(), narrow.clone());
    let ifp = Arc::new(ifp);
    wire.net.if_attach(ifp.clone()).unwrap();
    ifp.up();
    let address = InIfaddr {
        addr: Ipv4Addr::new(192, 0, 2, 1),
        prefix_len: 24,
    };
    wire.inet.add_address(&ifp, address).unwrap();
    ifp.input(
        &wire.net,
        Mbuf::from_slice(&arp(mac.0, [2; 6], FAR, address.addr)).unwrap(),
    );
    narrow.0.lock().unwrap().clear();
    narrow
}

#[test]
fn what_is_too_large_goes_on_in_parts_or_its_sender_learns_the_mtu() {
    let wire = router();
    let narrow = attach_narrow(&wire);
    let parts = |packet: &Packet| -> Vec<Vec<u8>> {
        assert!(sent(&wire, packet).is_empty());
        let frames = std::mem::take(&mut *narrow.0.lock().unwrap());
        frames.iter().map(|frame| frame[14..].to_vec()).collect()
    };
    let places = |parts: &[Vec<u8>]| -> Vec<(u16, usize)> {
        let place = |part: &Vec<u8>| (u16::from_be_bytes([part[6], part[7]]), part.len() - 20);
        parts.iter().map(place).collect()
    };
    let large = Packet {
        len: 1000,
        ..packet()
    };
    let whole = parts(&large);
    assert_eq!(places(&whole), [(0x2000, 576), (576 / 8, 424)]);
    let data: Vec<u8> = whole.iter().flat_map(|part| part[20..].to_vec()).collect();
    assert_eq!(data, large.frame()[34..]);

    let middle = Packet {
        flags: 0x2000 | 10,
        ..large
    };
    assert_eq!(
        places(&parts(&middle)),
        [(0x2000 | 10, 576), (0x2000 | 82, 424)]
    );

    let flags = 0x4000;
    let refused = Packet {
        flags,
        len: 1000,
        ..packet()
    };
    assert_eq!(icmp(&sent(&wire, &refused)), (3, 4, 600, OUR_IP));
}

#[test]
fn options_go_along_but_no_route_of_the_senders_choice() {
    let wire = router();
    let options = vec![7, 7, 4, 0, 0, 0, 0, 0];
    let packets = sent(
        &wire,
        &Packet {
            options: options.clone(),
            ..packet()
        },
    );
    assert_eq!((packets.len(), &packets[0][20..28]), (1, &options[..]));
    assert_eq!(in_cksum(&packets[0][..28]), 0);
    let options = vec![1, 131, 7, 4, 10, 0, 0, 3];
    let refused = Packet {
        options,
        ..packet()
    };
    assert_eq!(icmp(&sent(&wire, &refused)), (3, 5, 0, OUR_IP));
}

#[test]
fn broadcasts_groups_and_addresses_of_no_host_stay_where_they_are() {
    let wire = router();
    let to = |dst: [u8; 4]| Packet {
        dst: dst.into(),
        ..packet()
    };
    let from = |src: [u8; 4]| Packet {
        src: src.into(),
        ..packet()
    };
    for wrong in [
        to([224, 0, 0, 9]),
        to([240, 0, 0, 1]),
        to([0, 1, 2, 3]),
        to([127, 0, 0, 2]),
        to([169, 254, 1, 1]),
        from([0, 0, 0, 0]),
        from([169, 254, 1, 1]),
        Packet {
            to_mac: [0xff; 6],
            ..packet()
        },
    ] {
        assert_eq!(sent(&wire, &wrong).len(), 0);
    }
}
