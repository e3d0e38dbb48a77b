//! What a device counts is what is said of it, and so our counts can be held against the kernel's.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{net::SocketAddr, time::Duration};

use tidewaiter::interfaces::{Follower, Interface, Links, Unit, Unknown, coverage, statistics};
use tidewaiter_common::{counters::Counters, direction::Direction, interface::InterfaceTotals};
use tidewaiter_tests::{
    command::output,
    exporter::Exporter,
    namespace::Namespace,
    network::{INTERFACE, Network, Offload},
    tap,
    traffic::exchange,
};
use tokio::{runtime::Builder, time::timeout};

/// Turns super-packets of all kinds off that a device may be given; the stack makes them all the same.
const TAKE_NONE: [&str; 6] = ["tso", "off", "tx-udp-segmentation", "off", "tx-sctp-segmentation", "off"];
/// What a veth device has from the start.
const DEFAULTS: [&str; 10] =
    ["tso", "on", "gso", "on", "gro", "off", "tx-udp-segmentation", "on", "tx-sctp-segmentation", "on"];

/// What was counted for one direction of an interface.
#[derive(Clone, Copy, Debug)]
struct Counted {
    ours: InterfaceTotals,
    kernel: u64,
}

impl Counted {
    fn since(self, before: Self) -> Self {
        let wire = Counters {
            packets: self.ours.wire.packets - before.ours.wire.packets,
            bytes: self.ours.wire.bytes - before.ours.wire.bytes,
        };
        let buffers = self.ours.buffers - before.ours.buffers;
        Self { ours: InterfaceTotals { wire, buffers }, kernel: self.kernel - before.kernel }
    }

    fn coverage(self, unit: Option<Unit>) -> Option<f64> {
        coverage(unit, self.ours, self.kernel)
    }

    /// Whether super-packets have passed, and enough to tell one unit from the other.
    fn has_super_packets(self) -> bool {
        self.ours.wire.packets > 3 * self.ours.buffers
    }
}

fn start<'a>(host: &'a Namespace, interface: &str) -> Exporter<'a> {
    Exporter::start(host, &format!("interfaces = [{interface:?}]\n[[api]]\nname = \"web\"\nports = [8080]"))
}

fn counted(exporter: &Exporter<'_>, interface: &str) -> [Counted; Direction::COUNT] {
    let kernel = exporter.namespace.run(statistics).expect("can be read")[interface];
    let metrics = exporter.metrics();
    Direction::ALL.map(|direction| {
        let count = metrics.interface(interface, direction);
        let labels = [("interface", interface), ("direction", direction.as_str())];
        let buffers = metrics.get("tidewaiter_interface_buffers_total", &labels).expect("is there");
        let wire = Counters { packets: count.packets, bytes: count.bytes };
        Counted { ours: InterfaceTotals { wire, buffers }, kernel: kernel.packets[direction.index()] }
    })
}

/// What `exporter` and the kernel count for `interface` of the server of `network`, while 4 MB go each way to `server`.
fn exchanged(network: &Network, exporter: &Exporter<'_>, interface: &str, server: [u8; 4]) -> [Counted; 2] {
    network.wait_until_quiet();
    let before = counted(exporter, interface);
    exchange(&network.server, &network.client, SocketAddr::from((server, 8080)), &[4_000_000]);
    network.wait_until_quiet();
    let after = counted(exporter, interface);
    Direction::ALL.map(Direction::index).map(|direction| after[direction].since(before[direction]))
}

fn links(host: &Namespace) -> Links {
    host.run(|| {
        let runtime = Builder::new_current_thread().enable_all().build().expect("builds");
        runtime.block_on(async { Follower::new().expect("netlink is there").links().await.expect("can be listed") })
    })
}

fn interface<'a>(links: &'a Links, name: &str) -> &'a Interface {
    links.interfaces.iter().find(|interface| interface.name == name).expect("is there")
}

fn units(host: &Namespace, name: &str) -> [Result<Unit, Unknown>; Direction::COUNT] {
    let links = links(host);
    links.units(interface(&links, name))
}

fn switch(host: &Namespace, interface: &str, switches: &[&str]) {
    output(host.command("ethtool").args(["-K", interface]).args(switches));
}

