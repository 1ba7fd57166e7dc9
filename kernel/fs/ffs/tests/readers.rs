//! What is written here is read by a program that nobody here wrote: `dissect.ffs`, from Python's registry.

mod rig;

use std::path::{Path, PathBuf};
use std::process::Command;

use rig::{Random, Rig, attach, make, options};
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::Format;
use rumpvfs::syscalls::OpenFlags;

const MEMORY: usize = 4 << 20;
const NEW: OpenFlags = OpenFlags::READ
    .union(OpenFlags::WRITE)
    .union(OpenFlags::CREAT);

/// Prints every file's path, length and checksum, and every link's target.
const LISTER: &str = r#"
import sys, zlib
from dissect.ffs import FFS
def walk(node, path):
    for entry in node.iterdir():
        if entry.inum == 0 or entry.name in (".", ".."):
            continue
        here = path + "/" + entry.name
        if entry.is_dir():
            print(here, "dir")
            walk(entry, here)
        elif entry.is_symlink():
            print(here, "link", entry.link)
        else:
            data = entry.open().read()
            print(here, "file", len(data), zlib.crc32(data))
walk(FFS(open(sys.argv[1], "rb")).root, "")
"#;

fn python(modules: &Path) -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", modules);
    command
}

/// Where `dissect.ffs` is, installed if need be.
fn reader() -> Option<PathBuf> {
    let modules = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let has = |modules: &Path| {
        let found = python(modules).args(["-c", "import dissect.ffs"]).output();
        found.is_ok_and(|output| output.status.success())
    };
    if !has(&modules) {
        let _ = Command::new("python3")
            .args(["-m", "pip", "install", "-q", "--target"])
            .arg(&modules)
            .arg("dissect.ffs")
            .output();
    }
    has(&modules).then_some(modules)
}

/// CRC-32 as zlib computes it (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn another_reader_finds_every_name_and_byte() {
    let Some(modules) = reader() else {
        println!("SKIPPED: neither is dissect.ffs there, nor can pip install it");
        return;
    };
    let _lwp = attach(MEMORY);
    for (format, bsize, frag) in [
        (Format::Ufs1, 4096, 8),
        (Format::Ufs2, 8192, 8),
        (Format::Ufs1, 16384, 4),
        (Format::Ufs2, 32768, 8),
    ] {
        let blocks = (24 << 20) / u64::from(bsize);
        let options = options(format, Order::Little, bsize, frag, blocks);
        let rig = Rig::new(make(options));
        let want = populate(&rig, bsize as usize);
        let bytes = rig.finish("populated");
        let name = format!("written-{format:?}-{bsize}.img");
        let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&image, bytes).expect("the image is written");
        let output = python(&modules)
            .args(["-c", LISTER])
            .arg(&image)
            .output()
            .expect("python runs");
        std::fs::remove_file(&image).expect("the image goes");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut got: Vec<&str> = text.lines().collect();
        got.sort_unstable();
        assert_eq!(got, want, "{options:?}");
    }
}

/// Makes files of all sorts, with some coming and going; what a reader must print.
fn populate(rig: &Rig, bsize: usize) -> Vec<String> {
    let (vfs, proc) = (&rig.vfs, &rig.proc);
    let mut random = Random(bsize as u64);
    let mut want = Vec::new();
    for dir in ["/sub", "/sub/deep"] {
        vfs.mkdir(proc, dir.as_bytes(), 0o755).unwrap();
        want.push(format!("{dir} dir"));
    }
    for n in 0..120 {
        let path = format!("/sub/file number {n}");
        let size = match n {
            0 => 0,
            1 => 40 * bsize + 17,
            _ => random.below(3 * bsize as u64 + 100) as usize,
        };
        let data: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
        let file = vfs.open(proc, path.as_bytes(), NEW, 0o644).unwrap();
        for piece in data.chunks(3000) {
            file.write(piece).unwrap();
        }
        drop(file);
        if n % 5 == 3 {
            vfs.unlink(proc, path.as_bytes()).unwrap();
            continue;
        }
        let mut path = path;
        if n % 5 == 4 {
            let to = format!("/sub/deep/moved {n}");
            vfs.rename(proc, path.as_bytes(), to.as_bytes()).unwrap();
            path = to;
        }
        want.push(format!("{path} file {} {}", data.len(), crc32(&data)));
    }
    let long = "x".repeat(700);
    for (path, target) in [("/short", "sub/deep"), ("/long", long.as_str())] {
        vfs.symlink(proc, target.as_bytes(), path.as_bytes())
            .unwrap();
        want.push(format!("{path} link {target}"));
    }
    want.sort();
    want
}
