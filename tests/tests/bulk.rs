//! Bulk traffic with super-packets: packets and bytes are those of the wire, to the packet.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{net::SocketAddr, time::Instant};

use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    bulk::{Datagrams, Streams},
    command::output,
    exporter::Exporter,
    metrics::{Count, Metrics},
    network::{INTERFACE, KernelCounters, Network, Offload},
};

const CONFIGURATION: &str = r#"
    interfaces = ["wire"]
    [[api]]
    name = "orders"
    ports = ["8080-8099"]
    transport = ["tcp", "udp"]
"#;

/// A veth device takes super-packets of UDP, and of tunnels, even where it takes none of TCP.
const TAKE_NONE: [&str; 8] = [
    "tx-udp-segmentation",
    "off",
    "tx-udp_tnl-segmentation",
    "off",
    "tx-udp_tnl-csum-segmentation",
    "off",
    "tx-gso-list",
    "off",
];

/// A network whose devices count packets as they are on the wire.
fn network(offload: Offload) -> Network {
    let network = Network::new(offload);
    for host in [&network.server, &network.client] {
        output(host.command("ethtool").args(["-K", INTERFACE]).args(TAKE_NONE));
    }
    network
}

fn buffers(metrics: &Metrics, interface: &str, direction: Direction) -> u64 {
    let labels = [("interface", interface), ("direction", direction.as_str())];
    metrics.get("tidewaiter_interface_buffers_total", &labels).expect("is there")
}

/// Sees that the exporter has counted what the device has since `before`, and that super-packets have passed where `offload`
/// makes them.
fn assert_agreement(network: &Network, exporter: &Exporter<'_>, before: KernelCounters, offload: Offload, what: &str) {
    let start = Instant::now();
    network.wait_until_quiet();
    let kernel = (network.kernel_counters() - before).on_the_wire(offload);
    let metrics = exporter.metrics();
    metrics.assert_the_sums_prove_it();
    for direction in Direction::ALL {
        let count = metrics.interface(INTERFACE, direction);
        let buffers = buffers(&metrics, INTERFACE, direction);
        let at = direction.index();
        let expected = Count { packets: kernel.packets[at], bytes: kernel.bytes[at] };
        eprintln!("{what}, {offload:?}, {}: {count:?}, {buffers} buffers, {:?}", direction.as_str(), start.elapsed());
        assert_eq!(count, expected, "{what}, {offload:?}, {}", direction.as_str());
        if offload == Offload::Both || direction == Direction::Transmit {
            assert!(buffers * 3 < count.packets, "{what}: {buffers} buffers, {} packets", count.packets);
        }
    }
}

#[test]
fn many_connections_both_ways_are_counted_to_the_packet() {
    for offload in [Offload::Transmit, Offload::Both] {
        let network = network(offload);
        let exporter = Exporter::start(&network.server, CONFIGURATION);
        let before = network.kernel_counters();
        let start = Instant::now();
        let addresses = Network::SERVERS.map(|server| SocketAddr::new(server, 8080));
        Streams { count: 3, bytes: 100_000_000, buffer: 16_384 }.run(&network.server, &network.client, &addresses);
        eprintln!("TCP, {offload:?}: {:?}", start.elapsed());
        assert_agreement(&network, &exporter, before, offload, "TCP");
    }
}

#[test]
fn datagrams_in_super_packets_are_counted_to_the_packet() {
    for offload in [Offload::Transmit, Offload::Both] {
        let network = network(offload);
        let exporter = Exporter::start(&network.server, CONFIGURATION);
        let before = network.kernel_counters();
        let start = Instant::now();
        for (server, size) in Network::SERVERS.into_iter().zip([1_400, 1_000]) {
            let datagrams = Datagrams { count: 2, rounds: 5_000, segments: 30, size };
            datagrams.run(&network.server, &network.client, SocketAddr::new(server, 8080));
        }
        eprintln!("UDP, {offload:?}: {:?}", start.elapsed());
        assert_agreement(&network, &exporter, before, offload, "UDP");
    }
}
