//! Retransmission (RFC 6298), persist and keep-alive (RFC 9293 §3.8), giving up.

use super::script::{CONFIG, MS, MSS, Side, seg};
use crate::tcp::header::Control;
use crate::tcp::tcb::{Config, Keepalive, State};
use rumpuser::Errno;

#[test]
fn a_syn_is_sent_again_with_doubling_delays_for_at_least_three_minutes() {
    let mut side = Side::connecting(CONFIG);
    side.expect_control(Control::SYN);
    let start = side.now;
    let mut delays = alloc::vec::Vec::new();
    while side.state() == State::SynSent {
        delays.push(side.sleep_until_timer().unwrap());
        if side.state() == State::SynSent {
            side.expect_control(Control::SYN);
        }
    }
    assert_eq!(delays[..6], [1000, 2000, 4000, 8000, 16_000, 32_000]);
    assert!(side.now - start >= 180_000 * MS);
    assert_eq!(side.error, Some(Errno::ETIMEDOUT));
}

#[test]
fn data_is_sent_again_with_doubling_delays_and_given_up_with_a_reset() {
    let mut side = Side::established();
    side.send(10);
    side.expect(1, 1, 10);
    let start = side.now;
    let mut last = 0;
    loop {
        let delay = side.sleep_until_timer().unwrap();
        assert!(delay >= last);
        last = delay;
        if side.state() == State::Closed {
            break;
        }
        side.expect(1, 1, 10);
        side.expect_silence();
    }
    assert!(
        side.now - start >= 100_000 * MS,
        "RFC 9293 MUST-22: R2 is at least 100 s"
    );
    assert_eq!(side.error, Some(Errno::ETIMEDOUT));
    assert!(
        side.out
            .reply
            .is_some_and(|r| r.control.contains(Control::RST))
    );
    assert_eq!(side.tcb.deadline(), None);
}

#[test]
fn karn_a_segment_that_was_sent_twice_is_not_timed_and_the_delay_stays_doubled() {
    let mut side = Side::established();
    let base = side.tcb.rtt.rto();
    side.send(10);
    side.expect(1, 1, 10);
    side.sleep_until_timer();
    side.expect(1, 1, 10);
    side.now += MS;
    side.inject(seg(1, 11));
    assert_eq!(side.tcb.rtt.rto(), 2 * base, "no sample was taken");
    side.send(10);
    side.expect(11, 1, 10);
    side.now += MS;
    side.inject(seg(1, 21));
    assert!(side.tcb.rtt.rto() <= base, "a clean sample ends it");
}

#[test]
fn the_timer_stops_when_all_is_acknowledged_and_restarts_when_some_is() {
    let mut side = Side::established();
    side.send(2000);
    side.burst();
    let first = side.tcb.deadline();
    side.now += 100 * MS;
    side.inject(seg(1, 1001));
    assert!(side.tcb.deadline() > first);
    side.inject(seg(1, 2001));
    assert_eq!(side.tcb.deadline(), None);
}

#[test]
fn a_closed_window_is_probed_with_growing_delays_as_long_as_it_answers() {
    let mut side = Side::established();
    side.inject(seg(1, 1).window(0));
    side.send(5000);
    side.expect_silence();
    let mut last = 0;
    for _ in 0..50 {
        let delay = side.sleep_until_timer().unwrap();
        assert!(delay >= last && delay <= 64_000);
        last = delay;
        side.expect(1, 1, 1);
        side.inject(seg(1, 1).window(0));
        side.expect_silence();
        assert_eq!(side.state(), State::Established);
    }
    side.inject(seg(1, 1));
    assert_eq!(
        side.burst()[0],
        (1, MSS),
        "it opens: all goes, from the probed byte on"
    );
}

#[test]
fn probes_that_nobody_answers_end_the_connection() {
    let mut side = Side::established();
    side.inject(seg(1, 1).window(0));
    side.send(5000);
    side.expect_silence();
    let mut probes = 0;
    while side.state() == State::Established {
        side.sleep_until_timer().unwrap();
        probes += side.burst().len();
    }
    assert!(probes >= 10);
    assert_eq!(side.error, Some(Errno::ETIMEDOUT));
}

#[test]
fn a_window_that_stays_shut_cannot_hold_memory_of_a_user_who_is_gone() {
    let mut side = Side::established();
    side.inject(seg(1, 1).window(0));
    side.send(5000);
    side.close();
    side.expect_silence();
    let start = side.now;
    while side.state() != State::Closed {
        side.sleep_until_timer().unwrap();
        side.burst();
        if side.state() != State::Closed {
            side.inject(seg(1, 1).window(0));
        }
    }
    assert!(side.now - start < 600_000 * MS);
}

#[test]
fn a_probed_byte_that_is_taken_counts() {
    let mut side = Side::established();
    side.inject(seg(1, 1).window(0));
    side.send(5);
    side.expect_silence();
    side.sleep_until_timer();
    side.expect(1, 1, 1);
    side.inject(seg(1, 2).window(0));
    assert_eq!(side.out.acked, 1);
    side.sleep_until_timer();
    side.expect(2, 1, 1);
}

#[test]
fn a_window_too_small_to_be_worth_it_is_used_after_a_while() {
    let mut side = Side::established();
    side.inject(seg(1, 1).window(300));
    side.send(5000);
    side.expect_silence();
    side.sleep_until_timer();
    side.expect(1, 1, 300);
}

fn kept_alive() -> Side {
    let keepalive = Keepalive {
        idle_seconds: 100,
        interval_seconds: 10,
        probes: 3,
    };
    Side::established_with(Config {
        keepalive: Some(keepalive),
        ..CONFIG
    })
}

