//! Flows: which packets are of the same one, and when there is a conversation.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]

mod frames;

use std::net::IpAddr;

use frames::{DOT1Q, Shape, shapes};
use proptest::prelude::*;
use tidewaiter_common::{
    api::ApiSlot,
    counters::Counters,
    direction::Direction::{self, Receive, Transmit},
    flow::{Flow, FlowKey, ONE_WAY_PACKETS},
    frame::Framing,
    packet::{Network, Packet, protocol, tcp_flag},
    wire::Wire,
};

const SYN: u8 = tcp_flag::SYN;
const ACK: u8 = tcp_flag::ACK;
const RST: u8 = tcp_flag::RST;
const FIN: u8 = tcp_flag::FIN;
const PUSH: u8 = 0x08;

fn key(shape: &Shape, direction: Direction) -> FlowKey {
    FlowKey::of(&shape.packet(), shape.frame().as_slice(), direction, 7).expect("has addresses")
}

#[test]
fn the_local_end_is_the_receiver_of_what_is_received_and_the_sender_of_what_is_transmitted() {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address").into();
    for (network, source, destination) in [
        (Network::Ipv4, "10.0.0.1", "10.0.0.2"),
        (Network::Ipv6, "101:101:101:101:101:101:101:101", "202:202:202:202:202:202:202:202"),
    ] {
        for (tags, framing) in [(vec![], Framing::Ethernet), (vec![DOT1Q], Framing::Ethernet), (vec![], Framing::Ip)] {
            let shape = Shape { network, tags, framing, ports: (40_000, 80), ..Shape::PLAIN };
            let transmitted = FlowKey {
                local: address(source),
                remote: address(destination),
                interface: 7,
                local_port: 40_000,
                remote_port: 80,
                protocol: 6,
            };
            let received = FlowKey {
                local: address(destination),
                remote: address(source),
                local_port: 80,
                remote_port: 40_000,
                ..transmitted
            };
            assert_eq!(key(&shape, Transmit), transmitted, "{shape:?}");
            assert_eq!(key(&shape, Receive), received, "{shape:?}");
        }
    }
}

#[test]
fn what_has_no_ports_is_one_flow_for_each_protocol() {
    let of = |protocol| key(&Shape { protocol, ..Shape::PLAIN }, Receive);
    let FlowKey { local_port, remote_port, protocol, .. } = of(protocol::ICMP);
    assert_eq!((local_port, remote_port, protocol), (0, 0, 1));
    assert_ne!(of(protocol::ICMP), of(protocol::GRE));
    assert_ne!(of(protocol::TCP), of(protocol::UDP));
    assert_ne!(of(protocol::UDP), of(protocol::SCTP));
}

