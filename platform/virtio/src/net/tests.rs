//! The network driver against an honest device, and against ones that lie.

use super::header::{FLAG_DATA_VALID, FLAG_NEEDS_CSUM};
use super::*;
use crate::fake::Seeded;
use crate::fake::memory::FakeDma;
use crate::fake::pci::Fake;
use crate::fake::ring::Given;
use crate::transport::pci::PciTransport;
use crate::transport::{DeviceType, Features};
use std::collections::BTreeMap;

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const RX: usize = 0;
const TX: usize = 1;
const BUFFER: usize = 2048;

fn configuration(mac: [u8; 6], status: u16, mtu: u16) -> Vec<u8> {
    let mut bytes = mac.to_vec();
    bytes.extend(status.to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend(mtu.to_le_bytes());
    bytes
}

/// A driver and its device.
struct Bench {
    fake: Fake,
    dma: &'static FakeDma,
    driver: VirtioNet<PciTransport<Fake>>,
    /// The memory of every buffer ever provided, by token.
    memory: BTreeMap<u64, Vec<u8>>,
}

impl Bench {
    fn try_new(features: u64, config: Vec<u8>) -> Result<Bench, AttachError> {
        let fake = Fake::new(DeviceType::NETWORK, features, &[256, 256, 64], config);
        let dma = FakeDma::leak(1000, false);
        let transport = PciTransport::new(fake.clone()).unwrap();
        let driver = VirtioNet::attach(transport, dma, NetConfig::DEFAULT)?;
        Ok(Bench {
            fake,
            dma,
            driver,
            memory: BTreeMap::new(),
        })
    }

    fn new(features: NetFeatures) -> Bench {
        let general = Features::EVENT_IDX | Features::INDIRECT_DESC;
        let config = configuration(MAC, 1, 1500);
        Bench::try_new(features.bits() | general.bits(), config).unwrap()
    }

    fn full() -> Bench {
        Bench::new(NetFeatures::all())
    }

    fn provide(&mut self, token: u64, len: usize) -> Result<(), RequestError> {
        let mut memory = vec![0xee; len];
        let segment = segment(&mut memory);
        self.memory.insert(token, memory);
        // SAFETY: `memory` keeps the buffer, and nobody looks before the token is back.
        unsafe { self.driver.provide(segment, token) }
    }

    fn transmit(
        &mut self,
        frame: &mut [u8],
        checksum: Option<TxChecksum>,
        token: u64,
    ) -> Result<(), RequestError> {
        let (head, tail) = frame.split_at_mut(ETHER_HEADER.min(frame.len()));
        let segments = [segment(head), segment(tail)];
        let offload = TxOffload {
            checksum,
            cut: None,
        };
        // SAFETY: the tests keep the frame until the token is back or the device does not look any more.
        unsafe { self.driver.transmit(segments.into_iter(), offload, token) }
    }

    /// The next chain, if the device was told of it, or still looks.
    fn pop(&mut self, queue: usize) -> Option<Given> {
        let mut model = self.fake.model_mut();
        let ring = &mut model.rings[queue];
        if !ring.notified {
            return None;
        }
        let given = ring.pop();
        if given.is_none() && !ring.sleep() {
            ring.notified = true;
        }
        given
    }

    /// Delivers a packet in as many buffers as it takes; false: there were not enough.
    fn deliver(&mut self, header: [u8; HEADER_BYTES], frame: &[u8]) -> bool {
        let mut bytes = header.to_vec();
        bytes.extend(frame);
        let mut used = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let Some(given) = self.pop(RX) else {
                return false;
            };
            let (now, later) = rest.split_at(rest.len().min(given.writable() as usize));
            given.write(0, now);
            used.push((given.head, now.len() as u32));
            rest = later;
        }
        let mut model = self.fake.model_mut();
        for (head, len) in used {
            model.complete(RX, head, len);
        }
        true
    }

    /// Takes a whole packet: its bytes and whether its checksum is good.
    fn receive(&mut self) -> Option<(Vec<u8>, bool)> {
        let mut frame = Vec::new();
        let mut more = false;
        loop {
            let Some(part) = self.driver.receive() else {
                assert!(!more, "a part was promised");
                return None;
            };
            more = part.more;
            let memory = self.memory.remove(&part.token).unwrap();
            frame.extend(&memory[part.offset..part.offset + part.len]);
            if !part.more {
                return Some((frame, part.checksum_good));
            }
        }
    }
}

