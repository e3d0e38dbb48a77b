//! What is kept of counters and between exporters: sums and differences, numbers and what they stand for.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;
use tidewaiter_common::{
    address::Address,
    api::{ApiCounters, PORT_TABLE_ENTRIES, port_index},
    counters::Counters,
    direction::Direction::{self, Receive, Transmit},
    frame::Framing,
    interface::{INTERFACE_TABLE_ENTRIES, INTERFACE_TABLE_PROBES, InterfaceCounters, interface_places},
    reason::Reason,
    record::{ApiRecord, state},
    role::Role,
    transport::Transport,
    wire::Wire,
};

const fn counters(packets: u64, bytes: u64) -> Counters {
    Counters { packets, bytes }
}

#[test]
fn counters_are_added_up_and_taken_from_each_other() {
    let mut total = counters(1, 60);
    total += counters(2, 3000);
    total.count(Wire { packets: 10, bytes: 15_000 });
    assert_eq!(total, counters(13, 18_060));
    assert_eq!(total - counters(3, 3060), counters(10, 15_000));
    assert_eq!(total - total, Counters::default());
    // Of counters that are read one after the other, the later ones may be ahead of the earlier ones.
    assert_eq!(counters(1, 60) - counters(2, 50), counters(0, 10));
    assert_eq!([counters(1, 60), counters(2, 50), total].into_iter().sum::<Counters>(), counters(16, 18_170));
    assert_eq!(std::iter::empty().sum::<Counters>(), Counters::default());
}

/// Counters that are all different, so that none can stand for another.
fn api_counters(factor: u64) -> ApiCounters {
    ApiCounters {
        wire: [counters(factor, 2 * factor), counters(3 * factor, 4 * factor)],
        untracked: counters(5 * factor, 6 * factor),
    }
}

/// As [`api_counters`].
fn interface_counters(factor: u64) -> InterfaceCounters {
    let mut all = InterfaceCounters::default();
    let mut number = 0;
    for direction in Direction::ALL {
        for reason in Reason::ALL {
            number += 1;
            all.leave_uncounted(direction, reason, Wire { packets: number * factor, bytes: (number + 500) * factor });
        }
        // `see` counts one buffer a time.
        for _ in 0..(10 + direction.index() as u64) * factor {
            all.see(direction, Wire { packets: 100 + direction.index() as u64, bytes: 200 });
        }
    }
    all
}

#[test]
fn counters_of_apis_are_added_up_and_taken_from_each_other_one_by_one() {
    let mut total = api_counters(2);
    total += &api_counters(5);
    assert_eq!(total, api_counters(7));
    assert_eq!(total - api_counters(5), api_counters(2));
    assert_eq!(api_counters(2) - total, ApiCounters::default());
    total += &ApiCounters::default();
    assert_eq!(total - ApiCounters::default(), api_counters(7));
}

#[test]
fn counters_of_interfaces_are_added_up_and_taken_from_each_other_one_by_one() {
    let mut total = interface_counters(2);
    total += &interface_counters(5);
    assert_eq!(total, interface_counters(7));
    assert_eq!(total - interface_counters(5), interface_counters(2));
    assert_eq!(interface_counters(2) - total, InterfaceCounters::default());
    total += &InterfaceCounters::default();
    assert_eq!(total - InterfaceCounters::default(), interface_counters(7));
}

#[test]
fn what_an_interface_sees_is_counted_in_its_direction_and_under_its_reason_alone() {
    for direction in Direction::ALL {
        for reason in Reason::ALL {
            let mut all = InterfaceCounters::default();
            all.see(direction, Wire { packets: 3, bytes: 300 });
            all.leave_uncounted(direction, reason, Wire { packets: 2, bytes: 200 });
            let [mine, other] = if direction == Receive { [Receive, Transmit] } else { [Transmit, Receive] };
            let totals = all.totals[mine.index()];
            assert_eq!((totals.wire, totals.buffers), (counters(3, 300), 1));
            assert_eq!(all.uncounted[mine.index()][reason.index()], counters(2, 200));
            assert_eq!(all.uncounted[mine.index()].into_iter().sum::<Counters>(), counters(2, 200));
            assert_eq!(all.totals[other.index()], InterfaceCounters::default().totals[0]);
            assert_eq!(all.uncounted[other.index()].into_iter().sum::<Counters>(), Counters::default());
        }
    }
}

