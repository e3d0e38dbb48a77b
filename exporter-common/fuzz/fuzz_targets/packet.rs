//! The parser, and what tells protocols apart, against bytes that libFuzzer makes up.

#![no_main]

mod protocol;

use libfuzzer_sys::fuzz_target;
use tidewaiter_common::{
    address::Address,
    direction::Direction,
    flow::FlowKey,
    frame::{Frame, Framing},
    packet::{self, ETHERNET_HEADER, MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS, Network, Packet, VLAN_TAG},
    transport::Transport,
    tunnel::inner_headers,
};

/// A frame that panics where it is asked for what no frame has.
struct Checked<'a>(&'a [u8]);

impl Frame for Checked<'_> {
    fn length(&self) -> usize {
        self.0.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        // A slice answers `None` there too, the kernel need not: no header, and so no sum of headers, is that long, and
        // an offset that has wrapped around is.
        assert!(offset <= self.0.len() + 0xffff, "read at {offset} of {}", self.0.len());
        self.0.read(offset)
    }
}

fuzz_target!(|data: &[u8]| {
    // The first byte chooses what the frame begins with.
    let Some((&first, frame)) = data.split_first() else { return };
    check(frame, Framing::from_number(first & 1));
    protocol::check(frame);
});

/// Reads `data` in both ways, and holds what they say against the bytes.
fn check(data: &[u8], framing: Framing) {
    let mut packet = Packet::UNREAD;
    let read = packet.read(&Checked(data), framing);
    let mut plain = Packet::UNREAD;
    let is_plain = plain.read_plain(&Checked(data), framing);
    assert!(packet.headers <= data.len() && plain.headers <= data.len(), "{packet:?} {plain:?}");

    // These must answer, whatever was read.
    let keys = Direction::ALL.map(|direction| FlowKey::of(&packet, data, direction, 1));
    let inner = inner_headers(&packet, &Checked(data));
    if let Err(reason) = read {
        assert!(!is_plain, "{reason:?}, but {plain:?}");
        assert_eq!((packet.transport, packet.source_port, packet.destination_port), (None, 0, 0));
        return;
    }

    let (link, transport) = (check_link(data, framing, &packet), check_network(data, &packet));
    let is_usual = packet.network_offset == link && !transport.is_extended && !packet.fragment.is_part();
    assert_eq!(is_plain, is_usual, "{packet:?}");
    assert!(!is_plain || plain == packet, "{plain:?} {packet:?}");
    check_transport(data, &packet, transport.offset);
    check_keys(data, &packet, keys);
    if let Some(inner) = inner {
        // At least the headers of IP and nothing above it are within.
        assert!((packet.headers + 20..=data.len()).contains(&inner), "{inner} in {packet:?}");
    }
}

/// Sees that nothing but tags stands before the network header. Answers with where that is when there are none.
fn check_link(data: &[u8], framing: Framing, packet: &Packet) -> usize {
    let Packet { network, network_offset, .. } = *packet;
    let Framing::Ethernet = framing else {
        assert_eq!(network_offset, 0);
        return 0;
    };
    let (tags, rest) = data[ETHERNET_HEADER - 2..network_offset].as_chunks::<VLAN_TAG>();
    assert!(tags.len() <= MAX_VLAN_TAGS);
    for tag in tags {
        assert!(matches!(tag, [0x81, 0x00, ..] | [0x88, 0xa8, ..] | [0x91, 0x00, ..]), "{tag:x?}");
    }
    let ethertype = match network {
        Network::Ipv4 => [0x08, 0x00],
        Network::Ipv6 => [0x86, 0xdd],
    };
    assert_eq!(rest, ethertype);
    ETHERNET_HEADER
}

/// What comes after the network header and its extension headers.
struct Above {
    offset: usize,
    /// Whether there are extension headers.
    is_extended: bool,
}

