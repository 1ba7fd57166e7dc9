//! Page tables: everything at its own physical address, with the least rights that it needs.
//!
//! | what | rights |
//! |---|---|
//! | code of the image | read, execute |
//! | constants of the image | read |
//! | variables of the image, all other RAM | read, write |
//! | device registers | read, write, uncached |
//! | firmware's tables | read |
//! | the first 64 KiB, guard pages, everything else | nothing |
//!
//! So nothing can be both written and executed, and an address is also what a device uses for DMA. RAM is mapped by
//! pages of 1 GiB or 2 MiB where it can be; taking one page of 4 KiB out splits them.
//!
//! Lock: `TABLES`, with interrupts off. The source of pages for tables takes its own under it.

use crate::image::{self, Part};
use crate::regions::overlaps_memory;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use core::fmt;
use core::ptr::NonNull;
use spin::Mutex;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::page_table::PageTableEntry;
use x86_64::structures::paging::{PageTable, PageTableFlags, PhysFrame};
use x86_64::{PhysAddr, VirtAddr};

/// Bytes in the smallest page.
pub const PAGE_BYTES: u64 = 4096;

/// No processor of today has more physical addresses than the lower half has virtual ones.
const MAX_ADDRESS: u64 = 1 << 47;

const TEXT: PageTableFlags = PageTableFlags::PRESENT;
const READ: PageTableFlags = TEXT.union(PageTableFlags::NO_EXECUTE);
const READ_WRITE: PageTableFlags = READ.union(PageTableFlags::WRITABLE);
const DEVICE: PageTableFlags = READ_WRITE
    .union(PageTableFlags::NO_CACHE)
    .union(PageTableFlags::WRITE_THROUGH);

/// Why something could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No page is left for a table.
    NoMemory,
    /// The range is empty, wraps around or lies beyond what can be addressed.
    Range,
    /// A device's or firmware's range lies in RAM that is in use.
    InMemory,
    /// Paging is not set up yet.
    TooEarly,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MapError::NoMemory => "no memory for page tables",
            MapError::Range => "address out of range",
            MapError::InMemory => "address inside RAM",
            MapError::TooEarly => "paging is not set up",
        })
    }
}

/// Gives pages for tables: zeroed, page-aligned, for ever, at an address that is mapped to itself.
pub type TableSource = fn() -> Option<NonNull<PageTable>>;

struct Tables {
    root: NonNull<PageTable>,
    source: TableSource,
    huge: bool,
    regions: &'static [MemoryRegion],
    /// The processor uses them.
    in_force: bool,
}

// SAFETY: the tables are reached through the lock below alone.
unsafe impl Send for Tables {}

static TABLES: Mutex<Option<Tables>> = Mutex::new(None);

fn with<T>(body: impl FnOnce(&mut Tables) -> Result<T, MapError>) -> Result<T, MapError> {
    without_interrupts(|| TABLES.lock().as_mut().map_or(Err(MapError::TooEarly), body))
}

/// Bytes that an entry of a table of `level` (1 the lowest) maps.
const fn span(level: u8) -> u64 {
    1 << (12 + 9 * (level as u64 - 1))
}

const fn index(address: u64, level: u8) -> usize {
    (address / span(level)) as usize % 512
}

impl Tables {
    fn new_table(&self) -> Result<NonNull<PageTable>, MapError> {
        (self.source)().ok_or(MapError::NoMemory)
    }

    /// Maps `start..end` to itself with `rights`, by the largest pages that fit.
    fn map(&mut self, start: u64, end: u64, rights: PageTableFlags) -> Result<(), MapError> {
        if start >= end || end > MAX_ADDRESS {
            return Err(MapError::Range);
        }
        let (mut address, end) = (start & !(PAGE_BYTES - 1), end.next_multiple_of(PAGE_BYTES));
        while address < end {
            let largest = if self.huge { 3 } else { 2 };
            let fits = |level: &u8| address % span(*level) == 0 && end - address >= span(*level);
            let level = (1..=largest).rev().find(fits).unwrap_or(1);
            address += self.map_page(address, level, rights)?;
        }
        Ok(())
    }