#[test]
fn a_frame_that_has_lost_its_addresses_has_no_flow() {
    let (frame, packet) = (Shape::PLAIN.frame(), Shape::PLAIN.packet());
    for direction in Direction::ALL {
        assert_eq!(FlowKey::of(&packet, &frame[..33], direction, 7), None);
        assert!(FlowKey::of(&packet, &frame[..34], direction, 7).is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_packet_and_its_answer_are_of_one_flow(shape in shapes()) {
        // (The addresses of a shape are always the same; that they are exchanged is tested above.)
        let answer = Shape { ports: (shape.ports.1, shape.ports.0), ..shape.clone() };
        let (received, transmitted) = (key(&shape, Receive), key(&answer, Transmit));
        prop_assert_eq!((received.local_port, received.remote_port), (transmitted.local_port, transmitted.remote_port));
        prop_assert_eq!((received.local, received.remote), (transmitted.remote, transmitted.local));
        prop_assert_eq!(received.protocol, transmitted.protocol);
    }
}

/// A flow of one protocol, packet by packet.
struct Conversation {
    flow: Flow,
    protocol: u8,
    now: u64,
}

impl Conversation {
    fn new(protocol: u8) -> Self {
        Self { flow: Flow::new(ApiSlot(3), 1000, 1000), protocol, now: 1000 }
    }

    fn see(&mut self, direction: Direction, tcp_flags: u8, wire: Wire) {
        let packet = Packet { protocol: self.protocol, tcp_flags, ..Packet::UNREAD };
        let bits = Flow::bits(&packet, direction);
        self.now += 10;
        // SAFETY: nobody else has the flow.
        unsafe { Flow::count(&raw mut self.flow, direction, wire, bits, self.now) };
    }

    fn is_established(&self) -> bool {
        self.flow.is_established(self.protocol.into())
    }
}

const ONE: Wire = Wire { packets: 1, bytes: 60 };

/// After how many of `packets` there is a conversation, and that it stays one.
fn established_after(protocol: u8, packets: &[(Direction, u8)]) -> Option<usize> {
    let mut conversation = Conversation::new(protocol);
    assert!(!conversation.is_established());
    let established: Vec<_> = packets
        .iter()
        .map(|&(direction, tcp_flags)| {
            conversation.see(direction, tcp_flags, ONE);
            conversation.is_established()
        })
        .collect();
    assert!(established.is_sorted(), "no longer a conversation: {established:?}");
    established.iter().position(|&is_established| is_established).map(|at| at + 1)
}

/// The same conversation as the other end's host sees it.
fn exchanged(packets: &[(Direction, u8)]) -> Vec<(Direction, u8)> {
    packets
        .iter()
        .map(|&(direction, tcp_flags)| (if direction == Receive { Transmit } else { Receive }, tcp_flags))
        .collect()
}

#[track_caller]
fn assert_established_after(what: &str, protocol: u8, packets: &[(Direction, u8)], expected: Option<usize>) {
    assert_eq!(established_after(protocol, packets), expected, "{what}");
    assert_eq!(established_after(protocol, &exchanged(packets)), expected, "{what}, at the other end");
}

#[test]
fn a_tcp_conversation_begins_with_the_answer_to_a_plain_segment() {
    for (what, segments, expected) in [
        ("a handshake", vec![(Receive, SYN), (Transmit, SYN | ACK), (Receive, ACK)], Some(3)),
        (
            "a handshake with losses",
            vec![(Receive, SYN), (Receive, SYN), (Transmit, SYN | ACK), (Transmit, SYN | ACK), (Receive, ACK | PUSH)],
            Some(5),
        ),
        (
            "a simultaneous open",
            vec![(Receive, SYN), (Transmit, SYN), (Receive, SYN | ACK), (Transmit, SYN | ACK), (Receive, ACK | PUSH)],
            Some(5),
        ),
        ("one that was going on", vec![(Receive, ACK | PUSH), (Transmit, ACK)], Some(2)),
        ("its end", vec![(Receive, FIN | ACK), (Transmit, FIN | ACK)], Some(2)),
        // The answer to the handshake's third segment is lost on this host, as to a capture that lost some.
        ("a handshake without its second segment", vec![(Receive, SYN), (Receive, ACK), (Transmit, ACK)], Some(3)),
        // Something was sent before it was reset.
        ("one that is reset", vec![(Receive, ACK), (Transmit, ACK), (Transmit, RST)], Some(2)),
    ] {
        assert_established_after(what, protocol::TCP, &segments, expected);
    }
}

#[test]
fn neither_floods_nor_scans_make_a_tcp_conversation() {
    let refused = [(Receive, SYN), (Transmit, RST | ACK)];
    for (what, segments) in [
        ("a lone SYN", vec![(Receive, SYN)]),
        ("a refused connection", refused.to_vec()),
        ("one refused time and again", refused.repeat(50)),
        ("a flood of SYN", vec![(Receive, SYN); 100]),
        ("a flood of SYN, answered and answered again", [(Receive, SYN), (Transmit, SYN | ACK)].repeat(100)),
        ("a SYN, answered six times", [vec![(Receive, SYN)], vec![(Transmit, SYN | ACK); 6]].concat()),
        ("a SYN scan", vec![(Receive, SYN), (Transmit, SYN | ACK), (Receive, RST)]),
        ("a SYN scan reset with an acknowledgement", vec![(Receive, SYN), (Transmit, SYN | ACK), (Receive, RST | ACK)]),
        ("an ACK scan", vec![(Receive, ACK), (Transmit, RST)]),
        ("a FIN scan", vec![(Receive, FIN), (Transmit, RST | ACK)]),
        ("a null scan", vec![(Receive, 0), (Transmit, RST | ACK)]),
        ("a scan with all flags", vec![(Receive, 0x3f), (Transmit, RST | ACK)]),
        ("a flood of RST", vec![(Receive, RST); 100]),
        ("nearly a one-way one", vec![(Receive, ACK); 7]),
    ] {
        assert_established_after(what, protocol::TCP, &segments, None);
    }
}

#[test]
fn eight_packets_in_one_direction_are_enough_where_one_is_plain() {
    let eighth = usize::try_from(ONE_WAY_PACKETS).ok();
    assert_eq!(eighth, Some(8));
    assert_established_after("data", protocol::TCP, &[(Receive, ACK | PUSH); 20], eighth);
    let opened = [vec![(Receive, SYN)], vec![(Receive, ACK); 20]].concat();
    assert_established_after("an opening, then data", protocol::TCP, &opened, eighth);
    let never_plain = [vec![(Receive, SYN)], vec![(Receive, RST); 20]].concat();
    assert_established_after("nothing that is plain", protocol::TCP, &never_plain, None);

    // A super-packet is its segments.
    let mut conversation = Conversation::new(protocol::TCP);
    conversation.see(Receive, ACK, Wire { packets: 7, bytes: 7000 });
    assert!(!conversation.is_established());
    conversation.see(Receive, ACK, ONE);
    assert!(conversation.is_established());
}

#[test]
fn others_are_conversations_when_both_have_sent_something_or_one_has_a_lot() {
    for protocol in [protocol::UDP, protocol::ICMP, protocol::ICMPV6, protocol::SCTP, protocol::GRE] {
        assert_established_after("both ways", protocol, &[(Receive, 0), (Transmit, 0)], Some(2));
        let late = [vec![(Receive, 0); 5], vec![(Transmit, 0)]].concat();
        assert_established_after("a late answer", protocol, &late, Some(6));
        assert_established_after("one way", protocol, &[(Receive, 0); 20], Some(8));
        assert_established_after("a few one way", protocol, &[(Receive, 0); 7], None);
    }
}

#[test]
fn flags_are_kept_for_each_direction_and_protocols_other_than_tcp_have_none() {
    for tcp_flags in 0..=u8::MAX {
        for direction in Direction::ALL {
            let mut conversation = Conversation::new(protocol::TCP);
            conversation.see(direction, tcp_flags, ONE);
            let expected = Direction::ALL.map(|one| if one == direction { tcp_flags } else { 0 });
            assert_eq!(Direction::ALL.map(|one| conversation.flow.tcp_flags(one)), expected);
        }
    }
    let mut conversation = Conversation::new(protocol::TCP);
    for (direction, tcp_flags) in [(Receive, SYN), (Transmit, SYN | ACK), (Receive, ACK), (Transmit, FIN | ACK)] {
        conversation.see(direction, tcp_flags, ONE);
    }
    assert_eq!(Direction::ALL.map(|one| conversation.flow.tcp_flags(one)), [SYN | ACK, SYN | ACK | FIN]);

    for protocol in (0..=u8::MAX).filter(|&protocol| protocol != protocol::TCP) {
        let packet = Packet { protocol, tcp_flags: 0xff, ..Packet::UNREAD };
        assert_eq!(Direction::ALL.map(|direction| Flow::bits(&packet, direction)), [0, 0], "{protocol}");
    }
}

#[test]
fn a_flow_says_what_passed_and_when() {
    let mut conversation = Conversation::new(protocol::UDP);
    for (direction, packets, bytes) in [(Receive, 1, 100), (Transmit, 3, 4000), (Receive, 2, 150)] {
        conversation.see(direction, 0, Wire { packets, bytes });
    }
    let Flow { first, last, api, .. } = conversation.flow;
    assert_eq!(conversation.flow.wire(), [Counters { packets: 3, bytes: 250 }, Counters { packets: 3, bytes: 4000 }]);
    assert_eq!((first, last, api), (1000, 1030, ApiSlot(3)));

    // A CPU that is behind turns no clock back.
    let Conversation { mut flow, .. } = conversation;
    // SAFETY: nobody else has the flow.
    unsafe { Flow::count(&raw mut flow, Receive, ONE, 0, 1020) };
    assert_eq!((flow.first, flow.last), (1000, 1030));
}

#[test]
fn flows_of_terabytes_are_counted_to_the_byte() {
    let mut conversation = Conversation::new(protocol::UDP);
    // Many times what one word has room for, in packets as in bytes.
    let wire = Wire { packets: (1 << 18) + 1, bytes: (1 << 34) + 3 };
    for round in 1..=1000 {
        conversation.see(Receive, 0, wire);
        let expected = Counters { packets: round * wire.packets, bytes: round * wire.bytes };
        assert_eq!(conversation.flow.wire(), [expected, Counters::default()]);
    }
    let mut to = Flow::new(ApiSlot(3), 0, 0);
    // SAFETY: nobody else has the flows.
    unsafe { Flow::move_counters(&raw mut conversation.flow, &raw mut to) };
    let all = Counters { packets: 1000 * wire.packets, bytes: 1000 * wire.bytes };
    assert_eq!(to.wire(), [all, Counters::default()]);
    assert_eq!(conversation.flow.wire(), [Counters::default(); 2]);
}

#[test]
fn merged_flows_are_as_one() {
    let mut parts = [Conversation::new(protocol::TCP), Conversation::new(protocol::TCP)];
    parts[1].now = 2000;
    parts[1].flow.first = 2000;
    parts[0].see(Receive, SYN, ONE);
    parts[1].see(Transmit, SYN | ACK, Wire { packets: 2, bytes: 200 });
    let [first, second] = parts.map(|part| part.flow);
    for (mut whole, part) in [(first, second), (second, first)] {
        // SAFETY: nobody else has the flow.
        unsafe { Flow::set_moved(&raw mut whole) };
        let mut part = part;
        // SAFETY: as above.
        unsafe { Flow::set_moved(&raw mut part) };
        let mut merged = Flow::new(ApiSlot(3), u64::MAX, 0);
        merged.merge(&whole);
        merged.merge(&part);
        assert_eq!(merged.wire(), [Counters { packets: 1, bytes: 60 }, Counters { packets: 2, bytes: 200 }]);
        assert_eq!(Direction::ALL.map(|one| merged.tcp_flags(one)), [SYN, SYN | ACK]);
        assert_eq!((merged.first, merged.last), (1000, 2010));
        // SAFETY: as above.
        assert!(!unsafe { Flow::has_moved(&raw mut merged) }, "that is what became of a part, not of the whole");
    }
}

#[test]
fn what_moves_leaves_nothing_behind_but_that_it_has_moved() {
    let mut conversation = Conversation::new(protocol::TCP);
    conversation.see(Receive, SYN, ONE);
    conversation.see(Transmit, SYN | ACK, Wire { packets: 2, bytes: 200 });
    let (mut from, mut to) = (conversation.flow, Flow::new(ApiSlot(3), 0, 0));
    // SAFETY: nobody else has the flows.
    unsafe {
        assert!(!Flow::has_moved(&raw mut from));
        Flow::set_moved(&raw mut from);
        Flow::move_counters(&raw mut from, &raw mut to);
        assert!(Flow::has_moved(&raw mut from));
        assert!(!Flow::has_moved(&raw mut to));
    }
    assert_eq!(from.wire(), [Counters::default(); 2]);
    assert_eq!(to.wire(), conversation.flow.wire());
    assert_eq!(Direction::ALL.map(|one| to.tcp_flags(one)), [SYN, SYN | ACK]);

    // Another conversation with the same ends: nothing of the first makes it an established one.
    let bits = Flow::bits(&Packet { protocol: protocol::TCP, tcp_flags: ACK, ..Packet::UNREAD }, Receive);
    // SAFETY: as above.
    unsafe {
        Flow::count(&raw mut from, Receive, ONE, bits, 5000);
        Flow::begin_anew(&raw mut from, bits, 5000);
        assert!(!Flow::has_moved(&raw mut from));
    }
    assert!(!from.is_established(protocol::TCP.into()));
    assert_eq!((from.first, from.counters(Receive).packets, from.tcp_flags(Receive)), (5000, 1, ACK));
}
