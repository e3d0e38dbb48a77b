//! The parser against frames of all shapes, and against etherparse, which was written by others.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]

use etherparse::{
    EtherType, Ipv4Options, LaxNetSlice, LaxSlicedPacket, PacketBuilder, TcpOptionElement, TransportSlice,
};
use proptest::prelude::*;
use tidewaiter_common::{
    frame::Frame,
    packet::{Network, Packet},
    reason::Reason,
    transport::Transport,
};

/// What a test is about: everything else in a frame is the same each time.
#[derive(Clone, Debug)]
struct Shape {
    network: Network,
    transport: Transport,
    ports: (u16, u16),
    ip_options: Vec<u8>,
    tcp_options: u16,
    payload: usize,
}

impl Shape {
    fn frame(&self) -> Vec<u8> {
        let Self { network, transport, ports: (source, destination), ip_options, tcp_options, payload } = self;
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = match network {
            Network::Ipv4 => {
                let mut header =
                    etherparse::Ipv4Header::new(0, 64, etherparse::ip_number::TCP, [10, 0, 0, 1], [10, 0, 0, 2])
                        .expect("fits");
                header.options = Ipv4Options::try_from(ip_options.as_slice()).expect("a multiple of 4, at most 40");
                ethernet.ip(etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
            }
            Network::Ipv6 => ethernet.ipv6([1; 16], [2; 16], 64),
        };
        let payload = vec![0xa5; *payload];
        let mut frame = Vec::new();
        match transport {
            Transport::Tcp => {
                let options: Vec<_> = (0..*tcp_options).map(TcpOptionElement::MaximumSegmentSize).collect();
                let tcp = ip.tcp(*source, *destination, 1, 1000).options(&options).expect("fits");
                tcp.write(&mut frame, &payload).expect("a Vec takes all");
            }
            Transport::Udp => ip.udp(*source, *destination).write(&mut frame, &payload).expect("a Vec takes all"),
        }
        frame
    }

    fn headers(&self) -> usize {
        let ip = match self.network {
            Network::Ipv4 => 20 + self.ip_options.len(),
            Network::Ipv6 => 40,
        };
        let transport = match self.transport {
            Transport::Tcp => 20 + 4 * usize::from(self.tcp_options),
            Transport::Udp => 8,
        };
        14 + ip + transport
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let network = prop_oneof![Just(Network::Ipv4), Just(Network::Ipv6)];
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
    let ip_options = (0..=10_usize).prop_flat_map(|words| proptest::collection::vec(any::<u8>(), words * 4));
    (network, transport, any::<(u16, u16)>(), ip_options, 0..=10_u16, 0..200_usize).prop_map(
        |(network, transport, ports, ip_options, tcp_options, payload)| {
            let ip_options = if network == Network::Ipv4 { ip_options } else { Vec::new() };
            let tcp_options = if transport == Transport::Tcp { tcp_options } else { 0 };
            Shape { network, transport, ports, ip_options, tcp_options, payload }
        },
    )
}

/// Frames that are nearly right: a few bytes changed, mostly in the headers, and perhaps the end cut off.
fn mutated_frames() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((0..80_usize, any::<u8>()), 0..4);
    (shapes(), changes, prop_oneof![3 => Just(usize::MAX), 1 => 0..120_usize]).prop_map(|(shape, changes, cut)| {
        let mut frame = shape.frame();
        frame.truncate(cut);
        for (offset, value) in changes {
            if let Some(byte) = frame.get_mut(offset) {
                *byte = value;
            }
        }
        frame
    })
}

fn parse(frame: &[u8]) -> Result<Packet, Reason> {
    let mut packet = Packet::UNREAD;
    packet.read(frame).map(|()| packet)
}

/// What a parser says of a frame: the protocol, the ports, and the length of all headers.
type Verdict = (Transport, u16, u16, usize);

fn ours(frame: &[u8]) -> Option<Verdict> {
    let packet = parse(frame).ok()?;
    packet.transport.map(|transport| (transport, packet.source_port, packet.destination_port, packet.headers))
}

/// Etherparse's opinion, if it is about something that both parsers open: no tags, extension headers or fragments.
#[expect(clippy::option_option, reason = "no opinion is something else than the opinion that there is nothing")]
fn theirs(frame: &[u8]) -> Option<Option<Verdict>> {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else { return Some(None) };
    if !packet.link_exts.is_empty() {
        return None;
    }
    let network = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) if !ip.extensions().is_empty() || ip.payload().fragmented => return None,
        Some(LaxNetSlice::Ipv6(ip)) if !ip.extensions().is_empty() || ip.payload().fragmented => return None,
        // Etherparse then guesses; the kernel drops the packet (`ip_rcv_core`), and so we call it malformed.
        Some(LaxNetSlice::Ipv4(ip)) if (1..ip.header().slice().len()).contains(&ip.header().total_len().into()) => {
            return None;
        }
        Some(LaxNetSlice::Ipv4(ip)) => ip.header().slice().len(),
        Some(LaxNetSlice::Ipv6(_)) => 40,
        _ => return Some(None),
    };
    Some(match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            Some((Transport::Tcp, tcp.source_port(), tcp.destination_port(), 14 + network + tcp.header_len()))
        }
        Some(TransportSlice::Udp(udp)) => {
            Some((Transport::Udp, udp.source_port(), udp.destination_port(), 14 + network + 8))
        }
        _ => None,
    })
}

