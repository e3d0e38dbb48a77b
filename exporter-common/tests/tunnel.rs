//! The headers within the headers of tunnels, of every kind that is known and of what only looks like one.

mod frames;

use frames::{
    DOT1Q, Extension, IPV4, IPV6, Shape, Watched, ethernet, ipv4, ipv6, mutated_frames, read, sctp, shapes, tcp, udp,
};
use proptest::prelude::*;
use tidewaiter_common::{
    frame::Framing,
    packet::{Network, protocol},
    tunnel::inner_headers,
};

const ETHERNET: u16 = 0x6558;
const VXLAN: u16 = 4789;
const LINUX_VXLAN: u16 = 8472;
const GENEVE: u16 = 6081;

/// Bytes of all headers of the tunnelled packets below, when they are IP and when they are Ethernet frames.
const INNER_IP: usize = 20 + 32;
const INNER_ETHERNET: usize = 14 + INNER_IP;

/// A tunnelled packet: TCP with 12 bytes of options in IPv4.
fn inner_ip() -> Vec<u8> {
    ipv4(&[], protocol::TCP, &tcp((40_000, 80), 0x10, 12, &[0xa5; 30]))
}

fn inner_ethernet() -> Vec<u8> {
    ethernet(&[], IPV4, &inner_ip())
}

fn vxlan(flags: u8, payload: &[u8]) -> Vec<u8> {
    [&[flags, 0, 0, 0, 0, 0, 42, 0], payload].concat()
}

/// `options` are in units of 4 bytes.
fn geneve(options: u8, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let [kind_0, kind_1] = ethertype.to_be_bytes();
    [&[options, 0, kind_0, kind_1, 0, 0, 42, 0], vec![0xa5; usize::from(options) * 4].as_slice(), payload].concat()
}

/// A field of 4 bytes for each of the flags for a checksum, a key and a sequence number.
fn gre(flags: u16, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let fields = (flags & 0xb000).count_ones() as usize * 4;
    [&flags.to_be_bytes()[..], &ethertype.to_be_bytes(), &vec![0xa5; fields], payload].concat()
}

/// What is found in `payload`, carried by `protocol`, by IPv4 and IPv6 and below each link layer: bytes from the start of
/// the payload, which must be the same for all.
#[track_caller]
fn inner_of(protocol: u8, payload: &[u8]) -> Option<usize> {
    let encapsulation_limit = [Extension::new(protocol::DESTINATION, 0)];
    let carriers = [
        (20, IPV4, ipv4(&[], protocol, payload)),
        (32, IPV4, ipv4(&[1; 12], protocol, payload)),
        (40, IPV6, ipv6(&[], protocol, payload)),
        // As Linux sends it, unless told otherwise (RFC 2473 section 4.1.1).
        (48, IPV6, ipv6(&encapsulation_limit, protocol, payload)),
    ];
    let found: Vec<_> = carriers
        .iter()
        .flat_map(|(header, ethertype, packet)| {
            let frames = [
                (0, Framing::Ip, packet.clone()),
                (14, Framing::Ethernet, ethernet(&[], *ethertype, packet)),
                (18, Framing::Ethernet, ethernet(&[DOT1Q], *ethertype, packet)),
            ];
            frames.map(|(link, framing, frame)| inner(&frame, framing).map(|inner| inner - header - link))
        })
        .collect();
    assert!(found.iter().all(|one| *one == found[0]), "{found:?}");
    found[0]
}

/// What is found in `frame`, of which nothing is read beyond its end.
fn inner(frame: &[u8], framing: Framing) -> Option<usize> {
    let packet = read(frame, framing).ok()?;
    let watched = Watched::new(frame);
    let inner = inner_headers(&packet, &watched);
    assert!(watched.farthest.get() <= frame.len());
    inner
}

fn over_udp(port: u16, payload: &[u8]) -> Option<usize> {
    inner_of(protocol::UDP, &udp((50_000, port), payload))
}

