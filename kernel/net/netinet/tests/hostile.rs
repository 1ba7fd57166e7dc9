//! Malformed frames of every layer, from a seed: the stack neither panics nor keeps what they brought.
//!
//! Valid frames of each kind are changed at random (bytes, lengths, truncation, extension, repetition), with
//! the checksums set right in half of the cases, so that the damage gets past them.

mod wire;

use rumpkern::uvm::{Cluster, SmallBuffer};
use rumpnet::ifnet::IfCaps;
use rumpnet::protocol::{Domain, SockType};
use rumpnet::socket::{MsgFlags, socreate};
use rumpnet_netinet::in_cksum::{Checksum, in_cksum};
use std::net::Ipv4Addr;
use std::sync::Mutex;
use wire::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Wire, addr, ethernet};

const FRAMES: usize = 30_000;

/// The counts of buffers are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

fn seed() -> u64 {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    seed.unwrap_or(0x00c0_ffee)
}

fn ip(proto: u8, id: u16, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(OUR_MAC, PEER_MAC, 0x0800);
    let total = 20 + payload.len() as u16;
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend(id.to_be_bytes());
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, proto, 0, 0]);
    frame.extend(PEER_IP.octets());
    frame.extend(OUR_IP.octets());
    frame.extend(payload);
    frame
}

/// One well-formed frame of each kind.
fn valid(random: &mut Random) -> Vec<u8> {
    let len = random.below(1400);
    let data = random.bytes(len);
    let id = random.next() as u16 & 0xf;
    let kind = random.below(9);
    match kind {
        0 => {
            let mut frame = ethernet([0xff; 6], PEER_MAC, 0x0806);
            frame.extend([0, 1, 8, 0, 6, 4, 0, 1 + random.below(2) as u8]);
            frame.extend(PEER_MAC);
            frame.extend(PEER_IP.octets());
            frame.extend([0; 6]);
            frame.extend(OUR_IP.octets());
            frame
        }
        1 => {
            let mut echo = vec![8, 0, 0, 0, 0, 1, 0, 2];
            echo.extend(&data);
            ip(1, id, 0, &echo)
        }
        2 => {
            // An error about a packet of ours.
            let mut error = vec![3, random.below(16) as u8, 0, 0, 0, 0, 5, 0xdc];
            error.extend([
                0x45,
                0,
                0,
                40,
                0,
                1,
                0,
                0,
                64,
                [6, 17][random.below(2)],
                0,
                0,
            ]);
            error.extend(OUR_IP.octets());
            error.extend(PEER_IP.octets());
            error.extend([0x13, 0x88, 0, 7, 0, 20, 0, 0]);
            ip(1, id, 0, &error)
        }
        3 | 4 => {
            let port = [5000u16, 4999][random.below(2)];
            let mut udp = vec![0, 7];
            udp.extend(port.to_be_bytes());
            udp.extend((8 + data.len() as u16).to_be_bytes());
            udp.extend([0, 0]);
            udp.extend(&data);
            ip(17, id, 0, &udp)
        }
        5 | 6 => {
            let offset = random.below(40) as u16;
            let more = 0x2000 * random.below(2) as u16;
            let whole = data.len() & !7;
            ip(
                [1, 6, 17, 99][random.below(4)],
                id,
                offset | more,
                &data[..whole.max(8).min(data.len())],
            )
        }
        _ => {
            let mut tcp = vec![0x13, 0x89, 0, 80];
            tcp.extend(random.bytes(8));
            let flags = [2, 0x10, 0x18, 4, random.next() as u8][random.below(5)];
            tcp.extend([0x50 + 0x10 * random.below(3) as u8, flags]);
            tcp.extend([0x20, 0, 0, 0, 0, 0]);
            tcp.extend(&data);
            ip(6, id, 0, &tcp)
        }
    }
}

