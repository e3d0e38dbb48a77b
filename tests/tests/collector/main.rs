//! The receivers of OTLP that tests have, by clients that are not tidewaiter: tonic and curl.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

mod client;
mod exports;

use std::{
    collections::BTreeSet,
    fs,
    net::TcpStream,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use client::{ACCEPTED, Grpc, Http, HttpAnswer, NO_CONNECTION, NOTHING, TOO_LONG};
use exports::{export, resource, samples};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use prost::Message as _;
use tidewaiter_tests::{
    collector::{
        Answer, Certificates, Collector, Counts, Export, PORTS, Protocol, REASON, Received, Refusal, Settings, Signal,
        attribute,
    },
    namespace::Namespace,
    rotel::{LogEntry, Point, Rotel, SpanRecord},
    wait::{wait_for, wait_until},
};
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Identity},
};
use tonic_types::StatusExt as _;

/// How long clients wait for an answer that does not come.
const IMPATIENCE: Duration = Duration::from_millis(300);
/// How late it is.
const LATE: Duration = Duration::from_secs(30);

#[test]
fn each_signal_is_received_in_each_protocol() {
    let namespace = Namespace::new();
    let collector = Collector::new(&namespace);
    let exports = Signal::ALL.map(|signal| export(signal, 100));
    let start = SystemTime::now();
    for is_gzip in [false, true] {
        let grpc = Grpc { is_gzip, ..Grpc::new(&namespace, &collector) };
        assert_eq!(grpc.send(&exports).unwrap(), vec![None; 3]);
        let http = Http { is_gzip, ..Http::new(&namespace, &collector) };
        for export in &exports {
            assert_eq!(http.send(export).unwrap(), ACCEPTED);
        }
    }

    let requests = collector.wait_for_requests(12);
    assert_eq!(requests.len(), 12);
    let mut expected_connections = vec![1, 1, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8].into_iter();
    for (group, requests) in requests.chunks(3).enumerate() {
        let (protocol, is_gzip) = ([Protocol::Grpc, Protocol::Http][group % 2], group >= 2);
        for (request, export) in requests.iter().zip(&exports) {
            let Received { at, connection, wire_size, size, .. } = **request;
            assert_eq!((request.protocol, request.is_gzip, &request.answer), (protocol, is_gzip, &Answer::Accept));
            assert_eq!((&request.export, request.signal()), (export, export.signal()));
            assert_eq!(connection, expected_connections.next().unwrap());
            assert!(start <= at && at <= SystemTime::now());
            let message = match export {
                Export::Traces(request) => request.encoded_len(),
                Export::Metrics(request) => request.encoded_len(),
                Export::Logs(request) => request.encoded_len(),
            };
            let prefix = if protocol == Protocol::Grpc { 5 } else { 0 };
            assert_eq!(size, message);
            assert_eq!(wire_size == size + prefix, !is_gzip, "{wire_size} bytes of {size}");
            assert!(wire_size <= size + prefix);
            let (encoding, kind) = match protocol {
                Protocol::Grpc => ("grpc-encoding", "application/grpc"),
                Protocol::Http => ("content-encoding", "application/x-protobuf"),
            };
            assert_eq!(request.header(encoding), is_gzip.then_some("gzip"), "{:?}", request.headers);
            assert_eq!(request.header("content-type"), Some(kind));
        }
    }

    let spans = collector.wait_for_spans(400);
    assert_eq!((spans.len(), &spans[0].0, &*spans[399].1.name), (400, &resource(), "span 99"));
    assert_eq!(attribute(&spans[1].1.attributes, "number").as_deref(), Some("1"));
    assert_eq!(attribute(&spans[1].1.attributes, "other"), None);
    assert_eq!((collector.wait_for_metrics(4).len(), collector.wait_for_logs(400).len()), (4, 400));
    let expected = Counts { connections: 8, requests: 12, spans: 400, points: 400, logs: 400, ..Counts::default() };
    assert_eq!(collector.counts(), expected);

    collector.clear();
    assert_eq!(collector.counts(), Counts { connections: 8, ..Counts::default() });
    assert_eq!((collector.requests().len(), collector.spans().len()), (0, 0));
}

