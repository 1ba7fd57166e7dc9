//! The smallest images: an ELF header, a PVH note and a few instructions.

/// Where the code of [`pvh`] is loaded and entered.
const ENTRY: u64 = 0x10_1000;

/// An ELF file that QEMU's `-kernel` boots by PVH, entering 32-bit protected mode at `code` (Xen docs/misc/pvh.pandoc).
pub fn pvh(code: &[u8]) -> Vec<u8> {
    const CODE_OFFSET: usize = 0x1000;
    const NOTE_OFFSET: u64 = 64 + 2 * 56;
    let length = code.len() as u64;

    // Elf64_Nhdr, name, descriptor: the entry address.
    let mut note = Vec::new();
    note.extend([4_u32, 8, 18].iter().flat_map(|word| word.to_le_bytes()));
    note.extend(b"Xen\0");
    note.extend(ENTRY.to_le_bytes());

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2_u16, 62].iter().flat_map(|half| half.to_le_bytes())); // ET_EXEC, EM_X86_64
    file.extend(1_u32.to_le_bytes());
    file.extend([ENTRY, 64, 0].iter().flat_map(|word| word.to_le_bytes())); // entry, program headers, sections
    file.extend(0_u32.to_le_bytes());
    file.extend(
        [64_u16, 56, 2, 0, 0, 0]
            .iter()
            .flat_map(|half| half.to_le_bytes()),
    );
    program_header(&mut file, 1, CODE_OFFSET as u64, ENTRY, length, 0x1000); // PT_LOAD
    program_header(&mut file, 4, NOTE_OFFSET, ENTRY, note.len() as u64, 4); // PT_NOTE
    file.extend(note);
    file.resize(CODE_OFFSET, 0);
    file.extend(code);
    file
}

fn program_header(file: &mut Vec<u8>, kind: u32, offset: u64, address: u64, size: u64, align: u64) {
    file.extend([kind, 5].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(
        [offset, address, address, size, size, align]
            .iter()
            .flat_map(|word| word.to_le_bytes()),
    );
}

/// Reports `status` at QEMU's isa-debug-exit port, 0xf4.
pub fn exits_with(status: u8) -> Vec<u8> {
    // mov dx, 0xf4; mov eax, status; out dx, eax
    pvh(&[0x66, 0xba, 0xf4, 0x00, 0xb8, status, 0, 0, 0, 0xef])
}

/// Writes `text` to the serial port, then halts for good.
pub fn says_and_hangs(text: &str) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    for byte in text.bytes() {
        code.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
    }
    code.extend([0xf4, 0xeb, 0xfd]); // hlt; jmp back to it
    pvh(&code)
}

/// Takes an exception with no table to handle it: a triple fault, which resets the machine.
pub fn faults() -> Vec<u8> {
    pvh(&[0x0f, 0x0b]) // ud2
}