/// Sets the checksums right, as far as there is a place for them.
fn set_checksums(frame: &mut [u8]) {
    if frame.len() < 34 || frame[12..14] != [8, 0] {
        return;
    }
    let header = usize::from(frame[14] & 0xf) * 4;
    if header < 20 || frame.len() < 14 + header {
        return;
    }
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let end = (14 + total).clamp(14 + header, frame.len());
    let (proto, src, dst) = (frame[23], &frame[26..30], &frame[30..34]);
    let mut sum = Checksum::new();
    let field = match proto {
        1 => 2,
        6 => 16,
        17 => 6,
        _ => usize::MAX,
    };
    if proto != 1 {
        let quad = |b: &[u8]| Ipv4Addr::new(b[0], b[1], b[2], b[3]);
        sum.add_pseudo_header(quad(src), quad(dst), proto, end - 14 - header);
    }
    let payload = &mut frame[14 + header..end];
    if field
        .checked_add(2)
        .is_some_and(|past| past <= payload.len())
    {
        payload[field..field + 2].fill(0);
        sum.add(payload);
        payload[field..field + 2].copy_from_slice(&sum.finish().to_be_bytes());
    }
    frame[24..26].fill(0);
    let sum = in_cksum(&frame[14..14 + header]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

fn mutate(frame: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(4) {
        if frame.is_empty() {
            return;
        }
        // Headers are hit more often than data.
        let place = random.below(frame.len());
        let place = place.min(random.below(64).max(place * random.below(2)));
        match random.below(6) {
            0 => frame[place] = random.next() as u8,
            1 => frame[place] ^= 1 << random.below(8),
            2 => frame.truncate(place),
            3 => {
                let n = random.below(64);
                frame.extend(random.bytes(n));
            }
            4 => frame[place] = [0, 0xff, 0x7f, 0x80][random.below(4)],
            _ => {
                let end = (place + random.below(8)).min(frame.len());
                frame[place..end].fill(0xff);
            }
        }
    }
}

#[test]
fn thirty_thousand_malformed_frames_do_no_harm_and_leave_nothing_behind() {
    let _alone = ALONE.lock();
    let seed = seed();
    println!("SEED={seed}");
    let mut random = Random(seed);
    let wire = Wire::with_caps(IfCaps::IFCAP_CSUM_TX);
    wire.introduce_peer();
    let so = wire.udp_socket();
    so.bind(addr(OUR_IP, 5000)).unwrap();
    let listener = socreate(&wire.net, Domain::AF_INET, SockType::Stream, 0).unwrap();
    listener.bind(addr(OUR_IP, 80)).unwrap();
    listener.listen(8).unwrap();
    listener.set_nonblocking(true);
    let before = (SmallBuffer::in_use(), Cluster::in_use());
    let mut most = 0;
    for n in 0..FRAMES {
        let mut frame = valid(&mut random);
        if random.below(4) != 0 {
            mutate(&mut frame, &mut random);
        }
        if random.below(2) == 0 {
            set_checksums(&mut frame);
        }
        for _ in 0..1 + random.below(2) {
            wire.put(&frame);
        }
        most = most.max(Cluster::in_use() + SmallBuffer::in_use() / 8);
        if n % 64 == 0 {
            // What got through is read and answered, or the buffer would be full of it.
            while so.receive(&mut [0; 64], MsgFlags::empty()) != Err(rumpuser::Errno::EAGAIN) {}
            while let Ok((so, _)) = listener.accept() {
                so.close();
            }
            wire.sent();
        }
    }
    let (delivered, bad) = (&wire.inet.ipstat.delivered, &wire.inet.ipstat.bad);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    assert!(
        delivered.load(relaxed) > 2000,
        "damage does not only show at the door"
    );
    assert!(bad.load(relaxed) > 2000);
    assert!(most < 4096, "{most} clusters at once");
    so.close();
    listener.close();
    drop((so, listener));
    wire.sent();
    drop(wire);
    assert_eq!(
        (SmallBuffer::in_use(), Cluster::in_use()),
        before,
        "SEED={seed}"
    );
}

/// A segment to port 80, its sums right.
fn segment(seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let mut tcp = vec![0x13, 0x88, 0, 80];
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    tcp.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    let mut frame = ip(6, 1, 0, &tcp);
    set_checksums(&mut frame);
    frame
}

#[test]
fn a_closed_connection_with_data_to_deliver_goes_with_its_stack() {
    let _alone = ALONE.lock();
    let wire = Wire::new();
    wire.introduce_peer();
    let before = (SmallBuffer::in_use(), Cluster::in_use());
    let listener = socreate(&wire.net, Domain::AF_INET, SockType::Stream, 0).unwrap();
    listener.bind(addr(OUR_IP, 80)).unwrap();
    listener.listen(1).unwrap();
    wire.put(&segment(1, 0, 2));
    let answer = wire.next_sent().expect("a SYN and ACK").bytes;
    let iss = u32::from_be_bytes(*answer[38..].first_chunk().unwrap());
    wire.put(&segment(2, iss.wrapping_add(1), 16));
    let (so, _) = listener.accept().unwrap();
    so.send(&[7; 3000], None, MsgFlags::empty()).unwrap();
    so.close();
    listener.close();
    let weak = std::sync::Arc::downgrade(&so);
    drop((so, listener));
    assert!(weak.upgrade().is_some(), "there is something to deliver");
    drop(wire);
    assert!(weak.upgrade().is_none());
    assert_eq!((SmallBuffer::in_use(), Cluster::in_use()), before);
}

#[test]
fn a_flood_of_first_fragments_is_bounded_in_memory() {
    let _alone = ALONE.lock();
    let wire = Wire::new();
    wire.introduce_peer();
    let mut random = Random(seed());
    let before = Cluster::in_use() + SmallBuffer::in_use() / 8;
    let data = random.bytes(1480);
    for _ in 0..5000 {
        let id = random.next() as u16;
        let mut frame = ip(17, id, 0x2000 | (random.below(5) as u16 * 185), &data);
        set_checksums(&mut frame);
        wire.put(&frame);
        let held = Cluster::in_use() + SmallBuffer::in_use() / 8 - before;
        assert!(held <= 600, "{held} clusters held by fragments");
    }
}

#[test]
fn answers_to_a_flood_of_packets_are_limited_in_rate() {
    let _alone = ALONE.lock();
    let wire = Wire::new();
    wire.introduce_peer();
    let began = std::time::Instant::now();
    for port in 0..3000u16 {
        let mut udp = vec![0, 7];
        udp.extend((10_000 + port).to_be_bytes());
        udp.extend([0, 8, 0, 0]);
        let mut frame = ip(17, 1, 0, &udp);
        set_checksums(&mut frame);
        wire.put(&frame);
    }
    // So many at most of the seconds that the limit counts by: they do not begin when this does.
    let seconds = began.elapsed().as_secs() as usize + 2;
    let answers = wire.sent().len();
    assert!(answers <= 100 * seconds, "{answers} answers in {seconds} s");
    assert!(answers >= 100);
}
