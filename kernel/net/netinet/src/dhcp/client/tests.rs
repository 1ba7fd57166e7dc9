use super::*;
use alloc::vec;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn client() -> Client {
    Client::new(MAC, "box", 42, at(0))
}

/// A server's answer to a client's bytes.
fn answer(asked: &[u8], kind: u8, options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..4].copy_from_slice(&[2, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&asked[4..8]);
    bytes[16..20].copy_from_slice(&OURS.octets());
    bytes[28..34].copy_from_slice(&asked[28..34]);
    bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend([53, 1, kind]);
    for (tag, value) in options {
        bytes.extend([*tag, value.len() as u8]);
        bytes.extend(*value);
    }
    bytes.push(255);
    bytes
}

const USUAL: &[(u8, &[u8])] = &[
    (54, &[10, 0, 2, 2]),
    (1, &[255, 255, 255, 0]),
    (3, &[10, 0, 2, 2]),
    (51, &[0, 0, 14, 16]),
];

fn broadcast(action: Option<Action>) -> Vec<u8> {
    match action {
        Some(Action::Broadcast(bytes)) => bytes,
        other => panic!("a broadcast was expected, not {other:?}"),
    }
}

fn bound() -> Client {
    let mut client = client();
    let discover = broadcast(client.poll(at(0)));
    let request = broadcast(client.receive(&answer(&discover, 2, USUAL), at(0)));
    let configured = client.receive(&answer(&request, 5, USUAL), at(0));
    assert!(matches!(configured, Some(Action::Configure(_))));
    client
}

#[test]
fn an_offer_is_requested_and_acknowledged() {
    let mut client = client();
    let discover = broadcast(client.poll(at(0)));
    assert_eq!(discover.len(), 300);
    assert_eq!(
        discover[10..12],
        [0x80, 0],
        "answers by broadcast are asked for"
    );
    let request = broadcast(client.receive(&answer(&discover, 2, USUAL), at(0)));
    let find = |needle: &[u8]| request.windows(needle.len()).any(|w| w == needle);
    assert!(find(&[50, 4, 10, 0, 2, 15]) && find(&[54, 4, 10, 0, 2, 2]) && find(b"\x0c\x03box"));
    let lease = Lease {
        addr: OURS,
        prefix_len: 24,
        router: Some(SERVER),
        dns: None,
        server: SERVER,
        seconds: 3600,
    };
    let done = client.receive(&answer(&request, 5, USUAL), at(0));
    assert_eq!(done, Some(Action::Configure(lease)));
    assert_eq!(client.next(), at(1800), "T1 is half of the lease");
}

#[test]
fn a_silent_network_is_asked_ever_less_often_but_never_given_up() {
    let mut client = client();
    let mut now = at(0);
    let mut waits = Vec::new();
    for _ in 0..20 {
        broadcast(client.poll(now));
        waits.push(client.next().saturating_since(now));
        now = client.next();
    }
    assert!(waits[0] >= FIRST_WAIT && waits[0] < FIRST_WAIT * 2);
    assert!(waits[6] > waits[0] * 20);
    assert!(waits.iter().all(|wait| *wait <= LONGEST_WAIT * 5 / 4));
}

#[test]
fn renewal_goes_to_the_server_then_to_everybody_then_the_lease_is_over() {
    let mut client = bound();
    assert_eq!(client.poll(at(1799)), None);
    let mut now = client.next();
    let (mut unicasts, mut broadcasts) = (0, 0);
    loop {
        match client.poll(now) {
            Some(Action::Unicast(bytes, to)) if to == SERVER => {
                assert_eq!(bytes[12..16], OURS.octets());
                assert!(now < at(3150), "after T2 everybody is asked");
                unicasts += 1;
            }
            Some(Action::Unicast(_, to)) if to == Ipv4Addr::BROADCAST => broadcasts += 1,
            Some(Action::Deconfigure(lease)) => {
                assert_eq!(lease.addr, OURS);
                break;
            }
            other => panic!("unexpected {other:?}"),
        }
        now = client.next();
    }
    assert_eq!(now, at(3600));
    assert!((2..10).contains(&unicasts) && (1..10).contains(&broadcasts));
    broadcast(client.poll(now));
}

