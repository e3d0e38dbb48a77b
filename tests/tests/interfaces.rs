//! Interfaces that come and go while the exporter runs.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    io::{Read as _, Write as _},
    net::IpAddr,
    slice::from_ref,
    time::Duration,
};

use tidewaiter::interfaces::{Follower, statistics};
use tidewaiter_common::{direction::Direction, transport::Transport};
use tidewaiter_tests::{
    command::output,
    exporter::Exporter,
    frames::{Kind, frame},
    metrics::Count,
    namespace::Namespace,
    network::send_frames,
    tap,
    wait::wait_until,
};
use tokio::time::timeout;

const CONFIGURATION: &str = "
    interfaces = [\"ship*\"]
    [[api]]
    name = \"orders\"
    ports = [8080]
";

/// Adds a veth pair of which one end has `name`; both say no word of their own.
fn add(namespace: &Namespace, name: &str) {
    namespace.ip(&format!("link add {name} type veth peer name p-{name}"));
    for end in [name, &format!("p-{name}")] {
        namespace.ip(&format!("link set {end} arp off multicast off up addrgenmode none"));
    }
}

/// Sends `count` packets from the port of the API out of `interface`, of 100 bytes each.
fn transmit(namespace: &Namespace, interface: &str, count: usize) {
    let kind = Kind { transport: Transport::Tcp, options: false, payload: 46 };
    let frame = frame(kind, ([10, 0, 0, 1].into(), 8080), ([10, 0, 0, 2].into(), 40_000));
    namespace.run(|| send_frames(interface, &[frame], count)).expect("is sent");
}

fn transmitted(exporter: &Exporter<'_>, interface: &str) -> Count {
    exporter.metrics().interface(interface, Direction::Transmit)
}

fn is_accounted(exporter: &Exporter<'_>, interface: &str) -> bool {
    let labels = [("interface", interface), ("direction", "transmit")];
    exporter.metrics().get("tidewaiter_interface_packets_total", &labels).is_some()
}

const fn packets(packets: u64) -> Count {
    Count { packets, bytes: packets * 100 }
}

#[test]
fn interfaces_are_followed_and_their_last_totals_kept() {
    let namespace = Namespace::new();
    add(&namespace, "ship0");
    add(&namespace, "boat0");
    let exporter = Exporter::start(&namespace, CONFIGURATION);
    transmit(&namespace, "ship0", 10);
    transmit(&namespace, "boat0", 1);
    assert_eq!(transmitted(&exporter, "ship0"), packets(10));
    assert!(!is_accounted(&exporter, "boat0") && !is_accounted(&exporter, "lo"), "only what matches is accounted");

    // One appears.
    add(&namespace, "ship1");
    wait_until("the new interface to be accounted", || is_accounted(&exporter, "ship1"));
    transmit(&namespace, "ship1", 20);
    assert_eq!(transmitted(&exporter, "ship1"), packets(20));

    // One vanishes, and its totals stay.
    namespace.ip("link delete ship0");
    wait_until("the interface to be gone", || !is_accounted(&exporter, "ship0"));
    assert_eq!(transmitted(&exporter, "gone"), packets(10));

    // One of the same name is another interface.
    add(&namespace, "ship0");
    wait_until("the interface to be accounted again", || is_accounted(&exporter, "ship0"));
    transmit(&namespace, "ship0", 5);
    assert_eq!((transmitted(&exporter, "ship0"), transmitted(&exporter, "gone")), (packets(5), packets(10)));

    // A new name ends the old one's series and begins another.
    namespace.ip("link set ship1 down");
    namespace.ip("link set ship1 name ship2");
    namespace.ip("link set ship2 up");
    wait_until("the new name to be accounted", || is_accounted(&exporter, "ship2"));
    transmit(&namespace, "ship2", 3);
    let now = ["ship0", "ship1", "ship2", "gone"].map(|name| transmitted(&exporter, name));
    assert_eq!(now, [packets(5), packets(0), packets(3), packets(30)]);

    let metrics = exporter.metrics();
    assert_eq!(metrics.api("orders", "server", Direction::Transmit), packets(38), "the API's total has lost nothing");
    metrics.assert_the_sums_prove_it();
    assert!(exporter.is_running());
}

#[test]
fn readiness_is_being_attached() {
    let namespace = Namespace::new();
    add(&namespace, "ship0");
    let exporter = Exporter::start(&namespace, CONFIGURATION);
    namespace.ip("link delete ship0");
    wait_until("the exporter to be unready", || exporter.status("/readyz") == Some(503));
    assert_eq!(exporter.status("/healthz"), Some(200), "it is alive all the same");
    add(&namespace, "ship1");
    wait_until("the exporter to be ready again", || exporter.status("/readyz") == Some(200));
}

#[test]
fn slots_are_enough_for_interfaces_that_come_and_go_for_ever() {
    let namespace = Namespace::new();
    add(&namespace, "ship");
    let exporter = Exporter::start(&namespace, CONFIGURATION);
    // More in all than there are slots, but never many at a time.
    for _ in 0..6 {
        let batch = "for i in $(seq 1 50); do echo link add ship$i type veth peer name p$i; done | ip -batch -";
        output(namespace.command("sh").args(["-c", batch]));
        wait_until("all to be accounted", || is_accounted(&exporter, "ship50"));
        let batch = "for i in $(seq 1 50); do echo link delete ship$i; done | ip -batch -";
        output(namespace.command("sh").args(["-c", batch]));
        wait_until("all to be gone", || !is_accounted(&exporter, "ship50"));
    }
    transmit(&namespace, "ship", 7);
    assert_eq!(transmitted(&exporter, "ship"), packets(7));
    // Slots come free a second after their interfaces are gone: those that found none were tried again.
    assert!(exporter.is_running());
}

#[test]
fn the_default_is_the_interfaces_of_default_routes_and_loopback() {
    let namespace = Namespace::new();
    for name in ["up4", "up6", "hop1", "hop2", "aside"] {
        add(&namespace, name);
    }
    let exporter = Exporter::start(&namespace, "[[api]]\nname = \"orders\"\nports = [8080]");
    assert!(is_accounted(&exporter, "lo") && !is_accounted(&exporter, "up4"));

    namespace.ip("address add 10.1.0.1/24 dev up4");
    namespace.ip("route add default via 10.1.0.2 dev up4");
    wait_until("the IPv4 route to be followed", || is_accounted(&exporter, "up4"));
    namespace.ip("-6 route add default dev up6");
    wait_until("the IPv6 route to be followed", || is_accounted(&exporter, "up6"));
    namespace.ip("route replace default nexthop dev hop1 nexthop dev hop2");
    wait_until("both hops to be followed", || is_accounted(&exporter, "hop1") && is_accounted(&exporter, "hop2"));
    wait_until("the old route's interface to be left", || !is_accounted(&exporter, "up4"));
    assert!(is_accounted(&exporter, "lo") && !is_accounted(&exporter, "aside"));
}

#[test]
fn an_interface_without_ethernet_headers_is_accounted_like_any_other() {
    // Fewer than the device's queue of 500 has room for.
    const TIMES: usize = 400;
    let namespace = Namespace::new();
    let mut tun = tap::tun(&namespace, "ship-tun");
    // No word of its own.
    namespace.ip("link set ship-tun addrgenmode none multicast off");
    namespace.ip("link set ship-tun up");
    let exporter = Exporter::start(&namespace, CONFIGURATION);
    let before = namespace.run(statistics).expect("can be read")["ship-tun"];

    let mut expected = [Count::default(); 2];
    let mut to_api = Count::default();
    let families: [[IpAddr; 2]; 2] = [
        [[10, 0, 0, 2].into(), [10, 0, 0, 1].into()],
        [[2, 2, 2, 2, 2, 2, 2, 2].into(), [1, 1, 1, 1, 1, 1, 1, 1].into()],
    ];
    for [client, server] in families {
        for (transport, is_of_api) in [(Transport::Tcp, true), (Transport::Udp, false), (Transport::Sctp, false)] {
            let kind = Kind { transport, options: true, payload: 46 };
            // A packet of it is what follows the Ethernet header.
            let received = frame(kind, (client, 40_000), (server, 8080)).split_off(14);
            let transmitted = frame(kind, (server, 8080), (client, 40_000)).split_off(14);
            let count = Count { packets: TIMES as u64, bytes: (TIMES * received.len()) as u64 };
            for _ in 0..TIMES {
                tun.write_all(&received).expect("is taken");
            }
            namespace.run(|| send_frames("ship-tun", from_ref(&transmitted), TIMES)).expect("is sent");
            let mut packet = vec![0; 2 * transmitted.len()];
            for _ in 0..TIMES {
                let length = tun.read(&mut packet).expect("is there");
                assert_eq!(packet[..length], transmitted);
            }
            expected = expected.map(|sum| sum + count);
            if is_of_api {
                to_api = to_api + count;
            }
        }
    }

    let after = namespace.run(statistics).expect("can be read")["ship-tun"];
    let metrics = exporter.metrics();
    for direction in Direction::ALL {
        let at = direction.index();
        assert_eq!(metrics.interface("ship-tun", direction), expected[at], "{}", direction.as_str());
        let kernel =
            Count { packets: after.packets[at] - before.packets[at], bytes: after.bytes[at] - before.bytes[at] };
        assert_eq!(kernel, expected[at], "{}", direction.as_str());
        assert_eq!(metrics.api("orders", "server", direction), to_api, "{}", direction.as_str());
        let ratio = format!("tidewaiter_coverage_ratio{{direction=\"{}\",interface=\"ship-tun\"}}", direction.as_str());
        assert_eq!(metrics.0.get(&ratio), Some(&1.0), "{ratio}");
    }
    metrics.assert_the_sums_prove_it();
}

#[test]
fn a_change_is_not_lost_to_something_else_that_happens() {
    let namespace = Namespace::new();
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds");
        runtime.block_on(async {
            let mut follower = Follower::new().expect("netlink is there");
            add(&namespace, "ship0");
            // Something else is ready while the change settles, and this is dropped.
            timeout(Duration::from_millis(10), follower.changed()).await.expect_err("changes settle first");
            timeout(Duration::from_secs(2), follower.changed()).await.expect("the change is told");
            let links = follower.links().await.expect("can be listed");
            assert!(links.interfaces.iter().any(|interface| interface.name == "ship0"));
            timeout(Duration::from_secs(1), follower.changed()).await.expect_err("nothing else has changed");
        });
    });
}

#[test]
fn interfaces_are_followed_while_sockets_are_watched() {
    let namespace = Namespace::new();
    add(&namespace, "ship0");
    let exporter = Exporter::start(&namespace, "interfaces = [\"ship*\"]\n[discovery]\ninterval = \"1s\"");
    for round in 1..=10 {
        let name = format!("ship{round}");
        add(&namespace, &name);
        wait_until("the new interface to be accounted", || is_accounted(&exporter, &name));
    }
    let labels = [("collector", "discovery")];
    assert_eq!(exporter.metrics().get("tidewaiter_collector_success", &labels), Some(1));
}
