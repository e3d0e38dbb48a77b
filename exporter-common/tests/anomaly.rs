//! Anomalies: what packets say of themselves, parts of datagrams, sources and openings, against plain models.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]

mod frames;

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use frames::{Shape, mutated_frames, shapes};
use proptest::prelude::*;
use tidewaiter_common::{
    address::Address,
    anomaly::{
        AnomalyKind,
        fragments::{Datagram, LIFETIME, MAX_PARTS, verdict},
        openings::{Judged, Openings},
        settings::{ProtocolSet, Settings},
        source::{Source, scan},
        stateless::{NONE, are_bad_tcp_flags, is_icmp, is_suspect, stateless_kind},
        told::{Allowance, MOST_TOLD, TOLD_WINDOW},
    },
    frame::Framing,
    packet::{
        Fragment, Packet,
        tcp_flag::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG},
    },
};

fn kind(frame: &[u8], framing: Framing) -> u8 {
    let mut packet = Packet::UNREAD;
    let read = packet.read(frame, framing);
    stateless_kind(&packet, frame, read, |_| true, false)
}

#[test]
fn flags_are_bad_unless_a_stack_sends_them() {
    // As RFC 9293 has a connection's life, with whatever goes with anything.
    let sent = [SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG];
    for flags in 0..=u8::MAX {
        let is_sent = sent.contains(&(flags & !(PSH | ECE | CWR)));
        assert_eq!(are_bad_tcp_flags(flags), !is_sent, "{flags:#010b}");
    }
}

#[test]
fn a_set_of_protocols_has_what_was_put_in() {
    for number in 0..=u8::MAX {
        let set: ProtocolSet = [number].into_iter().collect();
        assert!((0..=u8::MAX).all(|other| set.contains(other) == (other == number)), "{number}");
    }
    assert!(!Settings::default().is_enabled(AnomalyKind::Land as u8));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn right_packets_are_no_anomalies(shape in shapes(), flags in prop_oneof![Just(ACK), Just(SYN), Just(PSH | ACK)]) {
        let shape = Shape { tcp_flags: flags, ..shape };
        // A first fragment may be too short for what is not read of it.
        let is_cut = shape.packet().fragment.more;
        prop_assert!(is_cut || kind(&shape.frame(), shape.framing) == NONE, "{:?}", shape);
    }

    #[test]
    fn whatever_the_bytes_are_the_answer_is_a_kind_or_none((framing, frame) in mutated_frames()) {
        let kind = kind(&frame, framing);
        prop_assert!(kind == NONE || AnomalyKind::from_index(kind).is_some());
    }

    #[test]
    fn what_is_an_anomaly_is_looked_at(
        (framing, frame) in prop_oneof![
            mutated_frames(),
            shapes().prop_map(|shape| (shape.framing, shape.frame())),
            (shapes(), any::<u8>()).prop_map(|(shape, tcp_flags)| {
                let shape = Shape { tcp_flags, ..shape };
                (shape.framing, shape.frame())
            }),
        ],
        expected in prop_oneof![Just(vec![1, 6, 17, 58, 132]), Just(vec![6]), proptest::collection::vec(any::<u8>(), 0..9)],
    ) {
        let expected: ProtocolSet = expected.into_iter().collect();
        let mut packet = Packet::UNREAD;
        let read = packet.read(&*frame, framing);
        let kind = stateless_kind(&packet, &*frame, read, |number| expected.contains(number), false);
        let is_looked_at = is_suspect(&packet, read, &expected);
        let is_message = read.is_ok() && is_icmp(packet.protocol);
        if kind != NONE || is_message || packet.fragment.is_part() {
            prop_assert!(is_looked_at, "{:?} of {:?}", AnomalyKind::from_index(kind), packet);
        } else if read.is_ok() && packet.source_port != packet.destination_port {
            prop_assert!(!is_looked_at, "{:?}", packet);
        }
    }

    #[test]
    fn parts_of_a_datagram_overlap_as_in_a_plain_model(
        parts in proptest::collection::vec((0..40_u16, 1..10_u32, any::<bool>()), 1..30),
    ) {
        let mut datagram = Datagram::default();
        let mut seen: Vec<(u64, u64)> = Vec::new();
        for (place, length, more) in parts {
            let fragment = Fragment { offset: place * 8, more, identification: 1, length: length * 8 };
            let range = (u64::from(place) * 8, u64::from(place) * 8 + u64::from(length) * 8);
            // SAFETY: it is this thread's own.
            let found = unsafe { Datagram::add(&raw mut datagram, fragment, 1) };
            let is_again = seen.contains(&range);
            let overlaps = !is_again && seen.iter().any(|(from, to)| range.0 < *to && *from < range.1);
            prop_assert_eq!(found == verdict::OVERLAPS, overlaps);
            if !is_again {
                seen.push(range);
            }
        }
    }

    #[test]
    fn a_source_has_tried_no_more_than_it_has(
        tries in proptest::collection::vec((any::<u16>(), 0..40_u8, any::<bool>()), 0..300),
    ) {
        let mut source = Source::new(0);
        let source = &raw mut source;
        let mut open = HashSet::new();
        for (port, host, is_complete) in tries {
            let address = local(host);
            // SAFETY: it is this thread's own.
            unsafe {
                Source::attempt(source, 1, 100, port, address);
                open.insert(port);
                if is_complete {
                    Source::complete(source, port, address);
                    open.remove(&port);
                }
                prop_assert!(Source::ports(source) <= open.len() as u64);
                prop_assert!(Source::addresses(source) <= 40);
            }
        }
    }
}

