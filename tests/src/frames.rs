//! Frames to send or to run the programs on.

use std::net::IpAddr;

use etherparse::{
    IpHeaders, Ipv4Extensions, Ipv4Header, PacketBuilder, PacketBuilderStep, TcpOptionElement, ip_number,
};
use tidewaiter_common::transport::Transport;

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

/// A frame of `kind` with right checksums, to the broadcast address so that any interface takes it.
///
/// # Panics
/// If the ends have addresses of two families.
#[must_use]
pub fn frame(kind: Kind, (source, source_port): End, (destination, destination_port): End) -> Vec<u8> {
    let ip = ip(kind, source, destination);
    let payload = vec![0; kind.payload];
    let mut frame = Vec::new();
    match kind.transport {
        Transport::Udp => ip.udp(source_port, destination_port).write(&mut frame, &payload),
        Transport::Tcp => {
            let tcp = ip.tcp(source_port, destination_port, 1, 1024);
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

fn ip(kind: Kind, source: IpAddr, destination: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0xff; 6]);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = Ipv4Header::new(0, 64, ip_number::TCP, source.octets(), destination.octets())
                .expect("no payload yet, so it fits");
            if kind.options {
                // Router alert, RFC 2113.
                header.options = [0x94, 0x04, 0, 0].into();
            }
            ethernet.ip(IpHeaders::Ipv4(header, Ipv4Extensions::default()))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => ethernet.ipv6(source.octets(), destination.octets(), 64),
        _ => panic!("{source} and {destination} are of two families"),
    }
}
