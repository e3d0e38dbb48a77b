//! Captures made by others: what the first payloads of their flows are taken for, against the ports that they belong to.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
};

use tidewaiter::{
    flow::TlsHello,
    replay::capture::{Capture, link_layer::Framing as Link},
    tls::read_hello,
};
use tidewaiter_common::{
    frame::Framing,
    packet::{Network, Packet, tcp_flag},
    protocol::{Prefix, Protocol},
    transport::Transport,
};
use tidewaiter_tests::corpus::{corpus, say};

/// The first payload of one direction of a flow.
struct First {
    transport: Transport,
    ports: (u16, u16),
    payload: Vec<u8>,
    /// Length of the payload on the wire.
    length: u32,
    /// Whether it is a connection's first, and not of one that had begun before.
    is_opened: bool,
}

/// The first payloads in a capture, of each direction, in their order.
fn firsts(file: &Path) -> Vec<First> {
    let mut capture = Capture::open(file).unwrap();
    let mut seen = HashSet::new();
    let mut opened = HashSet::new();
    let mut firsts = Vec::new();
    while let Some(Ok(frame)) = capture.next_frame() {
        let framing = match frame.framing {
            Link::Ethernet => Framing::Ethernet,
            Link::Ip => Framing::Ip,
            Link::Unreadable { .. } => continue,
        };
        let mut packet = Packet::UNREAD;
        if packet.read(frame.data, framing).is_err() {
            continue;
        }
        let (Some(transport), Some(source), Some(destination)) =
            (packet.transport, packet.source_address(frame.data), packet.destination_address(frame.data))
        else {
            continue;
        };
        let flow = (transport, source, packet.source_port, destination, packet.destination_port);
        if packet.tcp_flags & tcp_flag::SYN != 0 {
            opened.insert(flow);
        }
        let header = &frame.data[packet.network_offset..];
        // What is behind the packet in its frame is padding.
        let end = packet.network_offset
            + match packet.network {
                Network::Ipv4 => usize::from(u16::from_be_bytes([header[2], header[3]])),
                Network::Ipv6 => 40 + usize::from(u16::from_be_bytes([header[4], header[5]])),
            };
        let end = if end <= packet.network_offset { frame.length as usize } else { end };
        if end <= packet.headers || packet.headers >= frame.data.len() || seen.contains(&flow) {
            continue;
        }
        firsts.push(First {
            transport,
            ports: (packet.source_port, packet.destination_port),
            payload: frame.data[packet.headers..end.min(frame.data.len())].to_vec(),
            length: (end - packet.headers) as u32,
            is_opened: opened.contains(&flow),
        });
        seen.insert(flow);
    }
    firsts
}

fn told(first: &First) -> Protocol {
    let prefix = Prefix { payload: first.length, ..Prefix::of(&first.payload) };
    Protocol::classify(first.transport, &prefix)
}

/// The port of the two that is a server's, as far as they say it.
fn server_port(first: &First) -> u16 {
    first.ports.0.min(first.ports.1)
}

/// What the ports of the corpus are for.
fn expected(transport: Transport, port: u16) -> Option<Protocol> {
    match (transport, port) {
        (Transport::Tcp | Transport::Udp, 53) => Some(Protocol::Dns),
        (Transport::Tcp, 80 | 631 | 8080) => Some(Protocol::Http1),
        (Transport::Tcp, 443) => Some(Protocol::Tls),
        (Transport::Tcp, 5432) => Some(Protocol::Postgresql),
        _ => None,
    }
}

/// What is something else than its port says, or is not known although its port says it, and why.
const EXPLAINED: [(&str, &str); 6] = [
    ("avast_securedns.pcapng", "it asks its own servers, on UDP port 443, by DNS"),
    ("google_ssl.pcap", "a hello as SSL 2.0 had it, which RFC 6176 forbids; the other side's first segment is lost"),
    ("http_on_sip_port.pcap", "as it says"),
    ("mongo_false_positive.pcapng", "nobody knows what it is"),
    ("openvpn.pcap", "OpenVPN over TCP, on port 443"),
    ("quickplay.pcap", "connections that had begun before"),
];

#[test]
fn what_is_told_is_what_the_ports_are_for() {
    let Some(folder) = corpus() else { return };
    let mut told_of: BTreeMap<Protocol, u64> = BTreeMap::new();
    let mut strange = Vec::new();
    for entry in fs::read_dir(folder.join("pcap")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        for first in firsts(&path) {
            let protocol = told(&first);
            *told_of.entry(protocol).or_default() += 1;
            let expected = expected(first.transport, server_port(&first));
            let is_right = match protocol {
                // The first that was captured need not be the first that was sent.
                Protocol::Unknown => expected.is_none() || !first.is_opened,
                protocol => expected == Some(protocol),
            };
            if !is_right && !EXPLAINED.iter().any(|(file, _)| *file == name) {
                strange.push(format!(
                    "{name}: {:?} {protocol:?} {:?}",
                    first.ports,
                    first.payload.escape_ascii().to_string()
                ));
            }
        }
    }
    say(&format!("first payloads of the corpus: {told_of:?}"));
    assert!(strange.is_empty(), "{strange:#?}");
    for (protocol, least) in
        [(Protocol::Http1, 90), (Protocol::Tls, 40), (Protocol::Dns, 80), (Protocol::Postgresql, 12)]
    {
        assert!(told_of.get(&protocol) >= Some(&least), "{protocol:?}: {told_of:?}");
    }
}

#[test]
fn hellos_of_the_corpus_are_read() {
    let Some(folder) = corpus() else { return };
    let (mut hellos, mut names, mut versions) = (0, 0, 0);
    for entry in fs::read_dir(folder.join("pcap")).unwrap() {
        for first in firsts(&entry.unwrap().path()) {
            // Cut off anywhere, it still is a hello, or nothing.
            for length in 0..first.payload.len() {
                let _ = read_hello(&first.payload[..length]);
            }
            let Some(hello) = read_hello(&first.payload) else { continue };
            assert_eq!(told(&first), Protocol::Tls);
            hellos += 1;
            names += u32::from(hello.server_name.is_some());
            versions += u32::from(hello.version.is_some());
            let TlsHello { server_name, application_protocols, .. } = hello;
            assert!(server_name.iter().chain(&application_protocols).all(|text| text.chars().count() <= 255));
        }
    }
    say(&format!("hellos of the corpus: {hellos}, with a name {names}, with a version {versions}"));
    assert!(hellos >= 40 && names >= 15 && versions >= 35, "{hellos} {names} {versions}");
}
