//! Blind attacks: a stranger who knows the ports but not the numbers (RFC 5961).

use super::script::{Side, WINDOW, seg};
use crate::tcp::header::Control;
use crate::tcp::tcb::State;

const ACK: Control = Control::ACK;
const SYN: Control = Control::SYN;
const RST: Control = Control::RST;

#[test]
fn a_reset_in_the_window_but_not_at_its_start_is_challenged() {
    let mut side = Side::established();
    for seq in [2, 100, 8000] {
        side.inject(seg(seq, 1).control(RST));
        assert_eq!(side.state(), State::Established);
        side.expect(1, 1, 0);
        side.expect_silence();
    }
}

#[test]
fn a_reset_outside_the_window_is_dropped_without_an_answer() {
    let mut side = Side::established();
    for seq in [0, 8001, 1 << 31, u32::MAX] {
        side.inject(seg(seq, 1).control(RST));
        assert_eq!(side.state(), State::Established);
        side.expect_silence();
    }
}

#[test]
fn the_other_side_s_answer_to_a_challenge_resets() {
    let mut side = Side::established();
    side.inject(seg(50, 1).control(RST));
    let challenge = side.expect(1, 1, 0);
    let answer = seg(challenge.header.ack - super::script::IRS, 0).control(RST);
    side.inject(answer);
    assert_eq!(side.state(), State::Closed);
}

#[test]
fn a_syn_of_any_number_is_challenged_and_never_resets() {
    let mut side = Side::established();
    for seq in [0, 1, 100, 1 << 31] {
        for control in [SYN, SYN | ACK] {
            side.inject(seg(seq, 1).control(control));
            assert_eq!((side.state(), side.out.reply), (State::Established, None));
            side.expect(1, 1, 0);
        }
    }
}

#[test]
fn data_with_an_acknowledgment_of_what_was_never_sent_is_challenged() {
    let mut side = Side::established();
    side.send(100);
    side.expect(1, 1, 100);
    side.inject(seg(1, 102).data(10));
    assert!(side.received.is_empty());
    side.expect(101, 1, 0);
}

#[test]
fn data_with_an_acknowledgment_older_than_the_largest_window_is_challenged() {
    let mut side = Side::established();
    side.inject(seg(1, 0u32.wrapping_sub(u32::from(WINDOW))).data(10));
    assert!(side.received.is_empty());
    side.expect(1, 1, 0);
}

#[test]
fn challenges_are_few_in_any_second() {
    let mut side = Side::established();
    let mut challenges = 0;
    for n in 0..10_000 {
        side.inject(seg(n, 1).control(SYN));
        challenges += side.burst().len();
    }
    assert_eq!(challenges, 10);
    side.sleep(1001);
    side.inject(seg(5, 1).control(SYN));
    assert_eq!(side.burst().len(), 1);
}

#[test]
fn two_ends_that_disagree_do_not_answer_each_other_without_end() {
    let mut side = Side::established();
    let mut answers = 0;
    for _ in 0..1000 {
        side.inject(seg(20_000, 1));
        answers += side.burst().len();
    }
    assert!(answers <= 10);
}

#[test]
fn a_hundred_thousand_blind_segments_neither_reset_nor_inject() {
    let mut random = super::link::Random::new(4711);
    let mut side = Side::established();
    let mut injected = 0;
    for _ in 0..100_000 {
        let control = match random.below(3) {
            0 => RST,
            1 => SYN,
            _ => ACK,
        };
        // Whoever hits 8,000 numbers of 2^32 and 60,000 of another was not blind.
        let (seq, ack) = (random.next() as u32, random.next() as u32);
        if !(1..9000).contains(&seq) {
            side.inject(seg(seq, ack).control(control).data(1));
            injected += side.received.len();
            assert_eq!(side.state(), State::Established);
            side.burst();
        }
    }
    assert_eq!(injected, 0);
}
