//! The parser against frames of all shapes, right and wrong.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]

mod frames;

use std::net::IpAddr;

use frames::{
    DOT1AD, DOT1Q, ESP, Extension, IPV4, IPV6, NO_NEXT_HEADER, OLD_QINQ, Shape, Watched, ethernet, framings, ipv4,
    ipv6, mutated_frames, read, read_plain, sctp, shapes, tcp, udp,
};
use proptest::prelude::*;
use tidewaiter_common::{
    frame::Framing,
    packet::{Fragment, MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS, Network, Packet, protocol},
    reason::Reason,
    transport::Transport,
};

const PORTS: (u16, u16) = (40_000, 80);

fn read_ethernet(frame: &[u8]) -> Result<Packet, Reason> {
    read(frame, Framing::Ethernet)
}

/// `frame` with `bytes` written at `offset`.
fn with(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

fn tcp4() -> Vec<u8> {
    Shape::PLAIN.frame()
}

/// UDP with 40 bytes of payload, after `extensions`.
fn udp6(extensions: &[Extension]) -> Vec<u8> {
    ethernet(&[], IPV6, &ipv6(extensions, protocol::UDP, &udp((1, 2), &[0xa5; 40])))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_well_formed_packet_is_read(shape in shapes()) {
        let (frame, expected) = (shape.frame(), shape.packet());
        prop_assert_eq!(read(frame.as_slice(), shape.framing), Ok(expected));
        // A first fragment has an extension header, or comes from another test.
        let plain = shape.is_plain().then_some(expected);
        prop_assert_eq!(read_plain(frame.as_slice(), shape.framing), plain);
    }

    #[test]
    fn a_well_formed_packet_is_read_without_its_payload_but_not_without_its_last_header(shape in shapes()) {
        let (frame, headers) = (shape.frame(), shape.packet().headers);
        let fragment = shape.packet().fragment;
        let length = fragment.length.saturating_sub(shape.payload as u32);
        let expected = Packet { payload: 0, fragment: Fragment { length, ..fragment }, ..shape.packet() };
        prop_assert_eq!(read(&frame[..headers], shape.framing), Ok(expected));
        if shape.packet().transport.is_some() || !shape.extensions.is_empty() {
            prop_assert!(read(&frame[..headers - 1], shape.framing).is_err());
        }
    }

    #[test]
    fn both_ways_in_read_alike((framing, frame) in mutated_frames()) {
        let (all, plain) = (read(frame.as_slice(), framing), read_plain(frame.as_slice(), framing));
        if let Some(plain) = plain {
            prop_assert_eq!(all, Ok(plain));
        }
        if let Ok(packet) = all {
            let link = if framing == Framing::Ethernet { 14 } else { 0 };
            let is_tagged = packet.network_offset != link;
            let is_extended = packet.network == Network::Ipv6 && frame[packet.network_offset + 6] != packet.protocol;
            let is_usual = !is_tagged && !is_extended && !packet.fragment.is_part();
            prop_assert_eq!(plain.is_some(), is_usual, "{:?}", packet);
        }
    }

    #[test]
    fn nearly_right_frames_are_never_read_beyond_their_end((framing, frame) in mutated_frames()) {
        assert_within(&frame, framing);
    }

    #[test]
    fn random_bytes_are_never_read_beyond_their_end(
        frame in proptest::collection::vec(any::<u8>(), 0..200),
        is_ip in any::<bool>(),
        framing in framings(),
    ) {
        let mut frame = frame;
        if is_ip && frame.len() > 14 {
            let ethertype = if frame[14] & 1 == 0 { IPV4 } else { IPV6 };
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            frame[14] = if frame[14] & 1 == 0 { 0x40 } else { 0x60 } | (frame[14] >> 4);
        }
        assert_within(&frame, framing);
    }
}

/// Sees that nothing is read, and no header found, beyond the end of `frame`.
fn assert_within(frame: &[u8], framing: Framing) {
    for is_plain in [false, true] {
        let watched = Watched::new(frame);
        let mut packet = Packet::UNREAD;
        let is_read =
            if is_plain { packet.read_plain(&watched, framing) } else { packet.read(&watched, framing).is_ok() };
        assert!(watched.farthest.get() <= frame.len());
        assert!(packet.headers <= frame.len(), "{packet:?} in {} bytes", frame.len());
        assert!(!is_read || packet.network_offset < packet.headers, "{packet:?}");
    }
}

#[test]
fn every_reason_has_a_frame_of_its_own() {
    let too_many = |extra| vec![Extension::new(protocol::DESTINATION, 0); MAX_EXTENSION_HEADERS + extra];
    let sctp4 = || ethernet(&[], IPV4, &ipv4(&[], protocol::SCTP, &sctp(PORTS, b"chunk")));
    let cases: [(&str, Vec<u8>, Reason); 24] = [
        ("nothing at all", vec![], Reason::EthernetTruncated),
        ("half an Ethernet header", tcp4()[..13].to_vec(), Reason::EthernetTruncated),
        ("half a tag", ethernet(&[DOT1Q], IPV4, &[])[..17].to_vec(), Reason::EthernetTruncated),
        ("ARP", with(tcp4(), 12, &[0x08, 0x06]), Reason::NotIp),
        ("ARP in a tag", ethernet(&[DOT1Q], 0x0806, &[0; 28]), Reason::NotIp),
        ("an IEEE 802.3 length", with(tcp4(), 12, &[0x00, 0x26]), Reason::NotIp),
        ("too many tags", ethernet(&[DOT1Q; MAX_VLAN_TAGS + 1], IPV4, &tcp4()[14..]), Reason::Vlan),
        ("nothing after Ethernet", tcp4()[..14].to_vec(), Reason::Ipv4Truncated),
        ("19 bytes of IPv4", tcp4()[..33].to_vec(), Reason::Ipv4Truncated),
        ("options that the frame ends before", with(tcp4(), 14, &[0x4f])[..50].to_vec(), Reason::Ipv4Truncated),
        ("version 5 in IPv4", with(tcp4(), 14, &[0x55]), Reason::Ipv4Malformed),
        ("an IPv4 header of 16 bytes", with(tcp4(), 14, &[0x44]), Reason::Ipv4Malformed),
        ("a total length of 19", with(tcp4(), 16, &[0, 19]), Reason::Ipv4Malformed),
        ("a later fragment", with(tcp4(), 20, &[0x00, 0x01]), Reason::Fragment),
        ("39 bytes of IPv6", udp6(&[])[..53].to_vec(), Reason::Ipv6Truncated),
        ("version 4 in IPv6", with(udp6(&[]), 14, &[0x40]), Reason::Ipv6Malformed),
        ("too many extension headers", udp6(&too_many(1)), Reason::Ipv6Extension),
        ("19 bytes of TCP", tcp4()[..53].to_vec(), Reason::TcpTruncated),
        ("a total length that ends in TCP, then padding", with(tcp4(), 16, &[0, 39]), Reason::TcpTruncated),
        ("a TCP header of 16 bytes", with(tcp4(), 46, &[0x40]), Reason::TcpMalformed),
        ("TCP options beyond the end", with(tcp4(), 46, &[0xf0]), Reason::TcpMalformed),
        ("7 bytes of UDP", udp6(&[])[..61].to_vec(), Reason::UdpTruncated),
        ("11 bytes of SCTP", sctp4()[..45].to_vec(), Reason::SctpTruncated),
        ("a total length that ends in SCTP, then padding", with(sctp4(), 16, &[0, 31]), Reason::SctpTruncated),
    ];
    for (what, frame, reason) in &cases {
        assert_eq!(read_ethernet(frame), Err(*reason), "{what}");
        assert_eq!(read_plain(frame.as_slice(), Framing::Ethernet), None, "{what}");
    }
    // The others are not the parser's to find.
    let found_elsewhere = [Reason::Mirror, Reason::Internal];
    for reason in Reason::ALL {
        let has_case = cases.iter().any(|(_, _, of_case)| *of_case == reason);
        assert_ne!(has_case, found_elsewhere.contains(&reason), "{reason:?}");
    }
}

#[test]
fn tags_are_read_as_far_as_there_may_be_any() {
    let ip = ipv4(&[], protocol::TCP, &tcp(PORTS, 0, 0, b"payload"));
    for count in 1..=MAX_VLAN_TAGS + 2 {
        for tags in [vec![DOT1Q; count], vec![DOT1AD; count], [vec![DOT1AD, OLD_QINQ], vec![DOT1Q; count]].concat()] {
            let frame = ethernet(&tags, IPV4, &ip);
            let read = read_ethernet(&frame).map(|packet| (packet.network_offset, packet.headers));
            let offset = 14 + 4 * tags.len();
            let expected = if tags.len() > MAX_VLAN_TAGS { Err(Reason::Vlan) } else { Ok((offset, offset + 40)) };
            assert_eq!(read, expected, "{tags:x?}");
            assert_eq!(read_plain(frame.as_slice(), Framing::Ethernet), None, "{tags:x?}");
            // Wherever the frame ends in its tags, that is what is told.
            for end in 14..offset.min(14 + 4 * MAX_VLAN_TAGS) {
                assert_eq!(read_ethernet(&frame[..end]), Err(Reason::EthernetTruncated), "{tags:x?}, {end} bytes");
            }
        }
    }
}

#[test]
fn the_header_that_a_tag_leads_to_is_checked_like_any_other() {
    let ip = ipv4(&[], protocol::TCP, &tcp(PORTS, 0, 0, &[]));
    for (what, ethertype, packet, reason) in [
        ("IPv6 that is called IPv4", IPV4, ipv6(&[], protocol::UDP, &udp(PORTS, &[])), Reason::Ipv4Malformed),
        ("IPv4 that is called IPv6", IPV6, ip.clone(), Reason::Ipv6Malformed),
        ("a later fragment", IPV4, with(ip.clone(), 6, &[0x00, 0x01]), Reason::Fragment),
        ("19 bytes of TCP", IPV4, ip[..39].to_vec(), Reason::TcpTruncated),
    ] {
        assert_eq!(read_ethernet(&ethernet(&[DOT1AD, DOT1Q], ethertype, &packet)), Err(reason), "{what}");
    }
}

#[test]
fn extension_headers_are_read_as_far_as_there_may_be_any() {
    let kinds = [
        Extension::new(protocol::HOP_BY_HOP, 0),
        Extension::new(protocol::ROUTING, 2),
        Extension::new(protocol::DESTINATION, 31),
        Extension::new(protocol::MOBILITY, 1),
        Extension::new(protocol::HOST_IDENTITY, 4),
        Extension::new(protocol::SHIM6, 0),
        Extension::authentication(4),
        Extension::fragment(0, true),
        Extension::fragment(0, false),
    ];
    for count in 1..=MAX_EXTENSION_HEADERS + 1 {
        for first in 0..kinds.len() {
            let chain: Vec<_> = kinds.iter().cycle().skip(first).take(count).cloned().collect();
            let shape = Shape { network: Network::Ipv6, extensions: chain, ..Shape::PLAIN };
            let expected = if count > MAX_EXTENSION_HEADERS { Err(Reason::Ipv6Extension) } else { Ok(shape.packet()) };
            assert_eq!(read_ethernet(&shape.frame()), expected, "{count} from {first} on");
            assert_eq!(read_plain(shape.frame().as_slice(), Framing::Ethernet), None, "{count} from {first} on");
        }
    }
}

#[test]
fn what_follows_the_last_extension_header_is_read_or_not_as_without_any() {
    let chain = [Extension::new(protocol::HOP_BY_HOP, 0), Extension::new(protocol::DESTINATION, 0)];
    for (protocol, payload, expected) in [
        (protocol::TCP, tcp(PORTS, 0x02, 4, &[]), Ok((Some(Transport::Tcp), 94))),
        (protocol::UDP, udp(PORTS, &[]), Ok((Some(Transport::Udp), 78))),
        (protocol::SCTP, sctp(PORTS, &[]), Ok((Some(Transport::Sctp), 82))),
        (protocol::ICMPV6, vec![128, 0, 0, 0], Ok((None, 70))),
        // Both end the chain: the one hides what comes, after the other comes nothing.
        (ESP, vec![0; 30], Ok((None, 70))),
        (NO_NEXT_HEADER, vec![], Ok((None, 70))),
        (protocol::TCP, vec![0; 19], Err(Reason::TcpTruncated)),
        (protocol::TCP, tcp(PORTS, 0, 0, &[])[..12].repeat(2), Err(Reason::TcpMalformed)),
        (protocol::UDP, vec![0; 7], Err(Reason::UdpTruncated)),
        (protocol::SCTP, vec![0; 11], Err(Reason::SctpTruncated)),
    ] {
        let read = read_ethernet(&ethernet(&[], IPV6, &ipv6(&chain, protocol, &payload)));
        let read = read.map(|packet| {
            assert_eq!(packet.protocol, protocol);
            (packet.transport, packet.headers)
        });
        assert_eq!(read, expected, "{protocol} with {} bytes", payload.len());
    }
}

#[test]
fn an_extension_header_that_runs_out_of_the_packet_is_told() {
    let chain = [
        Extension::new(protocol::HOP_BY_HOP, 1),
        Extension::authentication(3),
        Extension::fragment(0, true),
        Extension::new(protocol::ROUTING, 0),
    ];
    let (frame, end) = (udp6(&chain), 54 + 16 + 20 + 8 + 8);
    for cut in 54..end {
        assert_eq!(read_ethernet(&frame[..cut]), Err(Reason::Ipv6Truncated), "{cut} bytes");
        // Padding after the packet is not part of it.
        let length = u16::try_from(cut - 54).expect("fits").to_be_bytes();
        let padded = with(frame.clone(), 18, &length);
        // (None at all is what a jumbogram states.)
        let expected = if cut == 54 { Ok(end + 8) } else { Err(Reason::Ipv6Truncated) };
        assert_eq!(read_ethernet(&padded).map(|packet| packet.headers), expected, "{cut} bytes, then padding");
    }
    assert_eq!(read_ethernet(&frame[..end]), Err(Reason::UdpTruncated));
    // Lengths of 2 KiB and of 1 KiB.
    for (kind, offset) in [(protocol::HOP_BY_HOP, 55), (protocol::AUTHENTICATION, 71)] {
        assert_eq!(read_ethernet(&with(frame.clone(), offset, &[255])), Err(Reason::Ipv6Truncated), "{kind}");
    }
}

#[test]
fn fragments_after_the_first_carry_no_ports() {
    let routing = Extension::new(protocol::ROUTING, 0);
    for (offset, more, expected) in [
        (0, true, Ok(Some(Transport::Udp))),
        // An atomic fragment (RFC 6946).
        (0, false, Ok(Some(Transport::Udp))),
        (1, true, Err(Reason::Fragment)),
        (1, false, Err(Reason::Fragment)),
        (0x1fff, false, Err(Reason::Fragment)),
    ] {
        let fragment = Extension::fragment(offset, more);
        for chain in [vec![fragment.clone()], vec![routing.clone(), fragment.clone()], vec![fragment, routing.clone()]]
        {
            let read = read_ethernet(&udp6(&chain)).map(|packet| packet.transport);
            assert_eq!(read, expected, "{offset} {more} {chain:?}");
        }
    }
    for (field, expected) in [
        ([0x20, 0x00], Ok(Some(Transport::Tcp))),
        ([0x40, 0x00], Ok(Some(Transport::Tcp))),
        // The reserved bit says nothing.
        ([0x80, 0x00], Ok(Some(Transport::Tcp))),
        ([0x20, 0x01], Err(Reason::Fragment)),
        ([0x1f, 0xff], Err(Reason::Fragment)),
    ] {
        let read = read_ethernet(&with(tcp4(), 20, &field)).map(|packet| packet.transport);
        assert_eq!(read, expected, "{field:x?}");
    }
}

#[test]
fn fragments_say_which_part_of_a_datagram_they_are() {
    let part = |frame: &[u8]| {
        let mut packet = Packet::UNREAD;
        let read = packet.read(frame, Framing::Ethernet);
        let mut plain = Packet::UNREAD;
        assert!(!plain.read_plain(frame, Framing::Ethernet), "{packet:?}");
        (read.err(), packet.fragment, packet.protocol)
    };
    // 10 bytes of payload behind 20 of TCP.
    for (field, error, offset, more) in [
        ([0x20, 0x00], None, 0, true),
        ([0x20, 0x01], Some(Reason::Fragment), 8, true),
        ([0x1f, 0xff], Some(Reason::Fragment), 0xfff8, false),
    ] {
        let frame = with(with(tcp4(), 18, &[0xab, 0xcd]), 20, &field);
        let expected = Fragment { offset, more, identification: 0xabcd, length: 30 };
        assert_eq!(part(&frame), (error, expected, protocol::TCP));
    }
    for (offset, more, error) in
        [(0, true, None), (1, true, Some(Reason::Fragment)), (0x1fff, false, Some(Reason::Fragment))]
    {
        let chain = [Extension::new(protocol::ROUTING, 0), Extension::fragment(offset, more)];
        let expected = Fragment { offset: offset << 3, more, identification: 0x0102_0304, length: 48 };
        assert_eq!(part(&udp6(&chain)), (error, expected, protocol::UDP));
    }
    // A header that goes on in the next fragment is cut off; that of a whole packet contradicts itself.
    let options = with(tcp4(), 46, &[0xf0]);
    assert_eq!(part(&with(options.clone(), 20, &[0x20, 0])).0, Some(Reason::TcpTruncated));
    assert_eq!(part(&options), (Some(Reason::TcpMalformed), Fragment::WHOLE, protocol::TCP));
}

#[test]
fn what_has_no_ports_is_read_all_the_same() {
    for network in [Network::Ipv4, Network::Ipv6] {
        // 253 is nobody's. Extension headers of IPv6 are nothing that IPv4 has, those for security excepted.
        let others = [protocol::ICMP, protocol::ICMPV6, protocol::GRE, ESP, 253, protocol::IPV4, protocol::IPV6];
        let of_ipv4 = [protocol::AUTHENTICATION, protocol::HOP_BY_HOP, protocol::FRAGMENT];
        let protocols = if network == Network::Ipv4 { [&others[..], &of_ipv4[..]].concat() } else { others.to_vec() };
        for protocol in protocols {
            for payload in [0, 3, 30] {
                let shape = Shape { network, protocol, payload, ..Shape::PLAIN };
                let frame = shape.frame();
                assert_eq!(read_ethernet(&frame), Ok(shape.packet()), "{network:?} {protocol}");
                assert_eq!(read_plain(frame.as_slice(), Framing::Ethernet), Some(shape.packet()), "{protocol}");
            }
        }
    }
}

#[test]
fn tcp_flags_are_those_of_the_segment_and_no_other_packet_has_any() {
    for tcp_flags in 0..=u8::MAX {
        for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::ICMP] {
            let shape = Shape { tcp_flags, protocol, payload: 20, ..Shape::PLAIN };
            let expected = if protocol == protocol::TCP { tcp_flags } else { 0 };
            assert_eq!(read_ethernet(&shape.frame()).map(|packet| packet.tcp_flags), Ok(expected));
        }
    }
}

