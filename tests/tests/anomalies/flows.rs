//! What real clients and servers do, and do too much of.

use std::{
    net::{TcpListener, TcpStream, UdpSocket},
    thread::sleep,
    time::{Duration, Instant},
};

use tidewaiter::{
    anomaly::{
        AnomalyKind,
        thresholds::{Amplification, ConnectionChurn, PortScan, SynFlood, Thresholds},
    },
    tracker::FlowTracker,
};
use tidewaiter_tests::{network::Network, wait::wait_until};

use crate::{Host, PORT, only, wait_for_end};

/// A window that no test outlasts.
const LONG: Duration = Duration::from_mins(10);

/// Connects `times` to `port` of the server, and has each connection ended after `lifetime`.
fn connect(host: &Host, port: u16, times: usize, lifetime: Duration) {
    let listener = host.network.server.run(|| TcpListener::bind((Network::SERVER4, port)).unwrap());
    for _ in 0..times {
        let client = host.network.client.run(|| TcpStream::connect((Network::SERVER4, port)).unwrap());
        let (server, _) = listener.accept().unwrap();
        sleep(lifetime);
        drop(client);
        drop(server);
    }
}

#[test]
fn connection_churn() {
    let churn = ConnectionChurn { window: LONG, connections: 20, shorter_than: Duration::from_mins(5) };
    let mut host = Host::new(&Thresholds { connection_churn: churn, ..Thresholds::default() });
    connect(&host, PORT, 19, Duration::ZERO);
    assert_eq!(host.found(), [].into());
    connect(&host, PORT, 10, Duration::ZERO);
    wait_until("it to be found", || host.found() == only("orders", AnomalyKind::ConnectionChurn, 1));
    let told = host.told();
    assert_eq!(told[0].detail, "20 connections in 10m, none of which lasted 5m");
    assert_eq!(told[0].remote.unwrap().ip(), Network::CLIENT4);
}

#[test]
fn connections_that_last_are_no_churn() {
    let churn = ConnectionChurn { window: LONG, connections: 5, shorter_than: Duration::from_millis(1) };
    let mut host = Host::new(&Thresholds { connection_churn: churn, ..Thresholds::default() });
    // Longer than that by more than the clock's tick.
    connect(&host, PORT, 20, Duration::from_millis(20));
    assert_eq!(host.found(), [].into());
}

#[test]
fn connections_that_are_complete_are_neither_a_scan_nor_a_flood() {
    let window = Duration::from_secs(1);
    let mut host = Host::new(&Thresholds {
        port_scan: PortScan { window: LONG, ports: 10, addresses: 10 },
        syn_flood: SynFlood { window, half_open: 20, completed_percent: 50 },
        ..Thresholds::default()
    });
    for port in 0..40 {
        connect(&host, 10_000 + port, 1, Duration::ZERO);
    }
    connect(&host, PORT, 100, Duration::ZERO);
    wait_for_end(window);
    connect(&host, PORT, 1, Duration::ZERO);
    // Closed ports refuse at once: that is a scan, but no flood.
    for port in 0..9 {
        assert!(host.network.client.run(|| TcpStream::connect((Network::SERVER4, 20_000 + port))).is_err());
    }
    assert_eq!(host.found(), [].into());
    assert!(host.network.client.run(|| TcpStream::connect((Network::SERVER4, 20_009))).is_err());
    assert_eq!(host.found(), only("unmapped", AnomalyKind::PortScan, 1));
}

/// Has the client ask `times` with `asked` bytes, each of them answered with `answered`.
fn talk(host: &Host, times: usize, asked: usize, answered: usize) {
    let server = host.network.server.run(|| UdpSocket::bind((Network::SERVER4, PORT)).unwrap());
    let client = host.network.client.run(|| UdpSocket::bind((Network::CLIENT4, 0)).unwrap());
    client.connect((Network::SERVER4, PORT)).unwrap();
    for _ in 0..times {
        client.send(&vec![1; asked]).unwrap();
        let (_, from) = server.recv_from(&mut [0; 2000]).unwrap();
        server.send_to(&vec![2; answered], from).unwrap();
        assert_eq!(client.recv(&mut [0; 2000]).unwrap(), answered);
    }
}

#[test]
fn amplification() {
    let amplification = Amplification { window: LONG, ratio: 10, bytes: 20_000 };
    let mut host = Host::new(&Thresholds { amplification, ..Thresholds::default() });
    host.accounting.follow_flows(FlowTracker::new(20, Instant::now())).unwrap();
    let look = |host: &mut Host| {
        let deadline = Instant::now() + Duration::from_secs(5);
        host.accounting.drain_flows(deadline).unwrap();
        host.accounting.sweep_flows(deadline).unwrap();
        host.accounting.read_anomalies();
    };
    let flows = |host: &mut Host| {
        use tidewaiter::kernel::FlowTable::{Established, New};
        [Established, New].map(|table| tidewaiter_tests::accounting::flows(&mut host.accounting, table).len())
    };
    // Not far larger; far larger, but little; and a client that sends as much at once as it may be answered, as QUIC begins.
    talk(&host, 100, 200, 1000);
    talk(&host, 10, 20, 1400);
    let server = host.network.server.run(|| UdpSocket::bind((Network::SERVER4, PORT)).unwrap());
    let client = host.network.client.run(|| UdpSocket::bind((Network::CLIENT4, 0)).unwrap());
    client.connect((Network::SERVER4, PORT)).unwrap();
    client.send(&[3; 1200]).unwrap();
    let (_, from) = server.recv_from(&mut [0; 2000]).unwrap();
    for _ in 0..100 {
        server.send_to(&[4; 1400], from).unwrap();
        client.recv(&mut [0; 2000]).unwrap();
    }
    drop((server, client));
    wait_until("those flows to be over", || {
        look(&mut host);
        flows(&mut host)[0] == 0
    });
    assert_eq!(host.found(), [].into());

    talk(&host, 10, 20, 1400);
    wait_until("it to be found", || {
        look(&mut host);
        host.found() == only("orders", AnomalyKind::Amplification, 1)
    });
    let told = host.told();
    assert!(told[0].detail.contains(" times as many"), "{}", told[0].detail);
    assert_eq!(told[0].remote.unwrap().ip(), Network::CLIENT4);
}
