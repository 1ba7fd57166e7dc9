//! An FFS image, changed at random: mounted, walked, written, unmounted, mounted again.
//!
//! An input: which volume of `volume.rs` and how it is mounted (a byte each); how many bytes of it are changed
//! (a byte), each change being where (two bytes, by the structures on the volume or by sectors), how (a byte), and
//! with what (eight bytes); the rest are operations of four bytes each.
//!
//! What must hold: no panic; an end; every page comes back.

use std::sync::OnceLock;

use rumpfs_ffs::bmap;
use rumpfs_ffs::inode::{Contents, Inode};
use rumpfs_ffs::superblock::{self, Tolerance};
use rumpkern::uvm;
use rumpvfs::vnode::VnodeType;

use crate::input::Input;
use crate::machine::attach;
use crate::volume::{Change, Image, Machine, filled};

/// Changes to an image.
const MOST_SPOILS: usize = 24;
/// Operations on a mounted one.
const MOST_CHANGES: usize = 24;
/// Files that a walk looks at.
const MOST_FILES: usize = 100;
/// Pages that the first runs may leave behind, for what is made once.
pub(crate) const SLACK_PAGES: usize = 300;

/// A sound volume, and where the structures on it are: start and length.
pub struct Base {
    pub(crate) bytes: Vec<u8>,
    pub(crate) places: Vec<(usize, usize)>,
}

/// The volumes to start from. The thread must be an lwp.
pub fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| filled().into_iter().map(Base::new).collect())
}

impl Base {
    pub(crate) fn new(bytes: Vec<u8>) -> Base {
        let image = Image(bytes);
        let sb = superblock::find(&image, Tolerance::default()).expect("it is sound");
        let byte_of = |fragment: u64| sb.byte_of(fragment) as usize;
        let mut places = vec![(sb.location as usize, 1376)];
        places.extend((0..sb.ncg).map(|cg| (byte_of(sb.cgtod(cg)), 1024)));
        for ino in 2..sb.inodes() {
            let Ok(inode) = Inode::load(&sb, &image, ino) else {
                continue;
            };
            let place = sb.inode_place(ino).expect("it was loaded");
            let start = byte_of(place.block) + place.byte;
            places.push((start, sb.format.inode_size()));
            if let Contents::Blocks { indirect, .. } = &inode.contents {
                let there = indirect.iter().filter(|address| **address > 0);
                places.extend(there.map(|address| (byte_of(*address as u64), 64)));
            }
            if inode.vtype == VnodeType::Dir {
                let extent = bmap::map(&sb, &image, &inode, 0, 1).expect("a sound directory");
                let start = extent.address.expect("a directory has no holes");
                places.push((byte_of(start), extent.bytes.min(1024) as usize));
            }
        }
        Base {
            bytes: image.0,
            places,
        }
    }

    /// The image, changed as `input` says.
    pub fn spoiled(&self, input: &mut Input<'_>) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        self.spoil(&mut bytes, input);
        bytes
    }

    /// Changes `bytes`, the image or one made of it, as `input` says.
    pub(crate) fn spoil(&self, bytes: &mut [u8], input: &mut Input<'_>) {
        for _ in 0..usize::from(input.u8()) % (MOST_SPOILS + 1) {
            let (which, into) = (input.u16(), usize::from(input.u16()));
            let at = match which & 0x8000 {
                0 => {
                    let (start, length) = self.places[usize::from(which) % self.places.len()];
                    start + into % length
                }
                _ => usize::from(which & 0x7fff) * 512 + into % 512,
            };
            spoil(bytes, at % self.bytes.len(), input);
        }
    }
}

