//! What the exporter sends to collectors, over both protocols: the same as `/metrics` says, a span for each connection, a log
//! record for each anomaly.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{Metric, metric::Data},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    client::Client,
    client::http_answer,
    collector::{Collector, Protocol, attribute},
    exporter::Exporter,
    metrics::Metrics,
    network::{INTERFACE, KernelCounters, Network, Offload},
    otlp::as_prometheus,
    servers::{Nginx, are_installed},
    traffic::exchange,
    wait::{wait_for, wait_until},
};

const PROTOCOLS: [Protocol; 2] = [Protocol::Grpc, Protocol::Http];

/// How far the time of a last packet may be off: it is kept in ticks of the kernel, of up to 10 ms.
const TICK: Duration = Duration::from_millis(10);

/// A configuration that sends by `protocol` to a collector of the same host, with `more` behind it.
fn configuration(protocol: Protocol, more: &str) -> String {
    let (name, port) = match protocol {
        Protocol::Grpc => ("grpc", 4317),
        Protocol::Http => ("http/protobuf", 4318),
    };
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

/// The time of the points of `metric`, and the least time since which they count, if they say.
fn times(metric: &Metric) -> Vec<(u64, u64)> {
    match metric.data.as_ref().expect("has points") {
        Data::Sum(sum) => sum.data_points.iter().map(|at| (at.time_unix_nano, at.start_time_unix_nano)).collect(),
        Data::Gauge(gauge) => gauge.data_points.iter().map(|at| (at.time_unix_nano, at.start_time_unix_nano)).collect(),
        Data::ExponentialHistogram(histogram) => {
            histogram.data_points.iter().map(|at| (at.time_unix_nano, at.start_time_unix_nano)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// What was exported at one moment after `since`.
fn export_after(collector: &Collector<'_>, since: SystemTime) -> Vec<Metric> {
    let since = nanoseconds(since);
    wait_for("an export of metrics", || {
        let mut by_time = BTreeMap::<u64, Vec<Metric>>::new();
        for (_, metric) in collector.metrics() {
            let time = times(&metric)[0].0;
            by_time.entry(time).or_default().push(metric);
        }
        // There may be more of the last one to come.
        let complete = by_time.into_iter().rev().nth(1);
        complete.filter(|(time, _)| *time > since).map(|(_, metrics)| metrics)
    })
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

#[test]
fn a_collector_receives_what_metrics_says() {
    if !are_installed(&["nginx"]) {
        return;
    }
    for protocol in PROTOCOLS {
        let network = Network::new(Offload::Off);
        let _nginx = Nginx::start(&network.server);
        let collector = Collector::new(&network.server);
        let exporter = Exporter::start(&network.server, &configuration(protocol, ""));
        make_traffic(&network);
        network.wait_until_quiet();
        // When nothing changes any more, what was exported in between is what is scraped.
        let (scraped, received) = wait_for("all flows to be over", || {
            let before = without_itself(exporter.metrics());
            let received = export_after(&collector, SystemTime::now());
            (without_itself(exporter.metrics()) == before).then_some((before, received))
        });
        let received_again = without_itself(as_prometheus(&received));
        // Of histograms more bounds are known than are written.
        for (series, value) in &scraped.0 {
            let sent = received_again.0.get(series).unwrap_or_else(|| panic!("{series} is missing, by {protocol:?}"));
            assert!((sent - value).abs() <= value.abs() * 1e-12, "{series}: {sent}, scraped {value}, by {protocol:?}");
        }
        for series in received_again.0.keys().filter(|series| !series.contains("_bucket{")) {
            assert!(scraped.0.contains_key(series), "{series} is more, by {protocol:?}");
        }
        let count = |series: &str| scraped.0.keys().filter(|known| known.starts_with(series)).count();
        assert!(count("tidewaiter_api_responses_total") >= 2 && count("tidewaiter_api_requests_total") == 3);
        assert!(
            scraped.0.iter().any(|(series, value)| series.contains("response_duration_seconds_count") && *value >= 9.0)
        );

        // What is cumulative says since when, which is before it says what.
        let now = nanoseconds(SystemTime::now());
        for metric in &received {
            let is_cumulative = match &metric.data {
                Some(Data::Sum(sum)) => sum.is_monotonic,
                Some(Data::ExponentialHistogram(_)) => true,
                _ => false,
            };
            for (time, start) in times(metric) {
                assert!(time <= now, "{}", metric.name);
                assert!(!is_cumulative || (1..=time).contains(&start), "{} since {start}", metric.name);
            }
        }
        let (resource, _) = &collector.metrics()[0];
        for key in ["service.name", "service.version", "service.instance.id", "host.name", "os.type"] {
            assert!(attribute(&resource.attributes, key).is_some_and(|value| !value.is_empty()), "{key}");
        }
        assert_eq!(attribute(&resource.attributes, "deployment.environment.name").as_deref(), Some("test"));
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        if machine.trim().len() == 32 {
            assert_eq!(attribute(&resource.attributes, "host.id").as_deref(), Some(machine.trim()));
        }
    }
}

/// A connection as the test made it.
struct Made {
    port: u16,
    server: IpAddr,
    before: SystemTime,
    after: SystemTime,
    counted: KernelCounters,
}

/// Connects, says something, is answered, and is closed by both sides.
fn connect(network: &Network, server: IpAddr, bytes: usize) -> Made {
    let listener = network.server.run(|| TcpListener::bind((server, 8080))).unwrap();
    network.wait_until_quiet();
    let counters = network.kernel_counters();
    let before = SystemTime::now();
    let port = thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut said = Vec::new();
            stream.read_to_end(&mut said).unwrap();
            stream.write_all(&said).unwrap();
        });
        network.client.run(|| {
            let mut stream = TcpStream::connect((server, 8080)).unwrap();
            stream.write_all(&vec![b'x'; bytes]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!(answer.len(), bytes);
            stream.local_addr().unwrap().port()
        })
    });
    let after = SystemTime::now();
    network.wait_until_quiet();
    Made { port, server, before, after, counted: network.kernel_counters() - counters }
}

fn number(attributes: &[KeyValue], key: &str) -> u64 {
    attribute(attributes, key).and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{key}"))
}

/// Spans of `api`, by the port of their client.
fn spans_by_port(collector: &Collector<'_>, api: &str, count: usize) -> BTreeMap<u16, Span> {
    let of_api = |span: &Span| attribute(&span.attributes, "tidewaiter.api").as_deref() == Some(api);
    let spans = wait_for("the spans of all connections", || {
        let spans: Vec<_> = collector.spans().into_iter().map(|(_, span)| span).filter(of_api).collect();
        (spans.len() >= count).then_some(spans)
    });
    assert_eq!(spans.len(), count);
    spans.into_iter().map(|span| (u16::try_from(number(&span.attributes, "client.port")).unwrap(), span)).collect()
}

#[test]
fn each_connection_is_a_span_that_says_what_the_test_did() {
    for protocol in PROTOCOLS {
        let network = Network::new(Offload::Off);
        let collector = Collector::new(&network.server);
        network.know_each_other();
        let exporter = Exporter::start(&network.server, &configuration(protocol, ""));
        let sizes = [1, 5_000, 60_000];
        let made: Vec<_> = Network::SERVERS
            .into_iter()
            .flat_map(|server| sizes.map(|bytes| (server, bytes)))
            .map(|(server, bytes)| connect(&network, server, bytes))
            .collect();
        let spans = spans_by_port(&collector, "web", made.len());
        assert_eq!(spans.len(), made.len(), "each is a connection of its own");
        for Made { port, server, before, after, counted } in &made {
            let span = &spans[port];
            assert_eq!((span.name.as_str(), span.kind()), ("web tcp", SpanKind::Server));
            assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
            // Its first packet, too, is timed by a clock that ticks.
            assert!(span.start_time_unix_nano >= nanoseconds(*before - TICK), "{port}");
            assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{port}");
            assert!(span.end_time_unix_nano <= nanoseconds(*after + TICK), "{port}");
            for direction in Direction::ALL {
                let name = direction.as_str();
                let sent = (
                    number(&span.attributes, &format!("tidewaiter.flow.{name}.packets")),
                    number(&span.attributes, &format!("tidewaiter.flow.{name}.bytes")),
                );
                assert_eq!(
                    sent,
                    (counted.packets[direction.index()], counted.bytes[direction.index()]),
                    "{name} of {port}"
                );
            }
            let client = if server.is_ipv4() { Network::CLIENTS[0] } else { Network::CLIENTS[1] };
            for (key, value) in [
                ("client.address", client.to_string()),
                ("server.address", server.to_string()),
                ("server.port", "8080".to_owned()),
                ("network.transport", "tcp".to_owned()),
                ("network.type", if server.is_ipv4() { "ipv4" } else { "ipv6" }.to_owned()),
                ("network.interface.name", INTERFACE.to_owned()),
                ("tidewaiter.flow.end_reason", "fin".to_owned()),
            ] {
                assert_eq!(attribute(&span.attributes, key), Some(value), "{key} of {port}");
            }
            // SYN, FIN, PSH and ACK.
            assert_eq!(number(&span.attributes, "tidewaiter.flow.tcp.flags") & 0x1b, 0x1b);
            let handshake: f64 =
                attribute(&span.attributes, "tidewaiter.flow.handshake.duration").unwrap().parse().unwrap();
            assert!(handshake > 0.0 && handshake < after.duration_since(*before).unwrap().as_secs_f64());
            assert_eq!(span.status.clone().unwrap_or_default().code(), StatusCode::Unset);
        }
        let metrics = exporter.metrics();
        for direction in Direction::ALL {
            let key = format!("tidewaiter.flow.{}.bytes", direction.as_str());
            let sum: u64 = spans.values().map(|span| number(&span.attributes, &key)).sum();
            assert_eq!(sum, metrics.api("web", "server", direction).bytes);
        }
    }
}

#[test]
fn what_ended_in_error_is_kept_whatever_the_sampler_leaves_out() {
    let network = Network::new(Offload::Off);
    let collector = Collector::new(&network.server);
    let configuration = configuration(Protocol::Grpc, "").replace("[otlp.traces]", "[otlp.traces]\nsample_ratio = 0.0");
    let exporter = Exporter::start(&network.server, &configuration);
    exchange(&network.server, &network.client, (Network::SERVER4, 8080).into(), &[10; 20]);
    let listener = network.server.run(|| TcpListener::bind((Network::SERVER4, 8080))).unwrap();
    network.client.run(|| {
        let client = Client::connect((Network::SERVER4, 8080).into());
        let _accepted = listener.accept().unwrap();
        client.reset();
        assert!(TcpStream::connect((Network::SERVER4, 444)).is_err());
    });
    let errors: Vec<_> = collector
        .wait_for_spans(2)
        .into_iter()
        .map(|(_, span)| {
            assert_eq!(span.status.clone().unwrap().code(), StatusCode::Error);
            (span.name.clone(), attribute(&span.attributes, "error.type").unwrap())
        })
        .collect();
    let expected =
        [("secure tcp", "refused"), ("web tcp", "reset")].map(|(name, why)| (name.to_owned(), why.to_owned()));
    assert!(expected.iter().all(|error| errors.contains(error)), "{errors:?}");
    let unsampled = [("signal", "traces")];
    wait_until("all others to be left out", || {
        exporter.metrics().get("tidewaiter_otlp_unsampled_total", &unsampled) == Some(20)
    });
    assert_eq!(collector.spans().len(), 2);
}

#[test]
fn an_anomaly_is_a_log_record() {
    for protocol in PROTOCOLS {
        let network = Network::new(Offload::Off);
        let collector = Collector::new(&network.server);
        let _exporter = Exporter::start(&network.server, &configuration(protocol, ""));
        let before = SystemTime::now();
        let port = network.client.run(|| {
            let socket = UdpSocket::bind((Network::CLIENT4, 0)).unwrap();
            socket.send_to(b"SSH-2.0-nonsense\r\n", (Network::SERVER4, 53)).unwrap();
            socket.local_addr().unwrap().port()
        });
        let (resource, record) = collector.wait_for_logs(1).remove(0);
        assert_eq!(record.event_name, "tidewaiter.anomaly.unexpected_payload");
        assert_eq!((record.severity_text.as_str(), record.severity_number), ("WARN", 13));
        let time = nanoseconds(before)..=nanoseconds(SystemTime::now());
        assert!(time.contains(&record.time_unix_nano));
        for (key, value) in [
            ("tidewaiter.api", "names".to_owned()),
            ("tidewaiter.anomaly.kind", "unexpected_payload".to_owned()),
            ("client.address", Network::CLIENT4.to_string()),
            ("client.port", port.to_string()),
            ("server.port", "53".to_owned()),
            ("tidewaiter.payload.first_bytes", "SSH-2.0-nonsense\\r\\n".to_owned()),
        ] {
            assert_eq!(attribute(&record.attributes, key), Some(value), "{key}");
        }
        assert!(attribute(&resource.attributes, "service.instance.id").is_some());
    }
}
