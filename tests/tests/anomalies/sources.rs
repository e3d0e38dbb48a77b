//! Who tries too many ports, or sends too much ICMP; floods of SYN.

use std::{net::Ipv4Addr, time::Duration};

use tidewaiter::anomaly::{
    AnomalyKind,
    thresholds::{IcmpFlood, PortScan, SynFlood, Thresholds},
};
use tidewaiter_common::packet::{protocol, tcp_flag::SYN};
use tidewaiter_tests::{
    layers::{Layer, Ports, tcp, udp},
    network::{INTERFACE, Network, send_frames},
};

use crate::{Host, PORT, between, only, to_server, wait_for_end};

/// Thresholds that are easily crossed, each with a window that no test outlasts.
fn thresholds() -> Thresholds {
    let window = Duration::from_mins(10);
    Thresholds {
        port_scan: PortScan { window, ports: 30, addresses: 10 },
        icmp_flood: IcmpFlood { window, from_one: 40, from_all: 100 },
        ..Thresholds::default()
    }
}

fn syn(from: u16, to: u16) -> Vec<u8> {
    to_server(&tcp(Ports(from, to), SYN, 0, b""))
}

#[test]
fn a_vertical_scan() {
    let mut host = Host::new(&thresholds());
    // One port, from behind a translator of addresses; and the same ports again and again.
    host.receive(&(0..200).map(|number| syn(10_000 + number, PORT)).collect::<Vec<_>>());
    for _ in 0..3 {
        host.receive(&(0..28).map(|port| syn(40_000, 1_000 + port)).collect::<Vec<_>>());
    }
    assert_eq!(host.found(), [].into(), "29 ports are none yet");
    host.receive(&(28..60).map(|port| syn(40_000, 1_000 + port)).collect::<Vec<_>>());
    assert_eq!(host.found(), only("unmapped", AnomalyKind::PortScan, 1), "once in a window");
    let told = host.told();
    let [scan] = told.as_slice() else { panic!("{told:?}") };
    assert!(scan.detail.starts_with("30 ports in "), "{}", scan.detail);
    assert_eq!(scan.remote.unwrap().ip(), Network::CLIENT4);
    assert!(!scan.first_bytes.is_empty());
}

#[test]
fn a_scan_by_datagrams() {
    let mut host = Host::new(&thresholds());
    let datagram = |port| to_server(&udp(Ports(40_000, port), b"?"));
    host.receive(&(0..29).map(|port| datagram(2_000 + port)).collect::<Vec<_>>());
    // More datagrams of the same flows are no attempts.
    host.receive(&(0..29).map(|port| datagram(2_000 + port)).collect::<Vec<_>>());
    assert_eq!(host.found(), [].into());
    host.receive(&[datagram(3_000)]);
    assert_eq!(host.found(), only("unmapped", AnomalyKind::PortScan, 1));
}

#[test]
fn a_horizontal_scan() {
    let mut host = Host::new(&thresholds());
    let at =
        |last: u8| between(Network::CLIENT4, Ipv4Addr::new(10, 77, 1, last), &tcp(Ports(40_000, PORT), SYN, 0, b""));
    host.receive(&(0..9).map(at).collect::<Vec<_>>());
    // What goes to groups is for whoever listens.
    let group = |last: u8| between(Network::CLIENT4, Ipv4Addr::new(239, 1, 1, last), &udp(Ports(9, PORT), b"prices"));
    host.receive(&(0..30).map(group).collect::<Vec<_>>());
    assert_eq!(host.found(), [].into());
    host.receive(&[at(9)]);
    assert_eq!(host.found(), only("orders", AnomalyKind::PortScan, 1));
    assert!(host.told()[0].detail.starts_with("10 addresses at one port in "));
}

#[test]
fn answers_from_many_ports_are_no_scan() {
    let mut host = Host::new(&thresholds());
    let ask = |port: u16| between(Network::SERVER4, Network::CLIENT4, &udp(Ports(5_000 + port, 53), b"?"));
    let answer = |port: u16| to_server(&udp(Ports(53, 5_000 + port), b"!"));
    let asked: Vec<_> = (0..100).map(ask).collect();
    host.network.server.run(|| send_frames(INTERFACE, &asked, 1)).unwrap();
    host.receive(&(0..100).map(answer).collect::<Vec<_>>());
    assert_eq!(host.found(), [].into());
}

#[test]
fn an_icmp_flood() {
    let mut host = Host::new(&thresholds());
    let echo = Layer::new(protocol::ICMP.into(), [0; 16]);
    let from = |last: u8| between(Ipv4Addr::new(10, 77, 2, last), Network::SERVER4, &echo);
    host.receive(&vec![from(1); 39]);
    assert_eq!(host.found(), [].into());
    host.receive(&vec![from(1); 20]);
    assert_eq!(host.found(), only("unmapped", AnomalyKind::IcmpFlood, 1));
    assert_eq!(host.told()[0].remote.unwrap().ip(), Ipv4Addr::new(10, 77, 2, 1));
    // A few of each of many.
    host.receive(&(2..42).map(from).collect::<Vec<_>>());
    assert_eq!(host.found(), only("unmapped", AnomalyKind::IcmpFlood, 1), "99 of all");
    host.receive(&[from(100)]);
    assert_eq!(host.found(), only("unmapped", AnomalyKind::IcmpFlood, 2));
    let told = host.told();
    assert_eq!((told[0].remote, told[0].detail.as_str()), (None, "100 messages of all sources in 10m"));
}

/// A window that can be waited for.
const WINDOW: Duration = Duration::from_secs(1);

#[test]
fn a_syn_flood() {
    let syn_flood = SynFlood { window: WINDOW, half_open: 60, completed_percent: 50 };
    let mut host = Host::new(&Thresholds { syn_flood, ..Thresholds::default() });
    let from = |number: u32| {
        let [_, _, a, b] = number.to_be_bytes();
        between(Ipv4Addr::new(172, 16, a, b), Network::SERVER4, &tcp(Ports(40_000, PORT), SYN, 0, b""))
    };
    // The first begins a window, and is not in it.
    host.receive(&[from(0)]);
    wait_for_end(WINDOW);
    host.receive(&(1..60).map(from).collect::<Vec<_>>());
    wait_for_end(WINDOW);
    host.receive(&[from(60)]);
    assert_eq!(host.found(), [].into(), "at most 59 in one");
    wait_for_end(WINDOW);
    host.receive(&(61..161).map(from).collect::<Vec<_>>());
    wait_for_end(WINDOW);
    host.receive(&[from(200)]);
    assert_eq!(host.found(), only("orders", AnomalyKind::SynFlood, 1));
    let told = host.told();
    assert!(told[0].detail.contains("100 connections begun in 1s, 0 of them completed"), "{}", told[0].detail);
    assert_eq!(told[0].remote, None, "nobody in particular");
}
