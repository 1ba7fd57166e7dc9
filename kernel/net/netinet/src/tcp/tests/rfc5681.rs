//! Loss by duplicates: fast retransmit and recovery (RFC 5681 §3.2, RFC 6582), limited transmit (RFC 3042).

use super::script::{MS, MSS, Side, seg};

/// Ten segments in flight from the answered number on.
fn ten_in_flight() -> (Side, u32) {
    let mut side = Side::established();
    let una = side.warm_up(14);
    side.send(10 * MSS);
    assert_eq!(side.burst().len(), 10);
    (side, una)
}

#[test]
fn the_initial_window_is_ten_segments() {
    let mut side = Side::established();
    side.send(20 * MSS);
    assert_eq!(side.burst().len(), 10);
}

#[test]
fn three_duplicates_send_the_first_segment_again_and_nothing_else() {
    let (mut side, una) = ten_in_flight();
    side.inject(seg(1, una));
    side.inject(seg(1, una));
    side.expect_silence();
    side.inject(seg(1, una));
    side.expect(una, 1, MSS);
    side.expect_silence();
}

#[test]
fn the_first_two_duplicates_each_let_one_new_segment_go() {
    let mut side = Side::established();
    side.send(20 * MSS);
    assert_eq!(side.burst().len(), 10);
    side.inject(seg(1, 1));
    assert_eq!(side.burst(), [(10_001, 1000)]);
    side.inject(seg(1, 1));
    assert_eq!(side.burst(), [(11_001, 1000)]);
}

#[test]
fn segments_with_data_or_another_window_are_no_duplicates() {
    let (mut side, una) = ten_in_flight();
    side.inject(seg(1, una).window(50_000));
    side.inject(seg(1, una).window(60_000));
    side.inject(seg(1, una).data(10));
    side.inject(seg(11, una).data(10));
    side.burst();
    side.inject(seg(21, una).data(10));
    side.inject(seg(31, una).data(10));
    let again: alloc::vec::Vec<_> = side.burst();
    assert!(again.iter().all(|&(_, len)| len == 0), "{again:?}");
}

#[test]
fn further_duplicates_let_new_segments_go() {
    let (mut side, una) = ten_in_flight();
    side.send(10 * MSS);
    let new = una + 10 * MSS;
    side.burst();
    for _ in 0..3 {
        side.inject(seg(1, una));
        side.burst();
    }
    let window = side.tcb.congestion_window();
    side.inject(seg(1, una));
    assert_eq!(side.tcb.congestion_window(), window + MSS);
    for _ in 0..8 {
        side.inject(seg(1, una));
    }
    assert!(side.burst().iter().all(|&(seq, _)| seq >= new));
}

#[test]
fn a_partial_acknowledgment_sends_the_next_hole_again() {
    let (mut side, una) = ten_in_flight();
    for _ in 0..3 {
        side.inject(seg(1, una));
    }
    side.expect(una, 1, MSS);
    side.inject(seg(1, una + 3 * MSS));
    side.expect(una + 3 * MSS, 1, MSS);
    side.inject(seg(1, una + 7 * MSS));
    side.expect(una + 7 * MSS, 1, MSS);
    side.inject(seg(1, una + 10 * MSS));
    side.expect_silence();
    assert_eq!(side.tcb.in_flight(), 0);
}

#[test]
fn recovery_ends_with_all_that_was_in_flight_and_halves_the_window() {
    let (mut side, una) = ten_in_flight();
    for _ in 0..9 {
        side.inject(seg(1, una));
    }
    side.burst();
    side.inject(seg(1, una + 10 * MSS));
    assert!(side.tcb.congestion_window() <= 5 * MSS);
    assert_eq!(side.tcb.deadline(), None);
}

#[test]
fn duplicates_of_what_a_timeout_sent_again_do_not_start_a_recovery() {
    let (mut side, una) = ten_in_flight();
    side.sleep_until_timer().unwrap();
    side.expect(una, 1, MSS);
    side.expect_silence();
    let window = side.tcb.congestion_window();
    for _ in 0..5 {
        side.inject(seg(1, una));
    }
    assert!(side.burst().iter().all(|&(seq, _)| seq != una));
    assert_eq!(side.tcb.congestion_window(), window);
}

#[test]
fn after_a_timeout_it_goes_on_from_the_first_unacknowledged_in_slow_start() {
    let (mut side, una) = ten_in_flight();
    side.sleep_until_timer().unwrap();
    side.expect(una, 1, MSS);
    side.inject(seg(1, una + MSS));
    assert_eq!(side.burst(), [(una + MSS, MSS), (una + 2 * MSS, MSS)]);
    side.inject(seg(1, una + 10 * MSS));
    assert_eq!(side.tcb.in_flight(), 0, "all had arrived but the first");
    side.expect_silence();
}

#[test]
fn a_long_pause_starts_again_from_the_initial_window() {
    let mut side = Side::established();
    side.warm_up(40);
    side.now += 10_000 * MS;
    side.send(50 * MSS);
    assert_eq!(side.burst().len(), 10);
}

#[test]
fn only_the_first_partial_acknowledgment_restarts_the_timer() {
    let (mut side, una) = ten_in_flight();
    for _ in 0..3 {
        side.inject(seg(1, una));
    }
    side.burst();
    side.now += MS;
    side.inject(seg(1, una + MSS));
    side.burst();
    let after_the_first = side.tcb.deadline();
    side.now += 5 * MS;
    side.inject(seg(1, una + 3 * MSS));
    side.burst();
    assert_eq!(side.tcb.deadline(), after_the_first);
    side.now += 5 * MS;
    side.inject(seg(1, una + 10 * MSS));
    assert_eq!(side.tcb.deadline(), None);
}
