//! Spans: one for each connection, that says what the test did.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, SystemTime},
};

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    client::{Client, http_answer},
    collector::{Collector, Protocol, attribute},
    exporter::Exporter,
    network::{INTERFACE, KernelCounters, Network, Offload},
    servers::{Nginx, are_installed},
    traffic::exchange,
    wait::{wait_for, wait_until},
};

use super::{PROTOCOLS, TICK, configuration, nanoseconds};

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

/// Spans of `api`, in the order in which they came.
fn spans_of(collector: &Collector<'_>, api: &str) -> Vec<Span> {
    let of_api = |span: &Span| attribute(&span.attributes, "tidewaiter.api").as_deref() == Some(api);
    collector.spans().into_iter().map(|(_, span)| span).filter(of_api).collect()
}

/// Spans of `api`, by the port of their client.
fn spans_by_port(collector: &Collector<'_>, api: &str, count: usize) -> BTreeMap<u16, Span> {
    let spans = wait_for("the spans of all connections", || {
        Some(spans_of(collector, api)).filter(|spans| spans.len() >= count)
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
    // All flows are counted here, also those of no API.
    network.know_each_other();
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
fn a_span_links_to_the_traces_that_its_requests_were_part_of() {
    const TRACES: [&str; 2] =
        ["4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"];
    if !are_installed(&["nginx"]) {
        return;
    }
    let network = Network::new(Offload::Off);
    let _nginx = Nginx::start(&network.server);
    let collector = Collector::new(&network.server);
    let _exporter = Exporter::start(&network.server, &configuration(Protocol::Grpc, ""));
    let port = network.client.run(|| {
        let mut client = Client::connect((Network::SERVER4, 80).into());
        for header in TRACES.map(|trace| format!("traceparent: 00-{trace}-01\r\n")).iter().chain([&String::new()]) {
            client.ask(format!("GET /code/200 HTTP/1.1\r\nHost: a\r\n{header}\r\n").as_bytes(), http_answer);
        }
        client.port()
    });
    let span = &spans_by_port(&collector, "web", 1)[&port];
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let links: Vec<_> = span
        .links
        .iter()
        .map(|link| format!("{}-{}", hexadecimal(&link.trace_id), hexadecimal(&link.span_id)))
        .collect();
    assert_eq!(links, TRACES);
    assert_eq!(number(&span.attributes, "tidewaiter.flow.response.count"), 3);
}

#[test]
fn a_connection_that_goes_on_is_a_span_for_each_part() {
    let network = Network::new(Offload::Off);
    let collector = Collector::new(&network.server);
    let configuration = configuration(Protocol::Http, "")
        .replace("[flows]\n        idle_timeout = \"1s\"", "[flows]\nactive_timeout = \"2s\"\ncapacity = 16384");
    let exporter = Exporter::start(&network.server, &configuration);
    let listener = network.server.run(|| TcpListener::bind((Network::SERVER4, 8080))).unwrap();
    network.client.run(|| {
        let mut client = TcpStream::connect((Network::SERVER4, 8080)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        for _ in 0..80 {
            client.write_all(&[1; 100]).unwrap();
            server.read_exact(&mut [0; 100]).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
    });
    let (end_reason, community) = ("tidewaiter.flow.end_reason", "tidewaiter.flow.community_id");
    let spans = wait_for("the last part", || {
        let spans = spans_of(&collector, "web");
        let is_over = spans.iter().any(|span| attribute(&span.attributes, end_reason).as_deref() == Some("fin"));
        is_over.then_some(spans)
    });
    assert!(spans.len() >= 3, "{spans:?}");
    for pair in spans.windows(2) {
        assert_eq!(attribute(&pair[0].attributes, end_reason).as_deref(), Some("active_timeout"));
        assert_eq!(pair[0].end_time_unix_nano, pair[1].start_time_unix_nano, "one begins where the other ends");
        assert_eq!(attribute(&pair[0].attributes, community), attribute(&pair[1].attributes, community));
    }
    let metrics = exporter.metrics();
    for direction in Direction::ALL {
        let key = format!("tidewaiter.flow.{}.packets", direction.as_str());
        let sum: u64 = spans.iter().map(|span| number(&span.attributes, &key)).sum();
        assert_eq!(sum, metrics.api("web", "server", direction).packets);
    }
}