/// A frame that notes how far it was asked to read.
struct Watched<'a> {
    bytes: &'a [u8],
    farthest: std::cell::Cell<usize>,
}

impl Frame for Watched<'_> {
    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let read = self.bytes.read(offset);
        if read.is_some() {
            self.farthest.set(self.farthest.get().max(offset + N));
        }
        read
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_well_formed_packet_is_read(shape in shapes()) {
        let expected = Packet {
            network: shape.network,
            network_offset: 14,
            transport: Some(shape.transport),
            source_port: shape.ports.0,
            destination_port: shape.ports.1,
            headers: shape.headers(),
        };
        prop_assert_eq!(parse(&shape.frame()), Ok(expected));
    }

    #[test]
    fn both_parsers_agree_on_nearly_right_frames(frame in mutated_frames()) {
        if let Some(theirs) = theirs(&frame) {
            prop_assert_eq!(ours(&frame), theirs, "{:02x?}", frame);
        }
    }

    #[test]
    fn random_bytes_are_never_read_beyond_their_end(
        frame in proptest::collection::vec(any::<u8>(), 0..200),
        is_ip in any::<bool>(),
    ) {
        let mut frame = frame;
        if is_ip && frame.len() > 14 {
            let ethertype = if frame[14] & 1 == 0 { [0x08, 0x00] } else { [0x86, 0xdd] };
            frame[12..14].copy_from_slice(&ethertype);
            frame[14] = if frame[14] & 1 == 0 { 0x40 } else { 0x60 } | (frame[14] >> 4);
        }
        let watched = Watched { bytes: &frame, farthest: 0.into() };
        let mut packet = Packet::UNREAD;
        let read = packet.read(&watched);
        prop_assert!(watched.farthest.get() <= frame.len());
        prop_assert!(packet.headers <= frame.len(), "{:?}: {} of {} bytes", read, packet.headers, frame.len());
    }
}

fn tcp4() -> Vec<u8> {
    let (network, transport) = (Network::Ipv4, Transport::Tcp);
    Shape { network, transport, ports: (40_000, 80), ip_options: Vec::new(), tcp_options: 0, payload: 10 }.frame()
}

