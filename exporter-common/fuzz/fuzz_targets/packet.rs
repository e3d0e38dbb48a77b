//! The parser against bytes that libFuzzer makes up.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidewaiter_common::{
    frame::Frame,
    packet::{Network, Packet},
    reason::Reason,
    transport::Transport,
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

fuzz_target!(|data: &[u8]| check(data, |packet, frame| packet.read(frame)));

/// Reads `data` with an entry of the parser, and holds what it says against the bytes.
fn check(data: &[u8], read: impl Fn(&mut Packet, &Checked<'_>) -> Result<(), Reason>) {
    let mut packet = Packet::UNREAD;
    let is_read = read(&mut packet, &Checked(data)).is_ok();
    assert!(packet.headers <= data.len(), "{packet:?}");

    // These must answer, whatever was read.
    let addresses = (packet.source_address(data), packet.destination_address(data));
    let Packet { network, network_offset, transport, source_port, destination_port, headers } = packet;
    if !is_read {
        assert_eq!((transport, source_port, destination_port), (None, 0, 0));
        return;
    }
    assert!(network_offset <= headers, "{packet:?}");
    let network_header = match network {
        Network::Ipv4 => usize::from(data[network_offset] & 0x0f) * 4,
        Network::Ipv6 => 40,
    };
    let version = match network {
        Network::Ipv4 => 4,
        Network::Ipv6 => 6,
    };
    assert_eq!(data[network_offset] >> 4, version);
    assert!(addresses.0.is_some() && addresses.1.is_some(), "{packet:?}");

    let ports = network_offset + network_header;
    match transport {
        None => assert_eq!((source_port, destination_port, headers), (0, 0, ports)),
        Some(transport) => {
            assert_eq!(data[ports..ports + 2], source_port.to_be_bytes());
            assert_eq!(data[ports + 2..ports + 4], destination_port.to_be_bytes());
            let transport_header = match transport {
                Transport::Tcp => usize::from(data[ports + 12] >> 4) * 4,
                Transport::Udp => 8,
            };
            assert_eq!(headers, ports + transport_header);
        }
    }
}
