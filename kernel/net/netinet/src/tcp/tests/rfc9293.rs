//! The state machine (RFC 9293 §3.10), window management and Nagle (§3.7.4, §3.8.6).

use super::script::{CONFIG, IRS, ISS, MSS, Side, seg};
use crate::tcp::header::{Control, Options};
use crate::tcp::tcb::{Config, Events, State};
use rumpuser::Errno;

const ACK: Control = Control::ACK;
const SYN: Control = Control::SYN;
const FIN: Control = Control::FIN;
const RST: Control = Control::RST;

#[test]
fn an_open_sends_a_syn_with_segment_size_and_window_shift() {
    let mut side = Side::connecting(Config {
        receive_max: 1 << 20,
        ..CONFIG
    });
    let emit = side.expect_control(SYN);
    assert_eq!((emit.header.seq, emit.len), (ISS, 0));
    assert_eq!(
        emit.header.options,
        Options {
            mss: Some(1000),
            window_shift: Some(5)
        }
    );
    assert_eq!(emit.header.window, 8000, "a SYN's window is not scaled");
    side.expect_silence();
}

#[test]
fn an_answer_to_our_syn_establishes_and_is_acknowledged() {
    let side = Side::established();
    assert_eq!(side.state(), State::Established);
    assert_eq!(side.tcb.deadline(), None, "an idle connection has no timer");
}

#[test]
fn a_window_is_scaled_only_if_both_offer_it() {
    for (theirs, shift) in [(Some(7), 7), (None, 0)] {
        let mut side = Side::connecting(CONFIG);
        side.expect_control(SYN);
        let options = Options {
            mss: None,
            window_shift: theirs,
        };
        side.inject(seg(0, 1).control(SYN | ACK).options(options).window(50));
        assert_eq!(side.tcb.snd_wnd, 50, "a SYN's window is not scaled");
        side.inject(seg(1, 1).window(50));
        assert_eq!(side.tcb.snd_wnd, 50 << shift);
    }
}

#[test]
fn a_peer_without_a_segment_size_gets_536_bytes_and_one_with_a_silly_size_64() {
    for (offered, used) in [
        (None, 536),
        (Some(0), 64),
        (Some(1), 64),
        (Some(9000), 1000),
    ] {
        let mut side = Side::connecting(CONFIG);
        side.expect_control(SYN);
        let options = Options {
            mss: offered,
            window_shift: None,
        };
        side.inject(seg(0, 1).control(SYN | ACK).options(options));
        assert_eq!(side.tcb.mss(), used);
    }
}

#[test]
fn in_syn_sent_a_wrong_acknowledgment_is_reset_with_its_own_number() {
    for ack in [0, 2, u32::MAX] {
        let mut side = Side::connecting(CONFIG);
        side.expect_control(SYN);
        side.inject(seg(0, ack).control(SYN | ACK));
        assert_eq!(side.state(), State::SynSent);
        let reply = side.out.reply.expect("a reset");
        assert_eq!((reply.control, reply.seq), (RST, ISS + ack));
    }
}

#[test]
fn in_syn_sent_a_reset_refuses_only_if_it_acknowledges_our_syn() {
    let mut side = Side::connecting(CONFIG);
    side.expect_control(SYN);
    side.inject(seg(0, 0).control(RST));
    side.inject(seg(0, 7).control(RST | ACK));
    assert_eq!(side.state(), State::SynSent);
    side.inject(seg(0, 1).control(RST | ACK));
    assert_eq!(
        (side.state(), side.error),
        (State::Closed, Some(Errno::ECONNREFUSED))
    );
}

#[test]
fn in_syn_sent_a_segment_without_syn_or_reset_is_dropped() {
    let mut side = Side::connecting(CONFIG);
    side.expect_control(SYN);
    side.inject(seg(0, 1).data(10));
    assert_eq!((side.state(), side.out.reply), (State::SynSent, None));
    side.expect_silence();
}

#[test]
fn data_and_fin_in_the_answer_to_our_syn_count() {
    let mut side = Side::connecting(CONFIG);
    side.expect_control(SYN);
    side.inject(seg(0, 1).control(SYN | ACK | FIN).data(0));
    assert_eq!(side.state(), State::CloseWait);
    side.expect(1, 2, 0);
}