#[test]
fn without_a_link_layer_the_version_says_what_the_packet_is() {
    let [v4, v6] =
        [Network::Ipv4, Network::Ipv6].map(|network| Shape { network, framing: Framing::Ip, ..Shape::PLAIN });
    assert_eq!(read(v4.frame().as_slice(), Framing::Ip), Ok(v4.packet()));
    assert_eq!(read(v6.frame().as_slice(), Framing::Ip), Ok(v6.packet()));
    for (what, frame, reason) in [
        ("nothing at all", vec![], Reason::NotIp),
        ("a single byte", vec![0x45], Reason::NotIp),
        ("version 5", with(v4.frame(), 0, &[0x55]), Reason::NotIp),
        ("an Ethernet frame", tcp4(), Reason::NotIp),
        ("two bytes of IPv4", v4.frame()[..2].to_vec(), Reason::Ipv4Truncated),
        ("an IPv4 header of 16 bytes", with(v4.frame(), 0, &[0x44]), Reason::Ipv4Malformed),
        ("39 bytes of IPv6", v6.frame()[..39].to_vec(), Reason::Ipv6Truncated),
        ("a later fragment", with(v4.frame(), 6, &[0x00, 0x01]), Reason::Fragment),
    ] {
        assert_eq!(read(frame.as_slice(), Framing::Ip), Err(reason), "{what}");
        assert_eq!(read_plain(frame.as_slice(), Framing::Ip), None, "{what}");
    }
}

