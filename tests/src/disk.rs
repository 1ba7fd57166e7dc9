//! FFS images and the trees they must show: made here with Debian's makefs, or by NetBSD and FreeBSD themselves.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::random::Random;
use crate::tree::{Node, Tree, fingerprint};
use crate::{root, say, scratch, setup};

/// An FFS image and what it must show.
#[derive(Debug)]
pub struct Disk {
    /// The image's file; it goes when this value does.
    pub image: PathBuf,
    /// What is on it.
    pub tree: Tree,
    _folder: TempDir,
}

/// What makefs can vary.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// 1 or 2, for UFS1 or UFS2.
    pub version: u8,
    /// Whether numbers on the disk are big-endian.
    pub big_endian: bool,
    /// Bytes in a block.
    pub block: usize,
    /// Bytes in a fragment.
    pub fragment: usize,
}

impl Format {
    /// UFS2 as makefs makes it when nothing is said.
    pub const UFS2: Self = Self {
        version: 2,
        big_endian: false,
        block: 8192,
        fragment: 1024,
    };

    /// One after the other, all that makefs can make: both versions, both byte orders, the smallest and the largest blocks.
    pub const VARIED: [Self; 7] = [
        Self {
            version: 1,
            big_endian: false,
            block: 4096,
            fragment: 512,
        },
        Self {
            version: 1,
            big_endian: true,
            block: 8192,
            fragment: 1024,
        },
        Self {
            version: 1,
            big_endian: false,
            block: 65_536,
            fragment: 8192,
        },
        Self {
            version: 2,
            big_endian: false,
            block: 4096,
            fragment: 4096,
        },
        Self {
            version: 2,
            big_endian: true,
            block: 4096,
            fragment: 1024,
        },
        Self {
            version: 2,
            big_endian: false,
            block: 32_768,
            fragment: 4096,
        },
        Self {
            version: 2,
            big_endian: true,
            block: 16_384,
            fragment: 2048,
        },
    ];

    /// The format as the file system's own code names it.
    pub(crate) fn superblocks(&self) -> rumpfs_ffs::superblock::Format {
        match self.version {
            1 => rumpfs_ffs::superblock::Format::Ufs1,
            _ => rumpfs_ffs::superblock::Format::Ufs2,
        }
    }

    /// The length at which a file's last byte is the first that needs an indirect block of `level` (1, 2).
    fn first_indirect(&self, level: u32) -> usize {
        // Twelve direct pointers; 32-bit ones in UFS1, 64-bit ones in UFS2 (NetBSD sys/ufs/ufs/dinode.h, UFS_NDADDR).
        let pointers = self.block / if self.version == 1 { 4 } else { 8 };
        (0..level)
            .map(|below| if below == 0 { 12 } else { pointers.pow(below) })
            .sum::<usize>()
            * self.block
            + 1
    }
}

