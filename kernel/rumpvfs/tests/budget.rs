//! The page cache in 1 MiB of memory: more data than that, read and written by several threads at once.

mod testfs;

use rumpkern::uvm;
use rumpuser::Errno;
use rumpvfs::pagecache::ReadAhead;
use rumpvfs::vfs::Sizes;
use testfs::{ROOT, Rig, attach, pattern};

const MEMORY: usize = 1 << 20;
const SIZES: Sizes = Sizes {
    vnodes: 16,
    names: 64,
    buffers: 8,
};

fn rig(block: u64, gap: u64, files: &[(&str, Vec<u8>)], holes: bool) -> Rig {
    let sectors = 64
        + files
            .iter()
            .map(|(_, bytes)| (bytes.len() as u64 / block + 2) * (block / 512 + gap))
            .sum::<u64>();
    Rig::new(SIZES, sectors * 2, (block, gap), |volume, disk| {
        for (name, bytes) in files {
            volume.file(disk, ROOT, name, bytes, holes);
        }
    })
}

fn read_all(rig: &Rig, name: &str, step: usize) -> Result<Vec<u8>, Errno> {
    let vnode = rig.lookup(name)?;
    let mut reader = ReadAhead::new();
    let mut all = Vec::new();
    let mut buf = vec![0; step];
    loop {
        let count = vnode.read(all.len() as u64, &mut buf, &mut reader)?;
        if count == 0 {
            return Ok(all);
        }
        all.extend_from_slice(&buf[..count]);
    }
}

#[test]
fn a_file_much_larger_than_memory_reads_right_in_four_threads_at_once() {
    let _lwp = attach(MEMORY);
    let bytes = pattern(3, 5 << 20);
    let rig = rig(8192, 0, &[("f", bytes.clone())], false);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (rig, bytes) = (&rig, &bytes);
            scope.spawn(move || {
                let _lwp = attach(MEMORY);
                if thread % 2 == 0 {
                    assert!(read_all(rig, "f", 30_000).unwrap() == *bytes);
                    return;
                }
                let vnode = rig.lookup("f").unwrap();
                let mut reader = ReadAhead::new();
                let mut state = 12345u64 + thread;
                let mut buf = vec![0; 10_000];
                for _ in 0..300 {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let at = (state >> 20) % (bytes.len() as u64 - 10_000);
                    let count = vnode.read(at, &mut buf, &mut reader).unwrap();
                    assert!(buf[..count] == bytes[at as usize..][..count], "at {at}");
                }
            });
        }
    });
    let stats = uvm::stats();
    assert!(stats.high_water <= stats.limit, "{stats:?}");
    assert!(
        stats.freed > 0,
        "the page daemon had nothing to do: {stats:?}"
    );
}

#[test]
fn more_dirty_pages_than_memory_holds_are_written_out_and_come_back() {
    let _lwp = attach(MEMORY);
    let rig = rig(
        8192,
        0,
        &[("f", Vec::new()), ("pad", pattern(9, 4_000_000))],
        false,
    );
    let vnode = rig.lookup("f").unwrap();
    let bytes = pattern(10, 3 << 20);
    for (number, piece) in bytes.chunks(40_000).enumerate() {
        let _locked = vnode.lock_exclusive();
        assert_eq!(vnode.write(number as u64 * 40_000, piece), Ok(piece.len()));
    }
    assert!(read_all(&rig, "f", 30_000).unwrap() == bytes);
    let writes = rig.disk.shared().writes.lock().unwrap().clone();
    let mean = writes.iter().sum::<usize>() / writes.len().max(1);
    assert!(mean >= 30_000, "written in small pieces: {writes:?}");
    let stats = uvm::stats();
    assert!(stats.high_water <= stats.limit, "{stats:?}");
}
