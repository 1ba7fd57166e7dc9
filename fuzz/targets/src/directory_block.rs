//! A directory that holds these bytes, read and changed by way of a mounted volume.
//!
//! An input: which kind of volume, how many operations (a byte each), the operations (four bytes each), the bytes of
//! the directory.
//!
//! What must hold is the same as of `ffs_image`; besides, a directory whose bytes are sound stays so.

use std::sync::OnceLock;

use rumpfs_ffs::bmap;
use rumpfs_ffs::dir::Shape;
use rumpfs_ffs::inode::Inode;
use rumpfs_ffs::order::Order;
use rumpfs_ffs::raw::DIRBLKSIZ;
use rumpfs_ffs::superblock::{self, Superblock, Tolerance};

use crate::ffs_check::mend;
use crate::ffs_image::change;
use crate::input::Input;
use crate::machine::attach;
use crate::volume::{Change, Image, Machine, empty};

/// Operations of a run.
const MOST_CHANGES: usize = 16;
/// Units that the directory has.
const UNITS: usize = 2;
/// Inodes of files that a directory may name; a seed does.
const FILES: u32 = 4;

/// A volume with a directory `/d` of [`UNITS`] units, and where these lie.
struct Base {
    bytes: Vec<u8>,
    sb: Superblock,
    at: usize,
    /// The inodes of the directory, and of the first file in it.
    directory: u32,
    file: u32,
}

fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| empty().into_iter().map(Base::new).collect())
}

impl Base {
    fn new(bytes: Vec<u8>) -> Base {
        let machine = Machine::new(bytes);
        let mount = machine.mount("").expect("a fresh volume");
        let made = machine.change(Change::Mkdir, b"/d", b"");
        assert_eq!(made, Ok(()));
        // One unit holds 31 of these names; the last of them is in the second.
        for number in 0..40 {
            let path = format!("/d/file{number:02}");
            let made = machine.change(Change::Write(0, 1), path.as_bytes(), b"");
            assert_eq!(made, Ok(()), "{path}");
            if number >= FILES && number != 39 {
                let gone = machine.change(Change::Unlink, path.as_bytes(), b"");
                assert_eq!(gone, Ok(()), "{path}");
            }
        }
        for number in 0..24 {
            let path = format!("/d/{number:0>30}");
            let linked = machine.change(Change::Link, b"/d/file39", path.as_bytes());
            assert_eq!(linked, Ok(()), "{path}");
        }
        machine.unmount(&mount).expect("nothing is in use");
        let image = Image(machine.bytes());
        let sb = superblock::find(&image, Tolerance::default()).expect("it is sound");
        let find = |within: &Inode, name: &[u8]| {
            let found = rumpfs_ffs::lookup::lookup(&sb, &image, within, name, 0);
            found.expect("it can be read").expect("it was made").ino
        };
        let root = Inode::load(&sb, &image, 2).expect("the root");
        let directory = find(&root, b"d");
        let inode = Inode::load(&sb, &image, directory).expect("it was made");
        assert!(inode.size >= (UNITS * DIRBLKSIZ) as u64);
        let extent = bmap::map(&sb, &image, &inode, 0, 1).expect("it is sound");
        let at = sb.byte_of(extent.address.expect("no hole")) as usize;
        let file = find(&inode, b"file00");
        Base {
            at,
            directory,
            file,
            sb,
            bytes: image.0,
        }
    }

    fn is_sound(&self, bytes: &[u8]) -> bool {
        let shape = Shape::of(&self.sb);
        let mut units = bytes.chunks_exact(DIRBLKSIZ);
        units.all(|unit| shape.walk_unit(unit, 0, &mut |_, _| true).is_ok())
    }
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let _lwp = attach();
    let mut input = Input::new(data);
    let base = &bases()[input.one_of(&[0, 1, 2, 3])];
    let count = usize::from(input.u8()) % (MOST_CHANGES + 1);
    let changes: Vec<[u8; 4]> = (0..count).map(|_| input.array()).collect();
    let mut bytes = base.bytes.clone();
    let directory = &mut bytes[base.at..][..UNITS * DIRBLKSIZ];
    let given = input.bytes(directory.len());
    directory[..given.len()].copy_from_slice(given);
    let was_sound = base.is_sound(directory);
    let machine = Machine::new(bytes);
    let mount = machine.mount("").expect("the volume itself is sound");
    let (mut paths, errors) = machine.walk("/d", 64);
    assert!(was_sound || !errors.is_empty(), "what is wrong is said");
    for name in ["new", "file00", &"n".repeat(255), "."] {
        paths.push(format!("/d/{name}").into_bytes());
    }
    for [kind, one, two, amount] in changes {
        let path = |n: u8| &paths[usize::from(n) % paths.len()][..];
        // Whether it can be done is for the volume to say.
        let _ = machine.change(change(kind, amount), path(one), path(two));
    }
    let unmounted = machine.unmount(&mount);
    assert_eq!(unmounted, Ok(()), "only a directory is spoiled");
    let left = machine.bytes();
    if was_sound {
        let directory = &left[base.at..][..UNITS * DIRBLKSIZ];
        assert!(
            base.is_sound(directory)
                || Inode::load(&base.sb, &Image(left.clone()), base.directory).is_err(),
            "a change spoiled it"
        );
    }
    drop((mount, machine));
    mend(left);
}

/// Inputs to start from: sound directories of different shapes.
pub fn seeds() -> Vec<Vec<u8>> {
    let _lwp = attach();
    let mut seeds = Vec::new();
    for (n, base) in bases().iter().enumerate() {
        let as_it_is = &base.bytes[base.at..][..UNITS * DIRBLKSIZ];
        let made = [
            unit(
                base,
                &[(".", 0), ("..", 1), ("file00", 2), ("a", 3), ("bb", 4)],
            ),
            unit(base, &[(".", 0), ("..", 1), (&"x".repeat(255), 2)]),
        ];
        for bytes in [as_it_is, &made[0], &made[1]] {
            for first in 0..20u8 {
                let mut seed = vec![n as u8, 4];
                for k in 0..4u8 {
                    seed.extend([first + k * 3, k * 5 + first, k + 1, k * 17]);
                }
                seed.extend_from_slice(bytes);
                seeds.push(seed);
            }
        }
    }
    seeds
}

/// A unit with these names: of the directory (0), of its parent (1), or of a file.
fn unit(base: &Base, names: &[(&str, u32)]) -> Vec<u8> {
    let mut unit = Vec::new();
    for (n, (name, of)) in names.iter().enumerate() {
        let ino = match of {
            0 => base.directory,
            1 => 2,
            file => base.file + file - 2,
        };
        let kind = if *of < 2 { 4 } else { 8 };
        let size = 8 + ((name.len() + 4) & !3);
        let left = DIRBLKSIZ - unit.len();
        let reclen = if n + 1 == names.len() { left } else { size } as u16;
        let (ino, reclen) = match base.sb.order {
            Order::Little => (ino.to_le_bytes(), reclen.to_le_bytes()),
            Order::Big => (ino.to_be_bytes(), reclen.to_be_bytes()),
        };
        unit.extend(ino);
        unit.extend(reclen);
        unit.extend([kind, name.len() as u8]);
        unit.extend(name.as_bytes());
        unit.resize(
            unit.len()
                .next_multiple_of(4)
                .max(unit.len() + 1)
                .next_multiple_of(4),
            0,
        );
    }
    unit.resize(DIRBLKSIZ, 0);
    unit
}
