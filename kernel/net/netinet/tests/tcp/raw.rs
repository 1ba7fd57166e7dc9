//! A far end made by hand, frame by frame: what no honest stack would do.

use crate::stack::{OUR_MAC, OURS, eventually, stack, undisturbed};
use rumpkern::uvm::{Cluster, Drain, SmallBuffer};
use rumpnet::socket::{MsgFlags, Socket};
use rumpuser::Errno;
use rumpuser_hosted::RawPort;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol,
    Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// A frame with a TCP segment, by smoltcp's hand.
pub fn frame(from: (u8, u16), to_port: u16, segment: &TcpRepr<'_>) -> Vec<u8> {
    let source = Ipv4Addr::new(10, 1, 2, from.0);
    let tcp = TcpRepr {
        src_port: from.1,
        dst_port: to_port,
        ..*segment
    };
    let ip = Ipv4Repr {
        src_addr: source,
        dst_addr: OURS,
        next_header: IpProtocol::Tcp,
        payload_len: tcp.buffer_len(),
        hop_limit: 64,
    };
    let link = EthernetRepr {
        src_addr: EthernetAddress([2, 0, 0, 0, 2, from.0]),
        dst_addr: EthernetAddress(OUR_MAC),
        ethertype: EthernetProtocol::Ipv4,
    };
    let sums = ChecksumCapabilities::default();
    let mut bytes = vec![0; 14 + ip.buffer_len() + tcp.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    link.emit(&mut frame);
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet, &sums);
    let (src, dst) = (IpAddress::Ipv4(source), IpAddress::Ipv4(OURS));
    let mut segment = TcpPacket::new_unchecked(packet.payload_mut());
    tcp.emit(&mut segment, &src, &dst, &sums);
    bytes
}

pub fn segment(control: TcpControl, seq: u32, ack: Option<u32>, payload: &[u8]) -> TcpRepr<'_> {
    TcpRepr {
        src_port: 1,
        dst_port: 1,
        control,
        seq_number: TcpSeqNumber(seq as i32),
        ack_number: ack.map(|ack| TcpSeqNumber(ack as i32)),
        window_len: 8000,
        window_scale: None,
        max_seg_size: Some(1460),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload,
    }
}

/// A hand-made end of a connection.
struct Raw {
    wire: RawPort,
    from: (u8, u16),
    port: u16,
    /// Our next number, and theirs.
    seq: u32,
    ack: u32,
}

/// A segment of the kernel's.
#[derive(Debug)]
struct Seen {
    seq: u32,
    len: usize,
    syn: bool,
    rst: bool,
}

impl Raw {
    fn new(number: u8, port: u16) -> Raw {
        Raw {
            wire: stack().switch.raw_port(),
            from: (number, 9000),
            port,
            seq: 100,
            ack: 0,
        }
    }

    /// Through the handshake with a listening socket.
    fn connected(number: u8, listener: &Arc<Socket>, port: u16) -> (Raw, Arc<Socket>) {
        let mut raw = Raw::new(number, port);
        raw.send(TcpControl::Syn, 0, &[]);
        let answer = raw.next(|seen| seen.syn);
        raw.seq += 1;
        raw.ack = answer.seq.wrapping_add(1);
        raw.send(TcpControl::None, 0, &[]);
        let (so, _) = listener.accept().expect("the connection");
        (raw, so)
    }

    /// Sends a segment `ahead` of the next number.
    fn send(&self, control: TcpControl, ahead: u32, data: &[u8]) {
        let ack = (control != TcpControl::Syn).then_some(self.ack);
        let sent = segment(control, self.seq + ahead, ack, data);
        self.wire.send(&frame(self.from, self.port, &sent));
    }

    /// The next segment to us that `wanted` wants; answers who asks for our Ethernet address.
    #[track_caller]
    fn next(&self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let mut found = None;
        eventually("a segment", || {
            while found.is_none()
                && let Some(bytes) = self.wire.receive()
            {
                found = self.look(&bytes).filter(&wanted);
            }
            found.is_some()
        });
        found.expect("it was found")
    }