#[test]
fn a_simultaneous_open_ends_established_on_both_sides() {
    let mut side = Side::connecting(CONFIG);
    side.expect_control(SYN);
    side.inject(seg(0, 0).control(SYN));
    assert_eq!(side.state(), State::SynReceived);
    let emit = side.expect_control(SYN | ACK);
    assert_eq!((emit.header.seq, emit.header.ack), (ISS, IRS + 1));
    // Theirs crosses ours.
    side.inject(seg(0, 1).control(SYN | ACK));
    assert_eq!(side.state(), State::Established);
    assert!(side.out.events.contains(Events::CONNECTED));
}

#[test]
fn a_simultaneous_open_is_also_completed_by_a_plain_acknowledgment() {
    let mut side = Side::connecting(CONFIG);
    side.expect_control(SYN);
    side.inject(seg(0, 0).control(SYN));
    side.expect_control(SYN | ACK);
    side.inject(seg(1, 1));
    assert_eq!(side.state(), State::Established);
}

#[test]
fn in_syn_received_a_wrong_acknowledgment_is_reset() {
    let mut side = Side::syn_received();
    side.inject(seg(1, 2));
    assert_eq!(
        side.out.reply.map(|r| (r.control, r.seq)),
        Some((RST, ISS + 2))
    );
    assert_eq!(side.state(), State::SynReceived);
}

#[test]
fn the_acknowledgment_of_a_passive_open_may_carry_data_and_fin() {
    let mut side = Side::syn_received();
    side.inject(seg(1, 1).data(5).fin());
    assert_eq!((side.state(), side.received.len()), (State::CloseWait, 5));
    side.expect(1, 7, 0);
}

#[test]
fn data_in_order_is_delivered_and_every_second_segment_acknowledged() {
    let mut side = Side::established();
    side.inject(seg(1, 1).data(1000));
    side.expect_silence();
    side.inject(seg(1001, 1).data(1000));
    side.expect(1, 2001, 0);
    assert_eq!(side.received.len(), 2000);
}

#[test]
fn a_lone_segment_is_acknowledged_within_half_a_second() {
    let mut side = Side::established();
    side.inject(seg(1, 1).data(10));
    side.expect_silence();
    let waited = side.sleep_until_timer().unwrap();
    assert!(waited < 500);
    side.expect(1, 11, 0);
    assert_eq!(side.tcb.deadline(), None);
}

#[test]
fn an_acknowledgment_rides_on_data() {
    let mut side = Side::established();
    side.inject(seg(1, 1).data(10));
    side.send(20);
    side.expect(1, 11, 20);
    assert!(
        side.sleep_until_timer() > Some(200),
        "the delayed one is not sent again"
    );
}

#[test]
fn data_out_of_order_is_acknowledged_at_once_and_waits_for_the_hole() {
    let mut side = Side::established();
    side.inject(seg(1001, 1).data(1000));
    side.expect(1, 1, 0);
    side.inject(seg(3001, 1).data(500));
    side.expect(1, 1, 0);
    assert!(side.received.is_empty());
    side.inject(seg(1, 1).data(1000));
    side.expect(1, 2001, 0);
    side.inject(seg(2001, 1).data(1000));
    side.expect(1, 3501, 0);
    let want: alloc::vec::Vec<u8> = (1..3501u32).map(|n| n as u8).collect();
    assert!(side.received == want);
    assert_eq!(side.tcb.reassembly_bytes(), 0);
}

#[test]
fn a_fin_out_of_order_waits_for_what_is_missing() {
    let mut side = Side::established();
    side.inject(seg(1001, 1).data(10).fin());
    assert_eq!(side.state(), State::Established);
    side.expect(1, 1, 0);
    side.inject(seg(1, 1).data(1000));
    assert_eq!(
        (side.state(), side.received.len()),
        (State::CloseWait, 1010)
    );
    assert!(side.out.events.contains(Events::EOF));
    side.expect(1, 1012, 0);
}

#[test]
fn overlapping_segments_deliver_each_byte_once() {
    let mut side = Side::established();
    side.inject(seg(1, 1).data(100));
    side.inject(seg(51, 1).data(100));
    side.inject(seg(1, 1).data(300));
    let want: alloc::vec::Vec<u8> = (1..301u32).map(|n| n as u8).collect();
    assert_eq!(side.received, want);
}

