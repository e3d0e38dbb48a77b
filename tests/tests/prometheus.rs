//! A real Prometheus scrapes the running exporter, and snapshots with something of everything.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    sync::Arc,
    thread,
};

use tidewaiter::metrics::exposition::Format;
use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    exporter::{ADDRESS, Exporter},
    namespace::Namespace,
    prometheus::Prometheus,
    snapshot::snapshot,
    wait::{wait_for, wait_until},
};

const CONFIGURATION: &str = "
    interfaces = [\"lo\"]
    [[api]]
    name = \"exporter\"
    ports = [9473]
";

/// Lets Prometheus ask for protobuf, and keep native histograms.
const NATIVE: &str = "--enable-feature=native-histograms";

#[test]
fn prometheus_scrapes_and_answers() {
    let namespace = Namespace::new();
    let exporter = Exporter::start(&namespace, CONFIGURATION);
    let prometheus = Prometheus::start(&namespace, &["metrics"], &[]);
    let expression = "rate(tidewaiter_api_packets_total{api=\"exporter\",direction=\"receive\"}[10s])";
    let rate =
        wait_for("Prometheus to have scraped for a while", || prometheus.query(expression).filter(|rate| *rate > 1.0));
    // Each scrape is a few packets each way, once a second.
    assert!(rate < 100.0, "{rate} packets a second");
    assert_eq!(prometheus.query("up"), Some(1.0));

    // What it has is what the exporter says: never more, and close behind.
    let total = "tidewaiter_api_packets_total{api=\"exporter\",direction=\"receive\"}";
    let scraped = prometheus.query(total).expect("is there");
    let now = exporter.metrics().api("exporter", "server", Direction::Receive).packets;
    #[expect(clippy::cast_precision_loss, reason = "a few packets")]
    let now = now as f64;
    assert!(scraped <= now && scraped > 0.0, "{scraped} of {now}");

    // Without the feature it has the classic histograms.
    let buckets = "count(tidewaiter_api_handshake_duration_seconds_bucket{api=\"exporter\"})";
    assert_eq!(prometheus.query(buckets), Some(30.0));
}

#[test]
fn prometheus_scrapes_native_histograms() {
    let namespace = Namespace::new();
    let _exporter = Exporter::start(&namespace, CONFIGURATION);
    let prometheus = Prometheus::start(&namespace, &["metrics"], &[NATIVE]);
    let name = "tidewaiter_api_handshake_duration_seconds";
    wait_until("Prometheus to have a native histogram", || {
        prometheus.query(&format!("histogram_count({name}{{api=\"exporter\"}})")).is_some()
    });
    assert_eq!(prometheus.query("up"), Some(1.0));
    assert_eq!(prometheus.query(&format!("{name}_count")), None);
}

/// Serves the snapshot at [`ADDRESS`] in `namespace`, each format at the path that is its name, until the test ends.
fn serve(namespace: &Namespace, formats: [(&'static str, Format); 3]) {
    let snapshot = Arc::new(snapshot());
    let listener = namespace.run(|| TcpListener::bind(ADDRESS).expect("nobody listens there"));
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let request = BufReader::new(&client).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let request: Vec<_> = request.collect();
            let path = request.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
            let Some((_, format)) = formats.iter().find(|(name, _)| path == format!("/{name}")) else { continue };
            let body = format.encode(&snapshot).expect("encodes");
            let (kind, length) = (format.content_type(), body.len());
            let head = format!("Content-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            client.write_all(&[b"HTTP/1.1 200 OK\r\n", head.as_bytes(), &body].concat()).ok();
        }
    });
}

#[test]
fn quantiles_are_the_same_in_each_format_within_a_bucket() {
    let namespace = Namespace::new();
    let formats =
        [("classic", Format::ClassicText), ("openmetrics", Format::OpenMetrics), ("protobuf", Format::Protobuf)];
    serve(&namespace, formats);
    let prometheus = Prometheus::start(&namespace, &formats.map(|(name, _)| name), &[NATIVE]);
    wait_until("Prometheus to have scraped each format", || prometheus.query("sum(up)") == Some(3.0));

    let name = "tidewaiter_api_response_duration_seconds";
    let text = |job: &str, suffix: &str| format!("{name}{suffix}{{job=\"{job}\",role=\"server\"}}");
    let native = format!("{name}{{job=\"protobuf\",role=\"server\"}}");
    // What the snapshot has: a hundred answers after n² tenths of a millisecond, one after next to nothing, and one after ten
    // minutes, which is more than any bound.
    let sum = 633.835_000_5;
    for job in ["classic", "openmetrics"] {
        assert_eq!(prometheus.query(&text(job, "_count")), Some(102.0), "{job}");
        assert_eq!(prometheus.query(&text(job, "_sum")), Some(sum), "{job}");
        assert_eq!(prometheus.query(&format!("count({})", text(job, "_bucket"))), Some(30.0), "{job}");
    }
    assert_eq!(prometheus.query(&format!("histogram_count({native})")), Some(102.0));
    assert_eq!(prometheus.query(&format!("histogram_sum({native})")), Some(sum));

    for (quantile, tenths) in [(0.1, 100.0), (0.5, 2500.0), (0.9, 8281.0), (0.95, 9216.0)] {
        let truth = tenths / 10_000.0;
        let by_native = prometheus.query(&format!("histogram_quantile({quantile}, {native})")).expect("an answer");
        // A native bucket is a quarter of a doubling, a classic one a whole.
        assert!((by_native / truth).log2().abs() <= 0.25, "{quantile}: {by_native} for {truth}");
        for job in ["classic", "openmetrics"] {
            let expression = format!("histogram_quantile({quantile}, {})", text(job, "_bucket"));
            let by_text = prometheus.query(&expression).expect("an answer");
            assert!((by_text / truth).log2().abs() <= 1.0, "{quantile}: {by_text} for {truth} in {job}");
        }
    }

    // Beyond the highest bound: the text formats know no more than that bound, native buckets have one more.
    let slowest = prometheus.query(&format!("histogram_quantile(1, {native})")).expect("an answer");
    assert!((256.0..=256.0 * 1.2).contains(&slowest), "{slowest}");
    assert_eq!(prometheus.query(&format!("histogram_quantile(1, {})", text("classic", "_bucket"))), Some(256.0));

    // One with nothing in it is native too.
    let empty = format!("histogram_count({name}{{job=\"protobuf\",role=\"client\"}})");
    assert_eq!(prometheus.query(&empty), Some(0.0));
}