    /// Maps the page at `address` in a table of `level`, or lower where smaller pages are in use already. Returns its bytes.
    fn map_page(
        &mut self,
        address: u64,
        level: u8,
        rights: PageTableFlags,
    ) -> Result<u64, MapError> {
        for level in (1..=level).rev() {
            let entry = self.entry(address, level)?;
            let is_table = level > 1
                && !entry.is_unused()
                && !entry.flags().contains(PageTableFlags::HUGE_PAGE);
            if is_table {
                continue;
            }
            let size = if level > 1 {
                PageTableFlags::HUGE_PAGE
            } else {
                PageTableFlags::empty()
            };
            let seen = PageTableFlags::ACCESSED | PageTableFlags::DIRTY;
            let mapped = entry.addr().as_u64() == address && entry.flags() - seen == rights | size;
            if !mapped {
                entry.set_addr(PhysAddr::new(address), rights | size);
                self.flush(address);
            }
            return Ok(span(level));
        }
        // The lowest level has no tables below it, so the loop has returned.
        Err(MapError::Range)
    }

    /// Makes the processor forget the page of `address`.
    fn flush(&self, address: u64) {
        if self.in_force {
            tlb::flush(VirtAddr::new(address));
        }
    }

    /// The entry for `address` in its table of `level`. Makes the tables above, splitting large pages.
    fn entry(&mut self, address: u64, level: u8) -> Result<&mut PageTableEntry, MapError> {
        let mut table = self.root;
        for above in (level + 1..=4).rev() {
            // SAFETY: a table of ours: the root, or one that a present entry points at; `&mut self` makes the access exclusive.
            let entry = unsafe { &mut table.as_mut()[index(address, above)] };
            let large = entry.flags().contains(PageTableFlags::HUGE_PAGE);
            if entry.is_unused() || large {
                let mut new = self.new_table()?;
                if large {
                    // SAFETY: a fresh page that nobody else has.
                    split(entry, unsafe { new.as_mut() }, above - 1);
                }
                let at = PhysAddr::new(new.as_ptr().addr() as u64);
                entry.set_addr(at, PageTableFlags::PRESENT | PageTableFlags::WRITABLE);
            }
            // Physical and virtual addresses agree.
            table = NonNull::new(entry.addr().as_u64() as *mut PageTable).ok_or(MapError::Range)?;
        }
        // SAFETY: as above.
        Ok(unsafe { &mut table.as_mut()[index(address, level)] })
    }
}

/// Fills `table`, of `level`, with what the large page `page` maps.
fn split(page: &PageTableEntry, table: &mut PageTable, level: u8) {
    let (start, mut rights) = (page.addr().as_u64(), page.flags());
    rights.set(PageTableFlags::HUGE_PAGE, level > 1);
    for (entry, piece) in table.iter_mut().zip(0..) {
        entry.set_addr(PhysAddr::new(start + piece * span(level)), rights);
    }
}

/// Makes the machine's page tables and goes over to them. `guards` are pages of the image's variables to leave out.
///
/// # Errors
/// If there is no memory for them.
///
/// # Safety
/// Once, from the entry thread. `regions` must be the machine's memory: what it calls RAM is mapped as such. Nothing may
/// use the pages in `guards`.
pub unsafe fn init(
    regions: &'static [MemoryRegion],
    source: TableSource,
    guards: &[u64],
) -> Result<(), MapError> {
    let root = source().ok_or(MapError::NoMemory)?;
    let mut tables = Tables {
        root,
        source,
        huge: crate::cpu::features().huge_pages,
        regions,
        in_force: false,
    };
    for region in regions {
        let ours = matches!(
            region.kind,
            MemoryRegionKind::Usable | MemoryRegionKind::Bootloader
        );
        // The first region of all is what the BIOS and the loader left there; not mapping it catches null pointers.
        if ours && region.start != 0 {
            let start = region.start.next_multiple_of(PAGE_BYTES);
            let end = region.end.min(MAX_ADDRESS) & !(PAGE_BYTES - 1);
            if start < end {
                tables.map(start, end, READ_WRITE)?;
            }
        }
    }
    let parts = [
        (image::text(), TEXT),
        (image::rodata(), READ),
        (image::data(), READ_WRITE),
        (image::symbol_table(), READ),
    ];
    for (Part { start, end }, rights) in parts {
        tables.map(start, end, rights)?;
    }
    for &guard in guards {
        tables.entry(guard, 1)?.set_unused();
    }
    let frame = PhysFrame::containing_address(PhysAddr::new(root.as_ptr().addr() as u64));
    // SAFETY: the new tables map all that is in use, the code that runs and its stack among it, at the addresses at which
    // they were; only the guard pages, which nobody uses, are gone.
    unsafe { Cr3::write(frame, Cr3Flags::empty()) };
    tables.in_force = true;
    without_interrupts(|| *TABLES.lock() = Some(tables));
    Ok(())
}