#[test]
fn it_is_on_the_loopback_interface_of_tests_too() {
    let collector = Collector::with(None, &Settings::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Export::Logs(request) = export(Signal::Logs, 1) else { unreachable!() };
    runtime.block_on(async {
        let endpoint = collector.endpoint(Protocol::Grpc, "127.0.0.1");
        LogsServiceClient::connect(endpoint).await.unwrap().export(request).await.unwrap();
    });
    assert_eq!(collector.logs().len(), 1);
}

#[test]
fn it_refuses_what_it_is_told_to() {
    let namespace = Namespace::new();
    let collector = Collector::new(&namespace);
    let (grpc, http) = (Grpc::new(&namespace, &collector), Http::new(&namespace, &collector));
    let delay = Duration::from_secs(2);
    let refusals = [
        (Refusal::UNAVAILABLE.retry_in(delay), 503, Code::Unavailable),
        (Refusal::UNAVAILABLE, 503, Code::Unavailable),
        (Refusal::OVERLOADED, 429, Code::ResourceExhausted),
        (Refusal::OVERLOADED.retry_in(delay), 429, Code::ResourceExhausted),
        (Refusal::INVALID, 400, Code::InvalidArgument),
        (Refusal::UNIMPLEMENTED, 404, Code::Unimplemented),
        (Refusal::new(502, Code::DataLoss), 502, Code::DataLoss),
    ];
    let exports = Signal::ALL.map(|signal| export(signal, 1));
    for (refusal, status, code) in refusals {
        collector.answer(refusal);
        for export in &exports {
            let refused = grpc.send(std::slice::from_ref(export)).unwrap_err();
            assert_eq!((refused.code(), refused.message()), (code, REASON));
            assert_eq!(refused.get_details_retry_info().and_then(|info| info.retry_delay), refusal.retry);
            let expected =
                HttpAnswer { status, retry_after: refusal.retry.map(|delay| delay.as_secs()), partial: None };
            assert_eq!(http.send(export).unwrap(), expected);
        }
    }
    let refused = refusals.len() * exports.len() * 2;
    assert_eq!(collector.counts().refused, refused);
    assert_eq!(collector.requests().len(), refused);
    assert_eq!((collector.spans().len(), collector.metrics().len(), collector.logs().len()), (0, 0, 0));

    // Of the next two, the first as told; then as decided, by signal.
    collector.answer_by(|request| match request.signal() {
        Signal::Logs => Refusal::UNIMPLEMENTED.into(),
        _ => Answer::Accept,
    });
    collector.answer_next([Refusal::UNAVAILABLE.into(), Answer::Accept]);
    let [traces, _, logs] = &exports;
    let status = |export| http.send(export).unwrap().status;
    assert_eq!([traces, logs, traces, logs].map(status), [503, 200, 200, 404]);
}

#[test]
fn it_rejects_a_part() {
    let namespace = Namespace::new();
    let collector = Collector::new(&namespace);
    collector.answer(Answer::Reject(3));
    let partial = Some((3, REASON.to_owned()));
    let exports = Signal::ALL.map(|signal| export(signal, 10));
    assert_eq!(Grpc::new(&namespace, &collector).send(&exports).unwrap(), vec![partial.clone(); 3]);
    for export in &exports {
        let answer = Http::new(&namespace, &collector).send(export).unwrap();
        assert_eq!(answer, HttpAnswer { partial: partial.clone(), ..ACCEPTED });
    }
    assert_eq!((collector.counts().spans, collector.counts().refused), (20, 0));
}

#[test]
fn it_answers_late_and_hangs_up() {
    let namespace = Namespace::new();
    let collector = Collector::new(&namespace);
    let (grpc, http) = (Grpc::new(&namespace, &collector), Http::new(&namespace, &collector));
    let exports = [export(Signal::Traces, 1)];

    collector.answer(Answer::Late(LATE));
    let endpoint = grpc.endpoint.clone().timeout(IMPATIENCE);
    let late = Grpc { endpoint, ..grpc }.send(&exports).unwrap_err();
    assert!(matches!(late.code(), Code::Cancelled | Code::DeadlineExceeded), "{late:?}");
    let max_time = ["--max-time".to_owned(), IMPATIENCE.as_secs_f64().to_string()].into();
    let impatient = Http { arguments: max_time, ..Http::new(&namespace, &collector) };
    assert_eq!(impatient.send(&exports[0]).unwrap_err(), TOO_LONG);
    assert_eq!(collector.spans().len(), 2, "it has them all the same");

    collector.clear();
    collector.answer(Answer::HangUp);
    let grpc = Grpc::new(&namespace, &collector);
    let start = Instant::now();
    let hung_up = grpc.send(&exports).unwrap_err();
    assert!(!matches!(hung_up.code(), Code::Cancelled | Code::DeadlineExceeded), "{hung_up:?}");
    assert_eq!(http.send(&exports[0]).unwrap_err(), NOTHING);
    assert!(start.elapsed() < LATE);
    assert_eq!((collector.spans().len(), collector.counts().refused), (0, 2));

    collector.answer(Answer::Accept);
    grpc.send(&exports).unwrap();
    assert_eq!(http.send(&exports[0]).unwrap(), ACCEPTED);
}

#[test]
fn it_goes_away_and_comes_back() {
    let namespace = Namespace::new();
    let mut collector = Collector::new(&namespace);
    let exports = [export(Signal::Metrics, 1)];
    Grpc::new(&namespace, &collector).send(&exports).unwrap();
    // A connection that is open when it goes.
    let mut open = namespace.run(|| TcpStream::connect(("127.0.0.1", collector.port(Protocol::Http)))).unwrap();
    wait_until("the connection to be accepted", || collector.counts().connections == 2);

    collector.stop();
    wait_for("the connection to end", || std::io::Read::read(&mut open, &mut [0]).ok().filter(|length| *length == 0));
    assert!(Grpc::new(&namespace, &collector).send(&exports).is_err());
    assert_eq!(Http::new(&namespace, &collector).send(&exports[0]).unwrap_err(), NO_CONNECTION);

    collector.start();
    Grpc::new(&namespace, &collector).send(&exports).unwrap();
    assert_eq!(Http::new(&namespace, &collector).send(&exports[0]).unwrap(), ACCEPTED);
    assert_eq!(collector.metrics().len(), 3);
}

#[test]
fn it_speaks_tls_and_asks_who_is_there() {
    let namespace = Namespace::new();
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let exports = [export(Signal::Traces, 1)];
    for asks_clients in [false, true] {
        let settings = Settings { certificates: Some(&certificates), asks_clients, ports: None };
        let collector = Collector::with(Some(&namespace), &settings);
        let send = |trusted: &Certificates, shown: Option<&Certificates>| {
            let mut grpc = Grpc::new(&namespace, &collector);
            let authority = Certificate::from_pem(fs::read(trusted.authority()).unwrap());
            let mut tls = ClientTlsConfig::new().ca_certificate(authority);
            let mut http = Http::new(&namespace, &collector);
            http.arguments = vec!["--cacert".to_owned(), trusted.authority().display().to_string()];
            if let Some(shown) = shown {
                let [certificate, key] = [shown.client(), shown.client_key()];
                tls = tls.identity(Identity::from_pem(fs::read(&certificate).unwrap(), fs::read(&key).unwrap()));
                let [certificate, key] = [certificate, key].map(|file| file.display().to_string());
                http.arguments.extend(["--cert".to_owned(), certificate, "--key".to_owned(), key]);
            }
            grpc.endpoint = grpc.endpoint.tls_config(tls).unwrap();
            let [by_grpc, by_http] = [grpc.send(&exports).is_ok(), http.send(&exports[0]) == Ok(ACCEPTED)];
            assert_eq!(by_grpc, by_http);
            by_grpc
        };
        assert!(!send(&others, Some(&certificates)), "nobody knows the server");
        assert_eq!(send(&certificates, None), !asks_clients);
        assert_eq!(send(&certificates, Some(&others)), !asks_clients);
        assert!(send(&certificates, Some(&certificates)));
        let counts = collector.counts();
        // tonic tries again what has failed.
        let (strangers, spans) = if asks_clients { (6, 2) } else { (2, 6) };
        assert!(counts.strangers >= strangers && counts.spans == spans, "{counts:?}");
        let plain = Http { endpoint: "http://127.0.0.1:4318".to_owned(), ..Http::new(&namespace, &collector) };
        assert!(plain.send(&exports[0]).is_err());
    }
}

#[test]
fn it_forgets_what_was_looked_at() {
    let namespace = Namespace::new();
    let collector = Collector::new(&namespace);
    let numbers = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&numbers);
    collector.only_look(move |request| {
        let numbers = request.export.spans().filter_map(|(_, span)| attribute(&span.attributes, "number"));
        seen.lock().unwrap().extend(numbers);
    });
    let exports = [1, 20, 10].map(|items| export(Signal::Traces, items));
    Grpc::new(&namespace, &collector).send(&exports).unwrap();
    assert_eq!(numbers.lock().unwrap().len(), 20);
    assert_eq!((collector.counts().spans, collector.requests().len()), (31, 0));
}

