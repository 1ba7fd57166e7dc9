use super::*;
use crate::testing::install_host;

#[test]
fn objects_do_not_overlap_and_keep_what_is_written() {
    install_host();
    let mut blocks = Vec::new();
    for round in 0..3_000usize {
        let size = 1 + (round * 7919) % 5000;
        let layout = Layout::from_size_align(size, 1 << (round % 6)).expect("a layout");
        let block = allocate(layout, Alloc::NoWait).expect("there is memory");
        assert_eq!(block.addr().get() % layout.align(), 0);
        // SAFETY: the block is `size` bytes long and ours.
        unsafe { block.as_ptr().write_bytes(round as u8, size) };
        blocks.push((block, layout, round as u8));
        if round % 3 == 2 {
            let (block, layout, mark) = blocks.swap_remove((round * 31) % blocks.len());
            check_and_free(block, layout, mark);
        }
    }
    for (block, layout, mark) in blocks {
        check_and_free(block, layout, mark);
    }
}

fn check_and_free(block: NonNull<u8>, layout: Layout, mark: u8) {
    // SAFETY: allocated with this layout and written to the full.
    let bytes = unsafe { core::slice::from_raw_parts(block.as_ptr(), layout.size()) };
    assert!(bytes.iter().all(|byte| *byte == mark));
    // SAFETY: allocated with this layout, and not used again.
    unsafe { release(block, layout) };
}
