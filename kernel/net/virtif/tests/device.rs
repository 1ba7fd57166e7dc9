//! The interface over a device that is full, scattered, offloading or short of memory.
//!
//! The device is this test's own, and unsafe as each is: it writes to receive buffers between `provide` and
//! `receive` alone, inside their lengths, and reads segments inside `transmit` alone.

use rumpkern::uvm::{self, Alloc, Frame};
use rumpkern::{Config, Kernel};
use rumpnet::ifnet::Ifnet;
use rumpnet::mbuf::{Mbuf, MbufFlags, TxChecksum};
use rumpnet::net::{Net, NetInput};
use rumpuser::{
    Errno, PacketDevice, PacketFeatures, PacketInfo, RxBuffer, RxChecksum, RxPart, ThreadId,
    TxOffload, TxPacket,
};
use rumpuser_hosted::Host;
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ETHERTYPE: u16 = 0x9999;

#[derive(Default)]
struct State {
    buffers: VecDeque<RxBuffer>,
    received: VecDeque<RxPart>,
    in_flight: VecDeque<u64>,
    sent: Vec<(Vec<u8>, TxOffload, usize)>,
    done: VecDeque<u64>,
    kicks: usize,
    full: bool,
    listener: Option<ThreadId>,
}

/// A device that does what a test tells it.
struct Fake {
    info: PacketInfo,
    state: Mutex<State>,
}

impl Fake {
    fn new(features: PacketFeatures) -> &'static Fake {
        let info = PacketInfo {
            parent: "fake0",
            mac: MAC,
            mtu: 1500,
            features,
            max_tx_segments: 4,
            rx_depth: 32,
            tx_depth: 8,
            rx_buffer_bytes: 1526,
            rx_headroom: 12,
        };
        Box::leak(Box::new(Fake {
            info,
            state: Mutex::default(),
        }))
    }

    fn wake(&self) {
        let listener = self.state.lock().unwrap().listener;
        if let Some(thread) = listener {
            rumpuser::host().threads().unpark(thread);
        }
    }

    /// Receives a packet in parts. Answers false if there are too few buffers.
    fn deliver(&self, parts: &[&[u8]], checksum: RxChecksum) -> bool {
        {
            let mut state = self.state.lock().unwrap();
            if state.buffers.len() < parts.len() {
                return false;
            }
            for (n, part) in parts.iter().enumerate() {
                let buffer = state.buffers.pop_front().unwrap();
                let offset = if n == 0 { 12 } else { 0 };
                assert!(offset + part.len() <= buffer.memory.len);
                let to = buffer.memory.base.as_ptr();
                // SAFETY: the offset lies inside the buffer, as was just checked.
                let to = unsafe { to.add(offset) };
                // SAFETY: `provide` promised that the memory stays and is nobody else's until the token
                // is received; the length lies inside.
                unsafe { to.copy_from(part.as_ptr(), part.len()) };
                state.received.push_back(RxPart {
                    token: buffer.token,
                    offset,
                    len: part.len(),
                    more: n + 1 < parts.len(),
                    checksum,
                });
            }
        }
        self.wake();
        true
    }

    /// Has sent everything that is in flight.
    fn complete(&self) {
        {
            let mut state = self.state.lock().unwrap();
            state.full = false;
            let done = std::mem::take(&mut state.in_flight);
            state.done.extend(done);
        }
        self.wake();
    }
}

impl PacketDevice for Fake {
    fn info(&self) -> &PacketInfo {
        &self.info
    }

    fn link_up(&self) -> bool {
        true
    }

    unsafe fn provide(&self, buffer: &RxBuffer) -> Result<(), Errno> {
        let mut state = self.state.lock().unwrap();
        if state.buffers.len() + state.received.len() >= self.info.rx_depth {
            return Err(Errno::EAGAIN);
        }
        state.buffers.push_back(*buffer);
        Ok(())
    }

    fn receive(&self) -> Option<RxPart> {
        self.state.lock().unwrap().received.pop_front()
    }

    unsafe fn transmit(&self, packet: &TxPacket<'_>) -> Result<(), Errno> {
        let mut state = self.state.lock().unwrap();
        if state.in_flight.len() >= self.info.tx_depth {
            state.full = true;
            return Err(Errno::EAGAIN);
        }
        assert!(packet.segments.len() <= self.info.max_tx_segments);
        let mut bytes = Vec::new();
        for segment in packet.segments {
            // SAFETY: the caller vouches for every segment until the token is reaped.
            let part = unsafe { std::slice::from_raw_parts(segment.base.as_ptr(), segment.len) };
            bytes.extend_from_slice(part);
        }
        state.in_flight.push_back(packet.token);
        state
            .sent
            .push((bytes, packet.offload, packet.segments.len()));
        Ok(())
    }

