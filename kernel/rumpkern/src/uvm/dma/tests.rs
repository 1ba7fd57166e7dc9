use super::*;
use crate::locks::{Condvar, Mutex};
use crate::testing::boot;
use crate::uvm::cluster::SmallBuffer;
use crate::uvm::{Alloc, Cluster, Frame};
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use rumpuser::{Errno, PAGE_SIZE};
use rumpuser_hosted::{RamDisk, Switch};
use std::sync::Arc;

fn filled(byte: u8) -> Frame {
    let mut frame = Frame::alloc(Alloc::NoWait).expect("a page");
    frame.get_mut().expect("unique").fill(byte);
    frame
}

#[test]
fn what_is_written_is_read_back_in_parts_and_runs() {
    let kernel = boot();
    let queue = BlockQueue::attach(&kernel, RamDisk::zeroed(1024)).expect("attached");
    let frames: Vec<_> = (1..=8).map(|n| IoFrame::whole(filled(n))).collect();
    let frames = queue.write_blocking(16, frames).expect("written");
    assert_eq!(frames.len(), 8);
    drop(frames);
    let read = queue
        .read_frames(16, 8 * PAGE_SIZE, Alloc::NoWait)
        .expect("read");
    for (frame, byte) in read.iter().zip(1..) {
        assert!(frame.as_bytes().iter().all(|b| *b == byte));
    }
    let part = IoFrame {
        frame: filled(0xEE),
        offset: 512,
        len: 1024,
    };
    let part = queue
        .read_blocking(16 + 8, vec![part])
        .expect("read")
        .remove(0);
    let bytes = part.frame.as_bytes();
    assert!(
        bytes[..512]
            .iter()
            .chain(&bytes[1536..])
            .all(|b| *b == 0xEE)
    );
    assert!(bytes[512..1536].iter().all(|b| *b == 2));
    queue.flush_blocking().expect("flushed");
    assert_eq!(queue.stats().reads.get(), 2);
    assert_eq!(queue.stats().written_bytes.get(), 8 * PAGE_SIZE as u64);
    kernel.shutdown();
}

#[test]
fn wrong_requests_are_refused_and_given_back() {
    let kernel = boot();
    let queue = BlockQueue::attach(&kernel, RamDisk::zeroed(64)).expect("attached");
    let shared = filled(0);
    let other = shared.clone();
    let refused = |op, sector, offset, len, frame: Frame| {
        let part = IoFrame { frame, offset, len };
        let bio = Bio {
            op,
            sector,
            frames: vec![part],
            done: Box::new(|_, _| panic!("not to be called")),
        };
        let (errno, bio) = queue.start(bio).expect_err("refused");
        assert_eq!(bio.frames.len(), 1);
        errno
    };
    let page = || filled(0);
    assert_eq!(refused(BioOp::Read, 0, 0, 4096, shared), Errno::EINVAL);
    assert_eq!(refused(BioOp::Read, 57, 0, 4096, page()), Errno::EINVAL);
    assert_eq!(
        refused(BioOp::Read, u64::MAX, 0, 512, page()),
        Errno::EINVAL
    );
    assert_eq!(refused(BioOp::Write, 0, 3584, 1024, page()), Errno::EINVAL);
    assert_eq!(refused(BioOp::Write, 0, 0, 100, page()), Errno::EINVAL);
    assert_eq!(refused(BioOp::Write, 0, 0, 0, page()), Errno::EINVAL);
    assert_eq!(
        refused(BioOp::Write, 0, usize::MAX, 512, page()),
        Errno::EINVAL
    );
    assert_eq!(refused(BioOp::Flush, 0, 0, 512, page()), Errno::EINVAL);
    drop(other);
    kernel.shutdown();
}

#[test]
fn more_requests_than_the_device_takes_all_complete() {
    let kernel = boot();
    let disk = RamDisk::zeroed(4096);
    let queue = BlockQueue::attach(&kernel, disk).expect("attached");
    let depth = queue.info().queue_depth;
    let done = Arc::new((Mutex::new(0), Condvar::new()));
    let total = depth * 3 + 5;
    disk.hold();
    for number in 0..total {
        let done = done.clone();
        let bio = Bio {
            op: BioOp::Write,
            sector: (number % 512) as u64 * 8,
            frames: vec![IoFrame::whole(filled(number as u8))],
            done: Box::new(move |frames, result| {
                assert_eq!((frames.len(), result), (1, Ok(())));
                *done.0.lock() += 1;
                done.1.notify_one();
            }),
        };
        assert!(queue.start(bio).is_ok());
    }
    assert_eq!(*done.0.lock(), 0);
    disk.release();
    let mut count = done.0.lock();
    while *count < total {
        count = done.1.wait(count);
    }
    drop(count);
    kernel.shutdown();
    let refused = queue.read_frames(0, 512, Alloc::NoWait);
    assert_eq!(refused.err(), Some(Errno::ENXIO));
}

