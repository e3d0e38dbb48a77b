//! Frames of any shape, made layer by layer from the inside out. Checksums are zero: nobody who counts looks at them.

use std::net::{Ipv4Addr, Ipv6Addr};

use tidewaiter_common::packet::protocol;

/// `EtherType` of IPv4.
pub const IPV4: u16 = 0x0800;
/// `EtherType` of IPv6.
pub const IPV6: u16 = 0x86dd;

/// A layer and all that is within it.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What the layer around it calls it: an `EtherType` or the number of a protocol.
    pub number: u16,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Layer {
    /// Bytes that `number` stands for.
    #[must_use]
    pub fn new(number: u16, bytes: impl Into<Vec<u8>>) -> Self {
        Self { number, bytes: bytes.into() }
    }

    fn protocol(&self) -> u8 {
        self.number.try_into().expect("the number of a protocol")
    }

    fn length(&self) -> u16 {
        self.bytes.len().try_into().expect("a packet")
    }
}

/// The ports of who sends and who receives.
#[derive(Clone, Copy, Debug)]
pub struct Ports(pub u16, pub u16);

impl Ports {
    fn bytes(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.0.to_be_bytes(), self.1.to_be_bytes());
        [a, b, c, d]
    }
}

/// A UDP datagram.
#[must_use]
pub fn udp(ports: Ports, payload: &[u8]) -> Layer {
    let length = u16::try_from(8 + payload.len()).expect("a datagram").to_be_bytes();
    Layer::new(protocol::UDP.into(), [&ports.bytes()[..], &length, &[0; 2], payload].concat())
}

/// A TCP segment with `flags`, and so many words of options.
#[must_use]
pub fn tcp(ports: Ports, flags: u8, option_words: u8, payload: &[u8]) -> Layer {
    let numbers = [[0, 0, 0, 1], [0, 0, 0, 1]].concat();
    let rest = [(5 + option_words) << 4, flags, 0x20, 0, 0, 0, 0, 0];
    // Options that are no operation.
    let options = vec![1; usize::from(option_words) * 4];
    Layer::new(protocol::TCP.into(), [&ports.bytes()[..], &numbers, &rest, &options, payload].concat())
}

/// An SCTP packet.
#[must_use]
pub fn sctp(ports: Ports, chunks: &[u8]) -> Layer {
    Layer::new(protocol::SCTP.into(), [&ports.bytes()[..], &[0; 8], chunks].concat())
}

/// An IPv4 header, and what is in the packet.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    /// The sender.
    pub source: Ipv4Addr,
    /// The receiver.
    pub destination: Ipv4Addr,
    /// Options, in words of four bytes.
    pub options: &'a [u8],
    /// Flags and offset of a fragment, as they stand in the header.
    pub fragment: u16,
}

impl Ipv4<'_> {
    /// A packet that holds `payload`.
    #[must_use]
    pub fn around(self, payload: &Layer) -> Layer {
        let Self { source, destination, options, fragment } = self;
        let header = 20 + options.len();
        let total = (u16::try_from(header).expect("options") + payload.length()).to_be_bytes();
        let first = 0x40 | u8::try_from(header / 4).expect("options");
        let [fragment_0, fragment_1] = fragment.to_be_bytes();
        let bytes = [
            &[first, 0, total[0], total[1], 0, 7, fragment_0, fragment_1, 64, payload.protocol(), 0, 0][..],
            &source.octets(),
            &destination.octets(),
            options,
            &payload.bytes,
        ];
        Layer::new(IPV4, bytes.concat())
    }
}

/// An IPv6 packet that holds `payload`, of which the first may be an extension header.
#[must_use]
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, payload: &Layer) -> Layer {
    let [length_0, length_1] = payload.length().to_be_bytes();
    let header = [0x60, 0, 0, 0, length_0, length_1, payload.protocol(), 64];
    Layer::new(IPV6, [&header[..], &source.octets(), &destination.octets(), &payload.bytes].concat())
}

/// An IPv6 extension header of the usual form, 8 bytes and `units` times as many beside, before `payload`.
#[must_use]
pub fn extension(number: u8, units: u8, payload: &Layer) -> Layer {
    // Zeros are padding to options, and a routing header that is of type 0 and has been all the way.
    let rest = vec![0; 6 + usize::from(units) * 8];
    Layer::new(number.into(), [&[payload.protocol(), units][..], &rest, &payload.bytes].concat())
}

/// An authentication header with 12 bytes of evidence before `payload`.
#[must_use]
pub fn authentication(payload: &Layer) -> Layer {
    let rest = [0; 22];
    let bytes = [&[payload.protocol(), 4][..], &rest, &payload.bytes].concat();
    Layer::new(protocol::AUTHENTICATION.into(), bytes)
}

/// An IPv6 fragment header before `payload`, whose place is `offset` units of 8 bytes.
#[must_use]
pub fn fragment(offset: u16, more: bool, payload: &Layer) -> Layer {
    let [place_0, place_1] = (offset << 3 | u16::from(more)).to_be_bytes();
    let header = [payload.protocol(), 0, place_0, place_1, 0, 0, 0, 9];
    Layer::new(protocol::FRAGMENT.into(), [&header[..], &payload.bytes].concat())
}

/// A tag with the `EtherType` `number` before `payload`.
#[must_use]
pub fn tag(number: u16, id: u16, payload: &Layer) -> Layer {
    Layer::new(number, [&id.to_be_bytes()[..], &payload.number.to_be_bytes(), &payload.bytes].concat())
}

/// A frame to everybody, so that any interface takes it and nobody answers.
#[must_use]
pub fn ethernet(payload: &Layer) -> Vec<u8> {
    let addresses = [[0xff; 6], [2, 0, 0, 0, 0, 1]].concat();
    [&addresses[..], &payload.number.to_be_bytes(), &payload.bytes].concat()
}
