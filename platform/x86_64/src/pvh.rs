//! The PVH door: what the loader says about the machine, made into the neutral [`BootInfo`].
//!
//! Source: Xen `public/arch-x86/hvm/start_info.h`. The loader's structures lie in memory that is reported as RAM: what is
//! wanted of them is copied here, before anybody is given that memory.

#[cfg(not(test))]
use crate::phys::BootWindow;
use crate::phys::{PhysicalMemory, u32_at, u64_at};
use crate::regions::RegionMap;
use bootloader_api::BootInfo;
use bootloader_api::info::{MemoryRegionKind, Optional};
use core::fmt;
#[cfg(not(test))]
use spin::{Mutex, MutexGuard};

const MAGIC: u32 = 0x336e_c578;
const START_INFO_BYTES: usize = 56;
const MAP_ENTRY_BYTES: usize = 24;
const MODULE_ENTRY_BYTES: usize = 32;
/// The most map entries that are looked at; QEMU gives a dozen.
const MAX_MAP_ENTRIES: u32 = 128;
const TYPE_RAM: u32 = 1;

/// The longest command line kept, in bytes; QEMU's option ROM gives at most 4095.
pub const MAX_COMMAND_LINE: usize = 4096;

/// Why the loader's structure cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PvhError {
    /// It is not inside the memory that is mapped at entry.
    OutOfReach(u64),
    /// It does not begin as it must.
    Magic(u32),
    /// A loader of before 2018: it gives no memory map.
    NoMemoryMap,
}

impl fmt::Display for PvhError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PvhError::OutOfReach(address) => {
                write!(f, "PVH: structure at {address:#x} is out of reach")
            }
            PvhError::Magic(found) => {
                write!(f, "PVH: start_info has magic {found:#x}, not {MAGIC:#x}")
            }
            PvhError::NoMemoryMap => f.write_str("PVH: the loader gives no memory map"),
        }
    }
}

/// What `start_info` says.
#[derive(Debug)]
pub struct Pvh {
    /// Physical address of ACPI's root pointer, if there is one.
    pub rsdp: Option<u64>,
    /// The first module (QEMU's `-initrd`): physical address and length in bytes.
    pub module: Option<(u64, u64)>,
    /// Length in bytes of the command line, of which at most [`MAX_COMMAND_LINE`] are kept.
    pub command_line_bytes: usize,
}

/// Reads the structure at `address`: paints `map` with the machine's memory, RAM first, and copies the command line.
///
/// # Errors
/// If the structure is not one, or has no memory map.
pub fn parse(
    memory: &dyn PhysicalMemory,
    address: u64,
    map: &mut RegionMap,
    command_line: &mut [u8; MAX_COMMAND_LINE],
) -> Result<Pvh, PvhError> {
    let reach = |at: u64, len: usize| memory.bytes(at, len).ok_or(PvhError::OutOfReach(at));
    let info = reach(address, START_INFO_BYTES)?;
    let word = |offset| u32_at(info, offset).unwrap_or(0);
    let long = |offset| u64_at(info, offset).unwrap_or(0);
    if word(0) != MAGIC {
        return Err(PvhError::Magic(word(0)));
    }
    let (version, modules, entries) = (word(4), word(12), word(48));
    if version == 0 || entries == 0 {
        return Err(PvhError::NoMemoryMap);
    }
    let entries = entries.min(MAX_MAP_ENTRIES) as usize;
    paint_map(reach(long(40), entries * MAP_ENTRY_BYTES)?, map);
    let module = match modules {
        0 => None,
        _ => parse_module(reach(long(16), MODULE_ENTRY_BYTES)?),
    };
    Ok(Pvh {
        rsdp: Some(long(32)).filter(|&rsdp| rsdp != 0),
        module,
        command_line_bytes: copy_text(memory, long(24), command_line),
    })
}

fn paint_map(entries: &[u8], map: &mut RegionMap) {
    // What is not RAM wins where entries overlap, so RAM is painted first.
    for ram in [true, false] {
        for entry in entries.chunks_exact(MAP_ENTRY_BYTES) {
            let (Some(start), Some(size), Some(kind)) =
                (u64_at(entry, 0), u64_at(entry, 8), u32_at(entry, 16))
            else {
                continue;
            };
            if (kind == TYPE_RAM) != ram {
                continue;
            }
            let kind = if ram {
                MemoryRegionKind::Usable
            } else {
                MemoryRegionKind::UnknownBios(kind)
            };
            map.paint(start, start.saturating_add(size), kind);
        }
    }
}

