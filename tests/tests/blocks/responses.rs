//! Who makes anomalies is blocked.

use std::net::{SocketAddr, TcpStream};

use tidewaiter_tests::{network::Network, wait::wait_until};

use crate::Host;

const SCAN: &str = "[anomalies.port_scan]\nports = 12\n[[response]]\non = \"port_scan\"\nblock_for = \"1h\"\n";

/// Has the client try some ports of the server.
fn scan(host: &Host, server: SocketAddr) {
    host.network.client.run(|| {
        for port in 0..15 {
            let server = SocketAddr::new(server.ip(), server.port() + port);
            // It is refused, and later not even that.
            drop(TcpStream::connect_timeout(&server, crate::PATIENCE));
        }
    });
}

#[test]
fn a_scanner_is_blocked() {
    let host = Host::new();
    let exporter = host.start("", SCAN);
    assert!(host.gets_through(Network::SERVER4));
    scan(&host, (Network::SERVER4, 1_000).into());
    wait_until("the scanner to be blocked", || host.blocked() == ["10.77.0.2/32"]);
    assert!(!host.gets_through(Network::SERVER4));
    assert!(host.gets_through(Network::SERVER6));
    let listed = host.done(&["blocks"]);
    assert!(listed.contains("port_scan") && listed.contains("unmapped: 12 ports in "), "{listed}");
    assert_eq!(exporter.log().matches("INFO blocked network=10.77.0.2/32").count(), 1, "once");
    host.done(&["unblock", "10.77.0.2"]);
    assert!(host.gets_through(Network::SERVER4));

    // Of IPv6, the network that it is likely to have.
    scan(&host, (Network::SERVER6, 1_000).into());
    wait_until("the scanner to be blocked", || host.blocked() == ["fd77::/64"]);
    assert!(!host.gets_through(Network::SERVER6));
}

#[test]
fn who_is_protected_is_not_blocked() {
    let host = Host::new();
    let exporter = host.start("protect = [\"10.77.0.0/24\"]", SCAN);
    scan(&host, (Network::SERVER4, 1_000).into());
    wait_until("the scan to be told", || exporter.log().contains("12 ports in "));
    // One that is blocked comes after it.
    scan(&host, (Network::SERVER6, 1_000).into());
    wait_until("the other to be blocked", || !host.blocked().is_empty());
    assert_eq!(host.blocked(), ["fd77::/64"]);
    assert!(host.gets_through(Network::SERVER4));
}