    fn kick(&self) {
        self.state.lock().unwrap().kicks += 1;
    }

    fn reap_transmitted(&self) -> Option<u64> {
        self.state.lock().unwrap().done.pop_front()
    }

    fn listen(&self, thread: ThreadId) {
        self.state.lock().unwrap().listener = Some(thread);
    }
}

/// Keeps the packets that came up, and their storage.
#[derive(Default)]
struct Catcher {
    caught: Mutex<Vec<(Vec<u8>, MbufFlags)>>,
    kept: Mutex<Vec<Mbuf>>,
}

impl NetInput for Catcher {
    fn input(&self, _: &Net, _: &Arc<Ifnet>, packet: Mbuf) {
        let mut bytes = vec![0; packet.len()];
        packet.copy_out(0, &mut bytes).unwrap();
        let flags = packet.pkthdr.flags;
        self.kept.lock().unwrap().push(packet);
        self.caught.lock().unwrap().push((bytes, flags));
    }
}

/// One of the tests takes all the memory of the process: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

struct Bench {
    _alone: MutexGuard<'static, ()>,
    kernel: Arc<Kernel>,
    device: &'static Fake,
    ifp: Arc<Ifnet>,
    catcher: Arc<Catcher>,
}

impl Bench {
    fn new(features: PacketFeatures) -> Bench {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Host::install_for_tests();
        let kernel = Kernel::boot(Config::default(), &[]).unwrap();
        let net = Arc::new(Net::new());
        let catcher = Arc::new(Catcher::default());
        net.register_input(ETHERTYPE, catcher.clone()).unwrap();
        let device = Fake::new(features);
        let ifp = rumpnet_virtif::attach(&kernel, &net, 0, device).unwrap();
        let bench = Bench {
            _alone: alone,
            kernel,
            device,
            ifp,
            catcher,
        };
        bench.wait("the ring is full", |bench| {
            let state = bench.device.state.lock().unwrap();
            state.buffers.len() == 32 && state.listener.is_some()
        });
        bench
    }