#[test]
fn vxlan_carries_ethernet_frames() {
    for port in [VXLAN, LINUX_VXLAN] {
        assert_eq!(over_udp(port, &vxlan(0x08, &inner_ethernet())), Some(8 + 8 + INNER_ETHERNET), "{port}");
        // The flags of its group policy are beside the matter, the one that says that there is an identifier is not.
        assert_eq!(over_udp(port, &vxlan(0x88, &inner_ethernet())), Some(8 + 8 + INNER_ETHERNET), "{port}");
        assert_eq!(over_udp(port, &vxlan(0x00, &inner_ethernet())), None, "{port}");
        assert_eq!(over_udp(port, &vxlan(0x08, &inner_ip())), None, "{port}");
        assert_eq!(over_udp(port, &[]), None, "{port}");
        assert_eq!(over_udp(port, &[0x08; 8]), None, "{port}");
    }
    // It is the receiver's port that says so. TCP to that port is none.
    let reversed = udp((VXLAN, 50_000), &vxlan(0x08, &inner_ethernet()));
    assert_eq!(inner_of(protocol::UDP, &reversed), None);
    assert_eq!(inner_of(protocol::TCP, &tcp((50_000, VXLAN), 0x10, 0, &vxlan(0x08, &inner_ethernet()))), None);
    assert_eq!(over_udp(VXLAN + 1, &vxlan(0x08, &inner_ethernet())), None);
}

#[test]
fn geneve_carries_what_it_says_after_its_options() {
    for options in [0, 1, 7, 63] {
        let header = 8 + 8 + 4 * usize::from(options);
        let of = |ethertype, payload: &[u8]| over_udp(GENEVE, &geneve(options, ethertype, payload));
        assert_eq!(of(ETHERNET, &inner_ethernet()), Some(header + INNER_ETHERNET), "{options}");
        assert_eq!(of(IPV4, &inner_ip()), Some(header + INNER_IP), "{options}");
        assert_eq!(of(IPV6, &ipv6(&[], protocol::UDP, &udp((1, 2), &[]))), Some(header + 48), "{options}");
        assert_eq!(of(IPV4, &inner_ethernet()), None, "{options}");
        assert_eq!(of(0x0806, &[0; 28]), None, "{options}");
        assert_eq!(of(ETHERNET, &[]), None, "{options}");
    }
    // Options that the packet ends before.
    assert_eq!(over_udp(GENEVE, &geneve(63, IPV4, &[])[..100]), None);
    assert_eq!(over_udp(GENEVE, &[0, 0, 0x65]), None);
}

#[test]
fn gre_carries_what_it_says_after_the_fields_that_its_flags_announce() {
    let of = |flags, ethertype, payload: &[u8]| inner_of(protocol::GRE, &gre(flags, ethertype, payload));
    for (flags, header) in
        [(0x0000, 4), (0x8000, 8), (0x2000, 8), (0x1000, 8), (0xa000, 12), (0x9000, 12), (0x3000, 12), (0xb000, 16)]
    {
        assert_eq!(of(flags, IPV4, &inner_ip()), Some(header + INNER_IP), "{flags:#x}");
        assert_eq!(of(flags, IPV6, &ipv6(&[], protocol::SCTP, &sctp((1, 2), &[]))), Some(header + 52), "{flags:#x}");
        assert_eq!(of(flags, ETHERNET, &inner_ethernet()), Some(header + INNER_ETHERNET), "{flags:#x}");
        assert_eq!(of(flags, ETHERNET, &inner_ip()), None, "{flags:#x}");
        assert_eq!(of(flags, IPV4, &[]), None, "{flags:#x}");
    }
    // PPTP (RFC 2637) and ERSPAN.
    assert_eq!(of(0x3001, 0x880b, &inner_ip()), None);
    assert_eq!(of(0x1000, 0x88be, &inner_ethernet()), None);
    assert_eq!(inner_of(protocol::GRE, &[0, 0, 8]), None);
}

#[test]
fn either_version_of_ip_is_carried_by_either() {
    let inner_v6 = ipv6(&[], protocol::TCP, &tcp((40_000, 80), 0x10, 0, &[]));
    assert_eq!(inner_of(protocol::IPV4, &inner_ip()), Some(INNER_IP));
    assert_eq!(inner_of(protocol::IPV6, &inner_v6), Some(60));
    for protocol in [protocol::IPV4, protocol::IPV6] {
        assert_eq!(inner_of(protocol, &[]), None);
        assert_eq!(inner_of(protocol, &[0xa5; 60]), None);
        assert_eq!(inner_of(protocol, &inner_ethernet()), None);
    }
}

#[test]
fn what_is_carried_and_has_no_ports_counts_as_far_as_its_ip_header() {
    assert_eq!(inner_of(protocol::IPV4, &ipv4(&[1; 4], protocol::ICMP, &[8, 0, 0, 0])), Some(24));
    assert_eq!(inner_of(protocol::IPV6, &ipv6(&[], protocol::ICMPV6, &[128, 0, 0, 0])), Some(40));
}