#[test]
fn a_frame_being_written_cannot_be_changed_and_can_be_read() {
    let kernel = boot();
    let disk = RamDisk::zeroed(64);
    let queue = BlockQueue::attach(&kernel, disk).expect("attached");
    let mut frame = filled(5);
    disk.hold();
    let result = Arc::new((Mutex::new(None), Condvar::new()));
    let teller = result.clone();
    let bio = Bio {
        op: BioOp::Write,
        sector: 0,
        frames: vec![IoFrame::whole(frame.clone())],
        done: Box::new(move |frames, result| {
            drop(frames);
            *teller.0.lock() = Some(result);
            teller.1.notify_one();
        }),
    };
    assert!(queue.start(bio).is_ok());
    assert!(frame.get_mut().is_none());
    assert_eq!(frame.as_bytes()[0], 5);
    disk.release();
    let mut told = result.0.lock();
    while told.is_none() {
        told = result.1.wait(told);
    }
    assert_eq!(*told, Some(Ok(())));
    drop(told);
    assert!(frame.get_mut().is_some());
    kernel.shutdown();
}

#[test]
fn a_failing_sector_fails_its_request_alone() {
    let kernel = boot();
    let disk = RamDisk::zeroed(64);
    let queue = BlockQueue::attach(&kernel, disk).expect("attached");
    disk.fail_sector(9);
    let failed = queue.read_frames(8, 4096, Alloc::NoWait);
    assert_eq!(failed.err(), Some(Errno::EIO));
    assert!(queue.read_frames(0, 4096, Alloc::NoWait).is_ok());
    assert_eq!(queue.stats().errors.get(), 1);
    kernel.shutdown();
}

fn cluster(bytes: &[u8]) -> Cluster {
    let mut cluster = Cluster::alloc(Alloc::NoWait).expect("a cluster");
    cluster.get_mut().expect("unique")[..bytes.len()].copy_from_slice(bytes);
    cluster
}

const HEADER: [u8; 14] = [
    0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2, 0, 0, 0, 0, 1, 0x88, 0xB5,
];

#[test]
fn packets_cross_a_link_in_pieces() {
    let kernel = boot();
    let switch = Switch::new();
    let sender = PacketQueue::attach(switch.port([2, 0, 0, 0, 0, 1]), 16, 16).expect("attached");
    let receiver = PacketQueue::attach(switch.port([2, 0, 0, 0, 0, 2]), 16, 16).expect("attached");
    for _ in 0..4 {
        assert!(receiver.provide(cluster(&[])).is_ok());
    }
    receiver.listen();
    let frame = filled(7);
    let mut small = SmallBuffer::alloc(Alloc::NoWait).expect("a buffer");
    small.get_mut().expect("unique")[..10].fill(3);
    let mut pieces = vec![
        TxPiece::Cluster {
            cluster: cluster(&HEADER),
            offset: 0,
            len: 14,
        },
        TxPiece::Frame {
            frame: frame.clone(),
            offset: 100,
            len: 50,
        },
        TxPiece::Small {
            buffer: small,
            offset: 2,
            len: 8,
        },
        TxPiece::Static(b"end"),
    ];
    sender
        .transmit(&mut pieces, TxOffload::default())
        .expect("sent");
    assert!(pieces.is_empty());
    sender.kick();
    let mut parts = Vec::new();
    let deadline = crate::time::now() + Duration::from_secs(5);
    while receiver.receive(&mut parts).is_none() {
        assert!(crate::time::now() < deadline, "nothing was received");
        receiver.wait(Some(deadline));
    }
    let received: Vec<u8> = parts
        .iter()
        .flat_map(|part| &part.cluster.as_bytes()[part.offset..part.offset + part.len])
        .copied()
        .collect();
    let mut expected = HEADER.to_vec();
    expected.extend([7; 50]);
    expected.extend([3; 8]);
    expected.extend(b"end");
    assert_eq!(received[..expected.len()], expected);
    while sender.in_flight() > 0 {
        sender.reap();
    }
    assert!(frame.is_unique());
    kernel.shutdown();
}