    fn wait(&self, what: &str, done: impl Fn(&Bench) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !done(self) {
            assert!(Instant::now() < deadline, "in vain: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn caught(&self) -> usize {
        self.catcher.caught.lock().unwrap().len()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.kernel.shutdown();
    }
}

fn frame(len: usize, fill: u8) -> Vec<u8> {
    let mut frame = Vec::from(MAC);
    frame.extend([2, 0, 0, 0, 0, 2]);
    frame.extend(ETHERTYPE.to_be_bytes());
    frame.resize(14 + len, fill);
    frame
}

#[test]
fn packets_come_up_whole_from_one_part_or_several() {
    let bench = Bench::new(PacketFeatures::RX_SCATTER);
    let long = frame(1500, 7);
    for n in 0..100 {
        let short = frame(20, n);
        bench.wait("a buffer", |b| {
            b.device.deliver(&[&short], RxChecksum::Unknown)
        });
        let (a, b) = long.split_at(700);
        bench.wait("two buffers", |bench| {
            bench.device.deliver(&[a, b], RxChecksum::Good)
        });
    }
    bench.wait("all of them", |b| b.caught() == 200);
    let caught = bench.catcher.caught.lock().unwrap();
    for (n, pair) in caught.chunks(2).enumerate() {
        assert_eq!(pair[0], (vec![n as u8; 20], MbufFlags::empty()));
        assert_eq!(pair[1], (vec![7; 1500], MbufFlags::M_CSUM_OK));
    }
}

#[test]
fn without_memory_packets_are_dropped_and_the_ring_stays_full() {
    let bench = Bench::new(PacketFeatures::NONE);
    let long = frame(1500, 7);
    let mut hoard = Vec::new();
    while let Ok(page) = Frame::alloc(Alloc::NoWait) {
        hoard.push(page);
    }
    // What slabs still have free.
    let mut clusters = Vec::new();
    while let Ok(cluster) = uvm::Cluster::alloc(Alloc::NoWait) {
        clusters.push(cluster);
    }
    for _ in 0..100 {
        bench.wait("a buffer", |b| {
            b.device.deliver(&[&long], RxChecksum::Unknown)
        });
    }
    let drops = &bench.ifp.counters.iqdrops;
    bench.wait("drops", |b| {
        drops.load(Relaxed) as usize + b.caught() == 100
    });
    assert!(drops.load(Relaxed) >= 90, "there was no memory for so many");
    bench.wait("a full ring", |b| {
        b.device.state.lock().unwrap().buffers.len() == 32
    });
    drop((hoard, clusters));
    let before = bench.caught();
    bench.wait("a buffer", |b| {
        b.device.deliver(&[&long], RxChecksum::Unknown)
    });
    bench.wait("a packet, now that there is memory", |b| {
        b.caught() == before + 1
    });
}

#[test]
fn what_the_device_has_no_room_for_waits_in_order_and_then_is_dropped() {
    let bench = Bench::new(PacketFeatures::NONE);
    let mut accepted = 0u32;
    let refused = loop {
        let mut m = Mbuf::from_slice(&accepted.to_be_bytes()).unwrap();
        m.prepend_slice(&frame(0, 0)).unwrap();
        match bench.ifp.transmit(m) {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 10_000);
    };
    assert_eq!(refused, Errno::ENOBUFS);
    assert_eq!(bench.ifp.counters.oqdrops.load(Relaxed), 1);
    assert!(accepted > 8);
    bench.wait("all sent", |bench| {
        bench.device.complete();
        bench.device.state.lock().unwrap().sent.len() == accepted as usize
    });
    let state = bench.device.state.lock().unwrap();
    for (n, (bytes, ..)) in state.sent.iter().enumerate() {
        assert_eq!(bytes[14..], (n as u32).to_be_bytes());
    }
}

#[test]
fn a_run_of_packets_is_not_told_to_the_device_one_by_one() {
    let bench = Bench::new(PacketFeatures::NONE);
    let kicks = || bench.device.state.lock().unwrap().kicks;
    let before = kicks();
    for n in 0..6 {
        let mut m = Mbuf::from_slice(&frame(20, n)).unwrap();
        if n < 5 {
            m.pkthdr.flags |= MbufFlags::M_MORE;
        }
        bench.ifp.transmit(m).unwrap();
    }
    // At its end; and the thread, which wakes to look after the first, may come by once.
    assert!((1..=2).contains(&(kicks() - before)));
}

#[test]
fn an_open_checksum_is_left_to_the_device_with_its_place() {
    let bench = Bench::new(PacketFeatures::TX_CHECKSUM | PacketFeatures::TSO4);
    let mut m = Mbuf::from_slice(&frame(100, 1)).unwrap();
    m.pkthdr.checksum = Some(TxChecksum {
        field: 16,
        zero_is_ones: false,
    });
    m.pkthdr.network_header = 20;
    m.pkthdr.transport_header = 32;
    m.pkthdr.segment_bytes = 1448;
    bench.ifp.transmit(m).unwrap();
    let state = bench.device.state.lock().unwrap();
    let offload = TxOffload {
        checksum: Some((34, 16)),
        segment_bytes: 1448,
        header_bytes: 66,
    };
    assert_eq!(state.sent[0].1, offload);
}

#[test]
fn a_packet_in_too_many_pieces_is_sent_in_fewer() {
    let bench = Bench::new(PacketFeatures::NONE);
    let mut m = Mbuf::new();
    let page = Frame::alloc_zeroed(Alloc::NoWait).unwrap();
    for n in 0..10 {
        m.append(Mbuf::from_frame(page.clone(), 200 * n, 100).unwrap())
            .unwrap();
    }
    m.prepend_slice(&frame(0, 0)).unwrap();
    bench.ifp.transmit(m).unwrap();
    let state = bench.device.state.lock().unwrap();
    let (bytes, _, segments) = &state.sent[0];
    assert_eq!((bytes.len(), *segments), (1014, 2));
}

#[test]
fn storage_is_let_go_of_soon_after_it_was_sent() {
    let bench = Bench::new(PacketFeatures::NONE);
    let page = Frame::alloc_zeroed(Alloc::NoWait).unwrap();
    let mut m = Mbuf::from_frame(page.clone(), 0, 1000).unwrap();
    m.prepend_slice(&frame(0, 0)).unwrap();
    bench.ifp.transmit(m).unwrap();
    assert!(!page.is_unique());
    // The device does not say so by itself: it was not full.
    {
        let mut state = bench.device.state.lock().unwrap();
        let done = std::mem::take(&mut state.in_flight);
        state.done.extend(done);
    }
    bench.wait("the page is ours again", |_| page.is_unique());
}
