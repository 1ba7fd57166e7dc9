//! ACPI tables: the few facts that are wanted, by walking the tables themselves (ACPI 6.5 §5.2). No AML is run.
//!
//! The tables are firmware's words: every length is checked, every loop is bounded, and a table with a wrong checksum does
//! not count.

use crate::paging;
use crate::phys::{PhysicalMemory, u16_at, u32_at, u64_at};

const HEADER_BYTES: usize = 36;
/// No table that is read here is longer; QEMU's longest is a few KiB.
const MAX_TABLE_BYTES: usize = 1 << 20;
const MAX_TABLES: usize = 64;
const MAX_ENTRIES: usize = 256;

/// The most interrupt source overrides kept: one for each line of the ISA bus.
const MAX_OVERRIDES: usize = 16;

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Physical address of its registers.
    pub address: u64,
    /// Number of its first line among those of all I/O APICs.
    pub first_line: u32,
}

/// Where a line of the ISA bus arrives, if not in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// The line of the ISA bus.
    pub irq: u8,
    /// The line among those of all I/O APICs.
    pub line: u32,
    /// It is asserted by a low level.
    pub active_low: bool,
    /// It is asserted by its level, not by an edge.
    pub level: bool,
}

/// The configuration space of PCI Express, in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// Physical address of the space of bus 0, whether or not `first_bus` is 0.
    pub base: u64,
    /// The first bus.
    pub first_bus: u8,
    /// The last bus.
    pub last_bus: u8,
}

/// How the machine is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftOff {
    /// By the PM1a control register, an I/O port; the word to write.
    Pm1a {
        /// The port.
        port: u16,
        /// The value.
        value: u16,
        /// The port and value that hand the registers over from the firmware, if they are not yet ours.
        enable: Option<(u16, u8)>,
    },
    /// By the sleep control register of a machine without those registers; the byte to write.
    SleepControl {
        /// Physical address.
        address: u64,
        /// The value.
        value: u8,
    },
}

/// The power button of the fixed hardware: the registers of PM1a, I/O ports (§4.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerButton {
    /// Port of the status register, whose bits are cleared by writing them.
    pub status: u16,
    /// Port of the register that says which of those bits interrupt.
    pub enable: u16,
    /// Port of the control register.
    pub control: u16,
    /// The line of the ISA bus, or of the machine, that its interrupt comes by: the SCI.
    pub irq: u8,
    /// The port and value that hand the registers over from the firmware, if they are not yet ours.
    pub handover: Option<(u16, u8)>,
}

/// What the tables say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The first I/O APIC.
    pub io_apic: Option<IoApic>,
    overrides: [Option<Override>; MAX_OVERRIDES],
    /// The first segment of PCI Express.
    pub ecam: Option<Ecam>,
    /// I/O port of the power-management timer, and whether it has 32 bits (else 24).
    pub pm_timer: Option<(u16, bool)>,
    /// How the machine is switched off.
    pub soft_off: Option<SoftOff>,
    /// The power button, if it is one of the fixed hardware's.
    pub power_button: Option<PowerButton>,
}

impl Facts {
    /// The lines of the ISA bus that are not in their place.
    pub fn overrides(&self) -> impl Iterator<Item = Override> + '_ {
        self.overrides.iter().flatten().copied()
    }
}

/// Firmware's tables, wherever they lie outside of RAM.
pub(crate) struct Firmware;

impl PhysicalMemory for Firmware {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let start = paging::map_firmware(address, len as u64).ok()?;
        // SAFETY: mapped, readable, for ever; nobody writes to firmware's tables.
        Some(unsafe { core::slice::from_raw_parts(start.as_ptr(), len) })
    }
}

/// Walks the tables from the root pointer at `rsdp`. What is missing or broken stays unknown.
pub fn parse(memory: &dyn PhysicalMemory, rsdp: u64) -> Facts {
    let mut facts = Facts::default();
    let Some((root, entry_bytes)) = root_table(memory, rsdp) else {
        return facts;
    };
    for entry in root
        .get(HEADER_BYTES..)
        .unwrap_or_default()
        .chunks_exact(entry_bytes)
        .take(MAX_TABLES)
    {
        let address = if entry_bytes == 8 {
            u64_at(entry, 0)
        } else {
            u32_at(entry, 0).map(u64::from)
        };
        let Some(table) = address.and_then(|address| table(memory, address)) else {
            continue;
        };
        match table.first_chunk() {
            Some(b"APIC") => read_madt(table, &mut facts),
            Some(b"MCFG") => facts.ecam = facts.ecam.or(read_mcfg(table)),
            Some(b"FACP") => read_fadt(memory, table, &mut facts),
            _ => {}
        }
    }
    facts
}

