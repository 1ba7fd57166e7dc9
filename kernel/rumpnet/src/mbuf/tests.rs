use super::*;
use proptest::prelude::*;
use rumpuser_hosted::Host;
use std::vec::Vec;

fn content(m: &Mbuf) -> Vec<u8> {
    let mut bytes = std::vec![0; m.len()];
    m.copy_out(0, &mut bytes).unwrap();
    let by_pieces: Vec<u8> = m.pieces().flat_map(|p| p.bytes().to_vec()).collect();
    assert_eq!(bytes, by_pieces);
    bytes
}

/// Bytes in pieces of `sizes`.
fn pieced(bytes: &[u8], sizes: &[usize]) -> Mbuf {
    let mut m = Mbuf::new();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (part, after) = rest.split_at((*size).clamp(1, 2000).min(rest.len()));
        m.append(Mbuf::from_slice(part).unwrap()).unwrap();
        rest = after;
    }
    m
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chains_behave_as_the_bytes_they_hold(
        bytes in proptest::collection::vec(any::<u8>(), 0..6000),
        sizes in proptest::collection::vec(1usize..900, 1..6),
        (a, b) in (0usize..6500, 0usize..6500),
    ) {
        Host::install_for_tests();
        let m = pieced(&bytes, &sizes);
        prop_assert_eq!(content(&m), bytes.clone());
        let (from, to) = (a.min(b), a.max(b));
        match m.copy_range(from, to - from) {
            Ok(range) => prop_assert_eq!(content(&range), bytes[from..to].to_vec()),
            Err(errno) => prop_assert!(to > bytes.len() && errno == Errno::EINVAL),
        }
        let mut front = m.clone();
        front.trim_front(a);
        prop_assert_eq!(content(&front), bytes[a.min(bytes.len())..].to_vec());
        let mut back = m.clone();
        back.truncate(a);
        prop_assert_eq!(content(&back), bytes[..a.min(bytes.len())].to_vec());
        let mut rest = m.clone();
        if a <= bytes.len() {
            let taken = rest.split_to(a).unwrap();
            prop_assert_eq!(content(&taken), bytes[..a].to_vec());
            prop_assert_eq!(content(&rest), bytes[a..].to_vec());
        } else {
            prop_assert_eq!(rest.split_to(a).unwrap_err(), Errno::EINVAL);
        }
        let mut pulled = m.clone();
        let n = a % (MCLBYTES + 1);
        if n <= bytes.len() {
            prop_assert_eq!(pulled.pullup(n).unwrap(), &bytes[..n]);
            prop_assert_eq!(content(&pulled), bytes.clone());
        }
        prop_assert_eq!(content(&m), bytes);
    }
}

#[test]
fn a_header_in_front_of_shared_data_does_not_touch_it() {
    Host::install_for_tests();
    let m = Mbuf::from_slice(b"data").unwrap();
    let mut first = m.copy_range(0, 4).unwrap();
    let mut second = m.copy_range(0, 4).unwrap();
    first.prepend_slice(b"one ").unwrap();
    second.prepend_slice(b"two ").unwrap();
    second.prepend_slice(b"and ").unwrap();
    assert_eq!(content(&first), b"one data");
    assert_eq!(content(&second), b"and two data");
    assert_eq!(second.piece_count(), 2, "headers share one small buffer");
    assert_eq!(content(&m), b"data");
}

#[test]
fn writing_to_shared_bytes_copies_them_first() {
    Host::install_for_tests();
    let m = Mbuf::from_slice(&[7; 1000]).unwrap();
    let mut copy = m.copy_range(0, 1000).unwrap();
    copy.pullup_mut(10).unwrap().fill(9);
    assert_eq!(content(&m), [7; 1000]);
    assert_eq!(content(&copy)[..11], [9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 7]);
}

#[test]
fn a_page_is_referred_to_and_never_written() {
    Host::install_for_tests();
    let mut frame = Frame::alloc(Alloc::NoWait).unwrap();
    frame.get_mut().unwrap().fill(3);
    let mut m = Mbuf::from_frame(frame.clone(), 100, 200).unwrap();
    m.append_slice(b"tail").unwrap();
    m.pullup_mut(4).unwrap().fill(1);
    m.prepend_slice(b"head").unwrap();
    assert!(frame.as_bytes().iter().all(|byte| *byte == 3));
    assert!(!frame.is_unique());
    drop(m);
    assert!(frame.is_unique());
    assert!(Mbuf::from_frame(frame.clone(), 4000, 97).is_err());
    assert!(Mbuf::from_frame(frame, usize::MAX, 2).is_err());
}

#[test]
fn appending_uses_the_room_behind_the_last_piece() {
    Host::install_for_tests();
    let mut m = Mbuf::new();
    for _ in 0..MLEN {
        m.append_slice(b"x").unwrap();
    }
    assert_eq!(m.piece_count(), 1);
    let shared = m.clone();
    m.append_slice(b"y").unwrap();
    assert_eq!((m.piece_count(), shared.len()), (2, MLEN));
}

#[test]
fn what_was_cut_from_one_page_is_one_piece_again() {
    Host::install_for_tests();
    let frame = Frame::alloc(Alloc::NoWait).unwrap();
    let whole = Mbuf::from_frame(frame, 0, 4096).unwrap();
    let mut again = Mbuf::new();
    for (from, to) in [(0, 1000), (1000, 1001), (1001, 4096)] {
        again
            .append(whole.copy_range(from, to - from).unwrap())
            .unwrap();
    }
    assert_eq!((again.piece_count(), again.len()), (1, 4096));
    again.append(whole.copy_range(0, 10).unwrap()).unwrap();
    assert_eq!(again.piece_count(), 2);
}

#[test]
fn a_copy_in_pages_has_as_few_pieces_as_can_be() {
    Host::install_for_tests();
    let bytes: Vec<u8> = (0..10_000).map(|i| i as u8).collect();
    let m = pieced(&bytes, &[100, 7]);
    let copy = m.to_pages().unwrap();
    assert_eq!((copy.piece_count(), content(&copy)), (3, bytes));
}

#[test]
fn a_header_too_large_for_a_small_buffer_is_refused() {
    Host::install_for_tests();
    assert_eq!(Mbuf::new().prepend(MLEN + 1).unwrap_err(), Errno::EINVAL);
    assert_eq!(Mbuf::new().pullup(1).unwrap_err(), Errno::EINVAL);
    assert_eq!(Mbuf::new().header::<1>(0).unwrap_err(), Errno::EINVAL);
}