fn local(host: u8) -> Address {
    IpAddr::from(Ipv4Addr::new(10, 0, 0, host)).into()
}

#[test]
fn a_datagram_is_complete_with_its_last_missing_part_and_forgotten_in_time() {
    let mut datagram = Datagram::default();
    let part = |offset, length, more| Fragment { offset, more, identification: 1, length };
    let datagram = &raw mut datagram;
    // SAFETY: it is this thread's own; for all of it.
    unsafe { Datagram::begin(datagram, 5) };
    // SAFETY: as above.
    let add = |fragment, now| unsafe { Datagram::add(datagram, fragment, now) };
    assert_eq!(add(part(16, 4, false), 5), verdict::FITS);
    assert_eq!(add(part(0, 8, true), 5), verdict::FITS);
    assert_eq!(add(part(0, 8, true), 5), verdict::FITS, "the very same again");
    assert_eq!(add(part(8, 8, true), 5), verdict::COMPLETES);
    assert_eq!(add(part(8, 4, true), LIFETIME), verdict::OVERLAPS);
    assert_eq!(add(part(8, 4, true), LIFETIME + 5), verdict::FITS, "it was another");
    // What comes beyond what is remembered is held against that alone.
    for place in 0..MAX_PARTS as u16 {
        add(part(100 * 8 + place * 8, 8, true), LIFETIME + 5);
    }
    let beyond = part(60_000, 8, true);
    assert_eq!([add(beyond, LIFETIME + 5), add(part(60_000, 16, true), LIFETIME + 5)], [verdict::FITS; 2]);
    assert_eq!(add(part(800, 16, true), LIFETIME + 5), verdict::OVERLAPS);
}

#[test]
fn ports_in_a_row_are_all_told_apart_and_forgotten_with_their_window() {
    let mut source = Source::new(1_000);
    let source = &raw mut source;
    // SAFETY: it is this thread's own; for all of it.
    unsafe {
        for port in 0..1_000 {
            Source::attempt(source, 1_000, 60, port, local(1));
        }
        assert_eq!((Source::ports(source), Source::attempts(source)), (1_000, 1_000));
        assert_eq!([(); 3].map(|()| Source::tell_scan(source, scan::VERTICAL)), [true, false, false]);
        assert!(Source::tell_scan(source, scan::HORIZONTAL), "another kind of it");
        // One port at a whole network, after attempts at others.
        for host in 0..=u8::MAX {
            Source::attempt(source, 1_059, 60, 22, local(host));
        }
        assert!(Source::addresses(source) >= 256 - 16, "{}", Source::addresses(source));
        Source::attempt(source, 1_060, 60, 80, local(1));
        assert_eq!((Source::ports(source), Source::addresses(source), Source::attempts(source)), (1, 1, 1));
        assert!(Source::tell_scan(source, scan::VERTICAL));
    }
}

#[test]
fn what_a_source_does_too_often_is_told_once_in_a_window() {
    let mut source = Source::new(0);
    let source = &raw mut source;
    // SAFETY: it is this thread's own; for all of it.
    let counts = |now| -> Vec<u64> { (0..6).map(|_| unsafe { Source::message(source, now, 10, 4) }).collect() };
    assert_eq!(counts(3), [0, 0, 0, 4, 0, 0]);
    assert_eq!(counts(9), [0; 6], "the same window");
    assert_eq!(counts(10), [0, 0, 0, 4, 0, 0]);
    assert_eq!(counts(5), [0; 6], "out of order");
}

#[test]
fn half_open_connections_are_judged_when_their_window_is_over() {
    let mut openings = Openings::default();
    let (openings, mut judged) = (&raw mut openings, Judged::default());
    // SAFETY: it is this thread's own; for all of it.
    unsafe {
        assert!(Openings::attempt(openings, 100, 10), "that before has never begun");
        Openings::take(openings, &mut judged);
        assert_eq!(judged, Judged::default());
        for _ in 0..9 {
            assert!(!Openings::attempt(openings, 109, 10));
        }
        (0..3).for_each(|_| Openings::complete(openings));
        Openings::refuse(openings);
        assert!(Openings::attempt(openings, 110, 10));
        Openings::take(openings, &mut judged);
    }
    assert_eq!(judged, Judged { attempts: 10, completed: 3, refused: 1 });
    assert_eq!(judged.half_open(), 6);
    assert!(judged.is_flood(6, 30) && !judged.is_flood(7, 30) && !judged.is_flood(6, 29));
    assert_eq!(Judged { attempts: 1, completed: 3, refused: 1 }.half_open(), 0, "of the window before");
}

#[test]
fn of_a_flood_some_are_told_each_second() {
    let mut allowance = Allowance::default();
    for now in [TOLD_WINDOW, 2 * TOLD_WINDOW] {
        let told = (0..100).filter(|_| allowance.take(now)).count() as u64;
        assert_eq!(told, MOST_TOLD);
        assert!(!allowance.take(now + TOLD_WINDOW - 1));
    }
}

#[test]
fn groups_are_no_hosts() {
    let is_unicast = |text: &str| Address::from(text.parse::<IpAddr>().expect("an address")).is_unicast();
    assert!(
        ["10.0.0.1", "223.255.255.255", "0.0.0.0", "fd77::1", "fe80::1", "::1"].map(is_unicast).iter().all(|one| *one)
    );
    assert!(!["224.0.0.1", "239.1.1.1", "255.255.255.255", "ff02::1"].map(is_unicast).iter().any(|one| *one));
}
