use super::*;
use crate::testing::{Lcg, install_host};

/// Memory of its own for a test of the free lists; never freed, as a region's is not.
fn region(pages: usize) -> Region {
    #[derive(Clone)]
    #[repr(C, align(4096))]
    struct Page([u8; PAGE_SIZE]);
    let memory = vec![Page([0xA5; PAGE_SIZE]); pages].leak();
    Region {
        base: NonNull::from(memory).cast(),
        pages,
    }
}

fn all_free(physmem: &PhysMem) -> usize {
    let free = enter(&physmem.free);
    let mut pages = 0;
    for (order, head) in free.heads.iter().enumerate() {
        let mut at = *head;
        while at != NIL {
            pages += 1 << order;
            at = physmem.page(at).next.load(Ordering::Relaxed);
        }
    }
    pages
}

#[test]
fn runs_never_overlap_and_all_memory_coalesces_again() {
    let seed = 42;
    println!("seed {seed}");
    let mut random = Lcg::new(seed);
    let physmem = PhysMem::new(&[region(700), region(33), region(1500)], None).expect("memory");
    let total = physmem.pages.len();
    let mut owner = vec![0u32; total];
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for round in 1..20_000u32 {
        if random.below(100) < 55 {
            let pages = match random.below(10) {
                0 => 1 + random.below(200) as u32,
                1..4 => 1 + random.below(16) as u32,
                _ => 1,
            };
            let Some(number) = physmem.take(pages) else {
                continue;
            };
            let start = physmem.address(number).addr().get();
            let end = physmem.address(number + pages - 1).addr().get();
            assert_eq!(end - start, (pages as usize - 1) * PAGE_SIZE, "contiguous");
            for at in &mut owner[number as usize..(number + pages) as usize] {
                assert_eq!(*at, 0, "page handed out twice");
                *at = round;
            }
            runs.push((number, pages));
        } else if !runs.is_empty() {
            let (number, pages) = runs.swap_remove(random.below(runs.len()));
            owner[number as usize..(number + pages) as usize].fill(0);
            physmem.put(number, pages);
        }
    }
    for (number, pages) in runs.drain(..) {
        physmem.put(number, pages);
    }
    while physmem.make_ready(&mut enter(&physmem.free)) {}
    assert_eq!(all_free(&physmem), total);
    assert_eq!(physmem.largest_free(), 1024);
}

#[test]
fn a_run_is_extended_only_into_free_memory() {
    let physmem = PhysMem::new(&[region(256)], None).expect("memory");
    let first = physmem.take(3).expect("a run");
    assert!(physmem.extend(first, 3, 4));
    let next = physmem.take(1).expect("a page");
    let behind = physmem.take(1).expect("a page");
    let (low, high) = (next.min(behind), next.max(behind));
    assert!(!physmem.extend(low, 1, 2) || low + 1 != high);
    physmem.put(first, 4);
    let whole = physmem.take(1).expect("a page");
    physmem.put(whole, 1);
}

#[test]
fn an_address_that_is_not_ours_has_no_number() {
    let physmem = PhysMem::new(&[region(64), region(64)], None).expect("memory");
    let local = 0u8;
    assert_eq!(physmem.number(NonNull::from(&local)), None);
    for number in 0..physmem.pages.len() as u32 {
        let address = physmem.address(number);
        assert_eq!(physmem.number(address), Some(number));
    }
}

#[test]
fn too_little_memory_for_the_bookkeeping_is_refused() {
    assert!(PhysMem::new(&[region(1)], None).is_none());
    assert!(PhysMem::new(&[], None).is_none());
}

#[test]
fn a_wanted_size_bounds_what_is_managed() {
    let physmem = PhysMem::new(&[region(512), region(512)], Some(600)).expect("memory");
    assert!(physmem.pages.len() < 600);
    assert!(physmem.pages.len() > 590);
}

#[test]
fn only_a_sole_holder_of_a_frame_can_write() {
    install_host();
    let mut frame = Frame::alloc_zeroed(Alloc::NoWait).expect("a page");
    assert!(frame.as_bytes().iter().all(|byte| *byte == 0));
    frame.get_mut().expect("unique")[17] = 9;
    let mut other = frame.clone();
    assert!(frame.ptr_eq(&other));
    assert_eq!(frame.holders(), 2);
    assert!(frame.get_mut().is_none() && other.get_mut().is_none());
    drop(frame);
    assert_eq!(other.get_mut().expect("unique again")[17], 9);
}

#[test]
fn a_frame_crosses_threads_with_its_bytes() {
    install_host();
    for _ in 0..200 {
        let mut frame = Frame::alloc(Alloc::NoWait).expect("a page");
        frame.get_mut().expect("unique").fill(1);
        let reader = frame.clone();
        let thread =
            std::thread::spawn(move || reader.as_bytes().iter().map(|b| *b as usize).sum());
        let sum: usize = thread.join().expect("the reader ends");
        assert_eq!(sum, PAGE_SIZE);
        while frame.get_mut().is_none() {}
    }
}

#[test]
fn frames_that_are_dropped_together_are_all_given_back_but_for_those_that_are_shared() {
    install_host();
    let mut random = Lcg::new(11);
    let rounds = 2 * physmem().expect("memory").pages.len() / 100 + 1;
    for _ in 0..rounds {
        let alloc = |_| Frame::alloc(Alloc::NoWait).expect("what was dropped is free");
        let mut frames: Vec<Frame> = (0..100).map(alloc).collect();
        for last in (1..frames.len()).rev() {
            if random.below(3) == 0 {
                frames.swap(last, random.below(last));
            }
        }
        frames[7].get_mut().expect("unique").fill(7);
        let mut kept = frames[7].clone();
        Frame::drop_all(frames.into_iter());
        assert!(
            kept.get_mut()
                .expect("unique")
                .iter()
                .all(|byte| *byte == 7)
        );
    }
}

#[test]
fn pages_of_two_segments_are_not_a_run() {
    let physmem = PhysMem::new(&[region(65), region(64)], None).expect("memory");
    let border = physmem.segments[1].first;
    assert!(physmem.is_next(border - 2, border - 1) && physmem.is_next(border, border + 1));
    assert!(!physmem.is_next(border - 1, border) && !physmem.is_next(border, border));
}
