//! The host's disks, attached by a kernel that was booted for it.

use rumpdev::autoconf::Autoconf;
use rumpdev::disk::{Backend, Disk, read_bytes};
use rumpdev::md::MemoryDisk;
use rumpdev::{Disks, attach_disk};
use rumpkern::uvm::dma::{Bio, BioOp, IoFrame};
use rumpkern::uvm::{Alloc, Frame};
use rumpkern::{Config, Kernel};
use rumpuser::{BlockInfo, Errno, MAX_DISCARD_SECTORS};
use rumpuser_hosted::{Host, RamDisk};
use rumpvfs::Vfs;
use rumpvfs::specfs::{BlockIo, transfer};
use std::sync::{Arc, Mutex, OnceLock};

fn pattern(sectors: usize) -> Vec<u8> {
    (0..sectors * 512)
        .map(|at| (at / 512 + at * 7) as u8)
        .collect()
}

/// A disk of 1000 sectors with an MBR of two partitions.
fn partitioned() -> Vec<u8> {
    let mut bytes = pattern(1000);
    bytes[..512].fill(0);
    for (slot, (kind, start, sectors)) in [(0x83u8, 100u32, 200u32), (0x0c, 300, 500)]
        .iter()
        .enumerate()
    {
        let at = 446 + slot * 16;
        bytes[at + 4] = *kind;
        bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

static RAM: OnceLock<&'static RamDisk> = OnceLock::new();

/// One kernel for all tests: a RAM disk without partitions, one with, and one with sectors of 4096 bytes.
fn kernel() -> &'static Arc<Kernel> {
    static KERNEL: OnceLock<Arc<Kernel>> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let ram = RAM.get_or_init(|| RamDisk::new(pattern(4096)));
        let large = BlockInfo {
            parent: "test0",
            sectors: 0,
            sector_size: 4096,
            read_only: true,
            volatile_cache: false,
            discard: false,
            max_segments: 4,
            max_bytes: 65536,
            queue_depth: 2,
        };
        Host::builder()
            .memory(16 << 20)
            .block_device(*ram)
            .block_device(RamDisk::new(partitioned()))
            .block_device(RamDisk::with_info(large, pattern(4096)))
            .install()
            .unwrap();
        let components = [&rumpvfs::COMPONENT, &rumpdev::COMPONENT, &rumpdev::DISKS];
        Kernel::boot(Config::default(), &components).unwrap()
    })
}

fn device(name: &str) -> Arc<dyn BlockIo> {
    kernel()
        .get::<Vfs>()
        .unwrap()
        .device(name)
        .unwrap_or_else(|| panic!("no {name}"))
}

fn frames(count: usize) -> Vec<IoFrame> {
    (0..count)
        .map(|_| IoFrame::whole(Frame::alloc(Alloc::NoWait).unwrap()))
        .collect()
}

#[test]
fn disks_and_their_partitions_are_attached_in_order_with_netbsds_lines() {
    let lines: Vec<String> = kernel()
        .get::<Autoconf>()
        .unwrap()
        .devices()
        .into_iter()
        .filter(|device| !device.parent.starts_with("md"))
        .map(|device| {
            format!(
                "{} at {}: {}",
                device.name, device.parent, device.description
            )
        })
        .collect();
    assert!(lines[0].starts_with("ld0 at "), "{lines:?}");
    assert!(
        lines[0].ends_with(": 2 MB, 512 bytes/sector x 4096 sectors"),
        "{lines:?}"
    );
    assert!(
        lines[1].ends_with(": 500 KB, 512 bytes/sector x 1000 sectors"),
        "{lines:?}"
    );
    assert_eq!(lines[2], "ld1e at ld1: 200 blocks at 100, type: ext2fs");
    assert_eq!(lines[3], "ld1f at ld1: 500 blocks at 300, type: msdos");
    assert_eq!(
        lines[4],
        "ld2 at test0: 2 MB, 4096 bytes/sector x 512 sectors, read-only"
    );
}

#[test]
fn a_partition_reads_its_own_part_of_the_disk_and_nothing_else() {
    let part = device("ld1e");
    assert_eq!(part.info().sectors, 200);
    let mut buf = vec![0; 1024];
    read_bytes(&*part, 198, &mut buf).unwrap();
    assert!(buf == partitioned()[298 * 512..300 * 512]);
    assert_eq!(read_bytes(&*part, 199, &mut buf), Err(Errno::EINVAL));
    assert_eq!(read_bytes(&*part, u64::MAX, &mut buf), Err(Errno::EINVAL));
    assert_eq!(
        read_bytes(&*part, u64::MAX - 150, &mut buf),
        Err(Errno::EINVAL)
    );
}