#[test]
fn keep_alive_is_off_unless_asked_for() {
    assert_eq!(Side::established().tcb.deadline(), None);
    assert_eq!(Keepalive::default().idle_seconds, 7200);
}

#[test]
fn keep_alive_probes_a_silent_side_and_gives_up() {
    let mut side = kept_alive();
    assert_eq!(side.sleep_until_timer(), Some(100_000));
    side.expect(0, 1, 0);
    for _ in 0..2 {
        assert_eq!(side.sleep_until_timer(), Some(10_000));
        side.expect(0, 1, 0);
    }
    assert_eq!(side.sleep_until_timer(), Some(10_000));
    assert_eq!(
        (side.state(), side.error),
        (State::Closed, Some(Errno::ETIMEDOUT))
    );
}

#[test]
fn keep_alive_starts_over_with_every_sign_of_life() {
    let mut side = kept_alive();
    for _ in 0..20 {
        side.sleep_until_timer();
        side.expect(0, 1, 0);
        side.inject(seg(1, 1));
        assert_eq!(side.state(), State::Established);
    }
    side.now += 60_000 * MS;
    side.inject(seg(1, 1).data(1));
    side.sleep_until_timer();
    side.expect(1, 2, 0);
    assert_eq!(side.sleep_until_timer(), Some(100_000 - 40));
}

#[test]
fn our_answer_to_a_keep_alive_probe_is_an_acknowledgment() {
    let mut side = Side::established();
    side.inject(seg(0, 1));
    side.expect(1, 1, 0);
}

#[test]
fn fin_wait_2_without_a_user_ends_after_a_minute() {
    let mut side = Side::established();
    side.close();
    side.expect(1, 1, 0);
    side.inject(seg(1, 2));
    assert_eq!(side.sleep_until_timer(), Some(60_000));
    assert_eq!((side.state(), side.error), (State::Closed, None));
}

#[test]
fn fin_wait_2_with_a_user_lasts() {
    let mut side = Side::established();
    side.close_send();
    side.expect(1, 1, 0);
    side.inject(seg(1, 2));
    assert_eq!(side.tcb.deadline(), None);
}

#[test]
fn what_the_interface_had_no_room_for_is_tried_again_soon() {
    let mut side = Side::established();
    side.send(1500);
    let emit = side.expect(1, 1, MSS);
    side.tcb.transmit_failed(&emit, side.instant());
    let waited = side.sleep_until_timer().unwrap();
    assert!(waited < 100);
    side.expect(1, 1, MSS);
}

#[test]
fn a_smaller_path_sends_smaller_segments_from_the_start() {
    let mut side = Side::established();
    side.send(3000);
    side.burst();
    assert!(side.tcb.path_mtu(840));
    assert_eq!(side.burst()[..2], [(1, 800), (801, 800)]);
    assert!(!side.tcb.path_mtu(1500), "it does not grow");
    side.tcb.path_mtu(68);
    assert_eq!(
        side.tcb.mss(),
        512,
        "and not below what a lie would make it"
    );
}

#[test]
fn icmp_errors_end_a_handshake_but_only_soften_a_connection() {
    let mut side = Side::connecting(CONFIG);
    side.expect_control(Control::SYN);
    let out = side.tcb.icmp_error(Errno::EHOSTUNREACH, false);
    assert_eq!((out.error, side.state()), (None, State::SynSent));
    let out = side.tcb.icmp_error(Errno::ECONNREFUSED, true);
    assert_eq!(
        (out.error, side.state()),
        (Some(Errno::ECONNREFUSED), State::Closed)
    );
    let mut side = Side::established();
    side.tcb.icmp_error(Errno::ECONNREFUSED, true);
    assert_eq!(side.state(), State::Established);
    side.send(10);
    while side.state() != State::Closed {
        side.burst();
        side.sleep_until_timer().unwrap();
    }
    assert_eq!(
        side.error,
        Some(Errno::ECONNREFUSED),
        "what ICMP said, not just a time-out"
    );
}

#[test]
fn when_memory_is_short_a_connection_that_nobody_has_and_nobody_answers_is_given_up() {
    let mut side = Side::established();
    side.send(10);
    side.burst();
    assert!(!side.tcb.hasten(side.instant()), "its user is there");
    side.close();
    side.burst();
    assert!(
        !side.tcb.hasten(side.instant()),
        "the other side may still answer"
    );
    for _ in 0..2 {
        side.sleep_until_timer();
        side.burst();
    }
    assert!(side.tcb.hasten(side.instant()));
    assert_eq!(side.sleep_until_timer(), Some(0));
    assert_eq!(side.state(), State::Closed);
}

#[test]
fn when_memory_is_short_a_connection_that_waits_for_the_other_sides_end_alone_is_given_up() {
    let mut side = Side::established();
    side.close_send();
    side.burst();
    side.inject(seg(1, 2));
    assert_eq!(side.state(), State::FinWait2);
    assert!(!side.tcb.hasten(side.instant()), "its user may still read");
    side.close();
    assert!(side.tcb.hasten(side.instant()));
    assert_eq!(side.sleep_until_timer(), Some(0));
    assert_eq!(side.state(), State::Closed);
}

#[test]
fn karn_a_retransmission_that_carries_new_data_too_is_not_timed() {
    let mut side = Side::established();
    let base = side.tcb.rtt.rto();
    side.send(10);
    side.expect(1, 1, 10);
    side.send(990);
    side.expect_silence();
    side.sleep_until_timer();
    side.expect(1, 1, 1000);
    side.now += MS;
    side.inject(seg(1, 1001));
    assert_eq!(side.tcb.rtt.rto(), 2 * base, "it may acknowledge the first");
}
