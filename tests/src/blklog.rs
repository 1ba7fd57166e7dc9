//! What QEMU's block driver `blklogwrites` records of a disk: every write and flush of the guest, in the order in which they were
//! over.
//!
//! Source: Linux Documentation/admin-guide/device-mapper/log-writes.rst, drivers/md/dm-log-writes.c; QEMU block/blklogwrites.c. All
//! numbers are little-endian. Sector 0 is a superblock: magic, version, number of entries (64 bits each), bytes of a sector (32
//! bits). Then each entry has a sector of its own (sector, sectors, flags, length of what follows, 64 bits each), and
//! the sectors that were written.

use std::path::Path;

/// The superblock's magic.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

/// Something that happened to the disk.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// These bytes were written, from this byte on.
    Write(u64, Vec<u8>),
    /// All writes before are stable.
    Flush,
    /// These bytes may be anything.
    Discard(u64, u64),
}

/// Arguments for QEMU: one more disk, the image at `disk`, of which `log` records what is written. `log` is made.
///
/// # Panics
/// If `log` cannot be made.
pub fn drive(disk: &Path, log: &Path) -> Vec<String> {
    let file = std::fs::File::create(log).expect("a file under target");
    // The driver does not make its log longer; it has holes where nothing is.
    file.set_len(4 << 30).expect("a file with a hole");
    let quoted = |path: &Path| path.display().to_string().replace(',', ",,");
    let file =
        |child: &str, path: &Path| format!("{child}.driver=file,{child}.filename={}", quoted(path));
    let options = format!(
        "if=none,id=recorded,driver=blklogwrites,discard=unmap,{},{}",
        file("file", disk),
        file("log", log)
    );
    [
        "-drive",
        &options,
        "-device",
        "virtio-blk-pci,drive=recorded",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Reads a log.
///
/// # Panics
/// If it is none, or one of writes with no whole sectors.
pub fn read(log: &Path) -> Vec<Entry> {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::open(log).expect("the log");
    let bytes_at = |at: u64, len: u64| {
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, at)
            .expect("the log is whole");
        bytes
    };
    let head = bytes_at(0, 32);
    assert_eq!((word(&head, 0), word(&head, 8)), (MAGIC, 1), "no log");
    let sector_size = word(&head, 24) & 0xffff_ffff;
    let mut at = sector_size;
    let mut entries = Vec::new();
    for _ in 0..word(&head, 16) {
        let entry = bytes_at(at, 32);
        let (start, len) = (word(&entry, 0) * sector_size, word(&entry, 8) * sector_size);
        let flags = word(&entry, 16);
        at += sector_size;
        if flags & FLUSH != 0 {
            entries.push(Entry::Flush);
        }
        if flags & DISCARD != 0 {
            entries.push(Entry::Discard(start, len));
        } else if len > 0 {
            entries.push(Entry::Write(start, bytes_at(at, len)));
            at += len;
        }
    }
    entries
}