    fn look(&self, bytes: &[u8]) -> Option<Seen> {
        let frame = EthernetFrame::new_checked(bytes).ok()?;
        let ours = [10, 1, 2, self.from.0];
        if frame.ethertype() == EthernetProtocol::Arp && frame.payload().get(24..28)? == ours {
            let mac = [2, 0, 0, 0, 2, self.from.0];
            let mut reply = [&OUR_MAC[..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
            reply.extend([&mac[..], &ours, &OUR_MAC, &OURS.octets()].concat());
            self.wire.send(&reply);
            return None;
        }
        let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
        if packet.dst_addr().octets() != ours || packet.next_header() != IpProtocol::Tcp {
            return None;
        }
        let segment = TcpPacket::new_checked(packet.payload()).ok()?;
        (segment.dst_port() == self.from.1).then(|| Seen {
            seq: segment.seq_number().0 as u32,
            len: segment.payload().len(),
            syn: segment.syn(),
            rst: segment.rst(),
        })
    }

    /// An ICMP message about a segment of the kernel's with number `seq`: a router's, whose word is
    /// in bytes 4 to 7 of its header.
    fn icmp(&self, kind: u8, code: u8, word: u32, kernel_port: u16, seq: u32) {
        let mut icmp = vec![kind, code, 0, 0];
        icmp.extend(word.to_be_bytes());
        icmp.extend([0x45, 0, 5, 0xdc, 0, 1, 0x40, 0, 64, 6, 0, 0]);
        icmp.extend(OURS.octets());
        icmp.extend([10, 1, 2, self.from.0]);
        let quoted_sum = !ones_sum(&icmp[8..28]);
        icmp[18..20].copy_from_slice(&quoted_sum.to_be_bytes());
        icmp.extend(kernel_port.to_be_bytes());
        icmp.extend(self.from.1.to_be_bytes());
        icmp.extend(seq.to_be_bytes());
        let sum = !ones_sum(&icmp);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let ip = Ipv4Repr {
            src_addr: Ipv4Addr::new(10, 1, 2, self.from.0),
            dst_addr: OURS,
            next_header: IpProtocol::Icmp,
            payload_len: icmp.len(),
            hop_limit: 64,
        };
        let mut bytes = [&OUR_MAC[..], &[2, 0, 0, 0, 2, self.from.0], &[8, 0]].concat();
        bytes.resize(14 + ip.buffer_len(), 0);
        ip.emit(
            &mut Ipv4Packet::new_unchecked(&mut bytes[14..]),
            &ChecksumCapabilities::default(),
        );
        bytes.extend(icmp);
        self.wire.send(&bytes);
    }
}

fn ones_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[test]
fn what_waits_out_of_order_is_given_back_when_the_connection_ends() {
    let _alone = undisturbed();
    let (listener, port) = stack().listener(4);
    let (clusters, smalls) = (Cluster::in_use(), SmallBuffer::in_use());
    let (raw, so) = Raw::connected(251, &listener, port);
    for n in 1..20 {
        raw.send(TcpControl::None, n * 1000, &[n as u8; 1000]);
    }
    eventually("the pieces are kept", || Cluster::in_use() > clusters + 10);
    raw.send(TcpControl::Rst, 0, &[]);
    eventually("they are given back", || Cluster::in_use() <= clusters);
    eventually("and so are the small ones", || {
        SmallBuffer::in_use() <= smalls
    });
    let mut buffer = [0; 1];
    let got = so.receive(&mut buffer, MsgFlags::empty());
    assert_eq!(got, Err(Errno::ECONNRESET));
    so.close();
    listener.close();
}

#[test]
fn what_waits_out_of_order_is_dropped_when_memory_is_short_and_comes_again() {
    let _alone = undisturbed();
    let (listener, port) = stack().listener(4);
    let (raw, so) = Raw::connected(252, &listener, port);
    for n in 1..5 {
        raw.send(TcpControl::None, n * 1000, &[n as u8; 1000]);
        raw.next(|seen| seen.len == 0);
    }
    eventually("it is dropped", || stack().tcp().drain(1000) > 0);
    for n in 0..5 {
        raw.send(TcpControl::None, n * 1000, &[n as u8; 1000]);
    }
    eventually("it came again", || so.lock().rcv.len() == 5000);
    so.close();
    raw.next(|seen| seen.rst);
    listener.close();
}

#[test]
fn a_router_with_a_small_link_is_believed_if_it_quotes_what_is_in_flight() {
    let _alone = undisturbed();
    let (listener, port) = stack().listener(4);
    let (raw, so) = Raw::connected(253, &listener, port);
    so.send(&[7; 2920], None, MsgFlags::empty())
        .expect("there is room");
    for ahead in [0, 1460] {
        let seen = raw.next(|seen| seen.len > 0);
        assert_eq!((seen.seq.wrapping_sub(raw.ack), seen.len), (ahead, 1460));
    }
    raw.icmp(3, 4, 1000, port, raw.ack.wrapping_add(1 << 20));
    let seen = raw.next(|seen| seen.len > 0);
    assert_eq!(
        seen.len, 1460,
        "a liar changes nothing: this is the timer's"
    );
    raw.icmp(3, 4, 1000, port, raw.ack);
    let seen = raw.next(|seen| seen.len != 1460);
    assert_eq!((seen.seq, seen.len), (raw.ack, 960));
    raw.send(TcpControl::Rst, 0, &[]);
    so.close();
    listener.close();
}

#[test]
fn an_unreachable_port_ends_an_attempt_to_connect_but_no_connection() {
    let _alone = undisturbed();
    let (listener, port) = stack().listener(4);
    let (raw, so) = Raw::connected(254, &listener, port);
    so.send(&[7; 100], None, MsgFlags::empty())
        .expect("there is room");
    raw.next(|seen| seen.len == 100);
    raw.icmp(3, 3, 0, port, raw.ack);
    raw.send(TcpControl::None, 0, b"alive");
    eventually("the connection lives", || so.lock().rcv.len() == 5);

    let client = stack().socket();
    client.set_nonblocking(true);
    let there = SocketAddr::from((Ipv4Addr::new(10, 1, 2, 254), 9000));
    assert_eq!(client.connect(there), Err(Errno::EINPROGRESS));
    let from = client.sockname().expect("it has a port").port();
    let syn = raw.next(|seen| seen.syn);
    raw.icmp(3, 3, 0, from, syn.seq.wrapping_add(77));
    raw.icmp(3, 3, 0, from, syn.seq);
    eventually("the refusal", || client.lock().error.is_some());
    assert_eq!(client.lock().error, Some(Errno::ECONNREFUSED));
    client.close();
    raw.send(TcpControl::Rst, 0, &[]);
    so.close();
    listener.close();
}