#[test]
fn of_a_tunnel_within_a_tunnel_the_outer_one_is_seen() {
    let twice = ipv4(&[], protocol::GRE, &gre(0, IPV4, &inner_ip()));
    assert_eq!(inner_of(protocol::GRE, &gre(0, IPV4, &twice)), Some(4 + 20));
}

#[test]
fn what_is_carried_in_no_usual_shape_is_not_seen() {
    let segment = tcp((40_000, 80), 0x10, 0, &[]);
    let options = [Extension::new(protocol::HOP_BY_HOP, 0)];
    for (what, payload) in [
        ("a tag", vxlan(0x08, &ethernet(&[DOT1Q], IPV4, &inner_ip()))),
        ("an extension header", vxlan(0x08, &ethernet(&[], IPV6, &ipv6(&options, protocol::TCP, &segment)))),
        ("ARP", vxlan(0x08, &ethernet(&[], 0x0806, &[0; 28]))),
        ("19 bytes of TCP", vxlan(0x08, &ethernet(&[], IPV4, &ipv4(&[], protocol::TCP, &segment[..19])))),
        ("a later fragment", {
            let mut frame = vxlan(0x08, &inner_ethernet());
            frame[8 + 14 + 7] = 1;
            frame
        }),
    ] {
        assert_eq!(over_udp(VXLAN, &payload), None, "{what}");
    }
}

#[test]
fn what_carries_no_other_packet_is_no_tunnel() {
    for network in [Network::Ipv4, Network::Ipv6] {
        for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::ICMP, frames::ESP] {
            let shape = Shape { network, protocol, payload: 100, ..Shape::PLAIN };
            assert_eq!(inner(&shape.frame(), Framing::Ethernet), None, "{network:?} {protocol}");
        }
    }
}

/// What a tunnel calls a packet of this shape.
fn ethertype(shape: &Shape) -> u16 {
    match (shape.framing, shape.network) {
        (Framing::Ethernet, _) => ETHERNET,
        (Framing::Ip, Network::Ipv4) => IPV4,
        (Framing::Ip, Network::Ipv6) => IPV6,
    }
}

/// The payload of a packet that carries another, and the protocol that says so.
fn tunnels() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let gre_flags = proptest::sample::select(vec![0, 0x8000, 0x2000, 0x1000, 0xb000]);
    (0..4_u8, gre_flags, 0..64_u8, shapes()).prop_map(|(kind, gre_flags, options, shape)| {
        let (ethertype, payload) = (ethertype(&shape), shape.frame());
        match kind {
            0 => (protocol::UDP, udp((1, VXLAN), &vxlan(0x08, &payload))),
            1 => (protocol::UDP, udp((1, GENEVE), &geneve(options, ethertype, &payload))),
            2 => (protocol::GRE, gre(gre_flags, ethertype, &payload)),
            _ => (protocol::IPV4, payload),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn inner_headers_are_within_the_frame_and_behind_the_outer_ones(
        (protocol, payload) in tunnels(),
        cut in prop_oneof![Just(usize::MAX), 0..300_usize],
        changes in proptest::collection::vec((0..160_usize, any::<u8>()), 0..3),
        framing in frames::framings(),
    ) {
        let packet = ipv4(&[], protocol, &payload);
        let mut frame = if framing == Framing::Ethernet { ethernet(&[], IPV4, &packet) } else { packet };
        frame.truncate(cut);
        for (offset, value) in changes {
            if let Some(byte) = frame.get_mut(offset) {
                *byte = value;
            }
        }
        if let Ok(outer) = read(frame.as_slice(), framing)
            && let Some(inner) = inner(&frame, framing)
        {
            // There is an IP header at least.
            prop_assert!((outer.headers + 20..=frame.len()).contains(&inner), "{} of {:?}", inner, outer);
        }
    }

    #[test]
    fn frames_that_are_nearly_right_are_read_no_further_than_they_go((framing, frame) in mutated_frames()) {
        inner(&frame, framing);
    }

    #[test]
    fn the_inner_packet_is_read_as_it_would_be_by_itself(shape in shapes(), options in 0..64_u8) {
        let frame = shape.frame();
        let expected = shape.is_plain().then_some(20 + 8 + 8 + usize::from(options) * 4 + shape.packet().headers);
        let outer = ipv4(&[], protocol::UDP, &udp((1, GENEVE), &geneve(options, ethertype(&shape), &frame)));
        prop_assert_eq!(inner(&outer, Framing::Ip), expected);
    }
}
