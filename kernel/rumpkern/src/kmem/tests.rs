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

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a layout")
}

#[test]
fn a_reallocated_block_keeps_its_bytes_whatever_the_sizes() {
    install_host();
    let sizes = [
        1, 16, 17, 100, 260, 1000, 2048, 2049, 4096, 4097, 8192, 9000, 70_000, 40_000, 8193, 4000,
        300, 30, 3,
    ];
    let mut old = layout(sizes[0]);
    // SAFETY: the size is not 0.
    let mut block = unsafe { Kmem.alloc(old) };
    let mut filled = 0;
    for (round, size) in (1u8..).zip(sizes.into_iter().cycle().skip(1).take(60)) {
        // SAFETY: allocated with the layout `old`, and its old address is not used again.
        block = unsafe { Kmem.realloc(block, old, size) };
        assert!(!block.is_null());
        old = layout(size);
        // SAFETY: the block is `size` long; its first `filled` bytes were written.
        let kept = unsafe { core::slice::from_raw_parts(block, filled.min(size)) };
        assert!(kept.iter().all(|byte| *byte == round - 1), "to {size}");
        // SAFETY: the block is `size` bytes long.
        unsafe { block.write_bytes(round, size) };
        filled = size;
    }
    // SAFETY: allocated with the layout `old`.
    unsafe { Kmem.dealloc(block, old) };
}

#[test]
fn alignments_beyond_a_page_are_kept_and_give_the_rest_back() {
    install_host();
    for align in [4096, 8192, 65536] {
        for size in [1, 5000, 100_000] {
            let layout = Layout::from_size_align(size, align).expect("a layout");
            let block = allocate(layout, Alloc::NoWait).expect("there is memory");
            assert_eq!(block.addr().get() % align, 0);
            // SAFETY: allocated with this layout.
            unsafe { release(block, layout) };
        }
    }
}

#[test]
fn what_can_never_be_met_is_refused() {
    install_host();
    assert!(allocate(layout(1 << 30), Alloc::NoWait).is_none());
    assert!(allocate(layout(usize::MAX / 4), Alloc::Wait).is_none());
}

#[test]
fn blocks_of_several_threads_are_their_own() {
    install_host();
    crate::testing::on_threads(4, |thread| {
        move || {
            let mut random = crate::testing::Lcg::new(thread as u64);
            let mut blocks: Vec<(NonNull<u8>, Layout)> = Vec::new();
            for _ in 0..10_000 {
                if blocks.len() < 100 && random.below(2) == 0 {
                    let layout = layout(1 + random.below(700));
                    let block = allocate(layout, Alloc::NoWait).expect("there is memory");
                    // SAFETY: the block is as long.
                    unsafe { block.as_ptr().write_bytes(thread as u8, layout.size()) };
                    blocks.push((block, layout));
                } else if !blocks.is_empty() {
                    let (block, layout) = blocks.swap_remove(random.below(blocks.len()));
                    check_and_free(block, layout, thread as u8);
                }
            }
            for (block, layout) in blocks {
                check_and_free(block, layout, thread as u8);
            }
        }
    });
}

#[test]
fn freed_clusters_are_used_again_and_shared_ones_cannot_be_written() {
    install_host();
    let mut cluster = crate::uvm::Cluster::alloc(Alloc::NoWait).expect("a cluster");
    cluster.get_mut().expect("unique")[2039] = 5;
    let mut other = cluster.clone();
    assert!(cluster.ptr_eq(&other) && cluster.get_mut().is_none() && other.get_mut().is_none());
    drop(cluster);
    assert_eq!(other.get_mut().expect("unique again")[2039], 5);
}

#[test]
#[should_panic(expected = "which is no object of size")]
fn a_pointer_into_an_object_is_not_freed() {
    install_host();
    let layout = layout(640);
    let block = allocate(layout, Alloc::NoWait).expect("there is memory");
    // SAFETY: inside the block; `release` finds that it is not the start of an object, and stops.
    let inside = unsafe { block.add(16) };
    // SAFETY: breaks the contract on purpose; the check stops it before anything is touched.
    unsafe { release(inside, layout) };
}

#[test]
fn the_fallible_constructors_give_what_they_are_given() {
    install_host();
    assert_eq!(*try_box(5u64).expect("memory"), 5);
    assert_eq!(*try_arc([7u8; 3000]).expect("memory"), [7; 3000]);
    let _unit = try_box(()).expect("memory");
    let vec: alloc::vec::Vec<u32> = try_vec(100).expect("memory");
    assert!(vec.is_empty() && vec.capacity() >= 100);
    assert!(try_vec::<u64>(usize::MAX / 8).is_err());
}
