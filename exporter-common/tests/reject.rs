//! Answers that refuse a packet, read and checked by etherparse, which was written by others.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

mod frames;

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, TcpSlice, checksum::Sum16BitWords};
use frames::{Extension, Shape, ethernet, extensions_length, ipv4, ipv6, mutated_frames, read, shapes, tcp, udp};
use proptest::prelude::*;
use tidewaiter_common::{
    frame::Framing,
    packet::{Network, protocol, tcp_flag},
    reject::{Answer, MAX_QUOTE, Question, Refusal},
};

/// The answer to `frame`, from its IP header on, put together as the kernel side does it.
fn refuse(frame: &[u8], framing: Framing, is_loopback: bool, is_partial: bool) -> Option<(Refusal, Vec<u8>)> {
    let packet = read(frame, framing).ok()?;
    let mut question = Question::UNREAD;
    let refusal = question.read(frame, &packet, is_loopback)?;
    let mut answer = Answer::NONE;
    let mut bytes = Vec::new();
    match refusal {
        Refusal::Reset => {
            answer.reset(&question, is_partial);
            bytes.extend(&answer.bytes()[..answer.length as usize]);
        }
        Refusal::Unreachable => {
            let quote = question.quote(frame, is_partial)?;
            answer.unreachable(&question, quote);
            bytes.extend(&answer.bytes()[..answer.length as usize]);
            bytes.extend(&frame[question.network_offset as usize..][..quote.length as usize]);
        }
    }
    Some((refusal, bytes))
}

/// The sender and the receiver of a packet.
fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    match packet[0] >> 4 {
        4 => {
            let header = Ipv4HeaderSlice::from_slice(packet).expect("is IPv4");
            (header.source_addr().into(), header.destination_addr().into())
        }
        6 => {
            let header = Ipv6HeaderSlice::from_slice(packet).expect("is IPv6");
            (header.source_addr().into(), header.destination_addr().into())
        }
        version => panic!("version {version}"),
    }
}

/// The inverse of the sum of the pseudo-header and all that follows the IP header: 0 if the checksum is right.
fn check(packet: &[u8], message: &[u8], protocol: u8) -> u16 {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let sum = match addresses(packet) {
        // ICMP has no pseudo-header.
        (IpAddr::V4(_), _) if protocol == protocol::ICMP => Sum16BitWords::new(),
        (IpAddr::V4(source), IpAddr::V4(destination)) => Sum16BitWords::new()
            .add_4bytes(source.octets())
            .add_4bytes(destination.octets())
            .add_4bytes(length)
            .add_2bytes([0, protocol]),
        (IpAddr::V6(source), IpAddr::V6(destination)) => Sum16BitWords::new()
            .add_16bytes(source.octets())
            .add_16bytes(destination.octets())
            .add_4bytes(length)
            .add_2bytes([0, protocol]),
        _ => unreachable!("both are of one family"),
    };
    sum.add_slice(message).ones_complement()
}

/// What every answer is: as long as it says, from whom the question was for, without options, with a right header.
fn check_ip(question: &Shape, answer: &[u8]) -> u8 {
    let (client, server) = addresses(&question.frame()[question.packet().network_offset..]);
    assert_eq!(addresses(answer), (server, client));
    match question.network {
        Network::Ipv4 => {
            let header = Ipv4HeaderSlice::from_slice(answer).expect("is IPv4").to_header();
            assert_eq!(usize::from(header.total_len), answer.len());
            assert_eq!((header.time_to_live, header.dont_fragment, header.more_fragments), (64, true, false));
            assert_eq!(header.header_len(), 20);
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            header.protocol.0
        }
        Network::Ipv6 => {
            let header = Ipv6HeaderSlice::from_slice(answer).expect("is IPv6").to_header();
            assert_eq!(usize::from(header.payload_length) + 40, answer.len());
            assert_eq!(header.hop_limit, 64);
            header.next_header.0
        }
    }
}

fn header_length(network: Network) -> usize {
    match network {
        Network::Ipv4 => 20,
        Network::Ipv6 => 40,
    }
}

fn check_reset(shape: &Shape, answer: &[u8]) {
    let packet = shape.packet();
    assert_eq!(check_ip(shape, answer), protocol::TCP);
    let segment = &answer[header_length(shape.network)..];
    assert_eq!(check(answer, segment, protocol::TCP), 0, "the checksum is right");
    let tcp = TcpSlice::from_slice(segment).expect("is TCP").to_header();
    assert_eq!(segment.len(), 20);
    assert_eq!((tcp.source_port, tcp.destination_port), (shape.ports.1, shape.ports.0));
    assert!(tcp.rst && !tcp.syn && !tcp.fin && !tcp.psh && !tcp.urg);
    if shape.tcp_flags & tcp_flag::ACK != 0 {
        assert_eq!((tcp.sequence_number, tcp.ack), (packet.acknowledgement, false));
    } else {
        let opens = u32::from(shape.tcp_flags & tcp_flag::SYN > 0) + u32::from(shape.tcp_flags & tcp_flag::FIN > 0);
        let next = packet.sequence + u32::try_from(shape.payload).unwrap() + opens;
        assert_eq!((tcp.sequence_number, tcp.ack, tcp.acknowledgment_number), (0, true, next));
    }
}