/// `frame` with `bytes` written at `offset`.
fn with(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

fn ipv6(next_header: u8) -> Vec<u8> {
    let (network, transport) = (Network::Ipv6, Transport::Udp);
    let shape = Shape { network, transport, ports: (1, 2), ip_options: Vec::new(), tcp_options: 0, payload: 40 };
    with(shape.frame(), 14 + 6, &[next_header])
}

#[test]
fn every_reason_has_a_frame_of_its_own() {
    let cases: [(&str, Vec<u8>, Reason); 21] = [
        ("nothing at all", vec![], Reason::EthernetTruncated),
        ("half an Ethernet header", tcp4()[..13].to_vec(), Reason::EthernetTruncated),
        ("ARP", with(tcp4(), 12, &EtherType::ARP.0.to_be_bytes()), Reason::NotIp),
        ("an IEEE 802.3 length", with(tcp4(), 12, &[0x00, 0x26]), Reason::NotIp),
        ("an 802.1Q tag", with(tcp4(), 12, &[0x81, 0x00]), Reason::Vlan),
        ("an 802.1ad tag", with(tcp4(), 12, &[0x88, 0xa8]), Reason::Vlan),
        ("nothing after Ethernet", tcp4()[..14].to_vec(), Reason::Ipv4Truncated),
        ("19 bytes of IPv4", tcp4()[..33].to_vec(), Reason::Ipv4Truncated),
        ("options that the frame ends before", with(tcp4(), 14, &[0x4f])[..50].to_vec(), Reason::Ipv4Truncated),
        ("version 5 in IPv4", with(tcp4(), 14, &[0x55]), Reason::Ipv4Malformed),
        ("an IPv4 header of 16 bytes", with(tcp4(), 14, &[0x44]), Reason::Ipv4Malformed),
        ("a total length of 19", with(tcp4(), 16, &[0, 19]), Reason::Ipv4Malformed),
        ("a later fragment", with(tcp4(), 20, &[0x00, 0x01]), Reason::Fragment),
        ("39 bytes of IPv6", ipv6(17)[..53].to_vec(), Reason::Ipv6Truncated),
        ("version 4 in IPv6", with(ipv6(17), 14, &[0x40]), Reason::Ipv6Malformed),
        ("a hop-by-hop header", ipv6(0), Reason::Ipv6Extension),
        ("19 bytes of TCP", tcp4()[..53].to_vec(), Reason::TcpTruncated),
        ("a total length that ends in TCP, then padding", with(tcp4(), 16, &[0, 39]), Reason::TcpTruncated),
        ("a TCP header of 16 bytes", with(tcp4(), 46, &[0x40]), Reason::TcpMalformed),
        ("TCP options beyond the end", with(tcp4(), 46, &[0xf0]), Reason::TcpMalformed),
        ("7 bytes of UDP", ipv6(17)[..61].to_vec(), Reason::UdpTruncated),
    ];
    for (what, frame, reason) in &cases {
        assert_eq!(parse(frame), Err(*reason), "{what}");
    }
    // The others are not the parser's to find.
    let found_elsewhere = [Reason::Mirror, Reason::Internal];
    for reason in Reason::ALL {
        let has_case = cases.iter().any(|(_, _, of_case)| of_case == reason);
        assert_ne!(has_case, found_elsewhere.contains(reason), "{reason:?}");
    }
}

#[test]
fn what_has_no_ports_is_read_all_the_same() {
    for (what, frame, headers) in [
        ("ICMP", with(tcp4(), 23, &[1]), 34),
        ("a protocol that nobody knows", with(tcp4(), 23, &[253]), 34),
        ("ICMPv6", ipv6(58), 54),
        ("ESP", ipv6(50), 54),
    ] {
        let packet = parse(&frame).unwrap_or_else(|reason| panic!("{what}: {reason:?}"));
        assert_eq!((packet.transport, packet.headers), (None, headers), "{what}");
    }
}

#[test]
fn first_fragments_and_unstated_lengths_are_read() {
    for (what, frame) in [
        ("a first fragment", with(tcp4(), 20, &[0x20, 0x00])),
        ("don't fragment", with(tcp4(), 20, &[0x40, 0x00])),
        ("a total length of 0, as BIG TCP has", with(tcp4(), 16, &[0, 0])),
        ("a total length beyond the frame", with(tcp4(), 16, &[0xff, 0xff])),
    ] {
        assert_eq!(ours(&frame), Some((Transport::Tcp, 40_000, 80, 54)), "{what}");
    }
}

#[test]
fn addresses_are_where_they_belong() {
    let frame = tcp4();
    let packet = parse(&frame).expect("reads");
    let mapped = |last| Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]);
    assert_eq!(packet.source_address(frame.as_slice()), mapped(1));
    assert_eq!(packet.destination_address(frame.as_slice()), mapped(2));
    assert_eq!(packet.destination_address(&frame[..20]), None);

    let frame = ipv6(17);
    let packet = parse(&frame).expect("reads");
    assert_eq!(packet.source_address(frame.as_slice()), Some([1; 16]));
    assert_eq!(packet.destination_address(frame.as_slice()), Some([2; 16]));
}