/// Sees that the network header is one, and that nothing but extension headers stands between it and `packet.protocol`.
fn check_network(data: &[u8], packet: &Packet) -> Above {
    let header = &data[packet.network_offset..];
    match packet.network {
        Network::Ipv4 => {
            assert_eq!((header[0] >> 4, header[9]), (4, packet.protocol));
            assert_eq!(u16::from_be_bytes([header[6], header[7]]) & 0x1fff, 0, "a later fragment");
            Above { offset: packet.network_offset + usize::from(header[0] & 0x0f) * 4, is_extended: false }
        }
        Network::Ipv6 => {
            assert_eq!(header[0] >> 4, 6);
            let (mut next, mut offset, mut count) = (header[6], 40, 0);
            while let Some(length) = extension(next, &header[offset..]) {
                (next, offset, count) = (header[offset], offset + length, count + 1);
            }
            assert_eq!(next, packet.protocol);
            assert!(count <= MAX_EXTENSION_HEADERS);
            Above { offset: packet.network_offset + offset, is_extended: count > 0 }
        }
    }
}

/// Length of the extension header of this kind that `bytes` begin with; `None` if the kind is of none.
fn extension(kind: u8, bytes: &[u8]) -> Option<usize> {
    match kind {
        packet::protocol::FRAGMENT => {
            assert_eq!(u16::from_be_bytes([bytes[2], bytes[3]]) >> 3, 0, "a later fragment");
            Some(8)
        }
        packet::protocol::AUTHENTICATION => Some(8 + usize::from(bytes[1]) * 4),
        // Hop-by-hop options, routing, destination options, mobility, host identity and Shim6.
        0 | 43 | 60 | 135 | 139 | 140 => Some(8 + usize::from(bytes[1]) * 8),
        _ => None,
    }
}

/// Sees that the transport header is at `offset`, and says what `packet` says.
fn check_transport(data: &[u8], packet: &Packet, offset: usize) {
    let Packet { protocol, transport, source_port, destination_port, tcp_flags, headers, .. } = *packet;
    let expected = match protocol {
        packet::protocol::TCP => Some(Transport::Tcp),
        packet::protocol::UDP => Some(Transport::Udp),
        packet::protocol::SCTP => Some(Transport::Sctp),
        _ => None,
    };
    assert_eq!(transport, expected);
    let Some(transport) = transport else {
        assert_eq!((source_port, destination_port, tcp_flags, headers), (0, 0, 0, offset));
        return;
    };
    let header = &data[offset..headers];
    assert_eq!(header[..2], source_port.to_be_bytes());
    assert_eq!(header[2..4], destination_port.to_be_bytes());
    let (length, flags) = match transport {
        Transport::Tcp => (usize::from(header[12] >> 4) * 4, header[13]),
        Transport::Udp => (8, 0),
        Transport::Sctp => (12, 0),
    };
    assert_eq!((header.len(), tcp_flags), (length, flags));
}

/// Sees that the ends of `packet` are in its flow, exchanged for the other direction.
fn check_keys(data: &[u8], packet: &Packet, keys: [Option<FlowKey>; 2]) {
    let [Some(receive), Some(transmit)] = keys else { panic!("no addresses in {packet:?}") };
    let FlowKey { local, remote, interface, local_port, remote_port, protocol } = receive;
    let header = &data[packet.network_offset..];
    let [source, destination] = match packet.network {
        Network::Ipv4 => [12, 16].map(|offset| header.read(offset).map(Address::v4)),
        Network::Ipv6 => [8, 24].map(|offset| header.read(offset).map(Address::v6)),
    };
    assert_eq!((Some(local), Some(remote)), (destination, source));
    assert_eq!((local_port, remote_port), (packet.destination_port, packet.source_port));
    assert_eq!(protocol, packet.protocol.into());
    let exchanged =
        FlowKey { local: remote, remote: local, interface, local_port: remote_port, remote_port: local_port, protocol };
    assert_eq!(transmit, exchanged);
}