fn spoil(bytes: &mut [u8], at: usize, input: &mut Input<'_>) {
    let (kind, value) = (input.u8(), input.array::<8>());
    let width = 1 << (kind & 3);
    let at = at - at % width;
    let field = &mut bytes[at..at + width];
    match kind >> 2 & 3 {
        0 => field.copy_from_slice(&value[..width]),
        1 => field
            .iter_mut()
            .zip(value)
            .for_each(|(byte, by)| *byte ^= by),
        2 => field.fill(value[0]),
        // A small number is added; the byte order is the field's or is not.
        _ => field[width - 1] = field[width - 1].wrapping_add(value[0]),
    }
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let _lwp = attach();
    static BEFORE: OnceLock<usize> = OnceLock::new();
    let mut input = Input::new(data);
    let base = input.one_of(&[0, 1, 2, 3]);
    let options = input.one_of(&["", "ro", "force", "ro,force"]);
    let spoiled = bases()[base].spoiled(&mut input);
    let free = *BEFORE.get_or_init(|| uvm::stats().free);
    let machine = Machine::new(spoiled);
    use_it(&machine, options, &mut input);
    drop(machine);
    let lost = free.saturating_sub(uvm::stats().free);
    assert!(lost < SLACK_PAGES, "{lost} pages are gone");
}

/// Mounts, uses, unmounts, and looks again.
fn use_it(machine: &Machine, options: &str, input: &mut Input<'_>) {
    let Ok(mount) = machine.mount(options) else {
        return;
    };
    let (mut paths, _) = machine.walk("/", MOST_FILES);
    for name in ["/new", "/d/new", "/d/e/new-and-longer"] {
        paths.push(name.as_bytes().to_vec());
    }
    for _ in 0..MOST_CHANGES {
        if input.is_empty() {
            break;
        }
        let (kind, one, two, amount) = (input.u8(), input.u8(), input.u8(), input.u8());
        let path = |n: u8| &paths[usize::from(n) % paths.len()][..];
        // Whether it can be done is for the volume to say.
        let _ = machine.change(change(kind, amount), path(one), path(two));
    }
    if machine.unmount(&mount).is_err() {
        return;
    }
    drop(mount);
    if let Ok(mount) = machine.mount("ro,force") {
        machine.walk("/", MOST_FILES);
        assert_eq!(machine.unmount(&mount), Ok(()), "nothing is in use");
    }
}

/// What an operation's first and last byte mean.
pub fn change(kind: u8, amount: u8) -> Change {
    // Around the ends of blocks of every level, and the greatest.
    const PLACES: [u64; 16] = [
        0,
        1,
        511,
        4095,
        8192,
        49_151,
        49_152,
        98_304,
        98_305,
        4_243_456,
        17_000_000,
        0x7fff_ffff,
        0x1_0000_0000,
        1 << 40,
        (1 << 62) - 1,
        i64::MAX as u64,
    ];
    let place = PLACES[usize::from(amount & 15)];
    let count = [1, 100, 513, 4096, 8999, 0, 2, 1024][usize::from(amount >> 4 & 7)];
    match kind % 20 {
        0..=3 => Change::Write(place, count),
        4..=5 => Change::Truncate(place),
        6..=7 => Change::Unlink,
        8 => Change::Mkdir,
        9 => Change::Rmdir,
        10..=11 => Change::Rename,
        12 => Change::Link,
        13 => Change::Symlink,
        14 => Change::Mknod,
        15 => Change::Chmod(u16::from(amount) << 4),
        16 => Change::Chown(u32::from(amount) << 24),
        17 => Change::Touch,
        18 => Change::Look,
        _ if amount & 1 == 0 => Change::Sync,
        _ => Change::Statvfs,
    }
}

/// Inputs to start from: each volume as it is, with some operations.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for base in 0..4u8 {
        for first in (0..20u8).step_by(5) {
            let mut seed = vec![base, first / 5, 0];
            for n in 0..10u8 {
                seed.extend([first + n, n * 7, n * 11 + 3, n * 23]);
            }
            seeds.push(seed);
        }
        for which in 0..40u8 {
            let mut seed = vec![base, which & 3, 2];
            seed.extend([which, 0, which * 5, 0, which, 0xff, 1, 2, 3, 4, 5, 6, 7]);
            seed.extend([which + 3, 0, which * 3, 0, 4, which, 0, 0, 0, 0, 0, 0, 0]);
            seed.extend([0, which, 1, 0x14, 6, which + 1, 0, 0, 10, which + 2, 3, 1]);
            seeds.push(seed);
        }
    }
    seeds
}