#[test]
fn a_long_request_is_split_and_comes_back_whole_and_in_order() {
    for (name, bytes) in [("ld0", pattern(4096)), ("ld2", pattern(4096))] {
        let (frames, result) = transfer(&*device(name), BioOp::Read, 64, frames(300));
        assert_eq!(result, Ok(()), "{name}");
        assert_eq!(frames.len(), 300);
        for (number, io) in frames.iter().enumerate() {
            let at = 64 * 512 + number * 4096;
            assert!(
                io.frame.as_bytes()[..] == bytes[at..at + 4096],
                "{name} frame {number}"
            );
        }
    }
}

#[test]
fn requests_out_of_range_or_out_of_step_are_refused_before_the_device_sees_them() {
    let refused = |name: &str, op, sector, frames: Vec<IoFrame>| {
        let count = frames.len();
        let (frames, result) = transfer(&*device(name), op, sector, frames);
        assert_eq!(frames.len(), count, "they come back");
        result
    };
    assert_eq!(
        refused("ld0", BioOp::Read, 4089, frames(1)),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        refused("ld0", BioOp::Read, 0, Vec::new()),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        refused("ld2", BioOp::Read, 1, frames(1)),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        refused("ld2", BioOp::Write, 0, frames(1)),
        Err(Errno::EROFS)
    );
    assert_eq!(
        refused("ld2", BioOp::Discard { sectors: 8 }, 0, Vec::new()),
        Err(Errno::EOPNOTSUPP)
    );
    let sectors = MAX_DISCARD_SECTORS + 8;
    assert_eq!(
        refused("ld0", BioOp::Discard { sectors }, 0, Vec::new()),
        Err(Errno::EINVAL)
    );
    assert_eq!(refused("ld0", BioOp::Flush, 0, Vec::new()), Ok(()));
}

#[test]
fn a_partition_discards_its_own_sectors_and_no_others() {
    let (part, disk) = (
        device("ld1f"),
        kernel().get::<Disks>().unwrap().list()[1].clone(),
    );
    let before = disk.stats();
    let discard =
        |sector, sectors| transfer(&*part, BioOp::Discard { sectors }, sector, Vec::new()).1;
    assert_eq!(discard(490, 11), Err(Errno::EINVAL));
    assert_eq!(discard(490, 0), Err(Errno::EINVAL));
    assert_eq!(discard(490, 10), Ok(()));
    let mut bytes = vec![0; 100 * 512];
    read_bytes(&*device("ld1"), 700, &mut bytes).unwrap();
    let mut expected = partitioned()[700 * 512..800 * 512].to_vec();
    expected[90 * 512..].fill(0);
    assert!(bytes == expected);
    let after = disk.stats();
    assert_eq!(after.discards - before.discards, 1);
    assert_eq!(after.discarded_sectors - before.discarded_sectors, 10);
}

#[test]
fn a_sector_that_cannot_be_read_is_eio_and_counted_and_the_others_are_read() {
    let disk = kernel().get::<Disks>().unwrap().list()[0].clone();
    let before = disk.stats().errors;
    RAM.get().unwrap().fail_sector(4000);
    assert_eq!(
        transfer(&*disk, BioOp::Read, 3996, frames(1)).1,
        Err(Errno::EIO)
    );
    assert_eq!(transfer(&*disk, BioOp::Read, 3988, frames(1)).1, Ok(()));
    RAM.get().unwrap().mend();
    assert_eq!(transfer(&*disk, BioOp::Read, 3996, frames(1)).1, Ok(()));
    assert_eq!(disk.stats().errors, before + 1);
    let _lwp = kernel().attach("test").unwrap();
    let mut shown = None;
    kernel().counters().for_each(|name, _, value| {
        if name == "disk_ld0_errors_total" {
            shown = Some(value);
        }
    });
    assert_eq!(shown, Some(before + 1));
}

#[test]
fn small_pieces_are_read_from_large_sectors() {
    let mut buf = vec![0; 3 * 512];
    read_bytes(&*device("ld2"), 6, &mut buf).unwrap();
    assert!(buf == pattern(4096)[6 * 512..9 * 512]);
}

