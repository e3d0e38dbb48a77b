//! The exporter itself: thresholds of its configuration, its metrics and its log; and what outlives it.

use std::{net::TcpStream, sync::Arc};

use rustix::process::Signal;
use tidewaiter_tests::{bpf_file_system::BpfFileSystem, exporter::Exporter, namespace::Namespace, wait::wait_until};

const CONFIGURATION: &str = r#"
    interfaces = ["lo"]
    [anomalies.port_scan]
    ports = 12
    [anomalies.icmp_flood]
    enabled = false
    [[api]]
    name = "orders"
    ports = [8080]
    transport = ["tcp", "udp"]
"#;

fn count(exporter: &Exporter<'_>, api: &str, kind: &str) -> Option<u64> {
    let role = if api == "unmapped" { "none" } else { "server" };
    exporter.metrics().get("tidewaiter_anomalies_total", &[("api", api), ("role", role), ("kind", kind)])
}

#[test]
fn a_scan_is_counted_told_and_remembered() {
    let (namespace, bpf) = (Namespace::new(), Arc::new(BpfFileSystem::mount()));
    let mut exporter = Exporter::start_after(&bpf, &namespace, CONFIGURATION, &[]);
    for kind in ["bad_tcp_flags", "land", "malformed", "port_scan", "syn_flood", "connection_churn"] {
        assert_eq!(count(&exporter, "unmapped", kind), Some(0), "{kind}");
    }
    for kind in ["bad_tcp_flags", "syn_flood", "amplification"] {
        assert_eq!(count(&exporter, "orders", kind), Some(0), "{kind}");
    }
    // What nobody looks for, and what there cannot be of an API.
    assert_eq!(count(&exporter, "unmapped", "icmp_flood"), None);
    assert_eq!(count(&exporter, "orders", "malformed"), None);

    let knock = |port| namespace.run(|| assert!(TcpStream::connect(("127.0.0.1", port)).is_err()));
    // Whoever asks for metrics tries one more port, until the connection is complete.
    (0..10).for_each(|port| knock(1_000 + port));
    assert_eq!(count(&exporter, "unmapped", "port_scan"), Some(0));
    (10..15).for_each(|port| knock(1_000 + port));
    wait_until("it to be counted", || count(&exporter, "unmapped", "port_scan") == Some(1));
    wait_until("it to be told", || exporter.log().contains("12 ports in "));

    exporter.end(Signal::KILL);
    let exporter = Exporter::start_after(&bpf, &namespace, CONFIGURATION, &[]);
    assert_eq!(count(&exporter, "unmapped", "port_scan"), Some(1), "a successor goes on from it");
}