/// Maps the registers of a device, `len` bytes at physical address `address`: uncached, never executable, for ever.
/// Mapped twice, they are at the same address.
///
/// # Errors
/// [`MapError::InMemory`] if a device claims RAM.
pub fn map_device(address: u64, len: u64) -> Result<NonNull<u8>, MapError> {
    map_outside_ram(address, len, DEVICE)
}

/// Maps what firmware left at physical address `address`, `len` bytes, readable.
///
/// # Errors
/// [`MapError::InMemory`] if it lies in RAM that is in use.
pub fn map_firmware(address: u64, len: u64) -> Result<NonNull<u8>, MapError> {
    map_outside_ram(address, len, READ)
}

fn map_outside_ram(
    address: u64,
    len: u64,
    rights: PageTableFlags,
) -> Result<NonNull<u8>, MapError> {
    let end = address
        .checked_add(len)
        .filter(|_| len != 0)
        .ok_or(MapError::Range)?;
    let first_page = address & !(PAGE_BYTES - 1);
    with(|tables| {
        if overlaps_memory(tables.regions, first_page, end) {
            return Err(MapError::InMemory);
        }
        tables.map(first_page, end, rights)
    })?;
    NonNull::new(address as *mut u8).ok_or(MapError::Range)
}

/// Takes the page at `address` out of the address space: touching it is reported and ends the machine.
///
/// # Errors
/// [`MapError::NoMemory`] if a larger page must be split and no page is left for the table.
///
/// # Safety
/// Nobody may use the page until [`restore`] gives it back.
pub unsafe fn guard(address: u64) -> Result<(), MapError> {
    with(|tables| {
        tables.entry(address, 1)?.set_unused();
        tables.flush(address);
        Ok(())
    })
}

/// Gives back a page that [`guard`] took out, readable and writable.
///
/// # Errors
/// [`MapError::TooEarly`], before paging is set up.
///
/// # Safety
/// The page must be RAM that [`guard`] took out.
pub unsafe fn restore(address: u64) -> Result<(), MapError> {
    with(|tables| tables.map_page(address, 1, READ_WRITE).map(|_| ()))
}