fn parse_module(entry: &[u8]) -> Option<(u64, u64)> {
    let (start, size) = (u64_at(entry, 0)?, u64_at(entry, 8)?);
    start
        .checked_add(size)
        .filter(|_| size != 0)
        .map(|_| (start, size))
}

/// Copies the text at `address` up to its NUL. Returns how many bytes were copied.
fn copy_text(memory: &dyn PhysicalMemory, address: u64, to: &mut [u8; MAX_COMMAND_LINE]) -> usize {
    if address == 0 {
        return 0;
    }
    for (len, slot) in to.iter_mut().enumerate() {
        match memory.bytes(address.saturating_add(len as u64), 1) {
            Some(&[byte]) if byte != 0 => *slot = byte,
            _ => return len,
        }
    }
    MAX_COMMAND_LINE
}

/// The neutral form of what [`parse`] found, with the memory that is taken marked as [`MemoryRegionKind::Bootloader`].
pub fn boot_info(pvh: &Pvh, map: &'static mut RegionMap, image: (u64, u64)) -> BootInfo {
    // The interrupt table, the BIOS's variables and the loader's own things; and what the machine keeps between the
    // end of conventional memory and 1 MiB, even if a map calls it RAM.
    take(map, 0, 0x1_0000);
    map.paint(0xa_0000, 0x10_0000, MemoryRegionKind::UnknownBios(2));
    take(map, image.0, image.1);
    if let Some((start, size)) = pvh.module {
        take(map, start, start + size);
    }
    let mut info = BootInfo::new(map.as_mut_slice().into());
    info.physical_memory_offset = Optional::Some(0);
    if let Some(rsdp) = pvh.rsdp {
        info.rsdp_addr = Optional::Some(rsdp);
    }
    if let Some((start, size)) = pvh.module {
        info.ramdisk_addr = Optional::Some(start);
        info.ramdisk_len = size;
    }
    info.kernel_addr = image.0;
    info.kernel_len = image.1 - image.0;
    info
}

fn take(map: &mut RegionMap, start: u64, end: u64) {
    // Whole pages: nobody is to be given a page of which a part is taken.
    let end = end.saturating_add(0xfff) & !0xfff;
    map.paint(start & !0xfff, end, MemoryRegionKind::Bootloader);
}

// Locked for ever by the entry, which hands their contents on.
#[cfg(not(test))]
static MAP: Mutex<RegionMap> = Mutex::new(RegionMap::new());
#[cfg(not(test))]
static COMMAND_LINE: Mutex<[u8; MAX_COMMAND_LINE]> = Mutex::new([0; MAX_COMMAND_LINE]);
#[cfg(not(test))]
static BOOT_INFO: Mutex<Option<BootInfo>> = Mutex::new(None);

#[cfg(not(test))]
unsafe extern "Rust" {
    /// Where the image goes on: `rumpuser_baremetal::entry!` defines it.
    safe fn machine_main(boot_info: &'static mut BootInfo, command_line: &'static [u8]) -> !;
}

