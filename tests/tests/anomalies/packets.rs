//! What a packet, or a datagram in parts, says of itself.

use std::net::Ipv4Addr;

use tidewaiter::anomaly::{AnomalyKind, thresholds::Thresholds};
use tidewaiter_common::packet::{
    protocol,
    tcp_flag::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG},
};
use tidewaiter_tests::{
    layers::{Ipv4, Layer, Ports, ethernet, extension, fragment, ipv6, tag, tcp, udp},
    network::{Network, send_frames},
    wait::wait_until,
};

use crate::{Host, PORT, between, only, to_server};

const PORTS: Ports = Ports(40_000, PORT);
/// The field of IPv4 that says that more fragments follow.
const MORE: u16 = 0x2000;

/// A fragment of `layer` over IPv4, with the bytes `from` to `to` of it.
fn part(layer: &Layer, from: usize, to: usize) -> Vec<u8> {
    let more = if to < layer.bytes.len() { MORE } else { 0 };
    let fragment = more | u16::try_from(from / 8).unwrap();
    let some = Layer::new(layer.number, &layer.bytes[from..to]);
    ethernet(&Ipv4 { source: Network::CLIENT4, destination: Network::SERVER4, options: &[], fragment }.around(&some))
}

/// The same over IPv6.
fn part6(layer: &Layer, from: usize, to: usize) -> Vec<u8> {
    let some = Layer::new(layer.number, &layer.bytes[from..to]);
    let some = fragment(u16::try_from(from / 8).unwrap(), to < layer.bytes.len(), &some);
    ethernet(&ipv6(Network::CLIENT6, Network::SERVER6, &some))
}

/// `frame` with `byte` at `offset`.
fn with(mut frame: Vec<u8>, offset: usize, byte: u8) -> Vec<u8> {
    frame[offset] = byte;
    frame
}

/// Sees that each of `frames` is one anomaly of `kind` and `api`, and none of `near` is any.
fn assert_found(kind: AnomalyKind, api: &str, frames: &[Vec<u8>], near: &[Vec<u8>]) -> Host {
    let mut host = Host::new(&Thresholds::default());
    host.receive(near);
    assert_eq!(host.found(), [].into(), "what only comes close");
    host.receive(frames);
    assert_eq!(host.found(), only(api, kind, frames.len() as u64));
    host
}

#[test]
fn bad_tcp_flags() {
    let segment = |flags: &u8| to_server(&tcp(PORTS, *flags, 0, b"payload"));
    let bad = [0, FIN, FIN | PSH | URG, SYN | FIN, SYN | RST, FIN | RST | ACK, SYN | FIN | ACK, PSH, URG, 0xff];
    let good =
        [SYN, SYN | ACK, SYN | ECE | CWR, ACK, PSH | ACK, FIN | ACK, FIN | PSH | URG | ACK, RST, RST | ACK, SYN | PSH];
    let mut host = assert_found(
        AnomalyKind::BadTcpFlags,
        "orders",
        &bad.iter().map(segment).collect::<Vec<_>>(),
        &good.iter().map(segment).collect::<Vec<_>>(),
    );
    let told = host.told();
    assert_eq!(told.len(), 5, "{told:?}");
    let first = &told[0];
    assert_eq!(
        (first.kind, &*first.api, first.detail.as_str()),
        (AnomalyKind::BadTcpFlags, "orders", "no flag is set")
    );
    assert_eq!(first.remote.unwrap(), (Network::CLIENT4, 40_000).into());
    assert_eq!(first.local.unwrap(), (Network::SERVER4, PORT).into());
    // From the IP header on, to the last byte.
    assert_eq!(first.first_bytes, to_server(&tcp(PORTS, 0, 0, b"payload"))[14..]);
}

