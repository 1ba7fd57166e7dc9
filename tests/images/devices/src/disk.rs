//! What is done with the disk.

use crate::pages;
use core::ptr::NonNull;
use core::time::Duration;
use rumpuser::{
    BioDone, BioOp, BioRequest, BlockDevice, Errno, IoVec, PAGE_SIZE, SECTOR_SIZE, host,
};
use rumpuser_baremetal::aprint;

/// Pages in a request, at most, and requests in flight.
const PAGES: usize = 16;
const DEPTH: usize = 8;
const PAGE_SECTORS: u64 = (PAGE_SIZE / SECTOR_SIZE) as u64;
const PAGE_WORDS: u64 = (PAGE_SIZE / size_of::<u64>()) as u64;
/// The pattern has so many pages, and starts at this sector.
const PATTERN_PAGES: u64 = 1024;
const FIRST_SECTOR: u64 = 2048;

/// A disk, and memory for [`DEPTH`] requests.
struct Bench {
    disk: &'static dyn BlockDevice,
    memory: NonNull<u8>,
    /// Pages in a request: as many as the disk takes, a power of two.
    pages: usize,
    /// Requests in flight, at most.
    depth: usize,
}

impl Bench {
    fn new() -> Result<Bench, Errno> {
        let disk = host().block_device(0).ok_or(Errno::ENXIO)?;
        disk.listen(host().threads().current());
        let info = disk.info();
        Ok(Bench {
            disk,
            memory: pages(0, DEPTH * PAGES)?,
            pages: PAGES.min(1 << info.max_segments.ilog2()),
            depth: DEPTH.min(info.queue_depth),
        })
    }

    /// Page `page` of slot `slot`'s memory. The pages of a slot are not neighbours.
    fn page(&self, slot: usize, page: usize) -> IoVec {
        let index = page * DEPTH + slot;
        // SAFETY: inside the pages that `new` took.
        let base = unsafe { self.memory.add(index * PAGE_SIZE) };
        IoVec {
            base,
            len: PAGE_SIZE,
        }
    }

    fn words(&self, slot: usize, page: usize) -> NonNull<[u64; PAGE_SIZE / 8]> {
        self.page(slot, page).base.cast()
    }

    /// Starts a request for the first `pages` pages of a slot.
    fn start(&self, op: BioOp, sector: u64, slot: usize, pages: usize) -> Result<(), Errno> {
        let mut segments = [self.page(slot, 0); PAGES];
        for (page, segment) in segments.iter_mut().enumerate() {
            *segment = self.page(slot, page);
        }
        let segments = &segments[..pages];
        let request = BioRequest {
            op,
            sector,
            segments,
            token: slot as u64,
        };
        // SAFETY: the slot's memory is looked at again only after its token was reaped.
        unsafe { self.disk.submit(&request) }
    }

    fn wait(&self) -> BioDone {
        loop {
            if let Some(done) = self.disk.reap() {
                return done;
            }
            host().threads().park(None);
        }
    }

    /// Runs `count` requests with `depth` in flight. `prepare` gets the number of a request and its slot before it starts,
    /// `finish` after it ended.
    fn run(
        &self,
        count: u64,
        depth: usize,
        mut prepare: impl FnMut(u64, usize) -> Result<(), Errno>,
        mut finish: impl FnMut(u64, usize) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let depth = depth.min(self.depth);
        let mut in_slot = [0; DEPTH];
        let mut started = 0;
        let mut ended = 0;
        while ended < count {
            let slot = if started < count.min(depth as u64) {
                started as usize
            } else {
                let done = self.wait();
                done.result?;
                let slot = usize::try_from(done.token).map_err(|_| Errno::EIO)?;
                finish(in_slot[slot], slot)?;
                ended += 1;
                slot
            };
            if started < count {
                in_slot[slot] = started;
                prepare(started, slot)?;
                started += 1;
            }
        }
        Ok(())
    }
}