#[test]
fn every_number_is_that_of_one_reason_or_of_none() {
    for index in 0..=u8::MAX {
        let expected = Reason::ALL.get(usize::from(index)).copied();
        assert_eq!(Reason::from_index(index), expected, "{index}");
        assert_eq!(expected.map(Reason::index), expected.map(|_| usize::from(index)), "{index}");
    }
    let labels: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(labels.len(), Reason::COUNT);
    // What the programs write for a packet that was read.
    assert_eq!(Reason::from_index(u8::MAX), None);
}

#[test]
fn every_number_is_that_of_one_direction_and_of_one_framing() {
    for direction in Direction::ALL {
        assert_eq!(Direction::from_number(direction as u32), direction);
        assert_eq!(Direction::ALL[direction.index()], direction);
    }
    assert!([2, 255, 256, u32::MAX].map(Direction::from_number).iter().all(|&direction| direction == Transmit));
    for framing in [Framing::Ethernet, Framing::Ip] {
        assert_eq!(Framing::from_number(framing as u8), framing);
    }
    assert!([2, 254, u8::MAX].map(Framing::from_number).iter().all(|&framing| framing == Framing::Ethernet));
    assert_eq!(Role::ALL.map(Role::index), [0, 1]);
}

#[test]
fn every_port_of_every_transport_has_a_place_of_its_own() {
    let ports = [0, 1, 80, u16::MAX];
    let places: Vec<_> =
        Transport::ALL.iter().flat_map(|&transport| ports.map(|port| port_index(transport, port))).collect();
    assert!(places.is_sorted_by(|place, next| place < next), "{places:?}");
    assert_eq!(places.last().map(|last| last + 1), Some(PORT_TABLE_ENTRIES));
}

#[test]
fn the_places_of_an_interface_are_within_the_table_and_differ() {
    for index in [1, 2, INTERFACE_TABLE_ENTRIES - 1, INTERFACE_TABLE_ENTRIES, u32::MAX - 3, u32::MAX] {
        let places: HashSet<_> = interface_places(index).collect();
        assert_eq!(places.len() as u32, INTERFACE_TABLE_PROBES, "{index}");
        assert!(places.iter().all(|&place| place < INTERFACE_TABLE_ENTRIES), "{index}");
        assert_eq!(interface_places(index).next(), Some(index % INTERFACE_TABLE_ENTRIES), "{index}");
    }
}

#[test]
fn a_record_that_was_never_written_is_nobodys() {
    // An array's elements are zero before they are written.
    let ApiRecord { name, name_length, state, role, adrift, created, base, removed } = ApiRecord::default();
    assert!(name.iter().all(|&byte| byte == 0));
    assert_eq!((name_length, state, role, adrift, created), (0, state::FREE, 0, 0, 0));
    assert_eq!((base, removed), (ApiCounters::default(), [ApiCounters::default(); 2]));
}

#[test]
fn addresses_of_ipv4_are_mapped_into_ipv6() {
    let v4 = IpAddr::from([192, 0, 2, 1]);
    let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("an address");
    assert_eq!(Address::from(v4), Address::v4([192, 0, 2, 1]));
    assert_eq!(Address::from(mapped), Address::from(v4));
    assert_eq!(IpAddr::from(Address::from(mapped)), v4);
    // Addresses that only look like it: compatible ones, and the prefix of translators.
    for address in ["::192.0.2.1", "64:ff9b::192.0.2.1", "::1", "::", "::fffe:192.0.2.1", "1::ffff:192.0.2.1"] {
        let address: IpAddr = address.parse().expect("an address");
        assert_eq!(IpAddr::from(Address::from(address)), address);
        assert_ne!(Address::from(address), Address::from(v4));
    }
    assert_eq!(Address::default(), Address::from(IpAddr::from(Ipv6Addr::UNSPECIFIED)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn addresses_are_the_same_there_and_back(octets in any::<[u8; 16]>(), is_v4 in any::<bool>()) {
        let [a, b, c, d, ..] = octets;
        let address = if is_v4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(octets) };
        prop_assert_eq!(IpAddr::from(Address::from(address)), address.to_canonical());
        prop_assert_eq!(Address::v6(octets), Address::from(IpAddr::from(octets)));
        prop_assert_eq!(Address::v4([a, b, c, d]), Address::from(IpAddr::from(Ipv4Addr::new(a, b, c, d))));
    }
}
