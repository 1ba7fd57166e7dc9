//! Spoiled FFS images, read in this process by the kernel's own VFS: errors, but no panic, no endless work, no memory lost.
//!
//! In a process of its own, so that nobody else's pages are counted.

use std::collections::BTreeSet;

use rump_tests::hosted::Mounted;
use rump_tests::random::Random;
use rump_tests::spoil::subjects;
use rumpdev::md::MemoryDisk;
use rumpkern::uvm;
use rumpuser::Errno;
use rumpvfs::vnode::{VnodeRef, VnodeType};

/// Walks a volume that may be spoiled as far as it goes. Counts what it could not have.
struct Walk<'a> {
    mounted: &'a Mounted,
    seen: BTreeSet<u64>,
    errors: usize,
}

impl Walk<'_> {
    fn judge<T>(&mut self, answer: Result<T, Errno>) -> Option<T> {
        self.errors += usize::from(answer.is_err());
        answer.ok()
    }

    fn file(&mut self, file: &VnodeRef) {
        if !self.seen.insert(file.ino()) {
            return;
        }
        if !file.is_dir() {
            return self.contents(file);
        }
        let names = self.mounted.names(file);
        let names = self.judge(names).unwrap_or_default();
        for name in names.iter().take(50) {
            let found = {
                let _locked = file.lock_shared();
                file.ops().lookup(name)
            };
            let below = self.judge(found).map(|ino| self.mounted.mount.vget(ino));
            if let Some(below) = below.and_then(|below| self.judge(below)) {
                self.file(&below);
            }
        }
    }

    fn contents(&mut self, file: &VnodeRef) {
        if file.vtype() == VnodeType::Lnk {
            let node = self.mounted.node(file);
            self.judge(node);
            return;
        }
        let places = [
            0,
            12 * 4096,
            file.size() / 2,
            file.size().saturating_sub(9000),
        ];
        for place in places {
            if let Err(errno) = self.mounted.read(file, place, 70_000) {
                // Devices, sockets and FIFOs are no files of ours to read.
                let is_file = file.vtype() == VnodeType::Reg;
                assert!(is_file == (errno == Errno::EIO), "{errno:?}");
                self.errors += 1;
            }
        }
    }
}

#[test]
fn a_thousand_spoiled_images_are_answered_by_errors_and_leave_no_page_behind() {
    let images = subjects();
    let given = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse::<u64>().ok());
    let seeds = given.map_or(0..1000, |seed| seed..seed + 1);
    let (mut refused, mut faulty, mut sound) = (0, 0, 0);
    let mut free = None;
    for seed in seeds {
        let (spoiler, bytes) = &images[(seed % images.len() as u64) as usize];
        let mut spoiled = bytes.clone();
        let done = spoiler.spoil(&mut spoiled, &mut Random::new(seed));
        println!("SEED={seed}: {done}");
        match Mounted::new(MemoryDisk::new(spoiled), "") {
            Err(_) => refused += 1,
            Ok(mounted) => {
                let mut walk = Walk {
                    mounted: &mounted,
                    seen: BTreeSet::new(),
                    errors: 0,
                };
                let root = mounted.vfs.root().expect("mounting has loaded it");
                walk.file(&root);
                if walk.errors > 0 {
                    faulty += 1
                } else {
                    sound += 1
                }
                drop(root);
                mounted.end().expect("nothing is in use");
            }
        }
        if seed == 100 {
            free = Some(uvm::stats().free);
        }
    }
    println!("refused {refused}, with errors {faulty}, without {sound}");
    if given.is_none() {
        assert!(refused > 20 && faulty > 100 && sound > 100);
        // What lasts was there after a hundred; a page a seed would show.
        let lost = free
            .expect("seed 100 was tried")
            .saturating_sub(uvm::stats().free);
        assert!(lost < 800, "{lost} pages are gone");
    }
}