/// What the pattern's word `index` is: no two are alike.
fn pattern(index: u64) -> u64 {
    (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Writes the pattern, flushes, reads it back with other cuts, says what the disk is.
pub(crate) fn check() -> Result<(), Errno> {
    let bench = Bench::new()?;
    let info = bench.disk.info();
    aprint!(
        "disk: at {}, {} sectors of {}, {} segments, {} bytes, depth {}{}",
        info.parent,
        info.sectors,
        info.sector_size,
        info.max_segments,
        info.max_bytes,
        info.queue_depth,
        if info.volatile_cache {
            ", write cache"
        } else {
            ""
        }
    );
    let in_request = bench.pages as u64;
    bench.run(
        PATTERN_PAGES / in_request,
        DEPTH,
        |request, slot| {
            let first = request * in_request;
            for page in 0..bench.pages {
                let start = (first + page as u64) * PAGE_WORDS;
                let words = core::array::from_fn(|word| pattern(start + word as u64));
                // SAFETY: the slot's page, with no request in flight.
                unsafe { bench.words(slot, page).write(words) };
            }
            let sector = FIRST_SECTOR + first * PAGE_SECTORS;
            bench.start(BioOp::Write, sector, slot, bench.pages)
        },
        |_, _| Ok(()),
    )?;
    if info.volatile_cache {
        bench.start(BioOp::Flush, 0, 0, 0)?;
        bench.wait().result?;
    }
    bench.run(
        PATTERN_PAGES,
        DEPTH,
        |page, slot| bench.start(BioOp::Read, FIRST_SECTOR + page * PAGE_SECTORS, slot, 1),
        |page, slot| {
            // SAFETY: the slot's page, with no request in flight.
            let words = unsafe { bench.words(slot, 0).read() };
            let mut words = words.iter().zip(page * PAGE_WORDS..);
            let right = words.all(|(&word, index)| word == pattern(index));
            right.then_some(()).ok_or(Errno::EIO)
        },
    )?;
    let bytes = PATTERN_PAGES * PAGE_SIZE as u64;
    aprint!("disk: {bytes} bytes written and read back");
    Ok(())
}

/// Asks for what must be refused.
pub(crate) fn refuse() -> Result<(), Errno> {
    let bench = Bench::new()?;
    let sectors = bench.disk.info().sectors;
    let misaligned = IoVec {
        len: 100,
        ..bench.page(0, 0)
    };
    let request = |op, sector, segments| BioRequest {
        op,
        sector,
        segments,
        token: 0,
    };
    let page = [bench.page(0, 0)];
    let expected = [
        (request(BioOp::Read, sectors, &page), Errno::EINVAL),
        (request(BioOp::Read, sectors - 1, &page), Errno::EINVAL),
        (request(BioOp::Read, u64::MAX, &page), Errno::EINVAL),
        (request(BioOp::Read, 0, &[]), Errno::EINVAL),
        (
            request(BioOp::Read, 0, core::slice::from_ref(&misaligned)),
            Errno::EINVAL,
        ),
    ];
    for (request, error) in expected {
        // SAFETY: the memory is not used otherwise; it is refused at that.
        let answer = unsafe { bench.disk.submit(&request) };
        if answer != Err(error) {
            aprint!("disk: {request:?} answers {answer:?}");
            return Err(Errno::EIO);
        }
    }
    // What is wrong with the disk itself comes back as the request's result.
    let answer = bench
        .start(BioOp::Write, 0, 0, 1)
        .and_then(|()| bench.wait().result);
    aprint!("disk: refused what it must; a write answers {answer:?}");
    Ok(())
}

/// Discards what [`check`] wrote.
pub(crate) fn discard() -> Result<(), Errno> {
    let bench = Bench::new()?;
    let sectors = PATTERN_PAGES * PAGE_SECTORS;
    bench.start(BioOp::Discard { sectors }, FIRST_SECTOR, 0, 0)?;
    bench.wait().result?;
    aprint!("disk: {sectors} sectors discarded");
    Ok(())
}

/// Reads: in sequence, and 4 KiB at random places.
pub(crate) fn measure() -> Result<(), Errno> {
    let bench = Bench::new()?;
    let pages = bench.disk.info().sectors / PAGE_SECTORS;
    let in_request = bench.pages as u64;
    let requests = pages / in_request;
    for depth in [1, 4, DEPTH] {
        let time = timed(|| {
            let sector = |request| request * in_request * PAGE_SECTORS;
            let start =
                |request, slot| bench.start(BioOp::Read, sector(request), slot, bench.pages);
            bench.run(requests, depth, start, |_, _| Ok(()))
        })?;
        let bytes = u128::from(requests * in_request) * PAGE_SIZE as u128;
        let rate = bytes * 1000 / time.as_nanos().max(1);
        aprint!(
            "read: {bytes} bytes in sequence, {in_request} pages at once, {depth} in flight: {rate} MB/s"
        );
    }
    for depth in [1, DEPTH] {
        const COUNT: u64 = 4000;
        let time = timed(|| {
            let start = |request, slot| {
                let page = pattern(request) % pages;
                bench.start(BioOp::Read, page * PAGE_SECTORS, slot, 1)
            };
            bench.run(COUNT, depth, start, |_, _| Ok(()))
        })?;
        let rate = u128::from(COUNT) * 1_000_000_000 / time.as_nanos().max(1);
        aprint!("read: 4 KiB at random places, {depth} in flight: {rate} requests/s");
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<(), Errno>) -> Result<Duration, Errno> {
    let start = host().clock().now();
    work()?;
    Ok(host().clock().now() - start)
}
