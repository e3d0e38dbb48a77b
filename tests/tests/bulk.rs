//! Bulk traffic with super-packets: packets and bytes are those of the wire, to the packet.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_setaffinity};
use tidewaiter::{api::Transport, kernel::FlowTable, snapshot::Counters};
use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    accounting::{account, counted, flows},
    bpf::{Link, Program},
    bulk::{Datagrams, Streams},
    command::output,
    exporter::Exporter,
    frames::{Kind, frame},
    metrics::{Count, Metrics},
    network::{INTERFACE, KernelCounters, Network, Offload, send_frames},
};

const CONFIGURATION: &str = r#"
    interfaces = ["wire"]
    [[api]]
    name = "orders"
    ports = ["8080-8099"]
    transport = ["tcp", "udp"]
    [[api]]
    name = "tunnel"
    ports = [4789]
    transport = "udp"
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
fn assert_agreement(
    network: &Network,
    exporter: &Exporter<'_>,
    before: KernelCounters,
    offload: Offload,
    what: &str,
) -> Metrics {
    // A last acknowledgement may still be under way between the two looks.
    let (mut kernel, mut metrics) = look(network, exporter, before, offload);
    for _ in 0..3 {
        if kernel.map(|count| count.packets) == seen(&metrics).map(|count| count.packets) {
            break;
        }
        network.wait_until_quiet();
        (kernel, metrics) = look(network, exporter, before, offload);
    }
    metrics.assert_the_sums_prove_it();
    for (direction, count) in Direction::ALL.into_iter().zip(seen(&metrics)) {
        let buffers = buffers(&metrics, INTERFACE, direction);
        eprintln!("{what}, {offload:?}, {}: {count:?}, {buffers} buffers", direction.as_str());
        assert_eq!(count, kernel[direction.index()], "{what}, {offload:?}, {}", direction.as_str());
        if offload == Offload::Both || direction == Direction::Transmit {
            assert!(buffers * 2 < count.packets, "{what}: {buffers} buffers, {} packets", count.packets);
        }
    }
    metrics
}

/// What the device and the exporter have counted by now.
fn look(network: &Network, exporter: &Exporter<'_>, before: KernelCounters, offload: Offload) -> ([Count; 2], Metrics) {
    let KernelCounters { packets, bytes, .. } = (network.kernel_counters() - before).on_the_wire(offload);
    ([0, 1].map(|at| Count { packets: packets[at], bytes: bytes[at] }), exporter.metrics())
}

