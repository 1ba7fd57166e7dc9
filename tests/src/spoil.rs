//! Spoils FFS images: fields of superblocks, groups, inodes, indirect blocks and directories, as a seed decides.
//!
//! A [`Spoiler`] is made of a sound image, in which it finds the places; then it spoils copies of it.

use std::path::Path;

use crate::disk::{Disk, Format, write_random};
use std::fmt::Write as _;

use rumpfs_ffs::bmap;
use rumpfs_ffs::disk::Metadata;
use rumpfs_ffs::inode::{Contents, Inode};
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::{self, Superblock, Tolerance};
use rumpuser::Errno;
use rumpvfs::vnode::VnodeType;

use crate::random::Random;

/// An image in memory, as the file system's own code reads it.
pub struct Image<'a>(pub &'a [u8]);

impl Metadata for Image<'_> {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        visit(self.0.get(start..end).ok_or(Errno::EINVAL)?);
        Ok(())
    }
}

/// Places of one kind of structure: where each starts, and how long it is.
struct Places {
    kind: &'static str,
    places: Vec<(usize, usize)>,
}

/// Knows where an image can be spoiled.
pub struct Spoiler {
    order: Order,
    kinds: Vec<Places>,
}

impl Spoiler {
    /// Finds the places in a sound image.
    ///
    /// # Panics
    /// If the image is not sound.
    pub fn new(bytes: &[u8]) -> Spoiler {
        let image = Image(bytes);
        let sb = superblock::find(&image, Tolerance::default()).expect("a sound image");
        let inodes: Vec<Inode> = (2..sb.inodes())
            .filter_map(|ino| Inode::load(&sb, &image, ino).ok())
            .collect();
        let kind = |kind, places| Places { kind, places };
        let group = |cg| (sb.byte_of(sb.cgtod(cg)) as usize, 168);
        let kinds = vec![
            kind("superblock", vec![(sb.location as usize, 1376)]),
            kind("group", (0..sb.ncg).map(group).collect()),
            kind(
                "inode",
                inodes.iter().map(|inode| inode_place(&sb, inode)).collect(),
            ),
            kind(
                "indirect block",
                inodes
                    .iter()
                    .flat_map(|inode| indirect(&sb, inode))
                    .collect(),
            ),
            kind(
                "directory",
                inodes
                    .iter()
                    .filter(|inode| inode.vtype == VnodeType::Dir)
                    .map(|inode| first_block(&sb, &image, inode))
                    .collect(),
            ),
        ];
        Spoiler {
            order: sb.order,
            kinds: kinds
                .into_iter()
                .filter(|kind| !kind.places.is_empty())
                .collect(),
        }
    }

    /// Finds the places of a log that is in use: what the superblock says of it, the headers, the heads of records.
    ///
    /// # Panics
    /// If there is none in a sound image.
    pub fn of_log(bytes: &[u8]) -> Spoiler {
        let sb = superblock::find(&Image(bytes), Tolerance::default()).expect("a sound image");
        let journal = sb.journal.expect("a log");
        let block = journal.block_size as usize;
        let log = bytes.chunks_exact(block).enumerate();
        let log = log
            .skip(journal.address as usize)
            .take(journal.blocks as usize);
        let is_head = |head: &[u8]| (0x5741_424c..=0x5741_424f).contains(&number(sb.order, head));
        let heads = log
            .filter(|(_, head)| is_head(&head[..4]))
            .map(|(n, head)| {
                let count = number(sb.order, &head[8..12]).min(31) as usize;
                (n * block, 80.max(16 + 16 * count))
            });
        let kind = |kind, places| Places { kind, places };
        Spoiler {
            order: sb.order,
            kinds: vec![
                kind(
                    "superblock: log",
                    // `fs_journal_version` and what follows.
                    vec![(sb.location as usize + 864, 40)],
                ),
                kind("log", heads.collect()),
            ],
        }
    }

