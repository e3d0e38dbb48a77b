//! Frames to send or to run the programs on.

use std::net::IpAddr;

use etherparse::{
    IpHeaders, Ipv4Extensions, Ipv4Header, PacketBuilder, PacketBuilderStep, TcpHeader, TcpOptionElement, ip_number,
};
use tidewaiter_common::{packet::tcp_flag, transport::Transport};

/// An end of a connection.
pub type End = (IpAddr, u16);

/// A kind of frame.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// What it is carried by.
    pub transport: Transport,
    /// Whether the IP header (of IPv4) and the TCP header carry options.
    pub options: bool,
    /// Bytes after the headers.
    pub payload: usize,
}

/// A segment of TCP.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// The sequence number that its sender expects next.
    pub acknowledgement: u32,
    /// See [`tcp_flag`].
    pub flags: u8,
    /// What it carries.
    pub payload: &'a [u8],
}

/// Where in a frame of TCP or UDP, over IP without options, its parts are.
#[derive(Clone, Copy, Debug)]
pub struct Offsets {
    /// The last 4 bytes of the source address.
    pub source: usize,
    /// The last 4 bytes of the destination address.
    pub destination: usize,
    /// The ports: that of the source, then that of the destination.
    pub ports: usize,
    /// TCP's sequence number.
    pub sequence: usize,
    /// TCP's acknowledgement number.
    pub acknowledgement: usize,
    /// TCP's flags.
    pub flags: usize,
}

impl Offsets {
    /// Over IPv4.
    pub const IPV4: Self = Self::new(26, 30, 34);
    /// Over IPv6.
    pub const IPV6: Self = Self::new(34, 50, 54);

    const fn new(source: usize, destination: usize, ports: usize) -> Self {
        let (sequence, acknowledgement, flags) = (ports + 4, ports + 8, ports + 13);
        Self { source, destination, ports, sequence, acknowledgement, flags }
    }

    /// Those of frames to and from `address`.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::IPV4 } else { Self::IPV6 }
    }
}

/// A frame with `segment`, otherwise as [`frame`] makes it.
///
/// # Panics
/// If the ends have addresses of two families.
#[must_use]
pub fn segment(segment: Segment<'_>, (source, source_port): End, (destination, destination_port): End) -> Vec<u8> {
    let Segment { sequence, acknowledgement, flags, payload } = segment;
    let mut tcp = ip(false, source, destination).tcp(source_port, destination_port, sequence, 1024);
    if flags & tcp_flag::ACK != 0 {
        tcp = tcp.ack(acknowledgement);
    }
    for (flag, set) in [
        (tcp_flag::SYN, PacketBuilderStep::syn as fn(PacketBuilderStep<TcpHeader>) -> _),
        (tcp_flag::PSH, PacketBuilderStep::psh),
        (tcp_flag::FIN, PacketBuilderStep::fin),
        (tcp_flag::RST, PacketBuilderStep::rst),
    ] {
        if flags & flag != 0 {
            tcp = set(tcp);
        }
    }
    let mut frame = Vec::new();
    tcp.write(&mut frame, payload).expect("a Vec takes all");
    frame
}

/// A frame of `kind` with right checksums, to the broadcast address so that any interface takes it.
///
/// # Panics
/// If the ends have addresses of two families.
#[must_use]
pub fn frame(kind: Kind, (source, source_port): End, (destination, destination_port): End) -> Vec<u8> {
    let ip = ip(kind.options, source, destination);
    let payload = vec![0; kind.payload];
    let mut frame = Vec::new();
    match kind.transport {
        Transport::Udp => ip.udp(source_port, destination_port).write(&mut frame, &payload),
        Transport::Tcp => {
            // Each side has received what the other has opened the connection with, and nothing else.
            let tcp = ip.tcp(source_port, destination_port, 1, 1024).ack(2);
            let options: &[_] = if kind.options { &[TcpOptionElement::MaximumSegmentSize(1460)] } else { &[] };
            tcp.options(options).expect("one option fits").write(&mut frame, &payload)
        }
        Transport::Sctp => {
            // A common header (RFC 9260 section 3.1) without a right checksum, which nobody looks at.
            let mut sctp = [0; 12].to_vec();
            sctp[..2].copy_from_slice(&source_port.to_be_bytes());
            sctp[2..4].copy_from_slice(&destination_port.to_be_bytes());
            sctp.extend(&payload);
            ip.write(&mut frame, ip_number::SCTP, &sctp)
        }
    }
    .expect("a Vec takes all");
    frame
}

fn ip(options: bool, source: IpAddr, destination: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0xff; 6]);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = Ipv4Header::new(0, 64, ip_number::TCP, source.octets(), destination.octets())
                .expect("no payload yet, so it fits");
            if options {
                // Router alert, RFC 2113.
                header.options = [0x94, 0x04, 0, 0].into();
            }
            ethernet.ip(IpHeaders::Ipv4(header, Ipv4Extensions::default()))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => ethernet.ipv6(source.octets(), destination.octets(), 64),
        _ => panic!("{source} and {destination} are of two families"),
    }
}