#[test]
fn land() {
    let at = |source, destination, ports| between(source, destination, &tcp(ports, SYN, 0, b""));
    let (server, client) = (Network::SERVER4, Network::CLIENT4);
    let udp6 = |source, ports| ethernet(&ipv6(source, Network::SERVER6, &udp(ports, b"echo")));
    let same = Ports(PORT, PORT);
    assert_found(
        AnomalyKind::Land,
        "orders",
        &[
            at(server, server, same),
            udp6(Network::SERVER6, same),
            ethernet(&tag(
                0x8100,
                7,
                &Ipv4 { source: server, destination: server, options: &[], fragment: 0 }
                    .around(&tcp(same, SYN, 0, b"")),
            )),
        ],
        &[
            at(client, server, same),
            at(server, server, PORTS),
            udp6(Network::CLIENT6, same),
            udp6(Network::SERVER6, PORTS),
        ],
    );
}

#[test]
fn malformed() {
    let segment = to_server(&tcp(PORTS, ACK, 0, b"payload"));
    let many = |count| {
        let udp = udp(PORTS, b"far away");
        ethernet(&ipv6(
            Network::CLIENT6,
            Network::SERVER6,
            &(0..count).fold(udp, |inner, _| extension(protocol::DESTINATION, 0, &inner)),
        ))
    };
    let mut host = assert_found(
        AnomalyKind::Malformed,
        "unmapped",
        &[
            with(segment.clone(), 14, 0x44),
            with(segment.clone(), 14 + 20 + 12, 0x40),
            with(segment.clone(), 14 + 20 + 12, 0xf0),
            // A total length that ends in TCP's header.
            with(segment.clone(), 17, 39),
            with(to_server(&udp(PORTS, b"payload")), 17, 27),
            with(many(0), 14, 0x40),
        ],
        &[
            segment,
            many(8),
            // That is more than are read, but nothing is wrong with it.
            many(9),
            with(many(1), 12, 0x88),
        ],
    );
    let told = host.told();
    assert_eq!(told[0].detail, "the IPv4 header contradicts itself (ipv4_malformed)");
    assert_eq!(told[1].remote.unwrap().ip(), Network::CLIENT4, "addresses can be read all the same");
}

#[test]
fn tiny_fragment() {
    let (tcp, udp) = (tcp(PORTS, SYN, 5, &[7; 100]), udp(PORTS, &[7; 100]));
    let icmp = Layer::new(protocol::ICMP.into(), [8; 64]);
    let mut host = assert_found(
        AnomalyKind::TinyFragment,
        "unmapped",
        &[
            part(&tcp, 0, 8),
            part(&tcp, 8, 48),
            part(&tcp, 0, 16),
            part(&tcp, 0, 24),
            part6(&tcp, 0, 8),
            part6(&tcp, 8, 32),
        ],
        &[
            part(&tcp, 0, 40),
            part(&tcp, 40, 80),
            part(&udp, 0, 8),
            part(&udp, 8, 48),
            part6(&udp, 0, 8),
            part6(&udp, 8, 48),
            part(&icmp, 0, 8),
        ],
    );
    assert!(host.told()[0].detail.starts_with("a first fragment of 8 bytes"));
}

#[test]
fn overlapping_fragment() {
    let datagram = udp(PORTS, &[7; 192]);
    let other = Layer::new(protocol::GRE.into(), [0; 200]);
    let again = |frames: Vec<Vec<u8>>| [frames.clone(), frames].concat();
    // In any order, each of them twice; and those of another protocol, which are another datagram's.
    let near =
        again(vec![part(&datagram, 96, 200), part(&datagram, 0, 48), part(&other, 0, 104), part6(&datagram, 0, 48)]);
    let frames = [
        // "Teardrop" lies within another; the others reach in from either side.
        part(&datagram, 8, 32),
        part(&datagram, 40, 56),
        part(&datagram, 88, 104),
        part6(&datagram, 40, 96),
    ];
    let mut host = assert_found(AnomalyKind::OverlappingFragment, "unmapped", &frames, &near);
    assert_eq!(host.told()[0].detail, "bytes 8 to 32 of a datagram, some of which were there already");
    // Once all of a datagram is there, its number may be another's.
    let whole: Vec<_> = [(0, 48), (48, 96), (96, 200)].map(|(from, to)| part(&other, from, to)).into();
    let mut host = Host::new(&Thresholds::default());
    host.receive(&whole);
    host.receive(&[part(&other, 0, 104), part(&other, 104, 200)]);
    assert_eq!(host.found(), [].into());
}