/// Sees that the kernel has counted in `unit`, and not in the other one, if super-packets have passed.
fn assert_unit(what: &str, unit: Unit, counted: Counted) {
    let other = if unit == Unit::Segments { Unit::Buffers } else { Unit::Segments };
    assert_eq!(counted.coverage(Some(unit)), Some(1.0), "{what}: {counted:?}");
    if counted.has_super_packets() {
        assert_eq!(counted.coverage(None), None, "{what}: {counted:?}");
        let wrong = counted.coverage(Some(other)).expect("is there");
        assert!(!(0.5..2.0).contains(&wrong), "{what}: the other unit is as good: {counted:?}");
    } else {
        assert_eq!(counted.ours.buffers, counted.ours.wire.packets, "{what}: some super-packets and not enough");
        assert_eq!(counted.coverage(None), Some(1.0), "{what}: {counted:?}");
    }
}

#[test]
fn a_veth_device_counts_what_is_said_of_it() {
    use Unit::{Buffers, Segments};
    let network = Network::new(Offload::Off);
    let exporter = start(&network.server, INTERFACE);
    let none = TAKE_NONE.as_slice();
    // At the server and at the client: what is turned on and off; then what is said of both directions, and which of
    // them super-packets pass.
    let cases = [
        ("as it comes", [&[][..], &[]], [Ok(Buffers), Ok(Buffers)], [true, true]),
        ("both take none", [none, none], [Ok(Buffers), Ok(Segments)], [false, true]),
        ("the peer takes none", [&[], none], [Ok(Buffers), Ok(Buffers)], [false, true]),
        ("the server takes none", [none, &[]], [Ok(Buffers), Ok(Segments)], [true, true]),
    ];
    for (what, switches, expected, super_packets) in cases {
        for (host, switches) in [&network.server, &network.client].into_iter().zip(switches) {
            switch(host, INTERFACE, &DEFAULTS);
            if !switches.is_empty() {
                switch(host, INTERFACE, switches);
            }
        }
        assert_eq!(units(&network.server, INTERFACE), expected, "{what}");
        let counted = exchanged(&network, &exporter, INTERFACE, Network::SERVER4.octets());
        eprintln!("veth, {what}: {counted:?}");
        assert_eq!(counted.map(Counted::has_super_packets), super_packets, "{what}: {counted:?}");
        for ((direction, unit), counted) in Direction::ALL.into_iter().zip(expected).zip(counted) {
            assert_unit(&format!("{what}, {}", direction.as_str()), unit.expect("is known"), counted);
        }
    }
}

#[test]
fn what_a_veth_device_counts_of_merged_packets_depends_on_its_peer() {
    let network = Network::new(Offload::Off);
    let exporter = start(&network.server, INTERFACE);
    // It is the peer's setting that decides, which may be in any namespace.
    for (peer_takes_all, actual) in [(true, Unit::Buffers), (false, Unit::Segments)] {
        for host in [&network.server, &network.client] {
            switch(host, INTERFACE, &DEFAULTS);
            switch(host, INTERFACE, &["gro", "on"]);
        }
        if !peer_takes_all {
            switch(&network.client, INTERFACE, &TAKE_NONE);
        }
        assert_eq!(units(&network.server, INTERFACE), [Err(Unknown::Merged), Ok(Unit::Buffers)]);
        let counted = exchanged(&network, &exporter, INTERFACE, Network::SERVER4.octets());
        eprintln!("veth, merging, the peer takes all: {peer_takes_all}: {counted:?}");
        let [received, transmitted] = counted;
        assert!(received.has_super_packets() && transmitted.has_super_packets(), "{counted:?}");
        assert_unit("transmit", Unit::Buffers, transmitted);
        assert_eq!(received.coverage(None), None);
        if actual == Unit::Segments {
            assert_unit("receive", Unit::Segments, received);
        } else {
            // What was a super-packet before may be merged into a larger one, so that it is neither unit exactly.
            assert!(received.kernel < received.ours.wire.packets / 3, "{received:?}");
        }
    }
}