/// The root table and the bytes of its entries: the XSDT where there is one, else the RSDT.
fn root_table(memory: &dyn PhysicalMemory, rsdp: u64) -> Option<(&[u8], usize)> {
    const FIRST_BYTES: usize = 20;
    const SECOND_BYTES: usize = 36;
    let first = memory.bytes(rsdp, FIRST_BYTES)?;
    if first.get(..8)? != b"RSD PTR " || sum(first) != 0 {
        return None;
    }
    let second = match *first.get(15)? {
        0 | 1 => None,
        _ => memory
            .bytes(rsdp, SECOND_BYTES)
            .filter(|whole| sum(whole) == 0),
    };
    let xsdt = second
        .and_then(|whole| u64_at(whole, 24))
        .filter(|&address| address != 0);
    if let Some(found) = xsdt
        .and_then(|address| table(memory, address))
        .filter(|table| table.starts_with(b"XSDT"))
    {
        return Some((found, 8));
    }
    let rsdt = u64::from(u32_at(first, 16)?);
    table(memory, rsdt)
        .filter(|table| table.starts_with(b"RSDT"))
        .map(|table| (table, 4))
}

/// The whole table at `address`, if its length and checksum are right.
fn table(memory: &dyn PhysicalMemory, address: u64) -> Option<&[u8]> {
    let len = u32_at(memory.bytes(address, HEADER_BYTES)?, 4)? as usize;
    if !(HEADER_BYTES..=MAX_TABLE_BYTES).contains(&len) {
        return None;
    }
    memory.bytes(address, len).filter(|table| sum(table) == 0)
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Interrupt controllers (§5.2.12).
fn read_madt(table: &[u8], facts: &mut Facts) {
    const FIRST_ENTRY: usize = 44;
    const IO_APIC: u8 = 1;
    const OVERRIDE: u8 = 2;
    let mut rest = table.get(FIRST_ENTRY..).unwrap_or_default();
    let mut free = 0;
    for _ in 0..MAX_ENTRIES {
        let [kind, len, ..] = *rest else { return };
        if len < 2 || usize::from(len) > rest.len() {
            return;
        }
        let (entry, after) = rest.split_at(len.into());
        rest = after;
        match kind {
            IO_APIC => facts.io_apic = facts.io_apic.or(read_io_apic(entry)),
            OVERRIDE if free < MAX_OVERRIDES => {
                facts.overrides[free] = read_override(entry);
                free += 1;
            }
            _ => {}
        }
    }
}

fn read_io_apic(entry: &[u8]) -> Option<IoApic> {
    Some(IoApic {
        address: u32_at(entry, 4)?.into(),
        first_line: u32_at(entry, 8)?,
    })
}

fn read_override(entry: &[u8]) -> Option<Override> {
    let flags = u16_at(entry, 8)?;
    Some(Override {
        irq: *entry.get(3)?,
        line: u32_at(entry, 4)?,
        active_low: flags & 3 == 3,
        level: flags >> 2 & 3 == 3,
    })
}

/// PCI Express's configuration space (PCI Firmware Specification 3.2 §4.1.2).
fn read_mcfg(table: &[u8]) -> Option<Ecam> {
    const FIRST_ENTRY: usize = 44;
    let entry = table.get(FIRST_ENTRY..)?;
    let (base, segment) = (u64_at(entry, 0)?, u16_at(entry, 8)?);
    let (first_bus, last_bus) = (*entry.get(10)?, *entry.get(11)?);
    (segment == 0 && first_bus <= last_bus).then_some(Ecam {
        base,
        first_bus,
        last_bus,
    })
}

/// Fixed hardware (§5.2.9).
fn read_fadt(memory: &dyn PhysicalMemory, table: &[u8], facts: &mut Facts) {
    const FLAG_NO_FIXED_POWER_BUTTON: u32 = 1 << 4;
    const FLAG_PM_TIMER_32_BITS: u32 = 1 << 8;
    const FLAG_HARDWARE_REDUCED: u32 = 1 << 20;
    const SLEEP_ENABLE: u8 = 1 << 5;
    const PM1_SLEEP_ENABLE: u16 = 1 << 13;
    let word = |offset| u32_at(table, offset).unwrap_or(0);
    let flags = word(112);
    let dsdt = u64_at(table, 140)
        .filter(|&address| address != 0)
        .unwrap_or(word(40).into());
    let sleep_type = self::table(memory, dsdt)
        .and_then(soft_off_type)
        .unwrap_or(0);
    if flags & FLAG_HARDWARE_REDUCED != 0 {
        // A generic address structure (§5.2.3.2): space 0 is memory.
        let control = table.get(244..256).unwrap_or_default();
        let address =
            u64_at(control, 4).filter(|&address| address != 0 && control.first() == Some(&0));
        let value = sleep_type << 2 | SLEEP_ENABLE;
        facts.soft_off = address.map(|address| SoftOff::SleepControl { address, value });
        return;
    }
    let port = |offset| u16::try_from(word(offset)).ok().filter(|&port| port != 0);
    facts.pm_timer = port(76).map(|port| (port, flags & FLAG_PM_TIMER_32_BITS != 0));
    let enable = port(48)
        .zip(table.get(52).copied())
        .filter(|&(_, value)| value != 0);
    if flags & FLAG_NO_FIXED_POWER_BUTTON == 0 {
        facts.power_button = read_power_button(table, port(56), port(64), enable);
    }
    let value = u16::from(sleep_type) << 10 | PM1_SLEEP_ENABLE;
    facts.soft_off = port(64).map(|port| SoftOff::Pm1a {
        port,
        value,
        enable,
    });
}

fn read_power_button(
    table: &[u8],
    event: Option<u16>,
    control: Option<u16>,
    handover: Option<(u16, u8)>,
) -> Option<PowerButton> {
    let (status, control) = event.zip(control)?;
    // The status register, then the enable register, each half of the block.
    let half = u16::from(*table.get(88)?) / 2;
    Some(PowerButton {
        status,
        enable: status.checked_add(half).filter(|_| half >= 2)?,
        control,
        irq: u8::try_from(u16_at(table, 46)?).ok()?,
        handover,
    })
}

/// The sleep type of the package `_S5_` in the bytes of the DSDT (§7.4.2, §20.2.5): `NameOp "_S5_" PackageOp PkgLength
/// NumElements element…`. An element is a constant opcode or a byte prefix and a byte.
fn soft_off_type(dsdt: &[u8]) -> Option<u8> {
    const PACKAGE_OP: u8 = 0x12;
    const BYTE_PREFIX: u8 = 0x0a;
    let name = dsdt.windows(4).position(|window| window == b"_S5_")?;
    let package = dsdt.get(name + 4..)?;
    let [PACKAGE_OP, length, ..] = *package else {
        return None;
    };
    // The upper two bits of the first length byte count the length bytes that follow; then the number of elements.
    let first = package.get(3 + usize::from(length >> 6)..)?;
    match *first {
        [BYTE_PREFIX, value, ..] => Some(value & 7),
        [value @ (0 | 1), ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phys::fake::Pieces;
    extern crate std;
    use std::vec;
    use std::vec::Vec;

    fn sealed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
        bytes[at] = 0;
        bytes[at] = 0u8.wrapping_sub(sum(&bytes));
        bytes
    }

    fn new_table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..4].copy_from_slice(signature);
        bytes[4..8].copy_from_slice(&((HEADER_BYTES + body.len()) as u32).to_le_bytes());
        bytes.extend(body);
        sealed(bytes, 9)
    }

    fn rsdp(revision: u8, rsdt: u32, xsdt: u64) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes[..8].copy_from_slice(b"RSD PTR ");
        bytes[15] = revision;
        bytes[16..20].copy_from_slice(&rsdt.to_le_bytes());
        let mut bytes = sealed(bytes, 8);
        bytes.extend(36u32.to_le_bytes());
        bytes.extend(xsdt.to_le_bytes());
        bytes.extend([0; 4]);
        sealed(bytes, 32)
    }

    fn madt() -> Vec<u8> {
        let mut body = vec![0; 8];
        body.extend([0, 8, 0, 0, 1, 0, 0, 0]);
        body.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        body.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
        body.extend([2, 10, 0, 9, 9, 0, 0, 0, 0x0f, 0]);
        new_table(b"APIC", &body)
    }

    fn mcfg() -> Vec<u8> {
        let mut body = vec![0; 8];
        body.extend(0xb000_0000u64.to_le_bytes());
        body.extend([0, 0, 0, 255, 0, 0, 0, 0]);
        new_table(b"MCFG", &body)
    }

    fn fadt(flags: u32) -> Vec<u8> {
        let mut body = vec![0; 268 - HEADER_BYTES];
        let mut put = |offset: usize, bytes: &[u8]| {
            body[offset - HEADER_BYTES..][..bytes.len()].copy_from_slice(bytes)
        };
        put(40, &0x9000u32.to_le_bytes());
        put(46, &[9, 0]);
        put(48, &[0xb2, 0, 0, 0, 2]);
        put(56, &0x600u32.to_le_bytes());
        put(88, &[4]);
        put(64, &0x604u32.to_le_bytes());
        put(76, &0x608u32.to_le_bytes());
        put(112, &flags.to_le_bytes());
        put(244, &[0, 8, 0, 1]);
        put(248, &0xfea0_0000u64.to_le_bytes());
        new_table(b"FACP", &body)
    }

    fn machine(revision: u8) -> Pieces {
        let mut pieces = Pieces::default();
        let addresses = [0x6000u32, 0x7000, 0x8000, 0xdead_0000];
        let short: Vec<u8> = addresses
            .iter()
            .flat_map(|address| address.to_le_bytes())
            .collect();
        let long: Vec<u8> = addresses
            .iter()
            .flat_map(|&address| u64::from(address).to_le_bytes())
            .collect();
        pieces.0.insert(0x1000, rsdp(revision, 0x2000, 0x3000));
        pieces.0.insert(0x2000, new_table(b"RSDT", &short));
        pieces.0.insert(0x3000, new_table(b"XSDT", &long));
        pieces.0.insert(0x6000, madt());
        pieces.0.insert(0x7000, mcfg());
        pieces.0.insert(0x8000, fadt(1 << 8));
        pieces.0.insert(
            0x9000,
            new_table(b"DSDT", b"\x08_S5_\x12\x06\x04\x0a\x05\x0a\x05\0\0"),
        );
        pieces
    }

    #[test]
    fn both_kinds_of_root_table_lead_to_the_same_facts() {
        for revision in [0, 2] {
            let mut pieces = machine(revision);
            pieces
                .0
                .remove(if revision == 0 { &0x3000 } else { &0x2000 });
            let facts = parse(&pieces, 0x1000);
            assert_eq!(
                facts.io_apic,
                Some(IoApic {
                    address: 0xfec0_0000,
                    first_line: 0
                })
            );
            let overrides: Vec<_> = facts.overrides().collect();
            assert_eq!(
                overrides[0],
                Override {
                    irq: 0,
                    line: 2,
                    active_low: false,
                    level: false
                }
            );
            assert_eq!(
                overrides[1],
                Override {
                    irq: 9,
                    line: 9,
                    active_low: true,
                    level: true
                }
            );
            assert_eq!(
                facts.ecam,
                Some(Ecam {
                    base: 0xb000_0000,
                    first_bus: 0,
                    last_bus: 255
                })
            );
            assert_eq!(facts.pm_timer, Some((0x608, true)));
            let off = SoftOff::Pm1a {
                port: 0x604,
                value: 5 << 10 | 1 << 13,
                enable: Some((0xb2, 2)),
            };
            assert_eq!(facts.soft_off, Some(off));
            let button = PowerButton {
                status: 0x600,
                enable: 0x602,
                control: 0x604,
                irq: 9,
                handover: Some((0xb2, 2)),
            };
            assert_eq!(facts.power_button, Some(button));
        }
    }

    #[test]
    fn a_button_that_only_the_machines_own_code_can_ask_is_none() {
        let mut pieces = machine(0);
        pieces.0.insert(0x8000, fadt(1 << 4));
        let facts = parse(&pieces, 0x1000);
        assert_eq!(facts.power_button, None);
        assert!(facts.soft_off.is_some());
    }

    #[test]
    fn a_machine_without_fixed_registers_is_switched_off_by_its_sleep_control() {
        let mut pieces = machine(0);
        pieces.0.insert(0x8000, fadt(1 << 20));
        let facts = parse(&pieces, 0x1000);
        assert_eq!(
            facts.soft_off,
            Some(SoftOff::SleepControl {
                address: 0xfea0_0000,
                value: 5 << 2 | 1 << 5
            })
        );
        assert_eq!(facts.pm_timer, None);
        assert_eq!(facts.power_button, None);
    }

    #[test]
    fn any_byte_changed_is_noticed_or_harmless() {
        let whole = parse(&machine(0), 0x1000);
        for (start, piece) in machine(0).0 {
            for offset in 0..piece.len() {
                let mut pieces = machine(0);
                pieces.0.get_mut(&start).unwrap()[offset] ^= 0x5a;
                let facts = parse(&pieces, 0x1000);
                // The checksum catches it: the table counts as missing, or it was not one that is read.
                let place = std::format!("byte {offset} of the table at {start:#x}");
                assert!(facts.ecam.is_none() || facts.ecam == whole.ecam, "{place}");
                assert!(
                    facts.io_apic.is_none() || facts.io_apic == whole.io_apic,
                    "{place}"
                );
            }
        }
    }

    #[test]
    fn tables_that_lie_about_lengths_yield_nothing_and_end() {
        let mut pieces = machine(0);
        let mut endless = vec![0; 8];
        endless.extend([1, 0, 1, 200, 2, 10, 0, 9]);
        pieces.0.insert(0x6000, new_table(b"APIC", &endless));
        pieces.0.insert(0x9000, new_table(b"DSDT", b"_S5_\x12"));
        let facts = parse(&pieces, 0x1000);
        assert_eq!(facts.io_apic, None);
        assert!(matches!(
            facts.soft_off,
            Some(SoftOff::Pm1a { value: 0x2000, .. })
        ));
        assert_eq!(parse(&pieces, 0x2000), Facts::default());
        assert_eq!(parse(&Pieces::default(), 0), Facts::default());
    }
}