fn check_unreachable(shape: &Shape, answer: &[u8]) {
    let (code, icmp) = match shape.network {
        Network::Ipv4 => ([3, 3], protocol::ICMP),
        Network::Ipv6 => ([1, 4], protocol::ICMPV6),
    };
    assert_eq!(check_ip(shape, answer), icmp);
    let message = &answer[header_length(shape.network)..];
    assert_eq!(message[..2], code);
    assert_eq!(message[4..8], [0; 4]);
    assert_eq!(check(answer, message, icmp), 0, "the checksum is right");
    // The headers of IP, and eight bytes of what is above, as far as there are so many.
    let packet = shape.packet();
    let ip = match shape.network {
        Network::Ipv4 => 20 + shape.options,
        Network::Ipv6 => 40 + extensions_length(&shape.extensions),
    };
    let frame = shape.frame();
    let quoted = (ip + 8).min(frame.len() - packet.network_offset) / 4 * 4;
    assert_eq!(message[8..], frame[packet.network_offset..][..quoted]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_shape_is_answered_rightly(shape in shapes()) {
        let answer = refuse(&shape.frame(), shape.framing, false, false);
        let ip = 40 + extensions_length(&shape.extensions);
        match (shape.protocol, answer) {
            (protocol::TCP, Some((Refusal::Reset, answer))) => {
                prop_assert_eq!(shape.tcp_flags & tcp_flag::RST, 0);
                check_reset(&shape, &answer);
            }
            (protocol::TCP, answer) => prop_assert!(answer.is_none() && shape.tcp_flags & tcp_flag::RST != 0),
            // Their first byte is no question's.
            (protocol::ICMP | protocol::ICMPV6, answer) => prop_assert!(answer.is_none()),
            (_, Some((Refusal::Unreachable, answer))) => check_unreachable(&shape, &answer),
            (_, answer) => prop_assert!(answer.is_none() && ip + 8 > MAX_QUOTE as usize, "{answer:?}"),
        }
    }

    #[test]
    fn nothing_is_read_elsewhere_whatever_the_frame((framing, frame) in mutated_frames()) {
        if let Some((_, answer)) = refuse(&frame, framing, false, false) {
            // What can be answered has a whole header of IP, and the answer to it is one.
            addresses(&answer);
        }
    }

    /// A question whose checksum is left to the device, which completes that of the answer.
    #[test]
    fn what_the_device_completes_is_right(mut shape in shapes(), loopback in any::<bool>()) {
        shape.tcp_flags &= !tcp_flag::RST;
        let mut frame = shape.frame();
        let field = match shape.protocol {
            protocol::TCP => 16,
            protocol::UDP => 6,
            _ => return Ok(()),
        };
        let packet = shape.packet();
        let start = match shape.network {
            Network::Ipv4 => packet.network_offset + 20 + shape.options,
            Network::Ipv6 => packet.network_offset + 40 + extensions_length(&shape.extensions),
        };
        // The sum of the pseudo-header alone: of what follows it, nothing but the length counts.
        let length = frame.len() - start;
        let pseudo = !check(&frame[packet.network_offset..], &vec![0; length], shape.protocol);
        frame[start + field..][..2].copy_from_slice(&pseudo.to_ne_bytes());
        let mut question = Question::UNREAD;
        prop_assume!(question.read(&frame[..], &packet, loopback).is_some());
        prop_assert!(question.is_partial());

        let Some((refusal, mut answer)) = refuse(&frame, shape.framing, loopback, true) else { return Ok(()) };
        // What the device completes stands in the segment itself, or in what is quoted.
        let header = header_length(shape.network);
        let from = match refusal {
            Refusal::Reset => header,
            Refusal::Unreachable => header + 8 + (start - packet.network_offset),
        };
        let completed = Sum16BitWords::new().add_slice(&answer[from..]).ones_complement();
        answer[from + field..][..2].copy_from_slice(&completed.to_ne_bytes());
        match refusal {
            Refusal::Reset => check_reset(&shape, &answer),
            Refusal::Unreachable => {
                let icmp = if shape.network == Network::Ipv4 { protocol::ICMP } else { protocol::ICMPV6 };
                prop_assert_eq!(check(&answer, &answer[header..], icmp), 0);
            }
        }
    }
}

#[test]
fn a_whole_checksum_is_not_taken_for_a_partial_one() {
    let builder = etherparse::PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64);
    let mut frame = Vec::new();
    builder.tcp(40_000, 80, 1, 1024).syn().write(&mut frame, &[]).unwrap();
    let mut question = Question::UNREAD;
    let packet = read(&frame[..], Framing::Ip).unwrap();
    assert_eq!(question.read(&frame[..], &packet, false), Some(Refusal::Reset));
    assert!(!question.is_partial());
}

