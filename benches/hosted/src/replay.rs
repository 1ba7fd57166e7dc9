//! How long a replay takes: mounts of a volume whose log is full, beside mounts of the same volume with nothing to replay.
//!
//! A log that was written here is never quite full, so that this one is made: of blocks of inodes all over the volume, spoiled in
//! place, which the replay has to bring back.

use crate::table::Table;
use anyhow::{Context as _, Result, ensure};
use rumpfs_ffs::disk::{Metadata, PIECE};
use rumpfs_ffs::raw::RawSuperblock;
use rumpfs_ffs::superblock::{self, Flags, Superblock, Tolerance};
use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::wapbl::ByteOrder;
use rumpvfs::wapbl::raw::{Fixed, Header, WC_BLOCKS, WC_INODES};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;
use ukfs::{Image, Options, log, mkfs};
use zerocopy::LE;

/// Volumes, and their logs, in bytes; the rows for a mount with a replay and without.
const CASES: [(u64, u64, [&str; 2]); 3] = [
    (
        64 << 20,
        1 << 20,
        ["mount 64 MiB, full log of 1 MiB", "mount 64 MiB, no replay"],
    ),
    (
        16 << 30,
        1 << 20,
        ["mount 16 GiB, full log of 1 MiB", "mount 16 GiB, no replay"],
    ),
    (
        16 << 30,
        64 << 20,
        [
            "mount 16 GiB, full log of 64 MiB",
            "mount 16 GiB, no replay of that",
        ],
    ),
];

/// Adds their rows.
pub fn rows(mut row: impl FnMut(&'static str, Option<f64>)) {
    for (_, bytes, [replayed, plain]) in CASES {
        // The goal is issue 5's, of a log of 1 MiB.
        row(replayed, (bytes == 1 << 20).then_some(100.0));
        row(plain, None);
    }
}

/// Measures all.
pub fn run(folder: &Path, version: u8, table: &mut Table) -> Result<()> {
    for (volume, bytes, [replayed, plain]) in CASES {
        let image = folder.join(format!("{volume}-{bytes}"));
        mkfs::make(&image, &mkfs::Options::new().version(version).size(volume))?;
        log::add(&image, &Options::new(), Some(bytes))?;
        let logged = fill(&image)?;
        table.add(replayed, mount(&image)?)?;
        logged.verify(&image)?;
        table.add(plain, mount(&image)?)?;
        std::fs::remove_file(&image)?;
    }
    Ok(())
}

/// Milliseconds until it is mounted for writing, in a kernel that was booted for it.
fn mount(image: &Path) -> Result<f64> {
    let start = Instant::now();
    let opened = Image::open(image, Options::new().write(true))?;
    let time = start.elapsed();
    opened.close()?;
    Ok(time.as_secs_f64() * 1e3)
}

/// An image's bytes.
struct Bytes<'a>(&'a File);

impl Metadata for Bytes<'_> {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let mut bytes = vec![0; len];
        let read = self.0.read_exact_at(&mut bytes, offset);
        read.map_err(|_| Errno::EIO)?;
        visit(&bytes);
        Ok(())
    }
}

/// What the log has, by place: the first and the last byte of each piece tell it from all others.
struct Logged(Vec<u64>);

impl Logged {
    fn piece(number: usize) -> [u8; PIECE] {
        let mut piece = [0; PIECE];
        // Inodes that are free: their generation is nobody's business.
        piece[80..84].copy_from_slice(&(number as u32 | 1 << 24).to_le_bytes());
        piece
    }

    fn verify(&self, image: &Path) -> Result<()> {
        let file = File::open(image)?;
        for (number, at) in self.0.iter().enumerate() {
            let mut found = [0; PIECE];
            file.read_exact_at(&mut found, *at)?;
            ensure!(found == Logged::piece(number), "byte {at} was not replayed");
        }
        Ok(())
    }
}

/// Where pieces of inodes lie, from group to group, but for those of the first two groups, which have files.
fn places(sb: &Superblock) -> Vec<u64> {
    let in_group = |cg| sb.byte_of(sb.cgimin(cg))..sb.byte_of(sb.cgdmin(cg));
    let pieces = in_group(0).step_by(PIECE).count() as u64;
    let groups = 2.min(sb.ncg - 1)..sb.ncg;
    let at = |piece| move |cg| in_group(cg).start + piece * PIECE as u64;
    (0..pieces)
        .flat_map(|piece| groups.clone().map(at(piece)))
        .collect()
}

/// Fills the log, but for less than a record, and says that it is in use.
fn fill(image: &Path) -> Result<Logged> {
    let state = log::state(image, None)?.log.context("a log was made")?;
    let file = File::options().read(true).write(true).open(image)?;
    let sb = superblock::find(&Bytes(&file), Tolerance::default());
    let sb = sb.map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
    let places = places(&sb);
    let fixed = Fixed {
        order: match cfg!(target_endian = "big") {
            true => ByteOrder::Big,
            false => ByteOrder::Little,
        },
        shift: state.block_size.trailing_zeros(),
        circ_size: state.bytes - 2 * state.block_size,
    };
    let end = fixed.circ_off() + fixed.circ_size;
    let most = fixed.blocks_per_list();
    let mut head = fixed.circ_off();
    let mut count = 0;
    let mut list = vec![0; fixed.block() as usize];
    while head + fixed.block() * 3 + PIECE as u64 <= end {
        let room = (end - head - 3 * fixed.block()) as usize / PIECE;
        let entries = most.min(room);
        let len = fixed.block() + (entries * PIECE) as u64;
        list.fill(0);
        fixed.encode_list(&mut list, (WC_BLOCKS, len, entries, false));
        for n in 0..entries {
            let place = *places.get(count).context("too few inodes for the log")?;
            fixed.encode_block(&mut list, n, place / SECTOR_SIZE as u64, PIECE as u32);
            let at = head + fixed.block() + (n * PIECE) as u64;
            file.write_all_at(&Logged::piece(count), state.start + at)?;
            file.write_all_at(&[0xa5; PIECE], place)?;
            count += 1;
        }
        file.write_all_at(&list, state.start + head)?;
        head += len;
    }
    list.fill(0);
    fixed.encode_list(&mut list, (WC_INODES, fixed.block(), 0, true));
    file.write_all_at(&list, state.start + head)?;
    let header = Header {
        // Newer than any that making the log wrote; even, for the first slot.
        generation: 1 << 20,
        head: head + fixed.block(),
        tail: fixed.circ_off(),
    };
    fixed.encode_header(&mut list, &header, (0, 0));
    file.write_all_at(&list, state.start)?;
    say_in_use(&file, &sb)?;
    file.sync_all()?;
    let full = (header.head - header.tail) as f64 / fixed.circ_size as f64;
    ensure!(full > 0.99, "only {full} of the log is in use");
    Ok(Logged(places[..count].to_vec()))
}

fn say_in_use(file: &File, sb: &Superblock) -> Result<()> {
    let at = sb.location + core::mem::offset_of!(RawSuperblock<LE>, flags) as u64;
    let mut flags = [0; 4];
    file.read_exact_at(&mut flags, at)?;
    let flags = sb.order.u32(flags) | Flags::DOWAPBL.bits();
    Ok(file.write_all_at(&sb.order.bytes32(flags), at)?)
}