#[test]
fn it_counts_what_it_cannot_read() {
    let namespace = Namespace::new();
    let collector = Collector::new(&namespace);
    let http = Http::new(&namespace, &collector);
    let invalid = HttpAnswer { status: 400, retry_after: None, partial: None };
    assert_eq!(http.post(Signal::Traces, b"\xff", "application/x-protobuf").unwrap(), invalid);
    assert_eq!(http.post(Signal::Traces, b"{}", "application/json").unwrap(), invalid);
    let brotli = Http { arguments: vec!["-H".to_owned(), "Content-Encoding: br".to_owned()], ..http };
    assert_eq!(brotli.post(Signal::Logs, b"", "application/x-protobuf").unwrap(), invalid);

    // More than 4 MiB.
    let refused = Grpc::new(&namespace, &collector).send(&[export(Signal::Logs, 200_000)]).unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    assert_eq!(collector.counts(), Counts { connections: 4, unreadable: 4, ..Counts::default() });
}

/// As [`assert_eq`], but without all of it in what it says.
fn assert_repeats<T: PartialEq + std::fmt::Debug>(received: &[T], sent: &[T]) {
    for (received, sent) in received.iter().zip(sent.iter().cycle()) {
        assert_eq!(received, sent);
    }
}

#[test]
fn rotel_receives_what_is_sent() {
    // Each in a namespace of its own, as they have the same ports.
    let (namespace, other) = (Namespace::new(), Namespace::new());
    let (rotel, collector) = (Rotel::start(&namespace), Collector::new(&other));
    let [spans, metrics, logs] = &samples();
    let [grpc, http] = PORTS.map(|port| format!("http://127.0.0.1:{port}"));
    for is_gzip in [false, true] {
        for namespace in [&namespace, &other] {
            let grpc = Grpc { is_gzip, ..Grpc::to(namespace, grpc.clone()) };
            assert_eq!(grpc.send(&samples()).unwrap(), vec![None; 3]);
            let http = Http { is_gzip, ..Http::to(namespace, http.clone()) };
            for export in &samples() {
                assert_eq!(http.send(export).unwrap(), ACCEPTED);
            }
        }
    }
    let points = metrics.metrics().flat_map(|(resource, metric)| Point::all(&resource, metric)).collect::<Vec<_>>();
    let spans = spans.spans().map(|(resource, span)| SpanRecord::new(&resource, span)).collect::<Vec<_>>();
    let logs = logs.logs().map(|(resource, record)| LogEntry::new(&resource, record)).collect::<Vec<_>>();
    assert_eq!((points.len(), spans.len(), logs.len()), (10, 3, 3));
    let contents = rotel.wait_for("all", |contents| {
        let counts = [contents.points.len(), contents.spans.len(), contents.logs.len()];
        counts == [points.len(), spans.len(), logs.len()].map(|count| 4 * count)
    });
    assert_repeats(&contents.points, &points);
    assert_repeats(&contents.spans, &spans);
    assert_repeats(&contents.logs, &logs);

    // As the other one.
    let theirs = collector.metrics();
    let theirs = theirs.iter().flat_map(|(resource, metric)| Point::all(resource, metric)).collect::<Vec<_>>();
    assert_repeats(&theirs, &points);
}