#[test]
fn a_reset_to_the_receiver_is_where_he_expects_it() {
    for network in [Network::Ipv4, Network::Ipv6] {
        let shape = Shape { network, ..Shape::PLAIN };
        let (frame, packet) = (shape.frame(), shape.packet());
        let mut question = Question::UNREAD;
        assert_eq!(question.read(&frame[..], &packet, false), Some(Refusal::Reset));
        let mut answer = Answer::NONE;
        answer.reset_instead(&question, false);
        let bytes = &answer.bytes()[..answer.length as usize];
        let asked = &frame[packet.network_offset..];
        let segment = &bytes[header_length(network)..];
        assert_eq!(addresses(bytes), addresses(asked));
        assert_eq!(check(bytes, segment, protocol::TCP), 0);
        let tcp = TcpSlice::from_slice(segment).unwrap().to_header();
        assert_eq!((tcp.source_port, tcp.destination_port), shape.ports);
        assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (packet.sequence, packet.acknowledgement));
        assert!(tcp.rst && tcp.ack && !tcp.psh);
    }
}

/// Whether UDP between these is answered.
fn between4(source: [u8; 4], destination: [u8; 4], is_loopback: bool) -> bool {
    let mut packet = ipv4(&[], protocol::UDP, &udp((40_000, 53), b"?"));
    packet[12..16].copy_from_slice(&source);
    packet[16..20].copy_from_slice(&destination);
    refuse(&packet, Framing::Ip, is_loopback, false).is_some()
}

#[test]
fn nobody_is_answered_who_is_no_single_host() {
    const HOST: [u8; 4] = [192, 0, 2, 7];
    assert!(between4([192, 0, 2, 1], HOST, false));
    assert!(between4([240, 0, 0, 1], HOST, false), "some use these");
    for nobody in [[0, 0, 0, 0], [0, 1, 2, 3], [224, 0, 0, 251], [239, 255, 255, 255], [255; 4]] {
        for is_loopback in [false, true] {
            assert!(!between4(nobody, HOST, is_loopback), "from {nobody:?}");
            assert!(!between4(HOST, nobody, is_loopback), "to {nobody:?}");
        }
    }
    for (source, destination) in [([127, 0, 0, 1], HOST), (HOST, [127, 8, 9, 1]), (HOST, HOST)] {
        assert!(!between4(source, destination, false));
        assert!(between4(source, destination, true));
    }
}

#[test]
fn nobody_is_answered_who_is_no_single_host_of_ipv6() {
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let between = |source: &str, destination: &str, is_loopback: bool| {
        let mut packet = ipv6(&[], protocol::UDP, &udp((40_000, 53), b"?"));
        packet[8..24].copy_from_slice(&address(source));
        packet[24..40].copy_from_slice(&address(destination));
        refuse(&packet, Framing::Ip, is_loopback, false).is_some()
    };
    assert!(between("2001:db8::1", "2001:db8::2", false));
    assert!(between("fe80::1", "2001:db8::2", false));
    for nobody in ["::", "ff02::1", "ff0e::1:2"] {
        for is_loopback in [false, true] {
            assert!(!between(nobody, "2001:db8::2", is_loopback), "from {nobody}");
            assert!(!between("2001:db8::2", nobody, is_loopback), "to {nobody}");
        }
    }
    for (source, destination) in [("::1", "2001:db8::2"), ("2001:db8::2", "::1"), ("2001:db8::2", "2001:db8::2")] {
        assert!(!between(source, destination, false));
        assert!(between(source, destination, true));
    }
}

#[test]
fn of_icmp_echo_requests_alone_are_answered() {
    for kind in 0..=255 {
        let message = [kind, 0, 0, 0, 0, 1, 0, 1];
        let answered = |packet: &[u8]| refuse(packet, Framing::Ip, false, false).is_some();
        assert_eq!(answered(&ipv4(&[], protocol::ICMP, &message)), kind == 8, "{kind}");
        assert_eq!(answered(&ipv6(&[], protocol::ICMPV6, &message)), kind == 128, "{kind}");
        // In the other version of IP neither means anything.
        assert!(!answered(&ipv4(&[], protocol::ICMPV6, &message)));
        assert!(!answered(&ipv6(&[], protocol::ICMP, &message)));
    }
}

#[test]
fn of_fragments_the_first_alone_is_answered() {
    let segment = tcp((40_000, 80), tcp_flag::SYN, 0, &[]);
    for (offset, is_answered) in [(0, true), (2, false)] {
        let mut packet = ipv4(&[], protocol::TCP, &segment);
        packet[6..8].copy_from_slice(&(0x2000_u16 | offset).to_be_bytes());
        assert_eq!(refuse(&packet, Framing::Ip, false, false).is_some(), is_answered);
        let packet = ipv6(&[Extension::fragment(offset, true)], protocol::TCP, &segment);
        assert_eq!(
            refuse(&ethernet(&[], frames::IPV6, &packet), Framing::Ethernet, false, false).is_some(),
            is_answered
        );
    }
}