/// Whether the page of `address` is mapped. Asks the tables in force without the lock, for reports of the machine's end.
pub(crate) fn is_mapped(address: u64) -> bool {
    if address >= MAX_ADDRESS {
        return false;
    }
    let mut table = Cr3::read().0.start_address().as_u64();
    for level in (1..=4).rev() {
        // SAFETY: a table in force is mapped to itself, and has 512 entries.
        let entry = unsafe { (table as *const PageTableEntry).add(index(address, level)) };
        // SAFETY: as above; with one processor and interrupts off nobody changes it meanwhile.
        let entry = unsafe { &*entry };
        if !entry.flags().contains(PageTableFlags::PRESENT) {
            return false;
        }
        if level == 1 || entry.flags().contains(PageTableFlags::HUGE_PAGE) {
            return true;
        }
        table = entry.addr().as_u64();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::boxed::Box;

    fn table() -> Option<NonNull<PageTable>> {
        Some(NonNull::from(Box::leak(Box::new(PageTable::new()))))
    }

    fn tables(huge: bool) -> Tables {
        Tables {
            root: table().unwrap(),
            source: table,
            huge,
            regions: &[],
            in_force: false,
        }
    }

    /// The page that maps `address`: its level, its start, its rights.
    fn lookup(tables: &Tables, address: u64) -> Option<(u8, u64, PageTableFlags)> {
        let mut table = tables.root;
        for level in (1..=4).rev() {
            // SAFETY: a leaked table of this test's.
            let entry = unsafe { &table.as_ref()[index(address, level)] };
            if entry.is_unused() {
                return None;
            }
            let large = entry.flags().contains(PageTableFlags::HUGE_PAGE);
            if level == 1 || large {
                return Some((
                    level,
                    entry.addr().as_u64(),
                    entry.flags() - PageTableFlags::HUGE_PAGE,
                ));
            }
            table = NonNull::new(entry.addr().as_u64() as *mut PageTable)?;
        }
        None
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn ram_is_mapped_by_the_largest_pages_that_fit() {
        for (huge, level) in [(true, 3), (false, 2)] {
            let mut tables = tables(huge);
            tables.map(0x10_0000, 3 << 30, READ_WRITE).unwrap();
            assert_eq!(
                lookup(&tables, 0x10_0000).unwrap(),
                (1, 0x10_0000, READ_WRITE)
            );
            assert_eq!(lookup(&tables, 3 * MIB).unwrap(), (2, 2 * MIB, READ_WRITE));
            assert_eq!(
                lookup(&tables, 1 << 30).unwrap(),
                (level, 1 << 30, READ_WRITE)
            );
            assert_eq!(lookup(&tables, 0), None);
            assert_eq!(lookup(&tables, 3 << 30), None);
        }
    }

    #[test]
    fn a_page_taken_out_of_a_gigabyte_leaves_its_neighbours_as_they_were() {
        let mut tables = tables(true);
        tables.map(0, 2 << 30, READ_WRITE).unwrap();
        let hole = (1 << 30) + 5 * MIB + 0x3000;
        tables.entry(hole, 1).unwrap().set_unused();
        assert_eq!(lookup(&tables, hole), None);
        for (address, level) in [
            (hole - 4096, 1),
            (hole + 4096, 1),
            (hole + 2 * MIB, 2),
            (hole - 2 * MIB, 2),
            (5, 3),
        ] {
            let (found, start, rights) = lookup(&tables, address).unwrap();
            assert_eq!((found, rights), (level, READ_WRITE), "at {address:#x}");
            assert_eq!(start, address & !(span(level) - 1));
        }
    }

    #[test]
    fn small_pages_over_large_ones_change_only_themselves() {
        let mut tables = tables(false);
        tables.map(0, 8 * MIB, READ_WRITE).unwrap();
        tables.map(0x10_0000, 0x10_2000, TEXT).unwrap();
        tables.map(0x10_2000, 0x10_3000, READ).unwrap();
        assert_eq!(lookup(&tables, 0x10_1fff).unwrap(), (1, 0x10_1000, TEXT));
        assert_eq!(lookup(&tables, 0x10_2000).unwrap(), (1, 0x10_2000, READ));
        assert_eq!(
            lookup(&tables, 0x10_3000).unwrap(),
            (1, 0x10_3000, READ_WRITE)
        );
        // A large page over a table goes into the table.
        tables.map(0, 2 * MIB, DEVICE).unwrap();
        assert_eq!(lookup(&tables, 0x10_1000).unwrap(), (1, 0x10_1000, DEVICE));
    }

    #[test]
    fn ranges_that_are_empty_wrap_or_are_too_high_are_refused() {
        let mut tables = tables(false);
        for (start, end) in [
            (5, 5),
            (8192, 4096),
            (0, u64::MAX),
            (MAX_ADDRESS, MAX_ADDRESS + 1),
        ] {
            assert_eq!(tables.map(start, end, READ), Err(MapError::Range));
        }
    }
}
