//! A volume whose log was in use, with a log that was changed at random or is made of the input: mounted for reading and for
//! writing, walked, written, checked and repaired.
//!
//! An input: which volume, what is done to its log (bit 0: one is made; bit 1: nobody mounts it before it is repaired), and how it is
//! mounted for writing (a byte each). A log that is made: its byte order, where its records begin (two bytes) and how many there
//! are (a byte), then the records, as `Made` says. Then changes, as in [`crate::ffs_image`]: of the superblock's words on the log,
//! of the log, and of all else; the rest are operations of four bytes each.
//!
//! What must hold: no panic; an end; every page comes back; what a volume without a finding shows of its log to a reader is what
//! a writer gets; and a repair leaves what `ffs_check` says.

use std::sync::OnceLock;

use rumpfs_ffs::check::check;
use rumpfs_ffs::journal::Journal;
use rumpfs_ffs::order::Order;
use rumpfs_ffs::raw::RawSuperblock;
use rumpfs_ffs::superblock::{self, Flags, Tolerance};
use rumpfs_ffs::tune::ask_for_log;
use rumpkern::uvm;
use rumpuser::SECTOR_SIZE;
use rumpvfs::wapbl::raw::{Fixed, Header, WC_BLOCKS, WC_INODES, WC_REVOCATIONS};
use rumpvfs::wapbl::{ByteOrder, LEAST_BYTES};

use crate::ffs_check::mend;
use crate::ffs_image::{Base, SLACK_PAGES, change};
use crate::input::Input;
use crate::machine::attach;
use crate::volume::{Change, Image, Machine, filled};

/// Operations on a mounted volume.
const MOST_CHANGES: usize = 16;
/// Records of a log that is made.
const MOST_RECORDS: usize = 12;
/// Entries of one of its records.
const MOST_ENTRIES: usize = 33;
/// Files that a walk looks at.
const MOST_FILES: usize = 100;
/// Bytes of the headers and of the log that changes go for.
const CHANGED_BYTES: usize = 4096;

/// A volume that lost its power with a log in use.
struct Logged {
    base: Base,
    journal: Journal,
    /// Byte of the image where the superblock says what the log is.
    fields: usize,
}

fn bases() -> &'static [Logged] {
    static BASES: OnceLock<Vec<Logged>> = OnceLock::new();
    BASES.get_or_init(|| {
        let volumes = filled().into_iter().enumerate();
        volumes
            .map(|(n, bytes)| Logged::new(bytes, n % 2 == 0))
            .collect()
    })
}

/// Byte of a volume where its superblock says what its log is.
fn journal_fields(bytes: &[u8]) -> usize {
    let sb = superblock::find(&Image(bytes.to_vec()), Tolerance::default()).expect("it is sound");
    sb.location as usize + core::mem::offset_of!(RawSuperblock<zerocopy::LE>, journal)
}

impl Logged {
    /// The volume in `bytes` when its log, `behind` it or inside, holds more than its disk.
    fn new(bytes: Vec<u8>, behind: bool) -> Logged {
        let mut base = Base::new(bytes.clone());
        let fields = journal_fields(&bytes);
        let mut image = Image(bytes);
        ask_for_log(&mut image, LEAST_BYTES).expect("it has none yet");
        let mut bytes = image.0;
        if behind {
            bytes.resize(bytes.len() + LEAST_BYTES as usize, 0);
        }
        let machine = Machine::new(bytes);
        let mount = machine.mount("log").expect("there is room for a log");
        for (change, path, other) in [
            (Change::Mkdir, "/logged", ""),
            (Change::Write(0, 9000), "/logged/file", ""),
            (Change::Unlink, "/d/long", ""),
            (Change::Rename, "/d/linked", "/logged/linked"),
            (Change::Sync, "", ""),
            (Change::Write(100, 600), "/logged/other", ""),
        ] {
            let done = machine.change(change, path.as_bytes(), other.as_bytes());
            assert_eq!(done, Ok(()), "{change:?} {path}");
        }
        // This is when its power fails.
        base.bytes = machine.bytes();
        machine.unmount(&mount).expect("nothing is in use");
        let sb = superblock::find(&Image(base.bytes.clone()), Tolerance::default());
        let sb = sb.expect("it is sound");
        assert!(sb.flags.contains(Flags::DOWAPBL), "its log is in use");
        let journal = sb.journal.expect("it has a log");
        let log = (journal.address * journal.block_size) as usize;
        for place in [
            (fields, 40),
            (log, 80),
            (log + 512, 80),
            (log + 1024, CHANGED_BYTES),
        ] {
            // As likely as all that the volume has.
            let count = base.places.len() / 4 + 1;
            base.places.extend(vec![place; count]);
        }
        Logged {
            base,
            journal,
            fields,
        }
    }

