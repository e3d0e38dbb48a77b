//! The parser against etherparse, which was written by others.

mod frames;

use etherparse::{IpNumber, LaxIpv4Slice, LaxIpv6Slice, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use frames::{IPV4, IPV6, mutated_frames, read, shapes};
use proptest::prelude::*;
use tidewaiter_common::{
    frame::{Frame, Framing},
    packet::{MAX_EXTENSION_HEADERS, Network, Packet, protocol},
    transport::Transport,
};

/// What etherparse says of a frame.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// That there is a packet, which says this.
    Read(Packet),
    /// That there is none, or one with a header that cannot be read, or a fragment without ports.
    Refused,
    /// Something else than this parser, and rightly so.
    Other,
}

fn theirs(frame: &[u8], framing: Framing) -> Verdict {
    let sliced = match framing {
        Framing::Ethernet => LaxSlicedPacket::from_ethernet(frame).ok(),
        Framing::Ip => LaxSlicedPacket::from_ip(frame).ok(),
    };
    let Some(sliced) = sliced else { return Verdict::Refused };
    // Etherparse stops at the fourth tag, and it looks into MACsec, which encrypts nearly always.
    if (sliced.link_exts.is_full() && sliced.net.is_none())
        || sliced.link_exts.iter().any(|link| !matches!(link, LaxLinkExtSlice::Vlan(_)))
    {
        return Verdict::Other;
    }
    let network_offset = match framing {
        Framing::Ethernet => 14 + 4 * sliced.link_exts.len(),
        Framing::Ip => 0,
    };
    // It goes by the version alone, the kernel by the EtherType alone, and this parser wants both to agree.
    let is_called =
        |ethertype: u16| framing == Framing::Ip || frame.read(network_offset - 2) == Some(ethertype.to_be_bytes());
    let (network, header, payload) = match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) if is_called(IPV4) => {
            if let Some(verdict) = of_ipv4(ip) {
                return verdict;
            }
            (Network::Ipv4, ip.header().slice().len(), ip.payload())
        }
        Some(LaxNetSlice::Ipv6(ip)) if is_called(IPV6) => {
            if let Some(verdict) = of_ipv6(ip) {
                return verdict;
            }
            (Network::Ipv6, 40 + ip.extensions().slice().len(), ip.payload())
        }
        _ => return Verdict::Refused,
    };
    let headers = network_offset + header;
    let mut packet = Packet { network, network_offset, protocol: payload.ip_number.0, headers, ..Packet::UNREAD };
    let transport = match (payload.ip_number, &sliced.transport) {
        (IpNumber::TCP, Some(TransportSlice::Tcp(tcp))) => {
            packet.tcp_flags = tcp.slice()[13];
            packet.sequence = tcp.sequence_number();
            packet.acknowledgement = tcp.acknowledgment_number();
            packet.payload = tcp.payload().len() as u32;
            Some((Transport::Tcp, tcp.source_port(), tcp.destination_port(), tcp.header_len()))
        }
        (IpNumber::UDP, Some(TransportSlice::Udp(udp))) => {
            // By what IP says of its length, which is what a receiver has: UDP's own may say less.
            packet.payload = (payload.payload.len() - 8) as u32;
            Some((Transport::Udp, udp.source_port(), udp.destination_port(), 8))
        }
        // It knows nothing of SCTP.
        (IpNumber::SCTP, None) if payload.payload.len() >= 12 => {
            let port = |offset| payload.payload.read(offset).map_or(0, u16::from_be_bytes);
            Some((Transport::Sctp, port(0), port(2), 12))
        }
        (IpNumber::TCP | IpNumber::UDP | IpNumber::SCTP, _) => return Verdict::Refused,
        // What else it opens or finds fault with has no ports.
        _ => None,
    };
    if let Some((transport, source_port, destination_port, length)) = transport {
        packet = Packet { transport: Some(transport), source_port, destination_port, ..packet };
        packet.headers += length;
    }
    Verdict::Read(packet)
}

/// What it says of an IPv4 packet, unless that is all about what it carries.
fn of_ipv4(ip: &LaxIpv4Slice<'_>) -> Option<Verdict> {
    let header = ip.header();
    if (1..header.slice().len()).contains(&header.total_len().into()) {
        // Etherparse then guesses; the kernel drops the packet (`ip_rcv_core`), and so we call it malformed.
        return Some(Verdict::Other);
    }
    if header.fragments_offset().value() > 0 {
        return Some(Verdict::Refused);
    }
    // Ports in a first fragment it does not read. An authentication header it opens here too; IPv4 has no extension headers.
    (header.more_fragments() || header.protocol() == IpNumber::AUTHENTICATION_HEADER).then_some(Verdict::Other)
}

/// As [`of_ipv4`], of an IPv6 packet.
fn of_ipv6(ip: &LaxIpv6Slice<'_>) -> Option<Verdict> {
    let extensions = extensions(ip);
    if extensions.iter().take(MAX_EXTENSION_HEADERS).any(|&is_later| is_later) {
        return Some(Verdict::Refused);
    }
    // It follows a chain however long.
    if extensions.len() > MAX_EXTENSION_HEADERS {
        return Some(Verdict::Other);
    }
    match ip.payload().ip_number.0 {
        // It knows none of these.
        protocol::MOBILITY | protocol::HOST_IDENTITY | protocol::SHIM6 => Some(Verdict::Other),
        // Such options are the first header or an error, which is for the host to say that they are meant for.
        protocol::HOP_BY_HOP if !extensions.is_empty() => Some(Verdict::Other),
        // An authentication header of 8 bytes lacks its sequence number; where it ends is clear all the same.
        protocol::AUTHENTICATION if ip.payload().payload.get(1) == Some(&0) => Some(Verdict::Other),
        // What it stopped at runs out of the packet, or is one more than this parser looks at.
        protocol::HOP_BY_HOP
        | protocol::ROUTING
        | protocol::FRAGMENT
        | protocol::DESTINATION
        | protocol::AUTHENTICATION => Some(Verdict::Refused),
        // Ports in a first fragment it does not read.
        _ => ip.payload().fragmented.then_some(Verdict::Other),
    }
}

/// The extension headers that it has read: of each, whether it is of a later fragment. (Its own iterator reads beyond their
/// end where it has stopped at one that it could not read.)
fn extensions(ip: &LaxIpv6Slice<'_>) -> Vec<bool> {
    let (mut next, mut rest) = (ip.header().next_header().0, ip.extensions().slice());
    let mut extensions = Vec::new();
    while let [following, length, offset_0, offset_1, ..] = *rest {
        let length = match next {
            protocol::FRAGMENT => 8,
            protocol::AUTHENTICATION => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        extensions.push(next == protocol::FRAGMENT && u16::from_be_bytes([offset_0, offset_1]) >> 3 > 0);
        (next, rest) = (following, &rest[length..]);
    }
    extensions
}

fn agree(frame: &[u8], framing: Framing) -> Result<(), TestCaseError> {
    let ours = read(frame, framing).map_or(Verdict::Refused, Verdict::Read);
    let theirs = theirs(frame, framing);
    if theirs != Verdict::Other {
        prop_assert_eq!(ours, theirs, "{:?} {:02x?}", framing, frame);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_parsers_agree_on_right_frames(shape in shapes()) {
        agree(&shape.frame(), shape.framing)?;
    }

    #[test]
    fn both_parsers_agree_on_nearly_right_frames((framing, frame) in mutated_frames()) {
        agree(&frame, framing)?;
    }
}