#[test]
fn a_renewed_lease_starts_anew_and_a_refused_one_ends_at_once() {
    let mut client = bound();
    let Some(Action::Unicast(asked, _)) = client.poll(at(1800)) else {
        panic!("a renewal was due");
    };
    let renewed = client.receive(&answer(&asked, 5, USUAL), at(1801));
    assert!(matches!(renewed, Some(Action::Configure(_))));
    assert_eq!(client.next(), at(1801 + 1800));
    let Some(Action::Unicast(asked, _)) = client.poll(at(3601)) else {
        panic!("a renewal was due");
    };
    let refused = client.receive(&answer(&asked, 6, &[(54, &[10, 0, 2, 2])]), at(3602));
    assert!(matches!(refused, Some(Action::Deconfigure(_))));
    assert_eq!(client.lease(), None);
}

#[test]
fn answers_of_other_servers_transactions_or_clients_are_ignored() {
    let mut client = client();
    let discover = broadcast(client.poll(at(0)));
    let offer = answer(&discover, 2, USUAL);
    let mut other_xid = offer.clone();
    other_xid[4] ^= 1;
    assert_eq!(client.receive(&other_xid, at(0)), None);
    let mut other_mac = offer.clone();
    other_mac[28] ^= 1;
    assert_eq!(client.receive(&other_mac, at(0)), None);
    let request = broadcast(client.receive(&offer, at(0)));
    let mut other_server = Vec::from(USUAL);
    other_server[0] = (54, &[10, 0, 2, 3]);
    assert_eq!(
        client.receive(&answer(&request, 5, &other_server), at(0)),
        None
    );
    assert_eq!(
        client.receive(&answer(&request, 6, &other_server), at(0)),
        None
    );
    assert_eq!(
        client.receive(&answer(&request, 5, &USUAL[1..]), at(0)),
        None,
        "no identifier"
    );
}

#[test]
fn an_offer_that_cannot_be_used_is_ignored() {
    let bad: &[&[(u8, &[u8])]] = &[
        &[(54, &[10, 0, 2, 2]), (1, &[255, 0, 255, 0])],
        &[(54, &[10, 0, 2, 2]), (1, &[0, 0, 0, 0])],
        &[(1, &[255, 255, 255, 0])],
    ];
    for options in bad {
        let mut client = client();
        let discover = broadcast(client.poll(at(0)));
        assert_eq!(client.receive(&answer(&discover, 2, options), at(0)), None);
    }
}

#[test]
fn a_refused_request_starts_over() {
    let mut client = client();
    let discover = broadcast(client.poll(at(0)));
    let request = broadcast(client.receive(&answer(&discover, 2, USUAL), at(0)));
    assert_eq!(client.receive(&answer(&request, 6, USUAL), at(0)), None);
    let again = broadcast(client.poll(client.next()));
    assert!(again.windows(3).any(|w| w == [53, 1, 1]));
    assert_ne!(again[4..8], discover[4..8], "a new transaction");
}

#[test]
fn an_offer_that_is_never_acknowledged_is_given_up() {
    let mut client = client();
    let discover = broadcast(client.poll(at(0)));
    broadcast(client.receive(&answer(&discover, 2, USUAL), at(0)));
    let mut kinds = Vec::new();
    for _ in 0..6 {
        let bytes = broadcast(client.poll(client.next()));
        let kind = bytes
            .windows(2)
            .position(|w| w == [53, 1])
            .map(|at| bytes[at + 2]);
        kinds.push(kind.unwrap());
    }
    assert_eq!(kinds, [3, 3, 3, 1, 1, 1]);
}

#[test]
fn no_truncation_and_no_changed_byte_of_an_answer_does_harm() {
    let seed = 0x5eed_u64;
    let mut random = seed;
    for round in 0..20_000 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let mut client = client();
        let discover = broadcast(client.poll(at(0)));
        let mut bytes = answer(&discover, 2, USUAL);
        let place = (random >> 33) as usize % bytes.len();
        match round % 3 {
            0 => bytes.truncate(place),
            1 => bytes[place] = (random >> 20) as u8,
            _ => {
                bytes[240..].fill((random >> 20) as u8);
            }
        }
        if let Some(Action::Configure(lease)) = client.receive(&bytes, at(0)) {
            panic!("seed {seed} round {round}: an offer alone configured {lease:?}");
        }
    }
}

#[test]
fn options_may_go_on_in_the_fields_for_file_and_server_name() {
    let mut client = client();
    let discover = broadcast(client.poll(at(0)));
    let mut bytes = answer(&discover, 2, &[(52, &[3])]);
    bytes[108..115].copy_from_slice(&[54, 4, 10, 0, 2, 2, 255]);
    bytes[44..51].copy_from_slice(&[1, 4, 255, 255, 0, 0, 255]);
    broadcast(client.receive(&bytes, at(0)));
    assert!(matches!(
        client.state,
        State::Requesting { offer } if offer.server == SERVER && offer.prefix_len == 16
    ));
}
