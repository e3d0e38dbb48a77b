//! What the guard has put away is seen too: our counts can be held against the kernel's where packets are judged.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::net::{SocketAddr, UdpSocket};

use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    exporter::Exporter,
    metrics::Metrics,
    network::{INTERFACE, Network, Offload},
    traffic::exchange,
    wait::wait_for,
};

/// How many datagrams are sent to what drops them.
const DROPPED: u64 = 100;

/// Has packets of `network` dropped, and others not, by a guard that is attached so; answers with what is said of them.
fn judged(network: &Network, attach: &str) -> Metrics {
    let exporter = Exporter::start(
        &network.server,
        &format!(
            r#"
            interfaces = ["{INTERFACE}"]
            [guard]
            attach = "{attach}"
            [[api]]
            name = "web"
            ports = [8080]
            [[rule]]
            name = "closed"
            ports = [9999]
            action = "drop"
            mode = "enforce"
            "#
        ),
    );
    network.client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..DROPPED {
            socket.send_to(b"hello", (Network::SERVER4, 9999)).unwrap();
        }
    });
    let server = SocketAddr::from((Network::SERVER4, 8080));
    exchange(&network.server, &network.client, server, &[1_000_000]);
    network.wait_until_quiet();
    wait_for("all to be counted", || {
        let metrics = exporter.metrics();
        let labels = [("api", "unmapped"), ("rule", "closed"), ("verdict", "drop")];
        let dropped = metrics.get("tidewaiter_guard_packets_total", &labels).expect("is there from zero");
        (dropped == DROPPED).then_some(metrics)
    })
}

fn of_interface(metrics: &Metrics, name: &str, direction: Direction) -> Option<u64> {
    let labels = [("interface", INTERFACE), ("direction", direction.as_str())];
    metrics.get(&format!("tidewaiter_{name}"), &labels)
}

fn verdict(metrics: &Metrics, direction: Direction, verdict: &str) -> u64 {
    let labels = [("interface", INTERFACE), ("direction", direction.as_str()), ("verdict", verdict)];
    metrics.get("tidewaiter_interface_guard_packets_total", &labels).expect("is there from zero")
}

fn coverage(metrics: &Metrics, direction: Direction) -> Option<f64> {
    let direction = direction.as_str();
    metrics.0.get(&format!("tidewaiter_coverage_ratio{{direction=\"{direction}\",interface=\"{INTERFACE}\"}}")).copied()
}

#[test]
fn what_is_dropped_as_a_frame_is_covered_whatever_is_merged_behind() {
    for (offload, merges) in [(Offload::Off, false), (Offload::Device, true)] {
        let metrics = judged(&Network::new(offload), "xdp");
        let receive = Direction::Receive;
        let [dropped, passed] = ["drop", "pass"].map(|one| verdict(&metrics, receive, one));
        assert_eq!(dropped, DROPPED);
        assert_eq!(verdict(&metrics, Direction::Transmit, "reject"), 0);
        // What passed as a frame was accounted, and the device has counted all.
        let accounted = of_interface(&metrics, "interface_packets_total", receive).unwrap();
        assert_eq!(accounted, passed, "{offload:?}: {metrics}");
        let kernel = of_interface(&metrics, "interface_kernel_packets_total", receive).unwrap();
        assert_eq!(accounted + dropped, kernel, "{offload:?}: {metrics}");
        assert_eq!(coverage(&metrics, receive), Some(1.0), "{offload:?}: {metrics}");
        let buffers = of_interface(&metrics, "interface_buffers_total", receive).unwrap();
        assert_eq!(buffers * 2 < accounted, merges, "{offload:?}: {metrics}");
        metrics.assert_the_sums_prove_it();
    }
}

#[test]
fn there_is_no_coverage_of_what_is_dropped_in_units_that_were_not_counted() {
    let metrics = judged(&Network::new(Offload::Device), "tc");
    let receive = Direction::Receive;
    assert_eq!(verdict(&metrics, receive, "drop"), DROPPED);
    assert_eq!(of_interface(&metrics, "interface_packets_total", receive), Some(verdict(&metrics, receive, "pass")));
    assert_eq!(coverage(&metrics, receive), None, "{metrics}");
    assert_eq!(coverage(&metrics, Direction::Transmit), Some(1.0), "{metrics}");
    metrics.assert_the_sums_prove_it();
}