impl Disk {
    /// An image of a folder that `fill` fills.
    ///
    /// # Panics
    /// If makefs fails.
    pub fn of(format: Format, fill: impl FnOnce(&Path)) -> Self {
        setup::need(&["makefs"]);
        let folder = tempfile::tempdir_in(scratch("disks")).expect("a folder under target");
        let files = folder.path().join("files");
        fs::create_dir(&files).expect("a folder under target");
        fill(&files);
        let tree = Tree::of_folder(&files).expect("a tree of our own");
        let image = folder.path().join("disk.img");
        // makefs' own estimates of the room that directories, indirect blocks and inodes take are too small.
        let bytes: u64 = tree
            .nodes
            .values()
            .map(|node| {
                if let Node::File { size, .. } = node {
                    *size
                } else {
                    0
                }
            })
            .sum();
        let count = tree.nodes.len() as u64;
        let room = bytes + bytes / 4 + count * (format.fragment as u64 + 512) + (4 << 20);
        let density = (room / (count * 2 + 200)).max(1024);
        let geometry = format!(
            "version={},bsize={},fsize={},density={density}",
            format.version, format.block, format.fragment
        );
        let done = Command::new("makefs")
            .env("PATH", path_with_sbin())
            .args([
                "-t",
                "ffs",
                "-B",
                if format.big_endian { "be" } else { "le" },
                "-o",
                &geometry,
            ])
            .args(["-M", &room.to_string()])
            .args([&image, &files])
            .output()
            .expect("makefs runs");
        assert!(
            done.status.success(),
            "makefs {format:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        fs::remove_dir_all(&files).expect("our own folder");
        Self {
            image,
            tree,
            _folder: folder,
        }
    }

    /// Files of every length at which the format does something new, odd names, a deep tree, links.
    pub fn of_everything(format: Format) -> Self {
        Self::of(format, |files| fill_with_everything(files, format))
    }

    /// The image `name` of `shared/images`, made by NetBSD; none where that folder is not beside the project, which is said aloud.
    pub fn by_netbsd(name: &str) -> Option<Self> {
        let (folder, image, listing) = unpacked(name)?;
        Some(Self {
            image,
            tree: Tree::of_listing(&listing).expect("the listing beside the image"),
            _folder: folder,
        })
    }

    /// The same for an image that has no listing beside it: its tree is empty.
    pub fn by_netbsd_untold(name: &str) -> Option<Self> {
        let (folder, image, _) = unpacked(name)?;
        Some(Self {
            image,
            tree: Tree::default(),
            _folder: folder,
        })
    }

    /// An image made by FreeBSD's newfs and kernel, little- or big-endian, as the crate fuse-ufs brings it for its own tests.
    ///
    /// The tree leaves out `sparse3`, a file of half a terabyte: see [`FREEBSD_SPARSE3`].
    pub fn by_freebsd(big_endian: bool) -> Self {
        setup::need(&["zstd"]);
        let folder = tempfile::tempdir_in(scratch("disks")).expect("a folder under target");
        let packed = freebsd_resources().join(if big_endian {
            "ufs-big.img.zst"
        } else {
            "ufs-little.img.zst"
        });
        let image = folder.path().join("disk.img");
        unpack(Command::new("zstd").arg("-dc").arg(&packed), &image);
        Self {
            image,
            tree: freebsd_tree(),
            _folder: folder,
        }
    }
}

/// In FreeBSD's image, `sparse3` has its only data, 32 KiB of `x`, at this offset, and ends with it: it takes a triple indirect block.
pub const FREEBSD_SPARSE3: u64 = (12 + 4096 + 4096 * 4096) * 32_768;

/// The image `name` of `shared/images` in a folder of its own, and where its listing would be; none where it is missing, which is said
/// aloud.
fn unpacked(name: &str) -> Option<(TempDir, PathBuf, PathBuf)> {
    let images = std::env::var_os("RUMP_SHARED")
        .map_or_else(|| root().join("../shared"), PathBuf::from)
        .join("images");
    let packed = images.join(format!("{name}.img.xz"));
    if !packed.exists() {
        say(&format!(
            "no {}: NetBSD's image is not tried",
            packed.display()
        ));
        return None;
    }
    setup::need(&["xz"]);
    let folder = tempfile::tempdir_in(scratch("disks")).expect("a folder under target");
    let image = folder.path().join("disk.img");
    unpack(Command::new("xz").arg("-dc").arg(&packed), &image);
    Some((folder, image, images.join(format!("{name}.json"))))
}

fn path_with_sbin() -> String {
    format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}

fn unpack(command: &mut Command, image: &Path) {
    let done = command
        .stdout(File::create(image).expect("a file under target"))
        .status()
        .expect("the unpacker runs");
    assert!(done.success(), "{command:?}");
}

/// The folder of images in fuse-ufs 0.2.1, which cargo fetches; the crate is not built.
fn freebsd_resources() -> PathBuf {
    let kept = scratch("freebsd");
    let resources = kept.join("resources");
    let lock = File::create(kept.join("lock")).expect("a lock file");
    lock.lock().expect("a lock under target");
    if resources.exists() {
        return resources;
    }
    let package = tempfile::tempdir_in(&kept).expect("a folder under target");
    let write = |name: &str, text: &str| {
        fs::write(package.path().join(name), text).expect("a file under target")
    };
    write("Cargo.toml", FREEBSD_PACKAGE);
    write("lib.rs", "");
    let done = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(package.path())
        .args(["vendor", "--quiet", "vendored"])
        .stdin(Stdio::null())
        .output()
        .expect("cargo runs");
    assert!(
        done.status.success(),
        "cargo vendor: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    fs::rename(
        package.path().join("vendored/fuse-ufs/resources"),
        &resources,
    )
    .expect("fuse-ufs 0.2.1 has a folder resources");
    resources
}

const FREEBSD_PACKAGE: &str = r#"
[package]
name = "freebsd-images"
edition = "2024"
[lib]
path = "lib.rs"
[dependencies]
fuse-ufs = "=0.2.1"
[workspace]
"#;

/// What the script that made FreeBSD's images put on them (fuse-ufs scripts/mkimg.sh).
fn freebsd_tree() -> Tree {
    let numbers = |count: u32| {
        (0..count)
            .map(|number| format!("{number:015x}\n"))
            .collect::<String>()
            .into_bytes()
    };
    let sparse =
        |hole: usize, data: usize| fingerprint(&[vec![0; hole], vec![b'x'; data]].concat());
    let mut tree = Tree::default();
    let mut add = |path: &str, node: Node| tree.nodes.insert(path.to_owned(), node);
    for directory in [".snap", "dir1", "dir1/dir2", "dir1/dir2/dir3"] {
        add(directory, Node::Directory);
    }
    add("file1", fingerprint(b"This is a simple file.\n"));
    add("file3", fingerprint(&numbers(1 << 16)));
    add("dir1/dir2/dir3/file2", fingerprint(b"Hello World\n"));
    add("link1", Node::Symlink("dir1/dir2/dir3/file2".to_owned()));
    add("long-link", Node::Symlink("./".repeat(508) + "//file1"));
    add("sparse", sparse((12 + 4096) * 32_768, 32_768));
    add("sparse2", sparse((12 + 4096) * 32_768, 4096));
    for empty in ["xattrs", "xattrs2", "xattrs3"] {
        add(empty, fingerprint(b""));
    }
    tree
}

/// Writes a file of `size` bytes that its path decides.
pub fn write_random(path: &Path, size: usize) {
    let seed = path.file_name().map_or(0, |name| {
        name.as_encoded_bytes()
            .iter()
            .fold(size as u64, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
            })
    });
    fs::write(path, Random::new(seed).bytes(size)).expect("a file under target");
}

