use super::*;
use alloc::vec;

/// A disk in memory.
struct Image {
    bytes: Vec<u8>,
    sector_size: u32,
}

impl Image {
    fn new(sectors: usize) -> Image {
        Image {
            bytes: vec![0; sectors * SECTOR_SIZE],
            sector_size: 512,
        }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Entry `slot` of the boot record in sector `record`.
    fn mbr_entry(&mut self, record: usize, slot: usize, kind: u8, start: u32, sectors: u32) {
        let at = record * SECTOR_SIZE + 446 + slot * 16;
        self.put(at + 4, &[kind]);
        self.put(at + 8, &start.to_le_bytes());
        self.put(at + 12, &sectors.to_le_bytes());
        self.put(record * SECTOR_SIZE + 510, &[0x55, 0xaa]);
    }

    /// A disklabel at byte `at`, of (start, sectors, type) for a, b, c…
    fn disklabel(&mut self, at: usize, parts: &[(u32, u32, u8)], big_endian: bool) {
        let word = |value: u32| {
            if big_endian {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let half = |value: u16| {
            if big_endian {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        self.put(at, &word(0x8256_4557));
        self.put(at + 132, &word(0x8256_4557));
        self.put(at + 40, &word(512));
        self.put(at + 138, &half(parts.len() as u16));
        for (number, (start, sectors, kind)) in parts.iter().enumerate() {
            let entry = at + 148 + number * 16;
            self.put(entry, &word(*sectors));
            self.put(entry + 4, &word(*start));
            self.put(entry + 12, &[*kind]);
        }
        let end = at + 148 + parts.len() * 16;
        let sum = self.bytes[at..end]
            .chunks(2)
            .fold(0, |sum, pair| sum ^ u16::from_le_bytes([pair[0], pair[1]]));
        self.put(at + 136, &sum.to_le_bytes());
    }

    /// A GPT of (first, last, label) entries, of NetBSD's FFS type, primary and backup.
    fn gpt(&mut self, parts: &[(u64, u64, &str)]) {
        let size = self.sector_size as usize;
        let blocks = self.bytes.len() / size;
        let mut table = vec![0; 128 * 128];
        for (number, (first, last, label)) in parts.iter().enumerate() {
            let entry = &mut table[number * 128..][..128];
            entry[..4].copy_from_slice(&0x49f4_8d5au32.to_le_bytes());
            entry[4..16].copy_from_slice(&[
                0x0e, 0xb1, 0xdc, 0x11, 0xb9, 0x9b, 0x00, 0x19, 0xd1, 0x87, 0x96, 0x48,
            ]);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
            for (at, unit) in label.encode_utf16().enumerate() {
                entry[56 + at * 2..][..2].copy_from_slice(&unit.to_le_bytes());
            }
        }
        let table_blocks = table.len() / size;
        for (place, at) in [(1, 2), (blocks - 1, blocks - 1 - table_blocks)] {
            let mut header = vec![0; 92];
            header[..8].copy_from_slice(b"EFI PART");
            header[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
            header[12..16].copy_from_slice(&92u32.to_le_bytes());
            header[24..32].copy_from_slice(&(place as u64).to_le_bytes());
            header[40..48].copy_from_slice(&(2 + table_blocks as u64).to_le_bytes());
            header[48..56].copy_from_slice(&((blocks - 2 - table_blocks) as u64).to_le_bytes());
            header[72..80].copy_from_slice(&(at as u64).to_le_bytes());
            header[80..84].copy_from_slice(&128u32.to_le_bytes());
            header[84..88].copy_from_slice(&128u32.to_le_bytes());
            header[88..92].copy_from_slice(&gpt::crc32(&[&table]).to_le_bytes());
            let sum = gpt::crc32(&[&header]);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
            self.put(place * size, &header);
            self.put(at * size, &table);
        }
        self.mbr_entry(0, 0, 0xee, 1, blocks as u32 - 1);
    }
}

impl SectorReader for Image {
    fn sectors(&self) -> u64 {
        (self.bytes.len() / SECTOR_SIZE) as u64
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read(&self, sector: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let at = usize::try_from(sector).map_err(|_| Errno::EINVAL)?;
        let at = at.checked_mul(SECTOR_SIZE).ok_or(Errno::EINVAL)?;
        let end = at.checked_add(buf.len()).ok_or(Errno::EINVAL)?;
        buf.copy_from_slice(self.bytes.get(at..end).ok_or(Errno::EINVAL)?);
        Ok(())
    }
}

fn shape(found: &[Partition]) -> Vec<(char, u64, u64, &'static str)> {
    let letter = |partition: &Partition| match partition.name {
        PartitionName::Letter(letter) => letter,
        PartitionName::Wedge => '#',
    };
    found
        .iter()
        .map(|found| (letter(found), found.start, found.sectors, found.kind))
        .collect()
}

#[test]
fn a_disk_of_zeroes_has_no_partitions() {
    assert_eq!(scan("ld0", &Image::new(100)).unwrap(), []);
    assert_eq!(scan("ld0", &Image::new(0)).unwrap(), []);
    assert_eq!(scan("ld0", &Image::new(1)).unwrap(), []);
}

#[test]
fn an_mbr_without_a_disklabel_gives_letters_from_e_on() {
    let mut image = Image::new(1000);
    image.mbr_entry(0, 0, 0x83, 10, 100);
    image.mbr_entry(0, 2, 0x0c, 200, 50);
    let found = scan("ld0", &image).unwrap();
    assert_eq!(
        shape(&found),
        [('e', 10, 100, "ext2fs"), ('f', 200, 50, "msdos")]
    );
}

#[test]
fn logical_partitions_are_found_along_the_chain() {
    let mut image = Image::new(1000);
    image.mbr_entry(0, 0, 0x05, 100, 900);
    image.mbr_entry(100, 0, 0x83, 1, 10);
    image.mbr_entry(100, 1, 0x05, 50, 60);
    image.mbr_entry(150, 0, 0x83, 1, 20);
    let found = scan("ld0", &image).unwrap();
    assert_eq!(
        shape(&found),
        [('e', 101, 10, "ext2fs"), ('f', 151, 20, "ext2fs")]
    );
}

#[test]
fn a_chain_that_loops_ends() {
    let mut image = Image::new(1000);
    image.mbr_entry(0, 0, 0x05, 100, 900);
    image.mbr_entry(100, 0, 0x83, 1, 10);
    image.mbr_entry(100, 1, 0x05, 0, 60);
    assert_eq!(scan("ld0", &image).unwrap().len(), 1);
}

#[test]
fn a_partition_beyond_the_disk_is_left_out() {
    let mut image = Image::new(1000);
    image.mbr_entry(0, 0, 0x83, 990, 11);
    image.mbr_entry(0, 1, 0x83, u32::MAX, u32::MAX);
    image.mbr_entry(0, 2, 0x83, 5, 0);
    image.mbr_entry(0, 3, 0x83, 5, 5);
    assert_eq!(
        shape(&scan("ld0", &image).unwrap()),
        [('e', 5, 5, "ext2fs")]
    );
}

#[test]
fn a_netbsd_label_has_absolute_offsets_and_either_byte_order() {
    for big_endian in [false, true] {
        let mut image = Image::new(1000);
        image.mbr_entry(0, 0, 0xa9, 64, 900);
        image.mbr_entry(0, 1, 0x0c, 964, 30);
        let parts = [(64, 700, 7), (764, 200, 1), (0, 0, 0), (0, 1000, 0)];
        image.disklabel(65 * 512, &parts, big_endian);
        let found = scan("ld0", &image).unwrap();
        let expected = [
            ('a', 64, 700, "ffs"),
            ('b', 764, 200, "swap"),
            ('e', 964, 30, "msdos"),
        ];
        assert_eq!(shape(&found), expected);
    }
}

#[test]
fn a_freebsd_label_has_offsets_relative_to_its_slice() {
    let mut image = Image::new(1000);
    image.mbr_entry(0, 0, 0xa5, 64, 900);
    image.disklabel(65 * 512, &[(16, 700, 7)], false);
    assert_eq!(
        shape(&scan("ld0", &image).unwrap()),
        [('a', 80, 700, "ffs")]
    );
}

#[test]
fn a_damaged_label_is_ignored_and_the_slice_gets_a_letter() {
    let mut image = Image::new(1000);
    image.mbr_entry(0, 0, 0xa9, 64, 900);
    image.disklabel(65 * 512, &[(64, 700, 7)], false);
    image.bytes[65 * 512 + 150] ^= 1;
    assert_eq!(
        shape(&scan("ld0", &image).unwrap()),
        [('e', 64, 900, "ffs")]
    );
}

#[test]
fn a_gpt_gives_wedges_with_labels_whatever_the_block_size() {
    for sector_size in [512, 4096] {
        let mut image = Image::new(2000);
        image.sector_size = sector_size;
        image.gpt(&[(40, 59, "root"), (60, 60, "größe")]);
        let found = scan("ld0", &image).unwrap();
        let unit = u64::from(sector_size / 512);
        let expected = [
            ('#', 40 * unit, 20 * unit, "ffs"),
            ('#', 60 * unit, unit, "ffs"),
        ];
        assert_eq!(shape(&found), expected);
        assert_eq!(found[1].label, "größe");
    }
}

#[test]
fn a_gpt_with_a_damaged_front_is_read_from_its_backup() {
    let mut image = Image::new(2000);
    image.gpt(&[(40, 59, "root")]);
    image.bytes[512 + 50] ^= 1;
    assert_eq!(scan("ld0", &image).unwrap().len(), 1);
    let last = image.bytes.len() - 512 + 20;
    image.bytes[last + 10] ^= 1;
    assert_eq!(scan("ld0", &image).unwrap(), [], "neither is good");
}

#[test]
fn tables_of_random_bytes_never_panic_and_name_nothing_outside_the_disk() {
    // A small linear congruential generator is enough; the seed is fixed and printed on failure.
    for seed in 0..800u64 {
        let mut image = Image::new(300);
        match seed % 3 {
            0 => image.gpt(&[(40, 59, "a")]),
            1 => {
                image.mbr_entry(0, 0, 0xa9, 64, 200);
                image.disklabel(65 * 512, &[(64, 100, 7), (100, 20, 7)], seed % 2 == 0);
            }
            _ => {
                image.mbr_entry(0, 0, 0x05, 100, 200);
                image.mbr_entry(100, 0, 0x83, 1, 10);
                image.mbr_entry(100, 1, 0x05, 50, 60);
            }
        }
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for _ in 0..20 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let at = (state >> 33) as usize % image.bytes.len();
            image.bytes[at] = (state >> 20) as u8;
        }
        // Damage where the tables are, too: the places above mostly hit nothing.
        let at = [
            446 + (state >> 40) as usize % 64,
            512 + (state >> 40) as usize % 92,
        ][seed as usize % 2];
        image.bytes[at] = (state >> 12) as u8;
        let capacity = image.sectors();
        for found in scan("ld0", &image).unwrap() {
            assert!(
                found.start + found.sectors <= capacity,
                "seed {seed}: {found:?}"
            );
        }
    }
}
