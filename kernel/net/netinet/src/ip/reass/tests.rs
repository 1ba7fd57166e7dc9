use super::*;
use rumpuser_hosted::Host;
use std::vec::Vec;

fn header(id: u16, offset: usize, len: usize, more: bool) -> IpHeader {
    IpHeader {
        tos: 0,
        header_len: 20,
        total_len: 20 + len,
        id,
        dont_fragment: false,
        more_fragments: more,
        fragment_offset: offset,
        ttl: 64,
        proto: IpProto::UDP,
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
    }
}

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

/// The packet of this number, byte by byte.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

/// Gives the `start..end` of a packet of `total` bytes.
fn give(r: &mut Reassembly, id: u16, start: usize, end: usize, total: usize) -> Outcome {
    let data = Mbuf::from_slice(&content(total)[start..end]).unwrap();
    r.input(&header(id, start, end - start, end < total), data, at(1))
}

fn bytes(m: &Mbuf) -> Vec<u8> {
    let mut bytes = std::vec![0; m.len()];
    m.copy_out(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn parts_in_any_order_make_the_packet() {
    Host::install_for_tests();
    let parts = [(0, 800), (800, 1600), (1600, 2400), (2400, 2999)];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
        let mut r = Reassembly::with_limit(1 << 20);
        for (n, part) in order.into_iter().enumerate() {
            let (start, end) = parts[part];
            match give(&mut r, 1, start, end, 2999) {
                Outcome::Complete(header, whole) => {
                    assert_eq!(n, 3, "order {order:?}");
                    assert_eq!(bytes(&whole), content(2999));
                    assert_eq!((header.total_len, header.is_fragment()), (3019, false));
                }
                Outcome::Incomplete => assert!(n < 3, "order {order:?}"),
                Outcome::Dropped(why) => panic!("order {order:?}: {why:?}"),
            }
        }
        assert!(r.is_empty());
        assert_eq!(r.held, 0);
    }
}

#[test]
fn a_part_that_comes_twice_is_ignored() {
    Host::install_for_tests();
    let mut r = Reassembly::with_limit(1 << 20);
    for _ in 0..3 {
        assert!(matches!(give(&mut r, 1, 0, 800, 1000), Outcome::Incomplete));
    }
    assert!(matches!(
        give(&mut r, 1, 800, 1000, 1000),
        Outcome::Complete(..)
    ));
}

#[test]
fn overlapping_parts_poison_the_packet_for_good() {
    Host::install_for_tests();
    for (start, end) in [(792, 900), (0, 808), (8, 16), (800, 1000)] {
        let mut r = Reassembly::with_limit(1 << 20);
        give(&mut r, 1, 0, 800, 2000);
        give(&mut r, 1, 800, 1600, 2000);
        let overlap = give(&mut r, 1, start, end, 2000);
        assert!(
            matches!(overlap, Outcome::Dropped(Dropped::Overlap)),
            "{start}..{end}"
        );
        let rest = give(&mut r, 1, 1600, 2000, 2000);
        assert!(matches!(rest, Outcome::Dropped(Dropped::Overlap)));
        assert_eq!(r.held, 0);
    }
}

#[test]
fn parts_that_disagree_about_the_end_are_dropped() {
    Host::install_for_tests();
    let mut r = Reassembly::with_limit(1 << 20);
    give(&mut r, 1, 800, 1000, 1000);
    let beyond = give(&mut r, 1, 1600, 1608, 2000);
    assert!(matches!(beyond, Outcome::Dropped(Dropped::Overlap)));
    let mut r = Reassembly::with_limit(1 << 20);
    give(&mut r, 1, 1600, 1608, 2000);
    let before = give(&mut r, 1, 800, 1000, 1000);
    assert!(matches!(before, Outcome::Dropped(Dropped::Overlap)));
}

#[test]
fn packets_fragments_and_bytes_are_bounded() {
    Host::install_for_tests();
    let mut r = Reassembly::with_limit(64 << 10);
    for id in 0..1000 {
        give(&mut r, id, 0, 1400, 3000);
        assert!(r.len() <= MAX_PACKETS && r.held <= 64 << 10);
    }
    let mut r = Reassembly::with_limit(1 << 20);
    for part in 0..MAX_FRAGMENTS {
        let start = 16 * part;
        assert!(matches!(
            give(&mut r, 1, start, start + 8, 60_000),
            Outcome::Incomplete
        ));
    }
    let over = give(&mut r, 1, 50_000, 50_008, 60_000);
    assert!(matches!(over, Outcome::Dropped(Dropped::NoRoom)));
}

#[test]
fn what_does_not_come_in_time_is_given_up_with_its_first_part() {
    Host::install_for_tests();
    let mut r = Reassembly::with_limit(1 << 20);
    give(&mut r, 1, 0, 800, 1600);
    give(&mut r, 2, 800, 1600, 2000);
    assert!(r.expire(at(30)).is_none());
    let expired: Vec<_> = core::iter::from_fn(|| r.expire(at(31))).collect();
    assert_eq!(expired.len(), 2);
    let firsts: Vec<_> = expired.iter().filter_map(|e| e.first.as_ref()).collect();
    assert_eq!(firsts.len(), 1);
    assert_eq!((firsts[0].0.id, firsts[0].1.len()), (1, 800));
    assert!(r.is_empty() && r.held == 0);
}