    /// Spoils one to four fields; in one image of twenty, cuts off its end. Says what was done.
    pub fn spoil(&self, image: &mut Vec<u8>, random: &mut Random) -> String {
        let mut done = String::new();
        for _ in 0..=random.below(4) {
            let kind = &self.kinds[random.below(self.kinds.len())];
            let (start, length) = kind.places[random.below(kind.places.len())];
            let width = 1 << random.below(4);
            let field = random.below(length / width) * width;
            let value = self.value(image, start, length, width, random);
            image[start + field..start + field + width].copy_from_slice(&value);
            let _ = write!(
                done,
                "{} at {start}, field {field}: {value:02x?}; ",
                kind.kind
            );
        }
        if random.below(20) == 0 {
            let sectors = random.below(image.len() / 512);
            image.truncate(sectors * 512);
            let _ = write!(done, "cut off after {sectors} sectors");
        }
        done
    }

    /// What a field becomes: something that breaks things, or what another field of the structure holds.
    fn value(
        &self,
        image: &[u8],
        start: usize,
        length: usize,
        width: usize,
        random: &mut Random,
    ) -> Vec<u8> {
        let near = (random.below(5) as u64).wrapping_sub(2);
        let number = match random.below(6) {
            0 => near,
            1 => (1u64 << random.below(64)).wrapping_add(near),
            2 => u64::MAX - random.below(64) as u64,
            3 => random.number(),
            _ => {
                let other = start + random.below(length / width) * width;
                return image[other..other + width].to_vec();
            }
        };
        match self.order {
            Order::Little => number.to_le_bytes()[..width].to_vec(),
            Order::Big => number.to_be_bytes()[8 - width..].to_vec(),
        }
    }
}

fn number(order: Order, bytes: &[u8]) -> u32 {
    let bytes = bytes.try_into().expect("four bytes");
    order.u32(bytes)
}

fn inode_place(sb: &Superblock, inode: &Inode) -> (usize, usize) {
    let place = sb.inode_place(inode.ino).expect("it was loaded from there");
    let start = sb.byte_of(place.block) as usize + place.byte;
    (start, sb.format.inode_size())
}

/// The start of each indirect block that the inode itself points to.
fn indirect(sb: &Superblock, inode: &Inode) -> Vec<(usize, usize)> {
    let Contents::Blocks { indirect, .. } = &inode.contents else {
        return Vec::new();
    };
    let there = indirect.iter().filter(|address| **address > 0);
    there
        .map(|address| (sb.byte_of(*address as u64) as usize, 256))
        .collect()
}

fn first_block(sb: &Superblock, image: &Image<'_>, inode: &Inode) -> (usize, usize) {
    let extent = bmap::map(sb, image, inode, 0, 1).expect("a sound directory");
    let start = extent.address.expect("a directory has no holes");
    (sb.byte_of(start) as usize, extent.bytes.min(4096) as usize)
}

/// Sound images to be spoiled, of several formats, with everything on them that metadata describe.
pub fn subjects() -> Vec<(Spoiler, Vec<u8>)> {
    let formats = [
        Format::VARIED[0],
        Format::VARIED[1],
        Format::VARIED[4],
        Format::UFS2,
    ];
    let subject = |format| {
        let disk = Disk::of(format, fill);
        let bytes = std::fs::read(&disk.image).expect("the image");
        (Spoiler::new(&bytes), bytes)
    };
    formats.into_iter().map(subject).collect()
}

fn fill(files: &Path) {
    for (name, size) in [
        ("empty", 0),
        ("short", 700),
        ("long", 90_000),
        ("longer", 300_000),
    ] {
        write_random(&files.join(name), size);
    }
    for path in ["a/b/c", "many"] {
        std::fs::create_dir_all(files.join(path)).expect("a folder");
    }
    for number in 0..60 {
        write_random(&files.join(format!("many/{number:0>30}")), number);
    }
    std::os::unix::fs::symlink("a/b", files.join("link")).expect("a link");
    std::os::unix::fs::symlink("a/".repeat(100), files.join("long-link")).expect("a link");
}