#[test]
fn without_super_packets_any_device_is_covered() {
    // TCP is taken apart before this device, and UDP is not.
    let network = Network::new(Offload::Off);
    let [receive, transmit] = units(&network.server, INTERFACE);
    assert_eq!(receive, Ok(Unit::Buffers));
    let Err(Unknown::Mixed { on, off }) = &transmit else { panic!("{transmit:?}") };
    assert_eq!((on.as_slice(), off.len()), (&["tx-udp-segmentation", "tx-sctp-segmentation"][..], 4));

    // Without features TCP makes super-packets all the same, unless they may be of no more than one packet.
    network.server.ip(&format!("link set {INTERFACE} gso_max_segs 1"));
    let exporter = start(&network.server, INTERFACE);
    let counted = exchanged(&network, &exporter, INTERFACE, Network::SERVER4.octets());
    eprintln!("no super-packets: {counted:?}");
    assert!(counted.iter().all(|counted| counted.ours.buffers > 2_000), "{counted:?}");
    assert_eq!(counted.map(|counted| counted.coverage(None)), [Some(1.0), Some(1.0)], "{counted:?}");
}

#[test]
fn a_tap_counts_what_its_process_reads_and_writes() {
    let network = tap::network();
    for host in [&network.server, &network.client] {
        switch(host, INTERFACE, &["gro", "off"]);
    }
    let exporter = start(&network.server, INTERFACE);
    assert_eq!(units(&network.server, INTERFACE), [Ok(Unit::Buffers), Ok(Unit::Buffers)]);
    let counted = exchanged(&network, &exporter, INTERFACE, Network::SERVER4.octets());
    eprintln!("tap: {counted:?}");
    for counted in counted {
        assert!(counted.has_super_packets(), "{counted:?}");
        assert_unit("whole", Unit::Buffers, counted);
    }

    switch(&network.server, INTERFACE, &["tso", "off", "tx-udp-segmentation", "off", "gro", "on"]);
    // Whether there is merging behind a tap cannot be seen, so that it must be turned off to be sure.
    assert_eq!(units(&network.server, INTERFACE), [Err(Unknown::Merged), Ok(Unit::Segments)]);
    let counted = exchanged(&network, &exporter, INTERFACE, Network::SERVER4.octets());
    eprintln!("tap, takes none: {counted:?}");
    assert!(counted[1].has_super_packets(), "{counted:?}");
    assert_unit("taken apart", Unit::Segments, counted[1]);
    drop(exporter);
    for host in [&network.server, &network.client] {
        host.ip(&format!("link delete {INTERFACE}"));
    }
}

#[test]
fn the_loopback_interface_counts_buffers_unless_the_stack_takes_them_apart() {
    let host = Namespace::new();
    // Its own MTU has room for the largest super-packet.
    host.ip("link set lo mtu 1500");
    let exporter = start(&host, "lo");
    for (switches, transmit) in [(&[][..], Unit::Buffers), (&TAKE_NONE, Unit::Segments)] {
        if !switches.is_empty() {
            switch(&host, "lo", switches);
        }
        assert_eq!(units(&host, "lo"), [Ok(Unit::Buffers), Ok(transmit)]);
        let before = counted(&exporter, "lo");
        exchange(&host, &host, SocketAddr::from(([127, 0, 0, 1], 8080)), &[4_000_000]);
        let after = counted(&exporter, "lo");
        let counted = [0, 1].map(|direction| after[direction].since(before[direction]));
        eprintln!("lo, {transmit:?}: {counted:?}");
        let [received, transmitted] = counted;
        assert!(transmitted.has_super_packets());
        assert_eq!(received.has_super_packets(), transmit == Unit::Buffers);
        // The scrapes pass here too, before or after they are counted.
        for (unit, counted) in [(Unit::Buffers, received), (transmit, transmitted)] {
            let ratio = counted.coverage(Some(unit)).expect("is there");
            assert!((ratio - 1.0).abs() < 0.1, "{unit:?}: {counted:?}");
        }
    }
}

#[test]
fn a_bridge_counts_buffers_that_were_merged_before() {
    let network = Network::new(Offload::Off);
    for (host, end) in [(&network.server, 1), (&network.client, 2)] {
        switch(host, INTERFACE, &DEFAULTS);
        switch(host, INTERFACE, &["gro", "on"]);
        host.ip(&format!("address flush dev {INTERFACE}"));
        host.ip("link add ship type bridge");
        host.ip(&format!("link set {INTERFACE} master ship"));
        host.ip("link set ship up");
        host.ip(&format!("address add 10.78.0.{end}/24 dev ship"));
    }
    let exporter = start(&network.server, "ship");
    assert_eq!(units(&network.server, "ship"), [Ok(Unit::Buffers), Ok(Unit::Buffers)]);
    let counted = exchanged(&network, &exporter, "ship", [10, 78, 0, 1]);
    eprintln!("bridge: {counted:?}");
    for counted in counted {
        assert!(counted.has_super_packets(), "{counted:?}");
        assert_unit("bridge", Unit::Buffers, counted);
    }
}

