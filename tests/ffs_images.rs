//! FFS images of four makers, read by the file system's own code without a kernel around it.

use std::collections::BTreeSet;

use rump_tests::disk::{Disk, FREEBSD_SPARSE3, Format};
use rump_tests::spoil::Image;
use rump_tests::tree::{Node, Tree, fingerprint};
use rumpfs_ffs::bmap;
use rumpfs_ffs::check::check;
use rumpfs_ffs::corrupt::Fault;
use rumpfs_ffs::dir;
use rumpfs_ffs::inode::{Contents, Inode};
use rumpfs_ffs::raw::UFS_ROOTINO;
use rumpfs_ffs::superblock::{self, Clean, Superblock, Tolerance};
use rumpvfs::vnode::VnodeType;

struct Volume {
    bytes: Vec<u8>,
    sb: Superblock,
}

impl Volume {
    fn of(disk: &Disk) -> Volume {
        let bytes = std::fs::read(&disk.image).expect("the image");
        let sb = superblock::find(&Image(&bytes), Tolerance::default()).expect("a superblock");
        Volume { bytes, sb }
    }

    fn image(&self) -> Image<'_> {
        Image(&self.bytes)
    }

    fn inode(&self, ino: u32) -> Result<Inode, Fault> {
        Inode::load(&self.sb, &self.image(), ino)
    }

    fn contents(&self, inode: &Inode, from: u64, len: u64) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        let end = inode.size.min(from + len);
        let mut at = from;
        while at < end {
            let (block, into) = (at >> self.sb.bshift, at % u64::from(self.sb.bsize));
            let extent = bmap::map(&self.sb, &self.image(), inode, block, 1 << 20)?;
            let run = (extent.bytes - into).min(end - at) as usize;
            match extent.address {
                Some(address) => {
                    let start = (self.sb.byte_of(address) + into) as usize;
                    bytes.extend_from_slice(&self.bytes[start..start + run]);
                }
                None => bytes.resize(bytes.len() + run, 0),
            }
            at += run as u64;
        }
        Ok(bytes)
    }

    fn names(&self, inode: &Inode) -> Result<Vec<(String, u32, Option<VnodeType>)>, Fault> {
        let mut names = Vec::new();
        dir::walk(
            &self.sb,
            &self.image(),
            inode,
            (0, u64::MAX),
            &mut |entry| {
                let name = String::from_utf8_lossy(entry.name).into_owned();
                names.push((name, entry.ino, entry.vtype));
                true
            },
        )?;
        Ok(names)
    }

    fn node(&self, inode: &Inode) -> Result<Node, Fault> {
        Ok(match inode.vtype {
            VnodeType::Dir => Node::Directory,
            VnodeType::Reg => fingerprint(&self.contents(inode, 0, u64::MAX >> 1)?),
            VnodeType::Lnk => {
                let text = match &inode.contents {
                    Contents::Text { bytes, len } => bytes[..usize::from(*len)].to_vec(),
                    _ => self.contents(inode, 0, 2000)?,
                };
                Node::Symlink(String::from_utf8_lossy(&text).into_owned())
            }
            _ => Node::Special,
        })
    }

    /// Everything below directory `ino`, but for files too large to hold.
    fn add(&self, tree: &mut Tree, ino: u32, parent: u32, prefix: &str) -> Result<(), Fault> {
        let names = self.names(&self.inode(ino)?)?;
        assert_eq!(names[0], (".".to_owned(), ino, Some(VnodeType::Dir)));
        assert_eq!(names[1], ("..".to_owned(), parent, Some(VnodeType::Dir)));
        for (name, child, vtype) in &names[2..] {
            let inode = self.inode(*child)?;
            assert_eq!(*vtype, Some(inode.vtype), "{prefix}{name}");
            let path = format!("{prefix}{name}");
            if inode.size > 1 << 32 {
                continue;
            }
            if inode.vtype == VnodeType::Dir {
                self.add(tree, *child, ino, &format!("{path}/"))?;
            }
            let before = tree.nodes.insert(path.clone(), self.node(&inode)?);
            assert_eq!(before, None, "{path} is there twice");
        }
        Ok(())
    }

    fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        self.add(&mut tree, UFS_ROOTINO, UFS_ROOTINO, "")
            .expect("all of it can be read");
        tree
    }
}

fn assert_shows(volume: &Volume, tree: &Tree) {
    let found = volume.tree();
    let all: BTreeSet<&String> = found.nodes.keys().chain(tree.nodes.keys()).collect();
    for path in all {
        assert_eq!(found.nodes.get(path), tree.nodes.get(path), "{path}");
    }
    let report = check(&volume.image()).expect("a volume that can be checked");
    let lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_consistent(), "{}", lines.join("\n"));
}

#[test]
fn images_of_makefs_show_their_tree_in_every_format_order_and_size() {
    for format in Format::VARIED {
        let disk = Disk::of_everything(format);
        let volume = Volume::of(&disk);
        assert_eq!(volume.sb.bsize as usize, format.block);
        assert_eq!(volume.sb.fsize as usize, format.fragment);
        assert_shows(&volume, &disk.tree);
    }
}

#[test]
fn a_directory_of_10_000_entries_is_read_and_every_name_found() {
    let disk = Disk::of(Format::UFS2, |files| {
        // makefs makes an inode for each KiB.
        std::fs::write(files.join("room"), vec![1; 8 << 20]).expect("a file");
        for number in 0..10_000 {
            std::fs::write(files.join(format!("entry {number}")), "").expect("a file");
        }
    });
    let volume = Volume::of(&disk);
    assert_shows(&volume, &disk.tree);
    let root = volume.inode(UFS_ROOTINO).expect("the root");
    let mut hint = 0;
    for (name, ino, _) in volume.names(&root).expect("names") {
        let (sb, image) = (&volume.sb, &volume.image());
        let found = rumpfs_ffs::lookup::lookup(sb, image, &root, name.as_bytes(), hint);
        let found = found.expect("readable").expect("there");
        assert_eq!(found.ino, ino);
        hint = found.offset;
    }
}

#[test]
fn images_of_netbsd_show_the_tree_that_netbsd_showed() {
    for name in ["ffs1-clean", "ffs2-clean", "ffs2-log-unmounted"] {
        let Some(disk) = Disk::by_netbsd(name) else {
            continue;
        };
        let volume = Volume::of(&disk);
        assert_eq!(volume.sb.clean, Clean::IS_CLEAN);
        assert_shows(&volume, &disk.tree);
    }
}

#[test]
fn images_of_freebsd_show_their_tree_in_both_orders() {
    for big_endian in [false, true] {
        let disk = Disk::by_freebsd(big_endian);
        let volume = Volume::of(&disk);
        assert_shows(&volume, &disk.tree);
        let root = volume.inode(UFS_ROOTINO).expect("the root");
        let names = volume.names(&root).expect("names");
        let sparse = names.iter().find(|(name, _, _)| name == "sparse3");
        let (_, ino, _) = sparse.expect("a file of half a terabyte");
        let inode = volume.inode(*ino).expect("its inode");
        assert_eq!(inode.size, FREEBSD_SPARSE3 + 32_768);
        let hole = volume.contents(&inode, FREEBSD_SPARSE3 - 65_536, 65_536);
        assert!(hole.expect("a hole").iter().all(|byte| *byte == 0));
        let data = volume
            .contents(&inode, FREEBSD_SPARSE3, 65_536)
            .expect("data");
        assert_eq!(data, vec![b'x'; 32_768]);
    }
}