#[test]
fn a_retransmission_of_old_data_is_acknowledged_again_at_once() {
    let mut side = Side::established();
    side.inject(seg(1, 1).data(100));
    side.inject(seg(101, 1).data(100));
    side.expect(1, 201, 0);
    side.inject(seg(1, 1).data(100));
    side.expect(1, 201, 0);
    assert_eq!(side.received.len(), 200);
}

#[test]
fn what_an_old_segment_acknowledges_still_counts() {
    let mut side = Side::established();
    side.inject(seg(1, 1).data(100));
    side.send(50);
    side.expect(1, 101, 50);
    side.inject(seg(1, 51).data(100));
    assert_eq!(side.out.acked, 50);
}

#[test]
fn data_beyond_the_window_is_cut_off() {
    let mut side = Side::established();
    side.inject(seg(1, 1).data(9000));
    assert_eq!(side.received.len(), 8000);
    assert_eq!(side.expect(1, 8001, 0).header.window, 0);
}

#[test]
fn the_window_never_shrinks_and_reopens_only_by_a_worthwhile_step() {
    let mut side = Side::established();
    side.inject(seg(1, 1).data(4000));
    side.inject(seg(4001, 1).data(4000));
    assert_eq!(side.expect(1, 8001, 0).header.window, 0);
    assert!(!side.tcb.consumed(500), "500 bytes are not worth telling");
    assert!(!side.tcb.consumed(600));
    assert!(side.tcb.consumed(1000));
    assert_eq!(side.expect(1, 8001, 0).header.window, 2100);
}

#[test]
fn a_closed_window_still_takes_acknowledgments() {
    let mut side = Side::established();
    side.send(100);
    side.expect(1, 1, 100);
    side.inject(seg(1, 1).data(4000));
    side.inject(seg(4001, 1).data(4000));
    side.expect(101, 8001, 0);
    side.inject(seg(8001, 101).data(1));
    assert_eq!(side.out.acked, 100);
    side.expect(101, 8001, 0);
    assert_eq!(side.received.len(), 8000);
}

#[test]
fn urgent_data_is_data() {
    let mut side = Side::established();
    side.inject(seg(1, 1).data(10).control(ACK | Control::URG));
    assert_eq!(side.received.len(), 10);
}

#[test]
fn our_close_goes_through_both_fin_waits_to_time_wait() {
    let mut side = Side::established();
    side.close_send();
    assert_eq!(side.state(), State::FinWait1);
    assert_eq!(side.expect(1, 1, 0).header.control, ACK | FIN);
    side.inject(seg(1, 2));
    assert_eq!(side.state(), State::FinWait2);
    side.inject(seg(1, 2).data(100));
    assert_eq!(
        side.received.len(),
        100,
        "a half-closed connection still receives"
    );
    side.inject(seg(101, 2).fin());
    assert_eq!(side.state(), State::TimeWait);
    assert!(side.out.events.contains(Events::TIME_WAIT | Events::EOF));
    side.expect(2, 102, 0);
    assert_eq!(side.tcb.deadline(), None);
}

#[test]
fn their_close_goes_through_close_wait_and_last_ack() {
    let mut side = Side::established();
    side.inject(seg(1, 1).fin());
    assert_eq!(side.state(), State::CloseWait);
    side.expect(1, 2, 0);
    side.send(10);
    side.expect(1, 2, 10);
    side.close_send();
    assert_eq!(side.state(), State::LastAck);
    assert_eq!(side.expect(11, 2, 0).header.control, ACK | FIN);
    side.inject(seg(2, 12));
    assert_eq!((side.state(), side.error), (State::Closed, None));
}

#[test]
fn both_closing_at_once_go_through_closing() {
    let mut side = Side::established();
    side.close_send();
    side.expect(1, 1, 0);
    side.inject(seg(1, 1).fin());
    assert_eq!(side.state(), State::Closing);
    side.expect(2, 2, 0);
    side.inject(seg(2, 2));
    assert_eq!(side.state(), State::TimeWait);
}