#[test]
fn a_queueing_discipline_may_take_super_packets_apart() {
    let network = Network::new(Offload::Off);
    for host in [&network.server, &network.client] {
        switch(host, INTERFACE, &DEFAULTS);
    }
    output(
        network
            .server
            .command("tc")
            .args(["qdisc", "add", "dev", INTERFACE, "root", "tbf", "rate", "1gbit", "burst", "5000", "latency", "1s"]),
    );
    assert_eq!(units(&network.server, INTERFACE), [Ok(Unit::Buffers), Err(Unknown::Queue("tbf".to_owned()))]);
    let exporter = start(&network.server, INTERFACE);
    let [received, transmitted] = exchanged(&network, &exporter, INTERFACE, Network::SERVER4.octets());
    eprintln!("tbf: {transmitted:?}");
    assert_unit("receive", Unit::Buffers, received);
    assert!(transmitted.has_super_packets() && transmitted.kernel > 2 * transmitted.ours.buffers, "{transmitted:?}");
}

#[test]
fn a_change_of_the_device_is_told_and_makes_no_other_interface() {
    let host = Namespace::new();
    host.ip("link add ship type veth peer name boat");
    host.run(|| {
        let runtime = Builder::new_current_thread().enable_all().build().expect("builds");
        runtime.block_on(async {
            let mut follower = Follower::new().expect("netlink is there");
            let mut before = follower.links().await.expect("can be listed");
            let ship = interface(&before, "ship").clone();
            assert_eq!(before.device(&ship).kind.as_deref(), Some("veth"));
            host.ip("link set ship up");
            timeout(Duration::from_secs(2), follower.changed()).await.expect("is told");
            let tbf = ["qdisc", "add", "dev", "ship", "root", "tbf", "rate", "1gbit", "burst", "5000", "latency", "1s"];
            for (program, arguments) in [("ethtool", &["-K", "ship", "tso", "off"][..]), ("tc", &tbf)] {
                output(host.command(program).args(arguments));
                timeout(Duration::from_secs(2), follower.changed()).await.expect("the change is told");
                let after = follower.links().await.expect("can be listed");
                assert_ne!(after.device(&ship), before.device(&ship), "{program}");
                assert_eq!(after.interfaces, before.interfaces, "{program}");
                before = after;
            }
        });
    });
}

#[test]
fn the_kernels_counters_are_those_that_others_show() {
    let network = Network::new(Offload::Off);
    exchange(&network.server, &network.client, SocketAddr::from((Network::SERVER4, 8080)), &[10_000]);
    network.wait_until_quiet();
    let shown = network.server.link(INTERFACE);
    let shown =
        |name: &str| ["rx", "tx"].map(|direction| shown["stats64"][direction][name].as_u64().expect("a number"));
    let ours = network.server.run(statistics).expect("can be read")[INTERFACE];
    assert!(ours.packets.iter().all(|&packets| packets > 5), "{ours:?}");
    assert_eq!((ours.packets, ours.bytes), (shown("packets"), shown("bytes")));
    assert_eq!(ours.dropped, shown("dropped"));
}

#[test]
fn the_ratio_is_ours_to_the_kernels() {
    let ours = |packets, buffers| InterfaceTotals { wire: Counters { packets, bytes: 0 }, buffers };
    let [segments, buffers] = [Some(Unit::Segments), Some(Unit::Buffers)];
    assert_eq!(coverage(segments, ours(400, 10), 800), Some(0.5));
    assert_eq!(coverage(buffers, ours(400, 10), 10), Some(1.0));
    assert_eq!(coverage(None, ours(400, 10), 400), None);
    assert_eq!(coverage(None, ours(10, 10), 40), Some(0.25), "no super-packet has passed");
    assert_eq!(coverage(None, ours(0, 0), 0), Some(1.0), "nothing has passed");
    assert_eq!(coverage(buffers, ours(400, 10), 0), None, "there is no such ratio");
}