/// The first Rust function, called once by the entry code with the address of `start_info`.
#[cfg(not(test))]
pub(crate) extern "C" fn start(start_info: u32) -> ! {
    crate::clock::entered();
    crate::uart::init();
    let map: &'static mut RegionMap = MutexGuard::leak(MAP.lock());
    let command_line: &'static mut [u8; MAX_COMMAND_LINE] = MutexGuard::leak(COMMAND_LINE.lock());
    let pvh = match parse(&BootWindow, start_info.into(), map, command_line) {
        Ok(pvh) => pvh,
        Err(error) => {
            crate::uart::emergency_print(format_args!("{error}\n"));
            crate::exit::exit(crate::exit::FAILURE)
        }
    };
    let info = boot_info(&pvh, map, crate::image::bounds());
    let slot: &'static mut Option<BootInfo> = MutexGuard::leak(BOOT_INFO.lock());
    machine_main(slot.insert(info), &command_line[..pvh.command_line_bytes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phys::fake::Pieces;
    extern crate std;
    use std::vec::Vec;

    fn start_info(version: u32, entries: u32, modules: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [MAGIC, version, 0, modules] {
            bytes.extend(word.to_le_bytes());
        }
        for long in [0x3000u64, 0x4000, 0xf5000, 0x5000] {
            bytes.extend(long.to_le_bytes());
        }
        bytes.extend(entries.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes
    }

    fn map_entry(start: u64, size: u64, kind: u32) -> Vec<u8> {
        [
            &start.to_le_bytes()[..],
            &size.to_le_bytes(),
            &kind.to_le_bytes(),
            &[0; 4],
        ]
        .concat()
    }

    fn machine(version: u32, modules: u32) -> Pieces {
        let map = [
            map_entry(0x10_0000, 0x70_0000, 1),
            map_entry(0xf_c000, 0x4000, 2),
            map_entry(0, 0x9_fc00, 1),
            map_entry(0, 0, 0),
        ];
        let mut pieces = Pieces::default();
        pieces
            .0
            .insert(0x2000, start_info(version, map.len() as u32, modules));
        pieces.0.insert(
            0x3000,
            [
                0x60_0000u64.to_le_bytes(),
                0x1234u64.to_le_bytes(),
                [0xff; 8],
                [0; 8],
            ]
            .concat(),
        );
        pieces
            .0
            .insert(0x4000, b"ip=dhcp loglevel=info\0rubbish".to_vec());
        pieces.0.insert(0x5000, map.concat());
        pieces
    }

    #[test]
    fn a_loaders_structure_becomes_sorted_memory_without_what_is_taken() {
        let (map, mut text) = (
            std::boxed::Box::leak(std::boxed::Box::new(RegionMap::new())),
            [0; MAX_COMMAND_LINE],
        );
        let pvh = parse(&machine(1, 1), 0x2000, map, &mut text).unwrap();
        assert_eq!(&text[..pvh.command_line_bytes], b"ip=dhcp loglevel=info");
        assert_eq!(pvh.rsdp, Some(0xf5000));
        let info = boot_info(&pvh, map, (0x10_0000, 0x1a_0800));
        let usable: Vec<_> = info
            .memory_regions
            .iter()
            .filter(|region| region.kind == MemoryRegionKind::Usable)
            .collect();
        let ranges: Vec<_> = usable
            .iter()
            .map(|region| (region.start, region.end))
            .collect();
        assert_eq!(
            ranges,
            [
                (0x1_0000, 0x9_fc00),
                (0x1a_1000, 0x60_0000),
                (0x60_2000, 0x80_0000)
            ]
        );
        assert_eq!(
            (info.ramdisk_addr.into_option(), info.ramdisk_len),
            (Some(0x60_0000), 0x1234)
        );
    }

    #[test]
    fn a_structure_without_magic_map_or_memory_is_refused() {
        let (mut map, mut text) = (RegionMap::new(), [0; MAX_COMMAND_LINE]);
        let refused = |pieces: &Pieces, at, map: &mut RegionMap, text: &mut _| {
            parse(pieces, at, map, text).unwrap_err()
        };
        assert_eq!(
            refused(&machine(1, 0), 0x4000, &mut map, &mut text),
            PvhError::OutOfReach(0x4000)
        );
        assert_eq!(
            refused(&machine(1, 0), 0x5000, &mut map, &mut text),
            PvhError::Magic(0x10_0000)
        );
        assert_eq!(
            refused(&machine(0, 0), 0x2000, &mut map, &mut text),
            PvhError::NoMemoryMap
        );
        let mut without_map = machine(1, 0);
        without_map.0.remove(&0x5000);
        assert_eq!(
            refused(&without_map, 0x2000, &mut map, &mut text),
            PvhError::OutOfReach(0x5000)
        );
    }

    #[test]
    fn a_command_line_without_end_is_cut_and_one_out_of_reach_is_empty() {
        let mut pieces = machine(1, 0);
        let mut text = [0; MAX_COMMAND_LINE];
        pieces.0.insert(0x4000, std::vec![b'x'; 5000]);
        pieces.0.insert(0x5400, pieces.0[&0x5000].clone());
        let mut info = start_info(1, 4, 0);
        info[40..48].copy_from_slice(&0x5400u64.to_le_bytes());
        pieces.0.insert(0x2000, info);
        let pvh = parse(&pieces, 0x2000, &mut RegionMap::new(), &mut text).unwrap();
        assert_eq!(pvh.command_line_bytes, MAX_COMMAND_LINE);
        pieces.0.remove(&0x4000);
        let pvh = parse(&pieces, 0x2000, &mut RegionMap::new(), &mut text).unwrap();
        assert_eq!(pvh.command_line_bytes, 0);
    }
}
