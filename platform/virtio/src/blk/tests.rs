//! The block driver against an honest device, and against ones that lie.

use super::*;
use crate::fake::Seeded;
use crate::fake::memory::FakeDma;
use crate::fake::pci::Fake;
use crate::fake::ring::Given;
use crate::transport::pci::PciTransport;
use crate::transport::{DeviceType, Features};
use std::collections::BTreeMap;

const SECTOR: usize = SECTOR_SIZE as usize;
const SECTORS: u64 = 256;

/// A disk's configuration.
fn configuration(sectors: u64, size_max: u32, seg_max: u32, blk_size: u32) -> Vec<u8> {
    let mut bytes = sectors.to_le_bytes().to_vec();
    bytes.extend(size_max.to_le_bytes());
    bytes.extend(seg_max.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(blk_size.to_le_bytes());
    bytes.resize(60, 0);
    bytes
}

/// A driver, its device and the disk behind it.
struct Bench {
    fake: Fake,
    disk: Vec<u8>,
    dma: &'static FakeDma,
    driver: VirtioBlk<PciTransport<Fake>>,
}

impl Bench {
    fn new(features: u64, config: Vec<u8>, queue_max: u16) -> Bench {
        Bench::try_new(features, config, queue_max).unwrap()
    }

    fn try_new(features: u64, config: Vec<u8>, queue_max: u16) -> Result<Bench, AttachError> {
        let fake = Fake::new(DeviceType::BLOCK, features, &[queue_max], config);
        let dma = FakeDma::leak(1000, true);
        let transport = PciTransport::new(fake.clone()).unwrap();
        let driver = VirtioBlk::attach(transport, dma, BlkConfig::DEFAULT)?;
        let disk = vec![0; (SECTORS as usize) * SECTOR];
        Ok(Bench {
            fake,
            disk,
            dma,
            driver,
        })
    }

    fn plain() -> Bench {
        let features = BlkFeatures::FLUSH.bits() | both();
        Bench::new(features, configuration(SECTORS, 0, 0, 0), 64)
    }

    /// What the device makes of a chain: its status and how many bytes it answers for.
    fn serve(&mut self, given: &Given) -> u32 {
        let readable = given.readable();
        let kind = u32::from_le_bytes(readable[0..4].try_into().unwrap());
        let sector = u64::from_le_bytes(readable[8..16].try_into().unwrap());
        assert_eq!(readable[4..8], [0; 4]);
        let start = sector as usize * SECTOR;
        let writable = given.writable() as usize;
        match kind {
            TYPE_IN => given.write(0, &self.disk[start..start + writable - 1]),
            TYPE_OUT => {
                let data = &readable[16..];
                self.disk[start..start + data.len()].copy_from_slice(data);
            }
            TYPE_FLUSH => assert_eq!((readable.len(), writable), (16, 1)),
            TYPE_DISCARD => {
                assert_eq!((readable.len(), writable, sector), (32, 1, 0));
                let range: Vec<u64> = readable[16..]
                    .chunks_exact(8)
                    .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
                    .collect();
                let start = range[0] as usize * SECTOR;
                self.disk[start..start + range[1] as usize * SECTOR].fill(0);
            }
            other => panic!("request type {other}"),
        }
        given.write(writable - 1, &[STATUS_OK]);
        writable as u32
    }

    /// The next chain, if the device was told of it, or still looks.
    fn pop(&mut self) -> Option<Given> {
        let mut model = self.fake.model_mut();
        let ring = &mut model.rings[0];
        if !ring.notified {
            return None;
        }
        let given = ring.pop();
        if given.is_none() && !ring.sleep() {
            ring.notified = true;
        }
        given
    }

    fn complete(&mut self, head: u16, len: u32) {
        self.fake.model_mut().complete(0, head, len);
    }

    /// Serves all that is there.
    fn serve_all(&mut self) {
        while let Some(given) = self.pop() {
            let len = self.serve(&given);
            self.complete(given.head, len);
        }
    }

    fn submit(
        &mut self,
        op: BlkOp,
        sector: u64,
        memory: &[Segment],
        token: u64,
    ) -> Result<(), RequestError> {
        // SAFETY: each test keeps the buffers until the driver is dropped or the request reaped.
        unsafe {
            self.driver
                .submit(op, sector, memory.iter().copied(), token)
        }
    }
}

fn both() -> u64 {
    (Features::EVENT_IDX | Features::INDIRECT_DESC).bits()
}

fn segment(bytes: &mut [u8]) -> Segment {
    Segment {
        base: NonNull::new(bytes.as_mut_ptr()).unwrap(),
        len: bytes.len(),
    }
}

use std::ptr::NonNull;

#[test]
fn what_was_written_is_read_back() {
    let mut bench = Bench::plain();
    let mut data: Vec<u8> = (0..4 * SECTOR).map(|at| (at % 251) as u8).collect();
    let expected = data.clone();
    bench
        .submit(BlkOp::Write, 3, &[segment(&mut data)], 7)
        .unwrap();
    assert_eq!(bench.driver.reap(), None);
    bench.serve_all();
    let done = |token| BlkDone {
        token,
        result: BlkResult::Done,
    };
    assert_eq!(bench.driver.reap(), Some(done(7)));
    assert_eq!(bench.disk[3 * SECTOR..7 * SECTOR], expected);
    let mut back = vec![0; 4 * SECTOR];
    let (first, second) = back.split_at_mut(SECTOR);
    let memory = [segment(second), segment(first)];
    bench.submit(BlkOp::Read, 3, &memory, 8).unwrap();
    bench.serve_all();
    assert_eq!(bench.driver.reap(), Some(done(8)));
    assert_eq!(back[SECTOR..], expected[..3 * SECTOR]);
    assert_eq!(back[..SECTOR], expected[3 * SECTOR..]);
    bench.submit(BlkOp::Flush, 99_999, &[], 9).unwrap();
    bench.serve_all();
    assert_eq!(bench.driver.reap(), Some(done(9)));
}

#[test]
fn bad_requests_are_refused_before_the_device_sees_them() {
    let features = (BlkFeatures::BLK_SIZE | BlkFeatures::SEG_MAX).bits() | both();
    let mut bench = Bench::new(features, configuration(SECTORS, 0, 4, 4096), 64);
    let pages = bench.dma.allocate(1).unwrap();
    let page = Segment {
        base: pages,
        len: 4096,
    };
    let mut data = vec![0u8; 1024];
    let sector = segment(&mut data[..SECTOR]);
    let short = segment(&mut data[..100]);
    let empty = segment(&mut data[..0]);
    let mut refused = |op, at, memory: &[Segment]| bench.submit(op, at, memory, 0).unwrap_err();
    let invalid = RequestError::Invalid;
    assert_eq!(refused(BlkOp::Read, SECTORS, &[page]), invalid);
    assert_eq!(refused(BlkOp::Read, SECTORS - 1, &[page]), invalid);
    assert_eq!(refused(BlkOp::Read, u64::MAX, &[page]), invalid);
    assert_eq!(refused(BlkOp::Read, 1, &[page]), invalid);
    assert_eq!(refused(BlkOp::Read, 0, &[sector]), invalid);
    assert_eq!(refused(BlkOp::Read, 0, &[short]), invalid);
    assert_eq!(refused(BlkOp::Read, 0, &[page, empty]), invalid);
    assert_eq!(refused(BlkOp::Read, 0, &[]), invalid);
    assert_eq!(refused(BlkOp::Read, 0, &[page; 5]), invalid);
    assert_eq!(refused(BlkOp::Flush, 0, &[]), RequestError::Unsupported);
    assert_eq!(bench.fake.model().notifications, 0);
    bench.submit(BlkOp::Read, 0, &[page; 4], 0).unwrap();
    assert_eq!(bench.fake.model().notifications, 1);
    // SAFETY: allocated above; the device never looked at the request.
    unsafe { bench.dma.free(pages, 1) };
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let features = BlkFeatures::RO.bits() | both();
    let mut bench = Bench::new(features, configuration(SECTORS, 0, 0, 0), 64);
    let mut data = vec![0u8; SECTOR];
    let refused = bench.submit(BlkOp::Write, 0, &[segment(&mut data)], 0);
    assert_eq!(refused, Err(RequestError::ReadOnly));
    assert!(bench.driver.info().read_only);
}

#[test]
fn sectors_are_discarded_where_the_device_can() {
    let mut config = configuration(SECTORS, 0, 0, 4096);
    config[36..40].copy_from_slice(&64u32.to_le_bytes());
    config[40..44].copy_from_slice(&1u32.to_le_bytes());
    let features = (BlkFeatures::DISCARD | BlkFeatures::BLK_SIZE).bits() | both();
    let mut bench = Bench::new(features, config.clone(), 64);
    assert_eq!(bench.driver.info().max_discard_sectors, 64);
    bench.disk.fill(7);
    let discard = |sectors| BlkOp::Discard { sectors };
    bench.submit(discard(64), 8, &[], 1).unwrap();
    bench.serve_all();
    assert_eq!(bench.driver.reap().unwrap().result, BlkResult::Done);
    let (kept, discarded) = (|byte: &u8| *byte == 7, |byte: &u8| *byte == 0);
    assert!(bench.disk[8 * SECTOR..72 * SECTOR].iter().all(discarded));
    assert!(bench.disk[..8 * SECTOR].iter().all(kept));
    assert!(bench.disk[72 * SECTOR..].iter().all(kept));
    let mut data = vec![0u8; 4096];
    let page = segment(&mut data);
    let invalid = Err(RequestError::Invalid);
    assert_eq!(bench.submit(discard(72), 8, &[], 1), invalid);
    assert_eq!(bench.submit(discard(8), 4, &[], 1), invalid);
    assert_eq!(bench.submit(discard(0), 8, &[], 1), invalid);
    assert_eq!(bench.submit(discard(8), SECTORS, &[], 1), invalid);
    assert_eq!(bench.submit(discard(8), 8, &[page], 1), invalid);
    config[40..44].fill(0);
    let mut bench = Bench::new(features, config, 64);
    let unsupported = Err(RequestError::Unsupported);
    assert_eq!(bench.submit(discard(8), 8, &[], 1), unsupported);
}

#[test]
fn a_full_queue_says_so_and_goes_on_after_a_completion() {
    let mut bench = Bench::plain();
    let mut data = vec![0u8; SECTOR];
    let memory = segment(&mut data);
    for token in 0..64 {
        bench.submit(BlkOp::Write, 0, &[memory], token).unwrap();
    }
    let full = bench.submit(BlkOp::Write, 0, &[memory], 64);
    assert_eq!(full, Err(RequestError::Full));
    bench.serve_all();
    assert!(bench.driver.reap().is_some());
    bench.submit(BlkOp::Write, 0, &[memory], 64).unwrap();
}

#[test]
fn requests_in_flight_are_told_to_the_device_once() {
    let mut bench = Bench::plain();
    let mut data = vec![0u8; SECTOR];
    for token in 0..32 {
        bench
            .submit(BlkOp::Write, 0, &[segment(&mut data)], token)
            .unwrap();
    }
    assert_eq!(bench.fake.model().notifications, 1);
    bench.serve_all();
    while bench.driver.reap().is_some() {}
    // Nobody waited for these, so nobody was interrupted.
    assert_eq!(bench.fake.model().interrupts[1], 0);
}

#[test]
fn neighbours_are_joined_and_long_segments_cut_to_what_the_device_takes() {
    let features = (BlkFeatures::SIZE_MAX | BlkFeatures::SEG_MAX).bits() | both();
    let mut bench = Bench::new(features, configuration(SECTORS, 8192 + 100, 30, 0), 64);
    assert_eq!(bench.driver.info().max_segments, 15);
    assert_eq!(bench.driver.info().max_bytes, 15 * 8192);
    // From the allocator that is contiguous on the bus.
    let pages = bench.dma.allocate(6).unwrap();
    let whole = Segment {
        base: pages,
        len: 6 * 4096,
    };
    let piece = |at: usize| Segment {
        // SAFETY: inside the six pages.
        base: unsafe { pages.add(at * 4096) },
        len: 4096,
    };
    bench.submit(BlkOp::Write, 0, &[whole], 0).unwrap();
    bench
        .submit(BlkOp::Write, 0, &[piece(0), piece(1), piece(3)], 0)
        .unwrap();
    let lens = |given: Given| {
        given
            .pieces
            .iter()
            .map(|piece| piece.len)
            .collect::<Vec<_>>()
    };
    assert_eq!(lens(bench.pop().unwrap()), [16, 8192, 8192, 8192, 1]);
    assert_eq!(lens(bench.pop().unwrap()), [16, 8192, 4096, 1]);
    // SAFETY: allocated above with this length; no request is looked at any more.
    unsafe { bench.dma.free(pages, 6) };
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let all = BlkFeatures::all().bits();
    let field = |sectors, size_max, seg_max, blk_size| {
        let config = configuration(sectors, size_max, seg_max, blk_size);
        match Bench::try_new(all, config, 64) {
            Err(AttachError::Fault(Fault::Configuration { field })) => field,
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    assert_eq!(field(u64::MAX, 1 << 20, 30, 512), "capacity");
    assert_eq!(field(SECTORS, 1 << 20, 0, 512), "seg_max");
    assert_eq!(field(SECTORS, 511, 30, 512), "size_max");
    assert_eq!(field(SECTORS, 1024, 30, 512), "size_max");
    for blk_size in [0, 256, 513, 131_072, 1 << 31] {
        assert_eq!(field(SECTORS, 1 << 20, 30, blk_size), "blk_size");
    }
    let short = Bench::try_new(all, vec![0; 7], 64);
    let fault = Fault::Configuration { field: "capacity" };
    assert_eq!(short.err(), Some(fault.into()));
}

#[test]
fn an_error_of_the_disk_is_the_requests_alone() {
    let mut bench = Bench::plain();
    let mut data = vec![0u8; SECTOR];
    for (status, result) in [
        (STATUS_IOERR, BlkResult::IoError),
        (STATUS_UNSUPP, BlkResult::Unsupported),
        (STATUS_OK, BlkResult::Done),
    ] {
        bench
            .submit(BlkOp::Read, 0, &[segment(&mut data)], 5)
            .unwrap();
        let given = bench.pop().unwrap();
        given.write(SECTOR, &[status]);
        bench.complete(given.head, SECTOR as u32 + 1);
        assert_eq!(bench.driver.reap(), Some(BlkDone { token: 5, result }));
        bench.serve_all();
    }
    // It says that all is well, but answers for half of it.
    bench
        .submit(BlkOp::Read, 0, &[segment(&mut data)], 5)
        .unwrap();
    let given = bench.pop().unwrap();
    given.write(SECTOR, &[STATUS_OK]);
    bench.complete(given.head, SECTOR as u32 / 2);
    assert_eq!(bench.driver.reap().unwrap().result, BlkResult::IoError);
}

/// One way to lie about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    Id(u32),
    Twice,
    Length,
    Index(u16),
    Status(u8),
    NoStatus,
    NeedsReset,
}

const LIES: [Lie; 9] = [
    Lie::Id(64),
    Lie::Id(u32::MAX),
    Lie::Id(0x1_0001),
    Lie::Twice,
    Lie::Length,
    Lie::Index(33),
    Lie::Index(0x8000),
    Lie::Status(3),
    Lie::NoStatus,
];

fn tell(bench: &mut Bench, given: &Given, lie: Lie) {
    let writable = given.writable();
    let mut model = bench.fake.model_mut();
    let status_at = writable as usize - 1;
    match lie {
        Lie::Id(id) => drop(model.rings[0].push_anything(id, 0)),
        Lie::Twice => {
            given.write(status_at, &[STATUS_OK]);
            model.rings[0].push(given.head, writable);
            model.rings[0].push_anything(given.head.into(), writable);
        }
        Lie::Length => drop(model.rings[0].push(given.head, writable + 1)),
        Lie::Index(count) => drop(model.rings[0].advance(count)),
        Lie::Status(status) => {
            given.write(status_at, &[status]);
            model.rings[0].push(given.head, writable);
        }
        Lie::NoStatus => drop(model.rings[0].push(given.head, writable)),
        Lie::NeedsReset => model.status |= 64,
    }
}

#[test]
fn each_lie_about_a_request_breaks_the_device_and_gives_everything_back() {
    for lie in LIES.into_iter().chain([Lie::NeedsReset]) {
        let mut bench = Bench::plain();
        let mut data = vec![0u8; 2 * SECTOR];
        for token in 0..32 {
            bench
                .submit(BlkOp::Read, 0, &[segment(&mut data)], token)
                .unwrap();
        }
        let given = bench.pop().unwrap();
        tell(&mut bench, &given, lie);
        bench.driver.configuration_changed();
        let mut tokens = Vec::new();
        let mut broken = 0;
        while let Some(done) = bench.driver.reap() {
            tokens.push(done.token);
            broken += usize::from(done.result == BlkResult::Broken);
        }
        tokens.sort_unstable();
        assert_eq!(tokens, (0..32).collect::<Vec<_>>(), "{lie:?}");
        assert!(broken >= 31, "{lie:?}");
        let later = bench.submit(BlkOp::Read, 0, &[segment(&mut data)], 0);
        assert_eq!(later, Err(RequestError::Broken), "{lie:?}");
        assert!(bench.fake.is_stopped(), "{lie:?}");
        let dma = bench.dma;
        drop(bench);
        assert_eq!(dma.live(), 0);
    }
}

/// What a request in flight is expected to do.
struct Pending {
    op: BlkOp,
    sector: u64,
    data: Vec<u8>,
}

/// Random requests against a device that serves them in random order, and from some time on may lie.
fn session(seed: u64, lying: bool) {
    let mut random = Seeded(seed);
    let mut features = BlkFeatures::FLUSH.bits();
    for feature in [Features::EVENT_IDX, Features::INDIRECT_DESC] {
        if random.once_in(2) {
            features |= feature.bits();
        }
    }
    let queue_max = [8, 16, 64, 100, 256][random.below(5) as usize];
    let config = configuration(SECTORS, 0, 0, 0);
    let Ok(mut bench) = Bench::try_new(features, config, queue_max) else {
        panic!("seed {seed}: not attached");
    };
    let mut pending = BTreeMap::new();
    let mut at_device = Vec::new();
    let mut expected = bench.disk.clone();
    let mut asleep_since = None;
    let mut lied = false;
    for token in 0..100u64 {
        if let Some(request) = random_request(&mut random, &pending, &bench) {
            let mut request = request;
            let memory = cut(&mut random, &mut request.data);
            let memory = if request.op == BlkOp::Flush {
                vec![]
            } else {
                memory
            };
            match bench.submit(request.op, request.sector, &memory, token) {
                Ok(()) => drop(pending.insert(token, request)),
                Err(RequestError::Full) => assert!(!pending.is_empty(), "seed {seed}"),
                Err(RequestError::Broken) => assert!(lying, "seed {seed}"),
                Err(error) => panic!("seed {seed}: {error:?}"),
            }
        }
        if !lied && random.once_in(3) {
            at_device.extend(std::iter::from_fn(|| bench.pop()));
        }
        while !lied && !at_device.is_empty() && random.once_in(2) {
            let index = random.below(at_device.len() as u64) as usize;
            let given: Given = at_device.swap_remove(index);
            if lying && random.once_in(10) {
                lied = true;
                let lie = LIES[random.below(LIES.len() as u64) as usize];
                tell(&mut bench, &given, lie);
                if random.once_in(3) {
                    bench.fake.model().rings[0].scribble(random.next() as u8);
                }
                break;
            }
            let len = bench.serve(&given);
            bench.complete(given.head, len);
        }
        if random.once_in(3) {
            let interrupts = bench.fake.model().interrupts[1];
            let used = bench.fake.model().rings[0].used;
            if let Some((armed_used, armed_interrupts)) = asleep_since
                && !lying
                && used != armed_used
            {
                assert!(interrupts > armed_interrupts, "seed {seed}: no interrupt");
            }
            while let Some(done) = bench.driver.reap() {
                let request = pending.remove(&done.token).expect("an unknown token");
                settle(seed, lying, request, done, &mut expected);
            }
            asleep_since = Some((used, interrupts));
        }
    }
    finish(seed, lying, bench, pending, at_device, expected);
}

/// A request whose sectors no other one in flight touches, so that its outcome is known.
fn random_request(
    random: &mut Seeded,
    pending: &BTreeMap<u64, Pending>,
    bench: &Bench,
) -> Option<Pending> {
    if random.once_in(12) {
        return Some(Pending {
            op: BlkOp::Flush,
            sector: 0,
            data: vec![],
        });
    }
    let most = (bench.driver.info().max_bytes / SECTOR).min(12) as u64;
    let sectors = 1 + random.below(most);
    let sector = random.below(SECTORS - sectors + 1);
    let free = pending.values().all(|other| {
        let end = other.sector + (other.data.len() / SECTOR) as u64;
        sector >= end || sector + sectors <= other.sector
    });
    let op = if random.once_in(2) {
        BlkOp::Read
    } else {
        BlkOp::Write
    };
    // Cheap to make, and no two sectors are alike.
    let mut data = vec![random.next() as u8; sectors as usize * SECTOR];
    for sector in data.chunks_mut(SECTOR) {
        sector[..8].copy_from_slice(&random.next().to_le_bytes());
    }
    free.then_some(Pending { op, sector, data })
}

/// Cuts a buffer into a few segments.
fn cut(random: &mut Seeded, data: &mut [u8]) -> Vec<Segment> {
    let mut rest = data;
    let mut segments = Vec::new();
    while !rest.is_empty() {
        let sectors = rest.len() / SECTOR;
        let most = if segments.len() < 3 { sectors } else { 0 };
        let now = if most > 0 {
            1 + random.below(most as u64) as usize
        } else {
            sectors
        };
        let (piece, left) = rest.split_at_mut(now * SECTOR);
        segments.push(segment(piece));
        rest = left;
    }
    segments
}

fn settle(seed: u64, lying: bool, request: Pending, done: BlkDone, expected: &mut [u8]) {
    if done.result != BlkResult::Done {
        assert!(lying, "seed {seed}: {done:?}");
        return;
    }
    let start = request.sector as usize * SECTOR;
    let disk = &mut expected[start..start + request.data.len()];
    match request.op {
        BlkOp::Write => disk.copy_from_slice(&request.data),
        BlkOp::Read if !lying => assert_eq!(disk, request.data, "seed {seed}"),
        _ => {}
    }
}

fn finish(
    seed: u64,
    lying: bool,
    mut bench: Bench,
    mut pending: BTreeMap<u64, Pending>,
    at_device: Vec<Given>,
    mut expected: Vec<u8>,
) {
    if !lying {
        for given in at_device {
            let len = bench.serve(&given);
            bench.complete(given.head, len);
        }
        bench.serve_all();
        assert_eq!(
            bench.fake.model().rings[0].outstanding(),
            0,
            "seed {seed}: not notified"
        );
    }
    while let Some(done) = bench.driver.reap() {
        let request = pending.remove(&done.token).expect("an unknown token");
        settle(seed, lying, request, done, &mut expected);
    }
    if bench.driver.device().fault().is_some() {
        assert!(bench.fake.is_stopped(), "seed {seed}");
        assert!(pending.is_empty(), "seed {seed}: {} lost", pending.len());
    }
    if !lying {
        assert!(pending.is_empty(), "seed {seed}: {} lost", pending.len());
        assert_eq!(bench.disk, expected, "seed {seed}");
    }
    let dma = bench.dma;
    drop(bench);
    assert_eq!(dma.live(), 0, "seed {seed}");
}

#[test]
fn random_requests_in_random_order_do_what_they_should() {
    for seed in 0..3000 {
        session(seed, false);
    }
}

#[test]
fn a_device_that_lies_at_random_loses_nothing_but_itself() {
    for seed in 0..6000 {
        session(seed, true);
    }
}
