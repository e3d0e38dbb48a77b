//! Every packet is counted once, for the right API, and the sums are what the kernel counted.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use tidewaiter_common::{direction::Direction, transport::Transport};
use tidewaiter_tests::{
    exporter::Exporter,
    frames::{Kind, frame},
    metrics::Count,
    namespace::Namespace,
    network::{INTERFACE, Network, Offload, send_frames},
    traffic::exchange,
    wait::wait_for,
};

const CONFIGURATION: &str = r#"
    interfaces = ["wire"]
    [[api]]
    name = "orders"
    ports = [8080, "9000-9010"]
    [[api]]
    name = "names"
    ports = [53]
    transport = "udp"
    [[api]]
    name = "both"
    ports = [443]
    transport = ["tcp", "udp"]
    [[api]]
    name = "upstream"
    ports = [5432]
    role = "client"
    [[api]]
    name = "left"
    ports = [7000]
    address = "10.77.0.1"
    [[api]]
    name = "right"
    ports = [7000]
    address = "fd77::1"
"#;

#[test]
fn crafted_packets_of_every_kind_are_counted_exactly() {
    const TIMES: usize = 1_000;
    let network = Network::new(Offload::Off);
    let exporter = Exporter::start(&network.server, CONFIGURATION);
    let before = network.kernel_counters();

    // To the server, and back from it: what the port is, and whose.
    let ports = [
        (Transport::Tcp, 8080, "orders"),
        (Transport::Tcp, 9010, "orders"),
        (Transport::Udp, 8080, "unmapped"),
        (Transport::Udp, 53, "names"),
        (Transport::Tcp, 53, "unmapped"),
        (Transport::Tcp, 443, "both"),
        (Transport::Udp, 443, "both"),
        (Transport::Tcp, 9011, "unmapped"),
        (Transport::Tcp, 7000, "left or right"),
    ];
    let families: [(IpAddr, IpAddr); 2] =
        [(Network::CLIENT4.into(), Network::SERVER4.into()), (Network::CLIENT6.into(), Network::SERVER6.into())];
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let mut expected: Vec<(&str, Direction, Count)> = Vec::new();
    for (client, server) in families {
        for (transport, port, api) in ports {
            let api = match api {
                "left or right" if server.is_ipv4() => "left",
                "left or right" => "right",
                api => api,
            };
            for options in [false, true] {
                for payload in [0, 1, 1000] {
                    let kind = Kind { transport, options, payload };
                    to_server.push(frame(kind, (client, 40_000), (server, port)));
                    to_client.push(frame(kind, (server, port), (client, 40_000)));
                    for (direction, frames) in [(Direction::Receive, &to_server), (Direction::Transmit, &to_client)] {
                        let bytes = frames.last().unwrap().len() * TIMES;
                        expected.push((api, direction, Count { packets: TIMES as u64, bytes: bytes as u64 }));
                    }
                }
            }
        }
    }
    // The far end hears what it did not ask for: silence, or its answers would be counted too.
    for (host, frames) in [(&network.client, &to_server), (&network.server, &to_client)] {
        host.run(|| send_frames(INTERFACE, frames, TIMES)).expect("is sent");
    }

    let metrics = exporter.agree_with_kernel(&network, before);
    for api in ["orders", "names", "both", "upstream", "left", "right", "unmapped"] {
        for direction in Direction::ALL {
            let role = match api {
                "unmapped" => "none",
                "upstream" => "client",
                _ => "server",
            };
            let sum = expected.iter().filter(|one| (one.0, one.1) == (api, direction)).fold(
                Count::default(),
                |sum, (_, _, count)| Count { packets: sum.packets + count.packets, bytes: sum.bytes + count.bytes },
            );
            assert_eq!(metrics.api(api, role, direction), sum, "{api} {}", direction.as_str());
        }
    }
    assert_eq!(metrics.interface(INTERFACE, Direction::Receive).packets, (to_server.len() * TIMES) as u64);
}

#[test]
fn a_client_of_ours_is_told_from_a_server() {
    let network = Network::new(Offload::Off);
    let exporter = Exporter::start(&network.server, CONFIGURATION);
    let (us, database) = ((Network::SERVER4.into(), 45_000), (Network::CLIENT4.into(), 5432));
    let kind = Kind { transport: Transport::Tcp, options: false, payload: 10 };
    let (question, answer) = (frame(kind, us, database), frame(kind, database, us));
    let length = question.len() as u64;
    network.server.run(|| send_frames(INTERFACE, &[question], 7)).expect("is sent");
    network.client.run(|| send_frames(INTERFACE, &[answer], 5)).expect("is sent");

    let metrics = wait_for("the answers to arrive", || {
        let metrics = exporter.metrics();
        (metrics.api("upstream", "client", Direction::Receive).packets == 5).then_some(metrics)
    });
    let counts = Direction::ALL.map(|direction| metrics.api("upstream", "client", direction));
    let count = |packets| Count { packets, bytes: packets * length };
    assert_eq!(counts, [count(5), count(7)]);
}