    /// The image with a log as `input` says, and then changed as it says.
    fn image(&self, is_made: bool, input: &mut Input<'_>) -> Vec<u8> {
        let mut bytes = self.base.bytes.clone();
        if is_made {
            Made::new(self, &mut bytes, input).records(input);
        }
        self.base.spoil(&mut bytes, input);
        bytes
    }
}

/// A log under construction.
///
/// A record: its kind, how many entries it has, what is wrong with its length (a byte each); then its entries. One of blocks or
/// of revocations is where (two bytes), how long, in which field its contents differ from what is there, and what is added to that
/// (a byte each); one of inodes is a number and a mode (two bytes each).
struct Made<'a> {
    base: &'a Base,
    bytes: &'a mut [u8],
    fixed: Fixed,
    /// Byte of the image where the log begins.
    log: usize,
    tail: u64,
    head: u64,
}

impl Made<'_> {
    fn new<'a>(logged: &'a Logged, bytes: &'a mut [u8], input: &mut Input<'_>) -> Made<'a> {
        let mut journal = logged.journal;
        let order = if input.u8() & 1 == 0 {
            ByteOrder::Little
        } else {
            journal.order = Order::Big;
            ByteOrder::Big
        };
        bytes[logged.fields..logged.fields + 40].copy_from_slice(&journal.encode());
        let fixed = Fixed {
            order,
            shift: journal.block_size.trailing_zeros(),
            circ_size: (journal.blocks - 2) * journal.block_size,
        };
        let blocks = fixed.circ_size / fixed.block();
        let tail = fixed.circ_off() + u64::from(input.u16()) % blocks * fixed.block();
        Made {
            base: &logged.base,
            bytes,
            fixed,
            log: (journal.address * journal.block_size) as usize,
            tail,
            head: tail,
        }
    }

    /// Writes the records, and the headers for them.
    fn records(&mut self, input: &mut Input<'_>) {
        let mut used = 0;
        for _ in 0..usize::from(input.u8()) % (MOST_RECORDS + 1) {
            let record = self.record(input);
            // One that is full looks as if it were empty.
            if used + record.len() as u64 >= self.fixed.circ_size {
                break;
            }
            used += record.len() as u64;
            self.append(&record);
        }
        let (head, tail) = if used == 0 {
            (0, 0)
        } else {
            (self.head, self.tail)
        };
        let generation = u32::from(input.u8());
        for slot in 0..2 {
            let header = Header {
                generation: generation + slot,
                head,
                tail,
            };
            let at = self.log + (slot << self.fixed.shift) as usize;
            let block = &mut self.bytes[at..at + self.fixed.block() as usize];
            self.fixed.encode_header(block, &header, (0, 0));
            if input.u8() & 1 == 1 {
                // As NetBSD writes it: without a checksum, so that what is changed of it counts.
                block[8..12].fill(0);
            }
        }
    }

    fn record(&self, input: &mut Input<'_>) -> Vec<u8> {
        let kind = [WC_BLOCKS, WC_REVOCATIONS, WC_INODES][usize::from(input.u8() % 3)];
        let most = match kind {
            WC_INODES => self.fixed.inodes_per_list(),
            _ => self.fixed.blocks_per_list(),
        };
        let count = usize::from(input.u8()) % (MOST_ENTRIES + 1);
        let quirk = input.u8();
        let mut head = vec![0; self.fixed.block() as usize];
        let mut contents = Vec::new();
        for n in 0..count.min(most) {
            let (first, second) = (input.u16(), input.u16());
            if kind == WC_INODES {
                let (ino, mode) = (u32::from(first), u32::from(second));
                self.fixed.encode_inode(&mut head, n, ino, mode);
                continue;
            }
            let sectors = [1, 2, 8, 16][usize::from(second & 3)];
            let sector = self.sector(first);
            self.fixed
                .encode_block(&mut head, n, sector, sectors * SECTOR_SIZE as u32);
            if kind == WC_BLOCKS {
                self.contents(&mut contents, (sector, sectors as usize), input.array());
            }
        }
        let len = (head.len() + contents.len()) as u64;
        let told = match quirk {
            0xff => len + self.fixed.block(),
            0xfe => len.saturating_sub(self.fixed.block()),
            0xfd => len + 1,
            _ => len,
        };
        self.fixed
            .encode_list(&mut head, (kind, told, count, quirk & 1 == 1));
        head.extend(contents);
        head
    }

    /// The sector that `which` means: of a structure on the volume, or simply that.
    fn sector(&self, which: u16) -> u64 {
        match which & 0x8000 {
            0 => {
                let (start, _) = self.base.places[usize::from(which) % self.base.places.len()];
                (start / SECTOR_SIZE) as u64
            }
            _ => u64::from(which & 0x7fff),
        }
    }

    /// Appends what the volume has there, with a byte changed.
    fn contents(&self, contents: &mut Vec<u8>, place: (u64, usize), [at, by]: [u8; 2]) {
        let (start, len) = (place.0 as usize * SECTOR_SIZE, place.1 * SECTOR_SIZE);
        let from = contents.len();
        let there = self.bytes.get(start..).unwrap_or_default();
        contents.extend(&there[..len.min(there.len())]);
        contents.resize(from + len, 0);
        let byte = &mut contents[from + usize::from(at) * 4 % len];
        *byte = byte.wrapping_add(by);
    }

    fn append(&mut self, record: &[u8]) {
        let block = self.fixed.block();
        for piece in record.chunks(block as usize) {
            let at = self.log + self.head as usize;
            self.bytes[at..at + piece.len()].copy_from_slice(piece);
            self.head += block;
            if self.head == self.fixed.circ_off() + self.fixed.circ_size {
                self.head = self.fixed.circ_off();
            }
        }
    }
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let _lwp = attach();
    static BEFORE: OnceLock<usize> = OnceLock::new();
    let mut input = Input::new(data);
    let logged = &bases()[input.one_of(&[0, 1, 2, 3])];
    let how = input.u8();
    let options = input.one_of(&["", "log", "force", "log,force"]);
    let image = logged.image(how & 1 == 1, &mut input);
    let free = *BEFORE.get_or_init(|| uvm::stats().free);
    let left = match how & 2 {
        0 => use_it(&image, options, &mut input),
        _ => Some(image),
    };
    if let Some(left) = left {
        mend(left);
    }
    let lost = free.saturating_sub(uvm::stats().free);
    assert!(lost < SLACK_PAGES, "{lost} pages are gone");
}