#[test]
fn a_memory_disk_keeps_what_is_written() {
    let memory = MemoryDisk::new(vec![0; 100 * 512]);
    let disk = attach_disk(kernel(), memory.clone()).unwrap();
    let mut page = Frame::alloc(Alloc::NoWait).unwrap();
    page.get_mut().unwrap().fill(7);
    let (_, result) = transfer(&*disk, BioOp::Write, 92, vec![IoFrame::whole(page)]);
    assert_eq!(result, Ok(()));
    assert!(memory.with_bytes(|bytes| bytes[92 * 512..] == [7; 4096] && bytes[91 * 512] == 0));
    assert!(read_bytes(&*disk, 93, &mut [0; 512]).is_ok());
}

/// Notes the lengths of the requests that it gets.
struct Noting(BlockInfo, Mutex<Vec<(u64, usize)>>);

impl Backend for Noting {
    fn info(&self) -> &BlockInfo {
        &self.0
    }

    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        let bytes = bio.frames.iter().map(|io| io.len).sum();
        self.1.lock().unwrap().push((bio.sector, bytes));
        let fail = bio.sector == 96;
        (bio.done)(bio.frames, if fail { Err(Errno::EIO) } else { Ok(()) });
        Ok(())
    }
}

#[test]
fn cuts_fall_between_whole_sectors_of_the_device_and_one_failed_part_fails_the_whole() {
    kernel();
    let info = BlockInfo {
        parent: "test1",
        sectors: 1000,
        sector_size: 4096,
        read_only: false,
        volatile_cache: false,
        discard: false,
        max_segments: 5,
        max_bytes: 65536,
        queue_depth: 1,
    };
    let backend = Arc::new(Noting(info, Mutex::new(Vec::new())));
    let disk = Disk::new(9, backend.clone());
    let halves = |count: usize| -> Vec<IoFrame> {
        let half = |mut io: IoFrame| {
            io.len = 2048;
            io
        };
        frames(count).into_iter().map(half).collect()
    };
    let (back, result) = transfer(&*disk, BioOp::Read, 8, halves(14));
    assert_eq!((back.len(), result), (14, Ok(())));
    let noted = std::mem::take(&mut *backend.1.lock().unwrap());
    assert_eq!(noted, [(8, 8192), (24, 8192), (40, 8192), (56, 4096)]);
    assert_eq!(
        transfer(&*disk, BioOp::Read, 56, frames(10)).1,
        Err(Errno::EIO)
    );
    let noted = std::mem::take(&mut *backend.1.lock().unwrap());
    assert_eq!(noted, [(56, 20480), (96, 20480)]);
}

/// A disk with a cache whose flushes fail while they are to; counts them.
struct Cached {
    memory: Arc<MemoryDisk>,
    info: BlockInfo,
    flushes: Mutex<(u64, bool)>,
}

impl Backend for Cached {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        if bio.op == BioOp::Flush {
            let mut flushes = self.flushes.lock().unwrap();
            flushes.0 += 1;
            if flushes.1 {
                (bio.done)(bio.frames, Err(Errno::EIO));
                return Ok(());
            }
        }
        self.memory.start(bio)
    }
}

#[test]
fn a_disk_is_flushed_only_if_something_was_written_behind_the_last_flush_that_succeeded() {
    let _lwp = kernel().attach("test").unwrap();
    let memory = MemoryDisk::new(pattern(64));
    let cached = Arc::new(Cached {
        info: BlockInfo {
            volatile_cache: true,
            ..memory.info().clone()
        },
        memory,
        flushes: Mutex::new((0, false)),
    });
    let disk = Disk::new(9, cached.clone());
    let write = || transfer(&*disk, BioOp::Write, 0, frames(1)).1;
    let flush = || rumpvfs::specfs::flush(&*disk);
    let sent = || cached.flushes.lock().unwrap().0;
    // Others may have written before.
    flush().unwrap();
    assert_eq!(sent(), 1);
    flush().unwrap();
    assert_eq!(sent(), 1);
    write().unwrap();
    cached.flushes.lock().unwrap().1 = true;
    assert_eq!(flush(), Err(Errno::EIO));
    assert_eq!(flush(), Err(Errno::EIO));
    cached.flushes.lock().unwrap().1 = false;
    flush().unwrap();
    assert_eq!(sent(), 4);
    flush().unwrap();
    let read = transfer(&*disk, BioOp::Read, 0, frames(1)).1;
    read.unwrap();
    flush().unwrap();
    assert_eq!((sent(), disk.stats().flushes), (4, 4));
}
