//! An FFS image, changed at random: checked and repaired, then mounted and read.
//!
//! An input: which volume of `volume.rs` (a byte); then its changes, as in [`crate::ffs_image`].
//!
//! What must hold: no panic; an end; what a repair has left without a finding is consistent when it is checked again, can be
//! mounted, everything on it can be read, and writing to it leaves it consistent. What says of itself that it is of a kind that is
//! only read, of before 2003 or with quotas or snapshots, can be mounted for reading.

use rumpfs_ffs::check::repair::repair;
use rumpfs_ffs::check::{check, superblock};
use rumpfs_ffs::raw::RawSuperblock;
use rumpfs_ffs::superblock::Flags;
use rumpuser::Errno;

use crate::ffs_image::bases;
use crate::input::Input;
use crate::machine::attach;
use crate::volume::{Change, Image, Machine};

/// Files that a walk looks at.
const MOST_FILES: usize = 100;

/// Runs one input.
pub fn run(data: &[u8]) {
    let _lwp = attach();
    let mut input = Input::new(data);
    let base = input.one_of(&[0, 1, 2, 3]);
    mend(bases()[base].spoiled(&mut input));
}

/// Checks and repairs what is left. What was repaired must be as good as new.
pub fn mend(bytes: Vec<u8>) {
    let mut image = Image(bytes);
    let Ok(repaired) = repair(&mut image) else {
        return;
    };
    if !repaired.left.is_consistent() {
        return;
    }
    let again = check(&image).expect("it could be checked before");
    assert!(again.is_consistent(), "{:?}", again.findings);
    let is_only_read = is_only_read(&image);
    let machine = Machine::new(image.0);
    // Flags that are not known, or a log, are no inconsistency; without force such a volume is refused.
    let mut options = "force";
    if is_only_read {
        assert_eq!(machine.mount(options).err(), Some(Errno::EROFS));
        options = "force,ro";
    }
    let mount = machine.mount(options).expect("nothing is wrong with it");
    let (_, errors) = machine.walk("/", MOST_FILES);
    assert!(errors.is_empty(), "without findings, but {errors:?}");
    if is_only_read {
        assert_eq!(machine.unmount(&mount), Ok(()));
        return;
    }
    let done = machine.change(Change::Write(0, 9000), b"/after", b"");
    assert!(done != Err(Errno::EIO), "{done:?}");
    assert_eq!(machine.unmount(&mount), Ok(()));
    let report = check(&Image(machine.bytes())).expect("it could be checked before");
    assert!(report.is_consistent(), "{:?}", report.findings);
}

/// Whether a volume is of a kind that is not written, however sound it is.
fn is_only_read(image: &Image) -> bool {
    let sb = superblock(image).expect("it was checked");
    let at = sb.location as usize + core::mem::offset_of!(RawSuperblock<zerocopy::LE>, snapinum);
    !sb.updated
        || sb.old_inodes
        || sb.has_old_directories()
        || sb.flags.contains(Flags::DOQUOTA2)
        || image.0[at..at + 4] != [0; 4]
}

/// Inputs to start from: each volume with one or two of its structures changed.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for base in 0..4u8 {
        for which in 0..60u8 {
            let mut seed = vec![base, 2];
            seed.extend([which, 0, which * 4, 0, which, 0xff, 1, 2, 3, 4, 5, 6, 7]);
            seed.extend([which + 3, 0, which * 3, 0, 4, which, 0, 0, 0, 0, 0, 0, 0]);
            seeds.push(seed);
        }
    }
    // After its repair, a write once ended with EIO.
    seeds.push(vec![
        0, 0xf4, 0x73, 1, 0, 0, 0, 2, 0, 0, 2, 0xfd, 0, 0x60, 0, 0xfd, 0, 0x60, 0, 0, 0, 0, 0, 0,
        0, 0x72, 0, 0x18, 3, 2, 0x28,
    ]);
    seeds
}
