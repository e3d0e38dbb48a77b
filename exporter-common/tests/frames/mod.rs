//! Frames of every shape that the parser knows, put together by hand: each function puts one header before a payload.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]
#![allow(dead_code, reason = "each test has its own use for these")]

use proptest::prelude::*;
use tidewaiter_common::{
    frame::{Frame, Framing},
    packet::{Fragment, MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS, Network, Packet, protocol},
    reason::Reason,
    transport::Transport,
};

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const DOT1Q: u16 = 0x8100;
pub(crate) const DOT1AD: u16 = 0x88a8;
pub(crate) const OLD_QINQ: u16 = 0x9100;

/// A frame with `tags`, by their `EtherType`, outermost first.
pub(crate) fn ethernet(tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]].concat();
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        // A priority, a drop eligible indicator and an identifier that look like nothing else.
        frame.extend([0xbe, 0xef]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// From 10.0.0.1 to 10.0.0.2.
pub(crate) fn ipv4(options: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let total = u16::try_from(header + payload.len()).expect("fits").to_be_bytes();
    let first = 0x40 | u8::try_from(header / 4).expect("fits");
    let fixed = [first, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    [&fixed[..], options, payload].concat()
}

/// From 101:…:101 to 202:…:202.
pub(crate) fn ipv6(extensions: &[Extension], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(extensions_length(extensions) + payload.len()).expect("fits").to_be_bytes();
    let kinds = extensions.iter().map(|extension| extension.kind).chain([protocol]);
    let mut next = kinds.collect::<Vec<_>>().into_iter();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next.next().unwrap_or(protocol), 64];
    packet.extend([1; 16]);
    packet.extend([2; 16]);
    for (extension, next) in extensions.iter().zip(next) {
        packet.push(next);
        packet.extend(&extension.rest);
    }
    packet.extend(payload);
    packet
}

/// An IPv6 extension header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extension {
    pub(crate) kind: u8,
    /// All of it but its first byte, which is the kind of what follows.
    pub(crate) rest: Vec<u8>,
}

impl Extension {
    /// One whose length is in units of 8 bytes, less 1.
    pub(crate) fn new(kind: u8, length: u8) -> Self {
        Self { kind, rest: [vec![length], vec![0xa5; usize::from(length) * 8 + 6]].concat() }
    }

    pub(crate) fn authentication(length: u8) -> Self {
        let rest = [vec![length], vec![0xa5; usize::from(length) * 4 + 6]].concat();
        Self { kind: protocol::AUTHENTICATION, rest }
    }

    /// `offset` is in units of 8 bytes.
    pub(crate) fn fragment(offset: u16, more: bool) -> Self {
        let field = (offset << 3 | u16::from(more)).to_be_bytes();
        // The second byte is reserved: it is no length, whatever it says.
        Self { kind: protocol::FRAGMENT, rest: vec![0xff, field[0], field[1], 1, 2, 3, 4] }
    }
}

pub(crate) fn extensions_length(extensions: &[Extension]) -> usize {
    extensions.iter().map(|extension| 1 + extension.rest.len()).sum()
}

/// `options` are bytes, a multiple of 4.
/// Numbers of each TCP segment.
const SEQUENCE: u32 = 0x1234_5678;
const ACKNOWLEDGEMENT: u32 = 0x9abc_def0;

pub(crate) fn tcp(ports: (u16, u16), flags: u8, options: usize, payload: &[u8]) -> Vec<u8> {
    let offset = u8::try_from((20 + options) / 4).expect("fits") << 4;
    let numbers = [SEQUENCE.to_be_bytes(), ACKNOWLEDGEMENT.to_be_bytes()].concat();
    let rest = [numbers.as_slice(), &[offset, flags, 0x10, 0, 0, 0, 0, 0], &vec![1; options]].concat();
    [&ports.0.to_be_bytes(), &ports.1.to_be_bytes(), rest.as_slice(), payload].concat()
}

pub(crate) fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("fits").to_be_bytes();
    [&ports.0.to_be_bytes(), &ports.1.to_be_bytes(), &length[..], &[0, 0], payload].concat()
}

pub(crate) fn sctp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    [&ports.0.to_be_bytes(), &ports.1.to_be_bytes(), &[0; 8][..], payload].concat()
}