fn seen(metrics: &Metrics) -> [Count; 2] {
    Direction::ALL.map(|direction| metrics.interface(INTERFACE, direction))
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

#[test]
fn what_a_tunnel_over_ipv4_carries_is_counted_as_the_wire_carries_it() {
    tunnel(Offload::Transmit, 4);
    tunnel(Offload::Both, 4);
}

#[test]
fn what_a_tunnel_over_ipv6_carries_is_counted_as_the_wire_carries_it() {
    tunnel(Offload::Both, 6);
}

/// Carries TCP and UDP over both versions through a VXLAN tunnel over IP of `version`.
fn tunnel(offload: Offload, version: u8) {
    let network = network(offload);
    for (host, [local, remote], end) in [
        (&network.server, ends(Network::SERVERS, Network::CLIENTS, version), 1),
        (&network.client, ends(Network::CLIENTS, Network::SERVERS, version), 2),
    ] {
        let checksums = if version == 4 { "noudpcsum" } else { "udp6zerocsumtx udp6zerocsumrx" };
        host.ip(&format!(
            "link add tunnel type vxlan id 42 dstport 4789 local {local} remote {remote} dev {INTERFACE} {checksums}"
        ));
        host.ip("link set tunnel addrgenmode none multicast off up");
        host.ip(&format!("address add 10.79.0.{end}/24 dev tunnel"));
        host.ip(&format!("address add fd79::{end}/64 dev tunnel nodad"));
    }
    network.wait_until_quiet();
    let exporter = Exporter::start(&network.server, CONFIGURATION);
    let before = network.kernel_counters();
    let start = Instant::now();
    let within: [SocketAddr; 2] = ["10.79.0.1:8080", "[fd79::1]:8080"].map(|address| address.parse().unwrap());
    let streams = Streams { count: 2, bytes: 50_000_000, buffer: 16_384 };
    streams.run(&network.server, &network.client, &within);
    for server in within {
        let datagrams = Datagrams { count: 2, rounds: 1_000, segments: 20, size: 1_000 };
        datagrams.run(&network.server, &network.client, server);
    }
    let what = format!("VXLAN in IPv{version}");
    eprintln!("{what}, {offload:?}: {:?}", start.elapsed());
    let metrics = assert_agreement(&network, &exporter, before, offload, &what);
    // What is within is not looked at for APIs: the tunnel's own server is.
    let received = metrics.api("tunnel", "server", Direction::Receive);
    assert!(received.packets > 100_000, "{received:?}");
    assert_eq!(metrics.api("orders", "server", Direction::Receive), Count::default());
}

#[test]
fn super_packets_with_tags_are_counted_to_the_packet() {
    // (What is received with tags is not merged by a kernel without VLAN devices.)
    let offload = Offload::Transmit;
    let network = network(offload);
    // What is transmitted gets a tag, which the stack writes into the frame before the device counts it, and what is
    // received loses it again behind our program.
    let links: Vec<Link> = [&network.server, &network.client]
        .into_iter()
        .flat_map(|host| {
            output(host.command("ethtool").args(["-K", INTERFACE, "txvlan", "off", "rxvlan", "off"]));
            let index = host.index(INTERFACE);
            host.run(|| {
                [
                    Program::push_tag(7).attach(index, Direction::Transmit),
                    Program::pop_tag().attach(index, Direction::Receive),
                ]
            })
        })
        .collect();
    network.wait_until_quiet();
    let exporter = Exporter::start(&network.server, CONFIGURATION);
    let before = network.kernel_counters();
    let addresses = Network::SERVERS.map(|server| SocketAddr::new(server, 8080));
    Streams { count: 2, bytes: 50_000_000, buffer: 16_384 }.run(&network.server, &network.client, &addresses);
    let metrics = assert_agreement(&network, &exporter, before, offload, "tagged");
    let Count { packets, bytes } = metrics.api("orders", "server", Direction::Transmit);
    assert!(packets > 100_000 && bytes > 200_000_000, "{packets} packets, {bytes} bytes");
    drop(links);
}

#[test]
fn millions_of_packets_on_all_cpus_at_once_are_counted_to_the_packet() {
    const FLOWS: u16 = 16;
    const RECEIVED: u32 = 125_000;
    const TRANSMITTED: usize = 50_000;
    // A veth device takes frames of XDP only if its peer merges, or has a program itself.
    let network = network(Offload::Both);
    let Network { server, client } = &network;
    // What merges has a ring that can be full: only one CPU may fill it, which then empties it.
    output(client.command("ethtool").args(["-K", INTERFACE, "gro", "off"]));
    for host in [client, server] {
        output(host.command("ethtool").args(["-L", INTERFACE, "rx", "2", "tx", "2"]));
    }
    network.wait_until_quiet();
    let mut accounting = account(server, INTERFACE, 1024, Duration::MAX);
    let before = network.kernel_counters();
    let kind = Kind { transport: Transport::Udp, options: false, payload: 22 };
    let ours = (Network::SERVERS[0], 8080);
    let theirs = |flow| (Network::CLIENTS[0], 40_000 + flow);
    let index = client.index(INTERFACE);
    let start = Instant::now();
    thread::scope(|scope| {
        for cpu in 0..2 {
            scope.spawn(move || {
                client.run(|| {
                    stay_on(cpu);
                    let program = Program::redirect(index);
                    for flow in 0..FLOWS {
                        program.run_live(&frame(kind, theirs(flow), ours), RECEIVED).expect("is run");
                    }
                });
            });
            scope.spawn(move || {
                server.run(|| {
                    stay_on(cpu);
                    let frames: Vec<_> = (0..FLOWS).map(|flow| frame(kind, ours, theirs(flow))).collect();
                    send_frames(INTERFACE, &frames, TRANSMITTED).expect("is sent");
                });
            });
        }
    });
    let took = start.elapsed();

    let length = frame(kind, theirs(0), ours).len() as u64;
    let each = [2 * u64::from(RECEIVED), 2 * TRANSMITTED as u64];
    let sent = each.map(|packets| packets * u64::from(FLOWS));
    let kernel = network.kernel_counters() - before;
    eprintln!("{sent:?} packets in {took:?}, of which the device has {kernel:?}");
    let kernel = kernel.on_the_wire(Offload::Both);
    assert_eq!(kernel.packets, sent, "the generators have lost some");

    let counters = |packets: [u64; 2]| packets.map(|packets| Counters { packets, bytes: packets * length });
    let (orders, unmapped, interface) = counted(&mut accounting);
    assert_eq!(interface.totals.map(|totals| totals.wire), counters(sent));
    assert_eq!(orders.wire, counters(sent));
    assert_eq!((orders.untracked.packets, unmapped.wire), (0, Default::default()));
    let flows = flows(&mut accounting, FlowTable::Established);
    assert_eq!(flows.len(), usize::from(FLOWS));
    for (key, flow) in flows {
        assert_eq!(flow.wire(), counters(each), "{key:?}");
    }
}

/// Keeps this thread on one CPU.
fn stay_on(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu % thread::available_parallelism().expect("is known").get());
    sched_setaffinity(None, &cpus).expect("is permitted");
}

/// The addresses of `from` and `to` with IP version `version`.
fn ends(from: [IpAddr; 2], to: [IpAddr; 2], version: u8) -> [IpAddr; 2] {
    [from, to].map(|[ipv4, ipv6]| if version == 4 { ipv4 } else { ipv6 })
}