#[test]
fn unexpected_protocol() {
    let of = |number: u8| to_server(&Layer::new(number.into(), [0; 40]));
    let six = |number: u8| ethernet(&ipv6(Network::CLIENT6, Network::SERVER6, &Layer::new(number.into(), [0; 40])));
    let kind = AnomalyKind::UnexpectedProtocol;
    let near = [of(protocol::GRE), of(89), of(protocol::SCTP), six(protocol::ICMPV6)];
    let mut host = assert_found(kind, "unmapped", &[of(253), of(254), six(255)], &near);
    assert_eq!(host.told()[0].detail, "IP protocol 253");
    // What is expected can be said.
    let expected_protocols = vec![protocol::TCP, 253];
    host.accounting.set_anomaly_thresholds(&Thresholds { expected_protocols, ..Thresholds::default() }).unwrap();
    host.receive(&[of(253), to_server(&udp(Ports(9, 9), b"?")), to_server(&tcp(PORTS, ACK, 0, b""))]);
    assert_eq!(host.found(), only("unmapped", kind, 4));
}

#[test]
fn what_is_switched_off_is_not_looked_for() {
    let enabled = AnomalyKind::ALL.iter().copied().filter(|kind| *kind != AnomalyKind::Land).collect();
    let mut host = Host::new(&Thresholds { enabled, ..Thresholds::default() });
    let land = between(Network::SERVER4, Network::SERVER4, &tcp(Ports(PORT, PORT), SYN, 0, b""));
    host.receive(&[land, to_server(&tcp(PORTS, 0, 0, b""))]);
    assert_eq!(host.found(), only("orders", AnomalyKind::BadTcpFlags, 1));
}

#[test]
fn a_flood_is_counted_whole_and_told_in_part() {
    let mut host = Host::new(&Thresholds::default());
    let frames: Vec<_> = (0..10_000_u32)
        .map(|number| {
            let [_, _, a, b] = number.to_be_bytes();
            let frame = between(Ipv4Addr::new(172, 16, a, b), Network::SERVER4, &tcp(PORTS, 0, 0, b""));
            with(frame, 14 + 20 + 12, 0x40)
        })
        .collect();
    host.receive(&frames);
    assert_eq!(host.found(), only("unmapped", AnomalyKind::Malformed, 10_000));
    let lost = host.accounting.snapshot().lost.unwrap()[3];
    assert!(host.told().len() == 5 && lost > 5_000, "{lost}");
}

#[test]
fn on_the_loopback_interface_a_packet_is_found_once() {
    let namespace = tidewaiter_tests::namespace::Namespace::new();
    let mut accounting =
        tidewaiter_tests::accounting::account(&namespace, "lo", 4096, std::time::Duration::from_mins(1));
    let home = Ipv4Addr::LOCALHOST;
    let frames = [
        between(home, home, &tcp(PORTS, 0, 0, b"")),
        // To itself, which is what this interface is for; and an answer that only comes back.
        between(home, home, &tcp(Ports(PORT, PORT), SYN, 0, b"")),
        between(home, home, &tcp(Ports(PORT, 40_000), FIN, 0, b"")),
    ];
    namespace.run(|| send_frames("lo", &frames, 1)).unwrap();
    let mut found = || {
        let apis = accounting.snapshot().apis;
        let all = apis.into_iter().flat_map(|api| api.anomalies.into_iter().map(move |one| (api.name.clone(), one)));
        all.filter(|(_, (_, count))| *count > 0).collect::<Vec<_>>()
    };
    wait_until("it to be found", || !found().is_empty());
    assert_eq!(found(), [("orders".to_owned(), (AnomalyKind::BadTcpFlags, 1))]);
}