#[test]
fn unstated_and_overstated_lengths_end_with_the_frame() {
    let v6 = Shape { network: Network::Ipv6, ..Shape::PLAIN };
    for (what, frame, expected) in [
        ("a total length of 0, as BIG TCP has", with(tcp4(), 16, &[0, 0]), Shape::PLAIN.packet()),
        ("a total length beyond the frame", with(tcp4(), 16, &[0xff, 0xff]), Shape::PLAIN.packet()),
        ("a payload length of 0, as BIG TCP has", with(v6.frame(), 18, &[0, 0]), v6.packet()),
        ("a payload length beyond the frame", with(v6.frame(), 18, &[0xff, 0xff]), v6.packet()),
    ] {
        assert_eq!(read_ethernet(&frame), Ok(expected), "{what}");
    }
}

#[test]
fn addresses_are_where_they_belong() {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address").into();
    for (tags, framing) in
        [(vec![], Framing::Ethernet), (vec![DOT1AD, DOT1Q], Framing::Ethernet), (vec![], Framing::Ip)]
    {
        let shape = |network| Shape { network, tags: tags.clone(), framing, ..Shape::PLAIN };
        for (network, source, destination, cut) in [
            (Network::Ipv4, "10.0.0.1", "10.0.0.2", 19),
            (Network::Ipv6, "101:101:101:101:101:101:101:101", "202:202:202:202:202:202:202:202", 39),
        ] {
            let (frame, packet) = (shape(network).frame(), shape(network).packet());
            assert_eq!(packet.source_address(frame.as_slice()), Some(address(source)));
            assert_eq!(packet.destination_address(frame.as_slice()), Some(address(destination)));
            let cut = &frame[..packet.network_offset + cut];
            assert_eq!(packet.source_address(cut), Some(address(source)));
            assert_eq!(packet.destination_address(cut), None);
        }
    }
}