/// What a test is about: everything else in a frame is the same each time.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) framing: Framing,
    pub(crate) tags: Vec<u16>,
    pub(crate) network: Network,
    /// Of IPv4, in bytes.
    pub(crate) options: usize,
    /// Of IPv6.
    pub(crate) extensions: Vec<Extension>,
    pub(crate) protocol: u8,
    pub(crate) ports: (u16, u16),
    pub(crate) tcp_flags: u8,
    /// In bytes.
    pub(crate) tcp_options: usize,
    pub(crate) payload: usize,
}

impl Shape {
    pub(crate) const PLAIN: Self = Self {
        framing: Framing::Ethernet,
        tags: Vec::new(),
        network: Network::Ipv4,
        options: 0,
        extensions: Vec::new(),
        protocol: protocol::TCP,
        ports: (40_000, 80),
        tcp_flags: 0x18,
        tcp_options: 0,
        payload: 10,
    };

    /// Whether [`Packet::read_plain`] is there for it.
    pub(crate) fn is_plain(&self) -> bool {
        self.tags.is_empty() && self.extensions.is_empty()
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let payload = vec![0xa5; self.payload];
        let payload = match self.protocol {
            protocol::TCP => tcp(self.ports, self.tcp_flags, self.tcp_options, &payload),
            protocol::UDP => udp(self.ports, &payload),
            protocol::SCTP => sctp(self.ports, &payload),
            _ => payload,
        };
        let (ethertype, packet) = match self.network {
            Network::Ipv4 => (IPV4, ipv4(&vec![1; self.options], self.protocol, &payload)),
            Network::Ipv6 => (IPV6, ipv6(&self.extensions, self.protocol, &payload)),
        };
        match self.framing {
            Framing::Ethernet => ethernet(&self.tags, ethertype, &packet),
            Framing::Ip => packet,
        }
    }

    /// What is in it.
    pub(crate) fn packet(&self) -> Packet {
        let network_offset = match self.framing {
            Framing::Ethernet => 14 + 4 * self.tags.len(),
            Framing::Ip => 0,
        };
        let network_header = match self.network {
            Network::Ipv4 => 20 + self.options,
            Network::Ipv6 => 40 + extensions_length(&self.extensions),
        };
        let (transport, transport_header) = match self.protocol {
            protocol::TCP => (Some(Transport::Tcp), 20 + self.tcp_options),
            protocol::UDP => (Some(Transport::Udp), 8),
            protocol::SCTP => (Some(Transport::Sctp), 12),
            _ => (None, 0),
        };
        let is_tcp = transport == Some(Transport::Tcp);
        let (source_port, destination_port) = if transport.is_some() { self.ports } else { (0, 0) };
        Packet {
            network: self.network,
            network_offset,
            protocol: self.protocol,
            transport,
            source_port,
            destination_port,
            tcp_flags: if is_tcp { self.tcp_flags } else { 0 },
            sequence: if is_tcp { SEQUENCE } else { 0 },
            acknowledgement: if is_tcp { ACKNOWLEDGEMENT } else { 0 },
            payload: if is_tcp || transport == Some(Transport::Udp) { self.payload as u32 } else { 0 },
            headers: network_offset + network_header + transport_header,
            fragment: self.fragment(network_header + transport_header + self.payload),
        }
    }

    /// Which part of a datagram it is, if the IP packet has `length` bytes.
    fn fragment(&self, length: usize) -> Fragment {
        let mut rest = length - 40.min(length);
        let mut fragment = Fragment::WHOLE;
        for extension in &self.extensions {
            rest -= 1 + extension.rest.len();
            // The last byte of the field that an offset of 0 leaves.
            if extension.kind == protocol::FRAGMENT && extension.rest[2] == 1 {
                fragment = Fragment { offset: 0, more: true, identification: 0x0102_0304, length: rest as u32 };
            }
        }
        fragment
    }
}

/// Every extension header that something may follow, fragments that are not later ones included.
fn extension() -> impl Strategy<Value = Extension> {
    let kinds = prop_oneof![
        Just(protocol::HOP_BY_HOP),
        Just(protocol::ROUTING),
        Just(protocol::DESTINATION),
        Just(protocol::MOBILITY),
        Just(protocol::HOST_IDENTITY),
        Just(protocol::SHIM6),
    ];
    prop_oneof![
        4 => (kinds, 0..4_u8).prop_map(|(kind, length)| Extension::new(kind, length)),
        1 => (0..6_u8).prop_map(Extension::authentication),
        1 => any::<bool>().prop_map(|more| Extension::fragment(0, more)),
    ]
}