/// Reads and writes; answers what is on the disk then, if it could be written.
fn use_it(image: &[u8], options: &str, input: &mut Input<'_>) -> Option<Vec<u8>> {
    let shown = read(image);
    let found = check(&Image(image.to_vec()));
    let is_sound = found.is_ok_and(|report| report.is_consistent());
    write(image, options, input, shown.filter(|_| is_sound))
}

/// What there is, if it can be mounted for reading, which leaves the disk as it was.
fn read(image: &[u8]) -> Option<Vec<Vec<u8>>> {
    let machine = Machine::new(image.to_vec());
    let mount = machine.mount("ro").ok()?;
    let (paths, _) = machine.walk("/", MOST_FILES);
    assert_eq!(machine.unmount(&mount), Ok(()), "nothing is in use");
    assert!(machine.bytes() == image, "a reader wrote");
    Some(paths)
}

/// Mounts for writing, does something, unmounts; answers what is on the disk then, if it could.
fn write(
    image: &[u8],
    options: &str,
    input: &mut Input<'_>,
    shown: Option<Vec<Vec<u8>>>,
) -> Option<Vec<u8>> {
    let machine = Machine::new(image.to_vec());
    let mount = machine.mount(options).ok()?;
    let (mut paths, errors) = machine.walk("/", MOST_FILES);
    if let Some(shown) = shown {
        assert_eq!(errors, [], "without findings");
        assert!(paths == shown, "a reader is shown something else");
    }
    paths.push(b"/new".to_vec());
    paths.push(b"/logged/new".to_vec());
    for _ in 0..MOST_CHANGES {
        if input.is_empty() {
            break;
        }
        let [kind, one, two, amount] = input.array();
        let path = |n: u8| &paths[usize::from(n) % paths.len()][..];
        // Whether it can be done is for the volume to say.
        let _ = machine.change(change(kind, amount), path(one), path(two));
    }
    machine.unmount(&mount).ok()?;
    Some(machine.bytes())
}

/// Inputs to start from: each volume with its own log, and with one of some records.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for base in 0..4u8 {
        for n in 0..32u8 {
            let operations: Vec<u8> = (0..8u8)
                .flat_map(|k| [n + k * 3, k * 5 + n, k + 1, k * 17])
                .collect();
            let mut as_it_was = vec![base, n >> 3 & 2, n & 3, n % 3];
            for k in 0..n % 3 {
                let which = u16::from(n) * 97 + u16::from(k) * 31;
                as_it_was.extend(which.to_le_bytes());
                as_it_was.extend([n * 7, k, n, 0x41, 1, 2, 3, 4, 5, 6, 7]);
            }
            as_it_was.extend(&operations);
            seeds.push(as_it_was);

            let mut made = vec![base, 1 | n >> 2 & 2, n & 3, n >> 4 & 1];
            made.extend(u16::from(n * 8).to_le_bytes());
            made.extend([3, 0, 3, 0]);
            for k in 0..3u8 {
                made.extend([n * 3 + k, 0, k, 0, n * 5, k]);
            }
            made.extend([1, 1, 0, n, 0, 1, 0]);
            made.extend([2, 2, n & 1, n, 0, 0, 0x81, n + 1, 0, 0, 0x41]);
            made.extend([n, 1, 1, 0]);
            made.extend(&operations);
            seeds.push(made);
        }
    }
    seeds
}