fn segment(bytes: &mut [u8]) -> Segment {
    Segment {
        base: NonNull::new(bytes.as_mut_ptr()).unwrap(),
        len: bytes.len(),
    }
}

/// A header of a received packet.
fn header(flags: u8, gso: u8, start: u16, offset: u16, buffers: u16) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    (bytes[0], bytes[1]) = (flags, gso);
    bytes[6..8].copy_from_slice(&start.to_le_bytes());
    bytes[8..10].copy_from_slice(&offset.to_le_bytes());
    bytes[10..12].copy_from_slice(&buffers.to_le_bytes());
    bytes
}

#[test]
fn a_frame_is_received_where_the_buffer_is() {
    let mut bench = Bench::full();
    bench.provide(5, BUFFER).unwrap();
    bench.driver.kick();
    assert_eq!(bench.driver.receive(), None);
    assert!(bench.deliver(header(0, 0, 0, 0, 1), &[7; 60]));
    assert_eq!(bench.fake.model().interrupts, [0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bench.receive(), Some((vec![7; 60], false)));
    assert_eq!(bench.driver.receive(), None);
}

#[test]
fn a_packet_over_several_buffers_comes_in_order() {
    let mut bench = Bench::full();
    for token in 0..8 {
        bench.provide(token, 256).unwrap();
    }
    bench.driver.kick();
    let frame: Vec<u8> = (0..1000).map(|at| (at % 253) as u8).collect();
    assert!(bench.deliver(header(FLAG_DATA_VALID, 0, 0, 0, 4), &frame));
    assert!(bench.deliver(header(0, 0, 0, 0, 1), &[1; 60]));
    assert_eq!(bench.receive(), Some((frame, true)));
    assert_eq!(bench.receive(), Some((vec![1; 60], false)));
}

#[test]
fn a_checksum_is_good_only_if_that_was_agreed_on_and_can_be() {
    let flags = [0, FLAG_DATA_VALID, FLAG_NEEDS_CSUM, FLAG_NEEDS_CSUM];
    let starts = [0, 0, 34, 50];
    let agreed = [Some(false), Some(true), Some(true), None];
    let not = [Some(false); 4];
    for (features, expected) in [(NetFeatures::GUEST_CSUM, agreed), (NetFeatures::MAC, not)] {
        let mut bench = Bench::new(features);
        for ((flags, start), expected) in flags.into_iter().zip(starts).zip(expected) {
            bench.provide(0, BUFFER).unwrap();
            bench.driver.kick();
            bench.deliver(header(flags, 0, start, 16, 1), &[3; 60]);
            let received = bench.receive().unwrap();
            assert_eq!(received.1, expected.unwrap_or(false));
            assert_eq!(received.0.is_empty(), expected.is_none());
        }
    }
}

#[test]
fn a_packet_of_a_kind_not_agreed_on_is_ignored_and_its_buffers_come_back() {
    let mut bench = Bench::full();
    for token in 0..4 {
        bench.provide(token, 256).unwrap();
    }
    bench.driver.kick();
    bench.deliver(header(FLAG_NEEDS_CSUM, 1, 34, 16, 3), &[3; 700]);
    assert_eq!(bench.receive(), Some((vec![], false)));
    let given = bench.pop(RX).unwrap();
    bench.fake.model_mut().complete(RX, given.head, 11);
    assert_eq!(bench.receive(), Some((vec![], false)));
    assert!(bench.memory.is_empty());
    assert_eq!(bench.driver.device().fault(), None);
}

#[test]
fn a_packet_over_no_buffers_or_too_many_breaks_the_device() {
    for (claimed, used) in [(0, 2), (3, 2), (0xffff, 2)] {
        let mut bench = Bench::full();
        for token in 0..8 {
            bench.provide(token, 256).unwrap();
        }
        bench.driver.kick();
        bench.deliver(header(0, 0, 0, 0, claimed), &[3; 300]);
        let mut parts = 0;
        while let Some(part) = bench.driver.receive() {
            assert_eq!((part.len, part.more), (0, false));
            parts += 1;
        }
        assert_eq!(parts, 8);
        let fault = Fault::BufferCount { claimed, used };
        assert_eq!(bench.driver.device().fault(), Some(fault));
        assert!(bench.fake.is_stopped());
        assert_eq!(bench.provide(9, BUFFER), Err(RequestError::Broken));
    }
}

#[test]
fn a_device_that_takes_parts_back_breaks() {
    let mut bench = Bench::full();
    for token in 0..4 {
        bench.provide(token, 256).unwrap();
    }
    bench.driver.kick();
    bench.deliver(header(0, 0, 0, 0, 3), &[3; 700]);
    assert!(bench.driver.receive().unwrap().more);
    // Two back.
    bench.fake.model_mut().rings[RX].advance(0xfffe);
    let rest: Vec<RxPart> = std::iter::from_fn(|| bench.driver.receive()).collect();
    assert_eq!(rest.len(), 3);
    assert!(rest.iter().all(|part| part.len == 0 && !part.more));
    let fault = Fault::BufferCount {
        claimed: 2,
        used: 0,
    };
    assert_eq!(bench.driver.device().fault(), Some(fault));
}

#[test]
fn without_mergeable_buffers_a_buffer_holds_a_whole_packet() {
    let mut bench = Bench::new(NetFeatures::MAC);
    assert_eq!(bench.driver.info().rx_buffer_bytes, 1530);
    assert_eq!(bench.provide(0, 1529), Err(RequestError::Invalid));
    bench.provide(0, 1530).unwrap();
    bench.driver.kick();
    // num_buffers means nothing then.
    bench.deliver(header(0, 0, 0, 0, 700), &[9; 1514]);
    assert_eq!(bench.receive(), Some((vec![9; 1514], false)));
}

#[test]
fn a_frame_is_sent_with_its_header() {
    let mut bench = Bench::full();
    let mut frame: Vec<u8> = (0..100).collect();
    let checksum = TxChecksum {
        start: 34,
        offset: 16,
    };
    bench.transmit(&mut frame, Some(checksum), 77).unwrap();
    bench.driver.kick();
    let given = bench.pop(TX).unwrap();
    let sent = given.readable();
    assert_eq!(sent[..12], header(1, 0, 34, 16, 0));
    assert_eq!(sent[12..], frame);
    assert_eq!(bench.driver.reap_transmitted(), None);
    bench.fake.model_mut().complete(TX, given.head, 0);
    assert_eq!(bench.driver.reap_transmitted(), Some(77));
}

#[test]
fn frames_that_cannot_be_are_refused() {
    let mut bench = Bench::full();
    let invalid = Err(RequestError::Invalid);
    assert_eq!(bench.transmit(&mut [0; 13], None, 0), invalid);
    assert_eq!(bench.transmit(&mut [0; 1519], None, 0), invalid);
    let checksum = |start, offset| Some(TxChecksum { start, offset });
    assert_eq!(bench.transmit(&mut [0; 60], checksum(50, 9), 0), invalid);
    let far = checksum(0xffff, 0xffff);
    assert_eq!(bench.transmit(&mut [0; 60], far, 0), invalid);
    let mut byte = [0];
    let many = std::iter::repeat_n(segment(&mut byte), 33);
    // SAFETY: it is refused.
    let sent = unsafe { bench.driver.transmit(many, TxOffload::default(), 0) };
    assert_eq!(sent, invalid);
    let mut bench = Bench::new(NetFeatures::MAC);
    assert_eq!(bench.transmit(&mut [0; 60], checksum(34, 16), 0), invalid);
}

#[test]
fn a_long_segment_is_cut_by_the_device_if_it_can() {
    let offload = |start, payload_bytes, header_bytes| TxOffload {
        checksum: Some(TxChecksum { start, offset: 16 }),
        cut: Some(TxCut {
            payload_bytes,
            header_bytes,
        }),
    };
    let mut frame = vec![0; 40_000];
    frame[12..14].copy_from_slice(&ETHER_TYPE_IPV4);
    let mut send = |features, len: usize, offload| {
        let mut bench = Bench::new(features);
        let segments = [segment(&mut frame[..len])];
        // SAFETY: the frame stays until the device is dropped, which is at the end of this.
        let sent = unsafe { bench.driver.transmit(segments.into_iter(), offload, 1) };
        bench.driver.kick();
        sent.map(|()| bench.pop(TX).unwrap().readable())
    };
    let both = NetFeatures::CSUM | NetFeatures::HOST_TSO4;
    let sent = send(both, 40_000, offload(34, 1448, 66)).unwrap();
    assert_eq!(sent[..12], [1, 1, 66, 0, 0xa8, 0x05, 34, 0, 16, 0, 0, 0]);
    assert_eq!(sent.len(), 40_012);
    let invalid = Err(RequestError::Invalid);
    let features = NetFeatures::HOST_TSO4 | NetFeatures::HOST_TSO6;
    assert_eq!(send(features, 4000, offload(34, 1448, 66)), invalid);
    let features = NetFeatures::CSUM | NetFeatures::HOST_TSO6;
    assert_eq!(send(features, 4000, offload(34, 1448, 66)), invalid);
    assert_eq!(send(both, 4000, offload(34, 0, 66)), invalid);
    assert_eq!(send(both, 4000, offload(34, 1501, 66)), invalid);
    assert_eq!(send(both, 4000, offload(34, 1448, 51)), invalid);
    assert_eq!(send(both, 4000, offload(34, 1448, 4001)), invalid);
    let no_checksum = TxOffload {
        checksum: None,
        ..offload(34, 1448, 66)
    };
    assert_eq!(send(both, 4000, no_checksum), invalid);
}

#[test]
fn sent_packets_interrupt_only_when_somebody_waits_for_room() {
    let mut bench = Bench::full();
    let mut frame = [0; 60];
    for token in 0..64 {
        bench.transmit(&mut frame, None, token).unwrap();
    }
    assert_eq!(
        bench.transmit(&mut frame, None, 64),
        Err(RequestError::Full)
    );
    bench.driver.kick();
    assert_eq!(bench.fake.model().notifications, 1);
    let sent: Vec<Given> = std::iter::from_fn(|| bench.pop(TX)).collect();
    for given in &sent[..20] {
        bench.fake.model_mut().complete(TX, given.head, 0);
    }
    assert_eq!(bench.fake.model().interrupts[2], 0);
    assert!(bench.driver.want_transmitted());
    for given in &sent[20..] {
        bench.fake.model_mut().complete(TX, given.head, 0);
    }
    assert_eq!(bench.fake.model().interrupts[2], 1);
    assert!(!bench.driver.want_transmitted());
    let tokens: Vec<u64> = std::iter::from_fn(|| bench.driver.reap_transmitted()).collect();
    assert_eq!(tokens, (0..64).collect::<Vec<_>>());
}

#[test]
fn the_link_follows_the_configuration() {
    let mut bench = Bench::full();
    assert!(bench.driver.link_up());
    bench.fake.model_mut().config[6] = 0;
    bench.driver.configuration_changed();
    assert!(!bench.driver.link_up());
    bench.fake.model_mut().config[6] = 1;
    bench.fake.model_mut().status |= 64;
    bench.driver.configuration_changed();
    assert!(!bench.driver.link_up());
    assert_eq!(bench.driver.device().fault(), Some(Fault::NeedsReset));
}

#[test]
fn configurations_that_make_no_sense_are_refused_or_ignored() {
    let features = NetFeatures::all().bits();
    let small = Bench::try_new(features, configuration(MAC, 1, 67));
    let fault = Fault::Configuration { field: "mtu" };
    assert_eq!(small.err(), Some(fault.into()));
    let short = Bench::try_new(features, vec![2; 5]);
    let fault = Fault::Configuration { field: "mac" };
    assert_eq!(short.err(), Some(fault.into()));
    for mac in [[0; 6], [1, 2, 3, 4, 5, 6], [0xff; 6]] {
        let bench = Bench::try_new(features, configuration(mac, 1, 1500)).unwrap();
        assert_eq!(bench.driver.info().mac, None);
    }
}

/// Random traffic; a lying device now and then says what is not so.
fn session(seed: u64, lying: bool) {
    let mut random = Seeded(seed);
    let mut bench = Bench::new(NetFeatures::from_bits_truncate(random.next()));
    let info = *bench.driver.info();
    let mut provided = 0u64;
    let mut expected = std::collections::VecDeque::new();
    let mut frames = BTreeMap::new();
    for step in 0..200 {
        while random.once_in(2) {
            let len = info.rx_buffer_bytes + random.below(500) as usize;
            let result = bench.provide(provided, len);
            if result.is_err() {
                bench.memory.remove(&provided);
            }
            provided += 1;
        }
        let mut frame = vec![step as u8; 14 + random.below(1500) as usize];
        if bench.transmit(&mut frame, None, step).is_ok() {
            frames.insert(step, frame);
        }
        if random.once_in(2) {
            bench.driver.kick();
        }
        if bench.driver.device().fault().is_some() {
            break;
        }
        while let Some(given) = bench.pop(TX) {
            assert!(given.readable().len() >= 26);
            bench.fake.model_mut().complete(TX, given.head, 0);
        }
        let frame = vec![random.next() as u8; 14 + random.below(1500) as usize];
        if lying && random.once_in(20) {
            lie(&mut bench, &mut random);
        } else if enough(&mut bench, frame.len(), info.rx_scatter) {
            let buffers = buffers_for(&bench, frame.len() + HEADER_BYTES);
            if bench.deliver(header(0, 0, 0, 0, buffers), &frame) {
                expected.push_back(frame);
            }
        }
        while random.once_in(2) {
            let Some((frame, _)) = bench.receive() else {
                break;
            };
            if !lying {
                assert_eq!(Some(frame), expected.pop_front(), "seed {seed}");
            }
        }
        while let Some(token) = bench.driver.reap_transmitted() {
            assert!(frames.remove(&token).is_some(), "seed {seed}");
        }
    }
    if bench.driver.device().fault().is_some() {
        while bench
            .driver
            .receive()
            .map(|part| bench.memory.remove(&part.token))
            .is_some()
        {}
        while let Some(token) = bench.driver.reap_transmitted() {
            frames.remove(&token);
        }
        assert!(bench.memory.is_empty() && frames.is_empty(), "seed {seed}");
        assert!(bench.fake.is_stopped(), "seed {seed}");
        assert!(lying, "seed {seed}");
    }
    let dma = bench.dma;
    drop(bench.driver);
    assert_eq!(dma.live(), 0, "seed {seed}");
}

/// Whether the device has buffers for a frame of `len` bytes: all it popped is put into one packet, so
/// it looks at how many are there before.
fn enough(bench: &mut Bench, len: usize, scatter: bool) -> bool {
    let model = bench.fake.model();
    let waiting = model.rings[RX].waiting();
    let least = if scatter { RX_BUFFER_PART } else { 1530 };
    model.rings[RX].notified && usize::from(waiting) > (len + HEADER_BYTES) / least
}

/// How many of the next buffers `len` bytes take.
fn buffers_for(bench: &Bench, len: usize) -> u16 {
    let model = bench.fake.model();
    let mut room = 0;
    let mut count = 0;
    while room < len {
        room += model.rings[RX].peek(count).writable() as usize;
        count += 1;
    }
    count
}

fn lie(bench: &mut Bench, random: &mut Seeded) {
    let noise = random.next();
    let queue = random.below(2) as usize;
    if random.once_in(2) && random.once_in(2) {
        let mut model = bench.fake.model_mut();
        if random.once_in(2) {
            model.rings[queue].push_anything(noise as u32, 0);
        } else {
            model.rings[queue].advance(noise as u16);
        }
        return;
    }
    let Some(given) = bench.pop(RX) else { return };
    let bytes: Vec<u8> = (0..12)
        .map(|_| (random.next() & random.next()) as u8)
        .collect();
    given.write(0, &bytes);
    let len = random.below(u64::from(given.writable()) + 10) as u32;
    bench.fake.model_mut().complete(RX, given.head, len);
}

#[test]
fn random_traffic_arrives_in_order_and_whole() {
    for seed in 0..500 {
        session(seed, false);
    }
}

#[test]
fn a_card_that_lies_at_random_loses_nothing_but_itself() {
    for seed in 0..3000 {
        session(seed, true);
    }
}