#[test]
fn a_fin_that_acknowledges_ours_goes_straight_to_time_wait() {
    let mut side = Side::established();
    side.close_send();
    side.expect(1, 1, 0);
    side.inject(seg(1, 2).fin());
    assert_eq!(side.state(), State::TimeWait);
}

#[test]
fn a_fin_follows_all_queued_data() {
    let mut side = Side::established();
    side.send(2500);
    side.close_send();
    assert_eq!(side.burst(), [(1, 1000), (1001, 1000), (2001, 500)]);
    assert!(side.tcb.fin_sent());
}

#[test]
fn a_close_before_the_handshake_ends_waits_for_it() {
    let mut side = Side::syn_received();
    side.close_send();
    side.inject(seg(1, 1));
    assert_eq!(side.state(), State::FinWait1);
    assert_eq!(side.expect(1, 1, 0).header.control, ACK | FIN);
}

#[test]
fn a_close_in_syn_sent_just_ends() {
    let mut side = Side::connecting(CONFIG);
    side.expect_control(SYN);
    side.close_send();
    assert_eq!(side.state(), State::Closed);
    side.expect_silence();
}

#[test]
fn closing_with_unread_data_is_a_reset() {
    let mut side = Side::established();
    side.inject(seg(1, 1).data(10));
    side.close();
    assert_eq!(side.state(), State::Closed);
    assert!(
        side.out
            .reply
            .is_some_and(|r| r.control.contains(RST) && r.seq == ISS + 1)
    );
}

#[test]
fn data_for_a_user_who_is_gone_is_a_reset() {
    let mut side = Side::established();
    side.close();
    side.expect(1, 1, 0);
    side.inject(seg(1, 2).data(10));
    assert_eq!(side.state(), State::Closed);
    assert!(side.out.reply.is_some_and(|r| r.control.contains(RST)));
}

#[test]
fn an_abort_sends_a_reset_and_ends() {
    let mut side = Side::established();
    side.send(10);
    side.expect(1, 1, 10);
    let out = side.tcb.abort();
    assert_eq!(out.reply.map(|r| (r.seq, r.ack)), Some((ISS + 11, IRS + 1)));
    assert_eq!((side.state(), side.tcb.deadline()), (State::Closed, None));
}

#[test]
fn a_reset_ends_the_connection_and_says_so() {
    let mut side = Side::established();
    side.inject(seg(1, 1).control(RST));
    assert_eq!(
        (side.state(), side.error),
        (State::Closed, Some(Errno::ECONNRESET))
    );
    assert_eq!(side.tcb.deadline(), None);
}

#[test]
fn nagle_holds_a_small_segment_while_data_is_in_flight() {
    let mut side = Side::established();
    side.send(10);
    side.expect(1, 1, 10);
    side.send(20);
    side.expect_silence();
    side.send(980);
    side.expect(11, 1, 1000);
    side.send(30);
    side.expect_silence();
    side.inject(seg(1, 1011));
    side.expect(1011, 1, 30);
}

#[test]
fn without_nagle_small_segments_go_at_once() {
    let mut side = Side::established_with(Config {
        no_delay: true,
        ..CONFIG
    });
    for n in 0..5 {
        side.send(10);
        side.expect(1 + n * 10, 1, 10);
    }
}

#[test]
fn what_is_announced_to_be_followed_waits_for_it() {
    let mut side = Side::established();
    side.tcb.send(100, true);
    side.expect_silence();
    side.tcb.send(1900, false);
    assert_eq!(side.burst(), [(1, 1000), (1001, 1000)]);
}

#[test]
fn a_sender_keeps_to_the_window_and_does_not_send_slivers() {
    let mut side = Side::established();
    side.inject(seg(1, 1).window(2500));
    side.send(10_000);
    assert_eq!(
        side.burst(),
        [(1, 1000), (1001, 1000)],
        "500 bytes are a sliver"
    );
    side.inject(seg(1, 2001).window(500));
    side.expect_silence();
    side.inject(seg(1, 2001).window(1500));
    assert_eq!(side.burst(), [(2001, 1000)]);
}

