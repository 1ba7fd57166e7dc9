//! Each allocation refused in turn, of pages and of what is smaller: whoever asked gets `ENOMEM`, and nothing is broken afterwards.
//!
//! A binary of its own: the refusal is the process's.

mod testfs;

use rumpkern::lwp::{MemoryUse, set_memory_use};
use rumpkern::uvm;
use rumpuser::Errno;
use rumpvfs::pagecache::{Patience, ReadAhead};
use rumpvfs::vfs::Sizes;
use std::sync::Mutex;
use testfs::{ROOT, Rig, attach, pattern};

/// One test at a time.
static TURN: Mutex<()> = Mutex::new(());
const MEMORY: usize = 8 << 20;
const SIZES: Sizes = Sizes {
    vnodes: 16,
    names: 64,
    buffers: 4,
};

#[test]
fn whichever_allocation_is_refused_reading_and_writing_go_on_afterwards() {
    let _turn = TURN.lock();
    let _lwp = attach(MEMORY);
    let _refused = set_memory_use(MemoryUse::NoWait);
    let bytes = pattern(1, 150_000);
    let mut refusals = 0;
    for allocation in 1.. {
        let rig = Rig::new(SIZES, 4000, (4096, 1), |volume, disk| {
            volume.file(disk, ROOT, "f", &bytes, false);
            volume.file(disk, ROOT, "g", &bytes, false);
        });
        let mut expected = bytes.clone();
        uvm::fail_after(allocation);
        let mut note = |errno: Errno| {
            assert_eq!(errno, Errno::ENOMEM, "allocation {allocation}");
            refusals += 1;
        };
        if let (Ok(f), Ok(g)) = (rig.lookup("f"), rig.lookup("g")) {
            let mut reader = ReadAhead::new();
            let mut buf = vec![0; 20_000];
            for at in (0..150_000).step_by(20_000) {
                match f.read(at, &mut buf, &mut reader) {
                    Ok(count) => assert!(buf[..count] == bytes[at as usize..][..count]),
                    Err(errno) => note(errno),
                }
            }
            match g.read_frames(5000, 9000, &mut ReadAhead::new(), Patience::Wait) {
                Ok(lent) => assert_eq!(lent[0].frame.as_bytes()[904..], bytes[5000..8192]),
                Err(errno) => note(errno),
            }
            let _locked = g.lock_exclusive();
            for (at, len) in [(100, 9_000), (40_000, 70_000)] {
                match g.write(at, &vec![9; len]) {
                    Ok(count) => expected[at as usize..][..count].fill(9),
                    Err(errno) => note(errno),
                }
            }
        }
        let was_refused = uvm::fail_after(0) == 0;
        for (name, right) in [("f", &bytes), ("g", &expected)] {
            let mut all = vec![0; 150_000];
            let vnode = rig.lookup(name).unwrap();
            assert_eq!(vnode.read(0, &mut all, &mut ReadAhead::new()), Ok(150_000));
            assert!(all == **right, "{name}, allocation {allocation}");
        }
        rig.unmount().unwrap();
        rig.mount().unwrap();
        let mut all = vec![0; 150_000];
        let g = rig.lookup("g").unwrap();
        assert_eq!(g.read(0, &mut all, &mut ReadAhead::new()), Ok(150_000));
        assert!(all == expected, "from disk, allocation {allocation}");
        if !was_refused {
            break;
        }
    }
    assert!(refusals > 5, "only {refusals} refusals were seen");
}

#[test]
fn whichever_allocation_is_refused_pages_that_must_be_written_first_are() {
    let _turn = TURN.lock();
    let _lwp = attach(MEMORY);
    let bytes = pattern(2, 150_000);
    for allocation in 1.. {
        let rig = Rig::new(SIZES, 4000, (4096, 1), |volume, disk| {
            volume.file(disk, ROOT, "f", &bytes, false);
        });
        let f = rig.lookup("f").unwrap();
        {
            let _locked = f.lock_exclusive();
            assert_eq!(f.write(0, &vec![9; 150_000]), Ok(150_000));
        }
        uvm::fail_after(allocation);
        f.settle_pages();
        let was_refused = uvm::fail_after(0) == 0;
        assert_eq!(f.dirty_pages(), 0, "allocation {allocation}");
        assert_eq!(f.fsync(), Ok(()));
        drop(f);
        rig.unmount().unwrap();
        if !was_refused {
            assert!(allocation > 3, "only {allocation} allocations");
            break;
        }
    }
}