#[test]
fn wrong_packets_are_refused_and_keep_their_pieces() {
    let kernel = boot();
    let switch = Switch::new();
    let queue = PacketQueue::attach(switch.port([2, 0, 0, 0, 0, 1]), 4, 4).expect("attached");
    let outside = TxPiece::Frame {
        frame: filled(0),
        offset: 4000,
        len: 97,
    };
    let mut none = Vec::new();
    assert_eq!(
        queue.transmit(&mut none, TxOffload::default()),
        Err(Errno::EINVAL)
    );
    for piece in [outside, TxPiece::Static(b"")] {
        let mut pieces = vec![TxPiece::Static(&HEADER), piece];
        assert_eq!(
            queue.transmit(&mut pieces, TxOffload::default()),
            Err(Errno::EINVAL)
        );
        assert_eq!(pieces.len(), 2);
    }
    let mut many = vec![TxPiece::Static(&HEADER); queue.max_pieces() + 1];
    assert_eq!(
        queue.transmit(&mut many, TxOffload::default()),
        Err(Errno::EINVAL)
    );
    let shared = cluster(&[]);
    let other = shared.clone();
    assert_eq!(
        queue.provide(shared).err().map(|e| e.0),
        Some(Errno::EINVAL)
    );
    drop(other);
    let mut provided = 0;
    while queue.provide(cluster(&[])).is_ok() {
        provided += 1;
    }
    assert_eq!(provided, 4);
    kernel.shutdown();
}

/// A device that answers with tokens and ranges of the test's choice.
#[derive(Default)]
struct Liar {
    parts: std::sync::Mutex<Vec<rumpuser::RxPart>>,
    sent: std::sync::Mutex<Vec<u64>>,
    tokens: std::sync::Mutex<Vec<u64>>,
    reaped: AtomicUsize,
}

impl rumpuser::PacketDevice for Liar {
    fn info(&self) -> &PacketInfo {
        static INFO: PacketInfo = PacketInfo {
            parent: "liar0",
            mac: [2; 6],
            mtu: 1500,
            features: PacketFeatures::NONE,
            max_tx_segments: 4,
            rx_depth: 4,
            tx_depth: 4,
            rx_buffer_bytes: 1514,
            rx_headroom: 0,
        };
        &INFO
    }

    fn link_up(&self) -> bool {
        true
    }

    unsafe fn provide(&self, buffer: &rumpuser::RxBuffer) -> Result<(), Errno> {
        self.tokens.lock().expect("ours").push(buffer.token);
        Ok(())
    }

    fn receive(&self) -> Option<rumpuser::RxPart> {
        self.parts.lock().expect("ours").pop()
    }

    unsafe fn transmit(&self, packet: &rumpuser::TxPacket<'_>) -> Result<(), Errno> {
        self.tokens.lock().expect("ours").push(packet.token);
        Ok(())
    }

    fn kick(&self) {}

    fn reap_transmitted(&self) -> Option<u64> {
        self.reaped.fetch_add(1, Ordering::Relaxed);
        self.sent.lock().expect("ours").pop()
    }

    fn listen(&self, _: rumpuser::ThreadId) {}
}

#[test]
fn a_lying_packet_device_is_not_believed() {
    let kernel = boot();
    let liar: &'static Liar = Box::leak(Box::default());
    let queue = PacketQueue::attach(liar, 4, 4).expect("attached");
    assert!(queue.provide(cluster(&[])).is_ok());
    let token = liar.tokens.lock().expect("ours").pop().expect("provided");
    let lie = |token, offset, len| rumpuser::RxPart {
        token,
        offset,
        len,
        more: false,
        checksum: RxChecksum::Good,
    };
    let lies = [
        lie(token + 1, 0, 10),
        lie(token | 1 << 40, 0, 10),
        lie(u64::MAX, 0, 10),
        lie(token, 2000, 100),
        lie(token, usize::MAX, 2),
        lie(token, 0, 10),
    ];
    let mut parts = Vec::new();
    for lie in lies {
        liar.parts.lock().expect("ours").push(lie);
        assert!(queue.receive(&mut parts).is_none());
        assert!(parts.is_empty());
    }
    let mut pieces = vec![TxPiece::Static(&HEADER)];
    queue
        .transmit(&mut pieces, TxOffload::default())
        .expect("sent");
    let token = liar.tokens.lock().expect("ours").pop().expect("sent");
    liar.sent
        .lock()
        .expect("ours")
        .extend([token, token, token + 2, u64::MAX]);
    assert_eq!(queue.reap(), 1);
    assert_eq!(queue.in_flight(), 0);
    kernel.shutdown();
}