#[test]
fn an_old_segment_does_not_change_the_window() {
    let mut side = Side::established();
    side.inject(seg(1, 1).data(10));
    side.inject(seg(11, 1).data(10).window(5000));
    side.inject(seg(1, 1).data(10).window(0));
    assert_eq!(side.tcb.snd_wnd, 5000);
}

#[test]
fn an_interface_that_cuts_segments_gets_them_whole() {
    let mut side = Side::established_with(Config {
        offload_bytes: 60_000,
        ..CONFIG
    });
    side.send(7300);
    let emit = side.expect(1, 1, 7000);
    assert_eq!(u32::from(emit.segment_bytes), MSS);
    side.expect_silence();
    side.inject(seg(1, 7001));
    assert_eq!(side.expect(7001, 1, 300).segment_bytes, 0);
}

#[test]
fn the_receive_buffer_grows_for_a_fast_sender_with_a_reader_that_keeps_up() {
    let config = Config {
        receive_bytes: 4000,
        receive_max: 64_000,
        ..CONFIG
    };
    let mut side = Side::established_with(config);
    let mut seq = 1;
    for _ in 0..200 {
        side.inject(seg(seq, 1).data(1000));
        seq += 1000;
        side.tcb.consumed(1000);
        side.burst();
        side.now += 100_000;
    }
    assert_eq!(side.tcb.receive_bytes(), 64_000);
    let mut lazy = Side::established_with(config);
    lazy.inject(seg(1, 1).data(4000));
    assert_eq!(lazy.tcb.receive_bytes(), 4000, "nobody reads");
}

#[test]
fn data_that_the_buffer_has_no_memory_for_is_not_acknowledged_and_comes_again() {
    let mut side = Side::established();
    side.full = true;
    side.inject(seg(1, 1).data(1000));
    side.inject(seg(1001, 1).data(1000));
    side.expect(1, 1, 0);
    assert!(side.received.is_empty());
    side.full = false;
    side.inject(seg(1, 1).data(1000));
    side.expect(1, 2001, 0);
    assert_eq!(side.received.len(), 2000);
}

#[test]
fn the_window_is_no_larger_than_the_memory_for_it() {
    let mut side = Side::established();
    side.tcb.set_receive_room(0);
    side.inject(seg(1, 1).data(1000));
    side.inject(seg(1001, 1).data(1000));
    assert_eq!(
        side.expect(1, 2001, 0).header.window,
        6000,
        "what was announced stays"
    );
    side.tcb.consumed(2000);
    side.expect_silence();
    side.tcb.set_receive_room(7500);
    side.tcb.consumed(0);
    side.inject(seg(2001, 1).data(1000));
    side.inject(seg(3001, 1).data(1000));
    assert_eq!(side.expect(1, 4001, 0).header.window, 6000);
}

#[test]
fn a_large_segment_that_the_interface_refuses_is_tried_smaller_and_grows_again() {
    let mut side = Side::established_with(Config {
        offload_bytes: 8000,
        ..CONFIG
    });
    side.send(30_000);
    let emit = side.expect(1, 1, 8000);
    side.tcb.transmit_failed(&emit, side.instant());
    let emit = side.expect(1, 1, 4000);
    side.tcb.transmit_failed(&emit, side.instant());
    assert_eq!(side.burst()[..2], [(1, 2000), (2001, 2000)]);
    side.inject(seg(1, 2001));
    side.expect(10_001, 1, 4000);
}

#[test]
fn what_was_held_back_for_more_goes_when_nothing_is_in_flight() {
    let mut side = Side::established();
    side.tcb.send(1300, true);
    side.expect(1, 1, 1000);
    side.expect_silence();
    side.inject(seg(1, 1001));
    side.expect(1001, 1, 300);
}

#[test]
fn an_acknowledgment_does_not_open_the_window_by_a_sliver_either() {
    let mut side = Side::established();
    side.inject(seg(1, 1).data(4000));
    side.inject(seg(4001, 1).data(4000));
    side.burst();
    assert!(!side.tcb.consumed(900));
    side.inject(seg(8001, 1).data(1));
    assert_eq!(side.expect(1, 8001, 0).header.window, 0);
    side.tcb.consumed(100);
    side.inject(seg(8001, 1).data(1));
    assert_eq!(side.expect(1, 8001, 0).header.window, 1000);
}