fn fill_with_everything(files: &Path, format: Format) {
    let Format {
        block, fragment, ..
    } = format;
    let folder = |name: &str| {
        let path = files.join(name);
        fs::create_dir_all(&path).expect("a folder under target");
        path
    };

    let sizes = folder("sizes");
    let mut lengths = vec![
        0,
        1,
        511,
        4096,
        fragment - 1,
        fragment,
        fragment + 1,
        block - 1,
        block,
        block + 1,
    ];
    lengths.extend([
        12 * block - 1,
        12 * block,
        12 * block + 1,
        12 * block + fragment + 1,
        14 * block - 1,
    ]);
    let double = format.first_indirect(2);
    if double < 6 << 20 {
        lengths.extend([double - 1, double, double + 3 * block]);
    }
    for length in lengths {
        write_random(&sizes.join(format!("{length}.bin")), length);
    }

    let names = folder("names");
    for name in [
        "with space",
        "per%41cent",
        "ask?",
        "hash#",
        "plus+and&",
        "<b>bold",
        "\"quoted\"",
        "it's",
        "ümläut-日本",
        ".hidden",
        "~",
    ] {
        write_random(&names.join(name), 100);
    }
    write_random(&names.join("n".repeat(255)), 255);
    fs::create_dir(names.join("folder with space")).expect("a folder under target");
    write_random(&names.join("folder with space/inside"), 10);

    // Long names fill several directory blocks.
    let many = folder("many");
    for number in 0..200 {
        write_random(&many.join(format!("{number:0>100}")), number);
    }
    folder("empty");

    let deep = (0..40).fold(String::from("deep"), |path, level| {
        format!("{path}/{level}")
    });
    write_random(&folder(&deep).join("bottom"), 1000);

    let links = folder("links");
    let link =
        |target: &str, name: &str| symlink(target, links.join(name)).expect("a link under target");
    link("../sizes/4096.bin", "up");
    link("/sizes/4096.bin", "from-the-root");
    link("../names", "to-a-folder");
    link("to-a-folder/~", "through-a-link");
    link("../../../../../../sizes/1.bin", "above-the-root");
    link("nowhere", "dangling");
    link("loop-b", "loop-a");
    link("loop-a", "loop-b");
    // A target this long or shorter lies in the inode: 60 bytes in UFS1, 120 in UFS2 (NetBSD sys/ufs/ufs/dinode.h, UFS1_MAXSYMLINKLEN).
    for length in [59, 60, 61, 119, 120, 121, 1000] {
        let end = if length % 2 == 0 {
            "../sizes/1.bin"
        } else {
            "..//sizes/1.bin"
        };
        link(
            &("./".repeat((length - end.len()) / 2) + end),
            &format!("of-{length}"),
        );
    }
    fs::hard_link(sizes.join("4096.bin"), links.join("hard")).expect("a link under target");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_indirect_lengths_are_those_of_the_format() {
        let format = Format {
            version: 2,
            big_endian: false,
            block: 4096,
            fragment: 4096,
        };
        assert_eq!(format.first_indirect(1), 12 * 4096 + 1);
        assert_eq!(format.first_indirect(2), (12 + 512) * 4096 + 1);
    }

    #[test]
    fn makefs_images_come_in_every_format() {
        for format in Format::VARIED {
            let disk = Disk::of_everything(format);
            let image = fs::read(&disk.image).expect("the image");
            // makefs puts the superblock of UFS2 where that of UFS1 goes, too.
            let at = 8192;
            // fs_magic lies at 1372 in the superblock (NetBSD sys/ufs/ffs/fs.h, struct fs).
            let magic: [u8; 4] = image[at + 1372..at + 1376].try_into().expect("four bytes");
            let magic = if format.big_endian {
                u32::from_be_bytes(magic)
            } else {
                u32::from_le_bytes(magic)
            };
            assert_eq!(
                magic,
                if format.version == 1 {
                    0x0001_1954
                } else {
                    0x1954_0119
                },
                "{format:?}"
            );
        }
    }

    #[test]
    fn freebsds_images_are_there_in_both_byte_orders() {
        for big_endian in [false, true] {
            let disk = Disk::by_freebsd(big_endian);
            let image = fs::read(&disk.image).expect("the image");
            let magic = &image[65_536 + 1372..65_536 + 1376];
            assert_eq!(
                magic,
                if big_endian {
                    [0x19, 0x54, 0x01, 0x19]
                } else {
                    [0x19, 0x01, 0x54, 0x19]
                }
            );
        }
    }

    #[test]
    fn netbsds_images_come_with_their_trees() {
        let Some(disk) = Disk::by_netbsd("ffs2-clean") else {
            return;
        };
        assert_eq!(
            disk.tree.resolve("d3/d66").map(|(_, node)| node),
            Some(&Node::Directory)
        );
    }
}
