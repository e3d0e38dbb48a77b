//! What the exporter sends to collectors, over both protocols: the same as `/metrics` says, a span for each connection, a log
//! record for each anomaly.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

mod logs;
mod metrics;
mod rotel;
mod spans;

use std::{
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tidewaiter_tests::{
    client::{Client, http_answer},
    collector::Protocol,
    metrics::Metrics,
    network::{INTERFACE, Network},
    traffic::exchange,
};

const PROTOCOLS: [Protocol; 2] = [Protocol::Grpc, Protocol::Http];

/// How far the time of a packet may be off: it is kept in ticks of the kernel, of up to 10 ms.
const TICK: Duration = Duration::from_millis(10);

/// A configuration that sends by `protocol` to a collector of the same host, with `more` behind it.
fn configuration(protocol: Protocol, more: &str) -> String {
    let (name, port) = (protocol.name(), protocol.port());
    format!(
        r#"
        interfaces = ["{INTERFACE}"]
        [flows]
        idle_timeout = "1s"
        [otlp]
        endpoint = "http://127.0.0.1:{port}"
        protocol = "{name}"
        [otlp.resource]
        "deployment.environment.name" = "test"
        [otlp.metrics]
        interval = "1s"
        [otlp.traces]
        batch_delay = "200ms"
        [otlp.logs]
        batch_delay = "200ms"
        [[api]]
        name = "web"
        ports = [80, 8080]
        [[api]]
        name = "names"
        ports = [53]
        transport = "udp"
        expect = ["dns"]
        [[api]]
        name = "secure"
        ports = [444]
        {more}"#
    )
}

/// Series that say something of the exporter itself, and so change from one moment to the next.
fn is_about_itself(series: &str) -> bool {
    ["process_", "tidewaiter_otlp_", "tidewaiter_collector_", "tidewaiter_flow_records"]
        .iter()
        .any(|prefix| series.starts_with(prefix))
}

fn without_itself(mut metrics: Metrics) -> Metrics {
    metrics.0.retain(|series, _| !is_about_itself(series));
    metrics
}

/// Some of everything that is counted.
fn make_traffic(network: &Network) {
    for server in Network::SERVERS {
        exchange(&network.server, &network.client, SocketAddr::new(server, 8080), &[1, 1000, 100_000]);
    }
    network.client.run(|| {
        for (method, target) in [("GET", "/code/200"), ("POST", "/code/404"), ("BREW", "/code/200")] {
            let mut client = Client::connect((Network::SERVER4, 80).into());
            for _ in 0..3 {
                let request = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
                client.ask(request.as_bytes(), http_answer);
            }
        }
        // Nobody listens there.
        assert!(TcpStream::connect((Network::SERVER4, 444)).is_err());
        let socket = UdpSocket::bind((Network::CLIENT4, 0)).unwrap();
        for _ in 0..3 {
            socket.send_to(b"no question", (Network::SERVER4, 53)).unwrap();
        }
    });
}

fn nanoseconds(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// Sees that `sent` says the same as `scraped`, but for more bounds of histograms: more of those are known than are written.
fn assert_same(scraped: &Metrics, sent: &Metrics, by: Protocol) {
    for (series, value) in &scraped.0 {
        let sent = sent.0.get(series).unwrap_or_else(|| panic!("{series} is missing, by {by:?}"));
        assert!((sent - value).abs() <= value.abs() * 1e-12, "{series}: {sent}, scraped {value}, by {by:?}");
    }
    for series in sent.0.keys().filter(|series| !series.contains("_bucket{")) {
        assert!(scraped.0.contains_key(series), "{series} is more, by {by:?}");
    }
}