/// Shapes that are read, about half of them plain ones.
pub(crate) fn shapes() -> impl Strategy<Value = Shape> {
    let tag = prop_oneof![Just(DOT1Q), Just(DOT1AD), Just(OLD_QINQ)];
    let link = prop_oneof![
        3 => Just((Framing::Ethernet, Vec::new())),
        2 => proptest::collection::vec(tag, 1..=MAX_VLAN_TAGS).prop_map(|tags| (Framing::Ethernet, tags)),
        2 => Just((Framing::Ip, Vec::new())),
    ];
    let extensions = prop_oneof![
        2 => Just(Vec::new()),
        1 => proptest::collection::vec(extension(), 1..=MAX_EXTENSION_HEADERS),
    ];
    let network = prop_oneof![
        (0..=10_usize).prop_map(|words| (Network::Ipv4, words * 4, Vec::new())),
        extensions.prop_map(|extensions| (Network::Ipv6, 0, extensions)),
    ];
    let without_ports = [protocol::ICMP, protocol::ICMPV6, protocol::GRE, ESP, NO_NEXT_HEADER];
    let protocol = prop_oneof![
        4 => Just(protocol::TCP),
        2 => Just(protocol::UDP),
        2 => Just(protocol::SCTP),
        1 => proptest::sample::select(without_ports.to_vec()),
    ];
    let transport = (protocol, any::<(u16, u16)>(), any::<u8>(), 0..=10_usize);
    (link, network, transport, 0..200_usize).prop_map(|((framing, tags), network, transport, payload)| {
        let (network, options, extensions) = network;
        let (protocol, ports, tcp_flags, tcp_words) = transport;
        let tcp_options = if protocol == protocol::TCP { tcp_words * 4 } else { 0 };
        Shape { framing, tags, network, options, extensions, protocol, ports, tcp_flags, tcp_options, payload }
    })
}

pub(crate) const ESP: u8 = 50;
pub(crate) const NO_NEXT_HEADER: u8 = 59;

/// Frames that are nearly right: a few bytes changed, mostly in the headers, and perhaps the end cut off.
pub(crate) fn mutated_frames() -> impl Strategy<Value = (Framing, Vec<u8>)> {
    // Of any byte any value, but those that say what comes next are worth more tries.
    let value = prop_oneof![
        2 => any::<u8>(),
        1 => 0..8_u8,
        1 => proptest::sample::select(vec![
            protocol::TCP, protocol::UDP, protocol::SCTP, protocol::ROUTING, protocol::FRAGMENT,
            protocol::AUTHENTICATION, protocol::DESTINATION, 0x45, 0x60,
        ]),
    ];
    let changes = proptest::collection::vec((0..120_usize, value), 0..4);
    (shapes(), changes, prop_oneof![3 => Just(usize::MAX), 1 => 0..160_usize]).prop_map(|(shape, changes, cut)| {
        let mut frame = shape.frame();
        frame.truncate(cut);
        for (offset, value) in changes {
            if let Some(byte) = frame.get_mut(offset) {
                *byte = value;
            }
        }
        (shape.framing, frame)
    })
}

pub(crate) fn framings() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::Ethernet), Just(Framing::Ip)]
}

pub(crate) fn read<F: Frame + ?Sized>(frame: &F, framing: Framing) -> Result<Packet, Reason> {
    let mut packet = Packet::UNREAD;
    packet.read(frame, framing).map(|()| packet)
}

pub(crate) fn read_plain<F: Frame + ?Sized>(frame: &F, framing: Framing) -> Option<Packet> {
    let mut packet = Packet::UNREAD;
    packet.read_plain(frame, framing).then_some(packet)
}

/// A frame that panics where it is asked for bytes that no frame has, and notes how far it was read.
pub(crate) struct Watched<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) farthest: std::cell::Cell<usize>,
}

impl<'a> Watched<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, farthest: 0.into() }
    }
}

impl Frame for Watched<'_> {
    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        // The kernel need not answer an offset that has wrapped around as a slice does.
        assert!(offset <= self.bytes.len() + 0xffff, "read at {offset} of {}", self.bytes.len());
        let read = self.bytes.read(offset);
        if read.is_some() {
            self.farthest.set(self.farthest.get().max(offset + N));
        }
        read
    }
}