#[test]
fn real_connections_over_ipv4_and_ipv6_add_up() {
    let network = Network::new(Offload::Off);
    let exporter = Exporter::start(&network.server, CONFIGURATION);
    let before = network.kernel_counters();
    for server in Network::SERVERS {
        exchange(&network.server, &network.client, SocketAddr::new(server, 8080), &[1, 1_000, 1_000_000]);
    }
    network.wait_until_quiet();
    let metrics = exporter.agree_with_kernel(&network, before);
    for direction in Direction::ALL {
        let Count { packets, bytes } = metrics.api("orders", "server", direction);
        // All of the payload, in packets of 1448 bytes at the most, and not many more.
        assert!(bytes > 2_002_002 && bytes < 2_400_000, "{bytes} bytes");
        assert!(packets > 2 * 692 && packets < 4_000, "{packets} packets");
    }
}

#[test]
fn real_datagrams_over_ipv4_and_ipv6_are_counted_exactly() {
    let network = Network::new(Offload::Off);
    let exporter = Exporter::start(&network.server, CONFIGURATION);
    let before = network.kernel_counters();
    for server in Network::SERVERS {
        let server = SocketAddr::new(server, 53);
        let answering = network.server.run(|| UdpSocket::bind(server)).expect("is free");
        network.client.run(|| {
            let any: IpAddr =
                if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let asking = UdpSocket::bind((any, 0)).expect("is free");
            let mut buffer = [0; 2000];
            for _ in 0..500 {
                asking.send_to(&[0; 100], server).expect("is sent");
                let (length, client) = answering.recv_from(&mut buffer).expect("a question");
                assert_eq!(length, 100);
                answering.send_to(&[0; 1000], client).expect("is sent");
                assert_eq!(asking.recv(&mut buffer).expect("an answer"), 1000);
            }
        });
    }
    let metrics = exporter.agree_with_kernel(&network, before);
    let bytes = |payload: u64| 500 * ((14 + 20 + 8 + payload) + (14 + 40 + 8 + payload));
    let expected = [100, 1000].map(|payload| Count { packets: 1000, bytes: bytes(payload) });
    assert_eq!(Direction::ALL.map(|direction| metrics.api("names", "server", direction)), expected);
}

#[test]
fn super_packets_count_as_the_packets_that_they_are_on_the_wire() {
    // With segmentation done by the stack, not by the device, the device counts what is on the wire.
    for offload in [Offload::Transmit, Offload::Both] {
        let network = Network::new(offload);
        let exporter = Exporter::start(&network.server, CONFIGURATION);
        let before = network.kernel_counters();
        for server in Network::SERVERS {
            exchange(&network.server, &network.client, SocketAddr::new(server, 8080), &[5_000_000]);
        }
        network.wait_until_quiet();

        let kernel = (network.kernel_counters() - before).on_the_wire(offload);
        let metrics = exporter.metrics();
        metrics.assert_the_sums_prove_it();
        for direction in Direction::ALL {
            let count = metrics.interface(INTERFACE, direction);
            let expected = Count { packets: kernel.packets[direction.index()], bytes: kernel.bytes[direction.index()] };
            assert_eq!(count, expected, "{offload:?}, {}", direction.as_str());
            let labels = [("interface", INTERFACE), ("direction", direction.as_str())];
            let buffers = metrics.get("tidewaiter_interface_buffers_total", &labels).expect("is there");
            if offload == Offload::Both || direction == Direction::Transmit {
                assert!(buffers * 3 < count.packets, "{buffers} buffers, {} packets", count.packets);
            }
        }
    }
}

#[test]
fn the_other_sight_of_loopback_traffic_is_a_mirror() {
    let namespace = Namespace::new();
    let configuration = CONFIGURATION.replace("wire", "lo");
    let exporter = Exporter::start(&namespace, &configuration);
    let before = exporter.metrics();
    exchange(&namespace, &namespace, SocketAddr::from(([127, 0, 0, 1], 8080)), &[100]);

    let after = exporter.metrics();
    after.assert_the_sums_prove_it();
    let [received, transmitted] = Direction::ALL.map(|direction| after.api("orders", "server", direction));
    assert!(received.packets >= 4 && transmitted.packets >= 3, "{received:?} {transmitted:?}");
    // The client's end sees the server's packets arrive, and its own leave.
    let mirrored = |direction| {
        let [then, now] = [&before, &after].map(|metrics| metrics.uncounted("lo", direction, "mirror"));
        Count { packets: now.packets - then.packets, bytes: now.bytes - then.bytes }
    };
    assert_eq!(Direction::ALL.map(mirrored), [transmitted, received]);
}
